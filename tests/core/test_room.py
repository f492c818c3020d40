"""One room: fan-out, joining, sources and their takeover, the end."""

from collections.abc import Callable

import pytest

from tests.core.builders import (
    END,
    INIT,
    KEY,
    LIMITS,
    ROOM,
    TOKEN,
    Brackets,
    Received,
    TrackWriter,
    fill,
    is_idle,
    join,
    limits,
    make_peer,
    make_room,
    of_kind,
    open_source,
    seqs,
)
from tests.core.stage import OTHER_TOKEN, Stage, gap
from tim_trio.core.listing import LEFT_SOURCES_KEPT
from tim_trio.core.node import Node
from tim_trio.errors import Code, RemoteProtocolError, RoomError
from tim_trio.limits import KIB
from tim_trio.protocol.layout import UNLIMITED_CREDIT
from tim_trio.protocol.messages import (
    Gap,
    GapReason,
    PublishAnswer,
    PushRevoked,
    Replaced,
    RevokedReason,
    RoomClosed,
    RoomClosedReason,
    RoomMode,
    SourceInfo,
    SourceJoined,
    SourceLeft,
    SourceLeftReason,
    StartFrom,
    SubscribeAnswer,
    TrackInfo,
    TrackState,
    UnpublishAnswer,
    Viewers,
)
from tim_trio.protocol.room_ids import format_room_id
from tim_trio.protocol.stream import StreamFrame


@pytest.fixture
def stage() -> Stage:
    return Stage()


# Fan-out


def test_every_subscriber_gets_the_very_bytes_of_the_publisher(stage: Stage) -> None:
    viewers = [stage.viewer() for _ in range(3)]
    before = [len(viewer.wire.taken) for viewer in viewers]
    run = stage.writer.run(INIT | KEY, 0, 0x80)
    assert stage.push(run) == 3
    assert [bytes(v.wire.taken[n:]) for v, n in zip(viewers, before, strict=True)] == [run.data] * 3


def test_who_cannot_take_all_gets_the_rest_later_and_moves_nobody(stage: Stage) -> None:
    quick, slow, stuck = stage.viewer(), stage.viewer(budget=50), stage.viewer(budget=0)
    stage.send(KEY, payload=bytes(100))
    stage.send(0)
    assert seqs(quick.new()) == [0, 1]
    for late in (slow, stuck):
        assert late.subscription.backlog.pending_bytes == late.outbox.pending_bytes > 0
        late.drain()
        assert seqs(late.new()) == [0, 1]
        assert late.outbox.pending_bytes == late.subscription.backlog.pending_bytes == 0


def test_a_broken_subscriber_is_aborted_alone(stage: Stage) -> None:
    broken, fine = stage.viewer(), stage.viewer()
    broken.wire.broken = True
    stage.send(KEY)
    stage.send(0)
    assert broken.aborts == 1
    assert (fine.aborts, seqs(fine.new())) == (0, [0, 1])


def test_one_who_lags_does_not_move_the_others(stage: Stage) -> None:
    slow, quick = stage.viewer(budget=0), stage.viewer()
    for _ in range(5):
        stage.send(KEY, size=1000)
    assert stage.node.lagging == 1
    assert seqs(quick.new()) == [0, 1, 2, 3, 4]
    slow.drain()
    stage.send(KEY)
    received = slow.new()
    assert gap(4, 4, GapReason.LAGGED) in received
    assert seqs(received) == [0, 1, 2, 3, 5]
    assert stage.node.lagging == 0


def test_who_lags_on_one_track_is_offered_the_others(stage: Stage) -> None:
    slow = stage.viewer(budget=0)
    for _ in range(5):
        stage.send(KEY, size=1000)
    slow.drain()
    slow.new()
    stage.push(TrackWriter(track=1).run(0))
    assert seqs(slow.new()) == [0]


def test_a_publisher_that_subscribed_gets_its_own_frames(stage: Stage) -> None:
    join(stage.room, stage.alice)
    stage.alice.new()
    stage.send(KEY, 0)
    assert seqs(stage.alice.new()) == [0, 1]


