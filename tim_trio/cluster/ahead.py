"""What has come over one bond of a room before what precedes it has come over another.

While a room's tree changes, a new bond begins with the running group, and the frames
before that may still be on their way over an old bond. What is ahead waits here for
them: bounded in bytes by the room's cache, and in time.

Source: docs/cluster.md, "When something breaks".
"""

from __future__ import annotations

from typing import Final

import attrs

from tim_trio.cluster.bond import Bond
from tim_trio.core.cache import ENTRY_OVERHEAD, CacheBudget
from tim_trio.core.sources import Source, Track
from tim_trio.protocol.messages import GapReason
from tim_trio.protocol.runs import Run

#: So long nothing of what is missing may come. Ten times what a hop takes on a
#: machine that is busy; a viewer hardly sees it.
WAIT_S: Final = 0.5


@attrs.frozen(eq=False)
class Early:
    """A run that is ahead of its track, or word that its frames are lost.

    Attributes:
        bond: what it came over.
        run: None for a GAP.
        reason: the GAP's.
    """

    first_seq: int
    last_seq: int
    bond: Bond
    run: Run | None = None
    reason: GapReason = GapReason.LOST_BETWEEN_NODES

    @property
    def size(self) -> int:
        return ENTRY_OVERHEAD + (len(self.run.data) if self.run is not None else 0)


@attrs.define(eq=False)
class Waiting:
    """Attributes:
    early: what is ahead of one track, in the order of its arrival.
    until: when what is missing counts as lost.
    """

    source: Source
    track: Track
    until: float
    early: list[Early] = attrs.field(factory=list)


@attrs.define(eq=False)
class Ahead:
    """All that is ahead in one room, counted to its cache."""

    _budget: CacheBudget
    waiting: dict[Track, Waiting] = attrs.field(factory=dict)

    def __contains__(self, track: Track) -> bool:
        return track in self.waiting

    def peers(self, track: Track) -> set[str]:
        """Return who will not bring what the track misses: it has sent what is behind that."""
        waiting = self.waiting.get(track)
        return set() if waiting is None else {early.bond.peer for early in waiting.early}

    def keep(self, source: Source, track: Track, early: Early, now: float) -> bool:
        """Keep something until its turn; False when there is no room for it."""
        if not self._budget.take(early.size):
            return False
        waiting = self.waiting.get(track)
        if waiting is None:
            waiting = self.waiting[track] = Waiting(source, track, now + WAIT_S)
        waiting.early.append(early)
        return True

    def next_run(self, track: Track) -> Early | None:
        """Take out a run whose turn it is, or that is a repeat in part."""
        waiting = self.waiting.get(track)
        for early in () if waiting is None else tuple(waiting.early):
            if early.last_seq < track.next_seq:
                self._remove(waiting, early)
            elif early.run is not None and early.first_seq <= track.next_seq:
                self._remove(waiting, early)
                return early
        return None

    def first(self, track: Track) -> Early | None:
        """Take out what comes first of all that waits, whatever is missing before it."""
        waiting = self.waiting.get(track)
        if waiting is None:
            return None
        early = min(waiting.early, key=lambda each: each.first_seq)
        self._remove(waiting, early)
        return early

    def _remove(self, waiting: Waiting | None, early: Early) -> None:
        assert waiting is not None
        waiting.early.remove(early)
        self._budget.give_back(early.size)
        if not waiting.early:
            del self.waiting[waiting.track]

    def goes_on(self, track: Track, now: float) -> None:
        """Some of what is missing has come: so may the rest."""
        waiting = self.waiting.get(track)
        if waiting is not None:
            waiting.until = now + WAIT_S

    def overdue(self, now: float) -> list[Waiting]:
        return [waiting for waiting in self.waiting.values() if now >= waiting.until]

    def forget(self, track: Track) -> None:
        while self.first(track) is not None:
            pass
