"""How many received bytes may wait for the user before the connection is not read.

Source: docs/backpressure.md; protocol.md, sections 9 and 10.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import attrs
import trio


@attrs.define(eq=False)
class ReceiveBudget:
    """Bytes of live rooms that were read and not yet taken by an iterator.

    Past the bound the reader stops. The server then sees a consumer that
    takes nothing and lets the live subscriptions of this connection lag.
    Reliable rooms are not counted: their credit bounds them, so that they
    never stop the reader.

    While an answer is awaited the reader goes on for another
    ``headroom_bytes``: the answer stands in line behind data, and whoever
    awaits it may be the very iterator that would have to make room.

    Attributes:
        held_bytes: counted now, some overhead per item included.
        awaited_answers: requests under way.
    """

    bound_bytes: int
    headroom_bytes: int
    held_bytes: int = 0
    awaited_answers: int = 0
    _reader: trio.lowlevel.ParkingLot = attrs.Factory(trio.lowlevel.ParkingLot)

    @property
    def spent(self) -> bool:
        bound = self.bound_bytes
        if self.awaited_answers:
            bound += self.headroom_bytes
        return self.held_bytes >= bound

    def add(self, size: int) -> None:
        self.held_bytes += size

    def release(self, size: int) -> None:
        self.held_bytes -= size
        if self._reader and not self.spent:
            self._reader.unpark_all()

    @contextmanager
    def awaiting_answer(self) -> Iterator[None]:
        """Widen the budget while a request is under way."""
        self.awaited_answers += 1
        if not self.spent:
            self._reader.unpark_all()
        try:
            yield
        finally:
            self.awaited_answers -= 1

    async def wait(self) -> None:
        """Wait while the budget is spent."""
        while self.spent:
            await self._reader.park()
