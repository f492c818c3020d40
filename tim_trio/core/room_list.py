"""The answer to LIST_ROOMS: a page of rooms that fits into a frame.

Source: protocol.md, section 5.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Final

from tim_trio.core.directory import RoomRecord
from tim_trio.core.room import Room
from tim_trio.protocol.messages import Role, RoomEntry

_LIST_LIMIT: Final = 1000
#: Of the answer to LIST_ROOMS: what stands before the entries, and an entry
#: without the bytes of its creator's name.
_LIST_HEADER_BYTES: Final = 15
_ENTRY_BYTES: Final = 18


def page(
    among: Iterable[Room], after: int, limit: int, account: str, max_frame_bytes: int
) -> tuple[bool, list[RoomEntry]]:
    """Return whether there are more, and the first rooms above ``after``, as ``account`` sees them.

    Args:
        limit: entries at most; 0 for as many as we like.
    """
    limit = min(limit or _LIST_LIMIT, _LIST_LIMIT)
    rooms = heapq.nsmallest(
        limit + 1, (room for room in among if room.number > after), key=lambda room: room.number
    )
    entries = cut((_entry(room, account) for room in rooms[:limit]), max_frame_bytes)
    return len(rooms) > len(entries), entries


def cut(entries: Iterable[RoomEntry], max_frame_bytes: int) -> list[RoomEntry]:
    """Return as many of the first entries as fit into a frame."""
    size = _LIST_HEADER_BYTES
    fitting = []
    for entry in entries:
        size += _ENTRY_BYTES + len(entry.creator.encode())
        if size > max_frame_bytes:
            break
        fitting.append(entry)
    return fitting


def role_in(room: Room | RoomRecord, account: str) -> Role:
    """Return what an account is to a room that it may see listed."""
    if account == room.creator:
        return Role.CREATOR
    return Role.GRANTED if account in room.granted else Role.OPERATOR


def _entry(room: Room, account: str) -> RoomEntry:
    return RoomEntry(
        room=room.number,
        mode=room.mode,
        creator=room.creator,
        role=role_in(room, account),
        viewers=room.viewers,
        sources=len(room.sources),
    )
