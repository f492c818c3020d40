"""Turns: how much requests, newcomers and handshakes may hold up the streams, and whose go first.

Between two looks at the sockets every task that can run does. A hundred
connections with a request each, or a hundred that have just been accepted,
would together keep all streams waiting for tens of milliseconds, though each
alone is short. So what is not relaying takes a turn first. There are few of
them between two looks, and where more are wanted, addresses have them one
after another: a flood from one address waits for itself.

Source: docs/architecture.md, "Turns".
"""

from __future__ import annotations

from collections import deque
from typing import Final

import outcome
import trio

#: What may be done between two looks, in requests: one or two milliseconds. With a
#: third of that 2,000 who come within a second wait for looks, not for the processor.
_UNITS: Final = 24
#: As long as there is little to do nobody has to wait for a look.
_SLICE_S: Final = 0.002

#: What things cost, in requests.
REQUEST: Final = 1
BEGINNING: Final = 2
ENDING: Final = 2
HANDSHAKE_STEP: Final = 6


class _Waiting:
    """A task that waits for its turn; None once it has been cancelled."""

    __slots__ = ("task", "units")

    def __init__(self, task: trio.lowlevel.Task, units: int) -> None:
        self.task: trio.lowlevel.Task | None = task
        self.units = units


class Turns:
    """Shares out the time beside relaying. `run` must run, or nobody is kept waiting."""

    def __init__(self) -> None:
        # In the order in which addresses have their next turn.
        self._waiting: dict[str, deque[_Waiting]] = {}
        self._runner: trio.lowlevel.Task | None = None
        self._is_parked = False
        self._left = _UNITS
        self._slice_ends = 0.0

    async def run(self) -> None:
        """Hand out turns until cancelled; then whoever waits goes on."""
        self._runner = trio.lowlevel.current_task()
        try:
            while True:
                if self._waiting:
                    self._hand_out(_UNITS)
                    await trio.lowlevel.checkpoint()
                else:
                    await self._park()
        finally:
            self._runner = None
            while self._waiting:
                self._hand_out(_UNITS)

    async def take(self, address: str, units: int) -> None:
        """Wait for a turn, behind others of the address; at once while there is little to do.

        Is a checkpoint only where it waits. Cancellation gives the turn back.
        """
        if self._runner is None:
            return
        if not self._waiting:
            now = trio.current_time()
            if now >= self._slice_ends:
                self._slice_ends = now + _SLICE_S
                self._left = _UNITS
            if self._left > 0:
                self._left -= units
                return
        await self._wait(address, units)

    async def _wait(self, address: str, units: int) -> None:
        waiting = _Waiting(trio.lowlevel.current_task(), units)
        self._waiting.setdefault(address, deque()).append(waiting)
        if self._is_parked:
            assert self._runner is not None
            self._is_parked = False
            trio.lowlevel.reschedule(self._runner)

        def abort(_: object) -> trio.lowlevel.Abort:
            waiting.task = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    async def _park(self) -> None:
        def abort(_: object) -> trio.lowlevel.Abort:
            self._is_parked = False
            return trio.lowlevel.Abort.SUCCEEDED

        self._is_parked = True
        await trio.lowlevel.wait_task_rescheduled(abort)

    def _hand_out(self, units: int) -> None:
        """Wake who is next, an address after another."""
        while units > 0 and self._waiting:
            address = next(iter(self._waiting))
            queue = self._waiting.pop(address)
            waiting = queue.popleft()
            if queue:
                self._waiting[address] = queue  # to the end
            if waiting.task is not None:
                units -= waiting.units
                trio.lowlevel.reschedule(waiting.task, outcome.Value(None))
