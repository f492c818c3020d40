"""What one connection still has to be sent, bounded in bytes.

A frame goes **straight to the socket** when nothing is waiting
(``pending_bytes == 0`` is the only test). What the kernel does not take goes,
in order, into the connection's memory channel, which its writer task drains;
``pending_bytes`` falls only when the kernel has accepted. So a direct write
can never overtake queued bytes, and only a subscriber that is behind costs a
task switch.

A memory channel counts items, so bytes are counted here, in a *ledger* per
payer: one per subscription, one for control frames, one per shared group.
Channel and writer are made when something has to wait for the first time:
thousands of idle subscribers do without.

Source: DESIGN "The data path"; docs/backpressure.md.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

import attrs
import trio

from tim_trio.core.form import Buffer as Buffer
from tim_trio.core.form import Form
from tim_trio.core.node import Node
from tim_trio.errors import Code

#: Writes without blocking and returns how many bytes were taken; raises
#: BlockingIOError for none, OSError when the connection is broken.
Transmit = Callable[[Buffer], int]


class Sink(Protocol):
    """A socket that takes bytes which are in the kernel already."""

    def fileno(self) -> int: ...

    def send(self, data: bytes, flags: int, /) -> int: ...


class Passage(Protocol):
    """One whole frame that is still in the kernel, to be moved once."""

    def move(self, sink: Sink) -> bytes:
        """Move it as far as the kernel takes it, without blocking; return the rest.

        Raises:
            OSError: the sink is broken.
        """


#: What the writer takes at once.
BATCH_BYTES: Final = 256 * 1024
#: Pieces are packed into one channel item up to this size, so that tiny
#: frames do not cost a channel operation each.
_ITEM_BYTES: Final = 64 * 1024
#: Items of the channel that live data leaves free for control frames.
_RESERVED_ITEMS: Final = 32


class Ledger(Protocol):
    """Who pays for queued bytes."""

    def charge(self, size: int, now: float) -> None:
        """``size`` more bytes are queued."""

    def settle(self, size: int, *, done: bool) -> None:
        """``size`` bytes left the queue; ``done`` with the piece's last byte."""


#: One piece of a queue: bytes and who pays for them.
Piece = tuple[Buffer, Ledger]


@attrs.define(eq=False)
class Backlog:
    """A ledger that knows the age of what is queued."""

    pending_bytes: int = 0
    #: When each queued piece came, made only while there is one: thousands of
    #: idle subscriptions would otherwise hold an empty deque of 600 bytes each.
    _times: deque[float] | None = None

    def charge(self, size: int, now: float) -> None:
        self.pending_bytes += size
        if self._times is None:
            self._times = deque()
        self._times.append(now)

    def settle(self, size: int, *, done: bool) -> None:
        self.pending_bytes -= size
        if done and self._times is not None:
            self._times.popleft()
            if not self._times:
                self._times = None

    @property
    def oldest(self) -> float:
        """When the oldest queued piece came; infinity when nothing is queued."""
        return self._times[0] if self._times is not None else math.inf


@attrs.define(eq=False)
class SharedPiece:
    """A cached group on its way to several joiners: counted once for all."""

    data: bytes
    _node: Node
    _readers: int = 0

    def charge(self, size: int, now: float) -> None:
        if not self._readers:
            self._node.pinned_bytes += len(self.data)
        self._readers += 1

    def settle(self, size: int, *, done: bool) -> None:
        if done:
            self._readers -= 1
            if not self._readers:
                self._node.pinned_bytes -= len(self.data)


