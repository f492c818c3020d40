"""Turns, with tasks that say what they do, on a clock of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tim_trio.net import turns as module
from tim_trio.net.turns import Turns


@attrs.define
class Scene:
    """What was done, in order; "look" stands for a pass of the loop."""

    turns: Turns
    nursery: trio.Nursery
    done: list[str] = attrs.Factory(list)

    async def ask(self, name: str, address: str, units: int = 1) -> None:
        await self.turns.take(address, units)
        self.done.append(name)

    async def use_up(self) -> None:
        """Take all that may be taken at once."""
        for _ in range(module._UNITS):
            await self.ask("first", "elsewhere")
        assert self.done == ["first"] * module._UNITS
        self.done.clear()

    async def look(self) -> None:
        while True:
            self.done.append("look")
            await trio.lowlevel.checkpoint()

    def at_once(self) -> int:
        """Return the most that was done between two looks."""
        runs = "".join("." if each == "look" else "x" for each in self.done).split(".")
        return max(map(len, runs))


@pytest.fixture(autouse=True)
def one_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices so long that a slow machine does not begin a new one."""
    monkeypatch.setattr(module, "_SLICE_S", 1e6)


@asynccontextmanager
async def running() -> AsyncIterator[Scene]:
    turns = Turns()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.run)
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as inner:
            yield Scene(turns, inner)
        nursery.cancel_scope.cancel()


async def test_who_wants_little_waits_for_nothing() -> None:
    async with running() as scene:
        await scene.use_up()  # without a look in between


async def test_a_crowd_does_a_little_between_two_looks() -> None:
    async with running() as scene:
        await scene.use_up()
        for number in range(100):
            scene.nursery.start_soon(scene.ask, f"{number}", "crowd")
        await wait_all_tasks_blocked()
        assert len(scene.done) == 100
        scene.done.clear()
        # The same beside somebody who counts.
        scene.nursery.start_soon(scene.look)
        for number in range(100):
            scene.nursery.start_soon(scene.ask, f"{number}", "crowd")
        while len(scene.done) - scene.done.count("look") < 100:
            await trio.lowlevel.checkpoint()
        # A look of ours may come at the end of one pass and at the start of the next but one.
        assert scene.at_once() <= 2 * module._UNITS
        assert scene.done.count("look") >= 100 // module._UNITS
        scene.nursery.cancel_scope.cancel()


async def test_costly_things_are_fewer() -> None:
    async with running() as scene:
        await scene.use_up()
        scene.nursery.start_soon(scene.look)
        for number in range(20):
            scene.nursery.start_soon(scene.ask, f"{number}", "crowd", module._UNITS)
        while len(scene.done) - scene.done.count("look") < 20:
            await trio.lowlevel.checkpoint()
        assert scene.at_once() <= 2
        scene.nursery.cancel_scope.cancel()


async def test_a_flood_waits_for_itself() -> None:
    async with running() as scene:
        await scene.use_up()
        for number in range(50):
            scene.nursery.start_soon(scene.ask, f"flood {number}", "flood")
        await trio.lowlevel.checkpoint()  # until they wait
        scene.nursery.start_soon(scene.ask, "other", "elsewhere")
        await wait_all_tasks_blocked()
        assert scene.done.index("other") <= 3 * module._UNITS
        assert len(scene.done) == 51


async def test_who_asks_in_order_is_served_in_order() -> None:
    async with running() as scene:
        await scene.use_up()
        asked = [f"{number}" for number in range(30)]

        async def ask_all() -> None:
            for name in asked:
                await scene.ask(name, "one")

        scene.nursery.start_soon(ask_all)
        await wait_all_tasks_blocked()
        assert scene.done == asked


async def test_cancelled_waits_cost_nobody_a_turn() -> None:
    async with running() as scene:
        await scene.use_up()
        with trio.CancelScope() as scope:
            scope.cancel()
            await scene.ask("never", "flood")
        assert scope.cancelled_caught
        await scene.ask("next", "flood")
        assert scene.done == ["next"]


async def test_at_the_end_whoever_waits_goes_on() -> None:
    turns = Turns()
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def run() -> None:
            with scope:
                await turns.run()

        nursery.start_soon(run)
        await wait_all_tasks_blocked()
        scene = Scene(turns, nursery)
        await scene.use_up()
        for number in range(100):
            nursery.start_soon(scene.ask, f"{number}", "crowd")
        scope.cancel()
    assert len(scene.done) == 100
    await scene.ask("and later", "crowd", 1000)


async def test_a_new_slice_lets_some_go_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SLICE_S", 0.0)
    async with running() as scene:
        for _ in range(10):
            await scene.use_up()