def test_everything_is_counted(stage: Stage) -> None:
    stage.viewer()
    stage.viewer()
    first, second = stage.writer.run(KEY, 0, 0), stage.writer.run(0)
    stage.push(first, 3.0)
    stage.push(second, 4.5)
    size = len(first.data) + len(second.data)
    assert (stage.node.frames_in, stage.node.bytes_in, stage.node.deliveries) == (4, size, 8)
    assert (stage.room.frames_in, stage.room.bytes_in) == (4, size)
    assert (stage.source.forwarded, stage.source.received_bytes) == (4, size)
    assert (stage.room.last_frame_at, stage.source.discarded) == (4.5, 0)


# The order of seq


def test_a_jump_is_an_error_that_nobody_sees(stage: Stage) -> None:
    viewer = stage.viewer()
    stage.send(KEY)
    stage.writer.next_seq += 1
    with pytest.raises(RemoteProtocolError) as caught:
        stage.send(0)
    assert caught.value.code is Code.BAD_SEQUENCE
    assert seqs(viewer.new()) == [0]


def test_who_joins_after_a_refused_first_frame_is_answered(stage: Stage) -> None:
    stage.writer.next_seq = 5
    with pytest.raises(RemoteProtocolError):
        stage.send(0)
    viewer = stage.peer()
    join(stage.room, viewer)
    (answer,) = of_kind(SubscribeAnswer, viewer.new())
    assert answer.sources == [SourceInfo(source=1, account="alice", left=False, tracks=[])]


def test_nothing_follows_an_end(stage: Stage) -> None:
    viewer = stage.viewer()
    stage.send(KEY, END)
    with pytest.raises(RemoteProtocolError):
        stage.send(KEY)
    assert seqs(viewer.new()) == [0, 1]


def test_after_a_takeover_a_publisher_may_go_on_ahead(stage: Stage) -> None:
    viewer = stage.viewer()
    stage.send(KEY, 0)
    stage.take_over()
    stage.writer.next_seq = 5
    stage.send(0, 0)
    received = viewer.new()
    assert seqs(received) == [0, 1, 5, 6]
    assert received[2] == gap(2, 4)
    assert stage.node.gaps == 1


def test_a_skip_leaves_no_group_to_join(stage: Stage) -> None:
    stage.send(INIT)
    stage.send(KEY, 0)
    stage.take_over()
    stage.writer.next_seq = 5
    stage.send(0)
    assert (stage.room.cache_bytes, stage.node.cache_bytes) == (0, 0)
    viewer = stage.peer()
    join(stage.room, viewer)
    received = viewer.new()
    assert seqs(received) == [0]
    (answer,) = of_kind(SubscribeAnswer, received)
    assert not answer.sources[0].tracks[0].state & TrackState.CACHED_GROUP
    stage.send(0)
    stage.send(KEY)
    assert seqs(viewer.new()) == [7]


def test_a_skip_is_part_of_the_gap_of_who_lags(stage: Stage) -> None:
    slow, newcomer = stage.viewer(budget=0), stage.peer()
    for _ in range(5):
        stage.send(KEY, size=1000)
    stage.source.drop_caches()
    join(stage.room, newcomer)
    newcomer.new()
    slow.drain()
    slow.new()
    stage.take_over()
    stage.writer.next_seq = 20
    stage.send(0)
    stage.send(KEY)
    received = slow.new()
    assert received[0] == gap(4, 20, GapReason.LAGGED)
    assert seqs(received) == [21]
    assert seqs(newcomer.new()) == [21]
    assert stage.node.gaps == 1


def test_after_a_takeover_repeats_are_dropped(stage: Stage) -> None:
    viewer = stage.viewer()
    stage.send(KEY, 0, 0)
    stage.take_over()
    stage.writer.next_seq = 1
    assert stage.send(0) == 0
    assert stage.send(0, KEY, 0) == 1
    received = viewer.new()
    assert seqs(received) == [0, 1, 2, 3, 4]
    assert of_kind(Gap, received) == []
    assert (stage.source.forwarded, stage.source.discarded) == (5, 2)


def test_repeats_do_not_keep_a_room_alive(stage: Stage) -> None:
    stage.send(KEY)
    stage.take_over()
    stage.writer.next_seq = 0
    stage.push(stage.writer.run(KEY), 100.0)
    assert stage.room.last_frame_at == 0.0


