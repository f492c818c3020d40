"""A room moves when nodes come and leave; nobody loses anything by that."""

from __future__ import annotations

import functools

import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cluster.simulated import Publisher, Simulation, Viewer, simulated
from tests.core.builders import KEY

_EVERY_S = 0.01


def run(test: object) -> None:
    trio.run(test, clock=trio.testing.MockClock(autojump_threshold=0))  # type: ignore[arg-type]


async def _stream(publisher: Publisher, simulation: Simulation, frames: int) -> None:
    """Publish groups of any length, some frames together."""
    left = frames
    while left:
        count = min(left, simulation.random.choice((1, 1, 1, 2, 5)))
        publisher.send(*(KEY if simulation.random.random() < 0.2 else 0 for _ in range(count)))
        left -= count
        await trio.sleep(simulation.random.uniform(0, 2 * _EVERY_S))


async def _churn(simulation: Simulation, names: list[str], staying: set[str]) -> None:
    """Let nodes without clients come and leave."""
    while True:
        await trio.sleep(simulation.random.uniform(0, 0.6))
        name = simulation.random.choice(names)
        if name in staying:
            continue
        if name not in simulation.nodes:
            simulation.start(name)
        elif not simulation.nodes[name].members.me.draining:
            await simulation.stop(name)


async def moves(seed: int, longest_s: float) -> None:
    """Stream while nodes come and leave; check that everyone got everything."""
    async with simulated(seed, longest_s) as simulation:
        names = list("abcdefgh")
        simulation.random.shuffle(names)
        staying = names[:3]
        for name in names[: simulation.random.randrange(3, 7)]:
            simulation.start(name)
        await trio.sleep(0.2)
        viewers: list[Viewer] = [await simulation.subscribe(name) for name in staying]
        publishers = [await simulation.publish(staying[i], i + 1) for i in range(2)]
        await trio.sleep(2)
        async with trio.open_nursery() as churning:
            churning.start_soon(_churn, simulation, names, set(staying))
            async with trio.open_nursery() as streams:
                for publisher in publishers:
                    streams.start_soon(_stream, publisher, simulation, 400)
            churning.cancel_scope.cancel()
        await trio.sleep(5)
        for viewer in viewers:
            viewer.check({each.source.number: each.writer.next_seq for each in publishers})


# The same walks each time.
@settings(max_examples=30, derandomize=True)
@given(seed=st.integers(0, 2**32), longest_s=st.sampled_from((0.0, 0.003, 0.03, 0.1)))
def test_no_frame_is_lost_when_nodes_come_and_leave(seed: int, longest_s: float) -> None:
    run(functools.partial(moves, seed, longest_s))
