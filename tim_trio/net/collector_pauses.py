"""How long the garbage collector stops everything, streams included.

The collector is the process's, and so is what is counted here.

Source: docs/operations.md, "The web port".
"""

from __future__ import annotations

import gc
import time
from typing import Final, Literal

import attrs


@attrs.define(eq=False)
class Passes:
    """The passes over one generation, and all younger ones.

    Attributes:
        count: since `watch_collector`.
        sum_s: all of them together.
        longest_s: the longest of them.
    """

    count: int = 0
    sum_s: float = 0.0
    longest_s: float = 0.0

    def note(self, seconds: float) -> None:
        self.count += 1
        self.sum_s += seconds
        self.longest_s = max(self.longest_s, seconds)


#: By generation: the last one is a pass over everything.
PASSES: Final = (Passes(), Passes(), Passes())
_begun = 0.0


def watch_collector() -> None:
    """Count passes from now on. Idempotent."""
    if _note not in gc.callbacks:
        gc.callbacks.append(_note)


def figures() -> dict[str, float]:
    """Return number and longest pause (ms) for each generation, as the log has it."""
    told: dict[str, float] = {}
    for generation, passes in enumerate(PASSES):
        told[f"gc{generation}_passes"] = passes.count
        told[f"gc{generation}_longest_ms"] = round(passes.longest_s * 1e3, 3)
    return told


def _note(phase: Literal["start", "stop"], info: dict[str, int]) -> None:
    # Passes do not overlap, whichever thread they are in.
    global _begun
    if phase == "start":
        _begun = time.perf_counter()
    elif _begun:
        PASSES[info["generation"]].note(time.perf_counter() - _begun)
