"""Publishing: one source in one room.

Source: protocol.md, sections 4, 8 and 10.
"""

from __future__ import annotations

import struct
import time
from collections import deque
from collections.abc import Callable
from typing import Final

import attrs
import trio

from tim_trio.errors import ConnectionClosed, LocalProtocolError, RoomError
from tim_trio.net.client.line import Line
from tim_trio.net.client.outgoing import Outgoing
from tim_trio.net.client.session import Session
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


@attrs.frozen
class _Sent:
    """A frame of a reliable room that the server may not have yet.

    ``end_total`` is the source's byte total behind it.
    """

    track: int
    seq: int
    size: int
    pieces: tuple[bytes, ...]
    end_total: int = 0


@attrs.frozen
class _Pinned:
    """The newest INIT of a track, or its END: what a live room must not lose."""

    seq: int
    flags: int
    timestamp_us: int
    payload: bytes


@attrs.define(eq=False, kw_only=True)
class Source:
    """A running source. Made by `Client.publish`; use it in that block only.

    When the connection is lost and comes back, the source goes on by its
    token. Meanwhile, in a **live** room, frames are numbered and dropped
    (`dropped_frames`): subscribers get one Gap for all that was lost, and the
    newest INIT and END are sent again. In a **reliable** room `send` waits;
    what the server had not got is sent again, and nothing is missing.

    If the server has ended the source meanwhile (by default 5 s after it
    noticed the loss), a live one goes on as a new source: `number` changes
    and every `seq` begins again with 0. A reliable one ends with SourceLost.

    Attributes:
        token: opens the source again on another connection (a takeover).
        mode: of the room. In a reliable room `send` waits for credit.
        viewers: subscriptions of the room, as last told; None before the first word.
        sent_frames, sent_bytes: handed to the connection here, whole frames with headers.
        dropped_frames: sent while the connection was away, in a live room.
        lost_frames: those, and what was under way when the connection was lost,
            as far as the server had not got it.
        resumed: how often it went on over another connection.
        result: what UNPUBLISH was answered with, None before.
    """

    token: bytes = attrs.field(repr=False)
    mode: RoomMode
    viewers: int | None = None
    sent_frames: int = 0
    sent_bytes: int = 0
    dropped_frames: int = 0
    lost_frames: int = 0
    resumed: int = 0
    result: messages.UnpublishAnswer | None = None
    _room: int = attrs.field(alias="room_number")
    _number: int = attrs.field(alias="source_number")
    _line: Line = attrs.field(repr=False)
    #: None while the connection is away.
    _session: Session | None = attrs.field(repr=False)
    #: Told so, it waits before it sends more: the connection is being left.
    _pausing: bool = False
    _next_seqs: dict[int, int] = attrs.Factory(dict)
    _ended: set[int] = attrs.Factory(set)
    #: Bytes the server has counted, and the total it allows (section 10).
    _counted: int = 0
    _credit: int = 0
    #: Reliable rooms: what the server may not have, and of it what it surely has not.
    _sent: deque[_Sent] = attrs.Factory(deque)
    _unsent: deque[_Sent] = attrs.Factory(deque)
    #: Live rooms: sent again if they were lost.
    _inits: dict[int, _Pinned] = attrs.Factory(dict)
    _ends: dict[int, _Pinned] = attrs.Factory(dict)
    _unpublishing: bool = False
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

    def has_ended(self, track: int = 0) -> bool:
        """Say whether the track has had its END, here or before a takeover."""
        return track in self._ended

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
        subscriber is slower than you) or the connection is away. Such a wait
        may be long: put it under a deadline of your own if it matters.

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
            TypeError: the payload is none; nothing was sent.
        """
        size = self._check(payload, track, init, end)
        await self._line.session.connection.outgoing.yield_now_and_then()
        while not self._admits(size):
            await self._wait_admission()
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

    async def next_viewers(self, known: int | None) -> int:
        """Wait until the room has another number of subscriptions than ``known``; return it.

        Raises:
            as `send`.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            self._raise_if_over()
            if self.viewers is not None and self.viewers != known:
                return self.viewers
            await self._waiting.park()

    def _check(self, payload: Payload, track: int, init: bool, end: bool) -> int:
        """Return the size of the frame, or raise LocalProtocolError or TypeError."""
        if not isinstance(payload, bytes | bytearray | memoryview):
            # Others have lengths in other units, and the header would lie.
            raise TypeError(
                f"a payload is bytes, bytearray or memoryview, not {type(payload).__name__}"
            )
        limits = self._line.session.connection.limits
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
        if self._make_error is not None or self._line.is_over:
            return True
        if self._pausing:
            return False
        reliable = self.mode is RoomMode.RELIABLE
        outgoing = self._outgoing()
        if outgoing is None:
            # What a live room gets while we are away is dropped, not waited for.
            return self._line.reconnects and not reliable
        if outgoing.full:
            return False
        return not reliable or (not self._unsent and self._counted + size <= self._credit)

    def _outgoing(self) -> Outgoing | None:
        """Return where to write, None while the connection is away."""
        if self._session is None or self._session.connection.outgoing.closed:
            return None
        return self._session.connection.outgoing

    async def _wait_admission(self) -> None:
        session = self._session
        if session is None:
            await self._waiting.park()
        elif session.connection.outgoing.closed:
            # The writer has failed; what the reader still finds may say why.
            await session.connection.wait_over()
            await trio.lowlevel.checkpoint()
        elif session.connection.outgoing.full:
            await session.connection.outgoing.wait_room()
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
        flags = key * _KEY | init * _INIT | end * _END
        if timestamp_us is None:
            timestamp_us = time.time_ns() // 1000
        try:
            header = encode_stream_header(
                room=self._room,
                source=self._number,
                track=track,
                seq=seq,
                timestamp_us=timestamp_us,
                flags=flags,
                payload_bytes=size - STREAM_HEADER_BYTES,
            )
        except struct.error as error:
            raise LocalProtocolError(f"timestamp_us {timestamp_us!r} does not fit") from error
        # Bytes of the caller's own that may change are copied in any case.
        pieces = (header + bytes(payload),) if size <= _JOIN_BYTES else (header, bytes(payload))
        self._next_seqs[track] = seq + 1
        if end:
            self._ended.add(track)
        outgoing = self._outgoing()
        if outgoing is None:
            self.dropped_frames += 1
        else:
            outgoing.push_nowait(*pieces)
            self._counted += size
            self.sent_frames += 1
            self.sent_bytes += size
        if not self._line.reconnects:
            return seq
        if self.mode is RoomMode.RELIABLE:
            self._sent.append(_Sent(track, seq, size, pieces, self._counted))
        elif init or end:
            pinned = _Pinned(seq, flags, timestamp_us, bytes(payload))
            if init:
                self._inits[track] = pinned
            if end:
                self._ends[track] = pinned
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
        self._unpublishing = True
        while self.result is None:
            session = self._session
            if session is None or self._unsent or self._pausing:
                await self._waiting.park()
                if self.result is None:
                    self._raise_if_over()
                continue
            connection = session.connection
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
            except ConnectionClosed:
                if not self._line.reconnects or self._line.is_over:
                    self._told = True
                    raise
        self._finish(_unpublished)
        self._told = True
        return self.result

    def _raise_if_over(self) -> None:
        if self._make_error is not None:
            self._told = True
            raise self._make_error()
        session = self._session
        failed = session is not None and session.connection.outgoing.closed
        if self._line.is_over or (failed and not self._line.reconnects):
            self._told = True
            self._line.raise_if_over()
            assert session is not None
            raise session.connection.closed_error()

    def _finish(self, make_error: Callable[[], Exception]) -> None:
        """The source is over; the next send raises what ``make_error`` makes."""
        if self._make_error is None:
            self._make_error = make_error
        self._sent.clear()
        self._unsent.clear()
        self._waiting.unpark_all()

    def _set_viewers(self, viewers: int) -> None:
        self.viewers = viewers
        self._waiting.unpark_all()

    def _raise_credit(self, limit: int) -> None:
        self._credit = max(self._credit, limit)
        if self.mode is RoomMode.RELIABLE:
            self._forget_received()
            self._send_unsent()
        self._waiting.unpark_all()

    def _forget_received(self) -> None:
        """What lies more than a window below the credit has been read by the server."""
        limits = self._line.session.connection.limits
        received = self._credit - limits.backlog_bytes - limits.max_frame_bytes
        while self._sent and self._sent[0].end_total <= received:
            self._sent.popleft()

    def _send_unsent(self) -> None:
        """Send again what was lost, as far as the credit goes."""
        outgoing = self._outgoing()
        while self._unsent and outgoing is not None:
            frame = self._unsent[0]
            if self._counted + frame.size > self._credit:
                return
            self._unsent.popleft()
            outgoing.push_nowait(*frame.pieces)
            self._counted += frame.size
            self._sent.append(attrs.evolve(frame, end_total=self._counted))

    def _wake(self) -> None:
        self._waiting.unpark_all()

    # -- called by the reconnector ----------------------------------------------

    def _lose(self) -> None:
        """The connection is lost, and another is being looked for."""
        self._session = None
        self._waiting.unpark_all()

    def _pause(self) -> None:
        """Wait with new frames: the connection is about to be left for another."""
        self._pausing = True

    def _go_on(self) -> None:
        """No longer wait with them: it has moved, or its connection is lost after all."""
        self._pausing = False
        self._waiting.unpark_all()

    def _resume(self, session: Session, answer: messages.PublishAnswer) -> None:
        """Go on where the server stands, over another connection.

        To be called in the step that reads the answer. The source must be
        the same, or its room live.
        """
        last_seqs = {track.track: track.last_seq for track in answer.tracks}
        same = answer.source == self._number
        self._number = answer.source
        self._counted, self._credit = answer.received, answer.credit
        self._session = session
        self._pausing = False
        self.resumed += 1
        if self.mode is RoomMode.RELIABLE:
            frames = (*self._sent, *self._unsent)
            self._sent.clear()
            self._unsent = deque(f for f in frames if f.seq > last_seqs.get(f.track, -1))
            self._send_unsent()
        else:
            for track in {*self._next_seqs, *last_seqs}:
                self._resume_live(track, last_seqs.get(track, -1), same)
        for track, last_seq in last_seqs.items():
            self._next_seqs[track] = max(self._next_seqs.get(track, 0), last_seq + 1)
        self._waiting.unpark_all()

    def _left_complete(self, last_seqs: dict[int, int]) -> bool:
        """The source has left on the server: settle `unpublish` if nothing was missing."""
        if any(last_seqs.get(track, -1) + 1 < seq for track, seq in self._next_seqs.items()):
            return False
        frames = sum(last_seq + 1 for last_seq in last_seqs.values())
        self.result = messages.UnpublishAnswer(forwarded=frames, discarded=0)
        self._finish(_unpublished)
        return True

    def _resume_live(self, track: int, last_seq: int, same: bool) -> None:
        """Send again what a track cannot do without, if it was lost."""
        next_seq = self._next_seqs.get(track, 0) if same else 0
        self.lost_frames += max(0, self._next_seqs.get(track, 0) - last_seq - 1) if same else 0
        init, end = self._inits.get(track), self._ends.get(track)
        again = []
        if init is not None and (init.seq > last_seq or not same):
            again.append(init)
        if end is not None and (end.seq > last_seq or not same):
            if same:
                next_seq = end.seq  # nothing follows it, so its number may move
            again.append(end)
        if init is not None and init is end:
            again = again[:1]
        self._next_seqs[track] = next_seq
        outgoing = self._outgoing()
        for pinned in again:
            seq = self._next_seqs[track]
            self._next_seqs[track] = seq + 1
            header = encode_stream_header(
                room=self._room,
                source=self._number,
                track=track,
                seq=seq,
                timestamp_us=pinned.timestamp_us,
                flags=pinned.flags,
                payload_bytes=len(pinned.payload),
            )
            if outgoing is not None:
                outgoing.push_nowait(header, pinned.payload)
                self._counted += len(header) + len(pinned.payload)
            renewed = attrs.evolve(pinned, seq=seq)
            if pinned.flags & _INIT:
                self._inits[track] = renewed
            if pinned.flags & _END:
                self._ends[track] = renewed


def _unpublished() -> Exception:
    return LocalProtocolError("the source has been unpublished")
