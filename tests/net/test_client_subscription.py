"""Watching with the client library."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.net.scripted_server import (
    ROOM,
    ROOM_TEXT,
    ScriptedServer,
    client_and_server,
    frame,
    subscribed,
)
from tim_trio.errors import Code, ConnectionClosed, NoSuchRoom
from tim_trio.net.client import Bounds, Client, RoomClosed, Subscription
from tim_trio.net.client.feed import Feed
from tim_trio.net.client.plain_nursery import open_plain_nursery
from tim_trio.protocol import messages
from tim_trio.protocol.decoder import Decoder
from tim_trio.protocol.messages import Gap, RoomMode, SourceJoined, SourceLeft
from tim_trio.protocol.runs import Run
from tim_trio.protocol.stream import StreamFrame, encode_stream_frame

JOINED = SourceJoined(room=ROOM, source=7, account="bob")
LEFT = SourceLeft(room=ROOM, source=7, reason=1)
GAP = Gap(room=ROOM, source=7, track=0, first_seq=2, last_seq=4, reason=1)


def closed(reason: int, text: str = "") -> messages.RoomClosed:
    return messages.RoomClosed(room=ROOM, reason=reason, text=text)


@asynccontextmanager
async def subscription_and_server(
    *following: object, mode: RoomMode = RoomMode.LIVE, bounds: Bounds | None = None
) -> AsyncIterator[tuple[Client, Subscription, ScriptedServer]]:
    async with (
        client_and_server(bounds=bounds) as (client, server),
        open_plain_nursery() as nursery,
    ):
        nursery.start_soon(server.answer, messages.Subscribe, subscribed(mode=mode), *following)
        async with client.subscribe(ROOM_TEXT) as stream:
            await wait_all_tasks_blocked()
            yield client, stream, server


async def test_frames_and_notices_in_the_order_of_the_wire() -> None:
    sent = [JOINED, frame(0), frame(1), GAP, frame(5), LEFT]
    async with subscription_and_server(*sent, closed(1)) as (_, stream, _):
        assert stream.room == ROOM_TEXT
        assert [item async for item in stream] == sent
        assert stream.closed is not None
        assert stream.closed.reason == messages.RoomClosedReason.REMOVED


@pytest.mark.parametrize("reason", [2, 3, 4, 99])
async def test_a_room_that_ends_otherwise_is_an_error(reason: int) -> None:
    async with subscription_and_server(frame(0), closed(reason, "why")) as (_, stream, _):
        assert await anext(stream) == frame(0)
        for _ in range(2):
            with pytest.raises(RoomClosed, match=ROOM_TEXT) as caught:
                await anext(stream)
            assert caught.value.reason == reason


async def test_what_was_read_comes_before_the_end_of_the_connection() -> None:
    async with subscription_and_server(frame(0), frame(1)) as (_, stream, server):
        await server.send(messages.Close(code=1005, retry=True, retry_after_ms=0, text=""))
        await wait_all_tasks_blocked()
        assert await anext(stream) == frame(0)
        assert await anext(stream) == frame(1)
        with pytest.raises(ConnectionClosed) as caught:
            await anext(stream)
        assert caught.value.code == Code.SLOW_CONSUMER


async def test_waiting_and_not_waiting() -> None:
    async with subscription_and_server() as (_, stream, server), trio.open_nursery() as nursery:
        with pytest.raises(trio.WouldBlock):
            stream.receive_nowait()
        got: list[object] = []

        async def take() -> None:
            got.append(await anext(stream))

        nursery.start_soon(take)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await anext(stream)
        await server.send(frame(0), frame(1))
        await wait_all_tasks_blocked()
        assert got == [frame(0)]
        assert stream.receive_nowait() == frame(1)


async def test_cancelled_while_waiting_nothing_is_lost() -> None:
    async with subscription_and_server() as (_, stream, server):
        seen = []
        for seq in range(50):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.send, frame(seq))
                with trio.move_on_after(0):
                    seen.append(await anext(stream))
        await wait_all_tasks_blocked()
        while stream._queue:
            seen.append(stream.receive_nowait())
        assert seen == [frame(seq) for seq in range(50)]


async def test_the_request_says_where_to_start() -> None:
    async with client_and_server() as (client, server), trio.open_nursery() as nursery:
        requests: list[messages.Subscribe] = []

        async def serve() -> None:
            requests.append(await server.answer(messages.Subscribe, subscribed()))
            await server.expect(messages.Unsubscribe)
            requests.append(await server.answer(messages.Subscribe, subscribed()))

        nursery.start_soon(serve)
        async with client.subscribe(ROOM):
            pass
        async with client.subscribe(ROOM, start="live"):
            pass
        with pytest.raises(ValueError, match="'group', 'live'"):
            async with client.subscribe(ROOM, start="now"):  # type: ignore[arg-type]
                raise AssertionError("not reached")
    assert [request.start for request in requests] == [0, 1]
    assert all(request.credit >= 1_048_576 for request in requests)


async def test_a_refused_subscription() -> None:
    async with client_and_server() as (client, server), trio.open_nursery() as nursery:
        nursery.start_soon(server.refuse, messages.Subscribe, Code.NO_SUCH_ROOM)
        with pytest.raises(NoSuchRoom):
            async with client.subscribe(ROOM):
                raise AssertionError("not reached")


async def test_late_frames_of_a_left_room_are_dropped_and_it_can_be_joined_again() -> None:
    async with subscription_and_server(frame(0)) as (client, stream, server):
        client._close_subscription(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        await server.expect(messages.Unsubscribe)
        await server.send(frame(1), GAP, closed(1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.answer, messages.Subscribe, subscribed(), frame(2))
            async with client.subscribe(ROOM) as again:
                assert await anext(again) == frame(2)
                assert again.closed is None
        assert client._connection.budget.held_bytes == 0


async def test_after_the_rooms_end_nothing_is_unsubscribed() -> None:
    async with client_and_server() as (client, server), trio.open_nursery() as nursery:
        nursery.start_soon(server.answer, messages.Subscribe, subscribed(), closed(1))
        async with client.subscribe(ROOM) as stream:
            assert [item async for item in stream] == []
    await server.expect(messages.Close)


async def test_a_slow_user_stops_the_reading_within_its_bytes() -> None:
    bounds = Bounds(receive_buffer_bytes=10_000)
    async with subscription_and_server(bounds=bounds) as (client, stream, server):
        budget = client._connection.budget
        sent = [frame(seq, b"x" * 1000) for seq in range(100)]
        for one in sent[:50]:
            await server.send(one)
            await wait_all_tasks_blocked()
        assert 10_000 <= budget.held_bytes <= 11_500
        for one in sent[50:]:
            await server.send(one)
        # Taking goes on where it stopped, with every frame.
        assert [await anext(stream) for _ in sent] == sent
        assert budget.held_bytes == 0


async def test_a_request_is_answered_while_the_user_is_slow() -> None:
    bounds = Bounds(receive_buffer_bytes=10_000)
    async with subscription_and_server(bounds=bounds) as (client, stream, server):
        for seq in range(30):
            await server.send(frame(seq, b"x" * 1000))
            await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.answer, messages.Grant, messages.GrantAnswer())
            # From the loop's own body, where nobody else makes room.
            await client.grant(ROOM, "bob")
        assert [await anext(stream) for _ in range(30)] == [
            frame(seq, b"x" * 1000) for seq in range(30)
        ]


async def test_a_reliable_subscription_grants_what_it_consumed() -> None:
    bounds = Bounds(receive_buffer_bytes=1000)
    window = 2 * 1_048_576  # backlog_bytes and max_frame_bytes: the server takes less for that
    sent = [frame(seq, b"x" * 100_000) for seq in range(18)]
    async with subscription_and_server(mode=RoomMode.RELIABLE, bounds=bounds) as (
        client,
        stream,
        server,
    ):
        for one in sent:
            await server.send(one)
        await wait_all_tasks_blocked()
        # Never a reason to stop reading: the credit bounds it.
        assert not client._connection.budget.spent
        for _ in sent[:11]:
            assert isinstance(await anext(stream), StreamFrame)
        await wait_all_tasks_blocked()
        credit, number = await server.expect(messages.Credit)
        assert number == 0
        assert (credit.room, credit.source) == (ROOM, 7)
        assert (credit.limit - window) % 100_036 == 0  # whole frames, by runs as they came
        assert credit.limit - window >= window // 2


async def test_what_was_there_before_a_reliable_subscription_costs_no_credit() -> None:
    track = messages.TrackInfo(track=0, state=0, last_seq=29)
    source = messages.SourceInfo(source=7, account="bob", left=False, tracks=[track])
    window = 2 * 1_048_576
    async with client_and_server() as (client, server), trio.open_nursery() as nursery:
        answer = subscribed(source, mode=RoomMode.RELIABLE)
        nursery.start_soon(server.answer, messages.Subscribe, answer)
        bounds = Bounds(receive_buffer_bytes=1)
        client._connection.bounds = bounds
        async with client.subscribe(ROOM) as stream:
            # 30 held frames, and 12 new ones right behind: in one run, or in several.
            for first in range(0, 42, 6):
                await server.send(*(frame(seq, b"x" * 100_000) for seq in range(first, first + 6)))
                for seq in range(first, first + 6):
                    item = await anext(stream)
                    assert isinstance(item, StreamFrame)
                    assert item.seq == seq
                if first == 24:  # all that was held has been taken
                    with trio.move_on_after(0.05) as nothing:
                        await server.next_item()
                    assert nothing.cancelled_caught, "credit for what was held"
            credit, _ = await server.expect(messages.Credit)
            assert 1_048_576 <= credit.limit - window <= 12 * 100_036
            assert (credit.limit - window) % 100_036 == 0


async def test_repeats_give_their_credit_back() -> None:
    """Of what is not handed to the user, nobody else would ever say that it was taken."""
    window = 2 * 1_048_576
    bounds = Bounds(receive_buffer_bytes=1)
    async with client_and_server(bounds=bounds) as (client, server):
        feed = Feed.opened(client._connection, Taker(), subscribed(mode=RoomMode.RELIABLE))
        decoder = Decoder(max_frame_bytes=2**24, max_init_bytes=2**24)
        for first in range(0, 22, 2):
            data = [encode_stream_frame(frame(seq, b"x" * 100_000)) for seq in (first, first + 1)]
            (run,) = decoder.feed(b"".join(data))
            (last,) = decoder.feed(data[1])
            assert isinstance(run, Run) and isinstance(last, Run)
            feed.skip(run, (last,))
        credit, _ = await server.expect(messages.Credit)
        assert credit.limit == window + 11 * 100_036


class Taker:
    """Takes nothing, for it is not asked."""

    def deliver(self, feed: Feed, item: object) -> None:
        raise AssertionError

    def close(self, feed: Feed, event: object) -> None:
        raise AssertionError

    def lose(self, feed: Feed, error: Exception) -> None:
        raise AssertionError


async def test_two_rooms_on_one_connection() -> None:
    other = ROOM + 1
    answer = messages.SubscribeAnswer(
        room=other, mode=RoomMode.LIVE, gather_ms=0, sources=[], path=[]
    )
    following = (answer, frame(5, room=other), frame(0), closed(1))
    async with (
        subscription_and_server() as (client, stream, server),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(server.answer, messages.Subscribe, *following)
        async with client.subscribe(other) as second:
            assert await anext(second) == frame(5, room=other)
            assert [item async for item in stream] == [frame(0)]
            with pytest.raises(trio.WouldBlock):
                second.receive_nowait()
