"""A live Matroska stream of tracks and chunks. Pure: bytes out, nothing seeks.

`watch --media` writes it to standard output as it is, and FFmpeg makes a file
of any kind, with its index and its length, of it.

Source: RFC 9559; the Matroska codec mappings.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from typing import Final

import attrs

from tim_trio.media.codecs import Family, family_of
from tim_trio.media.profile import AudioInit, MediaInit, VideoInit

#: One unit of time in the stream: fine enough for 29.97 frames a second, and
#: coarse enough that a picture that steps back (B-frames) fits into its cluster.
TICK_US: Final = 10
_CODEC_IDS: Final = {
    Family.H264: "V_MPEG4/ISO/AVC",
    Family.HEVC: "V_MPEGH/ISO/HEVC",
    Family.VP8: "V_VP8",
    Family.VP9: "V_VP9",
    Family.AV1: "V_AV1",
    Family.OPUS: "A_OPUS",
    Family.AAC: "A_AAC",
    Family.MP3: "A_MPEG/L3",
    Family.FLAC: "A_FLAC",
    Family.VORBIS: "A_VORBIS",
}
#: Without these a reader of the file knows nothing of the track.
_NEED_DESCRIPTION: Final = frozenset(
    (Family.H264, Family.HEVC, Family.AAC, Family.FLAC, Family.VORBIS)
)
#: A block's place within its cluster is a signed number of 16 bits.
_MAX_BACK: Final = 0x7FFF
#: A stranger's END may say anything: 10 s.
_MAX_DURATION: Final = 10_000_000 // TICK_US
_UNKNOWN_SIZE: Final = b"\x01" + b"\xff" * 7
_AV1_STRING: Final = re.compile(r"av01\.([02])\.([0-2][0-9]|3[01])([MH])\.(08|10|12)", re.ASCII)
_OPUS_PREROLL_NS: Final = 80_000_000
_OPUS_RATE: Final = 48_000
#: Slower ones are no video; a stranger's 1e-300 is no number of nanoseconds either.
_LOWEST_FRAMERATE: Final = 0.1


def can_hold(init: MediaInit) -> bool:
    """Say whether we know how to write a track, its description included."""
    family = family_of(init)
    return family is not None and (init.description is not None or family not in _NEED_DESCRIPTION)


@attrs.frozen
class _Block:
    track: int
    time: int
    payload: bytes
    key: bool


class MatroskaStream:
    """One stream: its `header`, and then one piece of bytes per chunk.

    Args:
        tracks: by track number; `can_hold` each.
        start_us: the clock's value that becomes 0.
        holds_last: keep the latest chunk of each track until the next one or
            the track's end, so that the last can say how long it lasts.
    """

    def __init__(
        self, tracks: Mapping[int, MediaInit], start_us: int, *, holds_last: bool = False
    ) -> None:
        self._start_us = start_us
        self._holds_last = holds_last
        self._latest = 0
        self._held: dict[int, _Block] = {}
        self._latest_of: dict[int, int] = {}
        self._delay_us = {
            track: _opus_delay_ns(init) // 1000
            for track, init in tracks.items()
            if family_of(init) is Family.OPUS
        }
        self.header = (
            _element(
                0x1A45DFA3,
                _unsigned(0x4286, 1),  # EBMLVersion
                _unsigned(0x42F7, 1),  # EBMLReadVersion
                _unsigned(0x42F2, 4),  # EBMLMaxIDLength
                _unsigned(0x42F3, 8),  # EBMLMaxSizeLength
                _element(0x4282, b"matroska"),
                _unsigned(0x4287, 4),  # DocTypeVersion
                _unsigned(0x4285, 2),  # DocTypeReadVersion
            )
            + _id(0x18538067)  # Segment
            + _UNKNOWN_SIZE
            + _element(
                0x1549A966,  # Info
                _unsigned(0x2AD7B1, TICK_US * 1000),  # TimestampScale
                _element(0x4D80, b"tim_trio"),  # MuxingApp
                _element(0x5741, b"tim_trio"),  # WritingApp
            )
            + _element(0x1654AE6B, *(_track(n, init) for n, init in sorted(tracks.items())))
        )

    def block(self, track: int, timestamp_us: int, payload: bytes, *, key: bool) -> bytes:
        """Return the bytes of a chunk, or with ``holds_last`` of the one before it.

        Empty where its time is before the start.
        """
        time = self._ticks(track, timestamp_us)
        if time < 0:
            return b""
        block = _Block(track, time, payload, key)
        if not self._holds_last:
            return self._write(block)
        before = self._held.get(track)
        self._held[track] = block
        self._latest_of[track] = max(time, self._latest_of.get(track, time))
        return self._write(before) if before is not None else b""

    def end(self, track: int, timestamp_us: int | None = None) -> bytes:
        """Return what is held of a track.

        Args:
            timestamp_us: when its last chunk ends, where that is known.
        """
        block = self._held.pop(track, None)
        if block is None:
            return b""
        duration = 0
        # With B-frames the last to be decoded may not be the last to be shown.
        if timestamp_us is not None and block.time == self._latest_of[track]:
            duration = self._ticks(track, timestamp_us) - block.time
        return self._write(block, duration if 0 < duration <= _MAX_DURATION else 0)

    def flush(self) -> bytes:
        """Return what is held of all tracks."""
        return b"".join(self.end(track) for track in tuple(self._held))

    def _ticks(self, track: int, timestamp_us: int) -> int:
        us = timestamp_us - self._start_us + self._delay_us.get(track, 0)
        return (us + TICK_US // 2) // TICK_US

    def _write(self, block: _Block, duration: int = 0) -> bytes:
        # A cluster's time rises; a picture that steps back says how far.
        cluster = max(self._latest, block.time)
        if cluster - block.time > _MAX_BACK:
            cluster = block.time
        else:
            self._latest = cluster
        place = _size(block.track + 1) + struct.pack(">h", block.time - cluster)
        if duration:
            written = _element(
                0xA0,  # BlockGroup
                _element(0xA1, place, b"\0", block.payload),
                _unsigned(0x9B, duration),
                *(() if block.key else (_element(0xFB, b"\xff"),)),  # ReferenceBlock
            )
        else:
            flags = b"\x80" if block.key else b"\0"
            written = _element(0xA3, place, flags, block.payload)  # SimpleBlock
        return _element(0x1F43B675, _unsigned(0xE7, cluster), written)


def _track(track: int, init: MediaInit) -> bytes:
    family = family_of(init)
    assert family is not None
    parts = [
        _unsigned(0xD7, track + 1),  # TrackNumber
        _unsigned(0x73C5, track + 1),  # TrackUID
        _unsigned(0x83, 1 if isinstance(init, VideoInit) else 2),  # TrackType
        _unsigned(0x9C, 0),  # FlagLacing
        _element(0x86, _CODEC_IDS[family].encode("ascii")),
    ]
    private = init.description
    if family is Family.AV1 and private is None:
        private = _av1c(init.codec)
    if family is Family.OPUS:
        assert isinstance(init, AudioInit)
        private = _opus_head(init)
        parts.append(_unsigned(0x56AA, _opus_delay_ns(init)))  # CodecDelay
        parts.append(_unsigned(0x56BB, _OPUS_PREROLL_NS))  # SeekPreRoll
    if private is not None:
        parts.append(_element(0x63A2, private))  # CodecPrivate
    match init:
        case VideoInit():
            if init.framerate is not None and init.framerate >= _LOWEST_FRAMERATE:
                parts.append(_unsigned(0x23E383, round(1e9 / init.framerate)))  # DefaultDuration
            parts.append(
                _element(
                    0xE0, _unsigned(0xB0, init.coded_width), _unsigned(0xBA, init.coded_height)
                )
            )
        case AudioInit():
            rate = _element(0xB5, struct.pack(">d", init.sample_rate))
            parts.append(_element(0xE1, rate, _unsigned(0x9F, init.number_of_channels)))
    return _element(0xAE, *parts)


def _av1c(codec: str) -> bytes | None:
    """Return an AV1CodecConfigurationRecord, without OBUs, of what a codec string says.

    None where it says something else than 4:2:0.
    """
    found = _AV1_STRING.fullmatch(codec)
    if found is None:
        return None
    profile, level, depth = int(found[1]), int(found[2]), int(found[4])
    deep = (found[3] == "H") << 7 | (depth > 8) << 6 | (depth > 10) << 5
    # Chroma is halved both ways, as profile 0 has it.
    return bytes((0x81, profile << 5 | level, deep | 0x0C, 0))


def _opus_head(init: AudioInit) -> bytes:
    if init.description is not None:
        return init.description
    return b"OpusHead" + struct.pack("<BBHIhB", 1, init.number_of_channels, 0, _OPUS_RATE, 0, 0)


def _opus_delay_ns(init: MediaInit) -> int:
    """Return how much of the beginning a decoder throws away, as OpusHead says it."""
    assert isinstance(init, AudioInit)
    pre_skip = int.from_bytes(_opus_head(init)[10:12], "little")
    return pre_skip * 1_000_000_000 // _OPUS_RATE


def _id(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def _size(count: int) -> bytes:
    """Return a size as EBML writes it: the number of leading zeros says its length."""
    length = 1
    while count >= (1 << 7 * length) - 1:
        length += 1
    return (1 << 7 * length | count).to_bytes(length, "big")


def _element(number: int, *parts: bytes) -> bytes:
    return b"".join((_id(number), _size(sum(map(len, parts))), *parts))


def _unsigned(number: int, value: int) -> bytes:
    return _element(number, value.to_bytes(max(1, (value.bit_length() + 7) // 8), "big"))
