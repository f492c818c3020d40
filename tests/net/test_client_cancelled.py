"""A client that is cancelled at every place where it waits: nothing is left behind.

Over real sockets. The scenario's task is cancelled at its first step, then at its
second, and so on, until it gets through uncancelled. `running_server` looks for
connections, tasks and descriptors afterwards.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
import pytest
import trio

import tim_trio
from tests.net.rawclient import DEADLINE_S
from tests.net.running import eventually, living_tasks, open_descriptors, running_server
from tim_trio import StreamFrame
from tim_trio.net.client.client import Mode

#: More than any scenario takes, however often a socket is not ready.
_MOST_STEPS = 400


@attrs.define(eq=False)
class CancelAt(trio.abc.Instrument):
    """Cancels a scope when its task is about to take its n-th step."""

    task: trio.lowlevel.Task
    scope: trio.CancelScope
    step: int
    taken: int = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            self.taken += 1
            if self.taken == self.step:
                self.scope.cancel()


async def cancel_everywhere(scenario: Callable[[], Awaitable[None]]) -> int:
    """Run a scenario again and again, cancelled one step later each time; return the steps."""
    tasks, descriptors = living_tasks(), open_descriptors()
    for step in range(1, _MOST_STEPS):
        with trio.fail_after(DEADLINE_S), trio.CancelScope() as scope:
            instrument = CancelAt(trio.lowlevel.current_task(), scope, step)
            trio.lowlevel.add_instrument(instrument)
            try:
                await scenario()
            finally:
                trio.lowlevel.remove_instrument(instrument)
        if instrument.taken < step:
            # What the server holds for them goes once it has seen their end.
            await eventually(lambda: living_tasks() <= tasks, "tasks are to end")
            await eventually(lambda: open_descriptors() <= descriptors, "sockets are to be closed")
            return step
    raise AssertionError(f"not through within {_MOST_STEPS} steps")


@pytest.mark.parametrize("mode", ["live", "reliable"])
async def test_publishing_and_watching(mode: Mode) -> None:
    async with running_server() as running:
        address = f"tim://127.0.0.1:{running.port}"

        async def scenario() -> None:
            async with tim_trio.connect(address, account="alice") as client:
                room = await client.register_room(mode=mode)
                async with client.subscribe(room) as stream, client.publish(room) as source:
                    await source.wait_viewers(1)
                    await source.send(b"init", init=True)
                    await source.send(bytes(200_000), key=True)
                    await source.send(b"", end=True)
                    async for item in stream:
                        if isinstance(item, StreamFrame) and item.is_end:
                            break
                await client.remove_room(room)

        steps = await cancel_everywhere(scenario)
        assert steps > 10
        await running.until_gone()
        rooms = running.manager.rooms.values()
        await eventually(
            lambda: not any(room.sources for room in rooms), "sources of the cancelled are to end"
        )


async def test_messages_lists_and_events() -> None:
    async with running_server() as running:
        address = f"tim://127.0.0.1:{running.port}"

        async def scenario() -> None:
            async with (
                tim_trio.connect(address, account="alice", reconnect=False) as alice,
                tim_trio.connect(address, account="bob") as bob,
            ):
                stream = bob.account_streams()
                await alice.send_to("bob", b"hello")
                assert (await anext(stream)).payload == b"hello"
                room = await alice.register_room()
                await bob.ask_to_push(room)
                await anext(alice.events())
                assert await alice.list_rooms()
                await alice.remove_room(room)

        assert await cancel_everywhere(scenario) > 10
