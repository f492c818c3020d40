"""A room against a plain model: whatever happens, in any order, each subscriber
sees exactly what was published from its join point on, or is told by GAP.

Publishers push runs with KEY, INIT and END anywhere, are lost, taken over with
skips and repeats, revoked; subscribers take as many bytes as a rule gives
them. The model only keeps lists of what was published; what a subscriber got
is read off its wire.
"""

from __future__ import annotations

import attrs
import pytest
import trio
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from tests.core.builders import (
    END,
    INIT,
    KEY,
    Peer,
    enter,
    is_idle,
    make_manager,
    read_runs,
)
from tim_trio.core.manager import RoomManager
from tim_trio.core.room import Room
from tim_trio.core.sources import Source
from tim_trio.errors import RoomError
from tim_trio.limits import MIB
from tim_trio.protocol.decoder import ControlFrame, Decoder
from tim_trio.protocol.layout import STREAM_HEADER_BYTES
from tim_trio.protocol.messages import (
    Gap,
    GapReason,
    RoomClosed,
    RoomMode,
    SourceJoined,
    SourceLeft,
    StartFrom,
    SubscribeAnswer,
    TrackState,
    UnsubscribeAnswer,
    decode,
    encode,
)
from tim_trio.protocol.stream import StreamFrame, encode_stream_frame, iter_stream_frames

# The model


@attrs.define(eq=False)
class ModelTrack:
    """What was published on a track.

    Attributes:
        frames: by seq; a number that is missing was skipped.
        next_seq: follows the last one published.
        may_jump: the publisher has just taken over.
        is_broken: something is missing since the last KEY.
    """

    frames: dict[int, StreamFrame] = attrs.field(factory=dict)
    next_seq: int = 0
    send_seq: int = 0
    may_jump: bool = False
    ended: bool = False
    is_broken: bool = False

    def newest(self, flag: int, up_to: int) -> int | None:
        """Return the last seq below ``up_to`` with a flag."""
        return max(
            (seq for seq, frame in self.frames.items() if frame.flags & flag and seq < up_to),
            default=None,
        )


@attrs.define(eq=False)
class ModelSource:
    room: Room
    number: int
    account: str
    token: bytes
    owner: Peer | None
    taken_over: bool = False
    is_over: bool = False
    tracks: dict[int, ModelTrack] = attrs.field(factory=dict)

    def real(self) -> Source:
        return self.room.sources[self.number]


@attrs.frozen
class Start:
    """A track as it was when somebody joined."""

    next_seq: int
    init: int | None
    key: int | None
    ended: bool
    is_broken: bool


@attrs.define(eq=False)
class Stay:
    """One subscription, from SUBSCRIBE to its end."""

    room: Room
    start: StartFrom
    starts: dict[tuple[int, int], Start]
    sources: frozenset[int]
    received: list[object] = attrs.field(factory=list)


@attrs.define(eq=False)
class Viewer:
    """A subscriber and all its stays.

    Attributes:
        is_quick: its wire has always taken everything.
    """

    peer: Peer
    is_quick: bool
    stays: list[Stay] = attrs.field(factory=list)
    is_gone: bool = False

    def parse(self) -> None:
        """Sort whole frames received so far into the stays."""
        items: list[object] = []
        decoder = Decoder(max_frame_bytes=64 * MIB, max_init_bytes=MIB)
        for piece in decoder.feed(bytes(self.peer.wire.taken)):
            if isinstance(piece, ControlFrame):
                items.append(decode(piece.type, piece.fields))
            else:
                items += iter_stream_frames(piece.data)
        stays = iter(self.stays)
        stay: Stay | None = None
        for item in items:
            if isinstance(item, SubscribeAnswer):
                stay = next(stays)
                stay.received = [item]
            else:
                assert stay is not None, f"{item} outside a subscription"
                stay.received.append(item)
                if isinstance(item, UnsubscribeAnswer | RoomClosed):
                    stay = None