def test_after_a_takeover_an_ended_track_may_be_repeated(stage: Stage) -> None:
    viewer = stage.viewer()
    stage.send(KEY, END)
    stage.take_over()
    stage.writer.next_seq = 0
    assert stage.send(KEY, END) == 0
    assert seqs(viewer.new()) == [0, 1]
    with pytest.raises(RemoteProtocolError):
        stage.send(0)


def test_a_new_track_after_a_takeover_may_begin_ahead(stage: Stage) -> None:
    viewer = stage.viewer()
    stage.take_over()
    stage.writer.next_seq = 3
    stage.send(KEY)
    received = viewer.new()
    assert received[0] == gap(0, 2)
    assert seqs(received) == [3]


# Joining


def test_a_joiner_gets_answer_init_group_and_then_live(stage: Stage) -> None:
    stage.send(INIT)
    stage.send(KEY, 0, KEY, 0)
    viewer = stage.peer()
    join(stage.room, viewer, request_id=77)
    stage.send(0)
    first, *rest = viewer.new_with_ids()
    assert first == Received(
        77,
        SubscribeAnswer(
            room=ROOM,
            mode=RoomMode.LIVE,
            gather_ms=0,
            sources=[
                SourceInfo(
                    source=1,
                    account="alice",
                    left=False,
                    tracks=[TrackInfo(track=0, state=0x0E, last_seq=4)],
                )
            ],
            path=["node"],
        ),
    )
    assert seqs(rest) == [0, 3, 4, 5]


def test_a_joiner_from_live_gets_the_init_and_the_next_frame(stage: Stage) -> None:
    stage.send(INIT)
    stage.send(KEY, 0)
    viewer = stage.peer()
    join(stage.room, viewer, StartFrom.LIVE)
    stage.send(0)
    received = viewer.new()
    (answer,) = of_kind(SubscribeAnswer, received)
    assert answer.sources[0].tracks[0].state == TrackState.KEYED | TrackState.INIT
    assert seqs(received) == [0, 3]


def test_a_track_without_keys_is_joined_anywhere(stage: Stage) -> None:
    stage.send(0, 0)
    viewer = stage.peer()
    join(stage.room, viewer)
    stage.send(0)
    assert seqs(viewer.new()) == [2]
    assert stage.node.cache_bytes == 0


def test_a_joiner_gets_an_init_that_came_after_another_joined(stage: Stage) -> None:
    """Also on a track without KEYs, of which nothing is cached."""
    stage.viewer()
    stage.send(INIT, 0)
    second = stage.peer()
    join(stage.room, second)
    stage.send(INIT, 0)
    third = stage.peer()
    join(stage.room, third)
    assert seqs(second.new()) == [0, 2, 3]
    assert seqs(third.new()) == [2]


def test_a_group_too_large_for_the_cache_is_waited_out(stage: Stage) -> None:
    stage.send(INIT)
    stage.send(KEY, size=4000)
    stage.send(0, size=4000)
    stage.send(0, size=4000)
    viewer = stage.peer()
    join(stage.room, viewer)
    stage.send(0)
    stage.send(0, KEY, 0)
    assert seqs(viewer.new()) == [0, 6, 7]
    assert stage.node.gaps == stage.node.lagging == 0


def test_nobody_waits_for_a_key_of_a_track_that_has_ended(stage: Stage) -> None:
    stage.send(KEY, size=4000)
    stage.send(0, size=4000)
    stage.send(END, size=800)
    stage.source.drop_caches()
    viewer = stage.viewer()
    assert viewer.subscription.lagging == {}


def test_slow_joiners_hold_the_groups_of_their_time_only_up_to_a_bound(stage: Stage) -> None:
    stage.send(INIT)
    stage.send(KEY, size=4000)
    first = stage.peer()
    first.wire.budget = 0
    join(stage.room, first)
    assert stage.node.pinned_bytes > 4000
    stage.node.pinned_bytes += LIMITS.node_cache_bytes
    second = stage.peer()
    join(stage.room, second)
    stage.send(0)
    stage.send(KEY)
    received = second.new()
    (answer,) = of_kind(SubscribeAnswer, received)
    assert not answer.sources[0].tracks[0].state & TrackState.CACHED_GROUP
    assert seqs(received) == [0, 3]
    stage.node.pinned_bytes -= LIMITS.node_cache_bytes
    first.drain()
    assert seqs(first.new()) == [0, 1, 2, 3]
    assert stage.node.pinned_bytes == 0


