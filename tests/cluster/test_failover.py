"""What subscribers see when nodes die, hang and leave; nodes are processes of their own."""

from __future__ import annotations

import contextlib
import itertools
import random
import signal
import statistics
from collections.abc import Callable, Iterator, Sequence

import attrs
import pytest
import trio

from tests.cluster.etcd_process import EtcdMember, running_etcd
from tests.cluster.processes import Processes, room_at, running_nodes
from tim_trio.net.client import Client
from tim_trio.net.client.source import Source
from tim_trio.net.client.subscription import Subscription
from tim_trio.protocol.messages import Gap
from tim_trio.protocol.stream import StreamFrame

_FRAMES_PER_S = 30
_KEY_EVERY = 30


@attrs.define(eq=False)
class Watcher:
    """What one subscriber got, and when."""

    name: str
    seqs: list[int] = attrs.field(factory=list)
    gaps: list[tuple[int, int]] = attrs.field(factory=list)
    times: list[float] = attrs.field(factory=list)

    async def watch(self, stream: Subscription) -> None:
        async for item in stream:
            match item:
                case StreamFrame():
                    self.seqs.append(item.seq)
                    self.times.append(trio.current_time())
                case Gap():
                    self.gaps.append((item.first_seq, item.last_seq))

    def longest_pause_s(self) -> float:
        return max(later - earlier for earlier, later in itertools.pairwise(self.times))

    def check(self, last_seq: int) -> int:
        """No repeat, no disorder, every loss in exactly one GAP; return what was lost."""
        assert self.seqs == sorted(set(self.seqs)), self.name
        announced = [seq for first, last in self.gaps for seq in range(first, last + 1)]
        assert len(announced) == len(set(announced)), f"{self.name}: a loss was announced twice"
        missing = set(range(self.seqs[0], last_seq + 1)) - set(self.seqs)
        assert missing == set(announced), (self.name, sorted(missing), self.gaps)
        return len(missing)


async def pump(source: Source, sent: list[int], until: Callable[[], bool]) -> None:
    """Publish a video: a KEY each second, 30 frames a second."""
    while not until():
        await source.send(b"x" * 1000, key=len(sent) % _KEY_EVERY == 0)
        sent.append(len(sent))
        await trio.sleep(1 / _FRAMES_PER_S)


async def stream_through(
    nodes: Processes,
    publisher: str,
    watchers_at: Sequence[str],
    relay: str,
    disturb: Callable[[], None],
    *,
    after_s: float,
    seconds: float = 2.5,
) -> tuple[int, list[Watcher]]:
    """Stream while something is done to the cluster; return frames sent and who watched."""
    watchers = [Watcher(f"{name}-{i}") for i, name in enumerate(watchers_at)]
    sent: list[int] = []
    over = False
    async with contextlib.AsyncExitStack() as stack:
        alice: Client = await stack.enter_async_context(nodes[publisher].client("alice"))
        room = await room_at(alice, nodes, relay)
        source = await stack.enter_async_context(alice.publish(room))
        streams = []
        for watcher, name in zip(watchers, watchers_at, strict=True):
            client = await stack.enter_async_context(nodes[name].client(watcher.name))
            streams.append(await stack.enter_async_context(client.subscribe(room)))
        async with trio.open_nursery() as nursery:
            for watcher, stream in zip(watchers, streams, strict=True):
                nursery.start_soon(watcher.watch, stream)

            async with trio.open_nursery() as publishing:
                publishing.start_soon(pump, source, sent, lambda: over)
                await trio.sleep(after_s)
                disturb()
                await trio.sleep(seconds)
                over = True
            with trio.move_on_after(10):
                while any(  # noqa: ASYNC110 - the nodes do not know of tests
                    not watcher.seqs or watcher.seqs[-1] < len(sent) - 1 for watcher in watchers
                ):
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    return len(sent), watchers


@pytest.fixture(scope="module")
def etcd_alone() -> Iterator[EtcdMember]:
    with running_etcd() as (member,):
        yield member


@pytest.fixture
def three(etcd_alone: EtcdMember) -> Iterator[Processes]:
    with running_nodes(etcd_alone.url, "a", "b", "c") as nodes:
        yield nodes


