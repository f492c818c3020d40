"""Messages between accounts through the client library."""

from __future__ import annotations

import gc

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import tim_trio
from tests.net.running import running_server
from tests.net.scripted_network import connected, lose
from tests.net.scripted_server import client_and_server
from tests.net.test_client import client
from tim_trio.errors import Code
from tim_trio.net.client import AccountStreams, Bounds
from tim_trio.protocol import messages
from tim_trio.protocol.messages import AccountStream, DeliveryStatus


def message(payload: bytes = b"hi", kind: int = 300, account: str = "bob") -> AccountStream:
    return AccountStream(account=account, kind=kind, payload=payload)


async def take(streams: AccountStreams, count: int) -> list[bytes]:
    with trio.fail_after(30):
        return [(await anext(streams)).payload for _ in range(count)]


async def is_empty(streams: AccountStreams) -> bool:
    await wait_all_tasks_blocked()
    with trio.move_on_after(0.01) as scope:
        await anext(streams)
    return scope.cancelled_caught


# Against the real server


async def test_from_one_account_to_others() -> None:
    async with (
        running_server() as running,
        client(running) as alice,
        client(running, "bob") as bob,
        client(running, "bob") as tablet,
    ):
        receipts = await alice.send_to(["bob", "carol", "no body"], b"ring", kind=1000)
        assert {name: (each.status, each.devices) for name, each in receipts.items()} == {
            "bob": (DeliveryStatus.DELIVERED, 2),
            "carol": (DeliveryStatus.OFFLINE, 0),
            "no body": (DeliveryStatus.UNKNOWN, 0),
        }
        assert receipts["bob"].is_delivered and not receipts["carol"].is_delivered
        for device in (bob, tablet):
            came = await anext(device.account_streams())
            assert came == AccountStream(account="alice", kind=1000, payload=b"ring")
        # A name alone is one receiver, and the kind is the first that is free.
        assert (await bob.send_to("alice", b"")).keys() == {"alice"}
        assert (await anext(alice.account_streams())).kind == 256
        assert running.node.account_delivered == 3


async def test_more_receivers_than_a_request_takes() -> None:
    async with running_server() as running, client(running) as alice:
        names = [f"a{number}" for number in range(1000)]
        receipts = await alice.send_to(names, b"")
        assert list(receipts) == names
        assert await alice.send_to([], b"") == {}


async def test_what_is_too_large_is_refused_and_what_is_far_too_large_not_sent() -> None:
    async with running_server() as running, client(running) as alice:
        with pytest.raises(tim_trio.RoomError) as caught:
            await alice.send_to("bob", bytes(65_537))
        assert caught.value.code == Code.BAD_REQUEST
        for payload, kind in ((bytes(2**20), 300), (b"", 65_536)):
            with pytest.raises(tim_trio.LocalProtocolError):
                await alice.send_to("bob", payload, kind=kind)
        assert not (await alice.send_to("bob", bytes(65_536)))["bob"].is_delivered


# Iterators


async def test_each_iterator_gets_what_it_wants() -> None:
    async with client_and_server() as (alice, server):
        everything = alice.account_streams(range(65_536))
        own = alice.account_streams()
        files = alice.account_streams({1})
        await server.send(message(b"a"), message(b"b", 1), message(b"c"))
        assert await take(everything, 3) == [b"a", b"b", b"c"]
        assert await take(own, 2) == [b"a", b"c"]
        assert await take(files, 1) == [b"b"]
        assert [each.dropped for each in (everything, own, files)] == [0, 0, 0]


async def test_what_nobody_wanted_waits_for_the_next() -> None:
    async with client_and_server() as (alice, server):
        await server.send(message(b"early"), message(b"file", 1))
        await wait_all_tasks_blocked()
        first = alice.account_streams()
        assert await take(first, 1) == [b"early"]
        assert await take(alice.account_streams({1, 2}), 1) == [b"file"]
        second = alice.account_streams()
        assert await is_empty(second)
        # Who has gone is not handed anything any more.
        del first, second
        gc.collect()
        await server.send(message(b"between"))
        await wait_all_tasks_blocked()
        assert await take(alice.account_streams(), 1) == [b"between"]