def test_joiners_of_the_same_moment_share_the_group_in_memory(stage: Stage) -> None:
    stage.send(KEY, size=4000)
    for _ in range(3):
        viewer = stage.peer()
        viewer.wire.budget = 0
        join(stage.room, viewer)
        assert stage.node.pinned_bytes == 4000
        assert viewer.outbox.live_bytes < 1000


def test_a_joiner_behind_its_group_does_not_lag_for_its_age(stage: Stage) -> None:
    stage.send(KEY, size=4000)
    viewer = stage.peer()
    viewer.wire.budget = 0
    join(stage.room, viewer)
    stage.send(0)
    stage.push(stage.writer.run(0), now=30.0)
    assert stage.node.lagging == 0


def test_who_has_unsubscribed_gets_nothing_more(stage: Stage) -> None:
    viewer, other = stage.viewer(), stage.viewer()
    assert (stage.room.viewers, stage.node.subscriptions) == (2, 2)
    stage.room.unsubscribe(viewer.member)
    stage.send(KEY)
    assert viewer.new() == []
    assert viewer.member.subscriptions == {}
    assert seqs(other.new()) == [0]
    assert (stage.room.viewers, stage.node.subscriptions) == (1, 1)


def test_unsubscribing_while_lagging_leaves_nothing_behind(stage: Stage) -> None:
    viewer = stage.viewer(budget=0)
    for _ in range(6):
        stage.send(KEY, size=1000)
    assert stage.node.lagging == 1
    stage.room.unsubscribe(viewer.member)
    assert stage.node.lagging == 0
    viewer.drain()
    assert of_kind(Gap, viewer.new()) == []


# Publishing


def test_publish_answers_and_tells_subscribers(stage: Stage) -> None:
    viewer = stage.viewer()
    bob = stage.peer("bob")
    source = stage.room.publish(bob.member, OTHER_TOKEN, 9, 0.0)
    assert bob.new_with_ids() == [
        Received(
            9,
            PublishAnswer(
                room=ROOM,
                source=2,
                mode=RoomMode.LIVE,
                received=0,
                credit=UNLIMITED_CREDIT,
                tracks=[],
            ),
        ),
        Received(0, Viewers(room=ROOM, viewers=1)),
    ]
    assert viewer.new() == [SourceJoined(room=ROOM, source=2, account="bob")]
    assert bob.member.sources == {(ROOM, 2): (stage.room, source)}


def test_the_same_token_on_the_same_connection_repeats_the_answer(stage: Stage) -> None:
    viewer = stage.viewer()
    stage.send(KEY)
    stage.room.publish(stage.alice.member, TOKEN, 2, 0.0)
    (answer,) = of_kind(PublishAnswer, stage.alice.new())
    assert (answer.source, answer.received) == (1, stage.source.received_bytes)
    assert [track.last_seq for track in answer.tracks] == [0]
    assert of_kind(SourceJoined, viewer.new()) == []
    stage.writer.next_seq = 5
    with pytest.raises(RemoteProtocolError):
        stage.send(0)


def test_a_takeover_replaces_the_old_connection(stage: Stage) -> None:
    viewer = stage.viewer()
    stage.send(KEY, END)
    viewer.new()
    other = stage.take_over()
    (answer,) = of_kind(PublishAnswer, other.new())
    assert (answer.source, answer.received) == (1, stage.source.received_bytes)
    assert [(track.last_seq, track.ended) for track in answer.tracks] == [(1, True)]
    assert stage.alice.new() == [Replaced(room=ROOM, source=1)]
    assert stage.alice.member.sources == {}
    assert stage.alice.member.former == {(ROOM, 1): stage.source}
    assert stage.source.owner is other.member
    assert viewer.new() == []


def test_a_lingering_source_is_taken_over_without_anyone_to_tell(stage: Stage) -> None:
    stage.room.lose_owner(stage.source, 5.0, 10.0)
    assert (stage.source.owner, stage.source.leave_at) == (None, 15.0)
    other = stage.take_over()
    assert stage.source.owner is other.member
    assert stage.alice.new() == []


