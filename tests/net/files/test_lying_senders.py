"""Senders that promise one thing and do another: no file, and a word that says why."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from tests.net.files.test_transfer import DEADLINE_S, Scene, next_arrival, scene_of
from tests.net.running import eventually
from tim_trio.net.client import Client
from tim_trio.net.client.account_streams import AccountStreams
from tim_trio.net.client.files import messages, rules
from tim_trio.net.client.files.errors import TransferFailed
from tim_trio.net.client.files.messages import By, Message
from tim_trio.net.client.files.receiving import FileReceiver
from tim_trio.net.client.source import Source

DATA = bytes(range(256)) * 400
SIZE = len(DATA)
TRANSFER = "ab" * 16


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "START_WITHIN_S", 0.2)


@attrs.define
class Liar:
    """A sender that says what a test wants, by the client's ordinary requests."""

    scene: Scene
    _words: AccountStreams

    @property
    def client(self) -> Client:
        return self.scene.alice

    @property
    def inbox(self) -> Path:
        return self.scene.inbox

    async def say(self, message: Message) -> None:
        await self.client.send_to("bob", messages.encode(message), kind=messages.KIND)

    async def offer(self, **fields: Any) -> None:
        members: dict[str, Any] = {
            "transfer": TRANSFER,
            "name": "film.mp4",
            "size": SIZE,
            "sha256": hashlib.sha256(DATA).hexdigest(),
        }
        await self.say(messages.Offer(**(members | fields)))

    async def heard(self, *kinds: type[Any]) -> Any:
        """Wait for a message of these kinds; what else comes is passed over."""
        with trio.fail_after(DEADLINE_S):
            async for event in self._words:
                message = messages.decode(event.payload)
                if isinstance(message, kinds):
                    return message
        raise AssertionError("the connection is over")

    async def start(self, accept: messages.Accept, room: str, source: int, offset: int) -> None:
        await self.say(
            messages.Start(
                transfer=accept.transfer,
                receiver=accept.receiver,
                attempt=accept.attempt,
                room=room,
                source=source,
                offset=offset,
            )
        )

    @asynccontextmanager
    async def attempt(self) -> AsyncIterator[Source]:
        """Wait for an accept, begin as an honest sender does, and take the room away."""
        accept = await self.heard(messages.Accept)
        room = await self.client.register_room(mode="reliable")
        with trio.CancelScope() as scope:
            async with self.client.publish(room) as source:
                await self.start(accept, room, source.number, accept.offset)
                yield source
                scope.cancel()
        await self.client.remove_room(room)

    async def send(self, data: bytes) -> Message:
        """Send all of it and END; return the receiver's word."""
        async with self.attempt() as source:
            for at in range(0, len(data), 30_000):
                await source.send(data[at : at + 30_000])
            await source.send(b"", end=True)
            return await self.said()

    async def said(self) -> Message:
        """Wait for what the receiver has to say to what it got."""
        word: Message = await self.heard(messages.Failed, messages.Done)
        return word

    def received(self) -> list[str]:
        """Return what has got a name; that all is in the inbox is checked as well."""
        around = self.inbox.parent
        assert {path.name for path in around.iterdir()} == {"inbox", "outbox"}
        return sorted(self.scene.received())


@asynccontextmanager
async def liar_and_receiver(tmp_path: Path) -> AsyncIterator[tuple[Liar, FileReceiver]]:
    async with (
        scene_of(tmp_path) as scene,
        scene.client() as bob,
        bob.receive_files(scene.inbox, accept_from={"alice"}) as arrivals,
    ):
        yield Liar(scene, scene.alice.account_streams((messages.KIND,))), arrivals


async def assert_failed(
    liar: Liar, arrivals: FileReceiver, word: Message, reason: str, text: str
) -> None:
    """Both sides know why, and there is no file."""
    assert isinstance(word, messages.Failed) and word.reason == reason
    arrival = await next_arrival(arrivals)
    assert arrival.path is None
    assert isinstance(arrival.error, TransferFailed)
    assert arrival.error.reason == reason
    assert text in str(arrival.error)
    assert liar.received() == []


