"""What waits for one connection from other accounts, by sender.

Bounded as a whole and per sender, apart from what its rooms may queue: who is
flooded by one account still hears the others, and sees its streams.

Source: protocol.md, section 11.
"""

from __future__ import annotations

import attrs

from tim_trio.core.outbox import Buffer, Outbox
from tim_trio.limits import Limits


@attrs.define(eq=False)
class _Share:
    """The ledger of one sender; in its inbox as long as anything waits."""

    inbox: Inbox
    sender: str
    pending_bytes: int = 0

    def charge(self, size: int, now: float) -> None:
        self.pending_bytes += size
        self.inbox.pending_bytes += size
        self.inbox.shares[self.sender] = self

    def settle(self, size: int, *, done: bool) -> None:
        self.pending_bytes -= size
        self.inbox.pending_bytes -= size
        if not self.pending_bytes:
            del self.inbox.shares[self.sender]


@attrs.define(eq=False)
class Inbox:
    """Attributes:
    pending_bytes: of all senders, not yet taken by the kernel.
    shares: by sender, of those of whom something waits.
    """

    pending_bytes: int = 0
    shares: dict[str, _Share] = attrs.field(factory=dict)

    def put(self, data: Buffer, sender: str, outbox: Outbox, limits: Limits, now: float) -> bool:
        """Send or queue a frame from ``sender``; False where there is no room for it."""
        share = self.shares.get(sender) or _Share(self, sender)
        if outbox.closed or not self._has_room(len(data), share, limits.account_backlog_bytes):
            return False
        if not outbox.has_room_beside(len(data)):
            return False
        outbox.put(data, share, now)
        return not outbox.closed

    def _has_room(self, size: int, share: _Share, bound: int) -> bool:
        if not self.pending_bytes:
            return True
        if share.pending_bytes and share.pending_bytes + size > bound // 2:
            return False
        return self.pending_bytes + size <= bound
