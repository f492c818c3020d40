"""Codec strings, ADTS headers, and which file holds which codec."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tim_trio.media import aac
from tim_trio.media.bits import Bits
from tim_trio.media.codecs import (
    Family,
    FileKind,
    NoConversion,
    av1_string,
    converter_of,
    family_of,
    holds,
    kind_of,
    vp9_string,
)
from tim_trio.media.h264 import AnnexBConverter
from tim_trio.media.profile import AudioInit, MediaInit, VideoInit


def video(codec: str, description: bytes | None = None) -> VideoInit:
    return VideoInit(codec=codec, coded_width=640, coded_height=360, description=description)


def audio(codec: str, description: bytes | None = None) -> AudioInit:
    return AudioInit(codec=codec, sample_rate=48_000, number_of_channels=2, description=description)


@pytest.mark.parametrize(
    "init, family",
    [
        (video("avc1.64001f"), Family.H264),
        (video("avc3.42001e"), Family.H264),
        (video("hvc1.1.6.L93.B0"), Family.HEVC),
        (video("vp8"), Family.VP8),
        (video("vp09.00.10.08"), Family.VP9),
        (video("av01.0.04M.08"), Family.AV1),
        (audio("opus"), Family.OPUS),
        (audio("mp4a.40.2"), Family.AAC),
        (audio("mp4a.67"), Family.AAC),
        (audio("mp4a.6B"), Family.MP3),
        (audio("mp3"), Family.MP3),
        (audio("flac"), Family.FLAC),
        (audio("vorbis"), Family.VORBIS),
        (audio("mp4a.a6"), None),
        (video("opus"), None),
        (audio("vp8"), None),
        (video("vp10"), None),
        (audio("ulaw"), None),
    ],
)
def test_families(init: MediaInit, family: Family | None) -> None:
    assert family_of(init) is family


def test_kinds_for_people() -> None:
    assert (kind_of(video("vp8")), kind_of(audio("opus"))) == ("video", "audio")


@pytest.mark.parametrize(
    "width, height, rate, expected",
    [
        (256, 144, 15, "vp09.00.10.08"),
        (640, 360, 30, "vp09.00.21.08"),
        (1280, 720, 30, "vp09.00.31.08"),
        (1920, 1080, 60, "vp09.00.41.08"),
        (3840, 2160, 60, "vp09.00.51.08"),
        (16384, 16384, 1000, "vp09.00.62.08"),
    ],
)
def test_vp9_levels(width: int, height: int, rate: float, expected: str) -> None:
    assert vp9_string(profile=0, width=width, height=height, rate=rate, depth=8) == expected


def test_av1_by_its_configuration_or_its_size() -> None:
    config = bytes.fromhex("81084c00")
    shape = {"profile": 0, "width": 1920, "height": 1080}
    assert av1_string(config, rate=30, depth=8, **shape) == "av01.0.08M.10"
    assert av1_string(b"\x81\x00\xec\0", rate=30, depth=8, **shape) == "av01.0.00H.12"
    assert av1_string(b"", rate=30, depth=8, **shape) == "av01.0.08M.08"
    assert av1_string(b"\x0a\x0b\0\0", rate=60, depth=10, **shape) == "av01.0.09M.10"


def test_aac_by_its_configuration() -> None:
    assert aac.codec_string(bytes.fromhex("1210")) == "mp4a.40.2"
    assert aac.codec_string(bytes.fromhex("2b920800")) == "mp4a.40.5"
    assert aac.codec_string(bytes.fromhex("f948")) == "mp4a.40.42"  # xHE-AAC


def test_adts_headers_come_off() -> None:
    converter = aac.AdtsConverter()
    # AAC LC, 44,100 Hz, 2 channels, without and with a checksum.
    assert converter.convert(bytes.fromhex("fff15080213ffc") + b"frame") == b"frame"
    assert converter.description == bytes.fromhex("1210")
    assert converter.convert(bytes.fromhex("fff04c40213ffc0000") + b"other") == b"other"
    assert converter.description == bytes.fromhex("1188")


@given(st.binary(max_size=20))
def test_any_bytes_for_adts(data: bytes) -> None:
    converter = aac.AdtsConverter()
    assert data.endswith(converter.convert(data))


def test_bits_beyond_the_end_are_zeros() -> None:
    bits = Bits(b"\xa5")
    assert [bits.take(4), bits.take(2), bits.take(8), bits.take(3)] == [10, 1, 0, 0]
    bits = Bits(b"\x00")
    assert bits.exp_golomb() == 255
    bits = Bits(bytes.fromhex("a640"))  # 1 010 011 00100
    assert [bits.exp_golomb() for _ in range(4)] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "kind, families",
    [
        (FileKind.MATROSKA, set(Family)),
        (FileKind.WEBM, {Family.VP8, Family.VP9, Family.AV1, Family.OPUS, Family.VORBIS}),
        (FileKind.MP4, set(Family) - {Family.VP8, Family.VORBIS}),
    ],
)
def test_files_and_codecs(kind: FileKind, families: set[Family]) -> None:
    assert {family for family in Family if holds(kind, family)} == families


def test_what_has_to_be_converted() -> None:
    assert isinstance(converter_of(video("avc1.64001f")), AnnexBConverter)
    assert isinstance(converter_of(audio("mp4a.40.2")), aac.AdtsConverter)
    for init in (video("avc1.64001f", b"avcC"), audio("opus"), video("what"), audio("opus", b"x")):
        converter = converter_of(init)
        assert isinstance(converter, NoConversion)
        assert converter.description == init.description
        assert converter.convert(b"chunk") == b"chunk"