@pytest.mark.parametrize(
    "size, data, text",
    [
        (SIZE - 1, DATA, f"it sent more than the {SIZE - 1} bytes it offered"),
        (0, DATA, "it sent more than the 0 bytes it offered"),
        (SIZE, DATA + b"!", f"it sent more than the {SIZE} bytes it offered"),
        (SIZE + 1, DATA, f"it ended after {SIZE} of the {SIZE + 1} bytes it offered"),
        (2**40, DATA, f"it ended after {SIZE} of the {2**40} bytes it offered"),
        (SIZE, b"", f"it ended after 0 of the {SIZE} bytes it offered"),
    ],
    ids=["too small", "nothing", "one byte more", "too large", "far too large", "nothing comes"],
)
async def test_another_size_than_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, data: bytes, text: str
) -> None:
    monkeypatch.setattr("tim_trio.net.client.files.receiving.free_bytes", lambda _: 2**50)
    async with liar_and_receiver(tmp_path) as (liar, arrivals):
        await liar.offer(size=size)
        word = await liar.send(data)
        await assert_failed(liar, arrivals, word, "protocol", text)


@pytest.mark.parametrize("data", [DATA[:-1] + b"!", bytes(SIZE)])
async def test_another_content_than_offered(tmp_path: Path, data: bytes) -> None:
    async with liar_and_receiver(tmp_path) as (liar, arrivals):
        await liar.offer()
        word = await liar.send(data)
        await assert_failed(liar, arrivals, word, "digest", "another SHA-256")
        # Nothing of it is of use, so nothing is kept.
        assert liar.scene.parts() == []


@pytest.mark.parametrize("flags", [{"key": True}, {"init": True}, {"track": 1}])
async def test_something_else_than_a_file(tmp_path: Path, flags: dict[str, Any]) -> None:
    async with liar_and_receiver(tmp_path) as (liar, arrivals):
        await liar.offer()
        async with liar.attempt() as source:
            await source.send(DATA[:100], **flags)
            word = await liar.said()
        await assert_failed(liar, arrivals, word, "protocol", "something else than one file")


async def test_a_room_that_drops(tmp_path: Path) -> None:
    async with liar_and_receiver(tmp_path) as (liar, arrivals):
        await liar.offer()
        accept = await liar.heard(messages.Accept)
        room = await liar.client.register_room()
        async with liar.client.publish(room) as source:
            await liar.start(accept, room, source.number, 0)
            word = await liar.said()
            await assert_failed(liar, arrivals, word, "protocol", "its room is not what it said")


