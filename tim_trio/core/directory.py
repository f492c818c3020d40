"""What must be agreed about rooms, behind one interface.

A single node agrees with itself, in memory. Its rooms end with the process.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Protocol

import attrs

from tim_trio.protocol.messages import RoomMode


@attrs.frozen(kw_only=True)
class RoomRecord:
    """What every node knows of a room."""

    room: int
    creator: str
    mode: RoomMode
    gather_ms: int
    idle_timeout_s: float
    granted: frozenset[str] = frozenset()


class Directory(Protocol):
    """Where rooms are recorded. Operations may block and raise ClusterError."""

    async def add_room(self, record: RoomRecord) -> bool:
        """Record a new room; False when its id is live or has been in use."""

    async def find_room(self, room: int) -> RoomRecord | None:
        """Return a live room's record."""

    async def update_room(self, record: RoomRecord) -> None:
        """Replace the record of a live room."""

    async def remove_room(self, room: int) -> None:
        """Forget a room. Its id is never given out again."""


#: Ended ids that are remembered. An id is 64 random bits, so even without
#: this a repeat is not to be expected; it guards against a broken generator.
_ENDED_KEPT: Final = 100_000


class MemoryDirectory:
    """The directory of a single node. Never blocks for long, never fails."""

    def __init__(self) -> None:
        self._live: dict[int, RoomRecord] = {}
        self._ended: OrderedDict[int, None] = OrderedDict()

    async def add_room(self, record: RoomRecord) -> bool:
        if record.room in self._live or record.room in self._ended:
            return False
        self._live[record.room] = record
        return True

    async def find_room(self, room: int) -> RoomRecord | None:
        return self._live.get(room)

    async def update_room(self, record: RoomRecord) -> None:
        if record.room in self._live:
            self._live[record.room] = record

    async def remove_room(self, room: int) -> None:
        if self._live.pop(room, None) is not None:
            self._ended[room] = None
            if len(self._ended) > _ENDED_KEPT:
                self._ended.popitem(last=False)
