"""Reliable rooms and coming back, with the client library, the real server, and real losses."""

from __future__ import annotations

import random
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import attrs
import pytest
import trio

import tim_trio
from tests.net.running import Running, eventually, running_server
from tim_trio.limits import Limits
from tim_trio.net.client import Bounds, Client, Subscription
from tim_trio.net.listening import open_listeners
from tim_trio.net.server import Server

DEADLINE_S = 60

pytestmark = pytest.mark.slow
QUICK = Bounds(close_timeout_s=0.5)


@attrs.define(eq=False)
class Proxy:
    """Passes bytes on between clients and the server, until it cuts them off."""

    port: int
    target: int
    _nursery: trio.Nursery
    _scopes: set[trio.CancelScope] = attrs.Factory(set)
    refuses: bool = False
    accepted: int = 0

    async def serve(self, client: trio.SocketStream) -> None:
        self.accepted += 1
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                if self.refuses:
                    return
                server = await trio.open_tcp_stream("127.0.0.1", self.target)
                async with trio.open_nursery() as nursery, server:
                    nursery.start_soon(self._copy, server, client)
                    await self._copy(client, server)
            except* (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
                pass
            finally:
                self._scopes.discard(scope)

    async def _copy(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        while data := await source.receive_some(65_536):
            await sink.send_all(data)
        raise trio.BrokenResourceError

    def cut(self) -> None:
        """Cut every connection, whatever is under way."""
        for scope in self._scopes:
            scope.cancel()


@asynccontextmanager
async def proxy(running: Running) -> AsyncIterator[Proxy]:
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port: int = listener.socket.getsockname()[1]
        one = Proxy(port, running.port, nursery)
        nursery.start_soon(trio.serve_listeners, one.serve, [listener])
        yield one
        nursery.cancel_scope.cancel()


def client(port: int, account: str = "alice") -> AbstractAsyncContextManager[Client]:
    return tim_trio.connect(f"tim://127.0.0.1:{port}", account=account, bounds=QUICK)


async def read_all(stream: Subscription, *, pause_s: float = 0.0) -> tuple[bytes, list[object]]:
    """Return the payloads up to END, and the notices."""
    data = bytearray()
    notices: list[object] = []
    async for item in stream:
        if isinstance(item, tim_trio.StreamFrame):
            data += item.payload
            if item.is_end:
                break
            if pause_s:
                await trio.sleep(pause_s)
        else:
            notices.append(item)
    return bytes(data), notices


async def push_all(source: tim_trio.Source, data: bytes, frame_bytes: int) -> None:
    for start in range(0, len(data), frame_bytes):
        await source.send(data[start : start + frame_bytes])
    await source.send(b"", end=True)


def gaps(notices: list[object]) -> list[tim_trio.Gap]:
    return [one for one in notices if isinstance(one, tim_trio.Gap)]


@pytest.mark.parametrize("frame_bytes", [2_000, 1_048_576 - 36])
async def test_the_slow_reader_of_a_reliable_room_gets_all(frame_bytes: int) -> None:
    data = random.Random(2).randbytes(6_000_000)
    async with (
        running_server() as running,
        client(running.port) as alice,
        client(running.port, "bob") as bob,
        client(running.port, "carol") as carol,
    ):
        room = await alice.register_room(mode="reliable")
        results: dict[str, bytes] = {}

        async def watch(name: str, stream: Subscription, pause_s: float) -> None:
            results[name], notices = await read_all(stream, pause_s=pause_s)
            assert not gaps(notices)

        with trio.fail_after(DEADLINE_S):
            async with (
                bob.subscribe(room) as slow,
                carol.subscribe(room) as fast,
                alice.publish(room) as source,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(watch, "slow", slow, 0.3 * frame_bytes / 1_048_576)
                nursery.start_soon(watch, "fast", fast, 0.0)
                await push_all(source, data, frame_bytes)
        assert results == {"slow": data, "fast": data}


async def test_what_was_held_for_the_first_subscriber_costs_no_credit() -> None:
    data = random.Random(3).randbytes(6_000_000)
    async with (
        running_server() as running,
        client(running.port) as alice,
        client(running.port, "bob") as bob,
    ):
        room = await alice.register_room(mode="reliable")
        async with alice.publish(room) as source, trio.open_nursery() as nursery:
            nursery.start_soon(push_all, source, data, 50_000)
            await trio.sleep(0.1)  # as much as may be held
            with trio.fail_after(DEADLINE_S):
                async with bob.subscribe(room) as stream:
                    assert (await read_all(stream))[0] == data


async def test_who_joins_behind_too_large_a_group_begins_at_a_key_and_credit_goes_on() -> None:
    """Several windows pass before its KEY, and several after it."""
    limits = Limits(
        max_frame_bytes=8192,
        max_init_bytes=4096,
        backlog_bytes=16_384,
        room_cache_bytes=32_768,
        node_cache_bytes=65_536,
    )
    async with (
        running_server(limits) as running,
        client(running.port) as alice,
        client(running.port, "bob") as bob,
        tim_trio.connect(
            f"tim://127.0.0.1:{running.port}",
            account="carol",
            bounds=attrs.evolve(QUICK, receive_buffer_bytes=24_576),
        ) as carol,
    ):
        room = await alice.register_room(mode="reliable")
        async with bob.subscribe(room) as early, alice.publish(room) as source:
            joined, late_has_all = trio.Event(), trio.Event()
            late_seqs: list[int] = []

            async def push() -> None:
                await source.send(b"init", init=True)
                await source.send(bytes(6000), key=True)
                for _ in range(10):
                    await source.send(bytes(6000))
                await joined.wait()
                for number in range(40):
                    is_init = number == 5
                    await source.send(bytes(60 if is_init else 6000), init=is_init)
                for number in range(60):
                    await source.send(bytes(6000), key=number == 0)
                await source.send(b"", end=True)

            async def watch_late() -> None:
                node = running.node
                await eventually(
                    lambda: node.frames_in == 12 and not node.cache_bytes,
                    "the group is to outgrow the cache",
                )
                async with carol.subscribe(room) as late:
                    joined.set()
                    async for item in late:
                        assert isinstance(item, tim_trio.StreamFrame), item
                        late_seqs.append(item.seq)
                        if item.is_end:
                            break
                late_has_all.set()

            with trio.fail_after(DEADLINE_S):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(push)
                    nursery.start_soon(watch_late)
                    data, notices = await read_all(early)
                    await late_has_all.wait()
            assert len(data) == 4 + 110 * 6000 + 60
            assert not gaps(notices)
            # INIT, the one that came while it waited, and all from the KEY on.
            assert late_seqs == [0, 17, *range(52, 113)]


async def test_two_who_publish_to_each_other_do_not_wait_for_ever() -> None:
    """Each sends and reads over one connection, each in a room of its own."""
    data = random.Random(4).randbytes(8_000_000)
    async with (
        running_server() as running,
        client(running.port) as alice,
        client(running.port) as again,
    ):
        rooms = [await alice.register_room(mode="reliable") for _ in range(2)]

        async def talk(one: Client, mine: str, other: str) -> None:
            async with one.subscribe(other) as stream, one.publish(mine) as source:
                await source.wait_viewers(1)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(push_all, source, data, 300_000)
                    assert (await read_all(stream, pause_s=0.001))[0] == data

        with trio.fail_after(DEADLINE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(talk, alice, rooms[0], rooms[1])
                nursery.start_soon(talk, again, rooms[1], rooms[0])


@asynccontextmanager
async def narrow_client(port: int, account: str) -> AsyncIterator[Client]:
    """A client for whom the kernel holds as little as it can."""
    sock = trio.socket.socket()
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, 4096)
    await sock.connect(("127.0.0.1", port))
    bounds = Bounds(close_timeout_s=0.5, send_buffer_bytes=8192, receive_buffer_bytes=8192)
    async with tim_trio.open_client(trio.SocketStream(sock), account=account, bounds=bounds) as one:
        yield one


@pytest.mark.parametrize("rooms", [1, 2])
async def test_mutual_publishers_with_the_smallest_of_everything(rooms: int) -> None:
    """Nothing fits twice, anywhere on the way: whoever waited to be read before
    reading would wait for ever."""
    limits = Limits(
        max_frame_bytes=8192,
        max_init_bytes=4096,
        backlog_bytes=8192,
        room_cache_bytes=16 * 1024,
        reliable_patience_s=DEADLINE_S,
    )
    data = {name: random.Random(name).randbytes(600_000) for name in ("alice", "bob")}
    async with (
        running_server(limits, send_buffer=4096) as running,
        narrow_client(running.port, "alice") as alice,
        narrow_client(running.port, "bob") as bob,
    ):
        numbers = [await alice.register_room(mode="reliable") for _ in range(rooms)]
        for number in numbers:
            await alice.grant(number, "bob")
        mine = {"alice": numbers[0], "bob": numbers[-1]}
        arrived: dict[str, set[bytes]] = {"alice": set(), "bob": set()}

        async def talk(one: Client, name: str, other: str) -> None:
            async with one.subscribe(mine[other]) as stream, one.publish(mine[name]) as source:
                await source.wait_viewers(2 if rooms == 1 else 1)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(push_all, source, data[name], 8000)
                    arrived[name] = await read_sources(stream, 2 if rooms == 1 else 1)

        with trio.fail_after(DEADLINE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(talk, alice, "alice", "bob")
                nursery.start_soon(talk, bob, "bob", "alice")
        both = set(data.values())
        assert arrived == {
            name: both if rooms == 1 else both - {data[name]} for name in ("alice", "bob")
        }
        assert running.node.gaps == 0


async def read_sources(stream: Subscription, sources: int) -> set[bytes]:
    """Return what so many sources sent, each up to its END."""
    by_source: dict[int, bytearray] = {}
    ended = 0
    async for item in stream:
        assert not isinstance(item, tim_trio.Gap)
        if isinstance(item, tim_trio.StreamFrame):
            data = by_source.setdefault(item.source, bytearray())
            data += item.payload
            ended += item.is_end
        if ended == sources:
            break
    return {bytes(data) for data in by_source.values()}


async def test_a_reliable_publisher_that_is_cut_again_and_again_loses_nothing() -> None:
    data = random.Random(5).randbytes(20_000_000)
    async with (
        running_server() as running,
        proxy(running) as wire,
        client(wire.port) as alice,
        client(running.port, "bob") as bob,
    ):
        room = await alice.register_room(mode="reliable")
        with trio.fail_after(DEADLINE_S):
            async with bob.subscribe(room) as stream:

                async def cut() -> None:
                    for _ in range(4):
                        await trio.sleep(0.15)
                        wire.cut()

                async with alice.publish(room) as source, trio.open_nursery() as nursery:
                    nursery.start_soon(push_all, source, data, 20_000)
                    nursery.start_soon(cut)
                    received, notices = await read_all(stream, pause_s=0.001)
                assert source.result is not None
        assert received == data
        assert not gaps(notices)
        assert wire.accepted > 1


async def test_a_live_subscriber_that_is_cut_accounts_for_every_frame() -> None:
    async with (
        running_server() as running,
        proxy(running) as wire,
        client(running.port) as alice,
        client(wire.port, "bob") as bob,
    ):
        room = await alice.register_room()
        stop = trio.Event()
        sent = 0

        async def push(source: tim_trio.Source) -> None:
            nonlocal sent
            while not stop.is_set():
                await source.send(b"%d" % sent, key=sent % 20 == 0)
                sent += 1
                await trio.sleep(0.002)
            await source.send(b"", end=True)

        async def cut() -> None:
            for _ in range(3):
                # Long enough to notice the last cut; a cut while it dials is none.
                await trio.sleep(0.3)
                await bob.wait_connected()
                await trio.sleep(0.1)
                wire.cut()
            await trio.sleep(0.3)
            await bob.wait_connected()
            await trio.sleep(0.3)
            stop.set()

        numbers: list[int] = []
        notices: list[object] = []
        with trio.fail_after(DEADLINE_S):
            async with (
                alice.publish(room) as source,
                bob.subscribe(room) as stream,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(push, source)
                nursery.start_soon(cut)
                async for item in stream:
                    if isinstance(item, tim_trio.StreamFrame):
                        numbers.append(item.seq)
                        if item.is_end:
                            break
                    else:
                        notices.append(item)
                        if isinstance(item, tim_trio.Gap):
                            numbers += range(item.first_seq, item.last_seq + 1)
        assert numbers == list(range(numbers[0], sent + 1))
        assert sum(isinstance(one, tim_trio.Reconnected) for one in notices) == 3


async def test_a_live_publisher_that_is_cut_is_not_held_up() -> None:
    async with (
        running_server() as running,
        proxy(running) as wire,
        client(wire.port) as alice,
        client(running.port, "bob") as bob,
    ):
        room = await alice.register_room()
        with trio.fail_after(DEADLINE_S):
            async with bob.subscribe(room) as stream:
                async with alice.publish(room) as source:
                    for number in range(300):
                        if number == 100:
                            wire.cut()
                        with trio.fail_after(0.5):
                            await source.send(b"%d" % number)
                        await trio.sleep(0.002)
                    await alice.wait_connected()
                    while source.next_seq() < 400:
                        await source.send(b"x")
                        await trio.sleep(0.002)
                    await source.send(b"", end=True)
                numbers = []
                async for item in stream:
                    if isinstance(item, tim_trio.StreamFrame):
                        numbers.append(item.seq)
                        if item.is_end:
                            break
                    elif isinstance(item, tim_trio.Gap):
                        numbers += range(item.first_seq, item.last_seq + 1)
        assert numbers == list(range(401))


async def test_a_source_that_left_meanwhile() -> None:
    """Live: a new source. Reliable: a typed error."""
    async with (
        running_server(Limits(linger_s=0.05)) as running,
        proxy(running) as wire,
        client(wire.port) as alice,
    ):
        live = await alice.register_room()
        reliable = await alice.register_room(mode="reliable")

        async def lose_it() -> None:
            async with alice.publish(live) as goes_on, alice.publish(reliable) as ends:
                await goes_on.send(b"x")
                await ends.send(b"x")
                await alice.room_info(live)
                number = goes_on.number
                wire.refuses = True
                wire.cut()
                await trio.sleep(1.5)  # the server looks every half second who lingers
                wire.refuses = False
                await eventually(lambda: goes_on.number == number + 1, "a new source")
                assert await goes_on.send(b"y") == 0
                while True:
                    await ends.send(bytes(100_000))

        with trio.fail_after(DEADLINE_S), pytest.raises(tim_trio.SourceLost):
            await lose_it()


async def test_a_server_that_starts_again_has_forgotten_its_rooms() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]

    async def serve(scope: trio.CancelScope, task_status: trio.TaskStatus[None]) -> None:
        server = Server(Limits(), drain_timeout_s=0)
        with scope:
            async with trio.open_nursery() as inner:
                await inner.start(server.serve, open_listeners("127.0.0.1", port))
                task_status.started()

    async with trio.open_nursery() as nursery:
        first, second = trio.CancelScope(), trio.CancelScope()

        async def start(
            scope: trio.CancelScope, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
        ) -> None:
            await serve(scope, task_status)

        await nursery.start(start, first)
        with trio.fail_after(DEADLINE_S):
            async with client(port) as alice:
                room = await alice.register_room()
                async with alice.subscribe(room) as stream:
                    first.cancel()
                    assert isinstance(await anext(stream), tim_trio.Reconnecting)
                    await nursery.start(start, second)
                    with pytest.raises(tim_trio.NoSuchRoom):
                        await anext(stream)
                assert await alice.register_room()
        second.cancel()
