"""The subscribers of one room, and the walk over them that is the hot loop.

Source: DESIGN "The data path"; protocol.md, section 9.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import attrs

from tim_trio.core.form import Buffer, Form
from tim_trio.core.member import Member
from tim_trio.core.outbox import Outbox, Transmit
from tim_trio.core.pace import Pace
from tim_trio.core.sources import Track
from tim_trio.core.subscription import Subscription
from tim_trio.protocol.runs import Run

#: Runs that are sent together, each with its track as it was before the run.
Parts = tuple[tuple[Run, Track], ...]
#: What a walk goes over. The first two are the third's, at hand because two
#: attribute look-ups per delivery are a tenth of its cost.
Walk = tuple[tuple[Transmit, Outbox, Subscription], ...]


@attrs.define(eq=False)
class Audience:
    """Who has subscribed to a room."""

    _subscriptions: dict[Member, Subscription] = attrs.field(factory=dict)
    # One walk per form, the plain one first: rebuilt when someone joins or
    # leaves, so that nothing changes under a walk.
    _walks: tuple[tuple[Form | None, Walk], ...] | None = ()
    # The walks without each who was ever left out.
    _partial: dict[Member, tuple[tuple[Form | None, Walk], ...]] = attrs.field(factory=dict)

    def __len__(self) -> int:
        return len(self._subscriptions)

    def __iter__(self) -> Iterator[Subscription]:
        """Yield the subscriptions there are now; they may leave meanwhile."""
        return iter(tuple(self._subscriptions.values()))

    def pairs(self) -> Iterator[tuple[Member, Subscription]]:
        """Yield who there is now, with their subscriptions."""
        return iter(tuple(self._subscriptions.items()))

    def members(self) -> tuple[Member, ...]:
        return tuple(self._subscriptions)

    def join(self, member: Member, subscription: Subscription, *, ahead: bool = False) -> None:
        """Add a member. ``ahead``: it is sent everything before who has joined so far."""
        if ahead:
            self._subscriptions = {member: subscription, **self._subscriptions}
        else:
            self._subscriptions[member] = subscription
        self._walks = None
        self._partial.clear()

    def leave(self, member: Member) -> Subscription:
        self._walks = None
        self._partial.clear()
        return self._subscriptions.pop(member)

    def _current(self) -> tuple[tuple[Form | None, Walk], ...]:
        if self._walks is None:
            by_form: dict[Form | None, list[Subscription]] = {None: []}
            for each in self._subscriptions.values():
                by_form.setdefault(each.form, []).append(each)
            self._walks = tuple(
                (form, tuple((each.outbox.transmit, each.outbox, each) for each in some))
                for form, some in by_form.items()
                if some
            )
        return self._walks

    @contextlib.contextmanager
    def leaving_out(self, member: Member) -> Iterator[None]:
        """Send to everyone but ``member`` for a while, in which nobody blocks.

        For what comes from a member that is a link to another node. The walk
        itself is none the slower for it.
        """
        whole = self._current()
        partial = self._partial.get(member)
        if partial is None:
            left_out = self._subscriptions.get(member)
            partial = self._partial[member] = tuple(
                (form, tuple(each for each in walk if each[2] is not left_out))
                for form, walk in whole
            )
        self._walks = partial
        try:
            yield
        finally:
            # Unless somebody has joined or left meanwhile.
            if self._walks is partial:
                self._walks = whole

    def send(self, data: Buffer, parts: Parts, now: float) -> None:
        """Send runs of a live room to everyone, as one write for who keeps up.

        ``data`` is the bytes of all ``parts``; each form encodes it once.
        Never blocks, never fails: a broken subscriber is aborted alone.
        """
        for form, walk in self._current():
            encoded = data if form is None else form.encode(data)
            size = len(encoded)
            if not size:
                continue
            for transmit, outbox, subscription in walk:
                if outbox.pending_bytes or subscription.lagging:
                    for run, track in parts:
                        subscription.offer(run, track, now)
                    continue
                try:
                    sent = transmit(encoded)
                except BlockingIOError:
                    sent = 0
                except OSError:
                    outbox.abort(None)
                    continue
                if sent != size:
                    rest = memoryview(encoded)[sent:] if sent else encoded
                    outbox.queue(rest, subscription.backlog, now)

    def send_reliably(self, run: Run, track: Track, pace: Pace, now: float) -> None:
        """Send a run of a source of a reliable room to everyone.

        Nothing is left out but what stands before a newcomer's first KEY: the
        source's credit bounds what is queued.
        """
        for _, walk in self._current():
            for _, _, subscription in walk:
                flow = pace.flow(subscription)
                if track in subscription.lagging:
                    flow.skip(subscription.offer_first_key(run, track, flow, now))
                else:
                    subscription.put(run.data, flow, now)

    def sole(self) -> Subscription | None:
        """Return the only subscription there is, if there is one only."""
        if len(self._subscriptions) != 1:
            return None
        (subscription,) = self._subscriptions.values()
        return subscription

    def tell(self, event: bytes, now: float) -> None:
        """Send an event to everyone, in order with the data."""
        for _, walk in self._current():
            for _, outbox, _ in walk:
                outbox.put_control(event, now)
