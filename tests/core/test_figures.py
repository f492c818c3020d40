"""What operators are told, against what was done and what peers really got."""

from __future__ import annotations

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.core.builders import (
    END,
    INIT,
    KEY,
    LIMITS,
    ROOM,
    Peer,
    TrackWriter,
    fill,
    join,
    make_peer,
    make_room,
    open_source,
)
from tim_trio.core import figures
from tim_trio.core.manager import RoomManager
from tim_trio.core.member import LINK_PREFIX
from tim_trio.core.node import Node
from tim_trio.core.room import Room
from tim_trio.core.sources import Source
from tim_trio.errors import Code, RoomError
from tim_trio.limits import KIB
from tim_trio.protocol.messages import (
    Gap,
    NodeFigures,
    NodeFiguresAnswer,
    Right,
    RoomFigures,
    RoomFiguresAnswer,
    RoomMode,
    StartFrom,
    SubscriberFigures,
    SubscriberFiguresAnswer,
    SubscriberLoad,
    SubscriberState,
    encode,
)
from tim_trio.protocol.stream import StreamFrame

FRAME = 1000
LAGGING = SubscriberState.LAGGING


class _Log:
    def info(self, event: str, **fields: object) -> None:
        pass


class Scene:
    """A manager with one room, its publisher, and an operator."""

    def __init__(self, mode: RoomMode = RoomMode.LIVE, **changes: int) -> None:
        self.node = Node(attrs.evolve(LIMITS, **changes))
        self.node.started_at = 100.0
        self.manager = RoomManager(self.node, _Log())
        self.room: Room = make_room(self.node, mode=mode)
        self.manager.rooms[ROOM] = self.room
        self.node.rooms = 1
        self.publisher = make_peer(self.node)
        self.operator = make_peer(self.node, account="root", rights=Right.OPERATOR)
        self.source: Source = open_source(self.room, self.publisher)
        self.writer = TrackWriter()

    def subscriber(self, account: str = "bob", *, budget: int | None = None) -> Peer:
        peer = make_peer(self.node, account=account, budget=budget)
        join(self.room, peer, credit=2**50)
        return peer

    def push(self, *flags: int, size: int = FRAME, now: float = 0.0) -> None:
        self.room.push(self.source, self.writer.run(*flags, size=size), now)

    def ask(
        self, request: figures.FiguresRequest, asker: Peer, now: float = 0.0
    ) -> figures.FiguresAnswer:
        return trio.run(figures.answer, self.manager, asker.member, request, now)

    def subscribers(self, limit: int = 0, now: float = 0.0) -> SubscriberFiguresAnswer:
        request = SubscriberFigures(node="", room=ROOM, limit=limit)
        answer = self.ask(request, self.operator, now)
        assert isinstance(answer, SubscriberFiguresAnswer)
        return answer

    def only(self, now: float = 0.0) -> SubscriberLoad:
        (load,) = self.subscribers(now=now).subscribers
        return load

    def rooms(self, after: int = 0, limit: int = 0) -> RoomFiguresAnswer:
        request = RoomFigures(node="", after=after, limit=limit)
        answer = self.ask(request, self.operator)
        assert isinstance(answer, RoomFiguresAnswer)
        return answer

    def of_node(self, now: float = 0.0) -> NodeFiguresAnswer:
        answer = self.ask(NodeFigures(node=""), self.operator, now)
        assert isinstance(answer, NodeFiguresAnswer)
        return answer


def names(answer: SubscriberFiguresAnswer) -> list[str]:
    return [load.account for load in answer.subscribers]


# Who may


@pytest.mark.parametrize(
    "request_",
    [
        NodeFigures(node=""),
        RoomFigures(node="", after=0, limit=0),
        SubscriberFigures(node="", room=ROOM, limit=0),
    ],
)
def test_strangers_are_refused(request_: figures.FiguresRequest) -> None:
    scene = Scene()
    stranger = make_peer(scene.node, account="eve")
    with pytest.raises(RoomError) as caught:
        scene.ask(request_, stranger)
    assert caught.value.code is Code.PERMISSION_DENIED


