"""Who comes and goes during a soak: rooms, publishers, subscribers, and who means no good.

Everybody is an actor: an async function that lives for a while and then leaves,
in one of the ways in which people leave. What subscribers get is checked.
"""

from __future__ import annotations

import os
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import attrs
import trio

import tim_trio
from tests.net.rawclient import HELLO, to_bytes
from tests.net.wsclient import WsClient
from tests.soak.server import SoakedServer
from tests.soak.stream import Check, make_payload, make_pinned_payload
from tim_trio.errors import Code
from tim_trio.net.client.address import Address
from tim_trio.net.client.client import Mode, Start
from tim_trio.protocol import messages
from tim_trio.protocol.layout import UNLIMITED_CREDIT
from tim_trio.protocol.messages import StartFrom
from tim_trio.protocol.room_ids import parse_room_id

#: How the room or the source of an actor ended under it.
_OVER: Final = (
    tim_trio.NoSuchRoom,
    tim_trio.PermissionDenied,
    tim_trio.StreamOver,
)
#: How a connection may end: cut off by us, or not reading for too long.
_CLOSES: Final = (None, Code.SLOW_CONSUMER)
_MOST_SUBSCRIBERS: Final = 200
_NO_LINGER: Final = struct.pack("ii", 1, 0)


@attrs.define(eq=False)
class Pace:
    """Stretches all pauses so that server and clients together take so much of a core.

    Attributes:
        share: of one core, for both.
    """

    server: SoakedServer
    share: float
    factor: float = 1.0

    async def pause(self, mean_s: float) -> None:
        await trio.sleep(random.expovariate(1 / mean_s) * self.factor)

    async def run(self) -> None:
        """Look every few seconds how busy it has been. Until cancelled."""
        while True:
            began, before = time.monotonic(), self._cpu_s
            await trio.sleep(3)
            used = (self._cpu_s - before) / (time.monotonic() - began)
            self.factor *= min(1.5, max(0.7, used / self.share))
            self.factor = min(30.0, max(0.1, self.factor))

    @property
    def _cpu_s(self) -> float:
        user, system, children_user, children_system, _ = os.times()
        return user + system + children_user + children_system + self.server.cpu_s


@attrs.define(eq=False)
class Wire:
    """The way of one client to the server, which can be cut.

    Attributes:
        receive_buffer: SO_RCVBUF, so that who does not read is noticed soon.
    """

    port: int
    receive_buffer: int | None = None
    _socket: trio.socket.SocketType | None = None

    async def dial(self, where: Address | None = None) -> trio.abc.Stream:
        sock = trio.socket.socket()
        if self.receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer)
        self._socket = sock
        await sock.connect(("127.0.0.1", self.port))
        return trio.SocketStream(sock)

    def cut(self) -> None:
        """Be gone without a word: the server gets a reset."""
        assert self._socket is not None
        if self._socket.fileno() >= 0:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            self._socket.shutdown(socket.SHUT_RD)


@attrs.define(eq=False)
class Room:
    id: str
    mode: Mode
    creator: tim_trio.Client


