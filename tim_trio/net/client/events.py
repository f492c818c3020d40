"""Events about the account, for whoever iterates over them.

Source: protocol.md, section 13; docs/client.md.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import attrs
import trio

from tim_trio.net.client.line import Line
from tim_trio.net.client.notices import AccountEvent

#: Events kept for `Client.events`; the oldest go first.
MAX_EVENTS: Final = 1000


@attrs.define(eq=False)
class AccountEvents:
    """Events about the account, in the order they came. Made by `Client.events`."""

    _line: Line = attrs.field(repr=False)
    _queue: deque[AccountEvent] = attrs.Factory(lambda: deque(maxlen=MAX_EVENTS))
    _listeners: trio.lowlevel.ParkingLot = attrs.Factory(trio.lowlevel.ParkingLot)

    def __aiter__(self) -> AccountEvents:
        return self

    async def __anext__(self) -> AccountEvent:
        """Return the next event. Cancelled, nothing is lost.

        Raises:
            ConnectionClosed: the connection is over and nothing is left.
        """
        await trio.lowlevel.checkpoint()
        while not self._queue:
            self._line.raise_if_over()
            await self._listeners.park()
        return self._queue.popleft()

    def _put(self, event: AccountEvent) -> None:
        self._queue.append(event)
        self._listeners.unpark_all()

    def _wake(self) -> None:
        self._listeners.unpark_all()
