"""Nodes together, in one process: what clients of different nodes get of each other."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator

import pytest
import trio

from tests.cluster.etcd_process import EtcdMember
from tests.cluster.nodes import Cloud, RunningNode, cloud, eventually
from tim_trio.cluster.dialing import connect, open_dialed
from tim_trio.cluster.secret import prove
from tim_trio.errors import NoSuchRoom, PermissionDenied
from tim_trio.net.client import Client, RoomClosed, SourceReplaced, SourceRevoked
from tim_trio.net.client.subscription import Subscription
from tim_trio.protocol import messages
from tim_trio.protocol.room_ids import parse_room_id
from tim_trio.protocol.stream import StreamFrame


@pytest.fixture
async def three(etcd: EtcdMember, prefix: str) -> AsyncIterator[Cloud]:
    async with cloud(etcd.url, prefix, "a", "b", "c") as made:
        yield made


async def frames(stream: Subscription, count: int) -> list[StreamFrame]:
    """Return the next frames, events left out."""
    found: list[StreamFrame] = []
    with trio.fail_after(30):
        while len(found) < count:
            item = await anext(aiter(stream))
            if isinstance(item, StreamFrame):
                found.append(item)
    return found


async def test_a_stream_reaches_every_node(three: Cloud) -> None:
    async with contextlib.AsyncExitStack() as stack:
        clients: dict[str, Client] = {}
        for name in three.nodes:
            clients[name] = await stack.enter_async_context(three[name].client(f"on-{name}"))
        room = await clients["a"].register_room()
        source = await stack.enter_async_context(clients["a"].publish(room))
        await source.send(b"init", init=True)
        await source.send(b"key", key=True)
        streams = {}
        for name, client in clients.items():
            streams[name] = await stack.enter_async_context(client.subscribe(room))
        await source.send(b"live")
        for name, stream in streams.items():
            got = await frames(stream, 3)
            assert [each.payload for each in got] == [b"init", b"key", b"live"], name
            assert [each.seq for each in got] == [0, 1, 2]
            assert {each.source for each in got} == {source.number}


async def test_publishers_on_every_node_are_seen_on_every_node(three: Cloud) -> None:
    async with contextlib.AsyncExitStack() as stack:
        clients = {
            name: await stack.enter_async_context(three[name].client(f"on-{name}"))
            for name in three.nodes
        }
        room = await clients["b"].register_room()
        for name in three.nodes:
            await clients["b"].grant(room, f"on-{name}")
        streams = {
            name: await stack.enter_async_context(client.subscribe(room))
            for name, client in clients.items()
        }
        sources = {
            name: await stack.enter_async_context(client.publish(room))
            for name, client in clients.items()
        }
        assert len({source.number for source in sources.values()}) == 3
        for i in range(20):
            for name, source in sources.items():
                await source.send(f"{name}{i}".encode(), key=i % 5 == 0)
        for stream in streams.values():
            got = await frames(stream, 60)
            for name, source in sources.items():
                mine = [each for each in got if each.source == source.number]
                assert [each.payload for each in mine] == [f"{name}{i}".encode() for i in range(20)]
                assert [each.seq for each in mine] == list(range(20))


async def test_rooms_are_run_from_any_node(three: Cloud) -> None:
    async with (
        three["a"].client("alice") as alice,
        three["b"].client("bob") as bob,
        three["c"].client("alice") as other,
    ):
        rooms = [await alice.register_room() for _ in range(6)]
        for room in rooms:
            with pytest.raises(PermissionDenied):
                async with bob.publish(room):
                    pass
            await other.grant(room, "bob")
            async with bob.publish(room) as source:
                await source.send(b"x")
                info = await other.room_info(room)
                assert info.creator == "alice" and info.granted == ["bob"]
                await other.revoke(room, "bob")
                with trio.fail_after(30), pytest.raises(SourceRevoked):  # noqa: PT012
                    while True:
                        await source.send(b"x")
                        await trio.sleep(0.01)
        assert [entry.room for entry in await other.list_rooms()] == sorted(
            entry.room for entry in await alice.list_rooms()
        )
        assert await bob.list_rooms() == []


async def test_a_room_ends_everywhere(three: Cloud) -> None:
    async with three["a"].client("alice") as alice, three["b"].client("bob") as bob:
        room = await alice.register_room()
        async with bob.subscribe(room) as stream:
            with pytest.raises(RoomClosed):  # noqa: PT012
                async with alice.publish(room) as source:
                    await source.send(b"last words")
                    await alice.remove_room(room)
            assert [each.payload for each in await frames(stream, 1)] == [b"last words"]
            with trio.fail_after(30):
                async for _ in stream:
                    pass
            assert stream.closed is not None
            assert stream.closed.reason == messages.RoomClosedReason.REMOVED
        with pytest.raises(NoSuchRoom):
            await bob.room_info(room)
        await eventually(
            lambda: not any(node.server.manager.rooms for node in three.nodes.values()),
            "the room is gone from all nodes",
        )


async def test_a_publisher_moves_to_another_node(three: Cloud) -> None:
    token = bytes(range(16))
    async with (
        three["a"].client("alice") as here,
        three["b"].client("alice") as there,
        three["c"].client("carl") as carl,
    ):
        room = await here.register_room()
        async with carl.subscribe(room) as stream:
            with trio.fail_after(30), pytest.raises(SourceReplaced):  # noqa: PT012
                async with here.publish(room, token=token) as first:
                    for i in range(3):
                        await first.send(bytes([i]), key=True)
                    assert len(await frames(stream, 3)) == 3
                    async with there.publish(room, token=token) as second:
                        assert second.number == first.number
                        assert second.next_seq() == 3
                        await second.send(b"on", key=True)
                        (frame,) = await frames(stream, 1)
                        assert (frame.seq, frame.payload) == (3, b"on")
                        while True:
                            await first.send(b"late")
                            await trio.sleep(0.01)


async def test_viewers_are_summed_up(three: Cloud) -> None:
    async with contextlib.AsyncExitStack() as stack:
        alice = await stack.enter_async_context(three["a"].client("alice"))
        room = await alice.register_room()
        source = await stack.enter_async_context(alice.publish(room))
        await source.send(b"x")
        for i, node in enumerate(three.nodes.values()):
            for j in range(i + 1):
                viewer = await stack.enter_async_context(node.client(f"viewer-{i}-{j}"))
                await stack.enter_async_context(viewer.subscribe(room))
        with trio.fail_after(20):
            await source.wait_viewers(6)


async def test_a_node_may_not_link_without_the_secret(three: Cloud) -> None:
    proof = prove(b"another secret than the cluster's", "b", "a", time.time_ns() // 1_000_000)
    sock = await connect(f"127.0.0.1:{three['a'].port}", 1)
    connection = open_dialed(
        sock,
        three["b"].server.manager,
        three["b"].server.readiness,
        three["b"].cluster.membership.me,
        proof,
        lambda *_: pytest.fail("linked"),
    )
    with trio.fail_after(30):
        assert await connection.run() is not None


async def test_one_link_per_pair(three: Cloud) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for i, name in enumerate([*three.nodes, *three.nodes]):
            client = await stack.enter_async_context(three[name].client(f"c{i}"))
            for _ in range(3):
                room = await client.register_room()
                source = await stack.enter_async_context(client.publish(room))
                await source.send(b"x")
        await trio.sleep(0.3)
        for node in three.nodes.values():
            links = node.cluster.links.established
            assert set(links) <= set(three.nodes) - {node.name}
            taken = [c for c in node.server.connections if c.session.link is not None]
            dialed = [link for link in links.values() if link.dialed]
            assert len(taken) + len(dialed) == len(links)


async def test_a_new_node_takes_rooms_over_without_a_gap(three: Cloud) -> None:
    async with three["a"].client("alice") as alice, three["b"].client("bob") as bob:
        room = await alice.register_room()
        async with alice.publish(room) as source, bob.subscribe(room) as stream:
            sent = 0

            async def push() -> None:
                nonlocal sent
                while True:
                    await source.send(b"x" * 100, key=sent % 3 == 0)
                    sent += 1
                    await trio.sleep(0.005)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(push)
                before = three.relay_of(room).name
                number = 0
                while three.relay_of(room).name == before:
                    number += 1
                    await three.add(f"n{number}")
                relay = three.relay_of(room)
                await eventually(lambda: _has_bonds(relay, room), "the room has moved")
                await trio.sleep(0.5)
                nursery.cancel_scope.cancel()
            got = []
            with trio.move_on_after(1):
                async for item in stream:
                    got.append(item)
            assert [item.seq for item in got if isinstance(item, StreamFrame)] == list(range(sent))


def _has_bonds(node: RunningNode, room: str) -> bool:
    here = node.cluster.room(parse_room_id(room))
    return here is not None and bool(here.bonds)