@attrs.define(eq=False)
class Churn:
    """Attributes:
    counts: what has happened how often.
    """

    server: SoakedServer
    pace: Pace
    rooms: list[Room] = attrs.Factory(list)
    counts: Counter[str] = attrs.Factory(Counter)
    _subscribers: int = 0
    _names: int = 0

    async def run(self, seconds: float) -> None:
        """Let everybody come and go for so long. All have left when it returns."""
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.pace.run)
                for actor, mean_s in (
                    (self._room, 0.5),
                    (self._subscriber, 0.05),
                    (self._stranger, 2.0),
                ):
                    nursery.start_soon(self._send_in, nursery, actor, mean_s)
        self.rooms.clear()

    async def _send_in(
        self, nursery: trio.Nursery, actor: Callable[[], Awaitable[None]], mean_s: float
    ) -> None:
        while True:
            await self.pace.pause(mean_s)
            nursery.start_soon(self._act, actor)

    async def _act(self, actor: Callable[[], Awaitable[None]]) -> None:
        """Run an actor, whose room may end under it, and whose connection too."""
        try:
            await actor()
        except* _OVER as over:
            for ended in over.exceptions:
                self.counts[f"ended by {type(ended).__name__}"] += 1
        except* tim_trio.ConnectionClosed as lost:
            for closed in lost.exceptions:
                assert isinstance(closed, tim_trio.ConnectionClosed)
                if closed.code not in _CLOSES:
                    raise
                self.counts["closed" if closed.code else "cut"] += 1

    @asynccontextmanager
    async def _client(
        self,
        account: str,
        *,
        reconnect: bool = False,
        receive_buffer: int | None = None,
        bounds: tim_trio.Bounds | None = None,
    ) -> AsyncIterator[tuple[tim_trio.Client, Wire]]:
        wire = Wire(self.server.port, receive_buffer)
        stream = await wire.dial()
        self.counts["connections"] += 1
        async with tim_trio.open_client(
            stream, account=account, dial=wire.dial if reconnect else None, bounds=bounds
        ) as client:
            yield client, wire

    def _name(self, kind: str) -> str:
        self._names += 1
        return f"{kind}-{self._names}"

    # Rooms and publishers

    async def _room(self) -> None:
        """Open a room, let some publish in it, and end it or let it run dry."""
        if len(self.rooms) >= 12:
            return
        account, guest = self._name("creator"), self._name("guest")
        mode: Mode = random.choice(("live", "live", "reliable"))
        async with self._client(account, reconnect=True) as (creator, _):
            number = await creator.register_room(
                mode=mode, gather_ms=random.choice((0, 0, 30)), idle_timeout_s=6
            )
            await creator.grant(number, guest)
            room = Room(number, mode, creator)
            self.rooms.append(room)
            self.counts[f"{mode} rooms"] += 1
            try:
                with trio.move_on_after(random.uniform(3, 40)):
                    async with trio.open_nursery() as nursery:
                        for who in (account, guest)[: random.randint(1, 2)]:
                            nursery.start_soon(self._act, lambda who=who: self._publish(room, who))
                        if random.random() < 0.3:
                            nursery.start_soon(self._revoke_later, room, guest)
                if random.random() < 0.6:
                    await creator.remove_room(number)
                    self.counts["rooms removed"] += 1
            finally:
                if room in self.rooms:  # else all were told to leave
                    self.rooms.remove(room)

    async def _revoke_later(self, room: Room, guest: str) -> None:
        await trio.sleep(random.uniform(1, 10))
        try:
            await room.creator.revoke(room.id, guest)
        except tim_trio.NoSuchRoom:
            return  # it has run dry
        self.counts["revokes"] += 1

    async def _publish(self, room: Room, account: str) -> None:
        """Publish until the room ends, as one source or as several one after the other."""
        while True:
            token = random.randbytes(16)
            killed = True
            while killed:
                killed = await self._publish_once(room, account, token)
                # On time, a killed source goes on; too late, it is a new one.
                await trio.sleep(random.uniform(0, 3 if killed else 1))

    async def _publish_once(self, room: Room, account: str, token: bytes) -> bool:
        """Publish over one client; say whether it was killed."""
        end = random.choice(("clean", "cut", "cut", "killed", "killed"))
        async with (
            self._client(account, reconnect=end == "cut") as (client, wire),
            client.publish(room.id, token=token) as source,
        ):
            if source.next_seq():
                self.counts["takeovers"] += 1
            await self._stream(source, token[:8], random.uniform(0.5, 6))
            match end:
                case "clean":
                    for track in (0, 1):
                        if source.next_seq(track) and not source.has_ended(track):
                            await source.send(
                                make_pinned_payload(token[:8], track), track=track, end=True
                            )
                case "cut":
                    for _ in range(random.randint(1, 3)):
                        wire.cut()
                        await self._stream(source, token[:8], random.uniform(0.5, 5))
                        await client.wait_connected()
                    self.counts["resumed"] += source.resumed
                case "killed":
                    wire.cut()
                    self.counts["publishers killed"] += 1
                    # What it sends last may be lost; what it says at its end as well.
                    try:
                        await source.unpublish()
                    except tim_trio.ConnectionClosed:
                        return True
        return False

    async def _stream(self, source: tim_trio.Source, tag: bytes, seconds: float) -> None:
        reliable = source.mode.name == "RELIABLE"
        tracks = random.choice(((0,), (0, 1), (0, 0, 0, 1)))
        group = random.choice((5, 20, 60, 10**9))  # the last: no KEYs
        mean_s = random.choice((0.005, 0.02, 0.1))
        until = trio.current_time() + seconds * min(5.0, self.pace.factor)
        while trio.current_time() < until:
            for track in random.choices(tracks, k=random.randint(1, 8)):
                if source.has_ended(track):
                    return
                seq = source.next_seq(track)
                init = random.random() < 0.01 or not seq
                key = seq % group == 1
                payload = make_pinned_payload(tag, track) if init else make_payload(tag, track, seq)
                if reliable:
                    await source.send(payload, track=track, key=key, init=init)
                else:
                    try:
                        source.send_nowait(payload, track=track, key=key, init=init)
                    except trio.WouldBlock:
                        self.counts["frames not sent"] += 1
            await self.pace.pause(mean_s)

    # Subscribers

    async def _subscriber(self) -> None:
        if not self.rooms or self._subscribers >= _MOST_SUBSCRIBERS:
            return
        self._subscribers += 1
        try:
            kinds = (self._read_on, self._read_slowly, self._stall, self._vanish, self._hop)
            await random.choice((*kinds, self._read_on, self._browse))()
        finally:
            self._subscribers -= 1

    def _start(self) -> Start:
        return random.choice(("group", "group", "live"))

    async def _watch(
        self,
        client: tim_trio.Client,
        room: Room,
        seconds: float,
        stall: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Read a room for a while and check it; ``stall`` is awaited after each item."""
        check = Check(room.mode == "reliable")
        self.counts["subscriptions"] += 1
        try:
            with trio.move_on_after(seconds):
                async with client.subscribe(room.id, start=self._start()) as stream:
                    async for item in stream:
                        check.take(item)
                        if stall is not None:
                            await stall()
        finally:
            self.counts["frames"] += check.frames
            self.counts["gaps"] += check.gaps

    async def _read_on(self) -> None:
        async with self._client(self._name("quick")) as (client, _):
            await self._watch(client, random.choice(self.rooms), random.uniform(0.5, 20))

    async def _read_slowly(self) -> None:
        delay_s = random.choice((0.002, 0.02, 0.1))

        async def delay() -> None:
            await trio.sleep(random.uniform(0, delay_s))

        async with self._slow_client("slow") as (client, _):
            await self._watch(client, random.choice(self.rooms), random.uniform(2, 20), delay)

    async def _stall(self) -> None:
        """Stop reading now and then, sometimes for so long that it is closed."""

        async def stall() -> None:
            if random.random() < 0.02:
                self.counts["stalls"] += 1
                await trio.sleep(random.choice((0.5, 2.0, 8.0)))

        async with self._slow_client("stalling") as (client, _):
            await self._watch(client, random.choice(self.rooms), random.uniform(2, 20), stall)

    async def _vanish(self) -> None:
        async with self._slow_client("vanishing") as (client, wire):
            with trio.move_on_after(random.uniform(0, 4)):
                await self._watch(client, random.choice(self.rooms), 60)
            wire.cut()
            self.counts["subscribers killed"] += 1

    async def _hop(self) -> None:
        """Look into several rooms over one connection, some at the same time."""
        async with self._client(self._name("hopper")) as (client, _):
            for _ in range(random.randint(1, 5)):
                rooms = random.sample(self.rooms, min(len(self.rooms), random.randint(1, 3)))
                async with trio.open_nursery() as nursery:
                    for room in rooms:
                        nursery.start_soon(
                            self._act,
                            lambda room=room: self._watch(client, room, random.uniform(0.2, 3)),
                        )

    async def _browse(self) -> None:
        """Watch over WebSocket, as a browser does that closes its page at last."""
        room = random.choice(self.rooms)
        check = Check(room.mode == "reliable")
        browser = await WsClient.connect(self.server.web_port)
        self.counts["browsers"] += 1
        try:
            await browser.open()
            await browser.greet(self._name("browser"))
            ask = messages.Subscribe(
                room=parse_room_id(room.id), start=StartFrom.GROUP, credit=UNLIMITED_CREDIT
            )
            if not isinstance(await browser.ask(ask), messages.SubscribeAnswer):
                return  # the room is gone
            with trio.move_on_after(random.uniform(0.5, 10)):
                while not isinstance(item := await browser.next(), messages.RoomClosed):
                    if isinstance(item, messages.Ping):
                        await browser.send(messages.Pong(stamp=item.stamp))
                    else:
                        check.take(item)
        finally:
            self.counts["frames"] += check.frames
            self.counts["gaps"] += check.gaps
            if random.random() < 0.5:
                browser.reset()
            browser.close()

    @asynccontextmanager
    async def _slow_client(self, kind: str) -> AsyncIterator[tuple[tim_trio.Client, Wire]]:
        """A client for whom little is kept on the way, so that the server feels it."""
        async with self._client(
            self._name(kind),
            receive_buffer=8192,
            bounds=tim_trio.Bounds(receive_buffer_bytes=16 * 1024),
        ) as pair:
            yield pair

    # Strangers

    async def _stranger(self) -> None:
        """Connect and say nothing, half of something, or nonsense; then wait for the end."""
        words = random.choice(
            (
                b"",
                to_bytes(HELLO)[: random.randint(1, 20)],
                b"GET / HTTP/1.1\r\n\r\n",
                random.randbytes(5000),
            )
        )
        port = random.choice((self.server.port, self.server.web_port))
        stream = await Wire(port).dial()
        self.counts["strangers"] += 1
        async with stream:
            try:
                await stream.send_all(words)
                while await stream.receive_some():
                    pass
            except trio.BrokenResourceError:
                pass
