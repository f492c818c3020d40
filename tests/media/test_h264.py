"""Annex B into length-prefixed form: by hand, against ffmpeg's own, and any bytes."""

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.media.clips import H264, make, picture
from tim_trio.media.h264 import AnnexBConverter, codec_string, is_avcc, split_annexb

SPS = bytes.fromhex("6742c01ed90280bfe5c044000003000400000300f03c58b920")
PPS = bytes.fromhex("68cb83cb20")
IDR = bytes.fromhex("6588840a")
AUD = bytes.fromhex("0910")
SEI = bytes.fromhex("060102")
AVCC = bytes.fromhex("0142c01effe10019") + SPS + bytes.fromhex("010005") + PPS


def test_units_are_found_behind_short_and_long_start_codes() -> None:
    data = b"\0\0\0\1" + SPS + b"\0\0\1" + PPS + b"\0\0\0\0\1" + IDR + b"\0\0"
    assert list(split_annexb(data)) == [SPS, PPS, IDR]
    assert list(split_annexb(b"")) == list(split_annexb(b"\0\0\1")) == []
    assert list(split_annexb(b"none here")) == []


def test_a_picture_is_converted_and_its_parameter_sets_are_described() -> None:
    converter = AnnexBConverter()
    data = b"".join(b"\0\0\0\1" + unit for unit in (AUD, SPS, PPS, SEI, IDR))
    assert converter.convert(data) == b"\0\0\0\3" + SEI + b"\0\0\0\4" + IDR
    assert converter.description == AVCC
    assert is_avcc(AVCC)
    assert codec_string(AVCC) == "avc1.42c01e"


def test_parameter_sets_may_come_beforehand_and_change() -> None:
    converter = AnnexBConverter(b"\0\0\1" + SPS + b"\0\0\1" + PPS)
    assert converter.description == AVCC
    assert converter.convert(b"\0\0\1" + IDR) == b"\0\0\0\4" + IDR
    assert converter.description == AVCC
    other = PPS[:-1] + b"\x21"
    assert converter.convert(b"\0\0\1" + other) == b"", "no picture"
    assert converter.description == AVCC[:-1] + b"\x21"


def test_sets_of_another_number_stand_beside() -> None:
    second = b"\x68\x40\x80"  # pic_parameter_set_id 1
    converter = AnnexBConverter(b"\0\0\1" + SPS + b"\0\0\1" + PPS + b"\0\0\1" + second)
    assert converter.description is not None
    assert converter.description.endswith(b"\2\0\5" + PPS + b"\0\3" + second)


def test_a_picture_alone_describes_nothing() -> None:
    converter = AnnexBConverter(b"\0\0\1" + SPS)
    assert converter.convert(b"\0\0\1" + IDR) == b"\0\0\0\4" + IDR
    assert converter.description is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "pixels",
    ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le"],  # High, 4:2:2, 4:4:4, 10 bits
)
def test_the_description_is_the_one_that_ffmpeg_writes(
    pixels: str, ffmpeg: str, tmp_path: Path
) -> None:
    options = [each if each != "yuv420p" else pixels for each in H264]
    film = make(ffmpeg, tmp_path / "film.mp4", picture(0.2), options)
    raw = make(ffmpeg, tmp_path / "film.h264", "-i", str(film), "-c", "copy").read_bytes()
    converter = AnnexBConverter(raw)
    assert converter.description is not None
    assert converter.description in film.read_bytes()


@example(b"\0\0\1\x67\x64\0\x0d")
@given(
    st.lists(st.sampled_from([b"\0\0\1", SPS, PPS, IDR, b"\0", b"\x67\x64\0\x0d", b"\x68"])).map(
        b"".join
    )
    | st.binary(max_size=100)
)
def test_any_bytes(data: bytes) -> None:
    converter = AnnexBConverter(data)
    converted = converter.convert(data)
    assert len(converted) <= 2 * len(data)
    assert converter.description is None or is_avcc(converter.description)
