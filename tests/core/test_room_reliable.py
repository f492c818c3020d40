"""Reliable rooms: credit, what is held, late joiners, who holds a source up."""

import pytest

from tests.core.builders import (
    END,
    INIT,
    KEY,
    LIMITS,
    TOKEN,
    TrackWriter,
    join,
    limits,
    of_kind,
    open_source,
    seqs,
)
from tests.core.stage import OTHER_TOKEN, UNTOLD, WINDOW, Stage, is_idle_but_room
from tim_trio.errors import Code, RemoteProtocolError
from tim_trio.protocol.messages import (
    Credit,
    PublishAnswer,
    RoomMode,
    SourceLeftReason,
    StartFrom,
    SubscribeAnswer,
    TrackState,
)


@pytest.fixture
def reliable() -> Stage:
    return Stage(mode=RoomMode.RELIABLE, bounds=limits(room_cache_bytes=5 * WINDOW // 2))


def test_a_reliable_source_is_told_its_credit(reliable: Stage) -> None:
    reliable.room.publish(reliable.alice.member, TOKEN, 2, 0.0)
    (answer,) = of_kind(PublishAnswer, reliable.alice.new())
    assert (answer.mode, answer.received, answer.credit) == (RoomMode.RELIABLE, 0, WINDOW)


def test_the_wire_of_who_subscribes_is_told_what_to_expect(reliable: Stage) -> None:
    assert reliable.viewer().expects_bulk
    assert not Stage().viewer().expects_bulk


def test_what_came_before_anyone_is_held_for_the_first_subscriber(reliable: Stage) -> None:
    reliable.send(0, 0)
    reliable.send(KEY, size=1000)
    first, second = reliable.peer(), reliable.peer()
    join(reliable.room, first)
    join(reliable.room, second)
    reliable.send(0)
    assert seqs(first.new()) == [0, 1, 2, 3]
    assert seqs(second.new()) == [2, 3]


def test_what_is_held_counts_as_cache_and_where_that_is_full_the_source_waits(
    reliable: Stage,
) -> None:
    """There is room for what two sources hold, and no more."""
    second = open_source(reliable.room, reliable.alice, OTHER_TOKEN)
    assert reliable.node.cache_bytes == 2 * WINDOW
    third = reliable.peer("alice")
    reliable.room.publish(third.member, bytes(15) + b"x", 1, 0.0)
    (answer,) = of_kind(PublishAnswer, third.new())
    assert answer.credit == 0
    reliable.room.end_source(second, SourceLeftReason.UNPUBLISHED, 0.0)
    assert reliable.node.cache_bytes == WINDOW
    reliable.viewer()
    assert reliable.node.cache_bytes == 0
    assert [each.limit for each in of_kind(Credit, third.new())] == [WINDOW]


def test_the_answer_offers_what_is_held(reliable: Stage) -> None:
    reliable.send(0, END)
    answers = []
    for start in (StartFrom.LIVE, StartFrom.GROUP):
        peer = reliable.peer()
        join(reliable.room, peer, start)
        answers += of_kind(SubscribeAnswer, peer.new())
    states = [answer.sources[0].tracks[0].state for answer in answers]
    assert states == [TrackState.ENDED | TrackState.CACHED_GROUP, TrackState.ENDED]


def overflow_the_cache(stage: Stage) -> None:
    """Begin a group that is too large for whoever joins late."""
    stage.send(INIT)
    stage.send(KEY, size=4000)
    while stage.room.cache_bytes:
        stage.send(0, size=4000)


def test_where_the_group_is_too_large_a_newcomer_to_a_reliable_room_starts_at_a_key(
    reliable: Stage,
) -> None:
    first = reliable.viewer()
    reliable.room.grant_credit(first.subscription, 1, 10**9)
    overflow_the_cache(reliable)
    group, live = reliable.peer(), reliable.peer()
    join(reliable.room, group)
    join(reliable.room, live, StartFrom.LIVE)
    (answer,) = of_kind(SubscribeAnswer, group.new())
    (track,) = answer.sources[0].tracks
    assert track.state == TrackState.KEYED | TrackState.INIT
    reliable.send(0)
    reliable.send(0, KEY)
    reliable.send(0)
    last = reliable.writer.next_seq - 1
    assert seqs(group.new()) == [last - 1, last]
    assert seqs(live.new()) == [0, *range(last - 3, last + 1)]
    assert reliable.node.gaps == reliable.node.lost == 0


def test_who_gets_all_that_was_held_waits_for_nothing() -> None:
    """There is room for what is held, and none for a cached group beside it."""
    stage = Stage(mode=RoomMode.RELIABLE, bounds=limits(room_cache_bytes=WINDOW))
    stage.send(KEY, 0)
    first = stage.peer()
    join(stage.room, first)
    stage.send(0)
    assert seqs(first.new()) == [0, 1, 2]


def test_who_waits_for_a_key_in_a_reliable_room_holds_nobody_up(reliable: Stage) -> None:
    first = reliable.viewer()
    reliable.room.grant_credit(first.subscription, 1, 10**9)
    overflow_the_cache(reliable)
    waiting = reliable.viewer(budget=0)
    for _ in range(4 * WINDOW // 1000):
        reliable.send(0, size=1000)  # refused, if it went past its credit
    assert waiting.subscription.left_out_frames == 4 * WINDOW // 1000
    assert waiting.outbox.pending_bytes == 0
    # From its KEY on it counts, as if it had come just now.
    reliable.alice.new()
    reliable.send(KEY, size=1000)
    pace = reliable.source.pace
    assert pace is not None
    while pace.told - pace.received >= 1000:
        reliable.send(0, size=1000)
    assert of_kind(Credit, reliable.alice.new()) == []
    assert reliable.source.is_held_up_by(waiting.subscription)


def test_who_unsubscribes_or_is_gone_holds_nobody_up(reliable: Stage) -> None:
    stuck, quick = reliable.viewer(budget=0), reliable.viewer()
    reliable.room.grant_credit(quick.subscription, 1, 10**9)
    for _ in range(WINDOW // 1000):
        reliable.send(0, size=1000)
    assert of_kind(Credit, reliable.alice.new()) == []
    reliable.room.unsubscribe(stuck.member)
    (credit,) = of_kind(Credit, reliable.alice.new())
    assert credit.limit == WINDOW // 1000 * 1000 + WINDOW


def test_the_publisher_moves_at_the_pace_of_the_slowest(reliable: Stage) -> None:
    slow, quick = reliable.viewer(budget=0), reliable.viewer()
    for peer in (slow, quick):
        reliable.room.grant_credit(peer.subscription, 1, 10**9)
    sent = 0
    while sent + 1000 <= WINDOW:
        reliable.send(0, size=1000)
        sent += 1000
    assert of_kind(Credit, reliable.alice.new()) == []
    assert slow.subscription.lagging == {}
    slow.drain()
    granted = [each.limit for each in of_kind(Credit, reliable.alice.new())]
    assert 0 <= sent + WINDOW - granted[-1] < UNTOLD
    assert seqs(slow.new()) == seqs(quick.new())


def test_past_its_credit_a_publisher_is_closed(reliable: Stage) -> None:
    reliable.viewer(budget=0)
    for _ in range(WINDOW // 1000):
        reliable.send(0, size=1000)
    with pytest.raises(RemoteProtocolError) as caught:
        reliable.send(0, size=1000)
    assert caught.value.code is Code.CREDIT_EXCEEDED


def test_repeats_after_a_takeover_give_their_credit_back(reliable: Stage) -> None:
    viewer = reliable.viewer()
    reliable.room.grant_credit(viewer.subscription, 1, 10**9)
    for _ in range(4):
        reliable.send(0, size=1000)
    other = reliable.take_over()
    other.new()
    reliable.writer.next_seq = 0
    for _ in range(4):
        reliable.send(0, size=1000)
    told = [each.limit for each in of_kind(Credit, other.new())][-1]
    assert 0 <= 8000 + WINDOW - told < UNTOLD
    assert seqs(viewer.new()) == [0, 1, 2, 3]


def test_a_lingering_source_is_told_no_credit(reliable: Stage) -> None:
    viewer = reliable.viewer(budget=0)
    reliable.room.grant_credit(viewer.subscription, 1, 10**9)
    for _ in range(4):
        reliable.send(0, size=1000)
    reliable.room.lose_owner(reliable.source, 5.0, 0.0)
    reliable.alice.new()
    viewer.drain()
    assert reliable.alice.new() == []
    again = reliable.take_over()
    (answer,) = of_kind(PublishAnswer, again.new())
    assert answer.received == 4000
    assert 0 <= 4000 + WINDOW - answer.credit < UNTOLD


def test_a_source_that_joins_later_counts_everyone_from_its_start(reliable: Stage) -> None:
    viewer = reliable.viewer(budget=0)
    second = open_source(reliable.room, reliable.alice, OTHER_TOKEN)
    writer = TrackWriter(source=second.number)
    reliable.room.push(second, writer.run(0, size=1000), 0.0)
    assert second.pace is not None
    assert second.pace.flow(viewer.subscription).pending_bytes > 0
    reliable.room.unsubscribe(viewer.member)
    viewer.outbox.discard()
    assert is_idle_but_room(reliable.node)


def test_credit_for_what_is_not_there_is_ignored(reliable: Stage) -> None:
    stage = Stage()
    viewer = reliable.viewer()
    reliable.room.grant_credit(viewer.subscription, 9, 10**9)
    live = stage.viewer()
    stage.room.grant_credit(live.subscription, 1, 10**9)
    assert live.new() == viewer.new() == []


def test_who_holds_a_reliable_source_up_is_found(reliable: Stage) -> None:
    slow, quick = reliable.viewer(budget=0), reliable.viewer()
    for peer in (slow, quick):
        reliable.room.grant_credit(peer.subscription, 1, 10**9)
    for _ in range(WINDOW // 1000):
        reliable.send(0, size=1000)
    patience = LIMITS.reliable_patience_s
    assert reliable.room.find_slow(0.0) == []
    assert reliable.room.find_slow(patience) == [slow.subscription]
    live = Stage()
    live.viewer(budget=0)
    live.send(0, size=4000)
    assert live.room.find_slow(patience) == []
