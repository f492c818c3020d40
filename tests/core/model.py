"""The plain model of a room: lists of what was published, and how a subscriber's
bytes are held against them.

Used by test_model.py, which does things to a real room and to this at once.
"""

from __future__ import annotations

import attrs

from tests.core.builders import INIT, Peer
from tim_trio.core.room import Room
from tim_trio.core.sources import Source
from tim_trio.limits import MIB
from tim_trio.protocol.decoder import ControlFrame, Decoder
from tim_trio.protocol.messages import (
    Credit,
    Gap,
    GapReason,
    PublishAnswer,
    PushGranted,
    Replaced,
    RoomClosed,
    RoomMode,
    SourceJoined,
    SourceLeft,
    StartFrom,
    SubscribeAnswer,
    TrackState,
    UnpublishAnswer,
    UnsubscribeAnswer,
    Viewers,
    decode,
)
from tim_trio.protocol.messages import PushRevoked as Revoked
from tim_trio.protocol.stream import StreamFrame, encode_stream_frame, iter_stream_frames

#: What a publisher is told, among what it may get as a subscriber.
_TO_PUBLISHERS = (Credit, PublishAnswer, PushGranted, Replaced, Revoked, UnpublishAnswer, Viewers)


def read_items(decoder: Decoder, data: bytes) -> list[object]:
    """Return the stream frames and messages that ``data`` completes."""
    items: list[object] = []
    for piece in decoder.feed(data):
        if isinstance(piece, ControlFrame):
            items.append(decode(piece.type, piece.fields))
        else:
            items += iter_stream_frames(piece.data)
    return items


def new_decoder() -> Decoder:
    return Decoder(max_frame_bytes=64 * MIB, max_init_bytes=MIB)


# Publishers


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
    """Attributes:
    is_held: of a reliable room, and nobody has subscribed since it began:
        the first to come gets everything.
    """

    room: Room
    number: int
    account: str
    token: bytes
    owner: Publisher | None
    is_held: bool
    taken_over: bool = False
    is_over: bool = False
    tracks: dict[int, ModelTrack] = attrs.field(factory=dict)

    def real(self) -> Source:
        return self.room.sources[self.number]


@attrs.define(eq=False)
class Publisher:
    """A connection that publishes, and what it has heard of credit.

    Attributes:
        totals: by room and source, what it may send and has sent.
    """

    peer: Peer
    totals: dict[tuple[int, int], tuple[int, int]] = attrs.field(factory=dict)
    _decoder: Decoder = attrs.field(factory=new_decoder)
    _heard: int = 0

    def hear(self) -> None:
        """Read what its wire has taken since the last time."""
        data = bytes(self.peer.wire.taken[self._heard :])
        self._heard += len(data)
        for item in read_items(self._decoder, data):
            match item:
                case PublishAnswer():
                    self.totals[item.room, item.source] = (item.credit, item.received)
                case Credit():
                    key = (item.room, item.source)
                    told, sent = self.totals[key]
                    assert item.limit > told, "credit does not rise"
                    self.totals[key] = (item.limit, sent)
                case _:
                    pass

    def may_send(self, source: ModelSource) -> int:
        """Return how many bytes more it may send, as far as it has heard."""
        self.hear()
        told, sent = self.totals.get((source.room.number, source.number), (0, 0))
        return told - sent

    def count(self, source: ModelSource, size: int) -> None:
        key = (source.room.number, source.number)
        told, sent = self.totals[key]
        self.totals[key] = (told, sent + size)


# Subscribers


@attrs.frozen
class Start:
    """A track as it was when somebody joined."""

    next_seq: int
    init: int | None
    key: int | None
    ended: bool
    is_broken: bool
    is_held: bool


@attrs.define(eq=False)
class Stay:
    """One subscription, from SUBSCRIBE to its end.

    Attributes:
        granted: of each source of a reliable room, the bytes it was ready to take.
    """

    room: Room
    start: StartFrom
    starts: dict[tuple[int, int], Start]
    sources: frozenset[int]
    first_grant: int = 0
    granted: dict[int, int] = attrs.field(factory=dict)
    received: list[object] = attrs.field(factory=list)

    @property
    def is_reliable(self) -> bool:
        return self.room.mode is RoomMode.RELIABLE

    def counted(self, source: int) -> int:
        """Return the bytes it got of a source that count against its credit."""
        total = 0
        for item in self.received:
            if isinstance(item, StreamFrame) and item.source == source:
                start = self.starts.get((source, item.track))
                if start is None or item.seq >= start.next_seq:
                    total += len(encode_stream_frame(item))
        return total

    def grant(self, source: int, limit: int) -> None:
        self.granted[source] = max(limit, self.granted.get(source, self.first_grant))