async def test_the_newest_wait(autojump_clock: MockClock) -> None:
    bounds = Bounds(account_stream_bytes=3000)
    async with client_and_server(bounds=bounds) as (alice, server):
        streams = alice.account_streams()
        for number in range(5):
            await server.send(message(b"%d" % number * 1000), message(b"%d" % number, 2))
        await wait_all_tasks_blocked()
        assert [payload[:1] for payload in await take(streams, 2)] == [b"3", b"4"]
        assert streams.dropped == 3
        # Those that nobody wants as well.
        for number in range(20):
            await server.send(message(b"%d" % number, 2))
        await wait_all_tasks_blocked()
        kept = await take(alice.account_streams({2}), 11)
        assert kept[-1] == b"19"
        await server.send(message(bytes(10_000)))
        assert len((await take(streams, 1))[0]) == 10_000


async def test_the_end_of_the_connection_comes_behind_what_came() -> None:
    async with client_and_server() as (alice, server), trio.open_nursery() as nursery:
        streams = alice.account_streams()

        async def wait_for_the_end() -> None:
            with pytest.raises(tim_trio.ConnectionClosed):
                await anext(alice.account_streams({7}))

        nursery.start_soon(wait_for_the_end)
        await server.send(message(b"last"))
        await lose(server)
        assert await take(streams, 1) == [b"last"]
        with pytest.raises(tim_trio.ConnectionClosed):
            await anext(streams)


async def test_a_status_of_a_later_version() -> None:
    async with client_and_server() as (alice, server), trio.open_nursery() as nursery:
        delivery = messages.Delivery(account="bob", status=99, devices=0)
        answer = messages.AccountSendAnswer(deliveries=[delivery])
        nursery.start_soon(server.answer, messages.AccountSend, answer)
        assert (await alice.send_to("bob", b""))["bob"].status == 99


# Other connections


async def test_iterators_go_on_over_the_next_connection(autojump_clock: MockClock) -> None:
    async with connected() as (alice, server, network), trio.open_nursery() as nursery:
        streams = alice.account_streams()

        async def serve() -> None:
            await server.send(message(b"1"))
            await lose(server)
            again = await network.accept()
            await again.send(message(b"1"), message(b"2"))

        nursery.start_soon(serve)
        # The same again is another one: the first connection is over.
        assert await take_slowly(streams, 3) == [b"1", b"1", b"2"]


async def take_slowly(streams: AccountStreams, count: int) -> list[bytes]:
    return [(await anext(streams)).payload for _ in range(count)]


async def test_what_comes_over_both_connections_of_a_move_comes_once(
    autojump_clock: MockClock,
) -> None:
    async with connected() as (alice, old, network), trio.open_nursery() as nursery:
        streams = alice.account_streams()
        got: list[bytes] = []

        async def read() -> None:
            async for each in streams:
                got.append(each.payload)

        async def serve() -> None:
            await old.send(message(b"before"))
            await old.send(messages.GoAway(reason=2, address="[::1]:7700", spread_ms=0))
            # Reached the old connection before the new one was signed in.
            await old.send(message(b"same"), message(b"old"))
            new = await network.accept()
            await new.send(message(b"same"), message(b"both"), message(b"both"))
            await old.send(message(b"same"), message(b"both"), message(b"both"))
            await old.expect(messages.Close)
            await old.stream.aclose()
            await wait_all_tasks_blocked()
            await new.send(message(b"both"), message(b"after"))
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

        nursery.start_soon(read)
        nursery.start_soon(serve)
    counts = {payload: got.count(payload) for payload in got}
    assert counts == {b"before": 1, b"same": 2, b"old": 1, b"both": 3, b"after": 1}
