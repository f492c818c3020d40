"""The live stream, byte by byte."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.media.test_codecs import audio, video
from tim_trio.media.matroska import MatroskaStream, can_hold
from tim_trio.media.profile import AudioInit, MediaInit, VideoInit

MASTERS = {0x1A45DFA3, 0x1549A966, 0x1654AE6B, 0xAE, 0xE0, 0xE1, 0x1F43B675, 0xA0}
SEGMENT = 0x18538067
VP8 = video("vp8")
OPUS = audio("opus", b"OpusHead\1\2\x38\1\x80\xbb\0\0\0\0\0")  # pre-skip 312, 6.5 ms
AVCC = bytes.fromhex("0142c01effe100186742c01e010005") + b"68cb8"


def elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Read EBML without our own writer: (id, content) of each element, masters opened."""
    at = 0
    while at < len(data):
        first = data[at]
        length = 9 - first.bit_length()
        number = int.from_bytes(data[at : at + length], "big")
        at += length
        length = 9 - data[at].bit_length()
        size = int.from_bytes(data[at : at + length], "big") & ((1 << 7 * length) - 1)
        at += length
        if number == SEGMENT:
            assert size == (1 << 56) - 1, "of unknown size"
            yield number, b""
            continue
        content = data[at : at + size]
        assert len(content) == size
        at += size
        yield number, content
        if number in MASTERS:
            yield from elements(content)


def found(data: bytes) -> dict[int, list[bytes]]:
    values: dict[int, list[bytes]] = {}
    for number, content in elements(data):
        values.setdefault(number, []).append(content)
    return values


def blocks(data: bytes) -> list[tuple[int, int, bool, bytes]]:
    """Return (track, ticks, key, payload) of each SimpleBlock."""
    read = []
    cluster = 0
    for number, content in elements(data):
        if number == 0xE7:
            cluster = int.from_bytes(content, "big")
        elif number == 0xA3:
            length = 9 - content[0].bit_length()
            track = int.from_bytes(content[:length], "big") & ((1 << 7 * length) - 1)
            place = int.from_bytes(content[length : length + 2], "big", signed=True)
            key = bool(content[length + 2] & 0x80)
            read.append((track, cluster + place, key, content[length + 3 :]))
    return read


def test_a_header_by_hand() -> None:
    header = MatroskaStream({0: video("vp8")}, 0).header
    assert header.hex() == (
        "1a45dfa3" "a3" "42868101" "42f78101" "42f28104" "42f38108"
        "4282886d6174726f736b61" "42878104" "42858102"
        "18538067" "01ffffffffffffff"
        "1549a966" "9c" "2ad7b1822710" "4d808874696d5f7472696f" "57418874696d5f7472696f"
        "1654ae6b" "a0" "ae" "9e" "d78101" "73c58101" "838101" "9c8100"
        "8685565f565038" "e0" "88" "b0820280" "ba820168"
    )  # fmt: skip


def test_tracks_are_described() -> None:
    film = VideoInit(
        codec="avc1.42c01e",
        coded_width=1920,
        coded_height=1080,
        framerate=30_000 / 1001,
        description=AVCC,
    )
    values = found(MatroskaStream({1: OPUS, 0: film}, 0).header)
    assert values[0xD7] == [b"\1", b"\2"]
    assert values[0x86] == [b"V_MPEG4/ISO/AVC", b"A_OPUS"]
    assert values[0x63A2] == [AVCC, OPUS.description]
    assert values[0x23E383] == [(33_366_667).to_bytes(4, "big")]
    assert values[0x56AA] == [(6_500_000).to_bytes(3, "big")]
    assert values[0x9F] == [b"\2"]


def test_what_is_left_out_is_made_up() -> None:
    values = found(MatroskaStream({0: video("av01.0.04M.10"), 1: audio("opus")}, 0).header)
    assert values[0x63A2] == [
        bytes.fromhex("81044c00"),
        b"OpusHead\1\2\0\0\x80\xbb\0\0\0\0\0",
    ]
    assert values[0x56AA] == [b"\0"]
    assert 0x63A2 not in found(MatroskaStream({0: video("av01.1.04M.08.0.111")}, 0).header)
    slow = VideoInit(codec="vp8", coded_width=1, coded_height=1, framerate=1e-300)
    assert 0x23E383 not in found(MatroskaStream({0: slow}, 0).header)


