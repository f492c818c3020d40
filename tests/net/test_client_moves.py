"""Leaving for another connection or node, before or after this one is gone.

The servers are played by the test, line by line.
"""

from __future__ import annotations

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.net.scripted_network import (
    UNPUBLISHED,
    close,
    connected,
    info,
    lose,
    room_info,
)
from tests.net.scripted_server import (
    ROOM,
    frame,
    published,
    subscribed,
)
from tim_trio.errors import Code
from tim_trio.net.client import (
    Reconnected,
    Reconnecting,
)
from tim_trio.net.client.address import Address
from tim_trio.protocol import messages
from tim_trio.protocol.messages import TrackInfo


async def test_going_elsewhere_without_a_loss(autojump_clock: MockClock) -> None:
    async with connected() as (client, old, network), trio.open_nursery() as nursery:

        async def serve() -> None:
            await old.answer(messages.Subscribe, subscribed(info(0)), frame(1))
            await old.answer(messages.Publish, attrs.evolve(published(), source=8))
            await old.expect_frames(1)
            await old.send(messages.GoAway(reason=2, address="[::1]:7700", spread_ms=4000))
            new = await network.accept()
            assert trio.current_time() <= 4
            assert network.dialled[-1][1] == Address("::1", 7700)
            await new.answer(messages.GetRoomInfo, messages.RoomInfoAnswer(info=room_info()))
            # The new one runs ahead while the old one has frames in line.
            await new.answer(messages.Subscribe, subscribed(info(3)), frame(4), frame(5))
            await old.send(frame(2), frame(3), frame(4))
            await old.answer(messages.Unsubscribe, messages.UnsubscribeAnswer())
            _, number = await old.expect(messages.Ping)
            await old.send(messages.Pong(stamp=0), request_id=number)
            answer = published(TrackInfo(track=0, state=0, last_seq=0))
            await new.answer(messages.Publish, attrs.evolve(answer, source=8))
            farewell, _ = await old.expect(messages.Close)
            assert farewell.code == Code.BYE
            (sent,) = await new.expect_frames(1)
            assert (sent.source, sent.seq) == (8, 1)
            await new.answer(messages.Unpublish, UNPUBLISHED)

        nursery.start_soon(serve)
        async with client.subscribe(ROOM) as stream, client.publish(ROOM) as source:
            assert await source.send(b"x") == 0
            seqs = [getattr(await anext(stream), "seq", None) for _ in range(5)]
            assert seqs == [1, 2, 3, 4, 5]
            await wait_all_tasks_blocked()
            assert await source.send(b"y") == 1


@pytest.mark.parametrize("arrives", [True, False])
async def test_a_live_source_waits_while_it_moves(arrives: bool, autojump_clock: MockClock) -> None:
    """Away, it drops; on its way it loses nothing, unless it does not arrive."""
    async with connected() as (client, old, network), trio.open_nursery() as nursery:
        moving, waits, there = trio.Event(), trio.Event(), trio.Event()
        seen: list[tuple[int, int, bytes]] = []

        async def serve() -> None:
            await old.answer(messages.Publish, attrs.evolve(published(), source=8))
            await old.expect_frames(1)
            await old.send(messages.GoAway(reason=2, address="", spread_ms=0))
            new = await network.accept()
            await new.answer(messages.GetRoomInfo, messages.RoomInfoAnswer(info=room_info()))
            _, number = await old.expect(messages.Ping)
            await old.send(messages.Pong(stamp=0), request_id=number)
            _, number = await new.expect(messages.Publish)
            moving.set()
            await waits.wait()
            answer = published(TrackInfo(track=0, state=0, last_seq=0))
            if arrives:
                await new.send(attrs.evolve(answer, source=8), request_id=number)
            else:
                network.refuses = 3
                await new.stream.aclose()
                await trio.sleep(0.1)
                new = await network.accept()
                await new.answer(messages.Publish, attrs.evolve(answer, source=8))
            there.set()
            (got,) = await new.expect_frames(1)
            seen.append((got.source, got.seq, got.payload))
            await new.answer(messages.Unpublish, UNPUBLISHED)

        nursery.start_soon(serve)
        async with client.publish(ROOM) as source:
            assert await source.send(b"x") == 0
            await moving.wait()
            with pytest.raises(trio.WouldBlock):
                source.send_nowait(b"not now")
            async with trio.open_nursery() as sending:
                sending.start_soon(source.send, b"y")
                await wait_all_tasks_blocked()
                assert source.dropped_frames == 0
                waits.set()
            assert source.dropped_frames == (not arrives)
            await there.wait()
            await wait_all_tasks_blocked()
            assert source.resumed == 1
            if not arrives:
                await source.send(b"z")
        assert seen == [(8, 1, b"y") if arrives else (8, 2, b"z")]


