"""What operators are told: a node's figures, its rooms' and a room's subscribers'.

Nothing is counted here, and nothing on the way of the data is counted for this
alone: the numbers are read when they are asked for.

Source: protocol.md, section 7.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import AsyncIterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from tim_trio.core.member import LINK_PREFIX, Member
from tim_trio.core.room import Room
from tim_trio.core.subscription import Subscription
from tim_trio.errors import Code, room_error
from tim_trio.protocol.messages import (
    Figure,
    NodeFigures,
    NodeFiguresAnswer,
    Right,
    RoomFigures,
    RoomFiguresAnswer,
    RoomLoad,
    RoomMode,
    SubscriberFigures,
    SubscriberFiguresAnswer,
    SubscriberLoad,
    SubscriberState,
)

if TYPE_CHECKING:
    from tim_trio.core.manager import RoomManager

FiguresRequest = NodeFigures | RoomFigures | SubscriberFigures
FiguresAnswer = NodeFiguresAnswer | RoomFiguresAnswer | SubscriberFiguresAnswer

T = TypeVar("T")

_LIST_LIMIT: Final = 1000
#: Looked at within about a millisecond.
_IN_ONE_TURN: Final = 2048
#: Of an answer's frame: what stands before the entries, and what FORWARD wraps it in.
_OTHER_FIELDS_BYTES: Final = 512
#: An entry without the bytes of its names.
_ROOM_BYTES: Final = 64
_SUBSCRIBER_BYTES: Final = 64
_FIGURE_BYTES: Final = 10
_TEXT_BYTES: Final = 2
_MAX_U32: Final = 2**32 - 1


async def answer(
    manager: RoomManager, member: Member, request: FiguresRequest, now: float
) -> FiguresAnswer:
    """Return what is asked for of this node. Others get their turns meanwhile.

    Raises:
        RoomError: ``permission_denied`` but for operators and, of its
            subscribers, a room's creator; ``no_such_room``; ``bad_request``
            for another node, where there are none.
    """
    is_operator = bool(member.rights & Right.OPERATOR)
    room = None
    if isinstance(request, SubscriberFigures):
        room = manager.rooms.get(request.room)
        if not is_operator and room is None:
            raise room_error(Code.NO_SUCH_ROOM)
    if not is_operator and (room is None or room.creator != member.account):
        raise room_error(Code.PERMISSION_DENIED, "figures need the operator right")
    if request.node not in ("", manager.node_name):
        raise room_error(Code.BAD_REQUEST, "no such node")
    if isinstance(request, NodeFigures):
        return _of_node(manager, now)
    if isinstance(request, RoomFigures):
        return await _of_rooms(manager, request, now)
    if room is None:
        raise room_error(Code.NO_SUCH_ROOM)
    return await _of_subscribers(manager, room, request.limit, now)


def room_for_entries(manager: RoomManager) -> int:
    """Return the bytes that the entries of an answer may take up."""
    return manager.node.limits.max_frame_bytes - _OTHER_FIELDS_BYTES


def load_bytes(load: RoomLoad) -> int:
    """Return what a room takes up in an answer."""
    names = (load.creator, *load.nodes)
    return _ROOM_BYTES + sum(_TEXT_BYTES + len(name.encode()) for name in names)


def _uptime_ms(manager: RoomManager, now: float) -> int:
    return max(0, int((now - manager.node.started_at) * 1000))


def _of_node(manager: RoomManager, now: float) -> NodeFiguresAnswer:
    # The other half is for the nodes of a cluster.
    numbers = manager.node.figures() | {"cpu_ms": int(time.process_time() * 1000)}
    left = room_for_entries(manager) // 2
    figures = []
    for name, value in numbers.items():
        left -= _FIGURE_BYTES + len(name.encode())
        if left < 0:
            break
        figures.append(Figure(name=name, value=max(0, value)))
    return NodeFiguresAnswer(
        node=manager.node_name, uptime_ms=_uptime_ms(manager, now), figures=figures, nodes=[]
    )


async def _of_rooms(manager: RoomManager, request: RoomFigures, now: float) -> RoomFiguresAnswer:
    limit = min(request.limit or _LIST_LIMIT, _LIST_LIMIT)
    found: list[int] = []
    async for some in _in_turns(list(manager.rooms)):
        above = [number for number in some if number > request.after]
        found = heapq.nsmallest(limit + 1, chain(found, above))
    rooms = [manager.rooms[number] for number in found if number in manager.rooms]
    left = room_for_entries(manager)
    loads = []
    for room in rooms[:limit]:
        load = _load_of(room)
        left -= load_bytes(load)
        if left < 0:
            break
        loads.append(load)
    return RoomFiguresAnswer(
        node=manager.node_name,
        uptime_ms=_uptime_ms(manager, now),
        more=len(rooms) > len(loads),
        rooms=loads,
    )


def _load_of(room: Room) -> RoomLoad:
    tally = room.tally
    return RoomLoad(
        room=room.number,
        mode=room.mode,
        creator=room.creator,
        viewers=room.viewers,
        sources=len(room.sources),
        frames=room.frames_in,
        bytes=room.bytes_in,
        lagging=tally.lagging,
        gaps=tally.gaps,
        lost=tally.lost,
        nodes=[],
    )


async def _of_subscribers(
    manager: RoomManager, room: Room, limit: int, now: float
) -> SubscriberFiguresAnswer:
    """Those that are furthest behind first; the rest as they came."""
    limit = min(limit or _LIST_LIMIT, _LIST_LIMIT)
    everyone = list(room.subscribers())
    # Most keep up, and are passed over at the cost of a look.
    behind: list[tuple[Member, Subscription]] = []
    async for some in _in_turns(everyone):
        behind += [pair for pair in some if _is_behind(room, pair[1])]
    first = heapq.nlargest(limit, behind, key=lambda pair: _lag_of(room, pair[1]))
    chosen = first
    if len(first) < limit:
        known = {subscription for _, subscription in behind}
        rest = (pair for pair in everyone if pair[1] not in known)
        chosen = [*first, *(pair for pair, _ in zip(rest, range(limit - len(first)), strict=False))]
    left = room_for_entries(manager)
    loads = []
    for member, subscription in chosen:
        left -= _SUBSCRIBER_BYTES + _TEXT_BYTES + len(member.account.encode())
        if left < 0:
            break
        loads.append(_subscriber(room, member, subscription, now))
    return SubscriberFiguresAnswer(
        node=manager.node_name,
        uptime_ms=_uptime_ms(manager, now),
        total=len(everyone),
        behind=len(behind),
        subscribers=loads,
    )


async def _in_turns(items: Sequence[T]) -> AsyncIterator[Sequence[T]]:
    """Yield so many at a time, and let streams go on in between."""
    for at in range(0, len(items), _IN_ONE_TURN):
        if at:
            await trio.lowlevel.checkpoint()
        yield items[at : at + _IN_ONE_TURN]


def _is_behind(room: Room, subscription: Subscription) -> bool:
    return bool(
        subscription.lagging or _pending(room, subscription) or _holds_up(room, subscription)
    )


def _holds_up(room: Room, subscription: Subscription) -> bool:
    return room.mode is RoomMode.RELIABLE and any(
        source.is_held_up_by(subscription) for source in room.sources.values()
    )


def _pending(room: Room, subscription: Subscription) -> int:
    """Return what is queued of the room for a subscriber, in bytes."""
    if room.mode is RoomMode.LIVE:
        return subscription.backlog.pending_bytes
    return sum(source.pending_bytes(subscription) for source in room.sources.values())


def _lag_of(room: Room, subscription: Subscription) -> tuple[bool, int]:
    lags = any(lag.lost_from is not None for lag in subscription.lagging.values())
    return lags, _pending(room, subscription)


def _subscriber(
    room: Room, member: Member, subscription: Subscription, now: float
) -> SubscriberLoad:
    state = SubscriberState(0)
    for lag in subscription.lagging.values():
        state |= SubscriberState.WAITS_FOR_KEY if lag.lost_from is None else SubscriberState.LAGGING
    if _holds_up(room, subscription):
        state |= SubscriberState.HOLDS_UP
    if member.account.startswith(LINK_PREFIX):
        state |= SubscriberState.NODE
    oldest = subscription.backlog.oldest
    pending_ms = 0 if oldest == math.inf else int((now - oldest) * 1000)
    pending = _pending(room, subscription)
    frames = room.frames_in - subscription.base_frames - subscription.left_out_frames
    size = room.bytes_in - subscription.base_bytes - subscription.left_out_bytes
    return SubscriberLoad(
        number=subscription.number,
        account=member.account.removeprefix(LINK_PREFIX),
        state=state,
        age_ms=max(0, int((now - subscription.began_at) * 1000)),
        frames=max(0, frames),
        bytes=max(0, size - pending),
        pending_bytes=pending,
        pending_ms=min(max(0, pending_ms), _MAX_U32),
        gaps=subscription.gaps,
        lost=subscription.lost,
    )
