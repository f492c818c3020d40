"""What operators see of other nodes, on real sockets and a real etcd."""

from __future__ import annotations

import pytest
import trio

from tests.cluster.etcd_process import EtcdMember
from tests.cluster.nodes import cloud, eventually
from tim_trio.cluster.links import Links
from tim_trio.errors import Code, NoSuchRoom, PermissionDenied, RoomError
from tim_trio.limits import KIB, Limits
from tim_trio.protocol.messages import NodeState, Right, SubscriberState
from tim_trio.protocol.room_ids import FIRST_ROOM_ID, parse_room_id


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
                with trio.fail_after(5):
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
