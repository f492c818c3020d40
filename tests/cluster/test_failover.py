"""What subscribers see when nodes die, hang and leave; nodes are processes of their own."""

from __future__ import annotations

import hashlib
import random
import signal
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.cluster.etcd_process import EtcdMember, running_etcd
from tests.cluster.processes import Processes, running_nodes
from tests.cluster.streaming import KEY_EVERY, streaming
from tim_trio.net.client.line import Line
from tim_trio.net.client.session import Session

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

_OPTIONS = ("--set", "drain_timeout_s=4")
_FILE_BYTES = 3_000_000
#: So that the file is on its way all the time.
_SLOWLY = ("--set", "limits.stream_bytes_per_s=200000")


@pytest.fixture(scope="module")
def etcd_alone() -> Iterator[EtcdMember]:
    with running_etcd() as (member,):
        yield member


@pytest.fixture(scope="module")
def all_five(etcd_alone: EtcdMember) -> Iterator[Processes]:
    with running_nodes(etcd_alone.url, *"abcde", options=_OPTIONS) as nodes:
        yield nodes


@pytest.fixture
def five(all_five: Processes) -> Processes:
    all_five.restore()
    return all_five


@pytest.fixture(scope="module")
def all_three() -> Iterator[Processes]:
    with (
        running_etcd() as (member,),
        running_nodes(member.url, *"abc", options=(*_OPTIONS, *_SLOWLY)) as nodes,
    ):
        yield nodes


@pytest.fixture
def three(all_three: Processes) -> Processes:
    all_three.restore()
    return all_three


async def _start(nodes: Processes, *names: str) -> None:
    for name in names:
        await trio.to_thread.run_sync(nodes[name].start)


async def _end(nodes: Processes, name: str) -> int:
    """Wait until a node has ended; return its exit code."""
    return await trio.to_thread.run_sync(nodes[name].wait, 30)


async def test_publishers_and_subscribers_on_five_nodes(five: Processes) -> None:
    async with streaming(five, "abcde", "abcde") as stream:
        await stream.flow(60)
    assert set(stream.check().values()) == {0}
    assert len(stream.sent) == 5
    for watcher in stream.watchers:
        for number, seen in watcher.sources.items():
            assert seen.seqs == list(range(stream.sent[number])), watcher.name


async def test_the_whole_ranking_is_killed_one_by_one_and_comes_back(five: Processes) -> None:
    async with streaming(five, "d", "dee", ranking="abc", key_every=3) as stream:
        await stream.flow(30)
        for name in "abc":
            five[name].kill()
            await stream.flow(30)
        gaps = stream.gaps
        # Each that comes is the relay from then on: nothing is lost by that.
        for name in "cba":
            await _start(five, name)
            await stream.flow(30)
    stream.check()
    assert stream.gaps == gaps


async def test_relay_and_second_are_killed_together(five: Processes) -> None:
    async with streaming(five, "c", "cddee", ranking="ab") as stream:
        await stream.flow(40)
        for name in "ab":
            five[name].kill()
        await stream.flow(30)
    stream.check()


async def _kill_relays(
    nodes: Processes, rounds: int, capsys: pytest.CaptureFixture[str]
) -> tuple[float, float]:
    """Kill so many relays; return median and 99th percentile of the longest pauses."""
    generator = random.Random(rounds)
    pauses: list[float] = []
    losses = []
    for number in range(rounds):
        relay = "abc"[number % 3]
        others = [name for name in nodes.nodes if name != relay]
        async with streaming(nodes, others[0], [*others, others[1]], relay=relay) as stream:
            await trio.sleep(generator.uniform(0.7, 1.9))
            nodes[relay].kill()
            await stream.flow(45)
        losses.append(max(stream.check().values()))
        pauses += [watcher.longest_pause_s() for watcher in stream.watchers]
        await _start(nodes, relay)
        await trio.sleep(0.5)
    pauses.sort()
    middle, last = statistics.median(pauses), pauses[int(len(pauses) * 0.99)]
    with capsys.disabled():
        print(
            f"\n{rounds} relays killed: longest pause p50 {middle * 1000:.0f} ms, "
            f"p99 {last * 1000:.0f} ms; {sum(lost == 0 for lost in losses)} without a lost "
            f"frame, {sum(losses)} frames lost in all"
        )
    assert sum(lost == 0 for lost in losses) >= 0.9 * rounds - (rounds < 10)
    return middle, last


