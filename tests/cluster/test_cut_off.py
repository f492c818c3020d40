"""Nodes whose wires are cut: from etcd, from the relay, from everyone; and mended again.

Nodes and etcd are processes, each in a network namespace of its own (`wires`).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import attrs
import pytest
import trio

from tests.cluster.etcd_process import running_etcd
from tests.cluster.processes import Processes, running_nodes
from tests.cluster.streaming import FRAMES_PER_S, streaming
from tests.cluster.wires import Network, wired

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

_NAMES = ("a", "b", "c", "d")
_OPTIONS = (
    # Beyond loopback anyone may act under any name only if that is meant.
    *("--set", "insecure_open=true"),
    # A source outlives a node that is cut off, until its publisher moves.
    *("--set", "limits.linger_s=30", "--set", "drain_timeout_s=3"),
)


@attrs.define(eq=False)
class Place:
    network: Network
    nodes: Processes

    def cut_off(self, name: str) -> None:
        self.network.cut(name, "etcd", *(other for other in _NAMES if other != name))

    async def until_linked(self, one: str, other: str, *, linked: bool = True) -> None:
        """Wait until two nodes have a link, as both see it; or until they have none."""
        with trio.fail_after(20):
            while not (  # noqa: ASYNC110 - nodes do not know of tests
                self.nodes[one].is_linked(other) is linked
                and self.nodes[other].is_linked(one) is linked
            ):
                await trio.sleep(0.05)

    async def wait_out(self, name: str) -> None:
        """Wait until a node has found out that the others went on without it."""
        assert await trio.to_thread.run_sync(self.nodes[name].wait, 30) == 1
        assert "went on without this node" in self.nodes[name].log.read_text()


@pytest.fixture(scope="module")
def all_wired() -> Iterator[Place]:
    with (
        wired("etcd", *_NAMES) as network,
        running_etcd(machine=network["etcd"]) as (etcd,),
        running_nodes(etcd.url, *_NAMES, network=network, options=_OPTIONS) as nodes,
    ):
        yield Place(network, nodes)


@pytest.fixture
def place(all_wired: Place) -> Iterator[Place]:
    all_wired.nodes.restore()
    yield all_wired
    all_wired.network.heal()


async def test_data_goes_round_a_cut_between_a_node_and_the_relay(place: Place) -> None:
    async with streaming(place.nodes, "b", "abcd", relay="a") as stream:
        await stream.flow(30)
        place.network.cut("a", "b")
        await place.until_linked("a", "b", linked=False)
        await stream.flow(30)
        place.network.heal()
        await place.until_linked("a", "b")
        await stream.flow(30)
    lost = stream.check()
    assert max(lost.values()) <= 2 * FRAMES_PER_S, lost


async def test_a_node_is_cut_off_from_all_for_a_moment(place: Place) -> None:
    async with streaming(place.nodes, "cb", "abccd", relay="a") as stream:
        await stream.flow(30)
        place.cut_off("c")
        before = dict(stream.sent)
        for other in "abd":
            await place.until_linked("c", other, linked=False)
        # It is an island: those on it see each other, and so do the rest.
        of_c, of_b = stream.sent
        await stream.flow(at="c", of=of_c)
        await stream.flow(at="abd", of=of_b)
        for watcher in stream.watchers:
            away = of_b if watcher.name.startswith("c") else of_c
            assert watcher.sources[away].seqs[-1] <= before[away] + 1, watcher.name
        place.network.heal()
        await stream.flow(30)
    lost = stream.check()
    assert max(lost.values()) <= 2 * 3 * FRAMES_PER_S, lost


async def test_a_relay_is_cut_off_from_etcd_alone_and_another_node_from_all(
    place: Place,
) -> None:
    """For longer than their leases: the others go on without them, and their clients move."""
    async with streaming(place.nodes, "bd", "abcd", relay="a") as stream:
        await stream.flow(30)
        place.network.cut("a", "etcd")
        place.cut_off("d")
        # Its peers tell the one, and nobody can tell the other.
        await place.wait_out("a")
        assert place.nodes["d"].is_running
        of_b, of_d = stream.sent
        await stream.flow(at="abc", of=of_b)
        await stream.flow(at="d", of=of_d)
        place.network.heal()
        await place.wait_out("d")
        await stream.flow(30)
    stream.check()
    at_relay, at_second, at_third, _ = stream.watchers
    for watcher in (at_relay, at_second, at_third):
        assert watcher.sources[of_b].check(stream.sent[of_b], watcher.name) <= FRAMES_PER_S


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_wires_are_cut_and_mended_at_random(place: Place) -> None:
    """Any wires between nodes, however many: nothing is repeated, and nothing stays away."""
    generator = random.Random(6)
    wires = list(itertools.combinations(_NAMES, 2))
    async with streaming(place.nodes, "bc", "abcd", relay="a") as stream:
        await stream.flow(30)
        for _ in range(40):
            for one, other in generator.sample(wires, generator.randint(1, 6)):
                place.network.cut(one, other)
                await trio.sleep(generator.choice((0, 0.3)))
            await trio.sleep(generator.uniform(0.1, 2.2))
            place.network.heal()
            await trio.sleep(generator.choice((0, 0.2, 1.5)))
            if generator.random() < 0.5:
                await stream.flow(10)
        await stream.flow(30)
    stream.check()
    assert all(node.is_running for node in place.nodes.nodes.values())
