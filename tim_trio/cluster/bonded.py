"""What a room that is on several nodes does with data: it comes over bonds, and goes
to everyone but the bond it came over.

Everything here is synchronous.

Source: protocol.md, section 12; docs/cluster.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import attrs

from tim_trio.cluster.ahead import Ahead, Early
from tim_trio.cluster.bond import Bond, Holder, RoomHost
from tim_trio.core.listing import TRACK_BYTES
from tim_trio.core.member import Member
from tim_trio.core.room import Room
from tim_trio.core.sources import Source, Track
from tim_trio.core.subscription import Subscription
from tim_trio.errors import RemoteProtocolError
from tim_trio.protocol.layout import LENGTH_BYTES, STREAM_HEADER
from tim_trio.protocol.messages import (
    Gap,
    GapReason,
    LinkSource,
    RoomMode,
    SourceInfo,
    TrackInfo,
    encode,
)
from tim_trio.protocol.runs import Run

if TYPE_CHECKING:
    from tim_trio.cluster.tree import Tree

_SEQ_FIELD: Final = 7
#: So long an old parent is waited for to come to the same tree, and all it has to come here.
PART_S: Final = 3.0
#: A bond that is older brings everything in order: what it lacks is lost.
MOVE_S: Final = 5.0


def _bytes_up_to(run: Run, last_seq: int) -> int:
    """Return the bytes of a run's frames up to and with ``last_seq``."""
    if run.last_seq <= last_seq:
        return len(run.data)
    position = 0
    for _ in range(run.first_seq, last_seq + 1):
        position += LENGTH_BYTES + int(STREAM_HEADER.unpack_from(run.data, position)[0])
    return position