def test_a_creator_sees_who_watches_its_room_and_nothing_else() -> None:
    scene = Scene()
    scene.subscriber()
    ask = SubscriberFigures(node="", room=ROOM, limit=0)
    answer = scene.ask(ask, scene.publisher)
    assert isinstance(answer, SubscriberFiguresAnswer)
    assert names(answer) == ["bob"]
    with pytest.raises(RoomError) as caught:
        scene.ask(NodeFigures(node=""), scene.publisher)
    assert caught.value.code is Code.PERMISSION_DENIED


@pytest.mark.parametrize("asker", ["publisher", "operator"])
def test_a_room_that_is_not_there(asker: str) -> None:
    scene = Scene()
    with pytest.raises(RoomError) as caught:
        scene.ask(SubscriberFigures(node="", room=ROOM + 1, limit=0), getattr(scene, asker))
    assert caught.value.code is Code.NO_SUCH_ROOM


def test_another_node() -> None:
    scene = Scene()
    named = scene.ask(NodeFigures(node="node"), scene.operator)
    assert named.node == "node"
    with pytest.raises(RoomError) as caught:
        scene.ask(NodeFigures(node="elsewhere"), scene.operator)
    assert caught.value.code is Code.BAD_REQUEST


# A node


def test_a_nodes_figures() -> None:
    scene = Scene()
    scene.subscriber()
    scene.push(KEY, size=500)
    answer = scene.of_node(now=102.5)
    values = {figure.name: figure.value for figure in answer.figures}
    assert (answer.node, answer.uptime_ms, answer.nodes) == ("node", 2500, [])
    assert values.pop("cpu_ms") > 0
    assert values == scene.node.figures()
    assert (values["frames_in"], values["bytes_out"], values["subscribed"]) == (1, 500, 1)
    assert scene.of_node(now=99.0).uptime_ms == 0


def test_a_nodes_figures_fit_into_a_frame() -> None:
    scene = Scene()
    for number in range(500):
        scene.node.count_limit(f"limit_number_{number}")
    answer = scene.of_node()
    assert len(encode(answer, 1)) <= LIMITS.max_frame_bytes // 2
    assert 30 < len(answer.figures) < 500


# Rooms


def test_a_rooms_figures() -> None:
    scene = Scene()
    scene.subscriber("slow", budget=0)
    scene.subscriber("bob")
    scene.push(KEY)
    for _ in range(6):
        scene.push(0)
    (load,) = scene.rooms().rooms
    assert (load.room, load.mode, load.creator) == (ROOM, RoomMode.LIVE, "alice")
    assert (load.viewers, load.sources, load.nodes) == (2, 1, [])
    assert (load.frames, load.bytes) == (7, 7 * FRAME)
    # Its answer to SUBSCRIBE, which does not count, and four frames fit.
    assert (load.lagging, load.gaps, load.lost) == (1, 0, 3)
    assert (scene.node.lost, scene.node.lost_bytes) == (3, 3 * FRAME)


def test_pages_of_rooms() -> None:
    scene = Scene()
    for number in range(1, 5):
        scene.manager.rooms[ROOM + number] = Room(
            *(ROOM + number, "alice", RoomMode.LIVE, 0, 300.0, 0.0, scene.node, "node"),
            flush_at=lambda room, when: None,
        )
    first = scene.rooms(limit=3)
    assert (first.more, [load.room - ROOM for load in first.rooms]) == (True, [0, 1, 2])
    second = scene.rooms(after=ROOM + 2, limit=3)
    assert (second.more, [load.room - ROOM for load in second.rooms]) == (False, [3, 4])


def test_many_are_looked_at_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "_IN_ONE_TURN", 2)
    scene = Scene()
    for number in range(1, 7):
        scene.manager.rooms[ROOM + number] = Room(
            *(ROOM + number, "alice", RoomMode.LIVE, 0, 300.0, 0.0, scene.node, "node"),
            flush_at=lambda room, when: None,
        )
        scene.subscriber(f"{number}", budget=0 if number == 5 else None)
    scene.push(KEY)

    async def remove_meanwhile() -> tuple[figures.FiguresAnswer, figures.FiguresAnswer]:
        async with trio.open_nursery() as nursery:

            async def remove() -> None:
                scene.manager.rooms.pop(ROOM + 6)

            nursery.start_soon(remove)
            member = scene.operator.member
            request = RoomFigures(node="", after=ROOM, limit=0)
            rooms = await figures.answer(scene.manager, member, request, 0.0)
            watch = SubscriberFigures(node="", room=ROOM, limit=2)
            return rooms, await figures.answer(scene.manager, member, watch, 0.0)

    rooms, subscribers = trio.run(remove_meanwhile)
    assert isinstance(rooms, RoomFiguresAnswer)
    assert [load.room - ROOM for load in rooms.rooms] == [1, 2, 3, 4, 5]
    assert isinstance(subscribers, SubscriberFiguresAnswer)
    assert names(subscribers) == ["5", "1"]


