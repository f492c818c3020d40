"""One look at all sockets: who has something to read, and reading it at once.

Trio wakes a task per readable socket: an ``epoll_ctl``, a pass of its loop and
a walk down the task's coroutines for every piece that a publisher sends. For
a thousand bytes on their way to ten subscribers that is as dear as the
relaying. So sockets wait in an epoll of our own, which Trio sees as a single
readable descriptor. One task asks it, and calls each readable socket's owner,
who reads and relays synchronously; the owner's own task sleeps until there is
something that only a task can do.

Source: DESIGN "The data path"; docs/architecture.md, "Reading".
"""

from __future__ import annotations

import enum
import math
import select
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Final, Generic, TypeVar

import outcome
import trio

from tim_trio.net.turns import Turns

T = TypeVar("T")


class Rest(enum.Enum):
    """Much has come at once, and more will: it may gather.

    The socket's low-water mark has been set to wake us when it has. The value is for
    how many seconds at most: then it is looked at all the same.
    """

    #: The publisher may be waiting for subscribers to have what it has sent.
    A_MOMENT = 0.003
    #: So long a window of frames takes that come whole, and fast.
    UNTIL_MUCH = 0.02


#: Takes the time; returns what wakes the task up, None for nothing.
Receive = Callable[[float], T | Rest | None]

#: Sockets served per look. Each may wake its task, and all of those have their
#: turn before the next look: when thousands join within a second, this is how
#: long the streams that run wait for them.
_EVENTS: Final = 32
#: Other tasks get a turn after so much reading and relaying.
_TURN_S: Final = 0.003
#: Many are at it when so many sockets were readable within the window.
_MANY: Final = 8
_WINDOW_S: Final = 0.01


class _Waiter(Generic[T]):
    """A task that sleeps, and what is called for it meanwhile."""

    __slots__ = ("receive", "task")

    def __init__(self, receive: Receive[T], task: trio.lowlevel.Task) -> None:
        self.receive = receive
        self.task = task


class ReadinessLoop(Generic[T]):
    """The readable sockets of one server; `run` must run for `wait` to return.

    Attributes:
        turns: for what tasks do beside relaying.

    Args:
        together_s: while many sockets are readable in turn, look at them only
            so often, so that several share a pass; 0: look at once, always.
    """

    def __init__(self, together_s: float = 0.0) -> None:
        self.turns = Turns()
        self._epoll = select.epoll()
        self._waiters: dict[int, _Waiter[T]] = {}
        self._together_s = together_s
        # Who was readable within the present window.
        self._recent: set[int] = set()
        # Not readable before much has come.
        self._resting: set[int] = set()
        self._rest_ends = math.inf
        self._rest = trio.CancelScope()

    async def run(self) -> None:
        """Serve until cancelled; then no socket is looked at any more."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.turns.run)
            nursery.start_soon(self._look_at_resting)
            await self._look()

    async def _look(self) -> None:
        epoll = self._epoll
        descriptor = epoll.fileno()
        window_ends = 0.0
        many = False
        others_ran = True
        try:
            while True:
                events = epoll.poll(0, _EVENTS)
                if not events:
                    await trio.lowlevel.wait_readable(descriptor)
                    others_ran = True
                    continue
                if not others_ran:
                    # Not after every look: where nothing has come meanwhile, waiting
                    # does it, and a second pass of Trio's loop is dear.
                    await trio.lowlevel.checkpoint()
                    others_ran = True
                    continue
                now = trio.current_time()
                if now >= window_ends:
                    many = len(self._recent) >= _MANY
                    self._recent.clear()
                    # Some looks long, or one that came early would decide it.
                    window_ends = now + max(_WINDOW_S, 4 * self._together_s)
                await self._serve([number for number, _ in events], now)
                if many and self._together_s and len(events) < _EVENTS:
                    await trio.sleep_until(now + self._together_s)
                else:
                    others_ran = False
        finally:
            for number in list(self._waiters):
                self.close(number)
            epoll.close()

    async def _look_at_resting(self) -> None:
        while True:
            with trio.CancelScope(deadline=self._rest_ends) as self._rest:
                await trio.sleep_forever()
            numbers = tuple(self._resting)
            self._resting.clear()
            self._rest_ends = math.inf
            await self._serve(numbers, trio.current_time())

    async def _serve(self, numbers: Iterable[int], now: float) -> None:
        # Not a part of `run`, whose variables would keep the last one alive.
        turn_ends = perf_counter() + _TURN_S
        for number in numbers:
            waiter = self._waiters.get(number)
            if waiter is None:
                continue  # its task has woken up since we looked
            self._recent.add(number)
            result = waiter.receive(now)
            # Relaying may have ended the very connection it came from.
            if (result is not None or self._resting) and self._waiters.get(number) is waiter:
                if isinstance(result, Rest):
                    self._let_rest(number, now + result.value)
                elif result is None:
                    self._resting.discard(number)
                else:
                    self._wake(number, outcome.Value(result))
            ended = perf_counter()
            if ended >= turn_ends:
                await trio.lowlevel.checkpoint()
                now = trio.current_time()
                turn_ends = perf_counter() + _TURN_S

    def _let_rest(self, number: int, until: float) -> None:
        """Look at it when much has come, or at a time.

        Each look is a pass of Trio's loop with cold caches: as dear as it is to
        relay 200 KB. Moving a deadline costs nothing beside it.
        """
        self._resting.add(number)
        # Where others rest, theirs may end first.
        if len(self._resting) == 1 or until < self._rest_ends:
            self._rest_ends = self._rest.deadline = until

    async def wait(self, number: int, receive: Receive[T]) -> T:
        """Call ``receive`` whenever descriptor ``number`` is readable, and return
        the first thing that it returns, but for `Rest`.

        ``receive`` is given the time of this look, which may be some milliseconds
        old. It never blocks and never raises, and finds nothing to read now and
        then. Cancellation ends the waiting and loses nothing.

        Raises:
            trio.ClosedResourceError: `close` was called for the descriptor.
        """
        self._waiters[number] = _Waiter(receive, trio.lowlevel.current_task())
        try:
            self._epoll.register(number, select.EPOLLIN)
        except ValueError:  # the server has stopped, and with it this loop
            del self._waiters[number]
            raise trio.ClosedResourceError from None
        except OSError:
            del self._waiters[number]
            raise

        def abort(_: object) -> trio.lowlevel.Abort:
            self._forget(number)
            return trio.lowlevel.Abort.SUCCEEDED

        result: T = await trio.lowlevel.wait_task_rescheduled(abort)
        return result

    def close(self, number: int) -> None:
        """Wake whoever waits for a descriptor that is about to be closed. Never blocks."""
        if number in self._waiters:
            self._wake(number, outcome.Error(trio.ClosedResourceError()))

    def _wake(self, number: int, what: outcome.Value[T] | outcome.Error) -> None:
        trio.lowlevel.reschedule(self._forget(number).task, what)

    def _forget(self, number: int) -> _Waiter[T]:
        self._epoll.unregister(number)
        self._resting.discard(number)
        return self._waiters.pop(number)
