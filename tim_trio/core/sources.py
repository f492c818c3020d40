"""A source, one publishing session in a room, and its tracks.

Source: protocol.md, sections 4 and 8.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import attrs

from tim_trio.core.cache import CacheBudget, GroupCache
from tim_trio.core.form import Form
from tim_trio.core.node import Node
from tim_trio.core.outbox import SharedPiece
from tim_trio.errors import Code, RemoteProtocolError
from tim_trio.protocol.layout import STREAM_HEADER
from tim_trio.protocol.messages import SourceInfo, TrackInfo, TrackState
from tim_trio.protocol.runs import Run

if TYPE_CHECKING:
    from tim_trio.core.member import Member
    from tim_trio.core.pace import Pace
    from tim_trio.core.subscription import Subscription

#: An opening is encoded in pieces of at least so many bytes: a browser gets
#: to see a message only when it is whole, and a picture should not wait for
#: the group's end.
_OPENING_BYTES = 16 * 1024
_SEQ_FIELD = 7
_LENGTH_BYTES = 4


@attrs.define(eq=False)
class Track:
    """What the relay knows of one track.

    Attributes:
        next_seq: follows the last frame forwarded.
        expected: next ``seq`` on the publisher's present connection, None
            for the first frame after a takeover, which may be any.
        keyed: KEY has been seen, so subscribers join and recover only there.
        init: the newest INIT frame's bytes.
    """

    number: int
    expected: int | None
    cache: GroupCache
    next_seq: int = 0
    keyed: bool = False
    ended: bool = False
    init: bytes | None = None

    def info(self, *, offered: bool = False) -> TrackInfo:
        """Return the track's state; ``offered``: its cached group follows."""
        state = TrackState(0)
        if self.ended:
            state |= TrackState.ENDED
        if self.keyed:
            state |= TrackState.KEYED
        if self.init is not None:
            state |= TrackState.INIT
        if offered:
            state |= TrackState.CACHED_GROUP
        return TrackInfo(track=self.number, state=state, last_seq=self.next_seq - 1)


@attrs.define(eq=False)
class Source:
    """One publishing session. The room owns it, a member holds it.

    Attributes:
        owner: the member that pushes; None while it lingers after a lost connection.
        leave_at: when a lingering source leaves.
        received_bytes: of all stream frames read for it, repeats included.
        forwarded, discarded: frames.
        pace: its credit, in a reliable room.
    """

    number: int
    account: str
    token: bytes = attrs.field(repr=False)
    owner: Member | None
    tracks: dict[int, Track] = attrs.field(factory=dict)
    leave_at: float = 0.0
    received_bytes: int = 0
    forwarded: int = 0
    discarded: int = 0
    pace: Pace | None = None
    _taken_over: bool = False
    # What joiners get, made for the first of them and shared until it
    # changes: with the cached groups or with the INITs alone, and by form.
    _openings: dict[tuple[bool, Form | None], SharedPiece] = attrs.field(factory=dict)

    def new_track(self, number: int, budget: CacheBudget) -> Track:
        """Return a track, made at its first frame."""
        expected = None if self._taken_over else 0
        track = self.tracks[number] = Track(number, expected, GroupCache(budget))
        return track

    def hand_over(self, owner: Member) -> None:
        """Go on with another connection, whose counters may jump once per track."""
        self.owner = owner
        self._taken_over = True
        for track in self.tracks.values():
            track.expected = None

    def infos(self, *, offered: bool = False) -> list[TrackInfo]:
        """Return the tracks seen so far; one whose first frame was refused has not been."""
        return [
            track.info(offered=offered and (self.holds or bool(track.cache.runs)))
            for track in self.tracks.values()
            if track.next_seq
        ]

    def info(self, *, left: bool = False, offered: bool = False) -> SourceInfo:
        """Return what the answer to SUBSCRIBE says; ``offered``: with its cached groups."""
        tracks = self.infos(offered=offered)
        return SourceInfo(source=self.number, account=self.account, left=left, tracks=tracks)

    @property
    def holds(self) -> bool:
        """Frames are held for the first subscriber of a reliable room."""
        return self.pace is not None and self.pace.held is not None

    def pending_bytes(self, subscription: Subscription) -> int:
        """Return what is queued of it for a subscriber of a reliable room; else 0."""
        return 0 if self.pace is None else self.pace.pending_bytes(subscription)

    def is_held_up_by(self, subscription: Subscription) -> bool:
        """Say whether it waits for a subscriber, in a reliable room."""
        return self.pace is not None and self.pace.is_held_up_by(subscription)

    def changed(self) -> None:
        """A frame has come: what joiners get is to be made anew."""
        if self._openings:
            for piece in self._openings.values():
                piece.settle(0, done=True)
            self._openings.clear()

    def opening(self, node: Node, *, with_groups: bool, form: Form | None = None) -> SharedPiece:
        """Return what a joiner gets first, as one encoded piece: each track's
        INIT, then the cached groups of all tracks in arrival order.

        Shared by everyone who joins before the next frame, and counted while
        it is kept here. It may be empty. In a reliable room the first to
        subscribe gets all that was held for it instead.
        """
        if self.pace is not None and self.pace.held is not None:
            return SharedPiece(_join(self.pace.held, form), node)
        piece = self._openings.get((with_groups, form))
        if piece is None:
            parts = self._opening_parts(with_groups=with_groups)
            piece = self._openings[with_groups, form] = SharedPiece(_join(parts, form), node)
            piece.charge(0, 0.0)
        return piece

    def _opening_parts(self, *, with_groups: bool) -> Iterator[bytes]:
        runs: list[tuple[int, bytes]] = []
        for track in self.tracks.values():
            init = track.init
            if with_groups and track.cache.runs:
                init = track.cache.init
                runs += track.cache.runs
            if init is not None:
                yield init
        # Arrival numbers are unique, so the bytes are never compared.
        runs.sort()
        for _, data in runs:
            yield data

    def drop_caches(self) -> None:
        self.changed()
        for track in self.tracks.values():
            track.cache.drop()


