"""Who may come in: connections in all, from one address, and of those that nobody knows yet.

One address must not keep the others out. It has no more than its share of all
connections and a rate of its own; and where those that have not authenticated
fill their bound, the address that has most of them makes room for others.

Source: docs/operations.md, "Limits".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final, Generic, TypeVar

import attrs

from tim_trio.core.addresses import network_of
from tim_trio.core.node import Node
from tim_trio.core.rates import Allowance, Recent
from tim_trio.errors import Code
from tim_trio.limits import Limits

C = TypeVar("C")

_NETWORKS_KEPT: Final = 10_000


def _connections_of_one(limits: Limits) -> Allowance:
    rate = limits.connections_per_s_per_address
    return Allowance(rate, max(rate, limits.max_connections_per_address))


@attrs.define(eq=False)
class Admission(Generic[C]):
    """The connections of a node, by address. Never blocks.

    Args:
        drop: ends one that has to make room.
    """

    node: Node
    drop: Callable[[C], None]
    _networks: dict[C, str] = attrs.field(factory=dict)
    _per_network: Counter[str] = attrs.field(factory=Counter)
    #: Have not authenticated yet, oldest first.
    _newcomers: dict[C, None] = attrs.field(factory=dict)
    _newcomers_of: Counter[str] = attrs.field(factory=Counter)
    _rates: Recent[Allowance] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._rates = Recent(
            partial(_connections_of_one, self.node.limits), Allowance.is_full, _NETWORKS_KEPT
        )

    def may_connect(self, address: str, now: float) -> bool:
        """Count a connection that is being opened; say whether its address keeps to its rate."""
        rate = self._rates.of(network_of(address), now)
        if rate.charge(1, now):
            rate.refund(1)
            self.node.count_limit("connections_per_s_per_address")
            return False
        return True

    def refusal(self, address: str) -> Code | None:
        """Return why one more connection is refused; None when there is room, or some was made."""
        limits = self.node.limits
        network = network_of(address)
        if len(self._networks) >= limits.max_connections:
            self.node.count_limit("max_connections")
            return Code.OVERLOADED
        if self._per_network[network] >= limits.max_connections_per_address:
            self.node.count_limit("max_connections_per_address")
            return Code.TOO_MANY_CONNECTIONS
        if len(self._newcomers) >= limits.max_unauthenticated:
            self.node.count_limit("max_unauthenticated")
            if not self._make_room(network):
                return Code.OVERLOADED
        return None

    def _make_room(self, network: str) -> bool:
        """End the oldest newcomer of the address that has most, if that has more than this one."""
        crowd, count = self._newcomers_of.most_common(1)[0]
        if count <= self._newcomers_of[network] + 1:
            return False
        victim = next(each for each in self._newcomers if self._networks[each] == crowd)
        self.know(victim)
        self.drop(victim)
        return True

    def enter(self, connection: C, address: str) -> None:
        network = network_of(address)
        self._networks[connection] = network
        self._per_network[network] += 1
        self._newcomers[connection] = None
        self._newcomers_of[network] += 1

    def know(self, connection: C) -> bool:
        """It has authenticated, or has been told to go. Return whether it was a newcomer."""
        if connection not in self._newcomers:
            return False
        del self._newcomers[connection]
        _decrement(self._newcomers_of, self._networks[connection])
        return True

    def leave(self, connection: C) -> None:
        self.know(connection)
        _decrement(self._per_network, self._networks.pop(connection))

    def newcomers(self) -> tuple[C, ...]:
        """Return who has neither authenticated nor been told to go, oldest first."""
        return tuple(self._newcomers)


def _decrement(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