def test_a_block_by_hand() -> None:
    stream = MatroskaStream({0: VP8}, 1_000_000)
    block = stream.block(0, 1_033_333, b"hi", key=True)
    assert block.hex() == "1f43b6758ce7820d05a386810000806869"
    assert stream.block(0, 1_016_667, b"", key=False).hex() == ("1f43b6758ae7820d05a38481f97e00")


def test_a_cluster_s_time_rises_unless_a_block_steps_back_too_far() -> None:
    stream = MatroskaStream({0: VP8, 200: OPUS}, 0)
    times = [0, 400_000, 100_000, 72_320, 500_000]
    data = b"".join(stream.block(0, time, b"x", key=False) for time in times)
    assert [ticks for _, ticks, _, _ in blocks(data)] == [time // 10 for time in times]
    clusters = [
        int.from_bytes(content, "big") for number, content in elements(data) if number == 0xE7
    ]
    assert clusters == [0, 40_000, 40_000, 7_232, 50_000]
    # The decoder takes the beginning of Opus away again.
    assert blocks(stream.block(200, 0, b"", key=True)) == [(201, 650, True, b"")]


def test_what_was_before_the_start_is_left_out() -> None:
    stream = MatroskaStream({0: VP8}, 1_000_000)
    assert stream.block(0, 999_990, b"x", key=True) == b""
    assert stream.block(0, 999_996, b"x", key=True) != b""


def test_the_last_one_says_how_long_it_lasts() -> None:
    stream = MatroskaStream({0: VP8, 1: OPUS}, 0, holds_last=True)
    assert stream.block(0, 0, b"a", key=True) == b""
    assert stream.block(1, 0, b"s", key=True) == b""
    assert blocks(stream.block(0, 40_000, b"b", key=False)) == [(1, 0, True, b"a")]
    values = found(stream.end(0, 80_000))
    assert values[0x9B] == [(4_000).to_bytes(2, "big")]
    assert values[0xA1] == [b"\x81\0\0\0b"]
    assert values[0xFB] == [b"\xff"], "no KEY"
    assert found(stream.end(1, 20_000))[0x9B] == [(2_000).to_bytes(2, "big")]
    assert stream.end(1, 20_000) == stream.flush() == b""


@pytest.mark.parametrize("end_us", [None, 40_000, 0, -5, 2**62])
def test_an_end_that_says_nothing(end_us: int | None) -> None:
    stream = MatroskaStream({0: VP8}, 0, holds_last=True)
    stream.block(0, 40_000, b"a", key=True)
    assert blocks(stream.end(0, end_us)) == [(1, 4_000, True, b"a")]


def test_with_b_frames_the_last_to_come_is_not_the_last_to_be_shown() -> None:
    stream = MatroskaStream({0: VP8}, 0, holds_last=True)
    stream.block(0, 80_000, b"p", key=True)
    stream.block(0, 40_000, b"b", key=False)
    assert blocks(stream.end(0, 120_000)) == [(1, 4_000, False, b"b")]


def test_what_is_held_comes_at_the_end() -> None:
    stream = MatroskaStream({0: VP8, 1: OPUS}, 0, holds_last=True)
    stream.block(0, 0, b"a", key=True)
    stream.block(1, 0, b"s", key=True)
    assert [payload for *_, payload in blocks(stream.flush())] == [b"a", b"s"]


@pytest.mark.parametrize(
    "init, expected",
    [
        (VP8, True),
        (video("avc1.42c01e"), False),
        (video("avc1.42c01e", AVCC), True),
        (audio("flac"), False),
        (audio("mp3"), True),
        (audio("what"), False),
    ],
)
def test_what_it_can_hold(init: MediaInit, expected: bool) -> None:
    assert can_hold(init) is expected


@given(
    st.builds(
        AudioInit,
        codec=st.sampled_from(["opus", "mp3"]),
        sample_rate=st.integers(1, 768_000),
        number_of_channels=st.integers(1, 255),
        description=st.none() | st.binary(min_size=1, max_size=300),
    ),
    st.integers(-(2**63), 2**63 - 1),
    st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.binary(max_size=300))),
)
def test_whatever_a_stranger_sends_it_is_a_stream(
    init: AudioInit, start: int, chunks: list[tuple[int, bytes]]
) -> None:
    stream = MatroskaStream({255: init}, start)
    data = stream.header + b"".join(stream.block(255, t, p, key=True) for t, p in chunks)
    assert [payload for *_, payload in blocks(data)] == [
        payload
        for time, payload in chunks
        if (time - start + int.from_bytes(found(data).get(0x56AA, [b"\0"])[0], "big") // 1000) >= -5
    ]
