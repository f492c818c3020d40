"""How late the event loop is: what every stream waits when something takes too long.

Source: docs/operations.md, "The web port".
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

import attrs
import trio

_INTERVAL_S: Final = 0.25
#: Upper bounds in seconds; one run to 4,000 subscribers takes about 13 ms.
BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


@attrs.define(eq=False)
class LoopDelay:
    """A histogram of how much later than asked for a task woke up.

    Attributes:
        counts: per bucket, the last one for everything above.
        sum_s: of all delays.
    """

    counts: list[int] = attrs.field(factory=lambda: [0] * (len(BUCKETS_S) + 1))
    sum_s: float = 0.0

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            due = trio.current_time() + _INTERVAL_S
            await trio.sleep_until(due)
            self.note(max(0.0, trio.current_time() - due))

    def note(self, delay_s: float) -> None:
        self.counts[bisect_left(BUCKETS_S, delay_s)] += 1
        self.sum_s += delay_s
