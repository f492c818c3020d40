"""Asks to push in one room, no more than its creator can look at.

Source: protocol.md, section 7.
"""

from __future__ import annotations

from typing import Final

from tim_trio.core.rates import TokenBucket
from tim_trio.errors import Code, RoomError, room_error
from tim_trio.limits import Limits

_MINUTE_S: Final = 60.0
#: Accounts remembered; more askers than that wait for the oldest.
_ASKERS_KEPT: Final = 1000


class Asks:
    """Who has asked lately. Time must not fall."""

    def __init__(self, limits: Limits) -> None:
        self._interval_s = limits.ask_interval_s
        per_minute = limits.asks_per_minute_per_room
        self._bucket = TokenBucket(per_minute / _MINUTE_S, per_minute)
        #: When each has asked last, in that order.
        self._last: dict[str, float] = {}

    def check(self, account: str, now: float) -> None:
        """Say whether the account may ask now.

        Raises:
            RoomError: ``rate_limited``.
        """
        last = self._last.get(account)
        if last is not None and now - last < self._interval_s:
            raise _refusal(last + self._interval_s - now, "ask_interval_s")
        if last is None and len(self._last) >= _ASKERS_KEPT:
            oldest = next(iter(self._last.values()))
            if now - oldest < self._interval_s:
                raise _refusal(oldest + self._interval_s - now, "asks_per_minute_per_room")
        if not self._bucket.has_one(now):
            raise _refusal(self._bucket.wait_s(), "asks_per_minute_per_room")

    def note(self, account: str, now: float) -> None:
        """The account, which may, has asked."""
        self._bucket.take(now)
        # Taken out first, so that the dictionary stays in order of time.
        self.forget(account)
        if len(self._last) >= _ASKERS_KEPT:
            del self._last[next(iter(self._last))]
        self._last[account] = now

    def forget(self, account: str) -> None:
        """The account may ask anew."""
        self._last.pop(account, None)


def _refusal(wait_s: float, limit: str) -> RoomError:
    return room_error(Code.RATE_LIMITED, retry_after_ms=int(wait_s * 1000) + 1, limit=limit)
