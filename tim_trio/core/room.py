"""A room: its sources, its subscribers, and the fan-out between them.

Everything here is synchronous. Checking, fan-out and caching of one run are
one step, so that a subscriber who joins sees each frame once.

Source: protocol.md, sections 7 to 9; DESIGN "The data path".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import attrs

from tim_trio.core.asks import Asks
from tim_trio.core.audience import Audience
from tim_trio.core.cache import CacheBudget
from tim_trio.core.form import Form
from tim_trio.core.listing import TRACK_BYTES, Listing, grant_bytes, source_bytes
from tim_trio.core.member import Member
from tim_trio.core.node import Node
from tim_trio.core.outbox import Outbox, Passage
from tim_trio.core.pace import Pace
from tim_trio.core.shedding import Claim
from tim_trio.core.sources import Source, Track, check_sequence
from tim_trio.core.subscription import Subscription, Tally
from tim_trio.errors import Code, RemoteProtocolError, room_error
from tim_trio.protocol.decoder import FrameHeader
from tim_trio.protocol.layout import UNLIMITED_CREDIT
from tim_trio.protocol.messages import (
    Credit,
    Gap,
    GapReason,
    PublishAnswer,
    PushRevoked,
    Replaced,
    RevokedReason,
    RoomClosed,
    RoomClosedReason,
    RoomInfo,
    RoomMode,
    SourceJoined,
    SourceLeft,
    SourceLeftReason,
    StartFrom,
    SubscribeAnswer,
    UnpublishAnswer,
    Viewers,
    encode,
)
from tim_trio.protocol.room_ids import format_room_id
from tim_trio.protocol.runs import Run

#: Above this a send is dear for its bytes, and waiting saves nothing.
_GATHER_BYTES: Final = 16 * 1024


@attrs.define(eq=False)
class Room:
    """One virtual room on this node.

    Attributes:
        number: the room id.
        granted: accounts beside the creator that may push; changed by
            `grant` and `revoke`.
        viewers_changed: VIEWERS is due to the publishers.
    """

    number: int
    creator: str
    mode: RoomMode
    gather_ms: int
    idle_timeout_s: float
    created_at: float
    _node: Node
    _node_name: str
    granted: set[str] = attrs.field(factory=set)
    sources: dict[int, Source] = attrs.field(factory=dict)
    asks: Asks = attrs.field(init=False)
    #: Asks for `flush` at a time; set by the manager.
    _flush_at: Callable[[Room, float], None] = attrs.field(kw_only=True)
    viewers_changed: bool = False
    last_frame_at: float = 0.0
    frames_in: int = 0
    bytes_in: int = 0
    #: What its subscribers have lost, in all.
    tally: Tally = attrs.field(factory=Tally, init=False)
    _listing: Listing = attrs.field(init=False)
    _tokens: dict[bytes, Source] = attrs.field(factory=dict, repr=False)
    _next_source: int = 1
    _tracks: int = 0
    _init_bytes: int = 0
    _arrivals: int = 0
    _audience: Audience = attrs.field(factory=Audience)
    # Runs that wait to share a send, oldest first, and their bytes.
    _gathered: list[tuple[Run, Track]] = attrs.field(factory=list)
    _gathered_bytes: int = 0
    _budget: CacheBudget = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.asks = Asks(self._node.limits)
        self._budget = CacheBudget(self._node)
        self._listing = Listing(self._node.limits.max_frame_bytes)
        self.last_frame_at = self.created_at

    def __str__(self) -> str:
        return format_room_id(self.number)

    @property
    def viewers(self) -> int:
        return len(self._audience)

    @property
    def cache_bytes(self) -> int:
        return self._budget.used

    @property
    def path(self) -> list[str]:
        """The nodes from this one to the room's root."""
        return [self._node_name]

    @property
    def may_expire(self) -> bool:
        """Whether this node may end the room for being idle."""
        return True

    def may_push(self, account: str) -> bool:
        return account == self.creator or account in self.granted

    def grant(self, account: str) -> bool:
        """Let one more account push; False when there are as many as can be listed."""
        if account in self.granted:
            return True
        if len(self.granted) >= self._node.limits.max_grants_per_room:
            return False
        if not self._listing.take(grant_bytes(account)):
            return False
        self.granted.add(account)
        return True

    def revoke(self, account: str) -> None:
        """Take a grant back; its sources are another matter (`revoke_sources`)."""
        self.granted.remove(account)
        self._listing.give_back(grant_bytes(account))

    # Data

    def push(self, source: Source, run: Run, now: float) -> int:
        """Check a run, hand it to every subscriber, and cache it.

        Returns how many subscribers it went to. ``source`` is one of this
        room's, pushed by its owner.

        Raises:
            RemoteProtocolError: the run's ``seq`` does not follow.
        """
        track = source.tracks.get(run.track) or self._new_track(source, run.track)
        if run.init_bytes:
            self._check_init(track, run.init_bytes)
        source.received_bytes += len(run.data)
        if source.pace is not None:
            source.pace.received += len(run.data)
            if source.pace.overdrawn:
                raise RemoteProtocolError(
                    f"{source.pace.received} bytes with a credit of {source.pace.told}",
                    Code.CREDIT_EXCEEDED,
                )
        fresh = run
        if run.first_seq != track.next_seq or track.ended or track.expected != track.next_seq:
            checked = check_sequence(track, run)
            source.discarded += run.frames - (checked.frames if checked else 0)
            if checked is None:
                if source.pace is not None:
                    source.pace.handed_on(0)  # repeats cost no one's room
                return 0
            fresh = checked
            if fresh.first_seq > track.next_seq:
                # The publisher left it out, at a takeover.
                self.flush(now)
                self._announce_gap(source, track, fresh.first_seq - 1, GapReason.SKIPPED, now)
        else:
            track.expected = run.last_seq + 1
        pace = source.pace
        if pace is not None:
            self._send_reliably(fresh, track, pace, now)
        elif self.gather_ms and self._gather(fresh, track, now):
            pass
        else:
            if self._gathered:
                self.flush(now)
            self._audience.send(fresh.data, ((fresh, track),), now)
        track.next_seq = fresh.last_seq + 1
        if fresh.init_bytes:
            self._init_bytes += fresh.init_bytes - len(track.init or b"")
            track.init = fresh.data[: fresh.init_bytes]
            source.changed()
        if fresh.last_key >= 0:
            track.keyed = True
        if fresh.end_offset >= 0:
            track.ended = True
        if track.keyed:
            self._arrivals += 1
            track.cache.add(fresh, self._arrivals, track.init)
            source.changed()
        return self._count(source, fresh.frames, len(fresh.data), now)

    def _count(self, source: Source, frames: int, size: int, now: float) -> int:
        """Count what went to everyone; return how many that are."""
        audience = len(self._audience)
        source.forwarded += frames
        self.last_frame_at = now
        self.frames_in += frames
        self.bytes_in += size
        node = self._node
        node.frames_in += frames
        node.bytes_in += size
        node.deliveries += frames * audience
        node.bytes_out += size * audience
        return audience

    def may_pass(self, source: Source, frame: FrameHeader) -> bool:
        """Say whether a frame can be let through unread: `pass_on` it, or `push` it else.

        It can when it is nothing but the next of its track in a reliable room, is not
        to be kept, and there is one subscriber, who takes it as it is.
        """
        pace = source.pace
        track = source.tracks.get(frame.track)
        if pace is None or pace.held is not None or frame.size > pace.left or track is None:
            return False
        if track.keyed or track.ended or not frame.seq == track.next_seq == track.expected:
            return False
        subscription = self._audience.sole()
        return subscription is not None and subscription.takes_unseen(track)

    def pass_on(self, source: Source, frame: FrameHeader, passage: Passage, now: float) -> None:
        """Move a frame to the room's subscriber that `may_pass`.

        After the last of several the publisher is to be told its credit, by `Pace.update`.
        """
        pace = source.pace
        subscription = self._audience.sole()
        assert pace is not None and subscription is not None
        track = source.tracks[frame.track]
        track.next_seq = track.expected = frame.seq + 1
        source.received_bytes += frame.size
        pace.received += frame.size
        subscription.outbox.pass_on(passage, pace.flow(subscription), now)
        pace.passed += frame.size
        self._count(source, 1, frame.size, now)

    def _new_track(self, source: Source, number: int) -> Track:
        limits = self._node.limits
        if self._tracks >= limits.max_tracks_per_room or not self._listing.take(TRACK_BYTES):
            raise RemoteProtocolError(
                f"more than {self._tracks} tracks in a room",
                Code.FLOODING,
                limit="max_tracks_per_room",
            )
        self._tracks += 1
        return source.new_track(number, self._budget)

    def _check_init(self, track: Track, size: int) -> None:
        size += self._init_bytes - len(track.init or b"")
        if size > self._node.limits.max_room_init_bytes:
            raise RemoteProtocolError(
                f"{size} bytes of INITs in a room", Code.FLOODING, limit="max_room_init_bytes"
            )

    def _send_reliably(self, run: Run, track: Track, pace: Pace, now: float) -> None:
        if pace.held is not None:
            pace.held.append(run.data)
        self._audience.send_reliably(run, track, pace, now)
        pace.handed_on(len(run.data))

    def _gather(self, run: Run, track: Track, now: float) -> bool:
        """Keep a small run back to share a send; False if it must go at once."""
        if run.last_key >= 0 or run.init_bytes or run.end_offset >= 0:
            return False
        size = self._gathered_bytes + len(run.data)
        if size > _GATHER_BYTES:
            return False
        if not self._gathered:
            self._flush_at(self, now + self.gather_ms / 1000)
        self._gathered.append((run, track))
        self._gathered_bytes = size
        return True

    def flush(self, now: float) -> None:
        """Send what was gathered. Whatever must stand behind it flushes first."""
        if self._gathered:
            parts = tuple(self._gathered)
            self._gathered.clear()
            self._gathered_bytes = 0
            self._audience.send(b"".join([run.data for run, _ in parts]), parts, now)

    def _announce_gap(
        self, source: Source, track: Track, last_seq: int, reason: GapReason, now: float
    ) -> None:
        """Tell subscribers that a track goes on behind ``last_seq``."""
        track.cache.drop()
        source.changed()
        gap = encode(
            Gap(
                room=self.number,
                source=source.number,
                track=track.number,
                first_seq=track.next_seq,
                last_seq=last_seq,
                reason=reason,
            )
        )
        for subscription in self._audience:
            # Who lags gets one GAP at its end, which contains this one.
            if track not in subscription.lagging:
                subscription.count_gap()
                subscription.outbox.put_control(gap, now)

    def _tell_subscribers(self, event: bytes, now: float) -> None:
        self.flush(now)
        self._audience.tell(event, now)

    # Subscribers

    def subscribe(
        self, member: Member, start: StartFrom, credit: int, request_id: int, now: float
    ) -> None:
        """Answer, INITs, cached groups, and from then on live, as one step."""
        self.flush(now)
        node = self._node
        outbox = member.outbox
        wants_groups = start is StartFrom.GROUP
        # Slow joiners keep the groups of their time in memory; past the bound
        # the next one starts at a KEY instead.
        offered = wants_groups and node.pinned_bytes < node.limits.node_cache_bytes
        sources = tuple(self.sources.values())
        answer = SubscribeAnswer(
            room=self.number,
            mode=self.mode,
            gather_ms=self.gather_ms,
            sources=[
                *self._listing.left,
                *(source.info(offered=offered or source.holds) for source in sources),
            ],
            path=self.path,
        )
        outbox.put_control(encode(answer, request_id), now)
        if self.mode is RoomMode.RELIABLE:
            outbox.expect_bulk()
        form = member.forms.get(self.number, outbox.form)
        subscription = self._new_subscription(outbox, credit, now, form)
        for source in sources:
            piece = source.opening(node, with_groups=offered, form=form)
            if piece.data:
                outbox.put_encoded(piece.data, piece, now)
            has_all = source.holds
            if source.pace is not None:
                self._release_held(source)
                source.pace.join(subscription)
            if wants_groups and not has_all:
                for track in source.tracks.values():
                    if track.keyed and not track.ended and not (offered and track.cache.runs):
                        subscription.wait_for_key(track)
        self._audience.join(member, subscription)
        member.subscriptions[self.number] = subscription
        self.viewers_changed = True
        node.subscriptions += 1

    def _new_subscription(
        self, outbox: Outbox, credit: int, now: float, form: Form | None = None
    ) -> Subscription:
        return Subscription(
            self.number,
            outbox,
            self._node,
            credit,
            tally=self.tally,
            began_at=now,
            base_frames=self.frames_in,
            base_bytes=self.bytes_in,
            form=form,
        )

    def subscribers(self) -> Iterator[tuple[Member, Subscription]]:
        """Yield who has subscribed at this node; links to other nodes are among them."""
        return self._audience.pairs()

    def unsubscribe(self, member: Member) -> None:
        subscription = self._audience.leave(member)
        del member.subscriptions[self.number]
        subscription.discard()
        for source in self.sources.values():
            if source.pace is not None:
                source.pace.leave(subscription)
        self.viewers_changed = True
        self._node.subscriptions -= 1

    # Sources

    def source_of(self, token: bytes) -> Source | None:
        """Return the living source that was opened with ``token``."""
        return self._tokens.get(token)

    def publish(self, member: Member, token: bytes, request_id: int, now: float) -> Source:
        """Open a source, or take over the one with this token, and answer.

        Raises:
            RoomError: ``token_in_use``, ``too_many_sources``.
        """
        source = self._tokens.get(token)
        if source is not None and source.account != member.account:
            raise room_error(Code.TOKEN_IN_USE)
        is_new = source is None
        is_more = source is None or source.owner is not member
        if is_more and len(member.sources) >= self._node.limits.max_sources_per_connection:
            raise room_error(Code.TOO_MANY_SOURCES, limit="max_sources_per_connection")
        if source is None:
            if len(self.sources) >= self._node.limits.max_sources_per_room or not (
                self._listing.take(source_bytes(member.account))
            ):
                raise room_error(Code.TOO_MANY_SOURCES, limit="max_sources_per_room")
            # Without an owner until its credit is known: the answer tells it.
            source = Source(self._next_source, member.account, token, None)
            self._next_source += 1
            if self.mode is RoomMode.RELIABLE:
                self._set_pace(source)
            source.owner = member
            self.sources[source.number] = source
            self._tokens[token] = source
        elif source.owner is not member:
            if source.owner is not None:
                source.owner.release(self, source)
                replaced = Replaced(room=self.number, source=source.number)
                source.owner.outbox.put_control(encode(replaced), now)
            source.hand_over(member)
        member.hold(self, source)
        answer = PublishAnswer(
            room=self.number,
            source=source.number,
            mode=self.mode,
            received=source.received_bytes,
            credit=UNLIMITED_CREDIT if source.pace is None else source.pace.told,
            tracks=source.infos(),
        )
        member.outbox.put_control(encode(answer, request_id), now)
        viewers = Viewers(room=self.number, viewers=self.viewers)
        member.outbox.put_control(encode(viewers), now)
        if is_new:
            joined = SourceJoined(room=self.number, source=source.number, account=source.account)
            self._tell_subscribers(encode(joined), now)
        return source

    def _set_pace(self, source: Source) -> None:
        """Give a new source of a reliable room its credit."""

        def tell(limit: int) -> None:
            if source.owner is not None:
                credit = Credit(room=self.number, source=source.number, limit=limit)
                # Sent with data, never late: the time only dates a backlog.
                source.owner.outbox.put_control(encode(credit), self.last_frame_at)

        limits = self._node.limits
        window = limits.backlog_bytes + limits.max_frame_bytes
        # What is held for the first subscriber counts as cache; where there
        # is no room for it, the source waits for that subscriber.
        hold = window if not self._audience and self._budget.take(window) else 0
        source.pace = Pace(window, hold, limits.max_frame_bytes, tell)
        for subscription in self._audience:
            source.pace.join(subscription)

    def _release_held(self, source: Source) -> None:
        pace = source.pace
        if pace is not None and pace.hold:
            self._budget.give_back(pace.hold)
            pace.hold = 0

    def grant_credit(self, subscription: Subscription, number: int, limit: int) -> None:
        """A subscriber takes more of a source; ignored where that means nothing."""
        source = self.sources.get(number)
        if source is not None and source.pace is not None:
            source.pace.grant(subscription, limit)

    def find_slow(self, now: float) -> list[Subscription]:
        """Return who holds up a reliable source at less than the least rate."""
        limits = self._node.limits
        return [
            subscription
            for source in self.sources.values()
            if source.pace is not None
            for subscription in source.pace.find_slow(
                now, limits.reliable_patience_s, limits.min_reliable_rate
            )
        ]

    @property
    def reliable_bytes(self) -> int:
        """What the room's sources hold for subscribers; 0 in a live room."""
        return sum(
            source.pace.backlog_bytes for source in self.sources.values() if source.pace is not None
        )

    def claims(self) -> Iterator[list[Claim]]:
        """Yield for each source of a reliable room what is queued for whom.

        Not for who is being closed already.
        """
        for source in self.sources.values():
            yield [
                Claim(member.account, subscription.outbox, pending_bytes)
                for member, subscription in self.subscribers()
                if (pending_bytes := source.pending_bytes(subscription))
                and not subscription.outbox.closed
            ]

    def unpublish(self, owner: Member, source: Source, request_id: int, now: float) -> None:
        """End a source at its owner's wish, and answer."""
        self.end_source(source, SourceLeftReason.UNPUBLISHED, now)
        answer = UnpublishAnswer(forwarded=source.forwarded, discarded=source.discarded)
        owner.outbox.put_control(encode(answer, request_id), now)

    def lose_owner(self, source: Source, linger_s: float, now: float) -> None:
        """The publisher's connection is gone: wait for a takeover, then end the source."""
        source.owner = None
        source.leave_at = now + linger_s

    def end_source(self, source: Source, reason: SourceLeftReason, now: float) -> None:
        """Remove a source and tell the subscribers, after announcing their losses."""
        self.flush(now)
        self._remove_source(source)
        self._listing.keep(source.info(left=True))
        for subscription in self._audience:
            subscription.source_ends(source, now)
        left = SourceLeft(room=self.number, source=source.number, reason=reason)
        self._tell_subscribers(encode(left), now)

    def _remove_source(self, source: Source) -> None:
        del self.sources[source.number]
        del self._tokens[source.token]
        source.drop_caches()
        self._release_held(source)
        if source.pace is not None:
            source.pace.close()
        self._init_bytes -= sum(len(track.init or b"") for track in source.tracks.values())
        self._tracks -= len(source.tracks)
        self._listing.give_back(source_bytes(source.account) + TRACK_BYTES * len(source.tracks))
        if source.owner is not None:
            source.owner.release(self, source)
            source.owner = None

    def revoke_sources(self, account: str, reason: RevokedReason, now: float) -> None:
        """Cut off an account in mid-stream. What it has in flight is discarded."""
        for source in [each for each in self.sources.values() if each.account == account]:
            if source.owner is not None:
                revoked = PushRevoked(room=self.number, source=source.number, reason=reason)
                source.owner.outbox.put_control(encode(revoked), now)
            self.end_source(source, SourceLeftReason.REVOKED, now)

    def announce_viewers(self, now: float) -> None:
        """Send VIEWERS to each connection that publishes here, once."""
        self.viewers_changed = False
        event = encode(Viewers(room=self.number, viewers=self.viewers))
        for owner in {source.owner for source in self.sources.values() if source.owner}:
            owner.outbox.put_control(event, now)

    # The end

    def close(self, reason: RoomClosedReason, text: str, now: float) -> None:
        """End the room: tell subscribers and publishers, behind all data."""
        closed = encode(RoomClosed(room=self.number, reason=reason, text=text))
        self.flush(now)
        told = {source.owner for source in self.sources.values() if source.owner}
        for source in list(self.sources.values()):
            for subscription in self._audience:
                subscription.source_ends(source, now)
            self._remove_source(source)
        told.update(self._audience.members())
        for member in self._audience.members():
            self.unsubscribe(member)
        for member in told:
            member.outbox.put_control(closed, now)

    def info(self, *, show_granted: bool, now: float) -> RoomInfo:
        return RoomInfo(
            room=self.number,
            mode=self.mode,
            gather_ms=self.gather_ms,
            idle_timeout_s=int(self.idle_timeout_s),
            creator=self.creator,
            age_ms=int((now - self.created_at) * 1000),
            viewers=self.viewers,
            frames=self.frames_in,
            bytes=self.bytes_in,
            sources=[*self._listing.left, *(source.info() for source in self.sources.values())],
            granted=sorted(self.granted) if show_granted else [],
        )
