"""The room manager: which rooms there are, and who may do what with them.

The only place where permissions are checked. Rooms themselves (`room`) do
what they are told.

Source: protocol.md, section 7.
"""

from __future__ import annotations

import heapq
import math
import secrets
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Final, Protocol

import attrs
import trio

from tim_trio.core.directory import Directory, MemoryDirectory, RoomRecord
from tim_trio.core.member import Member
from tim_trio.core.node import Node
from tim_trio.core.outbox import Outbox
from tim_trio.core.rates import Allowance, Recent
from tim_trio.core.room import Room
from tim_trio.core.room_list import page
from tim_trio.core.shedding import choose
from tim_trio.core.sources import Source
from tim_trio.core.throttle import AccountRates, address_commands
from tim_trio.errors import Code, room_error
from tim_trio.protocol.messages import (
    ListScope,
    PushAsked,
    PushGranted,
    RevokedReason,
    Right,
    RoomClosedReason,
    RoomEntry,
    RoomInfo,
    RoomMode,
    SourceLeftReason,
    StartFrom,
    encode,
    encode_close,
    is_account_name,
)
from tim_trio.protocol.room_ids import END_ROOM_ID, FIRST_ROOM_ID
from tim_trio.protocol.wire import MAX_TEXT_BYTES

#: Draws before giving up on a generator that repeats itself.
_DRAWS: Final = 8
_MAX_GATHER_MS: Final = 1000
_EXPIRY_INTERVAL_S: Final = 0.5
_PACING_INTERVAL_S: Final = 1.0

_RATES_KEPT: Final = 10_000

_NARROWED: Final = "this sign-in is not for that room"

_CLOSED_TEXTS: Final = {
    RoomClosedReason.REMOVED: "removed by its creator",
    RoomClosedReason.IDLE: "no data for its idle timeout",
    RoomClosedReason.BANNED: "closed by an operator",
    RoomClosedReason.PATH_LOST: "no way to the room's root",
}


class EventLog(Protocol):
    """The part of a structlog logger that is used here."""

    def info(self, event: str, **fields: Any) -> object: ...


class Elsewhere(Protocol):
    """The other nodes of a cluster, as far as requests concern them."""

    async def prepare(self, member: Member, request: object, now: float) -> object | None:
        """Make the room of a request present here, or have the request carried
        out where it is; then that answer is returned.

        Raises:
            RoomError: the answer is ERROR.
        """

    async def finish(self, member: Member, request: object, answer: object, now: float) -> object:
        """Carry out the other nodes' part of what was carried out here; return the answer.

        Raises:
            RoomError: the answer is ERROR; to try again does no harm.
        """

    async def tell(self, account: str, event: bytes) -> None:
        """Hand an event to an account's connections at other nodes, where there is room."""


def draw_room_id() -> int:
    """Return a room id drawn uniformly from the whole range by the system's random source."""
    return FIRST_ROOM_ID + secrets.randbelow(END_ROOM_ID - FIRST_ROOM_ID)


