"""What clients are told of a cluster's other nodes: where else they may go.

Source: protocol.md, section 13 (OTHER_NODES); docs/cluster.md.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence
from typing import Final

import attrs
import trio

from tim_trio.protocol.messages import OtherNodes, encode

#: Ways to a node, as addresses begin: TCP and WebSocket, each without TLS and with it.
SCHEMES: Final = ("tim", "tims", "ws", "wss")
#: Addresses that a client is told of.
_MOST: Final = 8
#: The same for pages, in a header.
_MOST_WEB: Final = 32
_MOST_PAGES: Final = 256
#: Selections of them, where there are more: the clients of a node that dies are not all
#: to go to the same eight.
_HANDS: Final = 16


def address_for(scheme: str, addresses: Iterable[str]) -> str:
    """Return by which of a node's addresses a client gets there that came by ``scheme``.

    Empty where there is none. Without TLS as far as we see, it may have come through
    something that ends TLS for us.
    """
    by_scheme = {address.partition("://")[0]: address for address in addresses}
    return by_scheme.get(scheme) or by_scheme.get(f"{scheme}s", "")


def _frame_of(hand: Sequence[str]) -> bytes:
    return encode(OtherNodes(addresses=sorted(hand)))


NO_OTHER_NODES: Final = _frame_of(())


@attrs.define(eq=False)
class Directions:
    """The frames that say it, made once for all clients. Never blocks.

    Attributes:
        changed: set when clients have to be told; whoever tells them puts another.
        web_hosts: ``HOST:PORT`` of the other nodes' web ports, where our pages may go.
    """

    changed: trio.Event = attrs.field(factory=trio.Event)
    _hands: dict[str, list[list[str]]] = attrs.field(
        factory=lambda: {scheme: [[] for _ in range(_HANDS)] for scheme in SCHEMES}
    )
    web_hosts: tuple[str, ...] = ()
    _page_hosts: dict[str, None] = attrs.field(factory=dict)
    _frames: dict[str, list[bytes]] = attrs.field(
        factory=lambda: {scheme: [NO_OTHER_NODES] * _HANDS for scheme in SCHEMES}
    )

    def update(self, nodes: Sequence[Collection[str]]) -> None:
        """Take note of the addresses of all other nodes, by node.

        What a client has been told stays as long as it is true.
        """
        web = {
            address.partition("://")[2]
            for node in nodes
            for address in node
            if address.startswith("ws")
        }
        self.web_hosts = tuple(sorted(web)[:_MOST_WEB])
        for host in self.web_hosts:
            self._page_hosts.pop(host, None)
            self._page_hosts[host] = None
        while len(self._page_hosts) > _MOST_PAGES:
            del self._page_hosts[next(iter(self._page_hosts))]
        for scheme in SCHEMES:
            there = {address for node in nodes if (address := address_for(scheme, node))}
            for number, hand in enumerate(self._hands[scheme]):
                kept = [address for address in hand if address in there]
                others = sorted(there.difference(kept))
                more = random.sample(others, min(len(others), _MOST - len(kept)))
                if more or len(kept) < len(hand):
                    self._hands[scheme][number] = kept + more
                    self._frames[scheme][number] = _frame_of(kept + more)
                    self.changed.set()

    @property
    def page_hosts(self) -> tuple[str, ...]:
        """``HOST:PORT`` of web ports whose pages may come here: also of nodes that are gone,
        for that is when their pages come."""
        return tuple(self._page_hosts)

    def frame_for(self, scheme: str, client: object) -> bytes:
        """Return OTHER_NODES for a client that came by ``scheme``, the same until it changes."""
        # Objects lie some sixteen bytes apart.
        return self._frames[scheme][(id(client) >> 5) % _HANDS]
