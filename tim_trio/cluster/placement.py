"""Which nodes a room belongs to: weighted rendezvous hashing, pure.

Every node computes the same ranking from the same members, without a word
between them. The first is the room's relay, the next three are its backups.
A node that comes or goes moves only the rooms that it ranks first in.

Source: docs/cluster.md, "Placement"; tests/vectors/placement.json.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from hashlib import blake2b
from typing import Final

_MASK: Final = 2**64 - 1
_FIRST_FACTOR: Final = 0xBF58476D1CE4E5B9
_SECOND_FACTOR: Final = 0x94D049BB133111EB
_LN_2_64: Final = 64 * math.log(2)

#: The relay, the second, the third and the fourth.
RANKED: Final = 4
MAX_WEIGHT: Final = 1000


def node_seed(name: str) -> int:
    """Return a node's part of the hash: the first 8 bytes of its name's BLAKE2b."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest())


def mix(value: int) -> int:
    """Return 64 well-mixed bits of 64 bits: the finalizer of SplitMix64."""
    value = (value ^ (value >> 30)) * _FIRST_FACTOR & _MASK
    value = (value ^ (value >> 27)) * _SECOND_FACTOR & _MASK
    return value ^ (value >> 31)


def score(room: int, seed: int) -> int:
    """Return how much a room likes a node of weight 1, as 64 bits."""
    return mix(mix(room) ^ seed)


class Placement:
    """The ranking of some nodes for any room. Immutable.

    Args:
        weights: each node's share of the rooms, in proportion; 1 to 1000.
    """

    __slots__ = ("_equal", "_seeds", "weights")

    def __init__(self, weights: Mapping[str, int]) -> None:
        self.weights = dict(sorted(weights.items()))
        for name, weight in self.weights.items():
            if not 1 <= weight <= MAX_WEIGHT:
                raise ValueError(f"node {name}: weight {weight} is not in 1 to {MAX_WEIGHT}")
        self._seeds = [(node_seed(name), name) for name in self.weights]
        self._equal = len(set(self.weights.values())) <= 1

    def __len__(self) -> int:
        return len(self._seeds)

    def rank(self, room: int, count: int = RANKED) -> tuple[str, ...]:
        """Return the first ``count`` nodes for a room, the relay first; fewer where
        there are fewer. About 0.6 µs per node."""
        mixed = mix(room)
        if self._equal:
            # The logarithm keeps the order, so this is what `_weighted` would give.
            scored = ((mix(mixed ^ seed), name) for seed, name in self._seeds)
            return tuple(name for _, name in heapq.nlargest(count, scored))
        return tuple(name for _, _, name in heapq.nlargest(count, self._weighted(mixed)))

    def _weighted(self, mixed: int) -> list[tuple[float, int, str]]:
        """The chance of ``ln(u) / weight`` to be the largest, for u uniform in
        (0, 1), is in proportion to the weight."""
        weights = self.weights
        scored = []
        for seed, name in self._seeds:
            bits = mix(mixed ^ seed)
            # The half keeps u inside of (0, 1).
            scored.append(((math.log(bits + 0.5) - _LN_2_64) / weights[name], bits, name))
        return scored
