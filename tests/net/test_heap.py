"""Memory is given back when nobody is there any more."""

import os
import subprocess
import sys
import time

import pytest
import trio
from trio.testing import MockClock

from tim_trio.limits import Limits
from tim_trio.net import heap, server
from tim_trio.net.server import Server


def rss_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_what_lies_between_used_pieces_is_given_back() -> None:
    pieces = [bytes(100_000) for _ in range(400)]
    kept = pieces[::40]
    used = rss_bytes()
    del pieces
    heap.trim_heap()
    assert rss_bytes() < used - 25_000_000
    assert len(kept) == 10


#: Holds 2 MB for a moment, as large reads do, and counts the pages that were made for it.
FAULTS = """
import resource
from tim_trio.net.heap import keep_heap

keep_heap()

def use():
    return [b"x" * 263_168 for _ in range(8)]

use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_what_is_used_again_and_again_is_kept() -> None:
    # In a process of its own: it holds for the whole of one.
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True, timeout=60
    )
    assert int(done.stdout) < 5_000  # of 51,400 pages of 4 KiB


def test_without_such_a_library_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_malloc_trim", None)
    monkeypatch.setattr(heap, "_mallopt", None)
    heap.keep_heap()
    heap.trim_heap()


async def test_once_after_everybody_has_left(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    trims: list[bool] = []
    monkeypatch.setattr(server, "trim_heap", lambda: trims.append(True))
    relay = Server(Limits())
    async with trio.open_nursery() as nursery:
        await nursery.start(relay.serve, [])
        await trio.sleep(10)
        assert not trims, "nobody was there"
        relay.node.connections += 1
        await trio.sleep(10)
        assert not trims, "somebody is there"
        relay.node.connections -= 1
        # It is done in a thread, for which the clock of this test does not wait.
        for _ in range(1000):
            await trio.sleep(1)
            if trims:
                break
            await trio.to_thread.run_sync(time.sleep, 0.01)
        await trio.sleep(10)
        await trio.to_thread.run_sync(time.sleep, 0.05)
        assert len(trims) == 1
        nursery.cancel_scope.cancel()