class Track:
    """Checks what one stay received of one track."""

    def __init__(self, track: ModelTrack, stay: Stay, source: int, number: int) -> None:
        self.track = track
        self.seen: list[int] = []
        start = stay.starts.get((source, number))
        self.preamble: int | None = None
        #: The next seq to come; None while a newcomer waits for its KEY.
        self.expected: int | None = 0
        self.gap: Gap | None = None
        if start is None:
            return
        answer = stay.received[0]
        assert isinstance(answer, SubscribeAnswer)
        (state,) = [
            TrackState(info.state)
            for each in answer.sources
            for info in each.tracks
            if (each.source, info.track) == (source, number)
        ]
        assert bool(state & TrackState.KEYED) == (start.key is not None)
        assert bool(state & TrackState.INIT) == (start.init is not None)
        assert bool(state & TrackState.ENDED) == start.ended
        self.expected, self.preamble = start.next_seq, start.init
        if state & TrackState.CACHED_GROUP:
            assert stay.start is StartFrom.GROUP
            assert start.key is not None
            assert not start.is_broken
            self.expected = start.key
            self.preamble = (
                None if track.frames[start.key].is_init else track.newest(INIT, start.key)
            )
        elif stay.start is StartFrom.GROUP and start.key is not None and not start.ended:
            self.expected = None

    def receive(self, item: StreamFrame | Gap) -> None:
        if isinstance(item, Gap):
            assert self.preamble is None, "a GAP before the INIT"
            assert item.first_seq == self.expected
            assert item.first_seq <= item.last_seq < self.track.next_seq
            lost = range(item.first_seq, item.last_seq + 1)
            if item.reason == GapReason.SKIPPED:
                assert not any(seq in self.track.frames for seq in lost)
            else:
                assert item.reason == GapReason.LAGGED
            self.gap = item
            self.expected = item.last_seq + 1
            return
        assert item == self.track.frames[item.seq]
        assert not self.seen or item.seq > self.seen[-1], "seq repeats or falls"
        if self.preamble is not None:
            assert item.seq == self.preamble
            self.preamble = None
        elif self.expected is None:
            assert item.flags & (INIT | KEY | END)
            if item.flags & (KEY | END):
                self.expected = item.seq + 1
        elif item.seq < self.expected:
            assert item.is_init
            assert self.gap is not None
            assert self.gap.first_seq <= item.seq <= self.gap.last_seq
        else:
            assert item.seq == self.expected
            self.expected += 1
        if not item.is_init:
            init = self.track.newest(INIT, item.seq)
            assert init is None or init in self.seen, "what the decoder needs is missing"
        self.seen.append(item.seq)


