"""What one process holds and has done, in bytes and counts.

Owned by the server, changed by rooms and outboxes, read by statistics. Bounds
that span connections are checked against these numbers.
"""

from __future__ import annotations

from collections import Counter

import attrs

from tim_trio.errors import code_label
from tim_trio.limits import Limits


@attrs.define(eq=False)
class Node:
    """Counters of one process. All byte counts are what is held right now.

    Attributes:
        backlog_bytes: accepted for subscribers, not yet taken by the kernel.
        cache_bytes: cached groups, overhead included.
        pinned_bytes: groups handed to joiners and not yet sent, each counted
            once however many joiners share it.
        started_at: by the owner's clock.
        lagging: pairs of subscription and track that lag now.
        subscribed: subscriptions there have ever been; the newest one's number.
        deliveries, bytes_out: frames and their bytes times subscribers they
            were handed to, what then was lost included.
        lost, lost_bytes: of those, what lagging subscribers did not get.
        account_delivered: messages handed to a connection of their receiver.
        account_refused: by a block or a policy, receivers counted.
        account_missed: for nobody there or no such account.
        account_busy: for connections without room for them.
        account_bytes: payload bytes handed to connections.
        room_bans, account_bans: at an operator's word.
        slowed_ms: that connections were not read because of a rate, in all.
        tim_unserved: packets of TIM's clients that ask for what is not streaming.
        closes: connections ended, by the code's label (``lost`` without one).
        limited: how often each limit was reached, by its configuration key.
    """

    limits: Limits
    started_at: float = 0.0
    backlog_bytes: int = 0
    cache_bytes: int = 0
    pinned_bytes: int = 0
    lagging: int = 0
    connections: int = 0
    rooms: int = 0
    subscriptions: int = 0
    subscribed: int = 0
    frames_in: int = 0
    bytes_in: int = 0
    deliveries: int = 0
    bytes_out: int = 0
    gaps: int = 0
    lost: int = 0
    lost_bytes: int = 0
    discarded: int = 0
    account_delivered: int = 0
    account_refused: int = 0
    account_missed: int = 0
    account_busy: int = 0
    account_bytes: int = 0
    tim_unserved: int = 0
    room_bans: int = 0
    account_bans: int = 0
    slowed_ms: int = 0
    closes: Counter[str] = attrs.field(factory=Counter)
    limited: Counter[str] = attrs.field(factory=Counter)

    def figures(self) -> dict[str, int]:
        """Return all numbers by name: what is held now, and what was done since the start.

        Of closes and limits those that there have been: ``closed_flooding``,
        ``limited_max_rooms``.
        """
        numbers = {
            name: value
            for name in (attribute.name for attribute in attrs.fields(Node))
            if isinstance(value := getattr(self, name), int)
        }
        closed = {f"closed_{label}": count for label, count in sorted(self.closes.items())}
        limited = {f"limited_{limit}": count for limit, count in sorted(self.limited.items())}
        return numbers | closed | limited

    def count_limit(self, limit: str) -> None:
        """A limit was reached: something was slowed down, refused or closed for it."""
        self.limited[limit] += 1

    def count_close(self, code: int | None) -> None:
        self.closes["lost" if code is None else code_label(code)] += 1