def test_anothers_token_is_in_use(stage: Stage) -> None:
    with pytest.raises(RoomError) as caught:
        stage.room.publish(stage.peer("bob").member, TOKEN, 1, 0.0)
    assert caught.value.code is Code.TOKEN_IN_USE


def test_sources_are_bounded_but_a_takeover_is_none_more() -> None:
    node = Node(limits(max_sources_per_room=1))
    room, alice = make_room(node), make_peer(node)
    source = open_source(room, alice)
    with pytest.raises(RoomError) as caught:
        room.publish(alice.member, OTHER_TOKEN, 1, 0.0)
    assert caught.value.code is Code.TOO_MANY_SOURCES
    assert room.publish(make_peer(node).member, TOKEN, 1, 0.0) is source


def test_the_sources_of_a_connection_are_bounded_but_not_its_repeats() -> None:
    node = Node(limits(max_sources_per_connection=1))
    room, alice, other = make_room(node), make_peer(node), make_peer(node)
    source = open_source(room, alice)
    assert room.publish(alice.member, TOKEN, 2, 0.0) is source
    with pytest.raises(RoomError) as caught:
        room.publish(alice.member, OTHER_TOKEN, 1, 0.0)
    assert caught.value.code is Code.TOO_MANY_SOURCES
    open_source(room, other, OTHER_TOKEN)
    with pytest.raises(RoomError) as caught:
        room.publish(alice.member, OTHER_TOKEN, 1, 0.0)
    assert caught.value.code is Code.TOO_MANY_SOURCES


def test_a_token_opens_a_new_source_once_the_old_one_has_left(stage: Stage) -> None:
    stage.room.unpublish(stage.alice.member, stage.source, 3, 0.0)
    source = open_source(stage.room, stage.alice)
    assert source is not stage.source
    assert source.number == 2


def test_unpublish_answers_behind_all_data_and_tells_subscribers(stage: Stage) -> None:
    viewer = stage.viewer()
    join(stage.room, stage.alice)
    stage.send(KEY, 0)
    stage.source.discarded = 4
    stage.alice.new()
    stage.room.unpublish(stage.alice.member, stage.source, 3, 0.0)
    left = SourceLeft(room=ROOM, source=1, reason=SourceLeftReason.UNPUBLISHED)
    assert viewer.new()[-1] == left
    assert stage.alice.new_with_ids() == [
        Received(0, left),
        Received(3, UnpublishAnswer(forwarded=2, discarded=4)),
    ]
    assert stage.room.sources == {}
    assert stage.alice.member.former == {(ROOM, 1): stage.source}


def test_a_source_that_left_stays_listed_for_a_while(stage: Stage) -> None:
    stage.send(INIT)
    stage.send(KEY, END)
    stage.room.end_source(stage.source, SourceLeftReason.UNPUBLISHED, 0.0)
    viewer = stage.peer()
    join(stage.room, viewer)
    received = viewer.new()
    (answer,) = of_kind(SubscribeAnswer, received)
    assert answer.sources == [
        SourceInfo(
            source=1,
            account="alice",
            left=True,
            tracks=[TrackInfo(track=0, state=0x07, last_seq=2)],
        )
    ]
    assert seqs(received) == []
    assert stage.node.cache_bytes == 0
    kept = LEFT_SOURCES_KEPT
    for _ in range(kept):
        source = open_source(stage.room, stage.alice)
        stage.room.end_source(source, SourceLeftReason.UNPUBLISHED, 0.0)
    info = stage.room.info(show_granted=False, now=0.0)
    assert [each.source for each in info.sources] == list(range(2, kept + 2))


def test_the_end_of_a_source_ends_lags_with_their_gap(stage: Stage) -> None:
    slow = stage.viewer(budget=0)
    for _ in range(6):
        stage.send(KEY, size=1000)
    stage.room.end_source(stage.source, SourceLeftReason.CONNECTION_LOST, 0.0)
    slow.drain()
    assert slow.new()[4:] == [
        gap(4, 5, GapReason.LAGGED),
        SourceLeft(room=ROOM, source=1, reason=SourceLeftReason.CONNECTION_LOST),
    ]
    assert stage.node.lagging == 0


