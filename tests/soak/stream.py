"""What is streamed during a soak, and how a subscriber checks it.

A frame's payload follows from who sent it, its track and its number, so that
any subscriber can check any frame without knowing more.
"""

from __future__ import annotations

import random
import struct
import zlib
from typing import Final

import attrs

import tim_trio

_TAG: Final = struct.Struct(">8sBQ")
_NOISE: Final = random.Random(1).randbytes(64 * 1024)
_MOST_BYTES: Final = 24 * 1024
_SMALL_BYTES: Final = 400


def make_payload(tag: bytes, track: int, seq: int) -> bytes:
    """Return what source ``tag`` (8 bytes) sends as frame ``seq``: mostly little."""
    head = _TAG.pack(tag, track, seq)
    draw = zlib.crc32(head)
    size = draw % (_MOST_BYTES if draw >> 28 == 0 else _SMALL_BYTES)
    start = draw >> 17
    return head + _NOISE[start : start + size]


def make_pinned_payload(tag: bytes, track: int) -> bytes:
    """Return the payload of an INIT or END, which may be sent again under another number."""
    return _TAG.pack(tag, track, 0) + b"pinned"


@attrs.define(eq=False)
class Check:
    """Checks one subscription against protocol.md, section 9.

    Attributes:
        frames, gaps: how many came.
    """

    reliable: bool
    frames: int = 0
    gaps: int = 0
    _next: dict[tuple[int, int], int] = attrs.Factory(dict)
    _lost: dict[tuple[int, int], list[range]] = attrs.Factory(dict)
    _tags: dict[int, bytes] = attrs.Factory(dict)
    _left: set[int] = attrs.Factory(set)

    def take(self, item: object) -> None:
        match item:
            case tim_trio.StreamFrame():
                self.frames += 1
                self._take_frame(item)
            case tim_trio.Gap():
                assert not self.reliable, f"a reliable room lost something: {item}"
                self.gaps += 1
                key = (item.source, item.track)
                expected = self._next.get(key, item.first_seq)
                assert item.first_seq == expected, f"{item} where {expected} is next"
                assert item.last_seq >= item.first_seq
                self._next[key] = item.last_seq + 1
                self._lost.setdefault(key, []).append(range(item.first_seq, item.last_seq + 1))
            case tim_trio.SourceLeft():
                assert item.source not in self._left
                self._left.add(item.source)
            case tim_trio.SourceJoined():
                assert item.source not in self._tags, "a number is given out twice"
            case _:
                raise AssertionError(f"what is {item}?")

    def _take_frame(self, frame: tim_trio.StreamFrame) -> None:
        assert frame.source not in self._left
        tag = self._tags.setdefault(frame.source, frame.payload[:8])
        key = (frame.source, frame.track)
        if frame.is_init or frame.is_end:
            assert frame.payload == make_pinned_payload(tag, frame.track)
        else:
            assert frame.payload == make_payload(tag, frame.track, frame.seq)
        expected = self._next.get(key)
        if expected is None or frame.seq == expected:
            # Until the first frame without INIT, frames ahead of it are not announced.
            if expected is not None or not frame.is_init:
                self._next[key] = frame.seq + 1
            return
        assert frame.is_init, f"{frame.seq} where {expected} is next"
        assert any(frame.seq in lost for lost in self._lost.get(key, ()))
