"""Token buckets: a sustained rate with a burst."""

from __future__ import annotations

import attrs


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

    def wait_s(self) -> float:
        """Seconds until a token is there, counted from the last `take` or `has_one`."""
        return max(0.0, (1 - self._tokens) / self.rate)