@attrs.define(eq=False)
class RoomManager:
    """All rooms of one node.

    Args:
        draw: where room ids come from; injected by tests.
    """

    node: Node
    log: EventLog
    node_name: str = "node"
    directory: Directory = attrs.field(factory=MemoryDirectory)
    draw: Callable[[], int] = draw_room_id
    make_room: Callable[..., Room] = Room
    #: The other nodes; None on a single node.
    elsewhere: Elsewhere | None = None
    #: Gets an account's name when its first connection comes and its last one goes.
    on_presence: Callable[[str, bool], None] | None = None
    rooms: dict[int, Room] = attrs.field(factory=dict)
    #: Of the requests of an address, and of the bytes of an account. Forgotten
    #: ones begin anew, which costs an attacker as many others.
    address_rates: Recent[Allowance] = attrs.field(init=False)
    account_rates: Recent[AccountRates] = attrs.field(init=False)
    _members: dict[str, set[Member]] = attrs.field(factory=dict)
    # Rooms an account created or was granted.
    _related: dict[str, set[Room]] = attrs.field(factory=dict)
    _created: dict[str, int] = attrs.field(factory=dict)
    _deadlines: list[tuple[float, int]] = attrs.field(factory=list)
    _lingering: dict[Source, Room] = attrs.field(factory=dict)
    _flushes: list[tuple[float, int]] = attrs.field(factory=list)
    _flush_sooner: trio.Event = attrs.field(factory=trio.Event)

    def __attrs_post_init__(self) -> None:
        limits = self.node.limits
        self.address_rates = Recent(
            partial(address_commands, limits), Allowance.is_full, _RATES_KEPT
        )
        self.account_rates = Recent(
            partial(AccountRates.of, limits), AccountRates.is_full, _RATES_KEPT
        )

    # Members

    def enter(self, member: Member) -> None:
        """A connection has authenticated."""
        members = self._members.setdefault(member.account, set())
        members.add(member)
        if self.on_presence is not None and len(members) == 1:
            self.on_presence(member.account, True)

    def leave(self, member: Member, *, clean: bool, now: float, revoked: bool = False) -> None:
        """A connection is gone: end its subscriptions and, after a linger, its sources.

        ``clean``: it said goodbye, so nobody will take its sources over.
        ``revoked``: it had to go, so nobody may.
        """
        members = self._members.get(member.account)
        if members is None or member not in members:
            return
        members.discard(member)
        if not members:
            del self._members[member.account]
            if self.on_presence is not None:
                self.on_presence(member.account, False)
        for number in list(member.subscriptions):
            self.rooms[number].unsubscribe(member)
        for room, source in list(member.sources.values()):
            if clean or revoked or not self.node.limits.linger_s:
                reason = (
                    SourceLeftReason.REVOKED
                    if revoked
                    else SourceLeftReason.UNPUBLISHED
                    if clean
                    else SourceLeftReason.CONNECTION_LOST
                )
                room.end_source(source, reason, now)
                self._log_source("source left", room, source, reason=reason.name.lower())
            else:
                room.lose_owner(source, self.node.limits.linger_s, now)
                self._lingering[source] = room
        member.sources.clear()
        member.former.clear()

    def stop_lingering(self, source: Source) -> None:
        """Somebody has taken the source over: its publisher is not waited for."""
        self._lingering.pop(source, None)

    def members_of(self, account: str) -> Collection[Member]:
        """Return the connections of an account that are here now."""
        return self._members.get(account, ())

    def end_lingering(self, account: str, now: float) -> None:
        """Nobody may take over what an account has left behind: end it."""
        for source, room in list(self._lingering.items()):
            if source.account == account:
                del self._lingering[source]
                room.end_source(source, SourceLeftReason.REVOKED, now)
                self._log_source("source left", room, source, reason="revoked")

    # Room operations: each raises RoomError.

    def _room(self, number: int) -> Room:
        room = self.rooms.get(number)
        if room is None:
            raise room_error(Code.NO_SUCH_ROOM)
        return room

    def _own_room(self, member: Member, number: int) -> Room:
        room = self._room(number)
        if room.creator != member.account:
            raise room_error(Code.PERMISSION_DENIED, "only the room's creator may do this")
        return room

    async def register(
        self, member: Member, mode: RoomMode, gather_ms: int, idle_timeout_s: int, now: float
    ) -> Room:
        """Open a room under a new random id.

        Raises:
            RoomError: ``permission_denied``, ``not_supported``, ``bad_request``,
                ``too_many_rooms``, ``unavailable``.
        """
        limits = self.node.limits
        if not member.rights & Right.REGISTER_ROOMS:
            raise room_error(Code.PERMISSION_DENIED, "this account may not register rooms")
        if gather_ms > _MAX_GATHER_MS:
            raise room_error(Code.BAD_REQUEST, f"gather_ms is at most {_MAX_GATHER_MS}")
        created = self._created.get(member.account, 0)
        if created >= limits.max_rooms_per_account:
            raise room_error(Code.TOO_MANY_ROOMS, limit="max_rooms_per_account")
        if len(self.rooms) >= limits.max_rooms:
            raise room_error(Code.TOO_MANY_ROOMS, limit="max_rooms")
        idle = min(idle_timeout_s or limits.idle_timeout_s, limits.idle_timeout_s)
        # Counted before the directory is asked, so that requests sent side by
        # side cannot pass the limit together.
        self._created[member.account] = created + 1
        try:
            record = await self._record_new(member.account, mode, gather_ms, idle)
        finally:
            self._uncount(member.account)
        room = self.open_room(record, now)
        self.log.info("room registered", room=str(room), account=room.creator)
        return room

    def open_room(self, record: RoomRecord, now: float) -> Room:
        """Make a recorded room present on this node; it is not yet."""
        room = self.make_room(
            record.room,
            record.creator,
            record.mode,
            record.gather_ms,
            record.idle_timeout_s,
            now,
            self.node,
            self.node_name,
            flush_at=self._flush_at,
        )
        self._created[room.creator] = self._created.get(room.creator, 0) + 1
        self.rooms[room.number] = room
        self.node.rooms += 1
        self._related.setdefault(room.creator, set()).add(room)
        for account in record.granted:
            self.learn_grant(room, account)
        heapq.heappush(self._deadlines, (now + room.idle_timeout_s, room.number))
        return room

    async def _record_new(
        self, creator: str, mode: RoomMode, gather_ms: int, idle: float
    ) -> RoomRecord:
        for _ in range(_DRAWS):
            record = RoomRecord(
                room=self.draw(),
                creator=creator,
                mode=mode,
                gather_ms=gather_ms,
                idle_timeout_s=idle,
            )
            if await self.directory.add_room(record):
                return record
        raise room_error(Code.UNAVAILABLE, "no unused room id was drawn")

    def _uncount(self, account: str) -> None:
        self._created[account] -= 1
        if not self._created[account]:
            del self._created[account]

    async def remove(self, member: Member, number: int, now: float) -> None:
        await self.close(self._own_room(member, number), RoomClosedReason.REMOVED, now)

    async def ban(self, member: Member, number: int, why: str, now: float) -> None:
        """End a room at an operator's word, whose right is the caller's to check."""
        room = self._room(number)
        self.node.room_bans += 1
        self.log.info("room banned", room=str(room), by=member.account, why=why)
        await self.close(room, RoomClosedReason.BANNED, now, why)

    async def close(self, room: Room, reason: RoomClosedReason, now: float, why: str = "") -> None:
        """End a room for everyone at once, then take it out of the directory.

        ``why`` is told to them.
        """
        if self.close_here(room, reason, now, why):
            await self.directory.remove_room(room.number)

    def close_here(self, room: Room, reason: RoomClosedReason, now: float, why: str = "") -> bool:
        """End a room on this node alone; False when it has ended already."""
        if self.rooms.pop(room.number, None) is None:
            return False
        for source in room.sources.values():
            self._lingering.pop(source, None)
        room.close(reason, _closed_text(reason, why), now)
        self.node.rooms -= 1
        self._uncount(room.creator)
        for account in (room.creator, *room.granted):
            self._unrelate(account, room)
        self.log.info(
            "room closed",
            room=str(room),
            reason=reason.name.lower(),
            frames=room.frames_in,
            bytes=room.bytes_in,
        )
        return True

    def _unrelate(self, account: str, room: Room) -> None:
        related = self._related[account]
        related.discard(room)
        if not related:
            del self._related[account]

    async def _record(self, room: Room) -> None:
        await self.directory.update_room(
            RoomRecord(
                room=room.number,
                creator=room.creator,
                mode=room.mode,
                gather_ms=room.gather_ms,
                idle_timeout_s=room.idle_timeout_s,
                granted=frozenset(room.granted),
            )
        )

    async def grant(self, member: Member, number: int, account: str, now: float) -> None:
        """Let ``account`` push, and tell it if it is here."""
        room = self._own_room(member, number)
        if not is_account_name(account):
            raise room_error(Code.BAD_REQUEST, "not an account name")
        if room.may_push(account):
            return
        if not room.grant(account):
            raise room_error(Code.TOO_MANY_GRANTS, limit="max_grants_per_room")
        self._related.setdefault(account, set()).add(room)
        room.asks.forget(account)
        granted = encode(PushGranted(room=room.number))
        for other in self.members_of(account):
            other.outbox.put_control(granted, now)
        self.log.info("push granted", room=str(room), account=account)
        await self._record(room)

    def learn_grant(self, room: Room, account: str) -> None:
        """Note what was granted elsewhere."""
        if room.grant(account):
            self._related.setdefault(account, set()).add(room)

    async def revoke(self, member: Member, number: int, account: str, now: float) -> None:
        """Take the right to push away, in mid-stream if need be."""
        room = self._own_room(member, number)
        if account not in room.granted:
            return
        room.revoke(account)
        self._unrelate(account, room)
        for source in room.sources.values():
            if source.account == account:
                self._lingering.pop(source, None)
        room.revoke_sources(account, RevokedReason.REVOKED, now)
        self.log.info("push revoked", room=str(room), account=account)
        await self._record(room)

    def subscribe(
        self,
        member: Member,
        number: int,
        start: StartFrom,
        credit: int,
        request_id: int,
        now: float,
    ) -> None:
        """Subscribe and answer. ``credit`` counts in reliable rooms only."""
        if not member.may_subscribe_to(number):
            raise room_error(Code.PERMISSION_DENIED, _NARROWED)
        room = self._room(number)
        if number in member.subscriptions:
            raise room_error(Code.ALREADY_SUBSCRIBED)
        if len(member.subscriptions) >= self.node.limits.max_subscriptions:
            raise room_error(Code.TOO_MANY_SUBSCRIPTIONS, limit="max_subscriptions")
        if member.outbox.shared_bytes > self.node.limits.connection_backlog_bytes:
            # It subscribes and does not read: what newcomers get first is not
            # bounded by any subscription's backlog.
            raise room_error(Code.UNAVAILABLE, "read what is on its way first")
        room.subscribe(member, start, credit, request_id, now)

    def unsubscribe(self, member: Member, number: int) -> None:
        if number not in member.subscriptions:
            raise room_error(Code.NOT_SUBSCRIBED)
        self.rooms[number].unsubscribe(member)

    def credit(self, member: Member, number: int, source: int, limit: int) -> None:
        """A subscriber takes more of a source; ignored where that means nothing."""
        subscription = member.subscriptions.get(number)
        if subscription is not None:
            self.rooms[number].grant_credit(subscription, source, limit)

    def publish(
        self, member: Member, number: int, token: bytes, request_id: int, now: float
    ) -> None:
        """Open a source or take one over, and answer."""
        if not member.may_push_to(number):
            raise room_error(Code.PERMISSION_DENIED, _NARROWED)
        room = self._room(number)
        if not room.may_push(member.account):
            raise room_error(
                Code.PERMISSION_DENIED, "only the creator and the accounts it granted may push"
            )
        before = room.source_of(token)
        owner = None if before is None else before.owner
        source = room.publish(member, token, request_id, now)
        self._lingering.pop(source, None)
        if before is None:
            self._log_source("source joined", room, source)
        elif owner is not member:  # else it has only asked for its answer again
            self._log_source("source taken over", room, source)

    def unpublish(
        self, member: Member, number: int, source: int, request_id: int, now: float
    ) -> None:
        """End one of the member's sources and answer."""
        held = member.sources.get((number, source))
        if held is None:
            raise room_error(Code.NO_SUCH_SOURCE)
        room, published = held
        room.unpublish(member, published, request_id, now)
        self._log_source("source left", room, published, reason="unpublished")

    def _log_source(self, event: str, room: Room, source: Source, **fields: str) -> None:
        self.log.info(
            event,
            room=str(room),
            source=source.number,
            account=source.account,
            frames=source.forwarded,
            bytes=source.received_bytes,
            **fields,
        )

    def info(self, member: Member, number: int, now: float) -> RoomInfo:
        if not (member.may_subscribe_to(number) or member.may_push_to(number)):
            raise room_error(Code.PERMISSION_DENIED, _NARROWED)
        room = self._room(number)
        shows = member.account == room.creator or bool(member.rights & Right.OPERATOR)
        return room.info(show_granted=shows, now=now)

    def list_rooms(
        self, member: Member, scope: ListScope, after: int, limit: int
    ) -> tuple[bool, list[RoomEntry]]:
        """Return whether there are more, and rooms in order of their ids.

        Raises:
            RoomError: ``permission_denied`` for all rooms without the operator right.
        """
        if scope is ListScope.ALL and not member.rights & Right.OPERATOR:
            raise room_error(Code.PERMISSION_DENIED, "listing all rooms needs the operator right")
        among = (
            self.rooms.values()
            if scope is ListScope.ALL
            else self._related.get(member.account, set())
        )
        return page(among, after, limit, member.account, self.node.limits.max_frame_bytes)

    def ask_to_push(
        self, member: Member, number: int, message: str, now: float, *, is_heard: bool = True
    ) -> int:
        """Tell the creator's connections that the account wants to push; return how many.

        Args:
            is_heard: what the account says may reach the creator; else it looks
                as if nobody were there.

        Raises:
            RoomError: ``no_such_room``, ``permission_denied``, ``already_granted``,
                ``rate_limited``, ``creator_absent``.
        """
        if not member.may_push_to(number):
            raise room_error(Code.PERMISSION_DENIED, _NARROWED)
        room = self._room(number)
        account = member.account
        if room.may_push(account):
            raise room_error(Code.ALREADY_GRANTED)
        room.asks.check(account, now)
        creators = self.members_of(room.creator) if is_heard else ()
        if not creators:
            raise room_error(Code.CREATOR_ABSENT)
        room.asks.note(account, now)
        asked = encode(PushAsked(room=number, account=account, message=message))
        for creator in creators:
            creator.outbox.put_control(asked, now)
        return len(creators)

    # Services

    async def run_expiry(self) -> None:
        """End idle rooms and lingering sources when their time comes. Runs until cancelled."""
        while True:
            await trio.sleep(_EXPIRY_INTERVAL_S)
            await self.expire(trio.current_time())

    async def expire(self, now: float) -> None:
        """End what is due at ``now``."""
        for source, room in list(self._lingering.items()):
            if now >= source.leave_at:
                del self._lingering[source]
                room.end_source(source, SourceLeftReason.CONNECTION_LOST, now)
                self._log_source("source left", room, source, reason="connection_lost")
        while self._deadlines and self._deadlines[0][0] <= now:
            _, number = heapq.heappop(self._deadlines)
            room_or_none = self.rooms.get(number)
            if room_or_none is None:
                continue
            due = room_or_none.last_frame_at + room_or_none.idle_timeout_s
            if due <= now and not room_or_none.may_expire:
                heapq.heappush(self._deadlines, (now + _EXPIRY_INTERVAL_S, number))
            elif due <= now:
                await self.close(room_or_none, RoomClosedReason.IDLE, now)
            else:
                heapq.heappush(self._deadlines, (due, number))

    def _flush_at(self, room: Room, when: float) -> None:
        heapq.heappush(self._flushes, (when, room.number))
        if self._flushes[0][0] == when:
            self._flush_sooner.set()

    async def run_gathering(self) -> None:
        """Send what rooms have gathered when its time comes. Runs until cancelled."""
        while True:
            self._flush_sooner = trio.Event()
            with trio.move_on_at(self._flushes[0][0] if self._flushes else math.inf):
                await self._flush_sooner.wait()
            await self._flush_due(trio.current_time())

    # In functions of their own: what a service's variables hold while it sleeps
    # is not freed.

    async def _flush_due(self, now: float) -> None:
        while self._flushes and self._flushes[0][0] <= now:
            _, number = heapq.heappop(self._flushes)
            room = self.rooms.get(number)
            if room is not None:
                room.flush(now)
                # A flush is a fan-out: others get a turn between two.
                await trio.lowlevel.checkpoint()

    async def run_pacing(self) -> None:
        """Close who holds up reliable rooms too long. Runs until cancelled."""
        while True:
            await trio.sleep(_PACING_INTERVAL_S)
            self._close_slow(trio.current_time())

    def _close_slow(self, now: float) -> None:
        for room in list(self.rooms.values()):
            if room.mode is RoomMode.RELIABLE:
                for subscription in room.find_slow(now):
                    self.node.count_limit("min_reliable_rate")
                    _close_as_slow(subscription.outbox, now)
        self._shed(now)

    def _shed(self, now: float) -> None:
        """Close who makes reliable rooms hold more than the node has for them."""
        most_bytes = self.node.limits.node_reliable_bytes
        rooms = [room for room in self.rooms.values() if room.mode is RoomMode.RELIABLE]
        if sum(room.reliable_bytes for room in rooms) <= most_bytes:
            return
        for outbox in choose([claims for room in rooms for claims in room.claims()], most_bytes):
            self.node.count_limit("node_reliable_bytes")
            _close_as_slow(outbox, now)

    async def run_viewers(self) -> None:
        """Tell publishers how many watch, at most once per interval. Runs until cancelled."""
        while True:
            await trio.sleep(self.node.limits.viewers_interval_s)
            self._announce_viewers(trio.current_time())

    def _announce_viewers(self, now: float) -> None:
        for room in list(self.rooms.values()):
            if room.viewers_changed:
                room.announce_viewers(now)


def _close_as_slow(outbox: Outbox, now: float) -> None:
    # Reaches it only where nothing is queued: the kernel takes our bytes and the
    # program grants no credit.
    outbox.put_control(encode_close(Code.SLOW_CONSUMER), now)
    outbox.abort(Code.SLOW_CONSUMER)


def _closed_text(reason: RoomClosedReason, why: str) -> str:
    text = _CLOSED_TEXTS[reason]
    if why:
        # Together not longer than a text may be on the wire.
        room = MAX_TEXT_BYTES - len(text) - 2
        text += ": " + why.encode()[:room].decode(errors="ignore")
    return text