def test_a_page_of_rooms_fits_into_a_frame() -> None:
    scene = Scene()
    for number in range(1, 60):
        scene.manager.rooms[ROOM + number] = Room(
            *(ROOM + number, "é" * 100, RoomMode.LIVE, 0, 300.0, 0.0, scene.node, "node"),
            flush_at=lambda room, when: None,
        )
    answer = scene.rooms()
    assert answer.more and len(answer.rooms) > 8
    assert len(encode(answer, 1)) <= LIMITS.max_frame_bytes
    sizes = [figures.load_bytes(load) for load in answer.rooms]
    assert sum(sizes) >= len(encode(answer, 1)) - 40


# Subscribers


def test_who_keeps_up() -> None:
    scene = Scene()
    scene.push(KEY)
    peer = make_peer(scene.node, account="bob")
    scene.room.subscribe(peer.member, StartFrom.GROUP, 0, 1, 2.0)
    scene.push(0)
    scene.push(0)
    load = scene.only(now=5.0)
    assert load == SubscriberLoad(
        number=1,
        account="bob",
        state=0,
        age_ms=3000,
        frames=2,  # the cached group came with the answer
        bytes=2 * FRAME,
        pending_bytes=0,
        pending_ms=0,
        gaps=0,
        lost=0,
    )
    assert scene.only(now=1.0).age_ms == 0


def test_who_lags() -> None:
    scene = Scene()
    slow = scene.subscriber(budget=0)
    scene.push(KEY, now=1.0)
    for _ in range(5):
        scene.push(0, now=1.5)
    load = scene.only(now=1.75)
    assert (load.state, load.gaps, load.lost) == (LAGGING, 0, 2)
    assert (load.pending_bytes, load.pending_ms) == (4 * FRAME, 750)
    assert (load.frames, load.bytes) == (4, 0)
    assert scene.only(now=0.5).pending_ms == 0
    slow.drain()
    scene.push(KEY)
    load = scene.only()
    assert (load.state, load.gaps, load.lost) == (0, 1, 2)
    assert (load.pending_bytes, load.frames, load.bytes) == (0, 5, 5 * FRAME)
    assert scene.rooms().rooms[0].gaps == 1
    slow.wire.budget = 0
    scene.push(0, now=0.0)
    assert scene.only(now=1e9).pending_ms == 2**32 - 1


def test_a_newcomer_that_waits_for_its_first_key_has_lost_nothing() -> None:
    scene = Scene(room_cache_bytes=0)
    scene.push(KEY)
    scene.subscriber()
    scene.push(0)
    load = scene.only()
    assert (load.state, load.frames, load.bytes) == (SubscriberState.WAITS_FOR_KEY, 0, 0)
    assert (load.lost, scene.node.lost, scene.room.tally.lagging) == (0, 0, 0)
    scene.push(KEY)
    assert (scene.only().state, scene.only().frames) == (0, 1)


def test_those_furthest_behind_come_first() -> None:
    scene = Scene()
    for name in ("quick", "also quick"):
        scene.subscriber(name)
    waiting = scene.subscriber("waits", budget=0)
    lagging = scene.subscriber("lags", budget=0)
    scene.push(KEY)
    fill(lagging, 8 * KIB)
    scene.push(0)
    waiting.wire.budget = 0
    answer = scene.subscribers()
    assert (answer.total, answer.behind) == (4, 2)
    assert names(answer) == ["lags", "waits", "quick", "also quick"]
    assert names(scene.subscribers(limit=1)) == ["lags"]
    assert names(scene.subscribers(limit=3)) == ["lags", "waits", "quick"]


