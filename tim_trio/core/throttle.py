"""Holding one connection to its rates: slowed down first, then refused, then closed.

Slowing down is not reading: the kernel's buffers fill, and the peer's sends
wait. Only its own connection waits, and for a few seconds at most, so that
its pings are answered in the end. Whoever has been slowed down for too long
in the last minute is refused its requests, or told by an ERROR that its live
stream is too fast, and in the end closed as `flooding`. A reliable stream is
slowed down and nothing else: waiting is what its publisher expects.

Source: docs/operations.md, "Limits"; protocol.md, section 6.
"""

from __future__ import annotations

import math
from typing import Final

import attrs

from tim_trio.core.node import Node
from tim_trio.core.rates import Allowance
from tim_trio.errors import Code, RemoteProtocolError, room_error
from tim_trio.limits import Limits

_MINUTE_S: Final = 60.0
_WARNING_INTERVAL_S: Final = 1.0
#: Not read for longer than this, a peer could take us for dead.
_LONGEST_PAUSE_S: Final = 5.0
#: Stream bytes that are counted one by one before the rates are asked, so
#: that a run costs a subtraction. A thousand connections of one account
#: hold a thousand of these at once.
_MOST_UNCHECKED_BYTES: Final = 256 * 1024
#: Requests of one address that are carried out at once before they wait for
#: their rate: some milliseconds of work.
_ADDRESS_BURST: Final = 200


def address_commands(limits: Limits) -> Allowance:
    """Return the rate of all requests of one address."""
    return Allowance(limits.commands_per_s_per_address, _ADDRESS_BURST)


@attrs.define(eq=False)
class AccountRates:
    """What all connections of one account share."""

    stream_bytes: Allowance
    account_stream_bytes: Allowance

    @classmethod
    def of(cls, limits: Limits) -> AccountRates:
        streams = limits.stream_bytes_per_s_per_account
        messages = limits.account_stream_bytes_per_s_per_account
        return cls(Allowance(streams, streams), Allowance(messages, messages))

    def is_full(self, now: float) -> bool:
        """Say whether it is as good as new."""
        return self.stream_bytes.is_full(now) and self.account_stream_bytes.is_full(now)


