"""The histogram of how late tasks wake up."""

import pytest
import trio
from trio.testing import MockClock

from tim_trio.net.loop_delay import BUCKETS_S, LoopDelay


def test_each_delay_counts_in_its_bucket() -> None:
    delay = LoopDelay()
    for seconds in (0.0, 0.001, 0.0011, 0.03, 1.0, 7.0):
        delay.note(seconds)
    counted = dict(zip((*BUCKETS_S, "above"), delay.counts, strict=True))
    assert {bound: count for bound, count in counted.items() if count} == {
        0.001: 2,
        0.0025: 1,
        0.05: 1,
        1.0: 1,
        "above": 1,
    }
    assert delay.sum_s == pytest.approx(8.0321)


async def test_it_measures(autojump_clock: MockClock) -> None:
    delay = LoopDelay()
    with trio.move_on_after(10.1):
        await delay.run()
    assert sum(delay.counts) == 40
    assert delay.sum_s == pytest.approx(0)
