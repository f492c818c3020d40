"""Credit: how a source of a reliable room moves at its slowest subscriber's pace.

All totals are in bytes of whole stream frames and never fall. What a
publisher may send is what every subscriber has room for: its grant, and a
window on top of what the kernel has taken for it. So what is queued for one
subscriber is bounded by the window, and nothing is ever dropped.

Source: protocol.md, section 10.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from tim_trio.core.subscription import Subscription


@attrs.define(eq=False)
class Flow:
    """One subscriber's part in one source. The ledger of its queued bytes.

    Attributes:
        base: what had passed, or was skipped, before what it is sent.
        granted: the total the subscriber takes, in terms of `Pace.passed`.
        pending_bytes: queued for it and not yet taken by the kernel.
        blocking_since, taken_then: when it was first seen to make the source
            wait, and what it had taken by then.
    """

    subscription: Subscription
    _pace: Pace
    base: int
    granted: int
    pending_bytes: int = 0
    blocking_since: float | None = None
    taken_then: int = 0

    def charge(self, size: int, now: float) -> None:
        self.pending_bytes += size

    def settle(self, size: int, *, done: bool) -> None:
        self.pending_bytes -= size
        self._pace.moved(self)

    def skip(self, size: int) -> None:
        """``size`` bytes are passed that the subscriber is not sent."""
        self.base += size
        self.granted += size

    @property
    def allowed(self) -> int:
        """How far the source may go as far as this subscriber is concerned."""
        pace = self._pace
        return min(self.granted, pace.passed - self.pending_bytes + pace.window)


@attrs.define(eq=False)
class Pace:
    """How far one source may go.

    Attributes:
        window: bytes that may be under way to one subscriber. At least twice
            the largest frame, so that a frame always fits while a quarter of
            the window has not been told yet.
        passed: bytes handed on to subscribers; repeats do not count.
        received: bytes read from the publisher, repeats included.
        told: the total the publisher may reach, in terms of ``received``.
        hold: bytes that may come before anyone has subscribed.
        held: what has come so far, for the first to subscribe.
    """

    window: int
    hold: int
    _max_frame_bytes: int
    _tell: Callable[[int], None]
    passed: int = 0
    received: int = 0
    told: int = attrs.field(init=False)
    held: list[bytes] | None = attrs.field(factory=list)
    _flows: dict[Subscription, Flow] = attrs.field(factory=dict)
    _slowest: Flow | None = None

    def __attrs_post_init__(self) -> None:
        self.told = self.hold

    def flow(self, subscription: Subscription) -> Flow:
        return self._flows[subscription]

    def join(self, subscription: Subscription) -> None:
        """A subscriber has come. What was held is its own to send, first."""
        self.held = None
        granted = self.passed + max(subscription.credit, self.window)
        self._flows[subscription] = Flow(subscription, self, self.passed, granted)
        self._slowest = None
        self.update()

    def leave(self, subscription: Subscription) -> None:
        if self._flows.pop(subscription, None) is not None:
            self._slowest = None
            self.update()

    def close(self) -> None:
        """The source is over. What is queued of it pays to nobody from here on.

        Breaks the cycles that would keep it, and who subscribed, for the
        garbage collector.
        """
        self.held = None
        self._flows.clear()
        self._slowest = None
        del self._tell  # without flows there is nothing to tell

    def grant(self, subscription: Subscription, limit: int) -> None:
        """The subscriber takes up to ``limit`` bytes, counted from when it joined."""
        flow = self._flows[subscription]
        granted = flow.base + limit
        if granted > flow.granted:
            flow.granted = granted
            self.moved(flow)

    def moved(self, flow: Flow) -> None:
        """A flow can take more. Only the slowest one's move lets the source go on."""
        if self._slowest is None or flow is self._slowest:
            self.update()

    def handed_on(self, size: int) -> None:
        """``size`` new bytes have been sent or queued for everyone."""
        self.passed += size
        self.update()

    @property
    def left(self) -> int:
        """How much more the publisher may send, as it was told."""
        return self.told - self.received

    @property
    def overdrawn(self) -> bool:
        """The publisher has sent more than it was told it may."""
        return self.received > self.told

    def update(self) -> None:
        """Tell the publisher how far it may go, where that is worth a CREDIT."""
        if self._flows:
            slowest = self._slowest = min(self._flows.values(), key=lambda flow: flow.allowed)
            headroom = slowest.allowed - self.passed
            is_idle = not slowest.pending_bytes
        elif self.held is not None:
            headroom = self.hold - self.passed
            is_idle = False
        else:
            return  # everyone has left: the source waits for the next
        limit = self.received + headroom
        # A quarter of the window at a time, not a CREDIT per frame: each is a send,
        # and wakes the publisher, who then sends so much in one go. But when
        # nothing else will move, whatever the publisher might be waiting for.
        if limit - self.told >= self.window // 4 or (
            is_idle and limit > self.told and self.left < self._max_frame_bytes
        ):
            self.told = limit
            self._tell(limit)

    def pending_bytes(self, subscription: Subscription) -> int:
        """Return what is queued for a subscriber of this source."""
        flow = self._flows.get(subscription)
        return 0 if flow is None else flow.pending_bytes

    @property
    def backlog_bytes(self) -> int:
        """What is held for subscribers, who share it: as much as the furthest behind waits for."""
        return max((flow.pending_bytes for flow in self._flows.values()), default=0)

    def is_held_up_by(self, subscription: Subscription) -> bool:
        """Say whether a subscriber leaves the source little room to go on."""
        flow = self._flows.get(subscription)
        return flow is not None and self._holds_up(flow)

    def _holds_up(self, flow: Flow) -> bool:
        # What has not been told yet is a quarter, so the publisher may be waiting
        # with less than a frame beside that.
        return flow.allowed - self.passed < self.window // 2

    def find_slow(self, now: float, patience_s: float, least_rate: float) -> list[Subscription]:
        """Return who has made the source wait for ``patience_s`` at less than
        ``least_rate`` bytes per second. To be called every second or so."""
        slow = []
        for flow in self._flows.values():
            taken = min(flow.granted, self.passed - flow.pending_bytes)
            if not self._holds_up(flow):
                flow.blocking_since = None
            elif flow.blocking_since is None:
                flow.blocking_since = now
                flow.taken_then = taken
            elif now - flow.blocking_since >= patience_s:
                if taken - flow.taken_then < least_rate * (now - flow.blocking_since):
                    slow.append(flow.subscription)
                flow.blocking_since = now
                flow.taken_then = taken
        return slow
