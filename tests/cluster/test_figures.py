"""What operators see of other nodes, on real sockets and a real etcd."""

from __future__ import annotations

import contextlib

import pytest
import trio

from tests.cluster.etcd_process import EtcdMember
from tests.cluster.nodes import cloud, eventually
from tim_trio.cluster.links import Links
from tim_trio.errors import Code, NoSuchRoom, PermissionDenied, RoomError
from tim_trio.limits import KIB, Limits
from tim_trio.net.client import Client
from tim_trio.protocol.messages import (
    UNKNOWN_SOURCES,
    UNKNOWN_VIEWERS,
    NodeState,
    Right,
    SubscriberState,
)
from tim_trio.protocol.room_ids import FIRST_ROOM_ID, format_room_id, parse_room_id


async def test_figures_of_every_node(
    etcd: EtcdMember, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cloud(etcd.url, prefix, "a", "b", "c") as nodes:
        ranked: list[str] = []
        async with nodes["a"].client("alice") as alice:
            room = await alice.register_room()
            ranked = [node.name for node in nodes.ranked(room)]
            relay, third = ranked[0], ranked[2]
            async with (
                nodes[third].client("bob") as bob,
                nodes[relay].client("carol") as carol,
                alice.publish(room) as source,
                bob.subscribe(room) as stream,
            ):
                await source.send(b"x" * 64, key=True)
                with trio.fail_after(30):
                    await anext(stream)

                # From any node, of any node.
                for name in ranked:
                    view = await carol.figures.node(name)
                    assert view.node == name
                    assert view.figures["failovers"] >= 0
                    assert [entry.node for entry in view.nodes] == ["a", "b", "c"]
                    assert view.nodes[0].address == f"127.0.0.1:{nodes['a'].port}"
                    linked = {entry.node for entry in view.nodes if entry.state & NodeState.LINKED}
                    assert linked == set(nodes[name].cluster.links.established)
                    if name == third:
                        assert relay in linked

                    # The second keeps it warm, or is about to.
                    rooms = (await carol.figures.rooms(name)).rooms
                    assert len(rooms) == 1 or name not in (relay, third)
                    assert all(load.room == parse_room_id(room) for load in rooms)
                    assert all(load.nodes == ranked for load in rooms)

                # A room's tree can be walked: the relay has links, and they lead on.
                top = await carol.figures.subscribers(room)
                assert top.node == relay
                links = {each.account for each in top.subscribers}
                assert all(each.state & SubscriberState.NODE for each in top.subscribers)
                assert third in links
                below = await carol.figures.subscribers(room, third)
                assert below.node == third
                watchers = [
                    each for each in below.subscribers if not each.state & SubscriberState.NODE
                ]
                assert [each.account for each in watchers] == ["bob"]
                assert (watchers[0].frames, watchers[0].bytes) in [(1, 100), (0, 0)]

                with pytest.raises(RoomError) as caught:
                    await carol.figures.node("elsewhere")
                assert caught.value.code == Code.BAD_REQUEST
                with pytest.raises(NoSuchRoom):
                    await carol.figures.subscribers(FIRST_ROOM_ID)

                # Rights are looked at where the figures are.
                for member in nodes[relay].server.manager.members_of("carol"):
                    member.rights = Right(0)
                for asked in (third, ""):
                    with pytest.raises(PermissionDenied):
                        await carol.figures.node(asked)
                    with pytest.raises(PermissionDenied):
                        await carol.figures.subscribers(room, asked)

        # A node that is a member and cannot be reached.
        async with nodes[relay].client("carol") as carol:
            monkeypatch.setattr(Links, "with_link", lambda self, peer, use: use(None))
            with pytest.raises(RoomError) as caught:
                await carol.figures.node(third)
            assert caught.value.code == Code.PATH_LOST


async def test_answers_fit_into_frames(etcd: EtcdMember, prefix: str) -> None:
    limits = Limits(max_frame_bytes=4 * KIB, max_init_bytes=KIB, backlog_bytes=16 * KIB)
    long = "a-name-of-a-node-that-is-about-as-long-as-names-of-machines-are"
    async with cloud(etcd.url, prefix, long, limits=limits) as nodes:
        async with nodes[long].client("alice") as alice:
            rooms = {await alice.register_room() for _ in range(40)}
            view = await alice.figures.rooms()
            assert len(view.rooms) == len(rooms)
            assert all(load.nodes == [long] for load in view.rooms)
            node = await alice.figures.node()
            assert [entry.node for entry in node.nodes] == [long]
        await eventually(lambda: not nodes[long].server.node.connections, "she has left")


async def test_listed_rooms_say_who_is_in_them_wherever_that_is(
    etcd: EtcdMember, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        cloud(etcd.url, prefix, "a", "b", "c") as nodes,
        nodes["a"].client("alice") as alice,
        nodes["b"].client("bob") as bob,
        nodes["c"].client("carol") as carol,
    ):
        rooms = [await alice.register_room() for _ in range(8)]
        while len({nodes.relay_of(room).name for room in rooms}) < 3:
            rooms.append(await alice.register_room())
        used = {nodes.relay_of(room).name: room for room in rooms}
        for room in used.values():
            await alice.grant(room, "bob")
        async with contextlib.AsyncExitStack() as stack:
            for room in used.values():
                await stack.enter_async_context(bob.publish(room))
                await stack.enter_async_context(bob.subscribe(room))
                await stack.enter_async_context(carol.subscribe(room))

            async def listed(client: Client, **scope: bool) -> dict[str, tuple[int, int]]:
                entries = await client.list_rooms(**scope)
                return {format_room_id(one.room): (one.viewers, one.sources) for one in entries}

            expected = {room: (2, 1) if room in used.values() else (0, 0) for room in rooms}
            with trio.fail_after(30):  # viewers are counted now and then
                while not (  # noqa: ASYNC110 - no event says so
                    await listed(alice)
                    == await listed(alice, all_rooms=True)
                    == await listed(carol, all_rooms=True)
                    == expected
                ):
                    await trio.sleep(0.05)
            granted = await listed(bob)
            assert granted == dict.fromkeys(used.values(), (2, 1))

            # Whom nobody can ask, nobody knows of.
            monkeypatch.setattr(Links, "with_link", lambda self, peer, use: use(None))
            unknown = (UNKNOWN_VIEWERS, UNKNOWN_SOURCES)
            heard = await listed(alice)
            for room in rooms:
                if room not in used.values() and nodes.relay_of(room).name != "a":
                    assert heard[room] in (unknown, (0, 0))
                else:
                    assert heard[room] in (unknown, expected[room])
            assert unknown in heard.values()
            assert heard[used["a"]] == (2, 1)


async def test_many_rooms_are_listed_in_small_frames(etcd: EtcdMember, prefix: str) -> None:
    limits = Limits(max_frame_bytes=4 * KIB, max_init_bytes=KIB, backlog_bytes=16 * KIB)
    creator = "名" * 60
    async with (
        cloud(etcd.url, prefix, "a", limits=limits) as nodes,
        nodes["a"].client(creator) as alice,
    ):
        rooms = {await alice.register_room() for _ in range(30)}
        listed = await alice.list_rooms()
        assert {format_room_id(entry.room) for entry in listed} == rooms
