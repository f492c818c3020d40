"""Several processes on one machine behind one port: nodes of a cluster.

The parent starts them, starts one again that ends by itself, and passes on
the signal to stop. It serves nobody.

Source: docs/cluster.md, "Several processes on one machine".
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

import attrs
import trio

from tim_trio.log import get_logger, setup_logging

#: Says which worker a process is, from 1 up; not set in the parent.
WORKER_VARIABLE: Final = "TIM_TRIO_WORKER"
_PAUSE_S: Final = 1.0
#: Ended sooner, a worker never came up: starting it again will not help.
_CAME_UP_S: Final = 5.0

_log = get_logger("workers")


@attrs.define(eq=False)
class Workers:
    """Args:
    command: of every worker; the environment tells them which they are.
    """

    command: Sequence[str]
    count: int
    _processes: dict[int, trio.Process] = attrs.field(factory=dict)
    _is_stopping: bool = False
    _code: int = 0

    async def run(self) -> int:
        """Run all until SIGTERM or SIGINT and their own end; return the exit code."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with trio.open_nursery() as nursery:
                for number in range(1, self.count + 1):
                    nursery.start_soon(self._keep_running, number, nursery.cancel_scope)
                async for _ in signals:
                    # Asked twice, they end at once, as a single server does.
                    self._stop()
        return self._code

    def _stop(self) -> None:
        self._is_stopping = True
        for process in self._processes.values():
            process.send_signal(signal.SIGTERM)

    async def _keep_running(self, number: int, everything: trio.CancelScope) -> None:
        environment = {**os.environ, WORKER_VARIABLE: str(number)}
        while not self._is_stopping:
            began = trio.current_time()
            # In a session of its own: Ctrl-C is for the parent, which passes it on.
            process = await trio.lowlevel.open_process(
                self.command, env=environment, start_new_session=True
            )
            self._processes[number] = process
            code = await process.wait()
            del self._processes[number]
            await self._note_end(number, code, trio.current_time() - began)
        if not self._processes:
            everything.cancel()

    async def _note_end(self, number: int, code: int, seconds: float) -> None:
        if self._is_stopping:
            return
        _log.error("worker ended", worker=number, code=code)
        if seconds < _CAME_UP_S:
            self._code = 1
            self._stop()
        else:
            await trio.sleep(_PAUSE_S)


def run_workers(count: int) -> int:
    """Run this very command line ``count`` times, as workers; return the exit code."""
    setup_logging(log_format="auto", log_level="info")
    command = [sys.executable, "-m", "tim_trio", *sys.argv[1:]]
    return trio.run(Workers(command, count).run)
