"""Receiving files into a directory: the state machines (`desk`, `receiver`) on a client.

Source: protocol.md, Annex B; docs/files.md.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs
import trio

from tim_trio.errors import Code, ConnectionClosed, NotSupported, RoomError
from tim_trio.net.client.files import messages
from tim_trio.net.client.files.desk import Desk
from tim_trio.net.client.files.errors import FileTransferError
from tim_trio.net.client.files.incoming import Ask, Incoming
from tim_trio.net.client.files.messages import By, FromReceiver, is_id
from tim_trio.net.client.files.part import Part, PartOf, find_parts, free_bytes, read_part_of
from tim_trio.net.client.files.post import post
from tim_trio.net.client.files.receiver import Receiver
from tim_trio.net.client.files.sender import Ending, Heard
from tim_trio.net.client.files.transfer import FileTransfer, TransferPhase
from tim_trio.net.client.plain_nursery import open_plain_nursery
from tim_trio.protocol.messages import Capability

if TYPE_CHECKING:
    from tim_trio.net.client.client import Client

#: For the last words when we are stopped.
_GOODBYE_S: Final = 2.0
#: The sender may be reconnecting when we are done.
_TELL_DONE_S: Final = 30.0
_TELL_AGAIN_S: Final = 1.0
#: Arrivals that wait for whoever iterates; the oldest go first.
_MAX_ARRIVALS: Final = 1000


@attrs.frozen(kw_only=True)
class Arrival:
    """A transfer that is over.

    Attributes:
        path: the file, or None.
        error: why there is none.
    """

    transfer: FileTransfer
    path: Path | None = None
    error: FileTransferError | None = None


@attrs.define(eq=False)
class _Shelf:
    """The parts in a directory: one task has a part at a time."""

    directory: Path
    known: dict[str, tuple[PartOf, Path]] = attrs.Factory(dict)
    _named: set[str] = attrs.Factory(set)
    _open: set[str] = attrs.Factory(set)
    _returned: trio.lowlevel.ParkingLot = attrs.Factory(trio.lowlevel.ParkingLot)

    def look(self) -> list[tuple[str, messages.Pause]]:
        """Find what was left behind; return what to tell whose senders. Blocks on the disk.

        Raises:
            OSError: the directory cannot be read.
        """
        words = []
        for path in find_parts(self.directory):
            try:
                of = read_part_of(path)
                part = Part.open(path)
                has_gone = part is None and not path.exists()
            except OSError:
                continue  # finished this moment, or not ours to read
            if of is not None and not has_gone:
                self.known[of.receiver] = of, path
            if part is not None:
                if part.named is not None:
                    self._named.add(part.of.receiver)
                if is_id(part.transfer) and is_id(part.of.receiver):
                    pause = messages.Pause(
                        transfer=part.transfer,
                        by=By.RECEIVER,
                        receiver=part.of.receiver,
                        stopping=False,
                    )
                    words.append((part.of.account, pause))
                part.close()
        return words

    @property
    def unfinished(self) -> list[PartOf]:
        return [of for name, (of, _) in self.known.items() if name not in self._named]

    def find(self, account: str, offer: messages.Offer) -> str | None:
        for name, (of, _) in self.known.items():
            if of.fits(account, offer):
                return name
        return None

    async def take(self, receiver: Receiver) -> Part | None:
        name, offer = receiver.receiver, receiver.offer
        while name in self._open:
            await self._returned.park()
        self._open.add(name)
        found = self.known.get(name)
        if found is not None:
            part = await trio.to_thread.run_sync(Part.open, found[1])
            if part is None:
                del self.known[name]
            else:
                part.transfer = receiver.transfer
            return part
        of = PartOf(
            account=receiver.account,
            name=offer.name,
            size=offer.size,
            sha256=offer.sha256,
            receiver=name,
        )
        part = await trio.to_thread.run_sync(Part.create, self.directory, of, receiver.transfer)
        self.known[name] = of, part.path
        return part

    def put_back(self, name: str, *, is_there: bool) -> None:
        """The task that took a part has closed it, or it is gone."""
        self._open.discard(name)
        if not is_there:
            self.known.pop(name, None)
        self._returned.unpark_all()

    async def free_bytes(self) -> int:
        return await trio.to_thread.run_sync(free_bytes, self.directory)


@attrs.define(eq=False, kw_only=True)
class FileReceiver:
    """Takes files that other accounts send. Made by `Client.receive_files`.

    Iterate over it for what has arrived, or has come to nothing.
    """

    _client: Client
    _shelf: _Shelf
    _ask: Ask | None
    _accept_from: Collection[str]
    _nursery: trio.Nursery
    _transfers: list[FileTransfer] = attrs.Factory(list)
    _arrivals: deque[Arrival] = attrs.Factory(lambda: deque(maxlen=_MAX_ARRIVALS))
    _waiting: trio.lowlevel.ParkingLot = attrs.Factory(trio.lowlevel.ParkingLot)
    _is_over: bool = False

    @property
    def transfers(self) -> list[FileTransfer]:
        """What is offered or under way now."""
        return list(self._transfers)

    @property
    def unfinished(self) -> list[PartOf]:
        """What was begun in this directory and can be gone on with."""
        return self._shelf.unfinished

    def __aiter__(self) -> FileReceiver:
        return self

    async def __anext__(self) -> Arrival:
        """Return the next transfer that is over. Cancelled, nothing is lost.

        Raises:
            ConnectionClosed: the connection is over, and there will be no other.
        """
        await trio.lowlevel.checkpoint()
        while not self._arrivals:
            if self._is_over:
                self._client._line.raise_if_over()
                raise StopAsyncIteration
            await self._waiting.park()
        return self._arrivals.popleft()

    # -- the tasks ------------------------------------------------------------

    async def _run(self, patience_s: float, left_behind: list[tuple[str, messages.Pause]]) -> None:
        """Take messages until there is no connection any more."""
        streams = self._client.account_streams((messages.KIND,))
        desk = Desk(
            patience_s=patience_s,
            find_part=self._shelf.find,
            opened=self._open,
            own=self._client._sending,
        )
        try:
            for account, word in left_behind:
                # A sender that has not noticed that we were gone need not wait to.
                await self._post(account, [word])
            async for event in streams:
                message = messages.decode(event.payload)
                if message is not None:
                    words = desk.take(event.account, message, trio.current_time())
                    await self._post(event.account, words)
        except ConnectionClosed:
            self._is_over = True
            self._waiting.unpark_all()

    async def _post(self, account: str, words: Sequence[FromReceiver]) -> bool:
        """Say something to a sender; say whether all of it was heard."""
        heard = True
        for word in words:
            try:
                found = await post(self._client, account, word)
            except RoomError:
                found = None  # what is wrong with it is not the other transfers' fault
            heard = heard and found is not None and found[0] is Heard.DELIVERED
        return heard

    def _open(self, receiver: Receiver) -> None:
        offer = receiver.offer
        view = FileTransfer(
            account=receiver.account,
            name=offer.name,
            size=offer.size,
            sha256=offer.sha256,
            media_type=offer.media_type,
            phase=TransferPhase.OFFERED,
        )
        self._transfers.append(view)
        self._nursery.start_soon(self._handle, receiver, view)

    async def _handle(self, receiver: Receiver, view: FileTransfer) -> None:
        """Everything about one transfer, from the question to its last word."""
        incoming = Incoming(
            client=self._client, machine=receiver, view=view, shelf=self._shelf, post=self._post
        )
        ask = _agree if receiver.account in self._accept_from else self._ask
        try:
            await incoming.run(ask)
        except ConnectionClosed:
            return
        finally:
            if receiver.outcome is None:
                await self._say_goodbye(receiver)
            self._shelf.put_back(receiver.receiver, is_there=incoming.part_is_there)
            self._transfers.remove(view)
            view.phase = TransferPhase.OVER
        outcome = receiver.outcome
        if outcome is not None and outcome.reason == "superseded":
            return  # the same file goes on, as another transfer
        done = outcome is not None and outcome.ending is Ending.DONE
        told = done and await self._tell_done(receiver)
        if told:
            await incoming.forget()
        self._report(Arrival(transfer=view, path=incoming.path, error=incoming.error()))
        if done and not told and await self._tell_done_later(receiver):
            await incoming.forget()

    async def _say_goodbye(self, receiver: Receiver) -> None:
        """Say that we stop, as far as there is a connection to say it on."""
        with trio.move_on_after(_GOODBYE_S, shield=True):
            try:
                await self._post(receiver.account, receiver.stop())
            except ConnectionClosed:
                pass

    def _report(self, arrival: Arrival) -> None:
        if arrival.path is not None:
            arrival.transfer.path = str(arrival.path)
        self._arrivals.append(arrival)
        self._waiting.unpark_all()

    async def _tell_done(self, receiver: Receiver) -> bool:
        done = messages.Done(transfer=receiver.transfer, receiver=receiver.receiver)
        return await self._post(receiver.account, [done])

    async def _tell_done_later(self, receiver: Receiver) -> bool:
        """The sender is away: say it until it is back. Its offers are answered anyway."""
        told = False
        try:
            with trio.move_on_after(_TELL_DONE_S):
                while not told:
                    await trio.sleep(_TELL_AGAIN_S)
                    told = await self._tell_done(receiver)
        except ConnectionClosed:
            pass
        return told


async def _agree(_: FileTransfer) -> bool:
    return True


@asynccontextmanager
async def receive_files(
    client: Client,
    directory: Path,
    *,
    ask: Ask | None,
    accept_from: Collection[str],
    patience_s: float,
) -> AsyncIterator[FileReceiver]:
    """See `Client.receive_files`."""
    if not client.server.capabilities & Capability.ACCOUNT_STREAMS:
        raise NotSupported(Code.NOT_SUPPORTED, "account streams")
    shelf = _Shelf(directory)
    left_behind = await trio.to_thread.run_sync(shelf.look)
    async with open_plain_nursery() as nursery:
        receiver = FileReceiver(
            client=client, shelf=shelf, ask=ask, accept_from=accept_from, nursery=nursery
        )
        nursery.start_soon(receiver._run, patience_s, left_behind)
        try:
            yield receiver
        finally:
            nursery.cancel_scope.cancel()
