"""One file on its way to us: the question, the part, and each attempt.

Source: protocol.md, Annex B.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import attrs
import trio

from tim_trio.errors import ConnectionClosed, RoomError
from tim_trio.net.client.errors import RequestTimedOut, StreamOver
from tim_trio.net.client.files import messages, rules
from tim_trio.net.client.files.errors import (
    FileTransferError,
    FileUnusable,
    TransferFailed,
    error_of,
)
from tim_trio.net.client.files.messages import By, FromReceiver
from tim_trio.net.client.files.names import safe_name
from tim_trio.net.client.files.part import Part
from tim_trio.net.client.files.receiver import Receiver, ReceiverPhase
from tim_trio.net.client.files.sender import Ending
from tim_trio.net.client.files.threads import run_stoppable
from tim_trio.net.client.files.transfer import FileTransfer, TransferPhase
from tim_trio.net.client.notices import Item, Reconnecting
from tim_trio.net.client.plain_nursery import open_plain_nursery
from tim_trio.net.client.subscription import Subscription
from tim_trio.protocol.messages import Gap, RoomMode, SourceLeft
from tim_trio.protocol.stream import StreamFrame

if TYPE_CHECKING:
    from tim_trio.net.client.client import Client

#: Asks a person, or decides: is this file wanted?
Ask = Callable[[FileTransfer], Awaitable[bool]]

#: Written at once when so much has already come: a thread's hop per frame is dear.
_WRITE_BYTES: Final = 1024 * 1024
#: Written blocks that wait for the disk.
_BLOCKS_AHEAD: Final = 2
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: After these nothing of the file is of use.
_USELESS: Final = ("changed", "digest")

_PHASES: Final = {
    ReceiverPhase.ASKING: TransferPhase.OFFERED,
    ReceiverPhase.ACCEPTED: TransferPhase.RUNNING,
    ReceiverPhase.RECEIVING: TransferPhase.RUNNING,
    ReceiverPhase.OVER: TransferPhase.OVER,
}


class Shelf(Protocol):
    """Where the parts are."""

    async def take(self, receiver: Receiver) -> Part | None:
        """Return the part, a new one where there is none; None where another process has it.

        Raises:
            OSError: it cannot be opened or made.
        """
        ...

    async def free_bytes(self) -> int:
        """Return what fits beside what is there."""
        ...


class _Over(Exception):
    """The attempt is over, for the better or the worse; the machine knows."""


@attrs.define(eq=False, kw_only=True)
class Incoming:
    """Runs one transfer.

    Attributes:
        path: the file, once it has its name.
        problem: what our own disk had against it, or what the sender did wrong.
    """

    client: Client
    machine: Receiver
    view: FileTransfer
    shelf: Shelf
    post: Callable[[str, list[FromReceiver]], Awaitable[object]]
    path: Path | None = None
    problem: FileTransferError | None = None
    _part: Part | None = None
    _discarded: bool = False
    _changed: trio.lowlevel.ParkingLot = attrs.Factory(trio.lowlevel.ParkingLot)
    #: Cancelled to make the reader look at what has changed.
    _nap: trio.CancelScope = attrs.Factory(trio.CancelScope)

    def __attrs_post_init__(self) -> None:
        self.machine.changed = self._on_change

    def _on_change(self) -> None:
        self._changed.unpark_all()
        self._nap.cancel()

    async def run(self, ask: Ask | None) -> None:
        """Take the transfer to its end; `Receiver.outcome` says which.

        Args:
            ask: whether it is wanted; None: no.

        Raises:
            ConnectionClosed: the connection is over, and there will be no other.
        """
        async with open_plain_nursery() as nursery:
            nursery.start_soon(self._watch_for_cancel)
            try:
                await self._question(ask)
                await self._receive()
            finally:
                nursery.cancel_scope.cancel()
                # A large file takes its time to go.
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(self._put_part_away)

    @property
    def part_is_there(self) -> bool:
        """Whether another attempt, of this or another process, finds a part."""
        return self._part is not None and self.path is None and not self._discarded

    def error(self) -> FileTransferError | None:
        """Return why there is no file, None where there is one."""
        outcome = self.machine.outcome
        if outcome is None or outcome.ending is Ending.DONE:
            return None
        return self.problem or error_of(outcome, self.machine.account, ours=By.RECEIVER)

    async def forget(self) -> None:
        """The sender knows that the file is here."""
        if self._part is not None:
            await trio.to_thread.run_sync(self._part.forget)

    async def say(self, words: list[FromReceiver]) -> None:
        await self.post(self.machine.account, words)

    async def _watch_for_cancel(self) -> None:
        await self.view.wait_cancelled()
        await self.say(self.machine.cancel())

    # -- before the first byte --------------------------------------------------

    async def _question(self, ask: Ask | None) -> None:
        """Find out whether the file is wanted."""
        machine = self.machine
        if not machine.is_asking():
            return
        if ask is None:
            return await self.say(machine.decline("policy"))
        try:
            if await self.shelf.free_bytes() < machine.offer.size:
                return await self.say(machine.decline("space"))
        except OSError as error:
            self.problem = _unwritable(self.view, error)
            return await self.say(machine.decline("unwritable"))
        answered = False

        async def until_answered() -> None:
            nonlocal answered
            wanted = await ask(self.view)
            answered = True
            if wanted:
                machine.agree(trio.current_time())
            else:
                await self.say(machine.decline("user"))

        async with open_plain_nursery() as nursery:
            nursery.start_soon(until_answered)
            while machine.is_asking():
                await self._wait_change()
            if not answered:
                nursery.cancel_scope.cancel()  # nobody needs an answer any more

    async def _wait_change(self) -> None:
        """Wait until something changes, or time ends it."""
        with trio.move_on_at(self.machine.next_poll):
            await self._changed.park()
        self.machine.poll(trio.current_time())

    # -- attempts ---------------------------------------------------------------

    async def _receive(self) -> None:
        machine, view = self.machine, self.view
        try:
            while machine.phase is not ReceiverPhase.OVER:
                self._show()
                if machine.start is not None:
                    await self._attempt(machine.start)
                elif machine.wants_answer:
                    await self._accept()
                else:
                    await self._wait_change()
        except OSError as error:
            self.problem = _unwritable(view, error)
            reason = "space" if error.errno in _NO_SPACE else "unwritable"
            await self.say(machine.fail(reason))

    async def _accept(self) -> None:
        machine, view = self.machine, self.view
        part = self._part
        if part is None:
            view.phase = TransferPhase.READING
            part = self._part = await self.shelf.take(machine)
            if part is None:
                return await self.say(machine.decline("busy"))
            await run_stoppable(part, part.recover)
        # Only what is on the disk is ours to claim.
        await trio.to_thread.run_sync(part.sync)
        view.position = part.offset
        await self.say(
            machine.accept(
                attempt=messages.new_id(),
                offset=part.offset,
                sha256=part.sha256,
                now=trio.current_time(),
            )
        )

    async def _attempt(self, start: messages.Start) -> None:
        machine, view, part = self.machine, self.view, self._part
        assert part is not None
        view.attempts += 1
        if start.offset != part.offset:
            await trio.to_thread.run_sync(part.restart)
        view.position = part.offset
        try:
            async with self.client.subscribe(start.room) as stream:
                if not self._is_as_told(stream, start):
                    return await self._accuse("its room is not what it said")
                complete = await self._take_bytes(stream, start, part)
        except (StreamOver, RoomError, RequestTimedOut, ConnectionClosed):
            self.client._line.raise_if_over()
            complete = False
        if machine.phase is ReceiverPhase.OVER:
            return  # cancelled, or failed: what has come does not matter
        if not complete:
            return await self.say(machine.lost(start, trio.current_time()))
        if part.sha256 != machine.offer.sha256:
            return await self.say(machine.fail("digest"))
        view.phase = TransferPhase.CHECKING
        self.path = await trio.to_thread.run_sync(part.finish)
        machine.done()

    def _is_as_told(self, stream: Subscription, start: messages.Start) -> bool:
        return stream.mode is RoomMode.RELIABLE and any(
            source.source == start.source and source.account == self.machine.account
            for source in stream.sources
        )

    async def _take_bytes(self, stream: Subscription, start: messages.Start, part: Part) -> bool:
        """Write what comes up to END; say whether it came.

        What has come before the attempt is lost is written all the same.
        """
        sink, blocks = trio.open_memory_channel[bytes](_BLOCKS_AHEAD)
        async with open_plain_nursery() as nursery:
            nursery.start_soon(self._write_blocks, part, blocks)
            async with sink:
                reader = _Reader(stream, start, self.machine.offer.size)
                while not reader.over:
                    block = await self._next_block(reader, start)
                    try:
                        if block:
                            await sink.send(block)
                    except trio.BrokenResourceError:
                        break  # the disk has failed, and says so itself
        if reader.broken:
            await self._accuse(reader.broken)
        return reader.complete

    async def _accuse(self, what: str) -> None:
        """The sender has broken the rules: end it, and say how to our side."""
        words = self.machine.fail("protocol")
        if words:
            self.problem = TransferFailed("protocol", By.RECEIVER, what)
        await self.say(words)

    async def _next_block(self, reader: _Reader, start: messages.Start) -> bytes:
        pieces: list[bytes] = []
        size = 0
        if self.machine.start is start:
            with trio.CancelScope() as self._nap:
                with trio.move_on_after(rules.SILENCE_S) as patience:
                    piece = await reader.take()
                    pieces.append(piece)
                    size += len(piece)
                if patience.cancelled_caught:
                    reader.over = True
        while size < _WRITE_BYTES and not reader.over:
            piece_or_none = reader.take_nowait()
            if piece_or_none is None:
                # Taken off an attempt that is over: what is there is all there is.
                reader.over = self.machine.start is not start
                break
            pieces.append(piece_or_none)
            size += len(piece_or_none)
        return b"".join(pieces)

    async def _write_blocks(self, part: Part, blocks: trio.MemoryReceiveChannel[bytes]) -> None:
        async with blocks:
            async for block in blocks:
                await trio.to_thread.run_sync(part.write, block)
                self.view.position = part.offset
                self.view.moved_bytes += len(block)

    # -- the rest -----------------------------------------------------------------

    def _show(self) -> None:
        view, machine = self.view, self.machine
        view.phase = _PHASES.get(machine.phase, TransferPhase.AWAY)
        view.peer_is_stopping = machine.peer_is_stopping

    def _put_part_away(self) -> None:
        part, outcome = self._part, self.machine.outcome
        if part is None or self.path is not None:
            return
        # Declined is what another device has taken. A sender that has cancelled may send it
        # again, and then it goes on here.
        useless = outcome is not None and (
            outcome.ending is Ending.DECLINED
            or (outcome.ending is Ending.CANCELLED and outcome.by is By.RECEIVER)
            or outcome.reason in _USELESS
            or (outcome.ending in (Ending.CANCELLED, Ending.FAILED) and not part.offset)
        )
        if useless:
            self._discarded = True
            part.discard()
        else:
            part.close()


def _unwritable(view: FileTransfer, error: OSError) -> FileUnusable:
    return FileUnusable(f"cannot write {safe_name(view.name)}: {error.strerror}")


@attrs.define(eq=False)
class _Reader:
    """Takes a source's payloads in order, and notices what must not be.

    Attributes:
        over: nothing more is to be taken.
        complete: END came where it should.
        broken: which rule the sender has broken, empty for none.
    """

    _stream: Subscription
    _start: messages.Start
    _size: int
    over: bool = False
    complete: bool = False
    broken: str = ""
    _next_seq: int = 0
    _position: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._position = self._start.offset

    async def take(self) -> bytes:
        """Return the next payload, empty for none; wait for it."""
        try:
            return self._look_at(await anext(self._stream))
        except StopAsyncIteration:
            self.over = True  # the sender has removed the room
            return b""

    def take_nowait(self) -> bytes | None:
        """As `take`; None where it would wait."""
        try:
            return self._look_at(self._stream.receive_nowait())
        except trio.WouldBlock:
            return None

    def _look_at(self, item: Item) -> bytes:
        match item:
            case StreamFrame():
                return self._look_at_frame(item)
            case SourceLeft() if item.source == self._start.source:
                self.over = True
            case Gap() | Reconnecting():
                self.over = True
            case _:
                pass
        return b""

    def _look_at_frame(self, frame: StreamFrame) -> bytes:
        position = self._position + len(frame.payload)
        if frame.source != self._start.source or frame.track or frame.is_init or frame.is_key:
            self.broken = "it sent something else than one file"
        elif position > self._size:
            self.broken = f"it sent more than the {self._size} bytes it offered"
        elif frame.is_end and position < self._size:
            self.broken = f"it ended after {position} of the {self._size} bytes it offered"
        if self.broken:
            self.over = True
            return b""
        if frame.seq != self._next_seq:
            # Not from the beginning: the subscription is not the room's first.
            self.over = True
            return b""
        self._next_seq += 1
        self._position = position
        self.over = self.complete = frame.is_end
        return frame.payload
