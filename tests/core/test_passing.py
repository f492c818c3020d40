"""Frames that are let through unread: which they are, and that nobody can tell."""

from collections.abc import Callable

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.core.builders import (
    END,
    KEY,
    Brackets,
    Carried,
    Peer,
    TrackWriter,
    Wire,
    join,
    make_manager,
    of_kind,
    seqs,
)
from tests.core.stage import Stage
from tests.core.test_session import Caller
from tests.core.test_session_rates import RELIABLE
from tim_trio.core.manager import RoomManager
from tim_trio.core.session import Session
from tim_trio.core.subscription import Subscription
from tim_trio.protocol.decoder import FrameHeader
from tim_trio.protocol.layout import STREAM_HEADER_BYTES
from tim_trio.protocol.messages import (
    Credit,
    RegisterRoomAnswer,
    RoomMode,
    StartFrom,
    Subscribe,
    SubscribeAnswer,
)
from tim_trio.protocol.stream import encode_stream_frame

SIZE = 1000


def reliable() -> Stage:
    return Stage(mode=RoomMode.RELIABLE)


def started() -> Stage:
    """A reliable room whose track has begun, with one subscriber."""
    stage = reliable()
    stage.viewer()
    stage.send(0)
    return stage


def only(stage: Stage) -> Subscription:
    ((_, subscription),) = stage.room.subscribers()
    return subscription


def header(stage: Stage, *, size: int = SIZE, ahead: int = 0, track: int = 0) -> FrameHeader:
    return FrameHeader(stage.room.number, 1, track, stage.writer.next_seq + ahead, size)


def passed(stage: Stage, size: int = SIZE, failure: Exception | None = None) -> bool:
    """Let the next frame through if it may; else push it. Returns which."""
    frame = header(stage, size=size)
    if not stage.room.may_pass(stage.source, frame):
        stage.send(0, size=size)
        return False
    payload = bytes(size - STREAM_HEADER_BYTES)
    data = encode_stream_frame(stage.writer.frame(0, payload))
    stage.room.pass_on(stage.source, frame, Carried(data, failure), 1.0)
    assert stage.source.pace is not None
    stage.source.pace.update()
    return True


def test_the_next_frame_passes_to_the_only_subscriber() -> None:
    stage = started()
    assert passed(stage)
    assert passed(stage)
    assert stage.send(0) == 1, "frames that are read follow those that are not"
    pace = stage.source.pace
    assert pace is not None
    assert pace.received == pace.passed == stage.source.received_bytes
    assert stage.source.forwarded == stage.room.frames_in == stage.node.frames_in == 4
    assert stage.room.bytes_in == stage.node.bytes_in == stage.node.bytes_out == pace.passed
    assert stage.node.deliveries == 4


def two_viewers(stage: Stage) -> None:
    stage.viewer()


def nobody(stage: Stage) -> None:
    for member, _ in stage.room.subscribers():
        stage.room.unsubscribe(member)


def behind(stage: Stage) -> None:
    subscription = only(stage)
    subscription.outbox.queue(bytes(10), subscription.backlog, 0.0)


def unsinkable(stage: Stage) -> None:
    subscription = only(stage)
    subscription.outbox.sink = None


def with_a_form(stage: Stage) -> None:
    subscription = only(stage)
    subscription.form = Brackets()


def waiting_for_a_key(stage: Stage) -> None:
    subscription = only(stage)
    subscription.wait_for_key(stage.source.tracks[0])


def keyed(stage: Stage) -> None:
    stage.send(KEY)


def ended(stage: Stage) -> None:
    stage.send(END)


def taken_over(stage: Stage) -> None:
    stage.take_over()


def without_credit(stage: Stage) -> None:
    pace = stage.source.pace
    assert pace is not None
    pace.told = pace.received + SIZE - 1


@pytest.mark.parametrize(
    "change",
    [
        two_viewers,
        nobody,
        behind,
        unsinkable,
        with_a_form,
        waiting_for_a_key,
        keyed,
        ended,
        taken_over,
        without_credit,
    ],
)
def test_what_somebody_must_look_at_does_not_pass(change: Callable[[Stage], None]) -> None:
    stage = started()
    assert stage.room.may_pass(stage.source, header(stage))
    change(stage)
    assert not stage.room.may_pass(stage.source, header(stage))


def test_what_is_not_the_next_of_a_track_does_not_pass() -> None:
    stage = started()
    for frame in (header(stage, ahead=1), header(stage, ahead=-1), header(stage, track=1)):
        assert not stage.room.may_pass(stage.source, frame)


def test_nothing_passes_in_a_live_room_or_before_anyone_has_come() -> None:
    live = Stage()
    live.viewer()
    live.send(0)
    assert not live.room.may_pass(live.source, header(live))
    held = reliable()
    held.send(0)
    assert not held.room.may_pass(held.source, header(held))


def test_what_the_kernel_does_not_take_is_queued_and_counts() -> None:
    stage = started()
    viewer = only(stage)
    assert isinstance(viewer.outbox.sink, Wire)
    viewer.outbox.sink.budget = 300
    assert passed(stage)
    assert viewer.outbox.pending_bytes == SIZE - 300
    assert stage.node.backlog_bytes == SIZE - 300
    pace = stage.source.pace
    assert pace is not None and pace.pending_bytes(viewer) == SIZE - 300
    assert not passed(stage), "who is behind is not overtaken"
    assert viewer.outbox.pending_bytes == 2 * SIZE - 300


