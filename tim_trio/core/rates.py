"""Rates: so much a second, and some of it at once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

import attrs

V = TypeVar("V")


@attrs.define(eq=False)
class TokenBucket:
    """Allows ``rate`` per second, and up to ``burst`` at once.

    Time comes in as an argument and must not fall.
    """

    rate: float
    burst: float
    _tokens: float = attrs.field(init=False)
    _filled_at: float | None = None

    def __attrs_post_init__(self) -> None:
        self._tokens = self.burst

    def take(self, now: float) -> bool:
        """Use one token; False when there is none."""
        if not self.has_one(now):
            return False
        self._tokens -= 1
        return True

    def has_one(self, now: float) -> bool:
        """Say whether `take` would succeed."""
        if self._filled_at is not None:
            gained = (now - self._filled_at) * self.rate
            self._tokens = min(self.burst, self._tokens + gained)
        self._filled_at = now
        return self._tokens >= 1

    def is_full(self, now: float) -> bool:
        """Say whether it is as good as new."""
        since = self._filled_at
        return since is None or self._tokens + (now - since) * self.rate >= self.burst

    def wait_s(self) -> float:
        """Seconds until a token is there, counted from the last `take` or `has_one`."""
        return max(0.0, (1 - self._tokens) / self.rate)


@attrs.define(eq=False)
class Allowance:
    """So much per second on average, in any unit; may be overdrawn, which has to be waited for.

    ``burst`` is what may be used at once after a rest. Time must not fall.
    """

    rate: float
    burst: float
    _level: float = attrs.field(init=False)
    _filled_at: float | None = None

    def __attrs_post_init__(self) -> None:
        self._level = self.burst

    def charge(self, amount: float, now: float) -> float:
        """Use ``amount``; return how many seconds to wait until that is made up for.

        0 while the average is kept. Who does not wait owes more and more.
        """
        if self._filled_at is not None:
            self._level = min(self.burst, self._level + (now - self._filled_at) * self.rate)
        self._filled_at = now
        self._level -= amount
        if self._level >= 0:
            return 0.0
        return -self._level / self.rate if self.rate else math.inf

    def covers(self, amount: float, now: float) -> bool:
        """Say whether `charge` would return 0."""
        since = self._filled_at
        gained = 0.0 if since is None else (now - since) * self.rate
        return min(self.burst, self._level + gained) >= amount

    def refund(self, amount: float) -> None:
        """Take back a charge for what was not done after all."""
        self._level += amount

    def is_full(self, now: float) -> bool:
        """Say whether it is as good as new."""
        since = self._filled_at
        return since is None or self._level + (now - since) * self.rate >= self.burst


class Recent(Generic[V]):
    """Values by key, made on first use and forgotten in time.

    For rates of accounts and addresses, whose number an attacker chooses. What
    is at rest is as good as new and needs no remembering; beyond ``most`` the
    least recently used goes. What somebody still holds is found again all the
    same, or a second connection would begin with a rate of its own.

    Args:
        make: values that can be referred to weakly.
        is_at_rest: of a value and the time, which must not fall.
    """

    def __init__(
        self, make: Callable[[], V], is_at_rest: Callable[[V, float], bool], most: int
    ) -> None:
        self._make = make
        self._is_at_rest = is_at_rest
        self._most = most
        self._values: dict[str, V] = {}
        self._held: WeakValueDictionary[str, V] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._values)

    def of(self, key: str, now: float) -> V:
        value = self._values.pop(key, None)
        if value is None:
            self._forget(now)
            value = self._held.get(key)
            if value is None:
                value = self._held[key] = self._make()
        # To the end: the dictionary is in order of use.
        self._values[key] = value
        return value

    def find(self, key: str) -> V | None:
        """Return what there is, and make nothing."""
        return self._held.get(key)

    def _forget(self, now: float) -> None:
        """Make room for one more; two go for each that comes, so that few are left."""
        for key in tuple(itertools.islice(self._values, 2)):
            value = self._values.pop(key)
            if len(self._values) + 1 < self._most and not self._is_at_rest(value, now):
                # In use, however long ago it was asked for: those behind it have their turn.
                self._values[key] = value
