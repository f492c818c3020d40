"""Received bytes in, runs and control frames out.

One walk over the headers serves framing and everything a room must know of
the frames in it: a frame that does not simply continue the run ends it and
is looked at again as the first of the next, where all checks are made. So
the loop over the middle of a run has one comparison per field.

Source: protocol.md, sections 2, 4 and 5.
"""

from __future__ import annotations

import sys
from struct import Struct
from typing import Final

import attrs

from tim_trio.errors import Code, RemoteProtocolError
from tim_trio.protocol.layout import (
    CONTROL_HEADER,
    CONTROL_HEADER_BYTES,
    EXT_WORD_BYTES,
    LENGTH_BYTES,
    PRELUDE,
    PRELUDE_BYTES,
    STREAM,
    STREAM_HEADER_BYTES,
    Flag,
)
from tim_trio.protocol.runs import Run

# The stream header as the walk needs it: length, then everything that stays
# the same within a run (type, flags, track, ext_words, room, source) as one
# string of bytes that is only compared, which is cheaper than making integers
# of it, and seq.
_WALK: Final = Struct(">I16sQ")
# The same string, put together: type, flags, track, ext_words, room, source.
_IDENTITY: Final = Struct(">BBBBQI")
# The header of a run's first frame: length, that, and seq.
_FIRST: Final = Struct(">IBBBBQIQ")
_INIT: Final = int(Flag.INIT)
_KEY: Final = int(Flag.KEY)
_END: Final = int(Flag.END)
#: Chunks of a half frame that are joined into one, so that a peer who sends it
#: byte by byte does not cost forty bytes of overhead for each.
_LOOSE_CHUNKS: Final = 256
#: From here on a frame that came in pieces is put together by itself. Above what
#: is waited for while the prelude is not whole.
LARGE_FRAME_BYTES: Final = 16 * 1024
_SMALLEST_STREAM: Final = STREAM_HEADER_BYTES - LENGTH_BYTES
_SMALLEST_CONTROL: Final = CONTROL_HEADER_BYTES - LENGTH_BYTES


@attrs.frozen
class ControlFrame:
    """A control frame whose fields have not been read yet."""

    type: int
    request_id: int
    fields: bytes


@attrs.define(eq=False)
class FrameHeader:
    """What a relay needs to know of a stream frame that it does not read.

    ``size`` is the whole frame's, in bytes.
    """

    room: int
    source: int
    track: int
    seq: int
    size: int


