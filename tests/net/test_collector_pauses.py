"""What the garbage collector takes."""

import gc

import pytest

from tim_trio.net import collector_pauses
from tim_trio.net.collector_pauses import PASSES, figures, watch_collector


@pytest.fixture(autouse=True)
def unwatched_afterwards() -> object:
    yield
    gc.callbacks.remove(collector_pauses._note)


@pytest.mark.parametrize("generation", [0, 1, 2])
def test_a_pass_counts_once_in_its_generation(generation: int) -> None:
    watch_collector()
    watch_collector()
    counts = [passes.count for passes in PASSES]
    total = PASSES[generation].sum_s
    gc.disable()
    try:
        gc.collect(generation)
    finally:
        gc.enable()
    counts[generation] += 1
    assert [passes.count for passes in PASSES] == counts
    took = PASSES[generation].sum_s - total
    assert 0 < took <= PASSES[generation].longest_s + 1e-9


def test_the_log_has_number_and_longest_of_each() -> None:
    watch_collector()
    gc.collect()
    told = figures()
    assert set(told) == {f"gc{n}_{what}" for n in range(3) for what in ("passes", "longest_ms")}
    assert told["gc2_passes"] == PASSES[2].count > 0
    assert told["gc2_longest_ms"] == round(PASSES[2].longest_s * 1e3, 3) > 0
