"""Watching: one subscription to one room.

Source: protocol.md, sections 9, 10, 13 and 15.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

import attrs
import trio

from tim_trio.net.client.connection import Connection
from tim_trio.net.client.errors import RoomClosed
from tim_trio.protocol import messages
from tim_trio.protocol.messages import RoomClosedReason, RoomMode
from tim_trio.protocol.room_ids import format_room_id
from tim_trio.protocol.runs import Run
from tim_trio.protocol.stream import StreamFrame, iter_stream_frames

Notice = messages.Gap | messages.SourceJoined | messages.SourceLeft
Item = StreamFrame | Notice

#: What a queued piece costs beside its bytes; keeps many tiny ones bounded.
_ITEM_COST: Final = 256


@attrs.define(eq=False, kw_only=True)
class Subscription:
    """A running subscription. Made by `Client.subscribe`; use it in that block only.

    Iterate it for frames and notices in the order of the wire::

        async for item in stream:
            match item:
                case StreamFrame(): ...
                case Gap(): ...            # these frames will not come
                case SourceJoined(): ...
                case SourceLeft(): ...

    The loop ends by itself when the room's creator has removed the room, and
    with RoomClosed when the room ended in any other way, both after the last
    frame. A source that leaves does not end it: another may come.

    What was read and not yet taken is bounded in bytes. In a live room, being
    slow means that the connection is no longer read, so that the server
    leaves out frames (a Gap says which) and at last closes the connection; so
    keep the loop quick, or give it a connection of its own. In a reliable
    room, being slow makes the sources wait.

    Attributes:
        mode: of the room.
        sources: those known at the start, also some that have left.
        closed: how the room ended, None while it lives.
    """

    mode: RoomMode
    sources: tuple[messages.SourceInfo, ...]
    closed: RoomClosed | None = None
    _room: int = attrs.field(alias="room_number")
    _connection: Connection = attrs.field(repr=False)
    #: Reliable rooms: how far ahead of the user each source may be.
    _window: int
    _queue: deque[Run | Notice] = attrs.Factory(deque)
    _frames: Iterator[StreamFrame] = attrs.Factory(lambda: iter(()))
    _consumer: trio.lowlevel.ParkingLot = attrs.Factory(trio.lowlevel.ParkingLot)
    _consumed: dict[int, int] = attrs.Factory(dict)
    _granted: dict[int, int] = attrs.Factory(dict)
    _left: bool = False

    @property
    def room(self) -> str:
        """The room id as people write it."""
        return format_room_id(self._room)

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Item:
        """Return the next frame or notice.

        Cancelled, nothing is lost. One task at a time may wait.

        Raises:
            StopAsyncIteration: the creator removed the room, or the block was left.
            RoomClosed: the room ended otherwise.
            ConnectionClosed: the connection is over.
            trio.BusyResourceError: another task waits already.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            queued = len(self._queue)
            item = self._next()
            if item is not None:
                if len(self._queue) < queued:
                    # Let others run once per run: a full queue of tiny frames
                    # would hold the loop. Shielded, or the item were lost.
                    await trio.lowlevel.cancel_shielded_checkpoint()
                return item
            if self._consumer:
                raise trio.BusyResourceError("another task is iterating over this subscription")
            self._raise_if_over()
            await self._consumer.park()

    def receive_nowait(self) -> Item:
        """As iterating, but never wait.

        Raises:
            trio.WouldBlock: nothing is there now; iterating waits, or says
                that nothing will come.
        """
        item = self._next()
        if item is None:
            raise trio.WouldBlock
        return item

    def _next(self) -> Item | None:
        while True:
            frame = next(self._frames, None)
            if frame is not None:
                return frame
            if not self._queue:
                return None
            item = self._queue.popleft()
            self._release(item)
            if not isinstance(item, Run):
                return item
            self._frames = iter_stream_frames(item.data)

    def _raise_if_over(self) -> None:
        if self._left:
            raise StopAsyncIteration
        if self.closed is not None:
            if self.closed.reason == RoomClosedReason.REMOVED:
                raise StopAsyncIteration
            raise RoomClosed(self.closed.room, self.closed.reason, self.closed.text)
        if self._connection.is_over:
            raise self._connection.closed_error()

    # -- called by the client, in the order of the wire ------------------------

    def _deliver(self, item: Run | Notice) -> None:
        self._queue.append(item)
        if self.mode is RoomMode.LIVE:
            self._connection.budget.add(_cost(item))
        self._consumer.unpark_all()

    def _release(self, item: Run | Notice) -> None:
        if self.mode is RoomMode.LIVE:
            self._connection.budget.release(_cost(item))
        elif isinstance(item, Run):
            self._grant(item.source, len(item.data))

    def _grant(self, source: int, consumed_bytes: int) -> None:
        """Grant a reliable source as much as was consumed, in halves of the window."""
        consumed = self._consumed.get(source, 0) + consumed_bytes
        self._consumed[source] = consumed
        if self._granted.get(source, self._window) - consumed <= self._window // 2:
            self._granted[source] = consumed + self._window
            self._connection.send_nowait(
                messages.Credit(room=self._room, source=source, limit=consumed + self._window)
            )

    def _close(self, event: messages.RoomClosed) -> None:
        self.closed = RoomClosed(self.room, event.reason, event.text)
        self._consumer.unpark_all()

    def _wake(self) -> None:
        self._consumer.unpark_all()

    def _leave(self) -> None:
        """Drop what is queued, so that nobody has to take it."""
        self._left = True
        if self.mode is RoomMode.LIVE:
            self._connection.budget.release(sum(map(_cost, self._queue)))
        self._queue.clear()
        self._frames = iter(())
        self._consumer.unpark_all()


def _cost(item: Run | Notice) -> int:
    return _ITEM_COST + (len(item.data) if isinstance(item, Run) else 0)
