"""A room against a plain model: whatever happens, in any order, each subscriber
sees exactly what was published from its join point on, or is told by GAP; in a
reliable room it is never told so, and nobody waits for ever.

Publishers push runs with KEY, INIT and END anywhere, are lost, come back, are
taken over with skips and repeats, revoked; subscribers take as many bytes as a
rule gives them, and some of them publish over the same connection; other
connections of the node hold more or less of what it may hold in all. The model
(model.py) only keeps lists of what was published; what anybody got is read off
its wire.
"""

from __future__ import annotations

import attrs
import pytest
import trio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.core.builders import (
    END,
    INIT,
    KEY,
    Peer,
    enter,
    fill,
    is_idle,
    make_manager,
    make_peer,
    read_runs,
)
from tests.core.model import (
    ModelSource,
    ModelTrack,
    Publisher,
    Start,
    Stay,
    Viewer,
    check_stay,
)
from tim_trio.core.manager import RoomManager
from tim_trio.core.room import Room
from tim_trio.errors import RoomError
from tim_trio.limits import MIB
from tim_trio.protocol.layout import STREAM_HEADER_BYTES, UNLIMITED_CREDIT
from tim_trio.protocol.messages import RoomMode, StartFrom, UnsubscribeAnswer, encode
from tim_trio.protocol.stream import StreamFrame, encode_stream_frame

_FLAGS = (0, 0, 0, KEY, 0, INIT, 0, KEY, INIT | KEY, 0, INIT, END, 0x80)


def _as_flags(number: int) -> list[int]:
    """Return up to 6 frames' flags, any there may be: the number's digits."""
    flags = [_FLAGS[number % len(_FLAGS)]]
    while number >= len(_FLAGS):
        number //= len(_FLAGS)
        flags.append(_FLAGS[number % len(_FLAGS)])
    return flags


#: One draw, not one per frame: an example has room for many more of them.
_flags = st.integers(0, len(_FLAGS) ** 6 - 1).map(_as_flags)
#: Mostly large: five of these are more than a subscription's backlog.
_sizes = st.sampled_from([STREAM_HEADER_BYTES, 100, 900, 900, 900])
_any = st.integers(0, 1000)
_credits = st.sampled_from([0, 3000, 9000, 30_000])
_MOST_VIEWERS = 8


@attrs.frozen
class Turn:
    """A read of a publisher's socket, and something else that happens after it."""

    track: int
    flags: list[int]
    size: int
    event: str
    which: int
    budget: int


_turns = st.builds(
    Turn,
    track=st.sampled_from([0, 0, 0, 1]),
    flags=_flags,
    size=_sizes,
    event=st.sampled_from(
        [*"nothing nothing read read room group live flush take take wait".split(), "take over"]
    ),
    which=_any,
    budget=st.sampled_from([50, 500, 2000, 6000]),
)


class RoomMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.sources: list[ModelSource] = []
        self.viewers: list[Viewer] = []
        self.count = 0

    @initialize(
        roomy=st.booleans(),
        gather_ms=st.sampled_from([0, 0, 50]),
        mode=st.sampled_from(RoomMode),
        is_watched=st.sampled_from([True, True, False]),
    )
    def begin(self, roomy: bool, gather_ms: int, mode: RoomMode, is_watched: bool) -> None:
        self.roomy = roomy
        self.gather_ms = gather_ms
        cache = {"room_cache_bytes": MIB, "node_cache_bytes": 64 * MIB} if roomy else {}
        self.manager: RoomManager = make_manager(**cache)
        limits = self.manager.node.limits
        self.window = limits.backlog_bytes + limits.max_frame_bytes
        self.creator = enter(self.manager, "alice")
        self.ballast = make_peer(self.manager.node, budget=0)
        self.room: Room | None = None
        self.open_room(mode)
        self.publish("alice", 0, is_viewer=False)
        for is_quick in (True, False) if is_watched else ():
            self.join_anew(StartFrom.GROUP, 0, is_quick)

    @precondition(lambda self: self.room is None)
    @rule(mode=st.sampled_from(RoomMode))
    def open_room(self, mode: RoomMode) -> None:
        member = self.creator.member
        self.room = trio.run(self.manager.register, member, mode, self.gather_ms, 0, self.now)

    def the_room(self) -> Room:
        assert self.room is not None
        return self.room

    @property
    def is_reliable(self) -> bool:
        return self.room is not None and self.room.mode is RoomMode.RELIABLE

    def live(self) -> list[ModelSource]:
        return [source for source in self.sources if not source.is_over]

    def owned(self) -> list[ModelSource]:
        return [source for source in self.live() if source.owner]

    # Publishers

    @precondition(lambda self: self.room is not None and len(self.live()) < 3)
    @rule(account=st.sampled_from(["alice", "bob"]), which=_any, is_viewer=st.booleans())
    def publish(self, account: str, which: int, is_viewer: bool) -> None:
        """Open a source on a connection of its own, or on a subscriber's."""
        room = self.the_room()
        self.count += 1
        token = self.count.to_bytes(16)
        viewers = [viewer for viewer in self.viewers if not viewer.is_gone]
        if is_viewer and viewers:
            viewer = viewers[which % len(viewers)]
            if viewer.publisher is None:
                viewer.publisher = Publisher(viewer.peer)
            publisher = viewer.publisher
            account = viewer.peer.account
        else:
            publisher = Publisher(enter(self.manager, account))
        trio.run(self.manager.grant, self.creator.member, room.number, account, self.now)
        member = publisher.peer.member
        before = set(member.sources)
        self.manager.publish(member, room.number, token, 1, self.now)
        ((_, number),) = set(member.sources) - before
        is_held = self.is_reliable and not room.viewers
        self.sources.append(ModelSource(room, number, account, token, publisher, is_held))

    @precondition(lambda self: any(source.owner for source in self.live()))
    @rule(which=_any, jump=st.integers(-4, 3), turns=st.lists(_turns, min_size=1, max_size=12))
    def stream(self, which: int, jump: int, turns: list[Turn]) -> None:
        """Push runs on both tracks of a source, with joins and reads between them."""
        for turn in turns:
            self.push(which, turn.track, jump, turn.flags, turn.size)
            if turn.event == "take over":
                self.take_over(which)
            elif turn.event == "flush":
                self.the_room().flush(self.now)
            elif turn.event in ("group", "live"):
                start = StartFrom[turn.event.upper()]
                if len(self.viewers) < _MOST_VIEWERS:
                    self.join_anew(start, turn.budget, turn.budget > 2000)
                else:
                    self.join_again(turn.which, start, turn.budget)
            elif turn.event == "wait":
                self.wait(turn.budget / 500, None)
            elif turn.event == "take" and self.viewers:
                self.read(turn.which, 2 * turn.budget, is_writer_asleep=False)
                self.grant(turn.which, 2 * turn.budget)
            elif self.viewers and turn.event != "nothing":
                self.read(turn.which, turn.budget, is_writer_asleep=turn.event == "room")

    @precondition(lambda self: any(source.owner for source in self.live()))
    @rule(jump=st.integers(-4, 3), turns=st.lists(_turns, min_size=4, max_size=12))
    def stream_on(self, jump: int, turns: list[Turn]) -> None:
        """Once more: without it nothing happens, so that it must be frequent."""
        self.stream(0, jump, turns)

    def push(self, which: int, track: int, jump: int, flags: list[int], size: int) -> None:
        if not self.owned():
            return  # they have been cut off as subscribers
        source = self.owned()[which % len(self.owned())]
        if self.is_reliable:
            jump = min(jump, 0)  # what a publisher skips nobody can get
        if track not in source.tracks:
            source.tracks[track] = ModelTrack(may_jump=source.taken_over)
        model = source.tracks[track]
        if model.may_jump:
            model.send_seq = max(0, model.next_seq + jump)
        frames: list[StreamFrame] = []
        for each in flags:
            seq = model.send_seq + len(frames)
            if model.ended and seq >= model.next_seq:
                break
            # Bytes that differ each time: a repeat would be noticed.
            self.count += 1
            payload = self.count.to_bytes(8).ljust(size - STREAM_HEADER_BYTES, b".")
            frame = StreamFrame(source.room.number, source.number, track, seq, 0, each, payload)
            if not self.takes_credit(source, len(encode_stream_frame(frame))):
                break
            frames.append(frame)
            if each & END and seq >= model.next_seq:
                break
        if not frames:
            return
        model.may_jump = False
        model.send_seq += len(frames)
        data = b"".join(encode_stream_frame(frame) for frame in frames)
        for run in read_runs(data):
            source.room.push(source.real(), run, self.now)
        for frame in frames:
            if frame.seq < model.next_seq:
                continue
            if frame.seq > model.next_seq:
                model.is_broken = True
            if frame.is_key:
                model.is_broken = False
            model.frames[frame.seq] = frame
            model.next_seq = frame.seq + 1
            model.ended |= frame.is_end

    def takes_credit(self, source: ModelSource, size: int) -> bool:
        """Say whether a source may send so much, and count it."""
        if not self.is_reliable:
            return True
        assert source.owner is not None
        if source.owner.may_send(source) < size:
            return False
        source.owner.count(source, size)
        return True

    @precondition(lambda self: self.live())
    @rule(which=_any)
    def take_over(self, which: int) -> None:
        source = self.live()[which % len(self.live())]
        peer = enter(self.manager, source.account)
        self.manager.publish(peer.member, source.room.number, source.token, 1, self.now)
        source.owner = Publisher(peer)
        source.taken_over = True
        for track in source.tracks.values():
            track.may_jump = True

    @precondition(lambda self: self.live())
    @rule(which=_any, how=st.sampled_from("lost lost closed unpublished revoked".split()))
    def lose(self, which: int, how: str) -> None:
        """A publisher goes, one way or the other."""
        source = self.live()[which % len(self.live())]
        number = source.room.number
        if how == "revoked":
            # The creator cannot be revoked.
            trio.run(self.manager.revoke, self.creator.member, number, source.account, self.now)
            for each in self.live():
                each.is_over |= each.account == source.account != "alice"
        elif source.owner is None:
            pass
        elif how == "unpublished":
            self.manager.unpublish(source.owner.peer.member, number, source.number, 1, self.now)
            source.is_over = True
        else:
            self.drop(source.owner.peer, clean=how == "closed")

    def drop(self, peer: Peer, *, clean: bool) -> None:
        """A connection ends, with all that it publishes and subscribes to."""
        for source in self.live():
            if source.owner is not None and source.owner.peer is peer:
                source.owner = None
                source.is_over = clean
        self.manager.leave(peer.member, clean=clean, now=self.now)
        for viewer in self.viewers:
            if viewer.peer is peer:
                peer.outbox.discard()
                viewer.is_gone = True

    # Subscribers

    @precondition(lambda self: self.room is not None and len(self.viewers) < _MOST_VIEWERS)
    @rule(start=st.sampled_from(StartFrom), credit=_credits, is_quick=st.booleans())
    def join_anew(self, start: StartFrom, credit: int, is_quick: bool) -> None:
        viewer = Viewer(enter(self.manager, f"eve{len(self.viewers)}"), is_quick)
        viewer.peer.wire.budget = None if is_quick else 0
        self.viewers.append(viewer)
        self.join(viewer, start, credit)

    @precondition(lambda self: self.room is not None and self.viewers)
    @rule(which=_any, start=st.sampled_from(StartFrom), credit=_credits)
    def join_again(self, which: int, start: StartFrom, credit: int) -> None:
        viewer = self.viewers[which % len(self.viewers)]
        room = self.the_room().number
        if viewer.is_gone or room in viewer.peer.member.subscriptions:
            return
        if viewer.peer.outbox.shared_bytes > self.manager.node.limits.connection_backlog_bytes:
            with pytest.raises(RoomError):
                self.manager.subscribe(viewer.peer.member, room, start, 0, 1, self.now)
        else:
            self.join(viewer, start, credit)

    def join(self, viewer: Viewer, start: StartFrom, credit: int) -> None:
        room = self.the_room()
        starts: dict[tuple[int, int], Start] = {}
        for source in self.live():
            for number, track in source.tracks.items():
                if not track.frames:
                    continue  # it has had no credit for the first one
                starts[source.number, number] = Start(
                    track.next_seq,
                    track.newest(INIT, track.next_seq),
                    track.newest(KEY, track.next_seq),
                    track.ended,
                    track.is_broken,
                    source.is_held,
                )
        for source in self.live():
            source.is_held = False
        sources = frozenset(source.number for source in self.live())
        if viewer.is_quick:
            credit = UNLIMITED_CREDIT
        viewer.stays.append(Stay(room, start, starts, sources, max(credit, self.window)))
        self.manager.subscribe(viewer.peer.member, room.number, start, credit, 1, self.now)
        if self.roomy and start is StartFrom.GROUP:
            # Nothing but a loss keeps a group from being offered.
            for source in self.live():
                for number, real in source.real().tracks.items():
                    begin = starts[source.number, number]
                    assert bool(real.cache.runs) == (begin.key is not None and not begin.is_broken)

    @precondition(lambda self: self.viewers)
    @rule(which=_any, is_lost=st.booleans())
    def leave(self, which: int, is_lost: bool) -> None:
        viewer = self.viewers[which % len(self.viewers)]
        if is_lost:
            self.cut_off(viewer)
            return
        for number in list(viewer.peer.member.subscriptions):
            self.manager.unsubscribe(viewer.peer.member, number)
            viewer.peer.outbox.put_control(encode(UnsubscribeAnswer(), 1), self.now)

    def cut_off(self, viewer: Viewer) -> None:
        self.drop(viewer.peer, clean=False)

    @precondition(lambda self: self.is_reliable and self.viewers)
    @rule(which=_any, ahead=_credits)
    def grant(self, which: int, ahead: int) -> None:
        """Let a subscriber be ready to take so much beyond what it has got."""
        viewer = self.viewers[which % len(self.viewers)]
        room = self.room
        if room is None or viewer.is_gone or room.number not in viewer.peer.member.subscriptions:
            return
        viewer.parse()
        stay = viewer.stays[-1]
        for source in self.live():
            limit = stay.counted(source.number) + ahead
            self.manager.credit(viewer.peer.member, room.number, source.number, limit)
            stay.grant(source.number, limit)

    def read(self, which: int, budget: int, *, is_writer_asleep: bool) -> None:
        """Let a slow subscriber's connection take some bytes, now or directly later."""
        viewer = self.viewers[which % len(self.viewers)]
        if viewer.is_quick or viewer.is_gone:
            return
        if is_writer_asleep:
            # The kernel would take more, but what is pending goes first.
            viewer.peer.wire.budget = budget
        else:
            viewer.peer.drain(budget, self.now)

    @precondition(lambda self: self.viewers)
    @rule(which=_any, then_budget=st.sampled_from([0, 100, 3000]))
    def catch_up(self, which: int, then_budget: int) -> None:
        """Let a subscriber read everything, and check it."""
        viewer = self.viewers[which % len(self.viewers)]
        self.check(viewer)
        if not viewer.is_quick:
            viewer.peer.wire.budget = then_budget

    # Time, and the end of rooms

    @rule(
        seconds=st.sampled_from([0.3, 0.8, 6.0, 11.0]),
        share=st.sampled_from([None, None, 0.0, 0.6, 0.9, 1.0]),
    )
    def wait(self, seconds: float, share: float | None) -> None:
        self.now += seconds
        if share is not None:
            self.crowd(share)
        if self.room is not None:
            self.room.flush(self.now)
            for subscription in self.room.find_slow(self.now):
                (slow,) = [v for v in self.viewers if v.peer.outbox is subscription.outbox]
                assert not slow.is_quick
                self.cut_off(slow)
        leaving = [
            source
            for source in self.live()
            if source.owner is None and source.real().leave_at <= self.now
        ]
        trio.run(self.manager.expire, self.now)
        for source in leaving:
            source.is_over = True
        if self.room is not None and self.room.number not in self.manager.rooms:
            self.forget_room()

    def crowd(self, share: float) -> None:
        """Let others hold that much of what the node may hold."""
        self.ballast.outbox.discard()
        self.ballast = make_peer(self.manager.node, budget=0)
        size = int(share * self.manager.node.limits.node_backlog_bytes)
        if size:
            fill(self.ballast, size, self.now)

    @precondition(lambda self: self.room is not None and self.sources)
    @rule()
    def close_room(self) -> None:
        number = self.the_room().number
        trio.run(self.manager.remove, self.creator.member, number, self.now)
        self.forget_room()

    def forget_room(self) -> None:
        self.room = None
        for source in self.sources:
            source.is_over = True

    # What must hold

    @invariant()
    def who_overflows_is_cut_off(self) -> None:
        for viewer in self.viewers:
            if viewer.peer.aborts and not viewer.is_gone:
                assert not viewer.is_quick
                self.cut_off(viewer)

    @invariant()
    def counters_are_true(self) -> None:
        if not self.viewers:
            return
        node = self.manager.node
        outboxes = [viewer.peer.outbox for viewer in self.viewers]
        subscriptions = [
            each for viewer in self.viewers for each in viewer.peer.member.subscriptions.values()
        ]
        held = sum(outbox.live_bytes for outbox in (*outboxes, self.ballast.outbox))
        assert node.backlog_bytes == held
        assert node.subscriptions == len(subscriptions)
        assert node.lagging == sum(
            lag.lost_from is not None for each in subscriptions for lag in each.lagging.values()
        )
        assert node.cache_bytes == (self.room.cache_bytes if self.room else 0)
        assert 0 <= node.cache_bytes <= node.limits.room_cache_bytes
        for outbox in outboxes:
            assert outbox.live_bytes <= outbox.pending_bytes
            if not any(source.room.mode is RoomMode.RELIABLE for source in self.sources):
                # The bound, and the one run that an empty outbox admits.
                assert outbox.live_bytes - outbox.control.pending_bytes <= 6 * 900 + 4096
        for source in self.live() if self.is_reliable else ():
            pace = source.real().pace
            assert pace is not None
            assert all(flow.pending_bytes <= self.window for flow in pace._flows.values())

    def check(self, viewer: Viewer) -> None:
        """Check everything a subscriber got; what it is due as well, if it is still here."""
        if not viewer.is_gone:
            if self.room is not None:
                self.room.flush(self.now)
            viewer.peer.drain(None, self.now)
        viewer.parse()
        for stay in viewer.stays:
            if stay.received:
                sources = [source for source in self.sources if source.room is stay.room]
                check_stay(viewer, stay, {source.number: source for source in sources})
            else:
                assert viewer.is_gone

    def teardown(self) -> None:
        if not hasattr(self, "manager"):
            return
        for viewer in self.viewers:
            self.check(viewer)
        if self.room is not None:
            if self.is_reliable:
                self.nobody_waits_for_ever()
            else:
                self.everyone_comes_back_at_a_key()
            number = self.room.number
            trio.run(self.manager.remove, self.creator.member, number, self.now)
            self.forget_room()
        for viewer in self.viewers:
            self.check(viewer)
            self.manager.leave(viewer.peer.member, clean=False, now=self.now)
            viewer.peer.outbox.discard()
        self.ballast.outbox.discard()
        assert is_idle(self.manager.node)

    def nobody_waits_for_ever(self) -> None:
        """Once all subscribers take everything, every source may send the largest frame."""
        for _ in range(2):  # what they read at first has made room, and that is told
            for which, viewer in enumerate(self.viewers):
                self.check(viewer)
                self.grant(which, self.window)
        for source in self.owned():
            assert source.owner is not None
            if self.the_room().viewers:
                most = self.manager.node.limits.max_frame_bytes
                assert source.owner.may_send(source) >= most

    def everyone_comes_back_at_a_key(self) -> None:
        """Whoever has read everything lags no longer once each track has had a KEY."""
        running = []
        for which, source in enumerate(self.owned()):
            for number, track in source.tracks.items():
                if not track.ended:
                    # A publisher that repeats itself has to get to new frames first.
                    repeats = 0 if track.may_jump else track.next_seq - track.send_seq
                    self.push(which, number, 0, [0] * repeats + [KEY], 100)
                    running.append(source.real().tracks[number])
        for viewer in self.viewers:
            for subscription in viewer.peer.member.subscriptions.values():
                assert not subscription.lagging.keys() & set(running)


TestRoomModel = RoomMachine.TestCase


@pytest.mark.soak
def test_for_long() -> None:
    """Sequences that are rare enough to escape a run of a few seconds."""
    long = settings(max_examples=10_000, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(RoomMachine, settings=long)