class Decoder:
    """Cuts a byte stream into frames. Never blocks, owns no socket.

    Args:
        most_items: that `feed_into` appends in one call, at least 2.

    Attributes:
        frame_bytes: size of the last stream frame that was seen, whole or not.
        max_frame_bytes: bound of a whole frame; may be raised between calls
            (it is small before WELCOME).
        has_more: `feed_into` has stopped at ``most_items``: call it again, with
            nothing if there is nothing new.
    """

    __slots__ = (
        "_buffered",
        "_chunks",
        "_loose",
        "_needed",
        "frame_bytes",
        "has_more",
        "max_frame_bytes",
        "max_init_bytes",
        "most_items",
    )

    def __init__(
        self, *, max_frame_bytes: int, max_init_bytes: int, most_items: int = sys.maxsize
    ) -> None:
        self.max_frame_bytes = max_frame_bytes
        self.max_init_bytes = max_init_bytes
        self.most_items = most_items
        self.has_more = False
        self.frame_bytes = 0
        # An incomplete frame waits as the chunks it came in, joined only once
        # it is whole: joining at every read would be quadratic.
        self._chunks: list[bytes | memoryview] = []
        self._loose = 0
        self._buffered = 0
        self._needed = 0

    @property
    def buffered_bytes(self) -> int:
        """Bytes of the incomplete frame held back; less than ``max_frame_bytes``.

        While `has_more`, all that has not been cut yet.
        """
        return self._buffered

    @property
    def is_between_frames(self) -> bool:
        """Nothing is held back: what is read next begins a frame."""
        return not self._chunks

    def look_at(self, header: bytes) -> FrameHeader | None:
        """Return what the next frame's header says, to be read by somebody else.

        None for whatever had better be read here: a frame that is no stream frame, has
        any flag, or breaks a rule; and a header that is not whole.
        """
        if len(header) < STREAM_HEADER_BYTES:
            return None
        length, kind, flags, track, ext_words, room, source, seq = _FIRST.unpack_from(header)
        size = length + LENGTH_BYTES
        if kind != STREAM or flags or size > self.max_frame_bytes:
            return None
        if length < _SMALLEST_STREAM + ext_words * EXT_WORD_BYTES:
            return None
        self.frame_bytes = size
        return FrameHeader(room, source, track, seq, size)

    def suggest_read(self, most: int) -> int:
        """Return how much to read next, at most ``most``, so that it ends where a frame does.

        Whole large frames that fill a read are forwarded as the object they were
        read into. Else their bytes are copied once or twice more, which for a file is
        as dear as the reading. It goes by the size of the last frame.
        """
        size = self.frame_bytes
        if size < LARGE_FRAME_BYTES:
            return most
        if not self._chunks:
            return most // size * size or most
        return min(self._needed - self._buffered, most) if self._needed == size else most

    def feed(self, data: bytes) -> list[Run | ControlFrame]:
        """Return all frames completed by ``data``, in order.

        The length of a frame is checked as soon as its prelude is there, so
        at most one frame within the bound is ever held back.

        Raises:
            RemoteProtocolError: bytes that are no frames, with the CLOSE
                code; frames before them have been lost with the call, and the
                decoder is unusable afterwards.
        """
        items: list[Run | ControlFrame] = []
        while True:
            error = self.feed_into(data, items)
            if error is not None:
                raise error
            if not self.has_more:
                return items
            data = b""

    def feed_into(self, data: bytes, items: list[Run | ControlFrame]) -> RemoteProtocolError | None:
        """As `feed`, but append to ``items`` and return the error.

        For a server, which carries out what stood before the bad frame, and must
        not spend milliseconds on what one peer sent before others get a turn.
        """
        try:
            if not self._chunks:
                self._cut(data, 0, items)
            elif self._buffered + len(data) < self._needed:
                self._keep(data)
            elif self._needed < LARGE_FRAME_BYTES:
                self._chunks.append(data)
                self._cut(self._take(), 0, items)
            else:
                # By itself, not joined with all that was read behind it: so its
                # bytes are copied once. A run the more is little beside them.
                missing = self._needed - self._buffered
                self._chunks.append(memoryview(data)[:missing])
                self._cut(self._take(), 0, items)
                self._cut(data, missing, items)
        except RemoteProtocolError as error:
            # Its traceback leads to our caller's frame, which has it as a
            # variable: a cycle that would keep the whole connection.
            return error.with_traceback(None)
        return None

    def _keep(self, data: bytes) -> None:
        """Add to the half frame that waits."""
        self._chunks.append(data)
        self._buffered += len(data)
        self._loose += 1
        if self._loose == _LOOSE_CHUNKS:
            self._chunks[-_LOOSE_CHUNKS:] = [b"".join(self._chunks[-_LOOSE_CHUNKS:])]
            self._loose = 0

    def _take(self) -> bytes:
        """Return what waits, which is whole now."""
        data = b"".join(self._chunks)
        self._chunks.clear()
        self._loose = 0
        self._buffered = 0
        return data

    def _cut(self, data: bytes, position: int, items: list[Run | ControlFrame]) -> None:
        """Cut ``data`` from ``position`` on into frames, and keep the half one at its end."""
        end = len(data)
        most = len(items) + self.most_items
        self.has_more = False
        while end - position >= PRELUDE_BYTES:
            if len(items) == most:
                self.has_more = True
                self._needed = 0
                break
            length, kind, flags, _, ext_words = PRELUDE.unpack_from(data, position)
            if length + LENGTH_BYTES > self.max_frame_bytes:
                raise RemoteProtocolError(
                    f"a frame of {length + LENGTH_BYTES} bytes, {self.max_frame_bytes} allowed",
                    Code.FRAME_TOO_LARGE,
                    limit="max_frame_bytes",
                )
            smallest = _SMALLEST_STREAM if kind == STREAM else _SMALLEST_CONTROL
            if length < smallest + ext_words * EXT_WORD_BYTES:
                raise RemoteProtocolError(f"a frame of length {length} is too short")
            after = position + LENGTH_BYTES + length
            if after > end:
                if kind == STREAM:
                    self._check_pinned(flags, length)
                    self.frame_bytes = after - position
                self._needed = after - position
                break
            if kind == STREAM:
                run = self._read_run(data, position)
                position += len(run.data)
                items.append(run)
            else:
                request_id = CONTROL_HEADER.unpack_from(data, position)[5]
                start = position + CONTROL_HEADER_BYTES + ext_words * EXT_WORD_BYTES
                items.append(ControlFrame(kind, request_id, data[start:after]))
                position = after
        else:
            self._needed = PRELUDE_BYTES
        if position < end:
            self._chunks.append(data[position:])
            self._buffered = end - position

    def _check_pinned(self, flags: int, length: int) -> None:
        if flags & (_INIT | _END) and length + LENGTH_BYTES > self.max_init_bytes:
            raise RemoteProtocolError(
                f"an INIT or END frame of {length + LENGTH_BYTES} bytes, "
                f"{self.max_init_bytes} allowed",
                Code.FRAME_TOO_LARGE,
                limit="max_init_bytes",
            )

    def _read_run(self, data: bytes, start: int) -> Run:
        """Return the longest run that begins at ``start``, whose first frame is whole."""
        length, _, flags, track, ext_words, room, source, seq = _FIRST.unpack_from(data, start)
        position = start + LENGTH_BYTES + length
        first_seq = seq
        first_key = last_key = end_offset = -1
        first_key_seq = last_key_seq = init_bytes = 0
        if flags:
            self._check_pinned(flags, length)
            if flags & _INIT:
                init_bytes = position - start
            if flags & _KEY:
                first_key = last_key = 0
                first_key_seq = last_key_seq = seq
            if flags & _END:
                end_offset = 0
        unpack = _WALK.unpack_from
        # What the frames that follow ordinarily look like.
        identity = _IDENTITY.pack(STREAM, 0, track, ext_words, room, source)
        end = len(data)
        last_header = end - STREAM_HEADER_BYTES
        smallest = _SMALLEST_STREAM + ext_words * EXT_WORD_BYTES
        largest = self.max_frame_bytes - LENGTH_BYTES
        while position <= last_header and end_offset < 0:
            length, next_identity, next_seq = unpack(data, position)
            after = position + LENGTH_BYTES + length
            if next_seq != seq + 1 or after > end or not smallest <= length <= largest:
                break
            if next_identity != identity:
                flags = next_identity[1]
                if flags & _INIT or next_identity[2:] != identity[2:] or next_identity[0] != STREAM:
                    break
                if flags & _END:
                    if length + LENGTH_BYTES > self.max_init_bytes:
                        break
                    end_offset = position - start
                if flags & _KEY:
                    last_key = position - start
                    last_key_seq = next_seq
                    if first_key < 0:
                        first_key = last_key
                        first_key_seq = next_seq
            seq = next_seq
            position = after
        self.frame_bytes = length + LENGTH_BYTES
        return Run(
            room,
            source,
            track,
            first_seq,
            seq,
            first_key,
            first_key_seq,
            last_key,
            last_key_seq,
            init_bytes,
            end_offset,
            data[start:position],
        )
