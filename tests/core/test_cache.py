"""The cache of a track's running group, and its bounds."""

import pytest

from tests.core.builders import INIT, KEY, TrackWriter, limits
from tim_trio.core.cache import ENTRY_OVERHEAD, CacheBudget, GroupCache
from tim_trio.core.node import Node
from tim_trio.protocol.runs import Run


@pytest.fixture
def node() -> Node:
    return Node(limits(room_cache_bytes=2000, node_cache_bytes=3000))


def held(*runs: Run) -> int:
    return sum(len(run.data) + ENTRY_OVERHEAD for run in runs)


def test_nothing_is_cached_before_the_first_key(node: Node) -> None:
    cache = GroupCache(CacheBudget(node))
    cache.add(TrackWriter().run(0, 0), 1, None)
    assert cache.runs == []
    assert node.cache_bytes == 0


def test_a_group_grows_from_its_key_and_is_counted_with_overhead(node: Node) -> None:
    budget = CacheBudget(node)
    cache = GroupCache(budget)
    track = TrackWriter()
    first, second = track.run(KEY, 0), track.run(0)
    cache.add(first, 4, None)
    cache.add(second, 9, None)
    assert cache.runs == [(4, first.data), (9, second.data)]
    assert budget.used == node.cache_bytes == held(first, second)


def test_a_key_starts_anew_and_frees_the_group_before_it(node: Node) -> None:
    budget = CacheBudget(node)
    cache = GroupCache(budget)
    track = TrackWriter()
    cache.add(track.run(KEY, 0, 0), 1, None)
    fresh = track.run(KEY)
    cache.add(fresh, 2, None)
    assert cache.runs == [(2, fresh.data)]
    assert budget.used == node.cache_bytes == held(fresh)


def test_only_what_follows_the_last_key_of_a_run_is_kept(node: Node) -> None:
    budget = CacheBudget(node)
    cache = GroupCache(budget)
    run = TrackWriter().run(0, KEY, 0, KEY, 0)
    cache.add(run, 1, None)
    kept = run.data[run.last_key :]
    assert cache.runs == [(1, kept)]
    assert budget.used == len(kept) + ENTRY_OVERHEAD


def test_the_init_before_the_key_is_remembered(node: Node) -> None:
    cache = GroupCache(CacheBudget(node))
    track = TrackWriter()
    init = track.run(INIT).data
    cache.add(track.run(KEY, 0), 1, init)
    assert cache.init is init
    # An INIT within the group comes at its place; joiners begin with the old one.
    cache.add(track.run(INIT), 2, b"newer")
    assert cache.init is init


def test_a_key_that_is_itself_an_init_needs_none(node: Node) -> None:
    cache = GroupCache(CacheBudget(node))
    run = TrackWriter().run(INIT | KEY, 0)
    cache.add(run, 1, run.data[: run.init_bytes])
    assert cache.init is None
    assert cache.runs


def test_an_init_at_the_start_of_a_run_serves_a_later_key_in_it(node: Node) -> None:
    cache = GroupCache(CacheBudget(node))
    run = TrackWriter().run(INIT | KEY, 0, KEY)
    init = run.data[: run.init_bytes]
    cache.add(run, 1, init)
    assert cache.init == init


def test_a_group_too_large_for_the_room_is_dropped_until_the_next_key(node: Node) -> None:
    budget = CacheBudget(node)
    cache = GroupCache(budget)
    track = TrackWriter()
    cache.add(track.run(KEY, size=1000), 1, None)
    cache.add(track.run(0, size=1000), 2, None)
    assert cache.runs == []
    assert budget.used == node.cache_bytes == 0
    cache.add(track.run(0, size=100), 3, None)
    assert cache.runs == []
    fresh = track.run(KEY, size=100)
    cache.add(fresh, 4, None)
    assert cache.runs == [(4, fresh.data)]


def test_a_key_too_large_by_itself_is_not_kept_and_frees_the_old_group(node: Node) -> None:
    budget = CacheBudget(node)
    cache = GroupCache(budget)
    track = TrackWriter()
    cache.add(track.run(KEY, size=100), 1, None)
    cache.add(track.run(KEY, size=1990), 2, b"init")
    assert cache.runs == []
    assert budget.used == node.cache_bytes == 0


def test_the_bound_is_met_exactly(node: Node) -> None:
    budget = CacheBudget(node)
    assert budget.take(2000)
    assert not budget.take(1)
    budget.give_back(1)
    assert budget.take(1)
    assert budget.used == node.cache_bytes == 2000


def test_rooms_share_the_nodes_bound(node: Node) -> None:
    one, other = CacheBudget(node), CacheBudget(node)
    assert one.take(2000)
    assert not other.take(1001)
    assert other.used == 0
    assert other.take(1000)
    assert node.cache_bytes == 3000
    one.give_back(2000)
    assert node.cache_bytes == other.used == 1000


def test_tracks_share_the_rooms_bound(node: Node) -> None:
    budget = CacheBudget(node)
    one, other = GroupCache(budget), GroupCache(budget)
    large = TrackWriter().run(KEY, size=1500)
    one.add(large, 1, None)
    other.add(TrackWriter(track=1).run(KEY, size=1500), 2, None)
    assert other.runs == []
    assert one.runs == [(1, large.data)]


def test_dropping_twice_gives_back_once(node: Node) -> None:
    budget = CacheBudget(node)
    cache = GroupCache(budget)
    cache.add(TrackWriter().run(KEY), 1, b"init")
    cache.drop()
    cache.drop()
    assert budget.used == node.cache_bytes == 0
    assert cache.runs == []
    assert cache.init is None