def test_subscribers_fit_into_a_frame() -> None:
    scene = Scene()
    for number in range(40):
        scene.subscriber(f"{number}" + "é" * 60)
    answer = scene.subscribers()
    assert answer.total == 40 > len(answer.subscribers) > 15
    assert len(encode(answer, 1)) <= LIMITS.max_frame_bytes


def test_a_link_to_another_node() -> None:
    scene = Scene()
    scene.subscriber(LINK_PREFIX + "b")
    load = scene.only()
    assert (load.account, load.state) == ("b", SubscriberState.NODE)


def test_a_reliable_room() -> None:
    scene = Scene(RoomMode.RELIABLE)
    slow = scene.subscriber(budget=0)
    scene.subscriber("quick")
    for _ in range(4):
        scene.push(0)
    answer = scene.subscribers()
    assert (answer.total, answer.behind, names(answer)) == (2, 1, ["bob", "quick"])
    load = answer.subscribers[0]
    assert load.state == 0
    assert (load.frames, load.bytes, load.pending_bytes) == (4, 0, 4 * FRAME)
    assert load.pending_ms == load.lost == 0
    scene.push(0)
    load = scene.subscribers().subscribers[0]
    assert load.state == SubscriberState.HOLDS_UP
    slow.drain()
    answer = scene.subscribers()
    assert (answer.behind, answer.subscribers[0].bytes) == (0, 5 * FRAME)


def test_a_reliable_source_that_a_subscriber_does_not_take() -> None:
    scene = Scene(RoomMode.RELIABLE)
    peer = make_peer(scene.node, account="bob")
    join(scene.room, peer, credit=0)
    for _ in range(8):
        scene.push(0, size=900)
    # Everything is with the kernel, but it has granted no more.
    load = scene.only()
    assert (load.pending_bytes, load.state) == (0, SubscriberState.HOLDS_UP)


_FLAGS = st.sampled_from(
    [(0,), (0,), (0, 0), (KEY,), (KEY, 0), (0, KEY, 0), (INIT,), (INIT | KEY,)]
)


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["push", "push", "push", "block", "drain"]), _FLAGS),
        max_size=40,
    ),
    ends=st.booleans(),
)
def test_figures_are_what_a_subscriber_gets(
    steps: list[tuple[str, tuple[int, ...]]], ends: bool
) -> None:
    scene = Scene(max_init_bytes=KIB)
    peer = scene.subscriber()
    peer.new()
    got = inits_by_the_way = lost = 0

    def take() -> None:
        nonlocal got, inits_by_the_way, lost
        gaps: list[Gap] = []
        for item in peer.new():
            if isinstance(item, Gap):
                gaps.append(item)
                lost += item.last_seq - item.first_seq + 1
            elif isinstance(item, StreamFrame):
                got += 1
                if any(gap.first_seq <= item.seq <= gap.last_seq for gap in gaps):
                    # A changed INIT, which is never left out.
                    inits_by_the_way += 1

    for action, flags in steps:
        match action:
            case "push":
                scene.push(*flags)
            case "block":
                peer.wire.budget = 0
            case "drain":
                peer.drain()
                take()
    if ends:
        scene.push(END)
    peer.drain()
    take()
    load = scene.only()
    assert load.frames == got - inits_by_the_way
    assert load.bytes == load.frames * FRAME
    assert load.pending_bytes == 0
    lagging = bool(load.state & LAGGING)
    assert load.lost >= lost if lagging else load.lost == lost
    assert scene.node.lost == scene.room.tally.lost == load.lost
    assert scene.node.lagging == scene.room.tally.lagging == lagging
    # A newcomer of now begins at 0, whatever has been.
    late = make_peer(scene.node, account="late")
    join(scene.room, late)
    by_account = {each.account: each for each in scene.subscribers().subscribers}
    assert (by_account["late"].frames, by_account["late"].bytes) == (0, 0)
    assert by_account["bob"] == load


def test_every_subscription_has_a_number_of_its_own() -> None:
    scene = Scene()
    for _ in range(3):
        scene.subscriber()
    numbers = [load.number for load in scene.subscribers().subscribers]
    assert numbers == [1, 2, 3]
