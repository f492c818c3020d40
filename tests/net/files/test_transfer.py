"""Files between two clients of a real server, on loopback and real disks."""

from __future__ import annotations

import errno
import hashlib
import math
import os
import re
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from tests.net.running import Running, eventually, running_server
from tests.net.scripted_server import client_and_server
from tim_trio.errors import NotSupported
from tim_trio.limits import Limits
from tim_trio.net.client import Bounds, Client, connect
from tim_trio.net.client.files import part, rules, sending
from tim_trio.net.client.files.errors import (
    FileCancelled,
    FileDeclined,
    FileUnusable,
    PeerUnreachable,
    TransferFailed,
    TransferTimedOut,
)
from tim_trio.net.client.files.incoming import Ask
from tim_trio.net.client.files.messages import By
from tim_trio.net.client.files.receiving import Arrival, FileReceiver
from tim_trio.net.client.files.sending import FileSent
from tim_trio.net.client.files.transfer import FileTransfer, TransferPhase
from tim_trio.net.client.plain_nursery import open_plain_nursery
from tim_trio.protocol import messages as protocol
from tim_trio.protocol.layout import STREAM_HEADER_BYTES
from tim_trio.protocol.messages import ContactAction, Policy

#: Little is under way at once, so that an attempt can be cut in the middle.
LIMITS = Limits(max_frame_bytes=65_536, max_init_bytes=65_536, backlog_bytes=65_536)
BOUNDS = Bounds(receive_buffer_bytes=65_536)
LARGE = 3 * 1024 * 1024
MIDDLE = 1024 * 1024
DEADLINE_S = 60


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "OFFER_SOON_S", 0.05)
    monkeypatch.setattr(rules, "ATTEMPT_INTERVAL_S", 0.05)


@attrs.define
class Scene:
    """A server, a sender called alice, and a directory for whoever receives."""

    running: Running
    alice: Client
    inbox: Path
    outbox: Path

    @property
    def address(self) -> str:
        return f"tim://127.0.0.1:{self.running.port}"

    def client(self, account: str = "bob") -> AbstractAsyncContextManager[Client]:
        return connect(self.address, account=account, bounds=BOUNDS)

    async def send(self, path: Path, **options: Any) -> FileSent:
        with trio.fail_after(DEADLINE_S):
            return await self.alice.send_file(path, to="bob", **options)

    def file(self, size: int = 100_000, name: str = "a.bin") -> Path:
        path = self.outbox / name
        path.write_bytes(os.urandom(size))
        return path

    def received(self) -> dict[str, bytes]:
        """Return what has arrived, by name."""
        return {
            path.name: path.read_bytes()
            for path in self.inbox.iterdir()
            if not path.name.startswith(".")
        }

    def parts(self) -> list[Path]:
        return [path for path in self.inbox.iterdir() if path.name.startswith(".")]


