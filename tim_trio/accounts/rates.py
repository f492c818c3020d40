"""Logins per minute, of each address and of each account."""

from __future__ import annotations

import ipaddress
from typing import Final

from tim_trio.core.rates import TokenBucket
from tim_trio.errors import Code, room_error

_MINUTE_S: Final = 60.0
_KEYS_KEPT: Final = 10_000


def network_of(address: str) -> str:
    """Return what counts as one address: a whole /64 of IPv6 belongs to one customer."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.ip_network((ip, 64), strict=False))


class MinuteRates:
    """A token bucket per key: so many a minute, and as many at once.

    Holds at most 10,000 keys; beyond that the least recently used is forgotten.
    """

    def __init__(self, per_minute: float, *, keys_kept: int = _KEYS_KEPT) -> None:
        self._per_minute = per_minute
        self._keys_kept = keys_kept
        self._buckets: dict[str, TokenBucket] = {}

    def take(self, key: str, now: float) -> None:
        """Count one.

        Raises:
            RoomError: ``rate_limited``, with the time until the next.
        """
        bucket = self._bucket(key)
        if not bucket.take(now):
            self._refuse(bucket)

    def check(self, key: str, now: float) -> None:
        """As `take`, but count nothing."""
        bucket = self._buckets.get(key)
        if bucket is not None and not bucket.has_one(now):
            self._refuse(bucket)

    def _refuse(self, bucket: TokenBucket) -> None:
        raise room_error(
            Code.RATE_LIMITED,
            "too many logins a minute",
            retry_after_ms=int(bucket.wait_s() * 1000) + 1,
        )

    def _bucket(self, key: str) -> TokenBucket:
        bucket = self._buckets.pop(key, None)
        if bucket is None:
            if len(self._buckets) >= self._keys_kept:
                del self._buckets[next(iter(self._buckets))]
            bucket = TokenBucket(self._per_minute / _MINUTE_S, max(1.0, self._per_minute))
        # To the end: the dictionary is in order of use.
        self._buckets[key] = bucket
        return bucket
