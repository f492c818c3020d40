"""LIST_ROOMS in a cluster: etcd knows which rooms there are, their relays who is in them.

Source: protocol.md, section 7; docs/cluster.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import attrs
import trio

from tim_trio.cluster.cluster import Cluster
from tim_trio.core.directory import RoomRecord
from tim_trio.core.member import Member
from tim_trio.core.room_list import cut, role_in
from tim_trio.errors import Code, room_error
from tim_trio.protocol.messages import (
    UNKNOWN_SOURCES,
    UNKNOWN_VIEWERS,
    ListRooms,
    ListRoomsAnswer,
    ListScope,
    Right,
    Role,
    RoomEntry,
    encode,
)

_LIST_LIMIT: Final = 500
#: Relays that are asked for one answer, those of the most rooms first.
_MOST_ASKED: Final = 32
_PATIENCE_S: Final = 2.0

#: Carries a frame out at a node for an account with these rights; None where that fails.
Send = Callable[[str, str, bytes, int], Awaitable[object | None]]


@attrs.frozen
class _Count:
    """How many are in a room."""

    viewers: int
    sources: int


_NOBODY: Final = _Count(0, 0)
_UNKNOWN: Final = _Count(UNKNOWN_VIEWERS, UNKNOWN_SOURCES)


@attrs.define(eq=False)
class RoomLists:
    """Args:
    send: how a request gets to another node.
    """

    cluster: Cluster
    send: Send

    async def answer(self, member: Member, request: ListRooms) -> ListRoomsAnswer:
        """Return a page of rooms. Asks etcd once, and each of their relays once.

        Raises:
            RoomError: ``permission_denied`` for all rooms without the operator right.
            ClusterError: the directory could not be asked.
        """
        if request.scope is ListScope.ALL and not member.rights & Right.OPERATOR:
            raise room_error(Code.PERMISSION_DENIED, "listing all rooms needs the operator right")
        limit = min(request.limit or _LIST_LIMIT, _LIST_LIMIT)
        directory = self.cluster.directory
        if request.scope is ListScope.ALL:
            more, records = await directory.all_rooms(request.after, limit)
            found = [(record, role_in(record, member.account)) for record in records]
        else:
            more, found = await directory.rooms_of(member.account, request.after, limit)
        counts = await self._count(member, request, [record.room for record, _ in found])
        entries = cut(
            (_entry(record, role, counts[record.room]) for record, role in found),
            self.cluster.manager.node.limits.max_frame_bytes,
        )
        return ListRoomsAnswer(more=more or len(entries) < len(found), rooms=entries)

    async def _count(
        self, member: Member, request: ListRooms, numbers: Iterable[int]
    ) -> dict[int, _Count]:
        counts: dict[int, _Count] = {}
        relays: dict[int, str] = {}
        for number in numbers:
            relay = next(iter(self.cluster.ranking(number)), self.cluster.me)
            room = self.cluster.room(number)
            if room is not None and (room.tree.is_root or room.ready.is_set()):
                counts[number] = _Count(room.viewers, len(room.sources))
            elif relay == self.cluster.me:
                counts[number] = _NOBODY
            else:
                relays[number] = relay
        asked = [relay for relay, _ in Counter(relays.values()).most_common(_MOST_ASKED)]
        heard: dict[str, dict[int, _Count]] = {}

        async def ask(relay: str) -> None:
            # It lists its own rooms alone, which are no more than are asked for.
            frame = encode(request, 1)
            answer = await self.send(relay, member.account, frame, int(member.rights))
            if isinstance(answer, ListRoomsAnswer):
                heard[relay] = {
                    entry.room: _Count(entry.viewers, entry.sources) for entry in answer.rooms
                }

        with trio.move_on_after(_PATIENCE_S):
            async with trio.open_nursery() as nursery:
                for relay in asked:
                    nursery.start_soon(ask, relay)
        for number, relay in relays.items():
            # A relay that does not hold a room has nobody in it.
            counts[number] = heard[relay].get(number, _NOBODY) if relay in heard else _UNKNOWN
        return counts


def _entry(record: RoomRecord, role: Role, count: _Count) -> RoomEntry:
    return RoomEntry(
        room=record.room,
        mode=record.mode,
        creator=record.creator,
        role=role,
        viewers=count.viewers,
        sources=count.sources,
    )
