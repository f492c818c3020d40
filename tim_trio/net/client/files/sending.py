"""Sending a file: the state machine (`sender`) on a client.

Source: protocol.md, Annex B; docs/files.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs
import trio

from tim_trio.errors import Code, ConnectionClosed, NotSupported, RoomError, TimError
from tim_trio.net.client.errors import RequestTimedOut, StreamOver
from tim_trio.net.client.files import messages, rules
from tim_trio.net.client.files.errors import FileCancelled, FileUnusable, error_of
from tim_trio.net.client.files.messages import By, FromSender
from tim_trio.net.client.files.outgoing import OutgoingFile
from tim_trio.net.client.files.post import post
from tim_trio.net.client.files.sender import Ending, Sender, SenderPhase
from tim_trio.net.client.files.threads import Stopped, run_stoppable
from tim_trio.net.client.files.transfer import FileTransfer, TransferPhase
from tim_trio.net.client.plain_nursery import open_plain_nursery
from tim_trio.protocol.layout import STREAM_HEADER_BYTES
from tim_trio.protocol.messages import Capability

if TYPE_CHECKING:
    from tim_trio.net.client.client import Client
    from tim_trio.net.client.source import Source

#: The largest frames, which a server lets through unread (docs/architecture.md,
#: "Large frames").
_FRAME_BYTES: Final = 1024 * 1024
#: Where a frame takes longer than this, smaller ones leave room for other words
#: between them: an eighth still takes less than two seconds at 1 Mbit/s.
_FRAME_S: Final = 0.1
_SMALL_FRAME_BYTES: Final = 128 * 1024
#: Blocks read ahead of the network.
_BLOCKS_AHEAD: Final = 2
#: For the last words, and for removing a room, when we are stopped.
_GOODBYE_S: Final = 2.0

_PHASES: Final = {
    SenderPhase.STARTING: TransferPhase.RUNNING,
    SenderPhase.SENDING: TransferPhase.RUNNING,
    SenderPhase.CONFIRMING: TransferPhase.CHECKING,
    SenderPhase.OVER: TransferPhase.OVER,
}


@attrs.frozen(kw_only=True)
class FileSent:
    """A file that has arrived, by the receiver's own word.

    Attributes:
        moved_bytes: sent in all; what is more than ``size`` less what the
            receiver had from before was sent again.
        resumed_at: where the first attempt began.
        attempts: how often it was begun or gone on with.
        elapsed_s: since the receiver accepted.
    """

    size: int
    sha256: str
    moved_bytes: int
    resumed_at: int
    attempts: int
    elapsed_s: float


class _Deserted(Exception):
    """Nobody watches the attempt's room, or not any more."""


async def send_file(
    client: Client,
    path: Path,
    *,
    to: str,
    name: str,
    media_type: str,
    answer_within_s: float,
    resume_within_s: float,
    may_be_offline: bool,
    transfer: FileTransfer,
) -> FileSent:
    """See `Client.send_file`."""
    if not client.server.capabilities & Capability.ACCOUNT_STREAMS:
        raise NotSupported(Code.NOT_SUPPORTED, "account streams")
    file = await trio.to_thread.run_sync(OutgoingFile.open, path)
    try:
        transfer.account, transfer.name, transfer.size = to, name, file.size
        transfer.media_type = media_type
        await _digest(file, transfer)
        sender = _Sending(
            client=client,
            file=file,
            transfer=transfer,
            machine=Sender(
                offer=messages.Offer(
                    transfer=messages.new_id(),
                    name=name,
                    size=file.size,
                    sha256=file.sha256,
                    media_type=media_type,
                ),
                answer_within_s=answer_within_s,
                resume_within_s=resume_within_s,
                may_be_offline=may_be_offline,
                now=trio.current_time(),
            ),
        )
        return await sender.run()
    finally:
        transfer.phase = TransferPhase.OVER
        file.close()