NODES = [Address(f"n{i}", 7600) for i in (2, 3)]
OTHER_NODES = messages.OtherNodes(addresses=["tim://n2", "tim://n3:7600", "tims://n4", "wss://n5"])


async def test_when_its_node_is_gone_it_asks_the_others(autojump_clock: MockClock) -> None:
    async with connected() as (client, server, network):
        await server.send(OTHER_NODES)
        network.refuses = 5
        await lose(server)
        await network.accept()
        await client.wait_connected()
        dialled = [where for _, where in network.dialled[1:]]
        # Where it was, then the others: that is one attempt. Then all over again.
        assert dialled[0] is dialled[3] is None
        assert {*dialled[1:3]} == {*dialled[4:6]} == {*NODES}
        assert network.dialled[3][0] <= 3 * 0.25
        # Where it has come to, it stays.
        await lose(network.servers[-1])
        await network.accept()
        await client.wait_connected()
        assert network.dialled[-1][1] == dialled[-1]


async def test_a_node_that_shuts_down_is_tried_last(autojump_clock: MockClock) -> None:
    async with connected() as (client, server, network):
        await server.send(OTHER_NODES, close(Code.SHUTTING_DOWN))
        await network.accept()
        await client.wait_connected()
        assert network.dialled[-1][1] in NODES


async def test_a_machine_that_does_not_answer_is_not_waited_for(autojump_clock: MockClock) -> None:
    async with connected() as (client, server, network):
        network.silent.add(None)
        await server.send(OTHER_NODES)
        began = trio.current_time()
        await lose(server)
        await network.accept()
        await client.wait_connected()
        assert trio.current_time() - began <= 2 + 2 * 0.25


async def test_a_node_that_refuses_does_not_speak_for_all(autojump_clock: MockClock) -> None:
    async with connected() as (client, server, network), trio.open_nursery() as nursery:
        await server.send(OTHER_NODES, close(Code.OVERLOADED))

        async def refuse_then_accept() -> None:
            other = await network._got.receive()
            await other.expect(messages.Hello)
            await other.send(close(Code.BANNED))
            await network.accept()

        nursery.start_soon(refuse_then_accept)
        await wait_all_tasks_blocked()
        assert not client.is_connected
        with trio.fail_after(20):
            await client.wait_connected()
        first, second = (where for _, where in network.dialled[1:])
        assert {first, second} == {*NODES}


async def test_it_leaves_for_where_somebody_is(autojump_clock: MockClock) -> None:
    async with connected() as (client, old, network):
        await old.send(OTHER_NODES)
        network.refuses = 2
        await old.send(messages.GoAway(reason=1, address="gone:1", spread_ms=0))
        await network.accept()
        farewell, _ = await old.expect(messages.Close)
        assert farewell.code == Code.BYE
        assert client.is_connected
        dialled = [where for _, where in network.dialled[1:]]
        assert dialled[0] == Address("gone", 1)
        assert {*dialled[1:]} == {*NODES}


async def test_to_renew_its_sign_in_it_stays_at_its_node(autojump_clock: MockClock) -> None:
    async with connected() as (client, old, network):
        await old.send(OTHER_NODES)
        await wait_all_tasks_blocked()
        client._line.session.leave_soon()
        await network.accept()
        await old.expect(messages.Close)
        assert [where for _, where in network.dialled[1:]] == [None]


async def test_a_server_that_only_stops_is_left_at_its_end(autojump_clock: MockClock) -> None:
    async with connected() as (client, old, network), trio.open_nursery() as nursery:

        async def serve() -> None:
            await old.answer(messages.Subscribe, subscribed(info(0)))
            network.refuses = 10**6
            await old.send(messages.GoAway(reason=1, address="", spread_ms=100))
            await trio.sleep(20)
            await old.send(frame(1), close(1001))
            network.refuses = 0
            again = await network.accept()
            await again.answer(messages.Subscribe, subscribed(info(1)), frame(2))

        nursery.start_soon(serve)
        async with client.subscribe(ROOM) as stream:
            assert await anext(stream) == frame(1)
            assert isinstance(await anext(stream), Reconnecting)
            assert isinstance(await anext(stream), Reconnected)
            assert await anext(stream) == frame(2)
