"""Publishing: one source in one room.

Source: protocol.md, sections 4, 8 and 10.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from typing import Final

import attrs
import trio

from tim_trio.errors import LocalProtocolError, RoomError
from tim_trio.net.client.connection import Connection
from tim_trio.protocol import messages
from tim_trio.protocol.layout import STREAM_HEADER_BYTES, Flag
from tim_trio.protocol.messages import RoomMode
from tim_trio.protocol.room_ids import format_room_id
from tim_trio.protocol.stream import encode_stream_header

Payload = bytes | bytearray | memoryview

_INIT: Final = int(Flag.INIT)
_KEY: Final = int(Flag.KEY)
_END: Final = int(Flag.END)
#: Up to here one copy is cheaper than a second piece in the queue.
_JOIN_BYTES: Final = 2048


@attrs.define(eq=False, kw_only=True)
class Source:
    """A running source. Made by `Client.publish`; use it in that block only.

    Attributes:
        token: opens the source again on another connection (a takeover).
        mode: of the room. In a reliable room `send` waits for credit.
        viewers: subscriptions of the room, as last told; None before the first word.
        sent_frames, sent_bytes: handed to the connection here, whole frames with headers.
        result: what UNPUBLISH was answered with, None before.
    """

    token: bytes = attrs.field(repr=False)
    mode: RoomMode
    viewers: int | None = None
    sent_frames: int = 0
    sent_bytes: int = 0
    result: messages.UnpublishAnswer | None = None
    _room: int = attrs.field(alias="room_number")
    _number: int = attrs.field(alias="source_number")
    _connection: Connection = attrs.field(repr=False)
    _next_seqs: dict[int, int] = attrs.Factory(dict)
    _ended: set[int] = attrs.Factory(set)
    #: Bytes the server has counted, and the total it allows (section 10).
    _counted: int = 0
    _credit: int = 0
    _waiting: trio.lowlevel.ParkingLot = attrs.Factory(trio.lowlevel.ParkingLot)
    _make_error: Callable[[], Exception] | None = None
    _told: bool = False

    @property
    def room(self) -> str:
        """The room id as people write it."""
        return format_room_id(self._room)

    @property
    def number(self) -> int:
        """The source's number in its room."""
        return self._number

    def next_seq(self, track: int = 0) -> int:
        """Return the number the track's next frame will get."""
        return self._next_seqs.get(track, 0)

    # -- sending -------------------------------------------------------------

    async def send(
        self,
        payload: Payload,
        *,
        track: int = 0,
        key: bool = False,
        init: bool = False,
        end: bool = False,
        timestamp_us: int | None = None,
    ) -> int:
        """Send one frame and return its ``seq``.

        Returns once the frame stands in the connection's outgoing buffer,
        whole; waits only while that is full (the network is slower than
        you) and, in a reliable room, while the server grants no credit (a
        subscriber is slower than you). That last wait may be long: put it
        under a deadline of your own if it matters.

        Cancelled, it has not sent the frame, and the source goes on.

        Args:
            payload: at most the server's ``max_frame_bytes`` less 36.
            track: 0 to 255.
            key: a group starts here. A track without any key is joined at any frame.
            init: what a decoder needs first; pinned for late joiners.
            end: the track's last frame.
            timestamp_us: the frame's time; the wall clock by default.

        Raises:
            SourceRevoked, SourceReplaced, RoomClosed: the source is over.
            ConnectionClosed: the connection is.
            LocalProtocolError: the frame cannot be sent; nothing was.
        """
        size = self._check(payload, track, init, end)
        connection = self._connection
        await connection.outgoing.yield_now_and_then()
        while not self._admits(size):
            await self._wait_admission()
        if connection.outgoing.closed and self._make_error is None:
            # The writer has failed; what the reader still finds may say why.
            await connection.wait_over()
        self._raise_if_over()
        return self._queue(payload, size, track, key, init, end, timestamp_us)

    def send_nowait(
        self,
        payload: Payload,
        *,
        track: int = 0,
        key: bool = False,
        init: bool = False,
        end: bool = False,
        timestamp_us: int | None = None,
    ) -> int:
        """As `send`, but never wait.

        Raises:
            trio.WouldBlock: `send` would wait; nothing was sent.
        """
        size = self._check(payload, track, init, end)
        self._raise_if_over()
        if not self._admits(size):
            raise trio.WouldBlock
        return self._queue(payload, size, track, key, init, end, timestamp_us)

    async def wait_viewers(self, count: int) -> int:
        """Wait until the room has at least ``count`` subscriptions; return how many.

        Raises:
            as `send`.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            self._raise_if_over()
            if self.viewers is not None and self.viewers >= count:
                return self.viewers
            await self._waiting.park()

    def _check(self, payload: Payload, track: int, init: bool, end: bool) -> int:
        """Return the size of the frame, or raise LocalProtocolError."""
        limits = self._connection.limits
        size = STREAM_HEADER_BYTES + (
            payload.nbytes if isinstance(payload, memoryview) else len(payload)
        )
        if size > limits.max_frame_bytes:
            raise LocalProtocolError(
                f"a frame of {size} bytes, the server takes {limits.max_frame_bytes}"
            )
        if (init or end) and size > limits.max_init_bytes:
            raise LocalProtocolError(
                f"an INIT or END frame of {size} bytes, the server takes {limits.max_init_bytes}"
            )
        if not 0 <= track <= 255:
            raise LocalProtocolError(f"track {track} is not in 0 to 255")
        return size

    def _admits(self, size: int) -> bool:
        if self._make_error is not None or self._connection.outgoing.closed:
            return True
        if self._connection.outgoing.full:
            return False
        return self.mode is not RoomMode.RELIABLE or self._counted + size <= self._credit

    async def _wait_admission(self) -> None:
        if self._connection.outgoing.full:
            await self._connection.outgoing.wait_room()
        else:
            await self._waiting.park()

    def _queue(
        self,
        payload: Payload,
        size: int,
        track: int,
        key: bool,
        init: bool,
        end: bool,
        timestamp_us: int | None,
    ) -> int:
        if track in self._ended:
            raise LocalProtocolError(f"track {track} has ended")
        seq = self._next_seqs.get(track, 0)
        try:
            header = encode_stream_header(
                room=self._room,
                source=self._number,
                track=track,
                seq=seq,
                timestamp_us=time.time_ns() // 1000 if timestamp_us is None else timestamp_us,
                flags=key * _KEY | init * _INIT | end * _END,
                payload_bytes=size - STREAM_HEADER_BYTES,
            )
        except struct.error as error:
            raise LocalProtocolError(f"timestamp_us {timestamp_us!r} does not fit") from error
        if size <= _JOIN_BYTES:
            self._connection.outgoing.push_nowait(header + payload)
        else:
            # Bytes of the caller's own that may change are copied here.
            self._connection.outgoing.push_nowait(header, bytes(payload))
        self._next_seqs[track] = seq + 1
        if end:
            self._ended.add(track)
        self._counted += size
        self.sent_frames += 1
        self.sent_bytes += size
        return seq

    # -- the end -------------------------------------------------------------

    async def unpublish(self) -> messages.UnpublishAnswer:
        """End the source and wait until the server has handed on every frame of it.

        Leaving the `publish` block does this. Waits `drain_timeout_s` at
        most; cancelled, the source ends all the same.

        Raises:
            as `send`; RequestTimedOut.
        """
        if self.result is not None:
            return self.result
        self._raise_if_over()
        connection = self._connection
        try:
            self.result = await connection.request(
                messages.Unpublish(room=self._room, source=self._number),
                messages.UnpublishAnswer,
                timeout_s=connection.bounds.drain_timeout_s,
            )
        except RoomError:
            # Where an event has ended it meanwhile, that says more than "no such source".
            self._raise_if_over()
            raise
        self._finish(lambda: LocalProtocolError("the source has been unpublished"))
        self._told = True
        return self.result

    def _raise_if_over(self) -> None:
        if self._make_error is not None:
            self._told = True
            raise self._make_error()
        if self._connection.outgoing.closed:
            self._told = True
            raise self._connection.closed_error()

    def _finish(self, make_error: Callable[[], Exception]) -> None:
        """The source is over; the next send raises what ``make_error`` makes."""
        if self._make_error is None:
            self._make_error = make_error
        self._waiting.unpark_all()

    def _set_viewers(self, viewers: int) -> None:
        self.viewers = viewers
        self._waiting.unpark_all()

    def _raise_credit(self, limit: int) -> None:
        self._credit = max(self._credit, limit)
        self._waiting.unpark_all()

    def _wake(self) -> None:
        self._waiting.unpark_all()