async def test_the_relay_is_killed(three: Processes, capsys: pytest.CaptureFixture[str]) -> None:
    await _kill_relays(three, 3, capsys)


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_the_relay_is_killed_again_and_again(
    three: Processes, capsys: pytest.CaptureFixture[str]
) -> None:
    middle, last = await _kill_relays(three, 50, capsys)
    assert middle < 0.5
    assert last < 2


async def test_a_frozen_relay_repeats_nothing_when_it_wakes(three: Processes) -> None:
    async with streaming(three, "b", "abc", relay="a") as stream:
        await stream.flow(30)
        three["a"].signal(signal.SIGSTOP)
        await three.until_said("bc", "node left", node="a")
        await stream.flow(30, at="bc")
        # Woken behind the end of its lease it leaves, and says so.
        three["a"].signal(signal.SIGCONT)
        assert await _end(three, "a") == 1
        assert "went on without this node" in three["a"].log.read_text()
        # Who watched there does so elsewhere.
        await stream.flow(30)
    stream.check()


class _Moves:
    """Counts how often clients change their connection."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.by_account: Counter[str] = Counter()
        use = Line.use

        def counting(line: Line, session: Session) -> None:
            if line.is_set:
                assert session.connection.identity is not None
                self.by_account[session.connection.identity.account] += 1
            use(line, session)

        monkeypatch.setattr(Line, "use", counting)


async def _transfer(
    nodes: Processes,
    folder: Path,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Send a file from an account at a node to one at another, and compare what arrives.

    Started once the file is on its way: a first connection is tried but once.
    """
    path, arrived = folder / "file", folder / "arrived"
    arrived.mkdir()
    path.write_bytes(random.Random(1).randbytes(_FILE_BYTES))
    program = [sys.executable, "-m", "tim_trio"]
    receive = [*program, "receive", "--once", "--dir", str(arrived), "--accept-from", "sender"]
    receive += ["--server", nodes["b"].url, "--account", "receiver"]
    send = [*program, "send", str(path), "--to", "receiver", "--wait", "20"]
    send += ["--server", nodes["a"].url, "--account", "sender"]
    errors = folder / "errors"

    def is_receiving() -> bool:
        return "receiving into" in errors.read_text()

    def is_on_its_way() -> bool:
        return any(arrived.iterdir())

    with errors.open("wb") as log:
        processes = []
        try:
            for command, has_begun in (
                (receive, is_receiving),
                (send, is_on_its_way),
            ):
                processes.append(
                    subprocess.Popen(  # noqa: ASYNC220 - waited for by looking now and then
                        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                    )
                )
                with trio.fail_after(60):
                    while not has_begun():
                        assert processes[-1].poll() is None, errors.read_text()[-2000:]
                        await trio.sleep(0.05)
            task_status.started()
            for process in reversed(processes):
                while process.poll() is None:  # noqa: ASYNC110 - no pipe, no event
                    await trio.sleep(0.05)
                assert process.returncode == 0, errors.read_text()[-2000:]
        finally:
            for process in processes:
                process.kill()
                process.wait()
    digest = hashlib.sha256((arrived / "file").read_bytes()).digest()
    assert digest == hashlib.sha256(path.read_bytes()).digest()


async def test_all_nodes_are_restarted_one_by_one_under_load(
    three: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moves = _Moves(monkeypatch)
    async with (
        streaming(three, "a", "abc", key_every=3) as stream,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(_transfer, three, tmp_path)
        await stream.flow(60)
        for name in "abc":
            three[name].signal(signal.SIGTERM)
            assert await _end(three, name) == 0
            await _start(three, name)
            await stream.flow(30)
    lost = stream.check()
    assert max(lost.values()) <= KEY_EVERY, lost
    # Once each; but the first have nowhere to go that is not restarted after them.
    assert moves.by_account == {"publisher-a": 2, "a-0": 2, "b-1": 1, "c-2": 1}
