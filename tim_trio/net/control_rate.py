"""How many pings and pongs a WebSocket may bring: cheap for the peer, and not for us.

Source: docs/operations.md, "Limits".
"""

from __future__ import annotations

from tim_trio.core.rates import TokenBucket
from tim_trio.errors import Code, RemoteProtocolError
from tim_trio.limits import Limits


class ControlFrameRate:
    """Counts one connection's control frames as if they were requests."""

    __slots__ = ("_bucket", "_limits", "_refused")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        # Made when it is first needed: most connections never do.
        self._bucket: TokenBucket | None = None
        self._refused = 0

    def admit(self, now: float) -> bool:
        """Count one; say whether it is to be answered.

        Raises:
            RemoteProtocolError: ``flooding``: too many came above the rate.
        """
        limits = self._limits
        if self._bucket is None:
            self._bucket = TokenBucket(limits.commands_per_s, limits.command_burst)
        if self._bucket.take(now):
            return True
        self._refused += 1
        if self._refused > limits.max_refused_commands:
            raise RemoteProtocolError(
                "too many WebSocket control frames", Code.FLOODING, limit="commands_per_s"
            )
        return False