def test_a_revoked_account_loses_its_sources_and_nobody_elses(stage: Stage) -> None:
    viewer = stage.viewer()
    bob = stage.peer("bob")
    mine = open_source(stage.room, bob, OTHER_TOKEN)
    lingering = open_source(stage.room, bob, bytes(15) + b"x")
    stage.room.lose_owner(lingering, 5.0, 0.0)
    viewer.new()
    stage.room.revoke_sources("bob", RevokedReason.REVOKED, 0.0)
    assert bob.new() == [PushRevoked(room=ROOM, source=2, reason=RevokedReason.REVOKED)]
    assert viewer.new() == [
        SourceLeft(room=ROOM, source=number, reason=SourceLeftReason.REVOKED) for number in (2, 3)
    ]
    assert bob.member.former[ROOM, 2] is mine
    assert list(stage.room.sources) == [1]


def test_viewers_goes_once_to_each_publishing_connection(stage: Stage) -> None:
    second = open_source(stage.room, stage.alice, OTHER_TOKEN)
    lost = open_source(stage.room, stage.peer("bob"), bytes(15) + b"x")
    stage.room.lose_owner(lost, 5.0, 0.0)
    assert second.owner is stage.alice.member
    stage.viewer()
    assert stage.room.viewers_changed
    stage.room.announce_viewers(0.0)
    assert stage.alice.new() == [Viewers(room=ROOM, viewers=1)]
    assert not stage.room.viewers_changed


# Gathering


@pytest.fixture
def gathering() -> Stage:
    return Stage(gather_ms=50)


def test_small_runs_wait_to_share_a_send(gathering: Stage) -> None:
    viewer = gathering.viewer()
    writes = len(viewer.wire.writes)
    sound = TrackWriter(track=1)
    gathering.push(gathering.writer.run(0, 0), 1.0)
    gathering.push(sound.run(0), 1.02)
    assert viewer.new() == []
    assert gathering.flushes == [1.05]
    gathering.room.flush(1.05)
    gathering.room.flush(1.05)
    assert seqs(viewer.new()) == [0, 1, 0]
    assert len(viewer.wire.writes) == writes + 1
    gathering.push(gathering.writer.run(0), 2.0)
    assert gathering.flushes == [1.05, 2.05]


@pytest.mark.parametrize("flags", [INIT, KEY, END])
def test_what_must_not_wait_goes_at_once_behind_what_waited(gathering: Stage, flags: int) -> None:
    viewer = gathering.viewer()
    gathering.send(0)
    gathering.send(flags)
    assert seqs(viewer.new()) == [0, 1]


def test_much_does_not_wait(gathering: Stage) -> None:
    viewer = gathering.viewer()
    for _ in range(4):
        gathering.send(0, size=4000)
    assert viewer.new() == []
    gathering.send(0, size=4000)
    assert seqs(viewer.new()) == [0, 1, 2, 3, 4]


def test_a_joiner_gets_nothing_from_before_that_waited(gathering: Stage) -> None:
    first = gathering.viewer()
    gathering.send(0)
    second = gathering.peer()
    join(gathering.room, second)
    gathering.send(0)
    gathering.room.flush(0.0)
    assert (seqs(first.new()), seqs(second.new())) == ([0, 1], [1])


def test_events_stand_behind_what_waited(gathering: Stage) -> None:
    viewer = gathering.viewer()
    gathering.send(0)
    open_source(gathering.room, gathering.alice, OTHER_TOKEN)
    assert [type(each) for each in viewer.new()] == [StreamFrame, SourceJoined]
    gathering.send(0)
    gathering.take_over()
    gathering.writer.next_seq = 5
    gathering.send(0)
    gathering.room.end_source(gathering.source, SourceLeftReason.UNPUBLISHED, 0.0)
    kinds = [type(each) for each in viewer.new()]
    assert kinds == [StreamFrame, Gap, StreamFrame, SourceLeft]