@asynccontextmanager
async def scene_of(tmp_path: Path, limits: Limits = LIMITS) -> AsyncIterator[Scene]:
    inbox, outbox = tmp_path / "inbox", tmp_path / "outbox"
    inbox.mkdir()
    outbox.mkdir()
    async with running_server(limits) as running:
        address = f"tim://127.0.0.1:{running.port}"
        async with connect(address, account="alice") as alice:
            yield Scene(running, alice, inbox, outbox)


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a large file take a moment, so that there is a middle."""
    write = part.Part.write

    def slowly(self: part.Part, data: bytes) -> None:
        time.sleep(0.01)
        write(self, data)

    monkeypatch.setattr(part.Part, "write", slowly)


async def next_arrival(arrivals: FileReceiver) -> Arrival:
    with trio.fail_after(DEADLINE_S):
        return await anext(arrivals)


async def until_in_the_middle(view: FileTransfer) -> None:
    await eventually(lambda: MIDDLE <= view.position < LARGE, "the middle of the file")


async def no(_: FileTransfer) -> bool:
    return False


async def yes(_: FileTransfer) -> bool:
    return True


def once(ask: Ask) -> Ask:
    """Fail when asked a second time."""
    asked = False

    async def asks(view: FileTransfer) -> bool:
        nonlocal asked
        assert not asked
        asked = True
        return await ask(view)

    return asks


def raises(kind: type[Exception], text: str) -> AbstractContextManager[object]:
    return pytest.raises(kind, match=text)


# What should happen


@pytest.mark.parametrize("size", [0, 1, 131_072, LARGE + 7])
async def test_a_file_arrives(tmp_path: Path, size: int) -> None:
    async with (
        scene_of(tmp_path) as scene,
        scene.client() as bob,
        bob.receive_files(scene.inbox, accept_from={"alice"}) as arrivals,
    ):
        path = scene.file(size)
        seen = FileTransfer()
        sent = await scene.send(path, transfer=seen, media_type="video/mp4")
        arrival = await next_arrival(arrivals)
        assert arrival.path == scene.inbox / "a.bin"
        assert arrival.error is None
        assert scene.received() == {"a.bin": path.read_bytes()}
        assert scene.parts() == []
        assert sent.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert (sent.size, sent.moved_bytes, sent.resumed_at, sent.attempts) == (size, size, 0, 1)
        assert (seen.position, seen.phase) == (size, TransferPhase.OVER)
        view = arrival.transfer
        assert (view.account, view.name, view.size, view.media_type) == (
            "alice",
            "a.bin",
            size,
            "video/mp4",
        )
        assert (view.position, view.moved_bytes, view.phase) == (size, size, TransferPhase.OVER)
        assert arrivals.transfers == []
        # Its room is gone.
        assert await scene.alice.list_rooms() == []


@pytest.mark.parametrize("moment_s, frames", [(math.inf, 8 + 4), (0.0, 8 * 5)])
async def test_frames_are_as_large_as_takes_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment_s: float, frames: int
) -> None:
    """Small ones first, until it is known."""
    monkeypatch.setattr(sending, "_FRAME_S", moment_s)
    async with scene_of(tmp_path, Limits()) as scene, scene.client() as bob:
        path = scene.file(5 * (2**20 - STREAM_HEADER_BYTES))
        async with bob.receive_files(scene.inbox, accept_from=["alice"]) as arrivals:
            sent = await scene.send(path)
            assert (await next_arrival(arrivals)).path == scene.inbox / path.name
        assert sent.moved_bytes == path.stat().st_size
        assert scene.running.node.frames_in == frames + 1  # its END
        assert scene.received() == {path.name: path.read_bytes()}


async def test_a_person_is_asked_once(tmp_path: Path) -> None:
    asked: list[FileTransfer] = []
    answer = trio.Event()

    async def ask(view: FileTransfer) -> bool:
        asked.append(view)
        await answer.wait()
        return True

    async with (
        scene_of(tmp_path) as scene,
        scene.client() as bob,
        bob.receive_files(scene.inbox, accept=ask) as arrivals,
        trio.open_nursery() as nursery,
    ):
        seen = FileTransfer()
        nursery.start_soon(partial(scene.send, scene.file(), transfer=seen))
        await eventually(lambda: len(asked) == 1, "the question")
        await trio.sleep(0.3)  # several repeats of the offer
        assert len(asked) == 1
        assert seen.phase is asked[0].phase is TransferPhase.OFFERED
        assert arrivals.transfers == asked
        answer.set()
        assert (await next_arrival(arrivals)).path == scene.inbox / "a.bin"


async def test_two_files_at_once_and_of_one_name(tmp_path: Path) -> None:
    async with (
        scene_of(tmp_path) as scene,
        scene.client() as bob,
        bob.receive_files(scene.inbox, accept_from={"alice"}) as arrivals,
    ):
        first, second = scene.file(LARGE, "a.bin"), scene.file(200_000, "b.bin")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scene.send, first)
            nursery.start_soon(partial(scene.send, second, name="a.bin"))
        paths = {(await next_arrival(arrivals)).path for _ in range(2)}
        assert paths == {scene.inbox / "a.bin", scene.inbox / "a (1).bin"}
        contents = {first.read_bytes(), second.read_bytes()}
        assert set(scene.received().values()) == contents


async def test_to_another_device_of_ones_own(tmp_path: Path) -> None:
    async with (
        scene_of(tmp_path) as scene,
        scene.client("alice") as tablet,
        tablet.receive_files(scene.inbox, accept_from={"alice"}),
        scene.alice.receive_files(scene.outbox, accept=no),
    ):
        path = scene.file()
        with trio.fail_after(DEADLINE_S):
            await scene.alice.send_file(path, to="alice")
        assert scene.received() == {"a.bin": path.read_bytes()}


async def test_a_receiver_that_comes_later(tmp_path: Path) -> None:
    async with scene_of(tmp_path) as scene, trio.open_nursery() as nursery:
        path = scene.file()
        nursery.start_soon(partial(scene.send, path, may_be_offline=True))
        await trio.sleep(0.1)
        async with (
            scene.client() as bob,
            bob.receive_files(scene.inbox, accept_from={"alice"}) as arrivals,
        ):
            assert (await next_arrival(arrivals)).path is not None
            # Not before the sender knows it.
            await eventually(lambda: not nursery.child_tasks, "the sender's end")


# Who does not want it, or is not there


async def test_nobody_there(tmp_path: Path) -> None:
    async with scene_of(tmp_path) as scene:
        path = scene.file()
        with raises(PeerUnreachable, "bob is not online"):
            await scene.send(path)
        with raises(PeerUnreachable, "no account"):
            await scene.alice.send_file(path, to="no body")
        with raises(TransferTimedOut, "did not answer"):
            await scene.send(path, may_be_offline=True, answer_within_s=0.2)


async def test_there_but_without_a_program_for_files(tmp_path: Path) -> None:
    async with scene_of(tmp_path) as scene, scene.client():
        with raises(TransferTimedOut, "did not answer"):
            await scene.send(scene.file(), answer_within_s=0.2)


async def test_blocked_looks_like_offline(tmp_path: Path) -> None:
    async with (
        scene_of(tmp_path) as scene,
        scene.client() as bob,
        bob.receive_files(scene.inbox, accept=yes),
    ):
        block = protocol.Contact(action=ContactAction.BLOCK, account="alice")
        await bob._request(block, protocol.ContactAnswer)
        with raises(PeerUnreachable, "not online"):
            await scene.send(scene.file())


async def test_contacts_only(tmp_path: Path) -> None:
    async with (
        scene_of(tmp_path) as scene,
        scene.client() as bob,
        bob.receive_files(scene.inbox, accept=yes),
    ):
        policy = protocol.SetPolicy(policy=Policy.CONTACTS)
        await bob._request(policy, protocol.SetPolicyAnswer)
        with raises(PeerUnreachable, "contacts only"):
            await scene.send(scene.file())


@pytest.mark.parametrize(
    "accept, text, own_text",
    [
        (no, "does not want the file", "^declined$"),
        (None, "takes no files from this account", "nobody was asked"),
    ],
)
async def test_declined(tmp_path: Path, accept: Any, text: str, own_text: str) -> None:
    async with (
        scene_of(tmp_path) as scene,
        scene.client() as bob,
        bob.receive_files(scene.inbox, accept=accept, accept_from={"carol"}) as arrivals,
    ):
        with raises(FileDeclined, text):
            await scene.send(scene.file())
        error = (await next_arrival(arrivals)).error
        assert isinstance(error, FileDeclined)
        assert re.search(own_text, str(error))
        assert list(scene.inbox.iterdir()) == []


async def test_no_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tim_trio.net.client.files.receiving.free_bytes", lambda _: 99_999)
    async with (
        scene_of(tmp_path) as scene,
        scene.client() as bob,
        bob.receive_files(scene.inbox, accept=yes),
    ):
        with raises(FileDeclined, "no room"):
            await scene.send(scene.file(100_000))


async def test_a_server_without_account_streams(tmp_path: Path) -> None:
    async with client_and_server() as (client, _):
        with raises(NotSupported, "account streams"):
            await client.send_file(tmp_path / "a", to="bob")
        with raises(NotSupported, "account streams"):
            async with client.receive_files(tmp_path):
                pass


async def test_a_file_that_cannot_be_sent(tmp_path: Path) -> None:
    async with scene_of(tmp_path) as scene:
        with raises(FileUnusable, "No such file"):
            await scene.send(tmp_path / "nothing")
        with raises(FileUnusable, "directory"):
            await scene.send(tmp_path)


# Several devices


async def test_the_first_device_to_accept_has_it(tmp_path: Path) -> None:
    withdrawn = trio.Event()

    async def never(_: FileTransfer) -> bool:
        try:
            await trio.sleep_forever()
        finally:
            withdrawn.set()

    other = tmp_path / "other"
    other.mkdir()
    async with (
        scene_of(tmp_path) as scene,
        scene.client() as phone,
        scene.client() as laptop,
        phone.receive_files(other, accept=never) as unanswered,
        laptop.receive_files(scene.inbox, accept_from={"alice"}) as arrivals,
    ):
        await scene.send(scene.file())
        assert (await next_arrival(arrivals)).path is not None
        error = (await next_arrival(unanswered)).error
        assert isinstance(error, FileDeclined) and "another device" in str(error)
        assert withdrawn.is_set()
        assert list(other.iterdir()) == []


async def test_one_device_that_may_not_does_not_speak_for_the_other(tmp_path: Path) -> None:
    async with (
        scene_of(tmp_path) as scene,
        scene.client() as server_room,
        scene.client() as laptop,
        server_room.receive_files(scene.outbox) as declines,
        laptop.receive_files(scene.inbox, accept=yes),
    ):
        with trio.fail_after(DEADLINE_S):
            await scene.send(scene.file())
        assert (await next_arrival(declines)).error is not None


async def test_both_devices_accept(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    async with (
        scene_of(tmp_path) as scene,
        scene.client() as phone,
        scene.client() as laptop,
        phone.receive_files(other, accept=yes) as here,
        laptop.receive_files(scene.inbox, accept=yes) as there,
    ):
        path = scene.file()
        await scene.send(path)
        both = [await next_arrival(here), await next_arrival(there)]
        assert sum(arrival.path is not None for arrival in both) == 1
        files = [*scene.inbox.iterdir(), *other.iterdir()]
        assert [file.read_bytes() for file in files] == [path.read_bytes()]


# Interrupted, and gone on with


@pytest.mark.usefixtures("slow_disk")
async def test_the_sender_stops_and_another_goes_on(tmp_path: Path) -> None:
    async with (
        scene_of(tmp_path) as scene,
        scene.client() as bob,
        bob.receive_files(scene.inbox, accept=once(yes)) as arrivals,
    ):
        path = scene.file(LARGE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scene.send, path)
            await eventually(lambda: bool(arrivals.transfers), "the offer")
            (view,) = arrivals.transfers
            await until_in_the_middle(view)
            nursery.cancel_scope.cancel()
        await eventually(lambda: view.phase is TransferPhase.AWAY, "it to be interrupted")
        assert view.peer_is_stopping
        (left,) = arrivals.unfinished
        assert (left.account, left.name, left.size) == ("alice", "a.bin", LARGE)
        sent = await scene.send(path)
        assert MIDDLE <= sent.resumed_at < LARGE
        assert sent.moved_bytes == LARGE - sent.resumed_at
        # Of the first one nothing is told: it is the same file.
        assert (await next_arrival(arrivals)).path is not None
        assert scene.received() == {"a.bin": path.read_bytes()}
        assert scene.parts() == []


@pytest.mark.usefixtures("slow_disk")
async def test_the_receiver_stops_and_another_goes_on(tmp_path: Path) -> None:
    async with scene_of(tmp_path) as scene, trio.open_nursery() as nursery:
        path = scene.file(LARGE)
        seen = FileTransfer()
        sent: list[FileSent] = []

        async def send() -> None:
            sent.append(await scene.send(path, transfer=seen, may_be_offline=True))

        nursery.start_soon(send)
        async with (
            scene.client() as bob,
            bob.receive_files(scene.inbox, accept=once(yes)) as arrivals,
        ):
            await eventually(lambda: bool(arrivals.transfers), "the offer")
            await until_in_the_middle(arrivals.transfers[0])
        await eventually(lambda: seen.phase is TransferPhase.AWAY, "it to be interrupted")
        assert seen.peer_is_stopping
        assert len(scene.parts()) == 2
        async with (
            scene.client() as bob,
            bob.receive_files(scene.inbox, accept=no) as arrivals,
        ):
            assert (await next_arrival(arrivals)).path is not None
        await eventually(lambda: bool(sent), "the sender's end")
        assert sent[0].attempts == 2
        # What had been written was not sent again.
        assert sent[0].moved_bytes < LARGE + LARGE - MIDDLE
        assert scene.received() == {"a.bin": path.read_bytes()}
        assert scene.parts() == []


@pytest.mark.parametrize("side", ["sender", "receiver", "both"])
@pytest.mark.usefixtures("slow_disk")
async def test_a_connection_is_cut(tmp_path: Path, side: str) -> None:
    async with (
        scene_of(tmp_path) as scene,
        scene.client() as bob,
        bob.receive_files(scene.inbox, accept=once(yes)) as arrivals,
        trio.open_nursery() as nursery,
    ):
        path = scene.file(LARGE)
        nursery.start_soon(scene.send, path)
        await eventually(lambda: bool(arrivals.transfers), "the offer")
        await until_in_the_middle(arrivals.transfers[0])
        for client, name in ((scene.alice, "sender"), (bob, "receiver")):
            if side in (name, "both"):
                await trio.aclose_forcefully(client._connection.stream)
        assert (await next_arrival(arrivals)).path is not None
        assert scene.received() == {"a.bin": path.read_bytes()}


@pytest.mark.usefixtures("slow_disk")
async def test_the_room_is_taken_away(tmp_path: Path) -> None:
    async with (
        scene_of(tmp_path) as scene,
        scene.client() as bob,
        bob.receive_files(scene.inbox, accept=once(yes)) as arrivals,
        trio.open_nursery() as nursery,
    ):
        path = scene.file(LARGE)
        nursery.start_soon(scene.send, path)
        await eventually(lambda: bool(arrivals.transfers), "the offer")
        await until_in_the_middle(arrivals.transfers[0])
        (room,) = await scene.alice.list_rooms()
        await scene.alice.remove_room(room.room)
        arrival = await next_arrival(arrivals)
        assert arrival.path is not None
        assert arrival.transfer.attempts == 2
        # All that had left the sender and was handed on arrived, once.
        assert arrival.transfer.moved_bytes == LARGE


@pytest.mark.usefixtures("slow_disk")
async def test_the_file_changes_before_it_is_gone_on_with(tmp_path: Path) -> None:
    async with (
        scene_of(tmp_path) as scene,
        scene.client() as bob,
        bob.receive_files(scene.inbox, accept=yes) as arrivals,
    ):
        path = scene.file(LARGE)
        with raises(FileUnusable, "changed"):
            async with open_plain_nursery() as nursery:
                nursery.start_soon(scene.send, path)
                await eventually(lambda: bool(arrivals.transfers), "the offer")
                await until_in_the_middle(arrivals.transfers[0])
                with path.open("r+b") as file:
                    file.write(b"something else")
        arrival = await next_arrival(arrivals)
        assert isinstance(arrival.error, TransferFailed) and arrival.error.reason == "changed"
        assert list(scene.inbox.iterdir()) == []


@pytest.mark.usefixtures("slow_disk")
async def test_a_part_of_another_content_is_received_anew(tmp_path: Path) -> None:
    async with (
        scene_of(tmp_path) as scene,
        scene.client() as bob,
    ):
        path = scene.file(LARGE)
        wrong = bytes(100_000)
        left = part.Part.create(
            scene.inbox,
            part.PartOf(
                account="alice",
                name="a.bin",
                size=LARGE,
                sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
                receiver="0" * 32,
            ),
            "1" * 32,
        )
        left.write(wrong)
        left.close()
        async with bob.receive_files(scene.inbox) as arrivals:
            sent = await scene.send(path)
            assert (sent.resumed_at, sent.moved_bytes) == (0, LARGE)
            assert (await next_arrival(arrivals)).path is not None
        assert scene.received() == {"a.bin": path.read_bytes()}


# Cancelled for good


@pytest.mark.usefixtures("slow_disk")
async def test_the_sender_cancels(tmp_path: Path) -> None:
    async with (
        scene_of(tmp_path) as scene,
        scene.client() as bob,
        bob.receive_files(scene.inbox, accept=yes) as arrivals,
    ):
        path, seen = scene.file(LARGE), FileTransfer()
        with raises(FileCancelled, "^cancelled"):
            async with open_plain_nursery() as nursery:
                nursery.start_soon(partial(scene.send, path, transfer=seen))
                await eventually(lambda: bool(arrivals.transfers), "the offer")
                await until_in_the_middle(arrivals.transfers[0])
                seen.cancel()
        arrival = await next_arrival(arrivals)
        assert isinstance(arrival.error, FileCancelled) and arrival.error.by is By.SENDER
        assert str(arrival.error) == "alice has cancelled"
        assert scene.received() == {}
        # What has come stays: sent after all, it goes on there.
        again = FileTransfer()
        await scene.send(path, transfer=again)
        assert (await next_arrival(arrivals)).path is not None
        assert again.moved_bytes < LARGE
        assert scene.received() == {path.name: path.read_bytes()}


@pytest.mark.usefixtures("slow_disk")
async def test_the_receiver_cancels(tmp_path: Path) -> None:
    async with (
        scene_of(tmp_path) as scene,
        scene.client() as bob,
        bob.receive_files(scene.inbox, accept=yes) as arrivals,
    ):
        with raises(FileCancelled, "bob has cancelled"):
            async with open_plain_nursery() as nursery:
                nursery.start_soon(scene.send, scene.file(LARGE))
                await eventually(lambda: bool(arrivals.transfers), "the offer")
                await until_in_the_middle(arrivals.transfers[0])
                arrivals.transfers[0].cancel()
        assert str((await next_arrival(arrivals)).error) == "cancelled"
        assert list(scene.inbox.iterdir()) == []


async def test_cancelled_before_it_is_offered(tmp_path: Path) -> None:
    async with scene_of(tmp_path) as scene:
        seen = FileTransfer()
        seen.cancel()
        with raises(FileCancelled, "^cancelled"):
            await scene.send(scene.file(), transfer=seen)


@pytest.mark.parametrize("how", ["cancel", "stop"])
async def test_an_offer_is_taken_back(tmp_path: Path, how: str) -> None:
    asked, withdrawn = trio.Event(), trio.Event()

    async def never(_: FileTransfer) -> bool:
        asked.set()
        try:
            await trio.sleep_forever()
        finally:
            withdrawn.set()

    async with (
        scene_of(tmp_path) as scene,
        scene.client() as bob,
        bob.receive_files(scene.inbox, accept=never) as arrivals,
    ):
        seen = FileTransfer()
        try:
            async with open_plain_nursery() as nursery:
                nursery.start_soon(partial(scene.send, scene.file(), transfer=seen))
                await asked.wait()
                if how == "cancel":
                    seen.cancel()
                else:
                    nursery.cancel_scope.cancel()
        except FileCancelled:
            assert how == "cancel"
        with trio.fail_after(DEADLINE_S):
            await withdrawn.wait()
        assert isinstance((await next_arrival(arrivals)).error, FileCancelled)


# Disks


async def test_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow_disk: None
) -> None:
    write = part.Part.write

    def full(self: part.Part, data: bytes) -> None:
        if self.offset > MIDDLE:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, data)

    async with (
        scene_of(tmp_path) as scene,
        scene.client() as bob,
        bob.receive_files(scene.inbox, accept=once(yes)) as arrivals,
    ):
        path = scene.file(LARGE)
        with monkeypatch.context() as patch:
            patch.setattr(part.Part, "write", full)
            with raises(TransferFailed, "disk is full"):
                await scene.send(path)
        arrival = await next_arrival(arrivals)
        assert isinstance(arrival.error, FileUnusable)
        assert "No space left" in str(arrival.error)
        # There is room again.
        sent = await scene.send(path)
        assert sent.resumed_at > MIDDLE
        assert (await next_arrival(arrivals)).path is not None
        assert scene.received() == {"a.bin": path.read_bytes()}


async def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    async with scene_of(tmp_path) as scene, scene.client() as bob:
        with pytest.raises(FileNotFoundError):
            async with bob.receive_files(tmp_path / "nowhere"):
                pass
        async with bob.receive_files(scene.inbox, accept=yes) as arrivals:
            scene.inbox.rename(tmp_path / "elsewhere")
            with raises(FileDeclined, "does not take"):
                await scene.send(scene.file())
            assert isinstance((await next_arrival(arrivals)).error, FileUnusable)


async def test_a_part_that_another_process_has(tmp_path: Path) -> None:
    async with scene_of(tmp_path) as scene, scene.client() as bob:
        path = scene.file()
        held = part.Part.create(
            scene.inbox,
            part.PartOf(
                account="alice",
                name="a.bin",
                size=100_000,
                sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
                receiver="0" * 32,
            ),
            "1" * 32,
        )
        async with bob.receive_files(scene.inbox):
            with raises(FileDeclined, "too many"):
                await scene.send(path)
        held.close()
