"""What a room's answers list, kept so short that each fits into one frame.

The answers to SUBSCRIBE and ROOM_INFO name every source with its tracks, and
ROOM_INFO every grant. With limits that allow many of them that would be more
than ``max_frame_bytes``, which no client takes.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import attrs

from tim_trio.protocol.messages import SourceInfo

#: Sources that have left and stay listed, so that a late comer can tell
#: "ended" from "not yet begun".
LEFT_SOURCES_KEPT: Final = 64
#: For all else in an answer: the room's own fields and the nodes on its path.
_OTHER_FIELDS_BYTES: Final = 1024
#: One `track_info`: u8 track, u8 state, u64 last_seq.
TRACK_BYTES: Final = 10
#: One `source_info` without account and tracks: u32 source, the length of
#: str account, bool left, the length of the tracks.
_SOURCE_BYTES: Final = 9
#: A `str` without its bytes.
_TEXT_BYTES: Final = 2


def source_bytes(account: str) -> int:
    """Return what a source takes up in an answer, without its tracks."""
    return _SOURCE_BYTES + len(account.encode())


def grant_bytes(account: str) -> int:
    """Return what a granted account takes up in an answer."""
    return _TEXT_BYTES + len(account.encode())


@attrs.define(eq=False)
class Listing:
    """The bytes of everything listed, and the sources that have left.

    Attributes:
        left: those that have left, oldest first. They give way to the living.
    """

    max_frame_bytes: int
    left: deque[SourceInfo] = attrs.field(factory=deque)
    _used: int = 0

    def take(self, size: int) -> bool:
        """Reserve ``size`` bytes; False when the answers would no longer fit."""
        bound = self.max_frame_bytes - _OTHER_FIELDS_BYTES
        while self._used + size > bound and self.left:
            self._forget_oldest()
        if self._used + size > bound:
            return False
        self._used += size
        return True

    def give_back(self, size: int) -> None:
        self._used -= size

    def keep(self, info: SourceInfo) -> None:
        """List a source that has left, for a while."""
        if len(self.left) >= LEFT_SOURCES_KEPT:
            self._forget_oldest()
        if self.take(_size(info)):
            self.left.append(info)

    def _forget_oldest(self) -> None:
        self._used -= _size(self.left.popleft())


def _size(info: SourceInfo) -> int:
    return source_bytes(info.account) + TRACK_BYTES * len(info.tracks)