async def _digest(file: OutgoingFile, transfer: FileTransfer) -> None:
    """Read the file once, and show how far that is.

    Raises:
        FileUnusable, FileCancelled.
    """

    def show(position: int) -> None:
        # In the thread: reads and writes one attribute each.
        transfer.position = position
        if transfer.is_cancelled:
            raise Stopped

    try:
        transfer.sha256 = await run_stoppable(file, file.digest, show)
    except Stopped:
        raise FileCancelled(transfer.account, By.SENDER, ours=By.SENDER) from None
    transfer.position = 0


@attrs.define(eq=False, kw_only=True)
class _Sending:
    """One file on its way."""

    client: Client
    file: OutgoingFile
    transfer: FileTransfer
    machine: Sender
    _outbox: list[FromSender] = attrs.Factory(list)
    _problem: TimError | None = None
    _resumed_at: int = 0
    _accepted_at: float = 0.0
    #: Cancelled to make `run` look at what has changed.
    _nap: trio.CancelScope = attrs.Factory(trio.CancelScope)

    @property
    def _account(self) -> str:
        return self.transfer.account

    async def run(self) -> FileSent:
        machine = self.machine
        self.client._sending.add(machine.transfer)
        try:
            async with open_plain_nursery() as nursery:
                nursery.start_soon(self._watch_for_cancel)
                await self._run(nursery)
                nursery.cancel_scope.cancel()
        finally:
            if machine.outcome is None:
                await self._say_goodbye()
            self.client._sending.discard(machine.transfer)
        outcome = machine.outcome
        assert outcome is not None
        if outcome.ending is Ending.DONE:
            return FileSent(
                size=self.file.size,
                sha256=self.file.sha256,
                moved_bytes=self.transfer.moved_bytes,
                resumed_at=self._resumed_at,
                attempts=machine.attempts,
                elapsed_s=trio.current_time() - self._accepted_at,
            )
        if self._problem is not None:
            raise self._problem
        raise error_of(outcome, self._account, ours=By.SENDER)

    async def _say_goodbye(self) -> None:
        """Say that we stop, as far as there is a connection to say it on."""
        with trio.move_on_after(_GOODBYE_S, shield=True):
            try:
                await self._post_all(self.machine.stop())
            except TimError:
                pass

    async def _run(self, nursery: trio.Nursery) -> None:
        machine = self.machine
        incoming = self.client.account_streams((messages.KIND,))
        served: messages.Accept | None = None
        attempt = trio.CancelScope()
        while True:
            now = trio.current_time()
            words = [*self._outbox, *machine.poll(now)]
            self._outbox.clear()
            await self._post_all(words)
            self._show()
            if machine.wanted is not served:
                attempt.cancel()
                served = machine.wanted
                if served is not None:
                    attempt = trio.CancelScope()
                    nursery.start_soon(self._attempt, served, attempt)
            if machine.outcome is not None and not self._outbox:
                return
            if self._outbox:
                continue
            with trio.CancelScope(deadline=machine.next_poll) as self._nap:
                event = await anext(incoming)
                message = messages.decode(event.payload) if event.account == self._account else None
                if message is not None:
                    self._outbox += machine.take(message, trio.current_time())

    async def _post_all(self, words: list[FromSender]) -> None:
        while words:
            word = words.pop(0)
            heard = await post(self.client, self._account, word)
            if isinstance(word, messages.Offer) and heard is not None:
                words += self.machine.heard(*heard)

    async def _watch_for_cancel(self) -> None:
        await self.transfer.wait_cancelled()
        self._outbox += self.machine.cancel()
        self._nap.cancel()

    def _show(self) -> None:
        transfer, machine = self.transfer, self.machine
        offering = TransferPhase.AWAY if machine.attempts else TransferPhase.OFFERED
        transfer.phase = _PHASES.get(machine.phase, offering)
        transfer.attempts = machine.attempts
        transfer.peer_is_stopping = machine.peer_is_stopping

    # -- one attempt ------------------------------------------------------------

    async def _attempt(self, accept: messages.Accept, scope: trio.CancelScope) -> None:
        """Serve one accept, until it is lost or `run` has another."""
        with scope:
            try:
                await self._serve(accept)
            except* FileUnusable as group:
                self._fail(group, "unreadable" if self.file.is_unchanged() else "changed")
            except* (StreamOver, RoomError, ConnectionClosed, RequestTimedOut, _Deserted):
                self._outbox += self.machine.lost(accept, trio.current_time())
            self._nap.cancel()

    def _fail(self, group: BaseExceptionGroup[FileUnusable], reason: str) -> None:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        assert isinstance(first, FileUnusable)
        self._problem = first
        self._outbox += self.machine.fail(reason)

    async def _serve(self, accept: messages.Accept) -> None:
        machine, client = self.machine, self.client
        self._check_unchanged()
        offset = await self._offset_for(accept)
        if not self._accepted_at:
            self._accepted_at, self._resumed_at = trio.current_time(), offset
        try:
            room = await client.register_room(mode="reliable", idle_timeout_s=rules.ROOM_IDLE_S)
        except RoomError as error:
            if error.retryable:
                raise
            self._problem = error
            self._outbox += machine.fail("room")
            return
        try:
            async with client.publish(room) as source, trio.open_nursery() as nursery:
                self._outbox += machine.started(
                    accept, room=room, source=source.number, offset=offset
                )
                self._nap.cancel()
                nursery.start_soon(self._watch_viewers, source)
                await self._send_bytes(source, offset)
                machine.sent(accept, trio.current_time())
                self._nap.cancel()
                await trio.sleep_forever()  # `run` ends it when word comes, or patience does
        finally:
            with trio.move_on_after(_GOODBYE_S, shield=True):
                await self._remove_room(room)

    async def _remove_room(self, room: str) -> None:
        try:
            if self.client.is_connected:
                await self.client.remove_room(room)
        except TimError:
            pass  # gone already; else it ends by itself, being idle

    async def _offset_for(self, accept: messages.Accept) -> int:
        """Return where to begin for a receiver that has so much of such a digest."""
        if accept.offset > self.file.size:
            return 0
        digest = await run_stoppable(self.file, self.file.prefix_digest, accept.offset)
        return accept.offset if digest == accept.prefix_sha256 else 0

    async def _watch_viewers(self, source: Source) -> None:
        """Raise _Deserted when nobody comes, or nobody is left."""
        viewers = 0
        with trio.move_on_after(rules.SUBSCRIBER_WITHIN_S):
            viewers = await source.wait_viewers(1)
        while viewers:
            viewers = await source.next_viewers(viewers)
        raise _Deserted

    async def _send_bytes(self, source: Source, offset: int) -> None:
        transfer = self.transfer
        transfer.position = offset
        most = min(_FRAME_BYTES, self.client.server.max_frame_bytes) - STREAM_HEADER_BYTES
        piece_bytes = min(_SMALL_FRAME_BYTES, most)
        began = trio.current_time()
        sink, blocks = trio.open_memory_channel[bytes](_BLOCKS_AHEAD)
        async with trio.open_nursery() as nursery, blocks:
            nursery.start_soon(self._read_blocks, offset, most, sink)
            async for block in blocks:
                view = memoryview(block)
                while view:
                    piece = view[:piece_bytes]
                    await source.send(piece, timestamp_us=0)
                    transfer.position += len(piece)
                    transfer.moved_bytes += len(piece)
                    view = view[piece_bytes:]
                ended = trio.current_time()
                is_fast = ended - began < _FRAME_S
                piece_bytes = most if is_fast else min(_SMALL_FRAME_BYTES, most)
                began = ended
        # Else the receiver could only say that the digest is wrong.
        self._check_unchanged()
        await source.send(b"", end=True, timestamp_us=0)

    def _check_unchanged(self) -> None:
        if not self.file.is_unchanged():
            raise FileUnusable(f"{self.file.path} has changed since it was offered")

    async def _read_blocks(
        self, offset: int, size: int, sink: trio.MemorySendChannel[bytes]
    ) -> None:
        async with sink:
            while offset < self.file.size:
                block = await trio.to_thread.run_sync(self.file.read, offset, size)
                offset += len(block)
                try:
                    await sink.send(block)
                except trio.BrokenResourceError:
                    return  # the network has failed, and says so itself
