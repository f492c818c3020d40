"""Logins per minute, of each address and of each account."""

from __future__ import annotations

from typing import Final

from tim_trio.core.rates import Recent, TokenBucket
from tim_trio.errors import Code, room_error

_MINUTE_S: Final = 60.0
_KEYS_KEPT: Final = 10_000


class MinuteRates:
    """A token bucket per key: so many a minute, and as many at once.

    Holds at most 10,000 keys; beyond that the least recently used is forgotten.

    Args:
        limit: the configuration key of the rate, for our counters.
    """

    def __init__(self, per_minute: float, limit: str, *, keys_kept: int = _KEYS_KEPT) -> None:
        self._limit = limit
        self._buckets = Recent(
            lambda: TokenBucket(per_minute / _MINUTE_S, max(1.0, per_minute)),
            TokenBucket.is_full,
            keys_kept,
        )

    def take(self, key: str, now: float) -> None:
        """Count one.

        Raises:
            RoomError: ``rate_limited``, with the time until the next.
        """
        bucket = self._buckets.of(key, now)
        if not bucket.take(now):
            self._refuse(bucket)

    def check(self, key: str, now: float) -> None:
        """As `take`, but count nothing."""
        bucket = self._buckets.find(key)
        if bucket is not None and not bucket.has_one(now):
            self._refuse(bucket)

    def _refuse(self, bucket: TokenBucket) -> None:
        raise room_error(
            Code.RATE_LIMITED,
            "too many logins a minute",
            retry_after_ms=int(bucket.wait_s() * 1000) + 1,
            limit=self._limit,
        )
