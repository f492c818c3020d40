"""Where a client may find its server: where it has always been, where it was sent, and the
other nodes of the cluster, as it was told.

Source: protocol.md, section 13 (GO_AWAY, OTHER_NODES); docs/client.md.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import attrs

from tim_trio.net.client.address import Address, parse_address


@attrs.define(eq=False)
class Whereabouts:
    """Never blocks. None stands for the address that the user gave.

    Args:
        tls: how we have come there: without TLS we go nowhere else then.

    Attributes:
        here: where the newest connection is.
    """

    tls: bool = False
    here: Address | None = None
    _sent_to: Address | None = None
    _others: tuple[Address, ...] = ()

    def arrive(self, where: Address | None) -> None:
        self.here = where
        self._sent_to = None

    def send_to(self, address: str) -> None:
        """Take note of GO_AWAY's address, which may be empty."""
        try:
            sent_to = parse_address(f"tim://{address}")
        except ValueError:
            return  # no address: then where we are
        # As we came: never without TLS.
        self._sent_to = attrs.evolve(sent_to, tls=self.tls)

    def learn(self, addresses: Iterable[str]) -> None:
        """Take note of OTHER_NODES, which replaces what was said before."""
        others = []
        for text in addresses:
            try:
                address = parse_address(text)
            except ValueError:
                continue  # of WebSocket, or of a later version
            if address.tls == self.tls:
                others.append(address)
        self._others = tuple(others)

    def after_a_loss(self, *, is_ill: bool = False) -> list[Address | None]:
        """Return where to try next, in this order; ``is_ill``: not where we were, if possible."""
        ways = self._elsewhere()
        return [*ways, self.here] if is_ill else [self.here, *ways]

    def on_leaving(self) -> list[Address | None]:
        """Return where to go instead of where we are."""
        return self._elsewhere() or [self.here]

    def _elsewhere(self) -> list[Address | None]:
        ways: list[Address | None] = [None, *self._others]
        random.shuffle(ways)
        if self._sent_to is not None:
            ways.insert(0, self._sent_to)
        return [way for way in dict.fromkeys(ways) if way != self.here]