class Throttle:
    """The rates of one connection.

    Args:
        of_address: of the requests of all connections of its address.

    Attributes:
        unchecked_bytes: of stream frames that may come between two calls of
            `charge_stream`.
    """

    __slots__ = (
        "_account",
        "_commands",
        "_limits",
        "_messages",
        "_node",
        "_of_address",
        "_patience",
        "_refusals",
        "_stream",
        "_warned_at",
        "unchecked_bytes",
    )

    def __init__(self, node: Node, of_address: Allowance) -> None:
        limits = node.limits
        self._node = node
        self._limits = limits
        self._of_address = of_address
        self._warned_at = -math.inf
        self._commands = Allowance(limits.commands_per_s, limits.command_burst)
        # Made when they are first needed: most connections never do.
        self._stream: Allowance | None = None
        self._messages: Allowance | None = None
        self._account: AccountRates | None = None
        self._patience: Allowance | None = None
        self._refusals: Allowance | None = None
        slowest = min(limits.stream_bytes_per_s, limits.stream_bytes_per_s_per_account)
        self.unchecked_bytes = int(min(_MOST_UNCHECKED_BYTES, slowest / 16))

    def join_account(self, rates: AccountRates) -> None:
        """The connection has authenticated."""
        self._account = rates

    def charge_command(self, now: float) -> float:
        """Count a request; return how many seconds to wait before it is carried out.

        Raises:
            RoomError: ``rate_limited``: it is not to be carried out.
            RemoteProtocolError: ``flooding``: too many of those.
        """
        wait_s = self._commands.charge(1, now)
        if wait_s:
            self._node.count_limit("commands_per_s")
            if self._is_out_of_patience(wait_s, now):
                self._commands.refund(1)
                self._refuse(wait_s, now)
        # Many may share an address: they are slowed down and no more.
        shared_s = self._of_address.charge(1, now)
        if shared_s:
            self._node.count_limit("commands_per_s_per_address")
            wait_s = max(wait_s, shared_s)
        return self._pause(wait_s)

    def charge_command_at_once(self, now: float) -> bool:
        """Count a request if nothing has to be waited for; else do nothing, return False."""
        if self._commands.covers(1, now) and self._of_address.covers(1, now):
            self._commands.charge(1, now)
            self._of_address.charge(1, now)
            return True
        return False

    def charge_messages(self, size: int, now: float) -> float:
        """Count bytes to accounts, as `charge_command` does requests."""
        assert self._account is not None
        limits = self._limits
        if self._messages is None:
            rate = limits.account_stream_bytes_per_s
            self._messages = Allowance(rate, rate)
        shared = self._account.account_stream_bytes
        wait_s = self._wait_for(
            (self._messages, "account_stream_bytes_per_s"),
            (shared, "account_stream_bytes_per_s_per_account"),
            size,
            now,
        )
        if wait_s and self._is_out_of_patience(wait_s, now):
            self._messages.refund(size)
            shared.refund(size)
            self._refuse(wait_s, now)
        return self._pause(wait_s)

    def charge_stream(self, size: int, now: float) -> float:
        """Count stream bytes; return how many seconds not to read any."""
        assert self._account is not None
        limits = self._limits
        if self._stream is None:
            self._stream = Allowance(limits.stream_bytes_per_s, limits.stream_bytes_per_s)
        wait_s = self._wait_for(
            (self._stream, "stream_bytes_per_s"),
            (self._account.stream_bytes, "stream_bytes_per_s_per_account"),
            size,
            now,
        )
        return self._pause(wait_s)

    def must_warn(self, pause_s: float, now: float) -> bool:
        """Count a pause of a live stream; say whether its publisher is to be told.

        Raises:
            RemoteProtocolError: ``flooding``: it has been told for long enough.
        """
        patience = self._make_patience()
        if not patience.charge(pause_s, now):
            return False
        if patience.charge(0, now) >= _MINUTE_S:
            raise RemoteProtocolError(
                "a live stream over its rate for too long", Code.FLOODING, limit="max_slowed_s"
            )
        if now - self._warned_at < _WARNING_INTERVAL_S:
            return False
        self._warned_at = now
        return True

    def _wait_for(
        self, own: tuple[Allowance, str], shared: tuple[Allowance, str], size: int, now: float
    ) -> float:
        longest = 0.0
        for allowance, limit in (own, shared):
            wait_s = allowance.charge(size, now)
            if wait_s:
                self._node.count_limit(limit)
                longest = max(longest, wait_s)
        return longest

    def _pause(self, wait_s: float) -> float:
        pause_s = min(wait_s, _LONGEST_PAUSE_S)
        self._node.slowed_ms += int(pause_s * 1000)
        return pause_s

    def _is_out_of_patience(self, wait_s: float, now: float) -> bool:
        """Count a pause, or say that there have been too many within a minute."""
        pause_s = min(wait_s, _LONGEST_PAUSE_S)
        patience = self._make_patience()
        if patience.charge(pause_s, now):
            patience.refund(pause_s)
            return True
        return False

    def _make_patience(self) -> Allowance:
        if self._patience is None:
            most = self._limits.max_slowed_s
            self._patience = Allowance(most / _MINUTE_S, most)
        return self._patience

    def _refuse(self, wait_s: float, now: float) -> None:
        most = self._limits.max_refused_commands
        if self._refusals is None:
            self._refusals = Allowance(most / _MINUTE_S, most)
        if self._refusals.charge(1, now):
            raise RemoteProtocolError(
                "too many requests over the rate", Code.FLOODING, limit="max_refused_commands"
            )
        raise room_error(Code.RATE_LIMITED, retry_after_ms=int(wait_s * 1000) + 1)
