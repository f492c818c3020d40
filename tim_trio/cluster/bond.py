"""What a shared room knows of other nodes: its bonds to them, and who holds its sources.

A bond is a room's part of a link, and a subscription like any other.

Source: protocol.md, section 12; docs/cluster.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from tim_trio.core.member import Member
from tim_trio.core.sources import Source
from tim_trio.core.subscription import Subscription
from tim_trio.protocol.messages import SourceLeftReason

if TYPE_CHECKING:
    from tim_trio.cluster.bonded import BondedRoom
    from tim_trio.cluster.room import SharedRoom


@attrs.define(eq=False)
class Bond:
    """This room's part of a link.

    Attributes:
        peer: the other node.
        since: when it was made, or last became what it is.
        as_child, as_parent: what the peer is to us; both for a moment at most. An old
            parent is one until it is left.
        viewers: what a child says of itself and those below.
        skipped_to: last ``seq`` of what a reliable source's credit does not count.
    """

    peer: str
    member: Member
    subscription: Subscription
    since: float
    as_child: bool = False
    as_parent: bool = False
    viewers: int = 0
    skipped_to: dict[tuple[int, int], int] = attrs.field(factory=dict)
    #: Reliable sources that are sent over it.
    paced: set[int] = attrs.field(factory=set)


@attrs.define(eq=False)
class Holder:
    """Where a source's publisher is, after how many takeovers.

    ``upstream``: the peer its frames come from, empty for a publisher here.
    ``gone_since``: when that node was first seen missing.
    """

    node: str
    epoch: int
    upstream: str = ""
    gone_since: float | None = None


class RoomHost:
    """What a shared room asks of the cluster. Overridden by it."""

    def caught_up(self, room: BondedRoom, now: float) -> None:
        """What the new parent had when it took us has come."""

    def touched(self, room: SharedRoom) -> None:
        """Who publishes or subscribes here has changed."""

    def retire(self, room: SharedRoom, source: Source, reason: SourceLeftReason) -> None:
        """A publisher here is gone: end its source for all, unless another node has it."""

    def released(self, room: SharedRoom, source: int, epoch: int) -> None:
        """A source that was held here has ended."""

    def taken_over(self, source: Source) -> None:
        """A source that was held here is now held elsewhere."""
