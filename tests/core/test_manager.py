"""Rooms on a node: who may do what, how they are found, and when they end."""

import secrets
from collections.abc import Awaitable, Callable, Iterator

import pytest
import trio

from tests.core.builders import (
    KEY,
    TOKEN,
    Log,
    Peer,
    TrackWriter,
    enter,
    is_idle,
    make_manager,
    of_kind,
)
from tim_trio.core.directory import MemoryDirectory, RoomRecord
from tim_trio.core.manager import RoomManager, draw_room_id
from tim_trio.core.room import Room
from tim_trio.core.sources import Source
from tim_trio.errors import ClusterError, Code, RoomError
from tim_trio.protocol.messages import (
    Close,
    ListRoomsAnswer,
    ListScope,
    PublishAnswer,
    PushAsked,
    PushGranted,
    PushRevoked,
    Right,
    Role,
    RoomClosed,
    RoomClosedReason,
    RoomMode,
    SourceLeft,
    SourceLeftReason,
    StartFrom,
    Viewers,
    encode,
)
from tim_trio.protocol.room_ids import END_ROOM_ID, FIRST_ROOM_ID, is_room_id

OTHER_TOKEN = bytes(16)
BOTH = Right.REGISTER_ROOMS | Right.OPERATOR


class Node:
    """A manager and the connections of its node."""

    def __init__(self, **limits: object) -> None:
        self.manager: RoomManager = make_manager(**limits)
        self.alice: Peer = enter(self.manager, "alice")

    def peer(self, account: str, rights: Right = Right.REGISTER_ROOMS) -> Peer:
        return enter(self.manager, account, rights=rights)

    async def room(
        self, peer: Peer | None = None, *, idle_timeout_s: int = 0, now: float = 0.0
    ) -> Room:
        creator = (peer or self.alice).member
        return await self.manager.register(creator, RoomMode.LIVE, 0, idle_timeout_s, now)

    def subscribe(self, peer: Peer, number: int) -> None:
        self.manager.subscribe(peer.member, number, StartFrom.GROUP, 0, 1, 0.0)

    def publish(self, peer: Peer, number: int, token: bytes = TOKEN) -> Source:
        self.manager.publish(peer.member, number, token, 1, 0.0)
        (answer,) = of_kind(PublishAnswer, peer.new())
        return peer.member.sources[number, answer.source][1]

    async def grant(self, room: Room, account: str) -> None:
        await self.manager.grant(self.alice.member, room.number, account, 0.0)

    @property
    def log(self) -> Log:
        assert isinstance(self.manager.log, Log)
        return self.manager.log


@pytest.fixture
def node() -> Node:
    return Node()


def draws(*numbers: int) -> Callable[[], int]:
    """Return a generator of ids that repeats its last one for ever."""
    each: Iterator[int] = iter(numbers)
    last = numbers[-1]
    return lambda: next(each, last)


async def refusal(act: Awaitable[object]) -> Code:
    with pytest.raises(RoomError) as caught:
        await act
    return Code(caught.value.code)


async def later(act: Callable[[], object]) -> object:
    return act()


# Registering


async def test_a_room_is_registered_recorded_and_logged(node: Node) -> None:
    room = await node.room(idle_timeout_s=60, now=5.0)
    assert is_room_id(room.number)
    assert node.manager.rooms == {room.number: room}
    assert (room.creator, room.mode, room.idle_timeout_s, room.created_at) == (
        "alice",
        RoomMode.LIVE,
        60,
        5.0,
    )
    assert node.manager.node.rooms == 1
    assert node.log.lines == [("room registered", {"room": str(room), "account": "alice"})]


