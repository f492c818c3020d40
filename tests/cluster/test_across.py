"""Everything that works on one node works across nodes: reliable rooms, accounts, crowds."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest
import structlog.testing
import trio

from tests.cluster.etcd_process import EtcdMember
from tests.cluster.nodes import Cloud, cloud, eventually
from tim_trio.cluster.dialing import DialFailed
from tim_trio.cluster.link import NodeLink
from tim_trio.cluster.links import Links
from tim_trio.core.outbox import Outbox
from tim_trio.errors import Code, CreatorAbsent, room_error
from tim_trio.limits import KIB, Limits
from tim_trio.net.client import Client
from tim_trio.protocol import messages
from tim_trio.protocol.stream import StreamFrame

SMALL = Limits(
    max_frame_bytes=16 * KIB, max_init_bytes=4 * KIB, backlog_bytes=64 * KIB, idle_timeout_s=60
)


@pytest.fixture
async def three(etcd: EtcdMember, prefix: str) -> AsyncIterator[Cloud]:
    async with cloud(etcd.url, prefix, "a", "b", "c", limits=SMALL) as made:
        yield made


async def clients_of(stack: contextlib.AsyncExitStack, nodes: Cloud) -> dict[str, Client]:
    return {
        name: await stack.enter_async_context(nodes[name].client(f"on-{name}"))
        for name in nodes.nodes
    }


@pytest.mark.parametrize("at", ["a", "b", "c"])
async def test_a_reliable_stream_comes_whole_at_the_slowest_ones_pace(
    three: Cloud, at: str
) -> None:
    count = 200
    async with contextlib.AsyncExitStack() as stack:
        clients = await clients_of(stack, three)
        room = await clients[at].register_room(mode="reliable")
        source = await stack.enter_async_context(clients[at].publish(room))
        got: dict[str, list[int]] = {name: [] for name in clients}

        async def receive(name: str, pause_s: float) -> None:
            async with clients[name].subscribe(room) as stream:
                async for item in stream:
                    assert isinstance(item, StreamFrame | messages.SourceJoined), item
                    if isinstance(item, StreamFrame):
                        got[name].append(item.seq)
                        await trio.sleep(pause_s)
                        if item.is_end:
                            return

        with trio.fail_after(50):
            async with trio.open_nursery() as nursery:
                for i, name in enumerate(clients):
                    nursery.start_soon(receive, name, 0.004 * i)
                await source.wait_viewers(len(clients))
                for i in range(count):
                    await source.send(bytes(8 * KIB) if i < count - 1 else b"", end=i == count - 1)
        for name, seqs in got.items():
            # Who came second had missed nothing; all of it in order, once.
            assert seqs == list(range(count)), name


async def test_a_reliable_stream_waits_for_its_first_subscriber_at_another_node(
    three: Cloud,
) -> None:
    async with three["a"].client("alice") as alice, three["b"].client("bob") as bob:
        for _ in range(3):  # rooms whose relays differ
            room = await alice.register_room(mode="reliable")
            async with alice.publish(room) as source:
                for _ in range(4):
                    await source.send(b"x" * KIB)
                await trio.sleep(0.1)
                seen = []
                with trio.fail_after(20):
                    async with bob.subscribe(room) as stream:
                        async for item in stream:
                            if isinstance(item, StreamFrame):
                                seen.append(item.seq)
                            if len(seen) == 4:
                                break
                assert seen == [0, 1, 2, 3]


async def test_account_streams_reach_devices_on_every_node(three: Cloud) -> None:
    async with contextlib.AsyncExitStack() as stack:
        alice = await stack.enter_async_context(three["a"].client("alice"))
        bobs = [await stack.enter_async_context(three[name].client("bob")) for name in "abc"]
        inboxes = [bob.account_streams() for bob in bobs]
        directory = three["a"].cluster.directory
        with trio.fail_after(30):
            while len(await directory.nodes_of("bob")) < 3:  # noqa: ASYNC110
                await trio.sleep(0.01)
        answer = await alice.send_to("bob", b"hello", kind=300)
        assert answer["bob"].devices == 3
        for inbox in inboxes:
            with trio.fail_after(30):
                message = await anext(aiter(inbox))
            assert message.payload == b"hello"


async def test_asking_to_push_reaches_the_creator_wherever_it_is(three: Cloud) -> None:
    async with three["a"].client("bob") as bob:
        async with three["b"].client("alice") as alice:
            events = alice.events()
            room = await alice.register_room()
            directory = three["a"].cluster.directory
            with trio.fail_after(30):
                while not await directory.nodes_of("alice"):  # noqa: ASYNC110
                    await trio.sleep(0.01)
            assert await bob.ask_to_push(room, "please") == 1
            with trio.fail_after(30):
                event = await anext(aiter(events))
            assert isinstance(event, messages.PushAsked) and event.message == "please"
        with trio.fail_after(30):
            while await directory.nodes_of("alice"):  # noqa: ASYNC110
                await trio.sleep(0.01)
        async with three["c"].client("carl") as carl:
            with pytest.raises(CreatorAbsent):
                await carl.ask_to_push(room)


async def test_a_crowd_is_sent_on_to_other_nodes(etcd: EtcdMember, prefix: str) -> None:
    # More nodes than a ranking names, or each would have a place at the relay.
    names = [f"n{i}" for i in range(20)]
    async with (
        cloud(etcd.url, prefix, *names, fanout=2, lease_s=20) as nodes,
        contextlib.AsyncExitStack() as stack,
    ):
        clients = await clients_of(stack, nodes)
        room = await clients["n0"].register_room()
        source = await stack.enter_async_context(clients["n0"].publish(room))
        streams = [
            await stack.enter_async_context(client.subscribe(room)) for client in clients.values()
        ]
        for i in range(5):
            await source.send(bytes([i]), key=True)
        for stream in streams:
            seen = []
            with trio.fail_after(20):
                async for item in stream:
                    if isinstance(item, StreamFrame):
                        seen.append(item.seq)
                    if len(seen) == 5:
                        break
            assert seen == [0, 1, 2, 3, 4]
        paths = [node.room(room).tree.path for node in nodes.nodes.values()]
        assert len({path[-1] for path in paths}) == 1
        assert max(map(len, paths)) > 2


async def test_a_node_that_leaves_hands_over(three: Cloud) -> None:
    async with three["a"].client("alice") as alice, three["c"].client("carl") as carl:
        while True:
            room = await alice.register_room()
            if three.relay_of(room).name == "b":
                break
        async with alice.publish(room) as source, carl.subscribe(room) as stream:
            sent = 0

            async def push() -> None:
                nonlocal sent
                while True:
                    await source.send(b"x", key=sent % 3 == 0)
                    sent += 1
                    await trio.sleep(0.005)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(push)
                await trio.sleep(0.2)
                leaving = three.nodes.pop("b")
                await leaving.node.withdraw()
                await eventually(
                    lambda: not leaving.room(room).tree.children,
                    "nobody is below the node that leaves",
                )
                leaving.stop()
                await trio.sleep(0.3)
                nursery.cancel_scope.cancel()
            seen: list[int] = []
            with trio.fail_after(30):
                while len(seen) < sent:
                    item = await anext(stream)
                    assert isinstance(item, StreamFrame | messages.SourceJoined), item
                    if isinstance(item, StreamFrame):
                        seen.append(item.seq)
            assert seen == list(range(sent))


async def test_clients_are_sent_to_who_started_last_and_is_in_sight(three: Cloud) -> None:
    await three.add("d")
    nodes = {name: three[name].node for name in "abcd"}
    address = {name: f"127.0.0.1:{three[name].port}" for name in "abcd"}
    assert {nodes["a"].refuge("tim") for _ in range(20)} == {address["d"]}
    assert {nodes["d"].refuge("tim") for _ in range(20)} == {address["c"]}
    nodes["a"].cluster.links.lost.add("d")
    assert {nodes["a"].refuge("tim") for _ in range(20)} == {address["c"]}
    # Better a hope than nothing.
    nodes["a"].cluster.links.lost.update("bc")
    assert {nodes["a"].refuge("tim") for _ in range(20)} == {address["d"]}
    await three["d"].node.withdraw()
    await eventually(
        lambda: nodes["b"].cluster.membership.nodes["d"].draining, "they know that it leaves"
    )
    assert nodes["b"].refuge("tim") == address["c"]


async def test_a_node_with_another_secret_hears_of_it_at_once(
    etcd: EtcdMember, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with structlog.testing.capture_logs() as lines:
        async with cloud(etcd.url, prefix, "a") as nodes:
            monkeypatch.setattr("tests.cluster.nodes.SECRET", b"another secret, as long")
            await nodes.add("b")

            def complaints(event: str) -> list[str]:
                return [str(line) for line in lines if line["event"] == event]

            await eventually(lambda: bool(complaints("link failed")), "the one that came says so")
            assert "its cluster secret is another" in complaints("link failed")[0]
            assert "it has another cluster secret" in complaints("link refused")[0]
            # It goes on trying; that is said once.
            refusals = nodes["a"].server.node.closes.copy()
            await eventually(
                lambda: nodes["a"].server.node.closes != refusals, "it has tried once more"
            )
            assert len(complaints("link refused")) == 1


def cut(monkeypatch: pytest.MonkeyPatch, nodes: Cloud, one: str, other: str) -> None:
    """Let two nodes not link to each other any more; both reach all others."""
    dial, admit = Links._dial_once, Links.open

    async def dial_once(links: Links, peer: str) -> None:
        if {links.me, peer} == {one, other}:
            raise DialFailed("cut")
        await dial(links, peer)

    def open_link(links: Links, node: str, request: messages.Link, outbox: Outbox) -> NodeLink:
        if {links.me, node} == {one, other}:
            raise room_error(Code.UNAVAILABLE)
        return admit(links, node, request, outbox)

    monkeypatch.setattr(Links, "_dial_once", dial_once)
    monkeypatch.setattr(Links, "open", open_link)
    link = nodes[one].cluster.links.get(other)
    if link is not None:
        link.outbox.abort(None)


async def test_frames_go_round_a_cut_between_a_node_and_the_relay(
    three: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        clients = await clients_of(stack, three)
        while True:
            room = await clients["b"].register_room()
            if three.relay_of(room).name == "a":
                break
        source = await stack.enter_async_context(clients["b"].publish(room))
        streams = {
            name: await stack.enter_async_context(client.subscribe(room))
            for name, client in clients.items()
        }
        sent = 0

        async def push(count: int) -> None:
            nonlocal sent
            for _ in range(count):
                await source.send(b"x", key=sent % 10 == 0)
                sent += 1
                await trio.sleep(0.005)

        await push(30)
        cut(monkeypatch, three, "a", "b")
        await push(60)
        await eventually(
            lambda: three["b"].room(room).tree.path == ("b", "c", "a"), "the way round is found"
        )
        await push(30)
        for name, stream in streams.items():
            seen = []
            with trio.move_on_after(1):
                async for item in stream:
                    if isinstance(item, StreamFrame):
                        seen.append(item.seq)
            assert seen == list(range(sent)), name