def _join(parts: Iterable[bytes], form: Form | None) -> bytes:
    """Return frames one after another, as they go on a wire of this form."""
    if form is None:
        return b"".join(parts)
    encoded: list[bytes] = []
    waiting: list[bytes] = []
    waiting_bytes = 0
    for part in parts:
        waiting.append(part)
        waiting_bytes += len(part)
        if waiting_bytes >= _OPENING_BYTES:
            encoded.append(form.encode(b"".join(waiting)))
            waiting.clear()
            waiting_bytes = 0
    if waiting:
        encoded.append(form.encode(b"".join(waiting)))
    return b"".join(encoded)


def check_sequence(track: Track, run: Run) -> Run | None:
    """Check a run's ``seq`` against its track and cut off what is a repeat.

    Returns what is new of the run, None when all of it is a repeat. A
    ``first_seq`` above ``track.next_seq`` is a gap that the caller announces.

    Raises:
        RemoteProtocolError: ``bad_sequence``.
    """
    if track.expected is not None and run.first_seq != track.expected:
        raise RemoteProtocolError(
            f"track {track.number}: seq {run.first_seq} instead of {track.expected}",
            Code.BAD_SEQUENCE,
        )
    if run.last_seq < track.next_seq:
        track.expected = run.last_seq + 1
        return None
    if track.ended:
        raise RemoteProtocolError(
            f"track {track.number}: seq {run.last_seq} after END", Code.BAD_SEQUENCE
        )
    track.expected = run.last_seq + 1
    if run.first_seq < track.next_seq:
        return _cut_front(run, track.next_seq)
    return run


def _cut_front(run: Run, first_seq: int) -> Run:
    """Return the part of a run from ``first_seq`` on, which it contains."""
    offset = 0
    while True:
        fields = STREAM_HEADER.unpack_from(run.data, offset)
        if fields[_SEQ_FIELD] == first_seq:
            break
        offset += _LENGTH_BYTES + fields[0]
    # What lay before the cut is gone; what lies behind it moves.
    last_key = run.last_key - offset
    first_key, first_key_seq = run.first_key - offset, run.first_key_seq
    if first_key < 0 <= last_key:
        # Some KEY was cut off; the last one is a join point as good as any.
        first_key, first_key_seq = last_key, run.last_key_seq
    return Run(
        run.room,
        run.source,
        run.track,
        first_seq,
        run.last_seq,
        max(first_key, -1),
        first_key_seq if first_key >= 0 else 0,
        max(last_key, -1),
        run.last_key_seq if last_key >= 0 else 0,
        0,
        run.end_offset - offset if run.end_offset >= 0 else -1,
        run.data[offset:],
    )
