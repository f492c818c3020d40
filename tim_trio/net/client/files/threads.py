"""Running a transfer's disk work in threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar, TypeVarTuple

import trio

from tim_trio.net.client.plain_nursery import open_plain_nursery

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Stopped(Exception):
    """Raised in a thread for whose result nobody waits any more."""


class Stoppable(Protocol):
    """What reads for long in a thread, and looks now and then whether to go on.

    Attributes:
        stopped: raise `Stopped` soon.
    """

    stopped: bool


async def run_stoppable(what: Stoppable, work: Callable[[*Ts], T], *arguments: *Ts) -> T:
    """Run ``work`` in a thread; cancelled, stop it and wait until it has.

    A thread left alone with an open file would go on reading under a number
    that may be another file's by then.
    """
    what.stopped = False
    finished = False

    async def stop_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            what.stopped = not finished

    async with open_plain_nursery() as nursery:
        nursery.start_soon(stop_when_cancelled)
        try:
            result = await trio.to_thread.run_sync(work, *arguments)
        except Stopped:
            await trio.lowlevel.checkpoint()
            raise
        finally:
            finished = True
            nursery.cancel_scope.cancel()
    return result