async def _kill_relays(nodes: Processes, rounds: int, capsys: pytest.CaptureFixture[str]) -> None:
    generator = random.Random(rounds)
    pauses: list[float] = []
    losses = []
    for number in range(rounds):
        relay = "abc"[number % 3]
        others = [name for name in nodes.nodes if name != relay]
        count, watchers = await stream_through(
            nodes,
            others[0],
            [*others, others[1]],
            relay,
            nodes[relay].kill,
            after_s=generator.uniform(0.7, 1.9),
        )
        lost = max(watcher.check(count - 1) for watcher in watchers)
        losses.append(lost)
        pauses += [watcher.longest_pause_s() for watcher in watchers]
        await trio.to_thread.run_sync(nodes[relay].start)
        await trio.sleep(0.5)
    pauses.sort()
    middle, last = statistics.median(pauses), pauses[int(len(pauses) * 0.99)]
    with capsys.disabled():
        print(
            f"\n{rounds} relays killed: longest pause p50 {middle * 1000:.0f} ms, "
            f"p99 {last * 1000:.0f} ms; {sum(lost == 0 for lost in losses)} without a lost "
            f"frame, {sum(losses)} frames lost in all"
        )
    assert sum(lost == 0 for lost in losses) >= 0.9 * rounds - 1


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_the_relay_is_killed(three: Processes, capsys: pytest.CaptureFixture[str]) -> None:
    await _kill_relays(three, 3, capsys)


@pytest.mark.soak
async def test_the_relay_is_killed_again_and_again(
    three: Processes, capsys: pytest.CaptureFixture[str]
) -> None:
    await _kill_relays(three, 50, capsys)


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_frozen_relay_repeats_nothing_when_it_wakes(three: Processes) -> None:
    count, watchers = await stream_through(
        three,
        "b",
        ["b", "c"],
        "a",
        lambda: three["a"].signal(signal.SIGSTOP),
        after_s=1,
        seconds=8,
    )
    for watcher in watchers:
        watcher.check(count - 1)
    # Woken behind the end of its lease it leaves, and says so.
    three["a"].signal(signal.SIGCONT)
    code = await trio.to_thread.run_sync(three["a"].wait, 30)
    assert code == 1
    assert "went on without this node" in three["a"].log.read_text()


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_relay_and_second_are_killed_together(etcd_alone: EtcdMember) -> None:
    with running_nodes(etcd_alone.url, "a", "b", "c", "d") as nodes:

        def kill_both() -> None:
            for name in ("a", "b"):
                nodes[name].kill()

        async with nodes["d"].client("alice") as alice:
            while True:
                room = await room_at(alice, nodes, "a")
                if nodes.ranking(room)[1] == "b":
                    break
        count, watchers = await stream_through(
            nodes, "c", ["c", "d", "d"], "a", kill_both, after_s=1.3
        )
        for watcher in watchers:
            watcher.check(count - 1)


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_streams_go_on_while_etcd_is_away() -> None:
    with running_etcd() as (member,), running_nodes(member.url, "a", "b", "c") as nodes:
        count, watchers = await stream_through(
            nodes, "b", ["b", "c"], "a", member.kill, after_s=0.5, seconds=12
        )
        for watcher in watchers:
            assert watcher.check(count - 1) == 0
        member.start()
        await trio.to_thread.run_sync(member.wait_ready)
        await trio.sleep(3)
        async with nodes["a"].client("alice") as alice:
            await alice.register_room()


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_all_nodes_are_restarted_one_by_one_under_load(etcd_alone: EtcdMember) -> None:
    options = ("--set", "drain_timeout_s=4")
    with running_nodes(etcd_alone.url, "a", "b", "c", options=options) as nodes:
        done = False

        async def restart_all() -> None:
            nonlocal done
            for node in nodes.nodes.values():
                node.signal(signal.SIGTERM)
                assert await trio.to_thread.run_sync(node.wait, 30) == 0
                await trio.to_thread.run_sync(node.start)
                await trio.sleep(1)
            done = True

        watchers = [Watcher(name) for name in nodes.nodes]
        sent: list[int] = []
        async with contextlib.AsyncExitStack() as stack:
            alice = await stack.enter_async_context(nodes["a"].client("alice"))
            room = await alice.register_room()
            source = await stack.enter_async_context(alice.publish(room))
            streams = []
            for watcher in watchers:
                client = await stack.enter_async_context(nodes[watcher.name].client(watcher.name))
                streams.append(await stack.enter_async_context(client.subscribe(room)))
            async with trio.open_nursery() as nursery:
                for watcher, stream in zip(watchers, streams, strict=True):
                    nursery.start_soon(watcher.watch, stream)
                async with trio.open_nursery() as publishing:
                    publishing.start_soon(pump, source, sent, lambda: done)
                    publishing.start_soon(restart_all)
                with trio.move_on_after(10):
                    while any(  # noqa: ASYNC110
                        not watcher.seqs or watcher.seqs[-1] < len(sent) - 1 for watcher in watchers
                    ):
                        await trio.sleep(0.01)
                nursery.cancel_scope.cancel()
        for watcher in watchers:
            print(watcher.name, len(watcher.seqs), watcher.gaps, watcher.longest_pause_s())
            assert watcher.check(len(sent) - 1) <= _KEY_EVERY