def test_drawn_ids_are_room_ids_from_the_whole_range(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(is_room_id(draw_room_id()) for _ in range(100))
    monkeypatch.setattr(secrets, "randbelow", lambda bound: bound - 1)
    assert draw_room_id() == END_ROOM_ID - 1
    monkeypatch.setattr(secrets, "randbelow", lambda _: 0)
    assert draw_room_id() == FIRST_ROOM_ID


async def test_ids_never_repeat_even_when_the_generator_does(node: Node) -> None:
    first, second, third = (FIRST_ROOM_ID + n for n in range(3))
    node.manager.draw = draws(first, first, second, first, second, third)
    live = await node.room()
    ended = await node.room()
    assert (live.number, ended.number) == (first, second)
    await node.manager.remove(node.alice.member, second, 0.0)
    assert (await node.room()).number == third


async def test_a_generator_that_only_repeats_itself_is_given_up(node: Node) -> None:
    node.manager.draw = draws(FIRST_ROOM_ID)
    await node.room()
    assert await refusal(node.room()) is Code.UNAVAILABLE
    assert len(node.manager.rooms) == 1


async def test_a_directory_that_fails_uses_up_none_of_the_accounts_rooms() -> None:
    class Broken(MemoryDirectory):
        async def add_room(self, record: RoomRecord) -> bool:
            raise ClusterError

    node = Node(max_rooms_per_account=1)
    working = node.manager.directory
    node.manager.directory = Broken()
    for _ in range(2):
        with pytest.raises(ClusterError):
            await node.room()
    assert node.manager.rooms == {}
    node.manager.directory = working
    await node.room()


async def test_requests_side_by_side_do_not_pass_the_limit_together() -> None:
    class Slow(MemoryDirectory):
        async def add_room(self, record: RoomRecord) -> bool:
            await trio.lowlevel.checkpoint()
            return await super().add_room(record)

    node = Node(max_rooms_per_account=1)
    node.manager.directory = Slow()
    outcomes: list[object] = []

    async def ask() -> None:
        try:
            outcomes.append(await node.room())
        except RoomError as error:
            outcomes.append(error.code)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        nursery.start_soon(ask)
    assert len(node.manager.rooms) == 1
    assert outcomes.count(Code.TOO_MANY_ROOMS) == 1


async def test_registering_needs_the_right(node: Node) -> None:
    assert await refusal(node.room(node.peer("bob", Right(0)))) is Code.PERMISSION_DENIED


@pytest.mark.parametrize("gather_ms, is_taken", [(0, True), (1000, True), (1001, False)])
async def test_gather_is_bounded(node: Node, gather_ms: int, is_taken: bool) -> None:
    act = node.manager.register(node.alice.member, RoomMode.LIVE, gather_ms, 0, 0.0)
    if is_taken:
        assert (await act).gather_ms == gather_ms
    else:
        assert await refusal(act) is Code.BAD_REQUEST


@pytest.mark.parametrize("asked, given", [(0, 300.0), (20, 20), (300, 300), (9999, 300.0)])
async def test_the_idle_timeout_is_the_default_at_0_and_at_most_the_limit(
    node: Node, asked: int, given: float
) -> None:
    assert (await node.room(idle_timeout_s=asked)).idle_timeout_s == given


async def test_rooms_are_bounded_per_account() -> None:
    node = Node(max_rooms_per_account=1)
    room = await node.room()
    assert await refusal(node.room()) is Code.TOO_MANY_ROOMS
    await node.room(node.peer("bob"))
    await node.manager.remove(node.alice.member, room.number, 0.0)
    await node.room()


async def test_rooms_are_bounded_in_all() -> None:
    node = Node(max_rooms=1)
    await node.room()
    assert await refusal(node.room(node.peer("bob"))) is Code.TOO_MANY_ROOMS


# Permissions: the seven operations and the roles

#: What each role may do in a room of alice's; "anyone" knows its id, no more.
MAY = {
    "remove": {"creator"},
    "grant": {"creator"},
    "revoke": {"creator"},
    "subscribe": {"creator", "granted", "anyone", "operator"},
    "unsubscribe": {"creator", "granted", "anyone", "operator"},
    "publish": {"creator", "granted"},
    "info": {"creator", "granted", "anyone", "operator"},
}


def operation(node: Node, name: str, peer: Peer, number: int) -> Callable[[], Awaitable[object]]:
    manager, member = node.manager, peer.member
    operations: dict[str, Callable[[], Awaitable[object]]] = {
        "remove": lambda: manager.remove(member, number, 0.0),
        "grant": lambda: manager.grant(member, number, "carol", 0.0),
        "revoke": lambda: manager.revoke(member, number, "carol", 0.0),
        "subscribe": lambda: later(lambda: node.subscribe(peer, number)),
        "unsubscribe": lambda: later(lambda: manager.unsubscribe(member, number)),
        "publish": lambda: later(lambda: manager.publish(member, number, OTHER_TOKEN, 1, 0.0)),
        "info": lambda: later(lambda: manager.info(member, number, 0.0)),
    }
    return operations[name]


@pytest.mark.parametrize("role", ["creator", "granted", "anyone", "operator"])
@pytest.mark.parametrize("name", MAY)
async def test_who_may_do_what(node: Node, name: str, role: str) -> None:
    room = await node.room()
    await node.grant(room, "bob")
    peer = {
        "creator": lambda: node.alice,
        "granted": lambda: node.peer("bob"),
        "anyone": lambda: node.peer("eve"),
        "operator": lambda: node.peer("root", BOTH),
    }[role]()
    if name == "unsubscribe":
        node.subscribe(peer, room.number)
    act = operation(node, name, peer, room.number)
    if role in MAY[name]:
        await act()
    else:
        assert await refusal(act()) is Code.PERMISSION_DENIED


@pytest.mark.parametrize("name", [name for name in MAY if name != "unsubscribe"])
async def test_no_operation_knows_a_room_that_ended(node: Node, name: str) -> None:
    room = await node.room()
    await node.manager.remove(node.alice.member, room.number, 0.0)
    act = operation(node, name, node.alice, room.number)
    assert await refusal(act()) is Code.NO_SUCH_ROOM


async def test_who_is_not_the_creator_cannot_harm_a_room(node: Node) -> None:
    room = await node.room()
    await node.grant(room, "carol")
    for name in ("remove", "grant", "revoke"):
        await refusal(operation(node, name, node.peer("eve", BOTH), room.number)())
    assert node.manager.rooms == {room.number: room}
    assert room.granted == {"carol"}


# Grants


async def test_a_grant_lets_push_and_tells_every_connection_of_the_account(node: Node) -> None:
    room = await node.room()
    phone, laptop, other = node.peer("bob"), node.peer("bob"), node.peer("eve")
    await node.grant(room, "bob")
    event = PushGranted(room=room.number)
    assert phone.new() == laptop.new() == [event]
    assert other.new() == node.alice.new() == []
    assert node.publish(phone, room.number).account == "bob"


async def test_what_was_granted_elsewhere_is_known_until_the_room_ends() -> None:
    node = Node(max_grants_per_room=1)
    room = await node.room()
    for account in ("bob", "carol"):
        node.manager.learn_grant(room, account)
    assert room.granted == {"bob"}
    assert node.manager._related.keys() == {"alice", "bob"}
    assert node.manager.close_here(room, RoomClosedReason.REMOVED, 0.0)
    assert not node.manager._related


async def test_granting_may_be_repeated_and_the_creator_needs_none() -> None:
    node = Node(max_grants_per_room=1)
    room = await node.room()
    bob = node.peer("bob")
    await node.grant(room, "bob")
    bob.new()
    for account in ("bob", "alice"):
        await node.grant(room, account)
    assert room.granted == {"bob"}
    assert bob.new() == []
    assert await refusal(node.grant(room, "carol")) is Code.TOO_MANY_GRANTS


async def test_only_account_names_can_be_granted(node: Node) -> None:
    room = await node.room()
    for name in ("", "a b", "x" * 65):
        assert await refusal(node.grant(room, name)) is Code.BAD_REQUEST
    assert room.granted == set()


async def test_grants_are_recorded() -> None:
    class Recorder(MemoryDirectory):
        records: list[RoomRecord]

        async def update_room(self, record: RoomRecord) -> None:
            self.records.append(record)

    node = Node()
    directory = node.manager.directory = Recorder()
    directory.records = []
    room = await node.room()
    await node.grant(room, "bob")
    await node.manager.revoke(node.alice.member, room.number, "bob", 0.0)
    assert [set(record.granted) for record in directory.records] == [{"bob"}, set()]
    assert {record.room for record in directory.records} == {room.number}


async def test_revoking_cuts_off_in_mid_stream_and_discards_what_is_in_flight(node: Node) -> None:
    room = await node.room()
    await node.grant(room, "bob")
    bob, viewer = node.peer("bob"), node.peer("eve")
    source = node.publish(bob, room.number)
    node.subscribe(viewer, room.number)
    viewer.new()
    room.push(source, TrackWriter(room.number).run(KEY), 0.0)
    await node.manager.revoke(node.alice.member, room.number, "bob", 0.0)
    assert len(of_kind(PushRevoked, bob.new())) == 1
    assert viewer.new()[-1] == SourceLeft(
        room=room.number, source=1, reason=SourceLeftReason.REVOKED
    )
    assert bob.member.former == {(room.number, 1): source}
    assert await refusal(later(lambda: node.publish(bob, room.number))) is Code.PERMISSION_DENIED


async def test_revoking_who_was_not_granted_changes_nothing(node: Node) -> None:
    room = await node.room()
    source = node.publish(node.alice, room.number)
    for account in ("bob", "alice"):
        await node.manager.revoke(node.alice.member, room.number, account, 0.0)
    assert room.sources == {source.number: source}
    assert "push revoked" not in node.log.events()


async def test_a_revoked_source_that_lingered_leaves_once(node: Node) -> None:
    room = await node.room()
    await node.grant(room, "bob")
    bob, viewer = node.peer("bob"), node.peer("eve")
    node.publish(bob, room.number)
    node.publish(node.alice, room.number, OTHER_TOKEN)
    node.subscribe(viewer, room.number)
    node.manager.leave(bob.member, clean=False, now=0.0)
    viewer.new()
    await node.manager.revoke(node.alice.member, room.number, "bob", 1.0)
    await node.manager.expire(100.0)
    left = SourceLeft(room=room.number, source=1, reason=SourceLeftReason.REVOKED)
    assert of_kind(SourceLeft, viewer.new()) == [left]


async def test_what_an_account_left_behind_is_ended_when_it_had_to_go(node: Node) -> None:
    room = await node.room()
    await node.grant(room, "bob")
    bob, viewer = node.peer("bob"), node.peer("eve")
    node.publish(bob, room.number)
    node.publish(node.alice, room.number, OTHER_TOKEN)
    node.subscribe(viewer, room.number)
    for peer in (bob, node.alice):
        node.manager.leave(peer.member, clean=False, now=0.0)
    viewer.new()
    node.manager.end_lingering("bob", 1.0)
    left = SourceLeft(room=room.number, source=1, reason=SourceLeftReason.REVOKED)
    assert of_kind(SourceLeft, viewer.new()) == [left]
    node.manager.end_lingering("bob", 1.0)
    await node.manager.expire(100.0)
    (other,) = of_kind(SourceLeft, viewer.new())
    assert (other.source, other.reason) == (2, SourceLeftReason.CONNECTION_LOST)


async def test_who_had_to_go_leaves_no_source_to_take_over(node: Node) -> None:
    room = await node.room()
    node.publish(node.alice, room.number)
    viewer = node.peer("eve")
    node.subscribe(viewer, room.number)
    viewer.new()
    node.manager.leave(node.alice.member, clean=False, now=0.0, revoked=True)
    assert viewer.new() == [SourceLeft(room=room.number, source=1, reason=SourceLeftReason.REVOKED)]


@pytest.mark.parametrize("which", ["push_rooms", "subscribe_rooms"])
async def test_a_sign_in_for_some_rooms_alone(node: Node, which: str) -> None:
    mine, other = await node.room(), await node.room()
    setattr(node.alice.member, which, frozenset({mine.number}))
    manager, alice = node.manager, node.alice.member
    may_push: list[Callable[[int], object]] = [
        lambda number: manager.publish(alice, number, TOKEN, 1, 0.0),
        lambda number: manager.ask_to_push(alice, number, "", 0.0),
    ]
    may_subscribe: list[Callable[[int], object]] = [
        lambda number: manager.subscribe(alice, number, StartFrom.GROUP, 0, 1, 0.0)
    ]
    for act in may_push if which == "push_rooms" else may_subscribe:
        for number in (other.number, FIRST_ROOM_ID):
            assert await refusal(later(lambda: act(number))) is Code.PERMISSION_DENIED  # noqa: B023
    node.publish(node.alice, mine.number)
    node.subscribe(node.alice, mine.number)
    # One of the two is enough to look.
    assert manager.info(alice, other.number, 0.0).room == other.number
    alice.push_rooms = alice.subscribe_rooms = frozenset({mine.number})
    assert manager.info(alice, mine.number, 0.0).room == mine.number
    assert await refusal(later(lambda: manager.info(alice, other.number, 0.0))) is (
        Code.PERMISSION_DENIED
    )


# Subscribing and publishing


async def test_one_subscription_per_room_and_a_bound_on_all() -> None:
    node = Node(max_subscriptions=1)
    rooms = [await node.room() for _ in range(2)]
    bob = node.peer("bob")
    node.subscribe(bob, rooms[0].number)
    again = later(lambda: node.subscribe(bob, rooms[0].number))
    assert await refusal(again) is Code.ALREADY_SUBSCRIBED
    more = later(lambda: node.subscribe(bob, rooms[1].number))
    assert await refusal(more) is Code.TOO_MANY_SUBSCRIPTIONS
    node.manager.unsubscribe(bob.member, rooms[0].number)
    node.subscribe(bob, rooms[1].number)


async def test_who_does_not_read_what_it_got_cannot_subscribe_on() -> None:
    node = Node(room_cache_bytes=64 * 1024, node_cache_bytes=64 * 1024)
    room, bob = await node.room(), node.peer("bob")
    source = node.publish(node.alice, room.number)
    room.push(source, TrackWriter(room.number).run(KEY, 0, 0, size=4000), 0.0)
    bob.wire.budget = 0
    node.subscribe(bob, room.number)
    node.manager.unsubscribe(bob.member, room.number)
    assert await refusal(later(lambda: node.subscribe(bob, room.number))) is Code.UNAVAILABLE
    await bob.write()
    node.subscribe(bob, room.number)


async def test_who_has_not_subscribed_cannot_unsubscribe(node: Node) -> None:
    room = await node.room()
    act = later(lambda: node.manager.unsubscribe(node.alice.member, room.number))
    assert await refusal(act) is Code.NOT_SUBSCRIBED


async def test_only_the_publisher_unpublishes_and_only_once(node: Node) -> None:
    room = await node.room()
    await node.grant(room, "bob")
    bob = node.peer("bob")
    source = node.publish(bob, room.number)

    def unpublish(peer: Peer) -> Awaitable[object]:
        return later(
            lambda: node.manager.unpublish(peer.member, room.number, source.number, 3, 0.0)
        )

    assert await refusal(unpublish(node.alice)) is Code.NO_SUCH_SOURCE
    await unpublish(bob)
    assert await refusal(unpublish(bob)) is Code.NO_SUCH_SOURCE
    assert room.sources == {}
    assert node.log.events()[-2:] == ["source joined", "source left"]


async def test_the_log_tells_a_takeover_from_a_newcomer_and_from_a_question(node: Node) -> None:
    room = await node.room()
    node.publish(node.alice, room.number)
    node.publish(node.alice, room.number)  # the same token, the same connection
    again = node.peer("alice")
    node.publish(again, room.number)
    node.manager.leave(again.member, clean=False, now=0.0)
    node.publish(node.alice, room.number)
    assert node.log.events()[1:] == ["source joined", "source taken over", "source taken over"]
    assert node.log.lines[-1][1]["source"] == 1


async def test_info_shows_grants_to_creator_and_operators(node: Node) -> None:
    room = await node.room()
    await node.grant(room, "bob")
    shown = {
        peer.account: node.manager.info(peer.member, room.number, 0.0).granted
        for peer in (node.alice, node.peer("bob"), node.peer("root", BOTH))
    }
    assert shown == {"alice": ["bob"], "bob": [], "root": ["bob"]}


# Listing


async def test_an_account_lists_what_it_created_or_was_granted(node: Node) -> None:
    bob = node.peer("bob")
    mine, granted, other = await node.room(bob), await node.room(), await node.room()
    await node.grant(granted, "bob")
    node.publish(node.alice, granted.number)
    node.subscribe(bob, granted.number)
    more, entries = node.manager.list_rooms(bob.member, ListScope.MINE, 0, 0)
    assert not more
    by_room = {entry.room: entry for entry in entries}
    assert by_room.keys() == {mine.number, granted.number}
    assert by_room[mine.number].role == Role.CREATOR
    entry = by_room[granted.number]
    assert (entry.role, entry.creator, entry.viewers, entry.sources) == (
        Role.GRANTED,
        "alice",
        1,
        1,
    )
    await node.manager.revoke(node.alice.member, granted.number, "bob", 0.0)
    await node.manager.remove(bob.member, mine.number, 0.0)
    assert node.manager.list_rooms(bob.member, ListScope.MINE, 0, 0) == (False, [])
    assert other.number in node.manager.rooms


async def test_all_rooms_are_for_operators(node: Node) -> None:
    rooms = [await node.room(), await node.room(node.peer("root", BOTH))]
    root = node.peer("root", BOTH)
    _, entries = node.manager.list_rooms(root.member, ListScope.ALL, 0, 0)
    assert {entry.room: entry.role for entry in entries} == {
        rooms[0].number: Role.OPERATOR,
        rooms[1].number: Role.CREATOR,
    }
    act = later(lambda: node.manager.list_rooms(node.alice.member, ListScope.ALL, 0, 0))
    assert await refusal(act) is Code.PERMISSION_DENIED


async def test_a_list_is_paged_in_order_of_ids(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = sorted([(await node.room()).number for _ in range(7)])

    def page(after: int, limit: int) -> tuple[bool, list[int]]:
        more, entries = node.manager.list_rooms(node.alice.member, ListScope.MINE, after, limit)
        return more, [entry.room for entry in entries]

    assert page(0, 3) == (True, numbers[:3])
    assert page(numbers[2], 3) == (True, numbers[3:6])
    assert page(numbers[5], 3) == (False, numbers[6:])
    assert page(numbers[6], 3) == (False, [])
    assert page(numbers[3] + 1, 1) == (True, [numbers[4]])
    assert page(0, 7) == (False, numbers)
    monkeypatch.setattr("tim_trio.core.room_list._LIST_LIMIT", 5)
    assert page(0, 0) == page(0, 100) == (True, numbers[:5])


async def test_a_page_of_a_list_fits_into_a_frame() -> None:
    node = Node(max_rooms=100)
    creator = node.peer("\N{FACE WITH TEARS OF JOY}" * 63)
    numbers = sorted([(await node.room(creator)).number for _ in range(33)])
    listed: list[int] = []
    pages = 0
    more = True
    while more:
        after = listed[-1] if listed else 0
        more, entries = node.manager.list_rooms(creator.member, ListScope.MINE, after, 0)
        answer = encode(ListRoomsAnswer(more=more, rooms=entries), 1)
        assert len(answer) <= node.manager.node.limits.max_frame_bytes
        listed += [entry.room for entry in entries]
        pages += 1
    assert listed == numbers
    assert pages == 3  # 15 to a frame of 4 KiB, and not one fewer


# Asking to push


async def test_an_ask_reaches_every_connection_of_the_creator(node: Node) -> None:
    room = await node.room()
    second, bob = node.peer("alice"), node.peer("bob")
    assert node.manager.ask_to_push(bob.member, room.number, "please", 0.0) == 2
    asked = PushAsked(room=room.number, account="bob", message="please")
    assert node.alice.new() == second.new() == [asked]


async def test_one_ask_per_account_room_and_interval(node: Node) -> None:
    rooms = [await node.room(), await node.room()]
    bob, other, eve = node.peer("bob"), node.peer("bob"), node.peer("eve")

    def ask(peer: Peer, now: float, room: Room = rooms[0]) -> Awaitable[object]:
        return later(lambda: node.manager.ask_to_push(peer.member, room.number, "", now))

    await ask(bob, 100.0)
    with pytest.raises(RoomError) as caught:
        await ask(other, 104.0)
    assert (caught.value.code, caught.value.retry_after_ms) == (Code.RATE_LIMITED, 6001)
    await ask(eve, 104.0)
    await ask(bob, 104.0, rooms[1])
    await ask(other, 110.0)


async def test_who_may_push_need_not_ask(node: Node) -> None:
    room = await node.room()
    await node.grant(room, "bob")

    def ask(peer: Peer) -> Awaitable[object]:
        return later(lambda: node.manager.ask_to_push(peer.member, room.number, "", 0.0))

    for peer in (node.alice, node.peer("bob")):
        assert await refusal(ask(peer)) is Code.ALREADY_GRANTED


async def test_an_absent_creator_cannot_be_asked_and_nothing_is_remembered(node: Node) -> None:
    room = await node.room()
    bob = node.peer("bob")
    node.manager.leave(node.alice.member, clean=True, now=0.0)
    act = later(lambda: node.manager.ask_to_push(bob.member, room.number, "", 0.0))
    assert await refusal(act) is Code.CREATOR_ABSENT
    node.peer("alice")
    assert node.manager.ask_to_push(bob.member, room.number, "", 0.1) == 1


async def test_who_was_granted_and_revoked_may_ask_anew(node: Node) -> None:
    room = await node.room()
    bob = node.peer("bob")
    node.manager.ask_to_push(bob.member, room.number, "", 0.0)
    await node.grant(room, "bob")
    await node.manager.revoke(node.alice.member, room.number, "bob", 1.0)
    assert node.manager.ask_to_push(bob.member, room.number, "", 1.0) == 1


# Leaving


async def test_a_clean_end_ends_sources_at_once(node: Node) -> None:
    room = await node.room()
    viewer = node.peer("eve")
    source = node.publish(node.alice, room.number)
    node.subscribe(viewer, room.number)
    viewer.new()
    node.manager.leave(node.alice.member, clean=True, now=0.0)
    left = SourceLeft(room=room.number, source=source.number, reason=SourceLeftReason.UNPUBLISHED)
    assert viewer.new() == [left]
    assert node.log.lines[-1][1]["reason"] == "unpublished"
    assert room.number in node.manager.rooms


async def test_after_an_abrupt_loss_sources_linger(node: Node) -> None:
    room = await node.room()
    viewer = node.peer("eve")
    source = node.publish(node.alice, room.number)
    node.subscribe(viewer, room.number)
    viewer.new()
    node.manager.leave(node.alice.member, clean=False, now=10.0)
    await node.manager.expire(14.9)
    assert viewer.new() == []
    await node.manager.expire(15.0)
    left = SourceLeft(
        room=room.number, source=source.number, reason=SourceLeftReason.CONNECTION_LOST
    )
    assert viewer.new() == [left]
    await node.manager.expire(20.0)
    assert viewer.new() == []


async def test_without_linger_an_abrupt_loss_ends_sources_at_once() -> None:
    node = Node(linger_s=0.0)
    room = await node.room()
    node.publish(node.alice, room.number)
    node.manager.leave(node.alice.member, clean=False, now=0.0)
    assert room.sources == {}
    assert node.log.lines[-1][1]["reason"] == "connection_lost"


async def test_a_takeover_in_time_ends_the_linger(node: Node) -> None:
    room = await node.room()
    source = node.publish(node.alice, room.number)
    node.manager.leave(node.alice.member, clean=False, now=0.0)
    again = node.peer("alice")
    assert node.publish(again, room.number) is source
    await node.manager.expire(100.0)
    assert room.sources == {source.number: source}


async def test_leaving_ends_subscriptions_and_may_be_repeated(node: Node) -> None:
    room = await node.room()
    bob, other = node.peer("bob"), node.peer("bob")
    for peer in (bob, other):
        node.subscribe(peer, room.number)
    node.manager.leave(bob.member, clean=False, now=0.0)
    node.manager.leave(bob.member, clean=False, now=0.0)
    assert (room.viewers, node.manager.node.subscriptions) == (1, 1)
    other.new()
    bob.new()
    await node.grant(room, "bob")
    assert len(other.new()) == 1
    assert bob.new() == []
    node.manager.leave(other.member, clean=False, now=0.0)
    node.manager.leave(other.member, clean=False, now=0.0)
    assert room.viewers == 0


# The end of rooms


async def test_a_removed_room_tells_everyone_and_leaves_nothing(node: Node) -> None:
    room = await node.room()
    await node.grant(room, "bob")
    bob, viewer = node.peer("bob"), node.peer("eve")
    node.publish(bob, room.number)
    lost = node.peer("bob")
    node.publish(lost, room.number, OTHER_TOKEN)
    node.manager.leave(lost.member, clean=False, now=0.0)
    node.subscribe(viewer, room.number)
    for peer in (bob, viewer):
        peer.new()
    await node.manager.remove(node.alice.member, room.number, 1.0)
    closed = RoomClosed(
        room=room.number, reason=RoomClosedReason.REMOVED, text="removed by its creator"
    )
    assert bob.new() == viewer.new() == [closed]
    assert is_idle(node.manager.node)
    await node.manager.expire(1000.0)
    assert viewer.new() == []
    # Whoever holds the room still may try to close it again.
    await node.manager.close(room, RoomClosedReason.BANNED, 1.0)
    assert node.manager.node.rooms == 0
    assert node.log.events().count("room closed") == 1


async def test_a_room_without_data_ends_and_says_why(
    node: Node, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    nursery.start_soon(node.manager.run_expiry)
    quiet = await node.room(idle_timeout_s=10, now=trio.current_time())
    busy = await node.room(idle_timeout_s=10, now=trio.current_time())
    viewer = node.peer("eve")
    for room in (quiet, busy):
        node.subscribe(viewer, room.number)
    source = node.publish(node.alice, busy.number)
    viewer.new()
    writer = TrackWriter(busy.number)
    for _ in range(3):
        await trio.sleep(5)
        busy.push(source, writer.run(KEY), trio.current_time())
    closed = [each.room for each in of_kind(RoomClosed, viewer.new())]
    assert closed == [quiet.number]
    await trio.sleep(9)
    assert busy.number in node.manager.rooms
    await trio.sleep(2)
    (event,) = of_kind(RoomClosed, viewer.new())
    assert event == RoomClosed(
        room=busy.number, reason=RoomClosedReason.IDLE, text="no data for its idle timeout"
    )
    nursery.cancel_scope.cancel()


async def test_expiry_of_a_room_that_was_removed_meanwhile(node: Node) -> None:
    room = await node.room(idle_timeout_s=10)
    await node.manager.remove(node.alice.member, room.number, 0.0)
    await node.manager.expire(10.0)
    assert node.log.events() == ["room registered", "room closed"]


async def test_the_creators_leaving_does_not_end_a_room(node: Node) -> None:
    room = await node.room()
    node.manager.leave(node.alice.member, clean=True, now=0.0)
    assert room.number in node.manager.rooms


# Services


async def test_publishers_are_told_of_viewers_once_per_interval_and_change(
    node: Node, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    nursery.start_soon(node.manager.run_viewers)
    room = await node.room()
    node.publish(node.alice, room.number)
    await trio.sleep(0.5)
    for name in ("bob", "carol"):
        node.subscribe(node.peer(name), room.number)
    assert node.alice.new() == []
    await trio.sleep(2)
    assert node.alice.new() == [Viewers(room=room.number, viewers=2)]
    await trio.sleep(20)
    assert node.alice.new() == []
    nursery.cancel_scope.cancel()


async def gathered(node: Node, gather_ms: int) -> tuple[Room, Peer, Source, TrackWriter]:
    room = await node.manager.register(
        node.alice.member, RoomMode.LIVE, gather_ms, 0, trio.current_time()
    )
    viewer = node.peer("eve")
    source = node.publish(node.alice, room.number)
    node.subscribe(viewer, room.number)
    viewer.new()
    return room, viewer, source, TrackWriter(room.number)


async def test_what_rooms_gather_is_sent_when_each_ones_time_comes(
    node: Node, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    nursery.start_soon(node.manager.run_gathering)
    rooms = [await gathered(node, gather_ms) for gather_ms in (500, 100, 900)]
    for room, _, source, writer in rooms:
        room.push(source, writer.run(0), trio.current_time())

    def sent() -> list[int]:
        return [len(viewer.frames()) for _, viewer, _, _ in rooms]

    await trio.sleep(0.09)
    assert sent() == [0, 0, 0]
    await trio.sleep(0.02)
    assert sent() == [0, 1, 0]
    room, _, source, writer = rooms[1]
    room.push(source, writer.run(0), trio.current_time())
    await trio.sleep(0.11)
    assert sent() == [0, 1, 0]
    await trio.sleep(0.3)
    assert sent() == [1, 0, 0]
    await node.manager.remove(node.alice.member, rooms[2][0].number, trio.current_time())
    assert sent() == [0, 0, 1]
    await trio.sleep(1)
    assert sent() == [0, 0, 0]
    nursery.cancel_scope.cancel()


async def test_who_holds_up_a_reliable_room_too_long_is_closed(
    node: Node, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    nursery.start_soon(node.manager.run_pacing)
    await node.room()
    room = await node.manager.register(
        node.alice.member, RoomMode.RELIABLE, 0, 0, trio.current_time()
    )
    slow, quick = node.peer("slow"), node.peer("quick")
    source = node.publish(node.alice, room.number)
    for peer in (slow, quick):
        node.subscribe(peer, room.number)
        peer.new()
    node.manager.credit(quick.member, room.number, source.number, 10**9)
    node.manager.credit(node.alice.member, room.number, source.number, 10**9)
    writer = TrackWriter(room.number)
    for _ in range(8):
        room.push(source, writer.run(0, size=1000), trio.current_time())
    await trio.sleep(10)
    assert slow.aborts == 0
    await trio.sleep(2)
    assert (slow.aborts, slow.outbox.close_code) == (1, Code.SLOW_CONSUMER)
    (close,) = of_kind(Close, slow.new())
    assert (close.code, close.retry) == (Code.SLOW_CONSUMER, True)
    assert quick.aborts == 0
    nursery.cancel_scope.cancel()


async def test_what_reliable_rooms_hold_in_all_is_bounded(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    node = Node(node_reliable_bytes=64 * 1024)
    nursery.start_soon(node.manager.run_pacing)
    mallory = enter(node.manager, "mallory", budget=0)
    bob = enter(node.manager, "bob", budget=0)
    live = await node.room()
    node.subscribe(bob, live.number)
    for number in range(12):
        room = await node.manager.register(
            node.alice.member, RoomMode.RELIABLE, 0, 0, trio.current_time()
        )
        source = node.publish(node.alice, room.number)
        for peer in (mallory, bob) if number == 7 else (mallory,):
            node.subscribe(peer, room.number)
        writer = TrackWriter(room.number)
        for _ in range(5):
            room.push(source, writer.run(0, size=1000), trio.current_time())
    assert sum(room.reliable_bytes for room in node.manager.rooms.values()) == 60_000
    await trio.sleep(1.5)
    assert mallory.aborts == bob.aborts == 0
    for room in list(node.manager.rooms.values()):
        if room.mode is RoomMode.RELIABLE:
            (source,) = room.sources.values()
            writer = TrackWriter(room.number)
            writer.next_seq = 5
            room.push(source, writer.run(0, size=1000), trio.current_time())
    assert sum(room.reliable_bytes for room in node.manager.rooms.values()) == 72_000
    await trio.sleep(1.5)
    # Who makes it hold most, and nobody else, and once.
    await trio.sleep(2)
    assert (mallory.aborts, mallory.outbox.close_code) == (1, Code.SLOW_CONSUMER)
    assert bob.aborts == 0
    assert node.manager.node.figures()["limited_node_reliable_bytes"] == 1
    nursery.cancel_scope.cancel()


async def test_lingering_sources_leave_by_the_clock(
    node: Node, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    nursery.start_soon(node.manager.run_expiry)
    room = await node.room(now=trio.current_time())
    node.publish(node.alice, room.number)
    node.manager.leave(node.alice.member, clean=False, now=trio.current_time())
    await trio.sleep(4.9)
    assert room.sources
    await trio.sleep(1)
    assert not room.sources
    nursery.cancel_scope.cancel()
