"""Figures through the client library, against a real server."""

from __future__ import annotations

import pytest
import trio

import tim_trio
from tests.net.running import running_server
from tests.net.scripted_server import client_and_server
from tests.net.test_client import client
from tim_trio.cli.status import describe_node, describe_rooms, describe_subscribers
from tim_trio.errors import NoSuchRoom
from tim_trio.net.client import NodeView, RoomsView
from tim_trio.protocol import messages
from tim_trio.protocol.messages import (
    NodeEntry,
    NodeState,
    RoomLoad,
    RoomMode,
    SubscriberFiguresAnswer,
    SubscriberLoad,
    SubscriberState,
)
from tim_trio.protocol.room_ids import FIRST_ROOM_ID, format_room_id

ROOM = FIRST_ROOM_ID


async def test_what_an_operator_sees() -> None:
    async with (
        running_server() as running,
        client(running) as alice,
        client(running, "bob") as bob,
    ):
        room = await alice.register_room()
        before = await alice.figures.node()
        async with alice.publish(room) as source, bob.subscribe(room) as stream:
            await source.send(b"x" * 100, key=True)
            await anext(stream)
            after = await alice.figures.node()
            assert after.node == running.server.node_name
            assert after.uptime_ms >= before.uptime_ms
            assert after.figures["frames_in"] == before.figures["frames_in"] + 1
            assert (after.figures["rooms"], after.figures["subscriptions"]) == (1, 1)
            assert after.nodes == []
            (load,) = (await alice.figures.rooms()).rooms
            assert (load.viewers, load.sources, load.frames, load.bytes) == (1, 1, 1, 136)
            answer = await alice.figures.subscribers(room)
            (subscriber,) = answer.subscribers
            assert (answer.total, answer.behind) == (1, 0)
            assert (subscriber.account, subscriber.state) == ("bob", 0)
            assert (subscriber.frames, subscriber.bytes) == (1, 136)
            assert await alice.figures.subscribers(load.room, limit=5) is not None
        with pytest.raises(tim_trio.RoomError, match="no such node"):
            await alice.figures.node("elsewhere")
        with pytest.raises(NoSuchRoom):
            await alice.figures.subscribers(ROOM)


def load(number: int, **changes: object) -> RoomLoad:
    fields: dict[str, object] = {
        "mode": RoomMode.LIVE,
        "creator": "alice",
        "viewers": 2,
        "sources": 1,
        "frames": 10,
        "bytes": 1000,
        "lagging": 0,
        "gaps": 0,
        "lost": 0,
        "nodes": [],
    }
    return RoomLoad(room=ROOM + number, **{**fields, **changes})  # type: ignore[arg-type]


async def test_pages_of_rooms() -> None:
    pages = [([1, 2], True), ([3], True), ([], True)]
    async with client_and_server() as (client, server):
        asked: list[int] = []

        async def serve() -> None:
            for rooms, more in pages:
                answer = messages.RoomFiguresAnswer(
                    node="n", uptime_ms=len(asked), more=more, rooms=[load(room) for room in rooms]
                )
                asked.append((await server.answer(messages.RoomFigures, answer)).after)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            view = await client.figures.rooms()
        assert asked == [0, ROOM + 2, ROOM + 3]
        assert [each.room - ROOM for each in view.rooms] == [1, 2, 3]
        assert view.uptime_ms == 2


# In words


def test_a_node_in_words() -> None:
    def view(uptime_ms: int, **figures: int) -> NodeView:
        nodes = [
            NodeEntry(node="a", address="10.0.0.1:1", state=0),
            NodeEntry(node="b", address="10.0.0.2:1", state=NodeState.LINKED | NodeState.DRAINING),
        ]
        return NodeView(node="a", uptime_ms=uptime_ms, figures=figures, nodes=nodes)

    before = view(60_000, bytes_in=0, bytes_out=0, lost_bytes=0, cpu_ms=0)
    after = view(
        62_000,
        bytes_in=4000,
        bytes_out=9000,
        lost_bytes=1000,
        cpu_ms=500,
        rooms=3,
        lagging=1,
        subscriptions=9,
        connections=10,
        backlog_bytes=2_000_000,
        lost=7,
        gaps=2,
    )
    text = describe_node(before, after)
    assert text.splitlines() == [
        "node     a, up 0:01:02, 25 % of a core",
        "serving  3 rooms, 9 subscriptions, 10 connections",
        "in       2.00 kB/s, 0 frames/s",
        "out      4.00 kB/s, 2.00 MB waiting",
        "lagging  1 now; 4 frames/s lost, 7 since the start in 2 gaps",
        "member   a  10.0.0.1:1",
        "member   b  10.0.0.2:1  draining linked",
    ]


def test_rooms_in_words() -> None:
    before = RoomsView(node="a", uptime_ms=1000, rooms=[load(0), load(1, bytes=0)])
    after = RoomsView(
        node="a",
        uptime_ms=3000,
        rooms=[load(0), load(1, bytes=5000, lagging=2, lost=9), load(2, viewers=7)],
    )
    lines = describe_rooms(before, after, 2).splitlines()
    busiest = (format_room_id(ROOM + 1), "live", "2", "1", "2.50", "kB/s", "2", "9", "alice")
    assert lines[1].split() == [*busiest]
    assert lines[2].split()[1:4] == ["live", "7", "1"]
    assert lines[3:] == ["and 1 more"]
    assert "more" not in describe_rooms(before, after, 3)


def test_subscribers_in_words() -> None:
    def subscriber(number: int, state: int, **changes: int) -> SubscriberLoad:
        fields = {"age_ms": 61_000, "frames": 1, "bytes": 0, "pending_bytes": 0, "pending_ms": 0}
        fields |= {"gaps": 0, "lost": 0}
        return SubscriberLoad(number=number, account="bob", state=state, **{**fields, **changes})

    def answer(uptime_ms: int, *subscribers: SubscriberLoad) -> SubscriberFiguresAnswer:
        return SubscriberFiguresAnswer(
            node="a", uptime_ms=uptime_ms, total=9, behind=1, subscribers=list(subscribers)
        )

    before = answer(0, subscriber(1, 0))
    slow = {"bytes": 3000, "pending_bytes": 1000, "pending_ms": 1500, "lost": 4, "gaps": 2}
    after = answer(
        1000,
        subscriber(1, SubscriberState.LAGGING | SubscriberState.WAITS_FOR_KEY, **slow),
        *(subscriber(2 + at, state) for at, state in enumerate([2, 4, 8, 0])),
    )
    lines = describe_subscribers(before, after, 10).splitlines()
    assert lines[1].split() == [
        *("bob", "lagging", "3.00", "kB/s", "1.00", "kB", "1.5", "s", "4", "2", "0:01:01")
    ]
    states = [line[22:31].strip() for line in lines[2:6]]
    assert states == ["starting", "holds up", "node", "keeps up"]
    assert lines[6] == "and 4 more"
    assert describe_subscribers(before, after, 2).splitlines()[-1] == "and 7 more"