async def begin(liar: Liar, arrivals: FileReceiver) -> None:
    """Send half of the file and lose the attempt."""
    await liar.offer()
    async with liar.attempt() as source:
        await source.send(DATA[: SIZE // 2])
        (view,) = arrivals.transfers
        await eventually(lambda: view.position == SIZE // 2, "half of the file")
    await liar.heard(messages.Pause)


@pytest.mark.parametrize("offset", [1, SIZE // 2 + 1, SIZE, 2**50])
async def test_going_on_elsewhere_than_where_the_receiver_is(tmp_path: Path, offset: int) -> None:
    async with liar_and_receiver(tmp_path) as (liar, arrivals):
        await begin(liar, arrivals)
        await liar.offer()
        accept = await liar.heard(messages.Accept)
        assert accept.offset == SIZE // 2
        assert accept.prefix_sha256 == hashlib.sha256(DATA[: SIZE // 2]).hexdigest()
        await liar.start(accept, "NGhMpCbk2wQ", 1, offset)
        await assert_failed(liar, arrivals, await liar.said(), "protocol", "broke the rules")


@pytest.mark.parametrize(
    "fields",
    [
        {"size": SIZE // 2},
        {"sha256": hashlib.sha256(bytes(SIZE)).hexdigest()},
        {"name": "../other.mp4"},
    ],
    ids=lambda fields: "".join(fields),
)
async def test_an_offer_that_changes_on_the_way(tmp_path: Path, fields: dict[str, Any]) -> None:
    async with liar_and_receiver(tmp_path) as (liar, arrivals):
        await begin(liar, arrivals)
        # The first offer counts: it is what the part is kept and checked by.
        await liar.offer(**fields)
        await liar.send(DATA[SIZE // 2 :])
        arrival = await next_arrival(arrivals)
        assert arrival.path == liar.inbox / "film.mp4"
        assert arrival.path.read_bytes() == DATA
        assert liar.received() == ["film.mp4"]


async def test_going_on_with_another_content(tmp_path: Path) -> None:
    async with liar_and_receiver(tmp_path) as (liar, arrivals):
        await begin(liar, arrivals)
        await liar.offer()
        word = await liar.send(bytes(SIZE // 2))
        await assert_failed(liar, arrivals, word, "digest", "another SHA-256")


async def test_another_transfer_does_not_get_at_the_part(tmp_path: Path) -> None:
    """The same name with another size or digest is another file, with a part of its own."""
    async with liar_and_receiver(tmp_path) as (liar, arrivals):
        await begin(liar, arrivals)
        other = bytes(1000)
        await liar.offer(
            transfer="cd" * 16, size=len(other), sha256=hashlib.sha256(other).hexdigest()
        )
        await liar.send(other)
        arrival = await next_arrival(arrivals)
        assert arrival.path is not None and arrival.path.read_bytes() == other
        await liar.offer()
        await liar.send(DATA[SIZE // 2 :])
        arrival = await next_arrival(arrivals)
        assert arrival.path is not None and arrival.path.read_bytes() == DATA
        assert sorted(liar.received()) == ["film (1).mp4", "film.mp4"]


@pytest.mark.parametrize(
    "name, expected",
    [
        ("../../up.txt", "up.txt"),
        ("/etc/passwd", "passwd"),
        ("..\\..\\up.txt", "up.txt"),
        ("a\0b.txt", "ab.txt"),
        ("a\nb\x1b[2J.txt", "ab[2J.txt"),
        ("\u202egpj.exe", "gpj.exe"),
        ("..", "file"),
        (".bashrc", "bashrc"),
        ("..\u2215..\u2215up.txt", "\u2215..\u2215up.txt"),
        ("..\uff0fup.txt", "\uff0fup.txt"),
        ("\u2044etc\u2044passwd", "\u2044etc\u2044passwd"),
        ("n" * 1024, "n" * 240),
    ],
)
async def test_tricks_with_names(tmp_path: Path, name: str, expected: str) -> None:
    async with liar_and_receiver(tmp_path) as (liar, arrivals):
        await liar.offer(name=name)
        await liar.send(DATA)
        arrival = await next_arrival(arrivals)
        assert arrival.path == liar.inbox / expected
        assert liar.received() == [expected]


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "n" * 1025},
        {"name": ""},
        {"size": -1},
        {"size": 2**53},
        {"size": 1.5},
        {"size": "7"},
        {"sha256": "0" * 63},
        {"sha256": "X" * 64},
        {"transfer": "../../" + "a" * 26},
    ],
    ids=lambda fields: "".join(fields),
)
async def test_an_offer_of_another_form_is_no_offer(tmp_path: Path, fields: dict[str, Any]) -> None:
    async with liar_and_receiver(tmp_path) as (liar, arrivals):
        await liar.offer(**fields)
        # What is said next is answered, and it was not.
        await liar.offer(transfer="cd" * 16)
        assert (await liar.heard(messages.Accept)).transfer == "cd" * 16
        assert [view.name for view in arrivals.transfers] == ["film.mp4"]


async def test_a_word_of_a_stranger_ends_nothing(tmp_path: Path) -> None:
    async with (
        liar_and_receiver(tmp_path) as (liar, arrivals),
        liar.scene.client("mallory") as mallory,
    ):
        await begin(liar, arrivals)
        cancel = messages.Cancel(transfer=TRANSFER, by=By.SENDER)
        await mallory.send_to("bob", messages.encode(cancel), kind=messages.KIND)
        await liar.offer()
        await liar.send(DATA[SIZE // 2 :])
        assert (await next_arrival(arrivals)).path is not None
