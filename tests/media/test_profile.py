"""INIT payloads of tim.media.1: the golden vectors, round trips, and any bytes."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.builders import load_vectors
from tim_trio.media.profile import (
    AudioInit,
    InvalidInit,
    MediaInit,
    VideoInit,
    encode_init,
    parse_init,
)

CASES = load_vectors("media")

codecs = st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True)
descriptions = st.none() | st.binary(min_size=1, max_size=100)
video_inits = st.builds(
    VideoInit,
    codec=codecs,
    coded_width=st.integers(1, 16_384),
    coded_height=st.integers(1, 16_384),
    framerate=st.none() | st.floats(0, 1000, exclude_min=True),
    description=descriptions,
)
audio_inits = st.builds(
    AudioInit,
    codec=codecs,
    sample_rate=st.integers(1, 768_000),
    number_of_channels=st.integers(1, 255),
    description=descriptions,
)
scalars = st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5)
members = st.sampled_from(
    "profile kind codec codedWidth codedHeight framerate sampleRate numberOfChannels description"
    " unknown".split()
)
values = st.sampled_from(["tim.media.1", "video", "audio", "opus", 1, 640, "AAAA"]) | scalars


def payload_of(case: dict[str, Any]) -> bytes:
    return bytes.fromhex(case["hex"]) if "hex" in case else case["text"].encode("utf-8")


def as_vector(init: MediaInit) -> dict[str, Any]:
    written: dict[str, Any]
    if isinstance(init, VideoInit):
        written = {"kind": "video", "codec": init.codec}
        written |= {"codedWidth": init.coded_width, "codedHeight": init.coded_height}
        if init.framerate is not None:
            written["framerate"] = init.framerate
    else:
        written = {"kind": "audio", "codec": init.codec}
        written |= {"sampleRate": init.sample_rate, "numberOfChannels": init.number_of_channels}
    if init.description is not None:
        written["description"] = init.description.hex()
    return written


def test_every_group_of_the_vectors_is_used_and_named_once() -> None:
    assert set(CASES) == {"description", "valid", "invalid"}
    names = [case["name"] for case in (*CASES["valid"], *CASES["invalid"])]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("case", CASES["valid"], ids=lambda case: case["name"])
def test_valid(case: dict[str, Any]) -> None:
    init = parse_init(payload_of(case))
    assert as_vector(init) == case["init"]
    if case.get("canonical"):
        assert encode_init(init) == payload_of(case)
    assert parse_init(encode_init(init)) == init


@pytest.mark.parametrize("case", CASES["invalid"], ids=lambda case: case["name"])
def test_invalid(case: dict[str, Any]) -> None:
    with pytest.raises(InvalidInit):
        parse_init(payload_of(case))


@given(video_inits | audio_inits)
def test_round_trip(init: MediaInit) -> None:
    assert parse_init(encode_init(init)) == init


@given(
    st.binary(max_size=60)
    | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass"))
    | st.dictionaries(members, values).map(lambda parsed: json.dumps(parsed).encode())
)
def test_any_bytes_give_an_init_or_the_error(payload: bytes) -> None:
    try:
        init = parse_init(payload)
    except InvalidInit:
        return
    assert parse_init(encode_init(init)) == init


def test_a_message_shows_little_of_a_peer_s_text() -> None:
    with pytest.raises(InvalidInit) as caught:
        parse_init(json.dumps({"profile": "tim.media.1", "codec": "<" * 60_000}).encode())
    assert len(str(caught.value)) < 100


@pytest.mark.timeout(20)  # quadratic, the quotes would take longer
@pytest.mark.parametrize(
    "piece", [b"[", b'{"x":', b'"\\"', b'\\"', b'"', b"\\", b"9", b"[[]],", b'"a",', b"{}"]
)
def test_as_large_as_an_init_can_be_it_neither_recurses_nor_takes_long(piece: bytes) -> None:
    payload = b'{"x":' + piece * (65_500 // len(piece))
    with pytest.raises(InvalidInit):
        parse_init(payload)


def test_an_encoder_refuses_what_a_parser_would() -> None:
    with pytest.raises(InvalidInit, match="codedWidth is not a number above 0, at most 16384"):
        encode_init(VideoInit(codec="vp8", coded_width=16_385, coded_height=1))
    with pytest.raises(InvalidInit, match="codec is not a codec: ''"):
        encode_init(AudioInit(codec="", sample_rate=1, number_of_channels=1))
    with pytest.raises(InvalidInit, match="not JSON"):
        encode_init(VideoInit(codec="vp8", coded_width=1, coded_height=1, framerate=float("nan")))
    with pytest.raises(InvalidInit, match="description is not base64"):
        encode_init(VideoInit(codec="vp8", coded_width=1, coded_height=1, description=b""))


def test_whole_numbers_are_written_whole() -> None:
    payload = encode_init(VideoInit(codec="vp8", coded_width=1, coded_height=1, framerate=30.0))
    assert b'"framerate":30}' in payload
