"""Watching: one subscription to one room.

Source: protocol.md, sections 9, 10, 13 and 15.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

import attrs
import trio

from tim_trio.errors import ConnectionClosed, RoomError, room_error
from tim_trio.net.client.errors import RoomClosed
from tim_trio.net.client.feed import Feed
from tim_trio.net.client.line import Line
from tim_trio.net.client.notices import Item, Notice, Reconnected, Reconnecting
from tim_trio.net.client.seen import Seen
from tim_trio.protocol import messages
from tim_trio.protocol.messages import RoomClosedReason, RoomMode, StartFrom
from tim_trio.protocol.room_ids import format_room_id
from tim_trio.protocol.runs import Run
from tim_trio.protocol.stream import StreamFrame, iter_stream_frames

#: Queued bytes of a lost connection above which a new one does not add its own yet.
_RESUME_BYTES: Final = 1024 * 1024


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
                case Reconnecting(): ...   # the connection was lost
                case Reconnected(): ...    # it is back, and so is this

    The loop ends by itself when the room's creator has removed the room, and
    with RoomClosed when the room ended in any other way, both after the last
    frame. A source that leaves does not end it: another may come.

    After a reconnect nothing is repeated, and what did not come meanwhile is
    one Gap per missing range, with reason `WHILE_AWAY`. If the server does
    not take the subscription back, the loop ends with its refusal: NoSuchRoom
    when the room is gone.

    What was read and not yet taken is bounded in bytes. In a live room, being
    slow means that the connection is no longer read, so that the server
    leaves out frames (a Gap says which) and at last closes the connection; so
    keep the loop quick, or give it a connection of its own. In a reliable
    room, being slow makes the sources wait.

    Attributes:
        mode: of the room.
        sources: those known at the start or after the last reconnect, also
            some that have left.
        closed: how the room ended, None while it lives.
    """

    mode: RoomMode
    sources: tuple[messages.SourceInfo, ...]
    closed: RoomClosed | None = None
    _room: int = attrs.field(alias="room_number")
    _start: StartFrom
    _line: Line = attrs.field(repr=False)
    _seen: Seen = attrs.field(init=False, repr=False)
    #: None while the connection is away.
    _feed: Feed | None = attrs.field(default=None, init=False, repr=False)
    #: What comes over the next connection while the present one is being left.
    _next_feed: Feed | None = attrs.field(default=None, init=False, repr=False)
    _early: list[Run | Notice | messages.RoomClosed] = attrs.Factory(list)
    _queue: deque[tuple[Run | Notice, Feed | None]] = attrs.Factory(deque)
    _queued_bytes: int = 0
    _frames: Iterator[StreamFrame] = attrs.Factory(lambda: iter(()))
    _consumer: trio.lowlevel.ParkingLot = attrs.Factory(trio.lowlevel.ParkingLot)
    _drain: trio.lowlevel.ParkingLot = attrs.Factory(trio.lowlevel.ParkingLot)
    _make_error: Callable[[], Exception] | None = None
    _left: bool = False

    def __attrs_post_init__(self) -> None:
        self._seen = Seen(self._room)
        self._seen.begin(self.sources)

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
            RoomError: after a reconnect, the server refused to go on.
            ConnectionClosed: the connection is over, and there will be no other.
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
            item, feed = self._queue.popleft()
            if feed is not None:
                feed.release(item)
            if isinstance(item, Run):
                self._queued_bytes -= len(item.data)
                if self._drain and self._queued_bytes <= _RESUME_BYTES:
                    self._drain.unpark_all()
                self._frames = iter_stream_frames(item.data)
            elif isinstance(item, Reconnected):
                self.sources = item.sources
                return item
            else:
                return item

    @property
    def _is_over(self) -> bool:
        return self._left or self.closed is not None or self._make_error is not None

    def _raise_if_over(self) -> None:
        if self._left:
            raise StopAsyncIteration
        if self.closed is not None:
            if self.closed.reason == RoomClosedReason.REMOVED:
                raise StopAsyncIteration
            raise RoomClosed(self.closed.room, self.closed.reason, self.closed.text)
        if self._make_error is not None:
            raise self._make_error()
        self._line.raise_if_over()

    # -- called by the session, in the order of the wire -----------------------

    def deliver(self, feed: Feed, item: Run | Notice) -> None:
        if feed is self._next_feed:
            self._early.append(item)
            return
        if feed is not self._feed:
            return
        pieces = tuple(self._seen.take(item))
        if isinstance(item, Run) and (len(pieces) != 1 or pieces[0] is not item):
            feed.skip(item, pieces)
        for piece in pieces:
            self._put(piece, feed)

    def close(self, feed: Feed, event: messages.RoomClosed) -> None:
        if feed is self._next_feed:
            self._early.append(event)
        elif feed is self._feed:
            for notice in self._seen.close():
                self._put(notice, feed)
            self.closed = RoomClosed(self.room, event.reason, event.text)
            self._consumer.unpark_all()

    def lose(self, feed: Feed, error: ConnectionClosed) -> None:
        """A connection is lost, and another is being looked for."""
        if feed is self._next_feed:
            self._next_feed = None
            self._early.clear()
        elif feed is self._feed:
            self._feed = None
            self._put(Reconnecting(error), None)

    def _put(self, item: Run | Notice, feed: Feed | None) -> None:
        self._queue.append((item, feed))
        if isinstance(item, Run):
            self._queued_bytes += len(item.data)
        if feed is not None:
            feed.charge(item)
        self._consumer.unpark_all()

    # -- called by the client and the reconnector ------------------------------

    def _attach(self, feed: Feed) -> None:
        self._feed = feed

    async def _wait_drained(self) -> None:
        """Wait until so little is queued that another connection may add to it.

        Else a user who takes nothing would hold a window of bytes for each
        connection that was closed because of it.
        """
        while self._queued_bytes > _RESUME_BYTES and not self._is_over:
            await self._drain.park()

    def _resume(
        self, feed: Feed, answer: messages.SubscribeAnswer, after_s: float, attempts: int
    ) -> None:
        """Go on with another connection, in place of one that was lost."""
        self._feed = feed
        sources = tuple(answer.sources)
        self._put(Reconnected(after_s=after_s, attempts=attempts, sources=sources), None)
        for notice in self._seen.resume(sources):
            self._put(notice, feed)

    def _prepare(self, feed: Feed) -> None:
        """Collect what another connection brings, until `_switch`."""
        self._next_feed = feed

    def _switch(self, answer: messages.SubscribeAnswer, known: set[int]) -> None:
        """The old connection has brought its last: go on with the other's."""
        feed, early = self._next_feed, self._early
        if feed is None:
            return  # lost as well
        sources = tuple(answer.sources)
        if self._feed is None:
            self._put(Reconnected(after_s=0.0, attempts=1, sources=sources), None)
        self._feed, self._next_feed, self._early = feed, None, []
        for notice in self._seen.resume(answer.sources, known):
            self._put(notice, feed)
        for item in early:
            if isinstance(item, messages.RoomClosed):
                self.close(feed, item)
            else:
                self.deliver(feed, item)

    def _refuse(self, error: RoomError) -> None:
        """The server does not take the subscription back."""
        self._make_error = partial(
            room_error, error.code, error.text, retry_after_ms=error.retry_after_ms
        )
        self._wake()

    def _wake(self) -> None:
        self._consumer.unpark_all()
        self._drain.unpark_all()

    def _leave(self) -> None:
        """Drop what is queued, so that nobody has to take it."""
        self._left = True
        for item, feed in self._queue:
            if feed is not None:
                feed.drop((item,))
        self._queue.clear()
        self._early.clear()
        self._queued_bytes = 0
        self._frames = iter(())
        self._wake()
