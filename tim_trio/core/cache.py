"""The running group of a track, kept for whoever joins next.

A slice would pin the whole read it was cut from; runs own their bytes
(`Decoder`), so what is cached is as large as it looks.

Source: DESIGN "Joining late and falling behind"; docs/late-join.md.
"""

from __future__ import annotations

from typing import Final

import attrs

from tim_trio.core.node import Node
from tim_trio.protocol.runs import Run

#: What a cached run costs beside its bytes: a bytes object's header (33), a
#: tuple of two (56), its arrival number (28) and the list's slot (8).
ENTRY_OVERHEAD: Final = 125


@attrs.define(eq=False)
class CacheBudget:
    """The cached bytes of one room, counted to the node's as well."""

    _node: Node
    used: int = 0

    def take(self, size: int) -> bool:
        """Reserve ``size`` bytes; False when the room's or the node's bound forbids it."""
        limits = self._node.limits
        if (
            self.used + size > limits.room_cache_bytes
            or self._node.cache_bytes + size > limits.node_cache_bytes
        ):
            return False
        self.used += size
        self._node.cache_bytes += size
        return True

    def give_back(self, size: int) -> None:
        self.used -= size
        self._node.cache_bytes -= size


@attrs.define(eq=False)
class GroupCache:
    """The frames of one track since its last KEY, or nothing.

    Attributes:
        runs: arrival number and bytes of each piece; empty when the group
            cannot be joined (no KEY yet, too large, broken by a loss).
        init: the INIT that a decoder needs before this group; None when
            there is none or the KEY frame is itself one.
    """

    _budget: CacheBudget
    runs: list[tuple[int, bytes]] = attrs.field(factory=list)
    init: bytes | None = None
    _size: int = 0

    def add(self, run: Run, arrival: int, init: bytes | None) -> None:
        """Follow the track: start anew at a KEY, else grow the running group.

        ``init`` is the newest INIT once ``run`` has been seen. A group that
        outgrows its bound is dropped, and joining waits for the next KEY.
        """
        if run.last_key >= 0:
            self.drop()
            data = run.data[run.last_key :]
            key_is_init = run.last_key == 0 and run.init_bytes > 0
            self.init = None if key_is_init else init
        elif self.runs:
            data = run.data
        else:
            return
        size = len(data) + ENTRY_OVERHEAD
        if self._budget.take(size):
            self._size += size
            self.runs.append((arrival, data))
        else:
            self.drop()

    def drop(self) -> None:
        """Forget the group: it cannot be joined until the next KEY."""
        if self.runs:
            self._budget.give_back(self._size)
            self._size = 0
            self.runs = []
            self.init = None
