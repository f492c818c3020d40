"""Coming back after a loss, against servers that the test plays line by line."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.net.scripted_network import (
    UNPUBLISHED,
    Network,
    close,
    connected,
    info,
    lose,
    room_info,
)
from tests.net.scripted_server import (
    ROOM,
    ScriptedServer,
    frame,
    published,
    subscribed,
)
from tim_trio.errors import Code, ConnectionClosed, NoSuchRoom
from tim_trio.net.client import (
    WHILE_AWAY,
    Bounds,
    Reconnected,
    Reconnecting,
    Source,
    SourceLost,
)
from tim_trio.net.client.plain_nursery import open_plain_nursery
from tim_trio.net.client.reconnect import Backoff
from tim_trio.protocol import messages
from tim_trio.protocol.layout import Flag
from tim_trio.protocol.messages import Gap, RoomMode, TrackInfo

RELIABLE = RoomMode.RELIABLE


# -- when and where -------------------------------------------------------------


def test_the_wait_is_random_and_grows() -> None:
    asked: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        return high / 2

    backoff = Backoff(uniform)
    waits = [backoff.next_s() for _ in range(9)]
    assert asked == [(0, min(30, 0.25 * 2**attempt)) for attempt in range(9)]
    assert waits[:3] == [0.125, 0.25, 0.5]
    backoff.reset()
    assert backoff.next_s(retry_after_ms=700) == 0.7
    assert 0 <= Backoff().next_s() <= 0.25


async def test_it_tries_again_until_somebody_is_there(autojump_clock: MockClock) -> None:
    async with connected() as (client, server, network):
        network.refuses = 6
        await lose(server)
        events = client.events()
        assert isinstance(await anext(events), Reconnecting)
        away = not client.is_connected
        assert away
        await network.accept()
        back = await anext(events)
        assert isinstance(back, Reconnected)
        assert back.attempts == 7
        assert client.is_connected
        times = [when for when, _ in network.dialled[1:]]
        for attempt, (before, after) in enumerate(zip([0.0, *times], times, strict=False)):
            assert after - before <= 0.25 * 2**attempt


async def test_the_servers_wish_to_wait_is_kept(autojump_clock: MockClock) -> None:
    async with connected() as (client, server, network):
        await server.send(close(1003, retry_after_ms=40_000))
        await network.accept()
        assert trio.current_time() >= 40
        await client.wait_connected()


@pytest.mark.parametrize("code", [1100, 1108, 1150])
async def test_a_close_that_forbids_it_is_final(autojump_clock: MockClock, code: int) -> None:
    async with connected() as (client, server, network):
        await server.send(close(code))
        for _ in range(2):
            with pytest.raises(ConnectionClosed) as caught:
                await anext(client.events())
            assert caught.value.code == code
        with pytest.raises(ConnectionClosed):
            await client.wait_connected()
        await trio.sleep(1000)
        assert len(network.dialled) == 1


async def test_a_new_connection_may_be_refused_for_good(autojump_clock: MockClock) -> None:
    async with connected() as (client, server, network):
        await lose(server)
        again = await network._got.receive()
        await again.answer(messages.Hello, close(1107))
        assert isinstance(await anext(client.events()), Reconnecting)
        with pytest.raises(ConnectionClosed) as caught:
            await anext(client.events())
        assert caught.value.code == Code.DISABLED


async def test_it_gives_up_after_a_while(autojump_clock: MockClock) -> None:
    async with connected(bounds=Bounds(reconnect_for_s=60)) as (client, server, network):
        network.refuses = 10**6
        await lose(server)
        with pytest.raises(ConnectionClosed, match="no way back: nobody there"):
            await client.wait_connected()
        assert 30 < trio.current_time() <= 61


async def test_leaving_the_block_while_away_ends_at_once(autojump_clock: MockClock) -> None:
    async with connected() as (_, server, network):
        network.refuses = 10**6
        await lose(server)
        await trio.sleep(5)
    assert trio.current_time() < 6


async def test_requests_wait_for_the_connection_for_a_while(autojump_clock: MockClock) -> None:
    async with connected() as (client, server, network), trio.open_nursery() as nursery:
        await lose(server)

        async def serve() -> None:
            again = await network.accept()
            await again.answer(messages.Grant, messages.GrantAnswer())

        nursery.start_soon(serve)
        await client.grant(ROOM, "bob")


async def test_a_request_under_way_at_the_loss_is_an_error(autojump_clock: MockClock) -> None:
    async with connected() as (client, server, network), trio.open_nursery() as nursery:

        async def serve() -> None:
            await server.expect(messages.RemoveRoom)
            await lose(server)
            await network.accept()

        nursery.start_soon(serve)
        with pytest.raises(ConnectionClosed):
            await client.remove_room(ROOM)


async def test_opening_a_source_is_asked_again(autojump_clock: MockClock) -> None:
    async with connected() as (client, server, network), trio.open_nursery() as nursery:
        tokens: list[bytes] = []

        async def serve() -> None:
            tokens.append((await server.expect(messages.Publish))[0].token)
            await lose(server)
            again = await network.accept()
            tokens.append((await again.answer(messages.Publish, published())).token)
            await again.answer(messages.Unpublish, UNPUBLISHED)

        nursery.start_soon(serve)
        async with client.publish(ROOM):
            pass
        assert tokens == [tokens[0]] * 2


async def test_opening_a_subscription_is_asked_again(autojump_clock: MockClock) -> None:
    async with connected() as (client, server, network), trio.open_nursery() as nursery:

        async def serve() -> None:
            await server.expect(messages.Subscribe)
            await lose(server)
            again = await network.accept()
            await again.answer(messages.Subscribe, subscribed(), frame(0))

        nursery.start_soon(serve)
        async with client.subscribe(ROOM) as stream:
            assert await anext(stream) == frame(0)


# -- subscriptions ----------------------------------------------------------------


async def test_a_subscription_goes_on_without_repeats_and_with_one_gap(
    autojump_clock: MockClock,
) -> None:
    async with connected() as (client, server, network), trio.open_nursery() as nursery:

        async def serve() -> None:
            await server.answer(messages.Subscribe, subscribed(info(-1 % 2**64)))
            await server.send(frame(0), frame(1), frame(2))
            await lose(server)
            again = await network.accept()
            sent = [frame(seq) for seq in (1, 2, 3)]
            await again.answer(messages.Subscribe, subscribed(info(3)), *sent)
            await lose(again)
            third = await network.accept()
            await third.answer(messages.Subscribe, subscribed(info(6)), frame(7), frame(8))

        nursery.start_soon(serve)
        async with client.subscribe(ROOM) as stream:
            seen = [await anext(stream) for _ in range(11)]
        lost, back = seen[3:5]
        assert isinstance(lost, Reconnecting)
        assert lost.error.code is None
        assert isinstance(back, Reconnected)
        assert [one.seq for one in (*seen[:3], seen[5]) if hasattr(one, "seq")] == [0, 1, 2, 3]
        assert isinstance(seen[6], Reconnecting)
        assert isinstance(seen[7], Reconnected)
        assert seen[8:] == [
            Gap(room=ROOM, source=7, track=0, first_seq=4, last_seq=6, reason=WHILE_AWAY),
            frame(7),
            frame(8),
        ]


async def test_a_room_that_is_gone_ends_the_subscription_and_nothing_else(
    autojump_clock: MockClock,
) -> None:
    async with connected() as (client, server, network), trio.open_nursery() as nursery:

        async def serve() -> None:
            await server.answer(messages.Subscribe, subscribed(), frame(0))
            await lose(server)
            again = await network.accept()
            await again.refuse(messages.Subscribe, 2001)  # asks again
            await again.refuse(messages.Subscribe, Code.NO_SUCH_ROOM)
            await again.answer(messages.Grant, messages.GrantAnswer())

        nursery.start_soon(serve)
        async with client.subscribe(ROOM) as stream:
            assert await anext(stream) == frame(0)
            assert isinstance(await anext(stream), Reconnecting)
            for _ in range(2):
                with pytest.raises(NoSuchRoom):
                    await anext(stream)
        await client.grant(ROOM, "bob")


async def test_a_user_who_takes_nothing_holds_the_bytes_of_one_connection(
    autojump_clock: MockClock,
) -> None:
    async with connected() as (client, server, network), trio.open_nursery() as nursery:
        size = 1_000_000

        async def serve() -> None:
            sent = [frame(seq, b"x" * size) for seq in range(2)]
            await server.answer(messages.Subscribe, subscribed(mode=RELIABLE), *sent)
            await lose(server)
            again = await network.accept()
            await trio.sleep(5)
            # Only once something was taken.
            with trio.move_on_after(4):
                await again.expect(messages.Subscribe)
                raise AssertionError("too early")
            go.set()
            await again.answer(messages.Subscribe, subscribed(mode=RELIABLE), frame(2))

        go = trio.Event()
        nursery.start_soon(serve)
        async with client.subscribe(ROOM) as stream:
            await go.wait()
            frames: list[object] = []
            while len(frames) < 3:
                item = await anext(stream)
                if not isinstance(item, Reconnecting | Reconnected):
                    frames.append(item)
            assert [getattr(one, "seq", None) for one in frames] == [0, 1, 2]


# -- sources ------------------------------------------------------------------------


@asynccontextmanager
async def publishing(
    answer: messages.PublishAnswer, *, unpublish: bool = True
) -> AsyncIterator[tuple[Source, ScriptedServer, Network]]:
    async with connected() as (client, server, network), open_plain_nursery() as nursery:
        nursery.start_soon(server.answer, messages.Publish, answer)
        async with client.publish(ROOM) as source:
            await wait_all_tasks_blocked()
            yield source, server, network
            if unpublish:
                nursery.start_soon(network.servers[-1].answer, messages.Unpublish, UNPUBLISHED)


async def take_over(
    network: Network, source: Source, answer: messages.PublishAnswer
) -> ScriptedServer:
    server = await network.accept()
    request = await server.answer(messages.Publish, answer)
    assert request.token == source.token
    await wait_all_tasks_blocked()
    return server


async def test_a_live_source_drops_and_goes_on_by_its_own_numbers(
    autojump_clock: MockClock,
) -> None:
    async with publishing(published()) as (source, server, network):
        await source.send(b"init", init=True)
        for _ in range(3):
            await source.send(b"x")
        await server.expect_frames(4)
        await lose(server)
        await wait_all_tasks_blocked()
        with trio.fail_after(0.001):  # it never waits
            for _ in range(3):
                await source.send(b"lost")
        assert source.dropped_frames == 3
        assert source.next_seq() == 7
        # The server has not got the last one either.
        again = await take_over(network, source, published(TrackInfo(track=0, state=4, last_seq=2)))
        assert (source.lost_frames, source.resumed) == (4, 1)
        assert await source.send(b"y") == 7
        (first,) = await again.expect_frames(1)
        assert (first.seq, first.payload) == (7, b"y")  # subscribers get GAP 3 to 6


async def test_a_live_source_sends_a_lost_init_and_end_again(autojump_clock: MockClock) -> None:
    async with publishing(published()) as (source, server, network):
        await source.send(b"x")
        await server.expect_frames(1)
        await lose(server)
        await wait_all_tasks_blocked()
        await source.send(b"codec", init=True)
        await source.send(b"x")
        await source.send(b"last", end=True)
        again = await take_over(network, source, published(TrackInfo(track=0, state=0, last_seq=0)))
        frames = await again.expect_frames(2)
        assert [(one.flags, one.payload) for one in frames] == [
            (Flag.INIT, b"codec"),
            (Flag.END, b"last"),
        ]
        assert frames[1].seq == frames[0].seq + 1 >= 3


async def test_a_live_source_that_was_ended_goes_on_as_a_new_one(
    autojump_clock: MockClock,
) -> None:
    async with publishing(published()) as (source, server, network):
        await source.send(b"codec", init=True)
        await source.send(b"x")
        await lose(server)
        again = await take_over(network, source, attrs.evolve(published(), source=9))
        assert source.number == 9
        assert await source.send(b"y") == 1
        frames = await again.expect_frames(2)
        assert [(one.source, one.seq, one.payload) for one in frames] == [
            (9, 0, b"codec"),
            (9, 1, b"y"),
        ]


async def test_a_reliable_source_waits_and_sends_again_what_was_not_got(
    autojump_clock: MockClock,
) -> None:
    size = 136
    answer = published(mode=RELIABLE, credit=4 * size)
    async with publishing(answer) as (source, server, network), trio.open_nursery() as nursery:
        for number in range(4):
            await source.send(b"%d" % number * 100, track=number % 2)
        await lose(server)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.WouldBlock):
            source.send_nowait(b"x")
        nursery.start_soon(source.send, b"4" * 100)
        # Track 0 has both of its frames, track 1 none; the credit is for one and a half more.
        resumed = published(
            TrackInfo(track=0, state=0, last_seq=1),
            mode=RELIABLE,
            received=3 * size,
            credit=4 * size + 50,
        )
        again = await take_over(network, source, resumed)
        (first,) = await again.expect_frames(1)
        assert (first.track, first.seq, first.payload) == (1, 0, b"1" * 100)
        assert source.next_seq() == 2
        await again.send(messages.Credit(room=ROOM, source=7, limit=10 * size))
        frames = await again.expect_frames(2)
        assert [(one.track, one.seq, one.payload[:1]) for one in frames] == [
            (1, 1, b"3"),
            (0, 2, b"4"),
        ]


async def test_a_reliable_source_keeps_no_more_than_the_window(autojump_clock: MockClock) -> None:
    window = 2 * 1_048_576
    async with publishing(published(mode=RELIABLE, credit=window)) as (source, server, _):
        for number in range(1, 41):
            await source.send(bytes(100_000))
            await server.expect_frames(1)
            limit = window + number * 100_036
            await server.send(messages.Credit(room=ROOM, source=7, limit=limit))
            await wait_all_tasks_blocked()
            assert len(source._sent) == 0  # all of it has been read by the server
            assert sum(one.size for one in source._sent) <= window


async def test_a_reliable_source_that_was_ended_is_lost(autojump_clock: MockClock) -> None:
    async with connected() as (client, server, network), trio.open_nursery() as nursery:

        async def serve() -> None:
            await server.answer(messages.Publish, published(mode=RELIABLE, credit=10**6))
            await server.expect_frames(1)
            await lose(server)
            again = await network.accept()
            answer = attrs.evolve(published(mode=RELIABLE, credit=10**6), source=9)
            await again.answer(messages.Publish, answer)
            undone, _ = await again.expect(messages.Unpublish)
            assert undone.source == 9

        async def publish() -> None:
            async with client.publish(ROOM) as source:
                await source.send(b"x")
                await wait_all_tasks_blocked()
                while True:
                    await source.send(bytes(100_000))

        nursery.start_soon(serve)
        with pytest.raises(SourceLost):
            await publish()


@pytest.mark.parametrize("last_seq, whole", [(1, True), (0, False)])
async def test_an_answer_to_unpublish_that_was_lost(
    autojump_clock: MockClock, last_seq: int, whole: bool
) -> None:
    async with connected() as (client, server, network), trio.open_nursery() as nursery:

        async def serve() -> None:
            await server.answer(messages.Publish, published(mode=RELIABLE, credit=10**6))
            await server.expect_frames(2)
            await server.expect(messages.Unpublish)
            await lose(server)
            again = await network.accept()
            answer = attrs.evolve(published(mode=RELIABLE, credit=10**6), source=9)
            await again.answer(messages.Publish, answer)
            await again.expect(messages.Unpublish)
            room = room_info(RELIABLE, sources=[info(last_seq, left=True)])
            await again.answer(messages.GetRoomInfo, messages.RoomInfoAnswer(info=room))

        nursery.start_soon(serve)
        async with client.publish(ROOM) as source:
            await source.send(b"a")
            await source.send(b"b")
            if whole:
                result = await source.unpublish()
                assert (result.forwarded, result.discarded) == (2, 0)
            else:
                with pytest.raises(SourceLost):
                    await source.unpublish()


async def test_unpublish_waits_for_the_connection(autojump_clock: MockClock) -> None:
    async with publishing(published(), unpublish=False) as (source, server, network):
        await lose(server)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(source.unpublish)
            again = await take_over(network, source, published())
            await again.answer(messages.Unpublish, UNPUBLISHED)
        assert source.result == UNPUBLISHED