@attrs.define(eq=False)
class BondedRoom(Room):
    """Attributes:
    tree: this node's place.
    holders: by source number.
    bonds: by the other node's name.
    broken_at: when a bond was lost with its link.
    part_by: until when old parents are waited for, and what a new one had.
    """

    me: str = attrs.field(kw_only=True)
    host: RoomHost = attrs.field(kw_only=True)
    tree: Tree = attrs.field(kw_only=True)
    holders: dict[int, Holder] = attrs.field(factory=dict, init=False)
    bonds: dict[str, Bond] = attrs.field(factory=dict, init=False)
    broken_at: float = attrs.field(default=-math.inf, init=False)
    part_by: float = attrs.field(default=math.inf, init=False)
    _ahead: Ahead = attrs.field(init=False)
    # What each track came by last.
    _came_by: dict[Track, Bond] = attrs.field(factory=dict, init=False)
    # Tracks that came by a bond which is to end, until another has been seen to
    # go on from no later than here.
    _unproven: set[Track] = attrs.field(factory=set, init=False)
    # Last ``seq`` that another node had of tracks of which we had less, in a move.
    _goals: dict[Track, int] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self._ahead = Ahead(self._budget)

    # Bonds

    def bond(self, peer: str, member: Member, credit: int, now: float) -> Bond:
        """Join the audience as a link, or return the bond there is; `open_bond` follows."""
        bond = self.bonds.get(peer)
        if bond is None:
            subscription = self._new_subscription(member.outbox, credit, now)
            bond = self.bonds[peer] = Bond(peer, member, subscription, now)
            # Ahead of who watches here: behind a link more are waiting.
            self._audience.join(member, subscription, ahead=True)
            member.subscriptions[self.number] = subscription
            self._node.subscriptions += 1
        return bond

    def unbond(self, peer: str, now: float) -> None:
        """A link is gone, or its part here is over."""
        bond = self.bonds.pop(peer, None)
        if bond is not None:
            Room.unsubscribe(self, bond.member)
            self._came_by = {track: by for track, by in self._came_by.items() if by is not bond}
            for waiting in list(self._ahead.waiting.values()):
                self._go_on(waiting.source, waiting.track, now)

    def open_bond(self, bond: Bond, known: Iterable[SourceInfo], now: float) -> None:
        """Send what a newcomer gets: sources, INITs and running groups.

        ``known``: what the other side has said it has; that is left out.
        """
        self.flush(now)
        have = {
            (info.source, track.track): track.last_seq for info in known for track in info.tracks
        }
        outbox = bond.member.outbox
        for source in list(self.sources.values()):
            outbox.put_control(encode(self.word_of(source)), now)
            if source.pace is not None:
                self._open_paced(source, bond, now)
                continue
            tracks = source.tracks.values()
            if tracks and all(
                have.get((source.number, track.number), -1) >= track.next_seq - 1
                for track in tracks
            ):
                continue
            piece = source.opening(self._node, with_groups=True)
            if piece.data:
                outbox.put_encoded(piece.data, piece, now)
            for track in tracks:
                if track.keyed and not track.ended and not track.cache.runs:
                    bond.subscription.wait_for_key(track)

    def _open_paced(self, source: Source, bond: Bond, now: float) -> None:
        """Begin to send a reliable source over a bond, unless it comes from there.

        The first of its receivers gets what was held for it.
        """
        assert source.pace is not None
        if self.holders[source.number].upstream == bond.peer or source.number in bond.paced:
            return
        piece = source.opening(self._node, with_groups=True)
        if piece.data:
            bond.member.outbox.put_encoded(piece.data, piece, now)
        self._release_held(source)
        bond.paced.add(source.number)
        source.pace.join(bond.subscription)

    def word_of(self, source: Source) -> LinkSource:
        holder = self.holders[source.number]
        return LinkSource(
            room=self.number,
            source=source.number,
            account=source.account,
            node=holder.node,
            epoch=max(holder.epoch, 0),
            tracks=source.infos(),
        )

    def _tell_bonds(self, frame: bytes, skip: str, now: float) -> None:
        for peer, bond in list(self.bonds.items()):
            if peer != skip:
                bond.member.outbox.put_control(frame, now)

    def _is_bond(self, subscription: Subscription) -> bool:
        return any(bond.subscription is subscription for bond in self.bonds.values())

    def _far_track(self, source: Source, number: int) -> Track | None:
        track = source.tracks.get(number)
        if track is None:
            limits = self._node.limits
            if self._tracks >= limits.max_tracks_per_room or not self._listing.take(TRACK_BYTES):
                return None
            self._tracks += 1
            track = source.new_track(number, self._budget)
            track.expected = None
        return track

    # Data

    def relay(self, run: Run, bond: Bond, now: float) -> int:
        """Pass on what came over a bond, to everyone but it; return the work done."""
        source = self.sources.get(run.source)
        if source is None:
            return 1
        track = self._far_track(source, run.track)
        if track is None:
            return 1
        self.flush(now)
        if 0 < track.next_seq < run.first_seq and source.pace is None and not track.ended:
            if self._wait(source, track, Early(run.first_seq, run.last_seq, bond, run), now):
                return 1
            self._stop_waiting(source, track, now)
        before = track.next_seq
        work = self._pass_on(source, track, run, bond, now)
        if track in self._ahead:
            if track.next_seq > before:
                self._ahead.goes_on(track, now)
            work += self._go_on(source, track, now)
        if self.tree.is_behind:
            self.mind_move(now)
        return work

    def _pass_on(self, source: Source, track: Track, run: Run, bond: Bond, now: float) -> int:
        # An INIT alone may be the pinned one, behind which anything may follow.
        is_proof = run.first_seq <= track.next_seq and run.frames > bool(run.init_bytes)
        if track in self._unproven and is_proof and not self._is_ending(bond):
            self._unproven.discard(track)
        with self._audience.leaving_out(bond.member):
            if run.init_bytes and self._renew_init(source, track, run, now):
                return 1
            if track.ended or run.last_seq < track.next_seq:
                self._note_repeat(source, run, bond)
                return 1
            if not track.next_seq:
                # Where it begins for us. Nobody here has had anything before.
                track.next_seq = run.first_seq
            elif run.first_seq > track.next_seq:
                self._miss(source, track, run.first_seq - 1, GapReason.LOST_BETWEEN_NODES, now)
            track.expected = track.next_seq if run.first_seq == track.next_seq else None
            pace = source.pace
            if pace is not None:
                if self.holders[source.number].upstream != bond.peer:
                    return 1
                pace.received -= _bytes_up_to(run, bond.skipped_to.get((run.source, run.track), -1))
            work = 1 + self.push(source, run, now)
            self._came_by[track] = bond
            if source.owner is not None:
                # Somebody took it over, and its publisher here does not know
                # yet: its next frame may be any.
                track.expected = None
            return work

    # What comes too early

    def _wait(self, source: Source, track: Track, early: Early, now: float) -> bool:
        """Keep what is ahead of a track, if what it misses may still come; or if
        something waits already, which may stand behind it."""
        is_kept = (
            source.owner is None
            and (
                track in self._ahead
                or (now - early.bond.since < MOVE_S and self._may_come(track, now, early.bond))
            )
            and self._ahead.keep(source, track, early, now)
        )
        if is_kept:
            self.tree.is_behind = True  # until `mind_move` sees that nothing waits
            self._go_on(source, track, now)
        return is_kept

    def _may_come(self, track: Track, now: float, ahead: Bond | None = None) -> bool:
        """Say whether there is a bond that may bring what a track misses.

        Who has sent what is behind that sends nothing before it any more. Where
        a link broke, what it carried is lost, as a rule: then only the bond that
        the track has come by counts, and those to parents, the old ones too.
        """
        silent = self._ahead.peers(track)
        came_by = self._came_by.get(track)
        is_broken = now - self.broken_at < MOVE_S
        return any(
            bond is not ahead
            and peer not in silent
            and (not is_broken or bond.as_parent or bond is came_by)
            for peer, bond in self.bonds.items()
        )

    def _go_on(self, source: Source, track: Track, now: float) -> int:
        """Pass on what has waited, as far as nothing is missing that may still come."""
        work = 0
        while track in self._ahead:
            early = self._ahead.next_run(track)
            if early is None:
                if self._may_come(track, now):
                    break
                early = self._ahead.first(track)
            if early is not None:
                work += self._pass_early(source, track, early, now)
        return work

    def _stop_waiting(self, source: Source, track: Track, now: float) -> None:
        """Pass on all that has waited: what is missing counts as lost."""
        while (early := self._ahead.first(track)) is not None:
            self._pass_early(source, track, early, now)

    def _pass_early(self, source: Source, track: Track, early: Early, now: float) -> int:
        if early.run is not None:
            try:
                return self._pass_on(source, track, early.run, early.bond, now)
            except RemoteProtocolError:
                # Nobody to tell: whoever it came from has gone on.
                source.discarded += early.run.frames
        elif early.last_seq >= track.next_seq and not track.ended:
            self._miss(source, track, early.last_seq, early.reason, now)
        return 1

    def is_awaited(self, source: Source) -> bool:
        """Say whether more of a source is to come by another way, whatever one peer says."""
        return any(track in self._ahead or track in self._goals for track in source.tracks.values())

    def catch_up(self, number: int, tracks: Iterable[TrackInfo]) -> None:
        """Take note of what a node has: until we have it too, an old parent is needed."""
        source = self.sources.get(number)
        if source is None:
            return
        for each in tracks:
            track = source.tracks.get(each.track)
            if track is not None and 0 < track.next_seq <= each.last_seq and not track.ended:
                self._goals[track] = each.last_seq
                self.tree.is_behind = True

    def begin_move(self, now: float) -> None:
        """There is a new parent, or we are the root. What came by a bond that will end
        may begin later on another: a node that is new begins at any group."""
        self.part_by = now + PART_S
        self._unproven.update(
            track for track, bond in self._came_by.items() if self._is_ending(bond)
        )
        if self._unproven:
            self.tree.is_behind = True

    def _is_ending(self, bond: Bond) -> bool:
        children = self.tree.children
        if bond.peer in self.tree.leaving:
            return children.get(bond.peer) != ()
        return bool(children.get(bond.peer))

    def mind_move(self, now: float) -> None:
        """See what has been waited for long enough, and whether we have caught up with
        a new parent. To be called now and then."""
        for waiting in self._ahead.overdue(now):
            self._stop_waiting(waiting.source, waiting.track, now)
        for track, last_seq in list(self._goals.items()):
            if track.next_seq > last_seq or track.ended or now > self.part_by:
                del self._goals[track]
        for track in list(self._unproven):
            bond = self._came_by.get(track)
            if track.ended or now > self.part_by or bond is None or not self._is_ending(bond):
                self._unproven.discard(track)
        if self.tree.is_behind and not (self._goals or self._unproven or self._ahead.waiting):
            self.host.caught_up(self, now)

    def _remove_source(self, source: Source) -> None:
        self._forget_tracks(source)
        super()._remove_source(source)

    def _forget_tracks(self, source: Source) -> None:
        for track in source.tracks.values():
            self._ahead.forget(track)
            self._goals.pop(track, None)
            self._unproven.discard(track)
            self._came_by.pop(track, None)

    # Repeats, INITs and losses

    def _note_repeat(self, source: Source, run: Run, bond: Bond) -> None:
        source.discarded += run.frames
        pace = source.pace
        if pace is not None and run.last_seq > bond.skipped_to.get((run.source, run.track), -1):
            # It has been sent on credit, and costs no one's room.
            pace.received += len(run.data)
            pace.handed_on(0)

    def _renew_init(self, source: Source, track: Track, run: Run, now: float) -> bool:
        """Pin an INIT that stands before what we have got; True if the run is done with.

        It is what a joiner gets first, or follows a GAP that it lies in.
        """
        has = STREAM_HEADER.unpack_from(track.init)[_SEQ_FIELD] if track.init else -1
        is_alone = run.frames == 1 and run.last_key < 0 and run.end_offset < 0
        comes_late = run.first_seq < track.next_seq
        if run.first_seq <= has:
            return is_alone
        if not comes_late and (track.next_seq or not is_alone):
            return False
        init = run.data[: run.init_bytes]
        size = self._init_bytes + len(init) - len(track.init or b"")
        if size > self._node.limits.max_room_init_bytes:
            return True
        self._init_bytes = size
        track.init = init
        source.changed()
        for subscription in self._audience:
            # Who waits for a KEY in a reliable room gets every INIT as it comes.
            if track not in subscription.lagging or self.mode is RoomMode.RELIABLE:
                subscription.outbox.put_control(init, now)
        return is_alone

    def _miss(
        self, source: Source, track: Track, last_seq: int, reason: GapReason, now: float
    ) -> None:
        """Take frames for lost, up to ``last_seq``."""
        self._announce_gap(source, track, last_seq, reason, now)
        track.next_seq = last_seq + 1
        track.expected = None

    def hear_of_gap(self, gap: Gap, bond: Bond, now: float) -> None:
        """The other side of a bond misses frames; unless we have them, so do we."""
        source = self.sources.get(gap.source)
        track = None if source is None else source.tracks.get(gap.track)
        if source is None or track is None or not track.next_seq or track.ended:
            return
        if gap.last_seq < track.next_seq:
            return
        skipped = gap.reason == GapReason.SKIPPED
        reason = GapReason.SKIPPED if skipped else GapReason.LOST_BETWEEN_NODES
        self.flush(now)
        early = Early(gap.first_seq, gap.last_seq, bond, None, reason)
        if source.pace is None and self._wait(source, track, early, now):
            return
        self._stop_waiting(source, track, now)
        if gap.last_seq >= track.next_seq:
            self._miss(source, track, gap.last_seq, reason, now)

    def hear_of_credit(self, bond: Bond, source: int, limit: int) -> None:
        if source in bond.paced and source in self.sources:
            self.grant_credit(bond.subscription, source, limit)