def test_what_waited_is_in_the_gap_of_who_lags_when_the_source_ends(gathering: Stage) -> None:
    slow = gathering.viewer(budget=0)
    for _ in range(3):
        gathering.send(KEY, size=2000)
    assert list(slow.subscription.lagging) == [gathering.source.tracks[0]]
    gathering.send(0)
    gathering.room.end_source(gathering.source, SourceLeftReason.UNPUBLISHED, 0.0)
    gathering.room.flush(1.0)
    slow.drain()
    items = slow.new()
    assert items[-2:] == [
        gap(2, 3, GapReason.LAGGED),
        SourceLeft(room=ROOM, source=1, reason=SourceLeftReason.UNPUBLISHED),
    ]
    assert seqs(items) == [0, 1]


def test_a_room_closes_behind_what_waited(gathering: Stage) -> None:
    viewer = gathering.viewer()
    gathering.send(0)
    close(gathering)
    assert [type(each) for each in viewer.new()] == [StreamFrame, RoomClosed]


def test_who_lags_is_offered_what_was_gathered_run_by_run(gathering: Stage) -> None:
    slow = gathering.viewer(budget=0)
    gathering.send(KEY, size=4000)
    for _ in range(3):
        gathering.send(0, size=1000)
    gathering.room.flush(0.0)
    slow.drain()
    gathering.send(KEY)
    received = slow.new()
    assert seqs(received) == [0, 4]
    assert received[1] == gap(1, 3, GapReason.LAGGED)


# Bounds of INITs and tracks


def test_inits_are_bounded_per_room_and_freed_with_their_source() -> None:
    """A refused run leaves everything as it was, so that a takeover can go on."""
    node = Node(limits(max_room_init_bytes=64 * KIB))
    room, alice, viewer = make_room(node), make_peer(node), make_peer(node)
    source = open_source(room, alice)
    join(room, viewer)
    writers = [TrackWriter(track=track) for track in range(64)]
    for writer in writers:
        room.push(source, writer.run(INIT, size=KIB), 0.0)
    # A track's next INIT takes the place of the one before.
    for writer in writers:
        room.push(source, writer.run(INIT, size=KIB), 0.0)
    room.push(source, writers[0].run(KEY), 0.0)
    viewer.new()
    with pytest.raises(RemoteProtocolError) as caught:
        room.push(source, writers[0].run(INIT, END, size=KIB + 1), 0.0)
    assert caught.value.code is Code.FLOODING
    assert viewer.new() == []
    assert source.tracks[0].info().last_seq == 2
    assert not source.tracks[0].ended
    room.end_source(source, SourceLeftReason.CONNECTION_LOST, 0.0)
    source = open_source(room, alice)
    for track in range(64):
        writer = TrackWriter(source=source.number, track=track)
        room.push(source, writer.run(INIT, size=KIB), 0.0)


def test_tracks_are_bounded_per_room_and_freed_with_their_source() -> None:
    node = Node(limits(max_tracks_per_room=2))
    room, alice = make_room(node), make_peer(node)
    source = open_source(room, alice)
    for track in (0, 1):
        room.push(source, TrackWriter(track=track).run(0), 0.0)
    with pytest.raises(RemoteProtocolError) as caught:
        room.push(source, TrackWriter(track=2).run(0), 0.0)
    assert caught.value.code is Code.FLOODING
    room.end_source(source, SourceLeftReason.CONNECTION_LOST, 0.0)
    source = open_source(room, alice)
    assert room.push(source, TrackWriter(source=2, track=5).run(0), 0.0) == 0
    assert source.forwarded == 1


# The end


def close(stage: Stage) -> RoomClosed:
    stage.room.close(RoomClosedReason.IDLE, "quiet", 0.0)
    return RoomClosed(room=ROOM, reason=RoomClosedReason.IDLE, text="quiet")


def test_a_closed_room_tells_everyone_once(stage: Stage) -> None:
    viewer = stage.viewer()
    join(stage.room, stage.alice)
    stage.alice.new()
    lost = open_source(stage.room, stage.peer("bob"), OTHER_TOKEN)
    stage.room.lose_owner(lost, 5.0, 0.0)
    stage.alice.new()
    viewer.new()
    closed = close(stage)
    assert viewer.new() == stage.alice.new() == [closed]
    assert stage.room.sources == {}
    assert stage.alice.member.former == {(ROOM, 1): stage.source}
    assert viewer.member.subscriptions == stage.alice.member.subscriptions == {}
    assert is_idle(stage.node)