class Outbox:
    """The sending side of one connection. One writer task drains it.

    Attributes:
        form: how frames look on this wire; None for as they are.
        sink: takes frames from the kernel; None where they must be seen on their way.
        pending_bytes: queued and not yet taken by the kernel, in the form of
            the wire. Never 0 again once closed, so that nobody writes directly.
        closed: nothing more is accepted.
        close_code: why, None for a lost connection; meaningful once closed.
    """

    __slots__ = (
        "_batch",
        "_last_item",
        "_last_item_bytes",
        "_node",
        "_on_abort",
        "_on_bulk",
        "_pieces",
        "_receive",
        "_send",
        "_start_writer",
        "caught_up_at",
        "close_code",
        "closed",
        "control",
        "form",
        "live_bytes",
        "pending_bytes",
        "shared_bytes",
        "sink",
        "transmit",
    )

    def __init__(
        self,
        transmit: Transmit,
        node: Node,
        *,
        start_writer: Callable[[], None],
        on_abort: Callable[[], None],
        on_bulk: Callable[[], None] = lambda: None,
        form: Form | None = None,
        sink: Sink | None = None,
    ) -> None:
        self.transmit = transmit
        self.sink = sink
        self.form = form
        self.pending_bytes = 0
        self.live_bytes = 0
        self.control = Backlog()
        self.closed = False
        self.close_code: int | None = None
        #: When the last cached group was sent: live data queued behind it
        #: has not been slow before that moment.
        self.caught_up_at = -math.inf
        #: Queued bytes of cached groups, which no subscription pays for.
        self.shared_bytes = 0
        self._node = node
        self._start_writer = start_writer
        self._on_abort = on_abort
        self._on_bulk = on_bulk
        self._pieces = 0
        self._send: trio.MemorySendChannel[list[Piece]] | None = None
        self._receive: trio.MemoryReceiveChannel[list[Piece]] | None = None
        # The newest item in the channel, which grows until it is taken.
        self._last_item: list[Piece] = []
        self._last_item_bytes = _ITEM_BYTES
        # What the writer has taken from the channel and the kernel has not accepted.
        self._batch: list[Piece] = []

    def expect_bulk(self) -> None:
        """Data will come whose credit bounds it: more of it may wait in the kernel."""
        self._on_bulk()

    def has_room(self, size: int, backlog: Backlog, now: float) -> bool:
        """Say whether a subscription may queue ``size`` bytes more.

        An empty outbox admits any one piece.
        """
        if not self.pending_bytes:
            return True
        limits = self._node.limits
        bound = limits.backlog_bytes
        # Past half of the node's bound, everyone's shrinks with what is left:
        # the largest laggards stop first, and who keeps up notices nothing.
        node_left = limits.node_backlog_bytes - self._node.backlog_bytes
        if node_left < limits.node_backlog_bytes // 2:
            bound = max(0, bound * 2 * node_left // limits.node_backlog_bytes)
        if backlog.pending_bytes:
            if backlog.pending_bytes + size > bound:
                return False
            if not self.shared_bytes:
                waiting_since = max(backlog.oldest, self.caught_up_at)
                if now - waiting_since > limits.backlog_age_s:
                    return False
        elif size > bound:
            return False
        return (
            self.live_bytes + size <= limits.connection_backlog_bytes
            and self._pieces < limits.outbox_items - _RESERVED_ITEMS
        )

    def has_room_beside(self, size: int) -> bool:
        """Say whether ``size`` bytes fit that no subscription pays for.

        Whoever pays has a bound of its own; these are the connection's and
        the node's.
        """
        limits = self._node.limits
        return not self.pending_bytes or (
            self.live_bytes + size <= limits.connection_backlog_bytes
            and self._node.backlog_bytes + size <= limits.node_backlog_bytes
            and self._pieces < limits.outbox_items - _RESERVED_ITEMS
        )

    def put(self, data: Buffer, ledger: Ledger, now: float) -> None:
        """Send whole frames now if nothing waits, else queue them. Never blocks.

        Room for live data is the caller's to check first (`has_room`).
        """
        if self.form is not None:
            data = self.form.encode(data)
            if not data:
                return
        self.put_encoded(data, ledger, now)

    def put_encoded(self, data: Buffer, ledger: Ledger, now: float) -> None:
        """As `put`, of bytes that are as they go on this wire."""
        if self.closed:
            return
        if not self.pending_bytes:
            try:
                sent = self.transmit(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.abort(None)
                return
            if sent == len(data):
                return
            if sent:
                # A view, not a copy: a thousand subscribers with a partial
                # write share one run.
                data = memoryview(data)[sent:]
        self.queue(data, ledger, now)

    def pass_on(self, passage: Passage, ledger: Ledger, now: float) -> None:
        """As `put`, of a frame that is still in the kernel. Nothing may be waiting.

        Never fails for a peer that is gone; but what the passage raises for its own
        sake comes out, after the connection has been given up: it may have half a frame.
        """
        assert self.sink is not None
        try:
            rest = passage.move(self.sink)
        except OSError:
            self.abort(None)
            return
        except BaseException:  # an interrupt too
            self.abort(None)
            raise
        if rest:
            self.queue(rest, ledger, now)

    def queue(self, data: Buffer, ledger: Ledger, now: float) -> None:
        """Queue encoded bytes for the writer task, which is started if there is none."""
        size = len(data)
        if self._last_item_bytes + size <= _ITEM_BYTES:
            self._last_item.append((data, ledger))
            self._last_item_bytes += size
        else:
            item = [(data, ledger)]
            if self._send is None:
                self._send, self._receive = trio.open_memory_channel[list[Piece]](
                    self._node.limits.outbox_items
                )
                self._start_writer()
            try:
                self._send.send_nowait(item)
            except trio.WouldBlock:
                # Live data stops short of the last items, so this is control
                # data that nobody reads.
                self._node.count_limit("outbox_items")
                self.abort(Code.SLOW_CONSUMER)
                return
            self._last_item = item
            self._last_item_bytes = size
        self._pieces += 1
        self.pending_bytes += size
        ledger.charge(size, now)
        if isinstance(ledger, SharedPiece):
            self.shared_bytes += size
        else:
            self.live_bytes += size
            self._node.backlog_bytes += size

    def put_control(self, data: Buffer, now: float) -> None:
        """Send or queue frames that must never be dropped.

        A peer that lets its reserved room fill up is closed as a slow consumer.
        """
        self.put(data, self.control, now)
        self._check_control()

    def put_control_encoded(self, data: Buffer, now: float) -> None:
        """As `put_control`, of what belongs to this kind of wire and is no frame."""
        self.put_encoded(data, self.control, now)
        self._check_control()

    def _check_control(self) -> None:
        if self.control.pending_bytes > self._node.limits.control_backlog_bytes:
            self._node.count_limit("control_backlog_bytes")
            self.abort(Code.SLOW_CONSUMER)

    def close(self, frame: bytes | None, code: int | None, now: float) -> None:
        """Accept nothing more after ``frame``; what is queued is still sent."""
        if self.closed:
            return
        if frame is not None:
            self.put(frame, self.control, now)
            if self.form is not None:
                self.put_encoded(self.form.farewell(code), self.control, now)
        self._end(code)

    def abort(self, code: int | None) -> None:
        """Give the connection up at once: tell its owner, send nothing more."""
        if self.closed:
            return
        self._end(code)
        self._on_abort()

    def _end(self, code: int | None) -> None:
        if self.closed:  # `close` lost the connection while it sent its frame
            return
        self.closed = True
        self.close_code = code
        # Poison for the direct write: one byte that is never settled.
        self.pending_bytes += 1
        if self._send is not None:
            self._send.close()

    # The writer task's side.

    async def next_batch(self) -> list[Buffer]:
        """Wait for queued pieces and return them, up to a batch.

        Blocks until there is one. Returned pieces stay pending until
        `settle`; cancellation loses none.

        Raises:
            trio.EndOfChannel: closed, and everything has been taken.
        """
        assert self._receive is not None, "the writer starts with the first queued piece"
        if not self._batch:
            self._take(await self._receive.receive())
        size = sum(len(data) for data, _ in self._batch)
        while size < BATCH_BYTES:
            try:
                item = self._receive.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel):
                break
            self._take(item)
            size += sum(len(data) for data, _ in item)
        return [data for data, _ in self._batch]

    def _take(self, item: list[Piece]) -> None:
        if item is self._last_item:
            self._last_item = []
            self._last_item_bytes = _ITEM_BYTES
        self._batch += item

    def settle(self, size: int, now: float) -> None:
        """The kernel took ``size`` bytes of what `next_batch` returned."""
        batch = self._batch
        self.pending_bytes -= size
        finished = 0
        while size:
            data, ledger = batch[finished]
            taken = min(size, len(data))
            size -= taken
            done = taken == len(data)
            self._settle_one(ledger, taken, done=done)
            if done:
                finished += 1
                if isinstance(ledger, SharedPiece):
                    self.caught_up_at = now
            else:
                batch[finished] = (memoryview(data)[taken:], ledger)
        del batch[:finished]

    def _settle_one(self, ledger: Ledger, taken: int, *, done: bool) -> None:
        ledger.settle(taken, done=done)
        if isinstance(ledger, SharedPiece):
            self.shared_bytes -= taken
        else:
            self.live_bytes -= taken
            self._node.backlog_bytes -= taken
        self._pieces -= done

    def discard(self) -> None:
        """Settle everything that will not be sent. For the owner's last act."""
        self.abort(None)
        if self._receive is not None:
            while True:
                try:
                    self._take(self._receive.receive_nowait())
                except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
                    break
            self._receive.close()
        for data, ledger in self._batch:
            self._settle_one(ledger, len(data), done=True)
        self._batch.clear()
        # The callbacks lead back to the owner: without this cycle it is freed
        # at once, not by a pass of the garbage collector.
        self._start_writer = self._on_abort = self._on_bulk = lambda: None
