"""Codecs: their WebCodecs strings, and which file can hold which. Pure.

Source: the WebCodecs codec registry; the VP9 and AV1 bindings to ISO BMFF.
"""

from __future__ import annotations

import enum
from typing import Final, assert_never

from tim_trio.media import aac, h264
from tim_trio.media.profile import AudioInit, MediaInit, VideoInit


class Family(enum.Enum):
    """What a codec string is about; the value is the codec's name in FFmpeg."""

    H264 = "h264"
    HEVC = "hevc"
    VP8 = "vp8"
    VP9 = "vp9"
    AV1 = "av1"
    OPUS = "opus"
    AAC = "aac"
    MP3 = "mp3"
    FLAC = "flac"
    VORBIS = "vorbis"


_PREFIXES: Final = {
    "avc1": Family.H264,
    "avc3": Family.H264,
    "hvc1": Family.HEVC,
    "hev1": Family.HEVC,
    "vp8": Family.VP8,
    "vp09": Family.VP9,
    "av01": Family.AV1,
    "opus": Family.OPUS,
    "mp4a": Family.AAC,
    "mp3": Family.MP3,
    "flac": Family.FLAC,
    "vorbis": Family.VORBIS,
}
_VIDEO: Final = frozenset((Family.H264, Family.HEVC, Family.VP8, Family.VP9, Family.AV1))
#: MP3 as MP4 files write it.
_MP3_IN_MP4: Final = frozenset(("mp4a.69", "mp4a.6b"))

# (level, largest picture, largest rate of luma samples a second): the two
# tables say what a decoder must manage.
_VP9_LEVELS: Final = (
    (10, 36_864, 829_440),
    (11, 73_728, 2_764_800),
    (20, 122_880, 4_608_000),
    (21, 245_760, 9_216_000),
    (30, 552_960, 20_736_000),
    (31, 983_040, 36_864_000),
    (40, 2_228_224, 83_558_400),
    (41, 2_228_224, 160_432_128),
    (50, 8_912_896, 311_951_360),
    (51, 8_912_896, 588_251_136),
    (52, 8_912_896, 1_176_502_272),
    (60, 35_651_584, 1_176_502_272),
    (61, 35_651_584, 2_353_004_544),
    (62, 35_651_584, 4_706_009_088),
)
_AV1_LEVELS: Final = (
    (0, 147_456, 4_423_680),
    (1, 278_784, 8_363_520),
    (4, 665_856, 19_975_680),
    (5, 1_065_024, 31_950_720),
    (8, 2_359_296, 70_778_880),
    (9, 2_359_296, 141_557_760),
    (12, 8_912_896, 267_386_880),
    (13, 8_912_896, 534_773_760),
    (14, 8_912_896, 1_069_547_520),
    (16, 35_651_584, 1_069_547_520),
    (17, 35_651_584, 2_139_095_040),
    (18, 35_651_584, 4_278_190_080),
)


def family_of(init: MediaInit) -> Family | None:
    """Return what the codec string means, None where we do not know it or it is of another kind."""
    codec = init.codec.lower()
    found = _PREFIXES.get(codec.partition(".")[0])
    if codec in _MP3_IN_MP4:
        found = Family.MP3
    elif found is Family.AAC and not codec.startswith("mp4a.40.") and codec != "mp4a.67":
        found = None
    if found is None or (found in _VIDEO) != isinstance(init, VideoInit):
        return None
    return found


def vp9_string(*, profile: int, width: int, height: int, rate: float, depth: int) -> str:
    """Return ``vp09.00.10.08`` and the like: the lowest level that the picture needs."""
    return f"vp09.{profile:02}.{_level(_VP9_LEVELS, width, height, rate):02}.{depth:02}"


def av1_string(
    config: bytes, *, profile: int, width: int, height: int, rate: float, depth: int
) -> str:
    """Return ``av01.0.04M.08`` and the like, from the av1C where there is one."""
    tier = "M"
    if len(config) >= 4 and config[0] == 0x81:
        profile, level = config[1] >> 5, config[1] & 31
        tier = "H" if config[2] & 0x80 else "M"
        depth = 12 if config[2] & 0x20 else 10 if config[2] & 0x40 else 8
    else:
        level = _level(_AV1_LEVELS, width, height, rate)
    return f"av01.{profile}.{level:02}{tier}.{depth:02}"


def _level(levels: tuple[tuple[int, int, int], ...], width: int, height: int, rate: float) -> int:
    picture = width * height
    for level, largest_picture, largest_rate in levels:
        if picture <= largest_picture and picture * rate <= largest_rate:
            return level
    return levels[-1][0]


class FileKind(enum.Enum):
    """A container that `watch` writes; the value is its name in FFmpeg."""

    MATROSKA = "matroska"
    WEBM = "webm"
    MP4 = "mp4"


#: By the file's ending.
FILE_KINDS: Final = {".mkv": FileKind.MATROSKA, ".webm": FileKind.WEBM, ".mp4": FileKind.MP4}
_WEBM: Final = frozenset((Family.VP8, Family.VP9, Family.AV1, Family.OPUS, Family.VORBIS))
_NOT_MP4: Final = frozenset((Family.VP8, Family.VORBIS))


def holds(kind: FileKind, family: Family) -> bool:
    """Say whether files of a kind may hold a codec, so that players know it there."""
    match kind:
        case FileKind.MATROSKA:
            return True
        case FileKind.WEBM:
            return family in _WEBM
        case FileKind.MP4:
            return family not in _NOT_MP4
        case _:
            assert_never(kind)


class NoConversion:
    """Chunks are as they should be."""

    def __init__(self, description: bytes | None) -> None:
        self.description = description

    def convert(self, data: bytes) -> bytes:
        return data


Converter = NoConversion | h264.AnnexBConverter | aac.AdtsConverter


def converter_of(init: MediaInit) -> Converter:
    """Return what brings a track's chunks into the form beside a description.

    While its `description` is None and it is no NoConversion, nothing can be
    said about the track yet.
    """
    if init.description is None:
        match family_of(init):
            case Family.H264:
                return h264.AnnexBConverter()
            case Family.AAC:
                return aac.AdtsConverter()
            case _:
                pass
    return NoConversion(init.description)


def kind_of(init: MediaInit) -> str:
    """Return ``video`` or ``audio``, for people."""
    match init:
        case VideoInit():
            return "video"
        case AudioInit():
            return "audio"
        case _:
            assert_never(init)
