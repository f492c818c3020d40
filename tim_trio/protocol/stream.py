"""Stream frames one at a time: what a client builds and reads.

A relay never comes here: it handles whole runs (`runs`).

Source: protocol.md, section 4.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from tim_trio.protocol.layout import (
    EXT_WORD_BYTES,
    LENGTH_BYTES,
    STREAM,
    STREAM_HEADER,
    STREAM_HEADER_BYTES,
    Flag,
)

Buffer = bytes | bytearray | memoryview


@attrs.frozen
class StreamFrame:
    """One frame of one track of one source.

    ``flags`` is an int that may carry bits beyond :class:`Flag`;
    ``timestamp_us`` is the publisher's clock in microseconds.
    """

    room: int
    source: int
    track: int
    seq: int
    timestamp_us: int
    flags: int
    payload: bytes

    @property
    def is_init(self) -> bool:
        return bool(self.flags & Flag.INIT)

    @property
    def is_key(self) -> bool:
        return bool(self.flags & Flag.KEY)

    @property
    def is_end(self) -> bool:
        return bool(self.flags & Flag.END)


def encode_stream_header(
    *,
    room: int,
    source: int,
    track: int,
    seq: int,
    timestamp_us: int,
    flags: int,
    payload_bytes: int,
) -> bytes:
    """Return the 36 bytes that stand before a payload of ``payload_bytes``.

    Raises:
        struct.error: a field is outside its range.
    """
    return STREAM_HEADER.pack(
        STREAM_HEADER_BYTES - LENGTH_BYTES + payload_bytes,
        STREAM,
        flags,
        track,
        0,
        room,
        source,
        seq,
        timestamp_us,
    )


def encode_stream_frame(frame: StreamFrame) -> bytes:
    """Return the frame's bytes, without ext words."""
    header = encode_stream_header(
        room=frame.room,
        source=frame.source,
        track=frame.track,
        seq=frame.seq,
        timestamp_us=frame.timestamp_us,
        flags=frame.flags,
        payload_bytes=len(frame.payload),
    )
    return header + frame.payload


def iter_stream_frames(data: Buffer) -> Iterator[StreamFrame]:
    """Yield the frames of a run's bytes, which the decoder has checked already."""
    unpack = STREAM_HEADER.unpack_from
    view = memoryview(data)
    position = 0
    while position < len(view):
        length, _, flags, track, ext_words, room, source, seq, timestamp_us = unpack(view, position)
        end = position + LENGTH_BYTES + length
        start = position + STREAM_HEADER_BYTES + EXT_WORD_BYTES * ext_words
        yield StreamFrame(room, source, track, seq, timestamp_us, flags, bytes(view[start:end]))
        position = end