_flags = st.sampled_from([0, 0, 0, 0, 0, 0, KEY, KEY, INIT, INIT, INIT | KEY, 0x80, END])
#: Mostly large: five of these are more than a subscription's backlog.
_sizes = st.sampled_from([STREAM_HEADER_BYTES, 100, 900, 900, 900])
_any = st.integers(0, 1000)
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
    flags=st.lists(_flags, min_size=1, max_size=6),
    size=_sizes,
    event=st.sampled_from(
        ["nothing", "nothing", "read", "read", "room", "group", "live", "take over", "flush"]
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

    @initialize(roomy=st.booleans(), gather_ms=st.sampled_from([0, 0, 50]))
    def begin(self, roomy: bool, gather_ms: int) -> None:
        self.roomy = roomy
        self.gather_ms = gather_ms
        cache = {"room_cache_bytes": MIB, "node_cache_bytes": 64 * MIB} if roomy else {}
        self.manager: RoomManager = make_manager(**cache)
        self.creator = enter(self.manager, "alice")
        self.room: Room | None = None
        self.open_room()
        self.publish("alice")
        for is_quick in (True, False):
            self.join_anew(StartFrom.GROUP, is_quick)

    @precondition(lambda self: self.room is None)
    @rule()
    def open_room(self) -> None:
        member = self.creator.member
        self.room = trio.run(
            self.manager.register, member, RoomMode.LIVE, self.gather_ms, 0, self.now
        )

    def the_room(self) -> Room:
        assert self.room is not None
        return self.room

    def live(self) -> list[ModelSource]:
        return [source for source in self.sources if not source.is_over]

    # Publishers

    @precondition(lambda self: self.room is not None and len(self.live()) < 3)
    @rule(account=st.sampled_from(["alice", "bob"]))
    def publish(self, account: str) -> None:
        room = self.the_room()
        self.count += 1
        token = self.count.to_bytes(16)
        trio.run(self.manager.grant, self.creator.member, room.number, account, self.now)
        peer = enter(self.manager, account)
        self.manager.publish(peer.member, room.number, token, 1, self.now)
        ((_, number),) = peer.member.sources
        self.sources.append(ModelSource(room, number, account, token, peer))

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
                    self.join_anew(start, turn.budget > 2000)
                else:
                    self.join_again(turn.which, start)
            elif self.viewers and turn.event != "nothing":
                self.read(turn.which, turn.budget, is_writer_asleep=turn.event == "room")

    @precondition(lambda self: any(source.owner for source in self.live()))
    @rule(jump=st.integers(-4, 3), turns=st.lists(_turns, min_size=4, max_size=12))
    def stream_on(self, jump: int, turns: list[Turn]) -> None:
        """Once more: without it nothing happens, so that it must be frequent."""
        self.stream(0, jump, turns)

    def push(self, which: int, track: int, jump: int, flags: list[int], size: int) -> None:
        owned = [source for source in self.live() if source.owner]
        source = owned[which % len(owned)]
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
            frames.append(
                StreamFrame(source.room.number, source.number, track, seq, 0, each, payload)
            )
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

    @precondition(lambda self: self.live())
    @rule(which=_any)
    def take_over(self, which: int) -> None:
        source = self.live()[which % len(self.live())]
        peer = enter(self.manager, source.account)
        self.manager.publish(peer.member, source.room.number, source.token, 1, self.now)
        source.owner = peer
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
                each.is_over |= each.account == source.account == "bob"
        elif source.owner is None:
            pass
        elif how == "unpublished":
            self.manager.unpublish(source.owner.member, number, source.number, 1, self.now)
            source.is_over = True
        else:
            source.is_over = how == "closed"
            self.manager.leave(source.owner.member, clean=source.is_over, now=self.now)
            source.owner = None

    # Subscribers

    @precondition(lambda self: self.room is not None and len(self.viewers) < _MOST_VIEWERS)
    @rule(start=st.sampled_from(StartFrom), is_quick=st.booleans())
    def join_anew(self, start: StartFrom, is_quick: bool) -> None:
        viewer = Viewer(enter(self.manager, "eve"), is_quick)
        viewer.peer.wire.budget = None if is_quick else 0
        self.viewers.append(viewer)
        self.join(viewer, start)

    @precondition(lambda self: self.room is not None and self.viewers)
    @rule(which=_any, start=st.sampled_from(StartFrom))
    def join_again(self, which: int, start: StartFrom) -> None:
        viewer = self.viewers[which % len(self.viewers)]
        room = self.the_room().number
        if viewer.is_gone or room in viewer.peer.member.subscriptions:
            return
        if viewer.peer.outbox.shared_bytes > self.manager.node.limits.connection_backlog_bytes:
            with pytest.raises(RoomError):
                self.manager.subscribe(viewer.peer.member, room, start, 0, 1, self.now)
        else:
            self.join(viewer, start)

    def join(self, viewer: Viewer, start: StartFrom) -> None:
        room = self.the_room()
        starts: dict[tuple[int, int], Start] = {}
        for source in self.live():
            for number, track in source.tracks.items():
                starts[source.number, number] = Start(
                    track.next_seq,
                    track.newest(INIT, track.next_seq),
                    track.newest(KEY, track.next_seq),
                    track.ended,
                    track.is_broken,
                )
        sources = frozenset(source.number for source in self.live())
        viewer.stays.append(Stay(room, start, starts, sources))
        self.manager.subscribe(viewer.peer.member, room.number, start, 0, 1, self.now)
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
        self.manager.leave(viewer.peer.member, clean=False, now=self.now)
        viewer.peer.outbox.discard()
        viewer.is_gone = True

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

    @rule(seconds=st.sampled_from([0.3, 0.8, 6.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        if self.room is not None:
            self.room.flush(self.now)
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
        assert node.backlog_bytes == sum(outbox.live_bytes for outbox in outboxes)
        assert node.subscriptions == len(subscriptions)
        assert node.lagging == sum(
            lag.lost_from is not None for each in subscriptions for lag in each.lagging.values()
        )
        assert node.cache_bytes == (self.room.cache_bytes if self.room else 0)
        assert 0 <= node.cache_bytes <= node.limits.room_cache_bytes
        for outbox in outboxes:
            assert outbox.live_bytes <= outbox.pending_bytes
            # The bound, and the one run that an empty outbox admits.
            assert outbox.live_bytes - outbox.control.pending_bytes <= 6 * 900 + 4096

    def check(self, viewer: Viewer) -> None:
        """Check everything a subscriber got; what it is due as well, if it is still here."""
        if not viewer.is_gone:
            if self.room is not None:
                self.room.flush(self.now)
            viewer.peer.drain(None, self.now)
        viewer.parse()
        for stay in viewer.stays:
            if stay.received:
                self.check_stay(viewer, stay)
            else:
                assert viewer.is_gone

    def check_stay(self, viewer: Viewer, stay: Stay) -> None:
        tracks: dict[tuple[int, int], Track] = {}
        order: dict[int, bytes] = {}
        sources = {source.number: source for source in self.sources if source.room is stay.room}
        joined, left, is_closed = set(stay.sources), set[int](), False
        for source in stay.sources:
            for number, model in sources[source].tracks.items():
                tracks[source, number] = Track(model, stay, source, number)
        for item in stay.received[1:]:
            match item:
                case SourceJoined():
                    assert item.source not in joined
                    joined.add(item.source)
                case SourceLeft():
                    assert item.source in joined - left
                    left.add(item.source)
                case StreamFrame() | Gap():
                    assert item.source in joined - left
                    if viewer.is_quick and isinstance(item, Gap):
                        assert item.reason == GapReason.SKIPPED
                    key = (item.source, item.track)
                    if key not in tracks:
                        model = sources[item.source].tracks[item.track]
                        tracks[key] = Track(model, stay, *key)
                    tracks[key].receive(item)
                    if isinstance(item, StreamFrame) and not item.is_init:
                        # Across the tracks of a source, too: the payload counts.
                        assert item.payload > order.get(item.source, b"")
                        order[item.source] = item.payload
                case RoomClosed():
                    is_closed = True
                case _:
                    assert isinstance(item, UnsubscribeAnswer)
        is_here = not viewer.is_gone and stay is viewer.stays[-1]
        subscription = viewer.peer.member.subscriptions.get(stay.room.number) if is_here else None
        for source in joined:
            if source in left or is_closed:
                self.check_tail(stay, sources[source], tracks, None)
            elif subscription is not None:
                lags = {
                    number: subscription.lagging[track].lost_from
                    for number, track in sources[source].real().tracks.items()
                    if track in subscription.lagging
                }
                self.check_tail(stay, sources[source], tracks, lags)

    def check_tail(
        self,
        stay: Stay,
        source: ModelSource,
        tracks: dict[tuple[int, int], Track],
        lags: dict[int, int | None] | None,
    ) -> None:
        """Check that nothing is missing at the end; ``lags`` None after the source's end."""
        for number, model in source.tracks.items():
            if not model.frames:
                continue
            key = (source.number, number)
            track = tracks.get(key) or Track(model, stay, *key)
            assert track.preamble is None
            if lags is None:
                assert track.expected in (None, model.next_seq)
            elif number in lags:
                assert track.expected == lags[number]
            else:
                assert track.expected == model.next_seq

    def teardown(self) -> None:
        if not hasattr(self, "manager"):
            return
        for viewer in self.viewers:
            self.check(viewer)
        if self.room is not None:
            self.everyone_comes_back_at_a_key()
            number = self.room.number
            trio.run(self.manager.remove, self.creator.member, number, self.now)
            self.forget_room()
        for viewer in self.viewers:
            self.check(viewer)
            self.manager.leave(viewer.peer.member, clean=False, now=self.now)
            viewer.peer.outbox.discard()
        assert is_idle(self.manager.node)

    def everyone_comes_back_at_a_key(self) -> None:
        """Whoever has read everything lags no longer once each track has had a KEY."""
        owned = [source for source in self.live() if source.owner]
        running = []
        for which, source in enumerate(owned):
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
