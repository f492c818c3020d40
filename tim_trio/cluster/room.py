"""A room that is on several nodes: what a `Room` does, and its bonds to other nodes.

Frames and events flood by the ordinary fan-out, to bonds as to any subscription;
what comes in over a bond goes to everyone but that bond. Everything here is synchronous.

Source: protocol.md, section 12; docs/cluster.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

import attrs
import trio

from tim_trio.cluster.bond import Bond, Holder
from tim_trio.cluster.bonded import MOVE_S, BondedRoom
from tim_trio.core.listing import TRACK_BYTES, source_bytes
from tim_trio.core.member import Member
from tim_trio.core.pace import Pace
from tim_trio.core.shedding import Claim
from tim_trio.core.sources import Source
from tim_trio.core.subscription import Subscription
from tim_trio.protocol.messages import (
    Credit,
    LinkSource,
    PushRevoked,
    Replaced,
    RevokedReason,
    RoomMode,
    SourceInfo,
    SourceJoined,
    SourceLeftReason,
    StartFrom,
    TrackInfo,
    TrackState,
    encode,
)
from tim_trio.protocol.runs import Run

if TYPE_CHECKING:
    from tim_trio.cluster.directory import SourceRecord

#: Ended sources remembered, so that late word of one does not bring it back.
_ENDED_KEPT: Final = 4096


def _placeholder(number: int) -> bytes:
    """A token for a source whose publisher is elsewhere; no client has such a short one."""
    return b"far" + number.to_bytes(4)


@attrs.define(eq=False)
class SharedRoom(BondedRoom):
    """Attributes:
    ready: set while there is a path to a root, and what came with it has arrived.
    total_viewers: what the root says; None where this node is it.
    claim: what the directory says of the PUBLISH that is carried out next.
    """

    ready: trio.Event = attrs.field(factory=trio.Event, init=False)
    total_viewers: int | None = attrs.field(default=None, init=False)
    claim: SourceRecord | None = attrs.field(default=None, init=False)
    idle_since: float | None = attrs.field(default=None, init=False)
    renewed_at: float = attrs.field(default=0.0, init=False)
    #: Requests of nodes that asked to be our children, not answered yet.
    questions: dict[str, list[int]] = attrs.field(factory=dict, init=False)
    #: When what was asked last counts as not answered, and when to look again.
    ask_until: float = attrs.field(default=math.inf, init=False)
    look_at: float = attrs.field(default=0.0, init=False)
    looks: int = attrs.field(default=0, init=False)
    #: The parent, or this node as the root: what a reliable room's streams hang on.
    anchor: str | None = attrs.field(default=None, init=False)
    #: Whose frames up to now we have, as its PONG has said.
    caught_up_with: str | None = attrs.field(default=None, init=False)
    told_up: int = attrs.field(default=-1, init=False)
    told_down: int = attrs.field(default=-1, init=False)
    #: Sources that have left, of which more is still to come: why, and who says so.
    _leaving: dict[int, tuple[int, str]] = attrs.field(factory=dict, init=False)
    _ended: dict[int, None] = attrs.field(factory=dict, init=False)
    #: Sources that were published here before anything was known of them.
    _began_elsewhere: set[int] = attrs.field(factory=set, init=False)

    @property
    def local_viewers(self) -> int:
        return len(self._audience) - len(self.bonds)

    @property
    def viewers_below(self) -> int:
        """Who watches here and at the children, and theirs."""
        return self.local_viewers + sum(
            bond.viewers for bond in self.bonds.values() if bond.as_child
        )

    @property
    def viewers(self) -> int:
        return self.viewers_below if self.total_viewers is None else self.total_viewers

    @property
    def is_used(self) -> bool:
        """Whether anybody publishes or subscribes at this node."""
        return self.local_viewers > 0 or any(
            holder.node == self.me for holder in self.holders.values()
        )

    @property
    def may_expire(self) -> bool:
        return self.tree.ranking[:1] == (self.me,)

    @property
    def path(self) -> list[str]:
        return list(self.tree.path)

    # Bonds

    def bond(self, peer: str, member: Member, credit: int, now: float) -> Bond:
        # After a break the caches here may be the only ones that have what it lost.
        is_calm = now - self.broken_at > MOVE_S
        if not len(self._audience) and is_calm and self.mode is RoomMode.LIVE:
            self._begin_anew()
        return super().bond(peer, member, credit, now)

    def _begin_anew(self) -> None:
        """Forget the tracks of sources elsewhere: we were out of the tree, and nobody
        here is owed word of what went by meanwhile."""
        for source in self.sources.values():
            if self.holders[source.number].node == self.me:
                continue
            self._forget_tracks(source)
            self._init_bytes -= sum(len(track.init or b"") for track in source.tracks.values())
            self._tracks -= len(source.tracks)
            self._listing.give_back(TRACK_BYTES * len(source.tracks))
            source.drop_caches()
            source.tracks.clear()
            self._began_elsewhere.add(source.number)

    def infos(self) -> list[SourceInfo]:
        """Return what the answer to LINK_SUBSCRIBE says of the sources."""
        return [
            *self._listing.left,
            *(source.info(offered=True) for source in self.sources.values()),
        ]

    # What other nodes say of sources

    def adopt(self, infos: Iterable[SourceInfo], peer: str, now: float) -> None:
        """Take note of the sources that a new parent lists."""
        for info in infos:
            known = self.sources.get(info.source)
            if info.left:
                if known is not None and self.holders[info.source].node != self.me:
                    self.end_far_source(info.source, SourceLeftReason.CONNECTION_LOST, peer, now)
                elif known is None and info.source not in self._ended:
                    self._note_ended(info.source)
                    self._listing.keep(info)
                continue
            self._meet(info.source, info.account, Holder("", -1, peer), info.tracks, peer, now)

    def hear_of(self, word: LinkSource, peer: str, now: float) -> None:
        """A node says where a source is."""
        bond = self.bonds[peer]
        for track in word.tracks:
            bond.skipped_to[word.source, track.track] = track.last_seq
        self.catch_up(word.source, word.tracks)
        holder = Holder(word.node, word.epoch, peer)
        self._meet(word.source, word.account, holder, word.tracks, peer, now)

    def _meet(
        self,
        number: int,
        account: str,
        holder: Holder,
        tracks: Iterable[TrackInfo],
        peer: str,
        now: float,
    ) -> None:
        if number in self._ended:
            return
        source = self.sources.get(number)
        if source is None:
            if len(self.sources) >= self._node.limits.max_sources_per_room or not (
                self._listing.take(source_bytes(account))
            ):
                return
            source = self._add_far_source(number, account, holder, now)
        elif holder.epoch <= self.holders[number].epoch:
            self._learn(source, tracks)
            return
        else:
            before = self.holders[number]
            if before.upstream and before.epoch < 0:
                holder.upstream = before.upstream
            self.holders[number] = holder
            if before.node == self.me and holder.node != self.me:
                self._let_go(source, now)
        self._learn(source, tracks)
        if holder.epoch >= 0:
            self._tell_bonds(encode(self.word_of(source)), peer, now)

    def _add_far_source(self, number: int, account: str, holder: Holder, now: float) -> Source:
        source = Source(number, account, _placeholder(number), None)
        self.holders[number] = holder
        if self.mode is RoomMode.RELIABLE:
            self._set_pace(source)
        self.sources[number] = source
        self._tokens[source.token] = source
        joined = encode(SourceJoined(room=self.number, source=number, account=account))
        self.flush(now)
        for subscription in self._audience:
            if not self._is_bond(subscription):
                subscription.outbox.put_control(joined, now)
        return source

    def _learn(self, source: Source, infos: Iterable[TrackInfo]) -> None:
        """Take over what a peer knows of a source's tracks and we do not."""
        for info in infos:
            track = self._far_track(source, info.track)
            if track is None:
                return
            if info.state & TrackState.KEYED:
                track.keyed = True
            if info.ended and not info.state & TrackState.CACHED_GROUP and not track.next_seq:
                track.ended = True
                track.next_seq = info.last_seq + 1

    def _let_go(self, source: Source, now: float) -> None:
        """Somebody has taken a source over at another node."""
        if source.owner is not None:
            source.owner.release(self, source)
            replaced = Replaced(room=self.number, source=source.number)
            source.owner.outbox.put_control(encode(replaced), now)
            source.owner = None
        self.host.taken_over(source)
        self.host.touched(self)

    # What a room does, and the rest of the cluster must know of

    def subscribe(
        self, member: Member, start: StartFrom, credit: int, request_id: int, now: float
    ) -> None:
        super().subscribe(member, start, credit, request_id, now)
        self.host.touched(self)

    def unsubscribe(self, member: Member) -> None:
        super().unsubscribe(member)
        for peer, bond in list(self.bonds.items()):
            if bond.member is member:
                del self.bonds[peer]
        self.host.touched(self)

    def publish(self, member: Member, token: bytes, request_id: int, now: float) -> Source:
        """As `Room.publish`, under the number that the directory gave (`claim`)."""
        claim = self.claim
        self.claim = None
        assert claim is not None, "claimed before it is carried out"
        known = self.sources.get(claim.number)
        if known is not None and known.token != token:
            # It was elsewhere until now.
            del self._tokens[known.token]
            known.token = token
            self._tokens[token] = known
        if known is None:
            self._next_source = claim.number
        holder = Holder(self.me, claim.epoch)
        before = self.holders.get(claim.number)
        self.holders[claim.number] = holder
        try:
            source = super().publish(member, token, request_id, now)
        except BaseException:
            if before is None:
                del self.holders[claim.number]
            else:
                self.holders[claim.number] = before
            raise
        if known is None:
            self._began_elsewhere.add(source.number)
        self._tell_bonds(encode(self.word_of(source)), "", now)
        self.host.touched(self)
        return source

    def push(self, source: Source, run: Run, now: float) -> int:
        if source.number in self._began_elsewhere and run.track not in source.tracks:
            # Its publisher may have come from a node that we have no path to:
            # what we know of the source begins here.
            track = self._new_track(source, run.track)
            track.expected = None
            track.next_seq = run.first_seq
        return super().push(source, run, now)

    def end_source(self, source: Source, reason: SourceLeftReason, now: float) -> None:
        """As for any room; but a publisher that goes may have moved to another node,
        which only the directory knows for sure."""
        holder = self.holders[source.number]
        if reason is SourceLeftReason.REVOKED or holder.node != self.me:
            self.end_for_all(source, reason, now)
            return
        if source.owner is not None:
            source.owner.release(self, source)
            source.owner = None
        self.host.retire(self, source, reason)

    def end_for_all(self, source: Source, reason: SourceLeftReason, now: float) -> None:
        """End a source here and at every node that the room's tree reaches."""
        holder = self.holders.pop(source.number, None)
        self._began_elsewhere.discard(source.number)
        for bond in self.bonds.values():
            bond.paced.discard(source.number)
        self._note_ended(source.number)
        super().end_source(source, reason, now)
        if holder is not None and holder.node == self.me and reason is SourceLeftReason.REVOKED:
            self.host.released(self, source.number, holder.epoch)
        self.host.touched(self)

    def end_far_source(self, number: int, reason: int, peer: str, now: float) -> None:
        """A node says that a source has left."""
        source = self.sources.get(number)
        if source is None:
            self._note_ended(number)
            return
        if self.is_awaited(source):
            self._leaving[number] = (reason, peer)
            return
        why = SourceLeftReason(reason) if reason in list(SourceLeftReason) else None
        if source.owner is not None:
            if why is not SourceLeftReason.REVOKED:
                return  # ours, and still here
            revoked = PushRevoked(room=self.number, source=number, reason=RevokedReason.REVOKED)
            source.owner.outbox.put_control(encode(revoked), now)
        self.end_for_all(source, why or SourceLeftReason.CONNECTION_LOST, now)

    def mind_move(self, now: float) -> None:
        super().mind_move(now)
        for number, (reason, peer) in list(self._leaving.items()):
            source = self.sources.get(number)
            if source is None or not self.is_awaited(source):
                del self._leaving[number]
                self.end_far_source(number, reason, peer, now)

    def _note_ended(self, number: int) -> None:
        self._ended[number] = None
        if len(self._ended) > _ENDED_KEPT:
            del self._ended[next(iter(self._ended))]

    def _set_pace(self, source: Source) -> None:
        """As for any room; credit for a source elsewhere goes up to where it comes from."""
        upstream = self.holders[source.number].upstream
        if not upstream:
            super()._set_pace(source)
            for bond in self.bonds.values():
                bond.paced.add(source.number)
            return

        def tell(limit: int) -> None:
            bond = self.bonds.get(upstream)
            if bond is not None:
                credit = encode(Credit(room=self.number, source=source.number, limit=limit))
                bond.member.outbox.put_control(credit, self.last_frame_at)

        limits = self._node.limits
        window = limits.backlog_bytes + limits.max_frame_bytes
        sender = self.bonds[upstream].subscription
        receivers = [each for each in self._audience if each is not sender]
        hold = window if not receivers and self._budget.take(window) else 0
        source.pace = Pace(window, hold, limits.max_frame_bytes, tell)
        for bond in self.bonds.values():
            if bond.peer != upstream:
                bond.paced.add(source.number)
        for subscription in receivers:
            source.pace.join(subscription)

    def find_slow(self, now: float) -> list[Subscription]:
        """As for any room, but links are never slow consumers."""
        return [each for each in super().find_slow(now) if not self._is_bond(each)]

    def claims(self) -> Iterator[list[Claim]]:
        """As for any room, but links are never closed for it: whoever is behind them is."""
        links = {bond.subscription.outbox for bond in self.bonds.values()}
        for claims in super().claims():
            yield [claim for claim in claims if claim.outbox not in links]
