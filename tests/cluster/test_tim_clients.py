"""Clients of TIM's at the nodes of a cluster: rooms and messages reach across."""

from __future__ import annotations

import trio

from tests.cluster.etcd_process import EtcdMember
from tests.cluster.nodes import RunningNode, cloud
from tests.net.tim.client import ACK, BIG_STREAM, BIG_STRING, ROOM, STREAM, big, tim_client
from tim_trio.net.listening import open_listeners
from tim_trio.net.web import WebPort


async def open_web(node: RunningNode, nursery: trio.Nursery) -> int:
    """Give a node a web port; return its number."""
    listeners = open_listeners("127.0.0.1", 0, option="--web")
    await nursery.start(WebPort(node.server, {}).serve, listeners)
    port: int = listeners[0].getsockname()[1]
    return port


async def test_rooms_grants_and_messages_reach_across(etcd: EtcdMember, prefix: str) -> None:
    async with cloud(etcd.url, prefix, "a", "b") as two, trio.open_nursery() as nursery:
        at_a, at_b = [await open_web(two[name], nursery) for name in ("a", "b")]
        async with (
            tim_client(at_a, "alice") as alice,
            tim_client(at_b, "bob", "thrift") as bob,
            tim_client(at_b, "carol") as carol,
        ):
            room = await alice.register()
            await alice.subscribe(room)
            await bob.subscribe(room)
            await carol.subscribe(room, in_big_binary=True)
            for number in range(100):
                await alice.push(room, b"%d" % number, dtype=3)
            for number in range(100):
                frame = await bob.next_frame()
                assert (frame["body"], frame["fromNode"]) == (b"%d" % number, "alice")
                assert await carol.receive() == (BIG_STREAM, room.encode() + b"\x83%d" % number)
                assert (await alice.next_frame())["dtype"] == 3

            ack = await alice.ask(ROOM, rtype=3, node=room, node2="bob")
            assert ack["ok"]
            await bob.push_big(room, b"from b")
            assert (await alice.next_frame())["fromNode"] == "bob"
            assert (await bob.next_frame())["body"] == b"from b"
            await carol.receive()

            await carol.send_raw(big(BIG_STRING, "alice", b"|", b"hello"))
            assert await alice.receive() == (BIG_STRING, b"carol|hello")

            # Its creator removes it: who subscribes at the other node is told.
            await alice.send(ROOM, rtype=2, node=room)
            kind, ack = await carol.receive()
            assert (kind, ack["timType"], ack["error"]["code"]) == (ACK, STREAM, 4109)
            # It goes out of the directory when those who were there have been told.
            with trio.fail_after(30):
                while "error" not in (ack := await carol.ask(ROOM, rtype=5, node=room)):  # noqa: ASYNC110
                    await trio.sleep(0.05)
            assert ack["error"]["code"] == 4109
        nursery.cancel_scope.cancel()