@attrs.define(eq=False)
class Viewer:
    """A subscriber and all its stays.

    Attributes:
        is_quick: its wire has always taken everything, and it takes whatever comes.
        publisher: itself, where it publishes over the same connection.
    """

    peer: Peer
    is_quick: bool
    publisher: Publisher | None = None
    stays: list[Stay] = attrs.field(factory=list)
    is_gone: bool = False

    def parse(self) -> None:
        """Sort whole frames received so far into the stays."""
        stays = iter(self.stays)
        stay: Stay | None = None
        for item in read_items(new_decoder(), bytes(self.peer.wire.taken)):
            if isinstance(item, SubscribeAnswer):
                stay = next(stays)
                stay.received = [item]
            elif isinstance(item, _TO_PUBLISHERS):
                pass
            else:
                # The end of a room is told to publishers that have not subscribed, too.
                assert stay is not None or isinstance(item, RoomClosed), f"{item} outside"
                if stay is not None:
                    stay.received.append(item)
                if isinstance(item, UnsubscribeAnswer | RoomClosed):
                    stay = None


class SeenTrack:
    """Checks what one stay received of one track."""

    def __init__(self, track: ModelTrack, stay: Stay, source: int, number: int) -> None:
        self.track = track
        self.seen: list[int] = []
        start = stay.starts.get((source, number))
        self.preamble: int | None = None
        #: The next seq to come; None while a newcomer waits for its KEY.
        self.expected: int | None = 0
        #: What comes next if a frame with INIT and KEY was the KEY that it waited
        #: for, and not only the INIT before a later one.
        self.perhaps: int | None = None
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
        if start.is_held:
            assert state & TrackState.CACHED_GROUP
            return
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

    def is_next(self, seq: int | None) -> bool:
        """Say whether a track goes on with ``seq``; with None, whether it may still wait."""
        return seq == self.expected or (self.expected is None and seq == self.perhaps)

    def receive(self, item: StreamFrame | Gap) -> None:
        if isinstance(item, Gap):
            assert self.preamble is None, "a GAP before the INIT"
            assert self.is_next(item.first_seq)
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
            begins = item.seq == self.perhaps or item.is_key or item.is_end
            assert begins or item.is_init
            self.perhaps = item.seq + 1 if begins else None
            if begins and (item.is_end or not item.is_init):
                self.expected = self.perhaps
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


def check_stay(viewer: Viewer, stay: Stay, sources: dict[int, ModelSource]) -> None:
    """Check all that one stay received; and that nothing is missing, if it still lasts.

    ``sources``: those of the stay's room, also those that have left.
    """
    tracks: dict[tuple[int, int], SeenTrack] = {}
    order: dict[int, bytes] = {}
    joined, left, is_closed = set(stay.sources), set[int](), False
    for source in stay.sources:
        for number, model in sources[source].tracks.items():
            tracks[source, number] = SeenTrack(model, stay, source, number)
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
                if isinstance(item, Gap):
                    assert not stay.is_reliable, "a reliable room lost something"
                    assert not viewer.is_quick or item.reason == GapReason.SKIPPED
                key = (item.source, item.track)
                if key not in tracks:
                    model = sources[item.source].tracks[item.track]
                    tracks[key] = SeenTrack(model, stay, *key)
                tracks[key].receive(item)
                if isinstance(item, StreamFrame) and not item.is_init:
                    # Across the tracks of a source, too: the payload counts.
                    assert item.payload > order.get(item.source, b"")
                    order[item.source] = item.payload
            case RoomClosed():
                is_closed = True
            case _:
                assert isinstance(item, UnsubscribeAnswer)
    if stay.is_reliable:
        for source in joined:
            assert stay.counted(source) <= stay.granted.get(source, stay.first_grant)
    is_here = not viewer.is_gone and stay is viewer.stays[-1]
    subscription = viewer.peer.member.subscriptions.get(stay.room.number) if is_here else None
    for source in joined:
        if source in left or is_closed:
            _check_tail(stay, sources[source], tracks, None)
        elif subscription is not None:
            lags = {
                number: subscription.lagging[track].lost_from
                for number, track in sources[source].real().tracks.items()
                if track in subscription.lagging
            }
            _check_tail(stay, sources[source], tracks, lags)


def _check_tail(
    stay: Stay,
    source: ModelSource,
    tracks: dict[tuple[int, int], SeenTrack],
    lags: dict[int, int | None] | None,
) -> None:
    """Check that nothing is missing at the end; ``lags`` None after the source's end."""
    for number, model in source.tracks.items():
        if not model.frames:
            continue
        key = (source.number, number)
        track = tracks.get(key) or SeenTrack(model, stay, *key)
        assert track.preamble is None
        if lags is None:
            assert track.expected in (None, model.next_seq)
        elif number in lags:
            assert not stay.is_reliable or lags[number] is None
            assert track.is_next(lags[number])
        else:
            assert track.is_next(model.next_seq)