def test_a_subscriber_that_has_gone_is_given_up() -> None:
    stage = started()
    viewer = only(stage)
    assert passed(stage, failure=BrokenPipeError())
    assert viewer.outbox.closed and viewer.outbox.close_code is None
    assert not passed(stage)


def test_half_a_frame_is_not_left_to_be_mistaken() -> None:
    stage = started()
    viewer = only(stage)
    with pytest.raises(RuntimeError):
        passed(stage, failure=RuntimeError("the kernel"))
    assert viewer.outbox.closed


def test_credit_is_told_as_for_frames_that_are_read() -> None:
    """Both ways, in step: every CREDIT comes after the same frame."""
    told: list[list[int]] = []
    for way in (True, False):
        stage = started()
        stage.room.grant_credit(only(stage), 1, 10**9)
        stage.alice.new()
        limits_seen = []
        for _ in range(50):
            if way:
                assert passed(stage)
            else:
                stage.send(0, size=SIZE)
            limits_seen += [credit.limit for credit in of_kind(Credit, stage.alice.new())]
        told.append(limits_seen)
    assert told[0] == told[1]
    assert told[0]


@given(
    st.lists(
        st.tuples(st.integers(STREAM_HEADER_BYTES, 3000), st.booleans(), st.integers(0, 4000)),
        max_size=30,
    )
)
def test_nobody_can_tell_whether_a_frame_was_read(steps: list[tuple[int, bool, int]]) -> None:
    """Beside a room where all frames are read: the same bytes, figures and credit."""
    stages = [started(), started()]
    peers: list[Peer] = []
    for stage in stages:
        nobody(stage)
        peer = stage.peer()
        join(stage.room, peer, StartFrom.LIVE, credit=10**9)
        peers.append(peer)
    for size, may_pass, budget in steps:
        for stage, peer in zip(stages, peers, strict=True):
            peer.wire.budget = budget
            pace = stage.source.pace
            assert pace is not None
            if size > pace.left:
                peer.drain()
            elif may_pass and stage is stages[0]:
                passed(stage, size)
            else:
                stage.send(0, size=size)
    for peer in peers:
        peer.drain()
    first, second = peers
    assert first.wire.taken == second.wire.taken
    assert stages[0].alice.wire.taken == stages[1].alice.wire.taken
    for name in ("frames_in", "bytes_in", "bytes_out", "deliveries", "backlog_bytes"):
        assert getattr(stages[0].node, name) == getattr(stages[1].node, name)


async def publishing(manager: RoomManager) -> tuple[Caller, Caller, TrackWriter]:
    """A publisher of a reliable room, which has begun, and its subscriber."""
    alice = await Caller(manager).enter()
    bob = await Caller(manager).enter("bob")
    room = (await alice.get(RegisterRoomAnswer, RELIABLE)).room
    await bob.get(SubscribeAnswer, Subscribe(room=room, start=StartFrom.LIVE, credit=2**40))
    writer = await alice.publish(room)
    await alice.send(writer.data(0))
    bob.peer.new()
    return alice, bob, writer


def pass_one(session: Session, writer: TrackWriter) -> None:
    frame = FrameHeader(writer.room, writer.source, 0, writer.next_seq, SIZE)
    assert session.may_pass(frame)
    data = writer.data(0, payload=bytes(SIZE - STREAM_HEADER_BYTES))
    session.pass_on(frame, Carried(data), trio.current_time())
    session.tell_credit()


async def test_credit_is_told_once_for_all_that_has_passed(autojump_clock: MockClock) -> None:
    alice, _, writer = await publishing(make_manager())
    session = alice.session
    pace = session.pace
    assert pace is not None
    alice.peer.new()
    Caller(alice.manager).session.tell_credit()  # of nobody
    for _ in range(5 * pace.window // 8 // SIZE):
        frame = FrameHeader(writer.room, writer.source, 0, writer.next_seq, SIZE)
        assert session.may_pass(frame)
        data = writer.data(0, payload=bytes(SIZE - STREAM_HEADER_BYTES))
        session.pass_on(frame, Carried(data), trio.current_time())
    assert alice.peer.new() == []
    session.tell_credit()
    (credit,) = of_kind(Credit, alice.peer.new())
    assert credit.limit == pace.told == pace.passed + pace.window


async def test_the_rate_of_what_passes_is_looked_at_now_and_then(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, _, writer = await publishing(make_manager())
    looks = 0
    check = Session._check_stream_rate

    def counted(self: Session, now: float, *, is_live: bool) -> None:
        nonlocal looks
        looks += 1
        check(self, now, is_live=is_live)

    monkeypatch.setattr(Session, "_check_stream_rate", counted)
    for _ in range(50):
        pass_one(alice.session, writer)
    assert looks < 10


async def test_what_passes_counts_towards_the_rate_of_streams(autojump_clock: MockClock) -> None:
    manager = make_manager(stream_bytes_per_s=10_000.0)
    alice, bob, writer = await publishing(manager)
    room = writer.room
    session = alice.session
    assert session.pace is manager.rooms[room].sources[writer.source].pace
    began = trio.current_time()
    for _ in range(60):
        pass_one(session, writer)
        if session.pause_s:
            await session.pause()
    assert trio.current_time() - began == pytest.approx(5, abs=0.5)
    assert seqs(bob.peer.new()) == list(range(1, 61))
    assert not session.may_pass(FrameHeader(room, writer.source + 1, 0, 0, SIZE))
    assert not Caller(manager).session.may_pass(FrameHeader(room, writer.source, 0, 0, SIZE))