def test_room_closed_comes_behind_all_data_and_the_gaps_of_lags(stage: Stage) -> None:
    slow = stage.viewer(budget=0)
    for _ in range(6):
        stage.send(KEY, size=1000)
    closed = close(stage)
    slow.drain()
    received = slow.new()
    assert seqs(received) == [0, 1, 2, 3]
    assert received[4:] == [gap(4, 5, GapReason.LAGGED), closed]
    assert is_idle(stage.node)


@pytest.mark.parametrize(
    "act",
    [
        lambda stage: stage.send(0),
        lambda stage: stage.take_over(),
        lambda stage: close(stage),
        lambda stage: stage.room.end_source(stage.source, SourceLeftReason.UNPUBLISHED, 0.0),
        lambda stage: stage.room.announce_viewers(0.0),
    ],
    ids=["push", "takeover", "close", "end of source", "viewers"],
)
def test_a_subscriber_that_overflows_amid_an_act_harms_nobody(
    stage: Stage, act: Callable[[Stage], object]
) -> None:
    """Its reserved room is full, so that the next event aborts it."""
    stage.send(KEY)
    full, other = stage.viewer(budget=0), stage.viewer()
    join(stage.room, stage.alice)
    fill(full, 100)
    full.outbox.control.charge(LIMITS.control_backlog_bytes, 0.0)
    act(stage)
    assert other.aborts == stage.alice.aborts == 0
    full.outbox.control.settle(LIMITS.control_backlog_bytes, done=True)
    full.outbox.discard()
    assert stage.node.backlog_bytes == 0


def test_info_tells_who_and_how_much(stage: Stage) -> None:
    stage.room.granted.update(("zoe", "bob"))
    stage.viewer()
    run = stage.writer.run(KEY, 0)
    stage.push(run)
    info = stage.room.info(show_granted=True, now=2.5)
    assert (info.room, info.mode, info.creator) == (ROOM, RoomMode.LIVE, "alice")
    assert (info.age_ms, info.viewers, info.idle_timeout_s, info.gather_ms) == (2500, 1, 300, 0)
    assert (info.frames, info.bytes) == (2, len(run.data))
    assert info.granted == ["bob", "zoe"]
    assert [each.source for each in info.sources] == [1]
    assert stage.room.info(show_granted=False, now=2.5).granted == []


def test_who_may_push(stage: Stage) -> None:
    for _ in range(2):  # once more changes nothing
        assert stage.room.grant("bob")
        assert [stage.room.may_push(name) for name in ("alice", "bob", "eve")] == [
            True,
            True,
            False,
        ]
    stage.room.revoke("bob")
    assert not stage.room.may_push("bob")


def test_a_room_is_shown_by_its_id() -> None:
    assert str(make_room()) == format_room_id(ROOM)


def test_a_new_rooms_idle_time_counts_from_its_making() -> None:
    assert make_room(created_at=42.0).last_frame_at == 42.0


def test_grants_are_listed_as_far_as_a_frame_holds_them() -> None:
    room = make_room()
    longest = "ñ" * 64
    granted = 0
    while room.grant(f"{longest[:60]}{granted}"):
        granted += 1
    assert len(room.granted) == granted > 0
    room.revoke(next(iter(room.granted)))
    assert room.grant("bob")


@pytest.mark.parametrize("mode", list(RoomMode))
def test_one_room_s_frames_may_look_otherwise(mode: RoomMode) -> None:
    stage = Stage(mode=mode)
    own, usual = Brackets(), Brackets()
    bob, carol = (make_peer(stage.node, account=name, form=usual) for name in ("bob", "carol"))
    bob.member.forms[ROOM] = own
    for peer in (bob, carol):
        stage.room.subscribe(peer.member, StartFrom.GROUP, UNLIMITED_CREDIT, 1, 0.0)
    assert own.encoded == [], "the answer is the connection's own"
    run = TrackWriter().run(0)
    stage.room.push(stage.source, run, 0.0)
    assert own.encoded == [run.data] and usual.encoded.count(run.data) == 1
    for peer in (bob, carol):
        assert bytes(peer.wire.taken).endswith(b"[" + run.data + b"]")
