"""Placement: the same everywhere, in proportion, and nothing moves that need not."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tim_trio.cluster.placement import MAX_WEIGHT, Placement, node_seed, score

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "placement.json").read_text())

rooms = st.integers(58**10, 2**64 - 1)
names = st.text("abcdefghijklmnopqrstuvwxyz0123456789.-", min_size=1, max_size=12)
weights = st.dictionaries(names, st.integers(1, 9), min_size=2, max_size=12)


@pytest.mark.parametrize("case", VECTORS["scores"], ids=lambda case: str(case["node"]))
def test_scores_are_those_written_down(case: dict[str, str]) -> None:
    seed = node_seed(case["node"])
    assert f"{seed:016x}" == case["seed"]
    assert f"{score(int(case['room']), seed):016x}" == case["score"]


@pytest.mark.parametrize("case", VECTORS["rankings"], ids=lambda case: str(case["comment"]))
def test_rankings_are_those_written_down(case: dict[str, object]) -> None:
    members = case["weights"]
    wanted = case["ranking"]
    assert isinstance(members, dict) and isinstance(wanted, list)
    assert Placement(members).rank(int(str(case["room"])), len(members)) == tuple(wanted)


@given(rooms, weights, st.data())
def test_removing_a_node_leaves_the_order_of_the_others(
    room: int, members: dict[str, int], data: st.DataObject
) -> None:
    gone = data.draw(st.sampled_from(sorted(members)))
    before = Placement(members).rank(room, len(members))
    left = {name: weight for name, weight in members.items() if name != gone}
    assert Placement(left).rank(room, len(left)) == tuple(n for n in before if n != gone)


@given(rooms, st.sets(names, min_size=2, max_size=12))
def test_equal_weights_give_the_same_as_their_logarithms(room: int, members: set[str]) -> None:
    placement = Placement(dict.fromkeys(members, 1))
    by_integers = placement.rank(room, 12)
    placement._equal = False
    assert placement.rank(room, 12) == by_integers


@given(rooms, weights)
def test_fewer_ranks_are_the_head_of_more(room: int, members: dict[str, int]) -> None:
    placement = Placement(members)
    assert len(placement) == len(members)
    assert placement.rank(room) == placement.rank(room, 99)[:4]


def test_rooms_are_shared_in_proportion_to_the_weights() -> None:
    generator = random.Random(7)
    members = {"small": 1, "middle": 2, "large": 5}
    placement = Placement(members)
    draws = 20_000
    relays = Counter(placement.rank(generator.randrange(58**10, 2**64), 1)[0] for _ in range(draws))
    for name, weight in members.items():
        # Four standard deviations of a binomial are at most 0.014.
        assert abs(relays[name] / draws - weight / 8) < 0.015


def test_a_lost_nodes_rooms_go_to_all_the_others() -> None:
    generator = random.Random(8)
    members = dict.fromkeys(["a", "b", "c", "d", "e"], 1)
    placement = Placement(members)
    heirs = Counter(
        ranked[1]
        for ranked in (placement.rank(generator.randrange(58**10, 2**64)) for _ in range(10_000))
        if ranked[0] == "a"
    )
    assert set(heirs) == {"b", "c", "d", "e"}
    assert max(heirs.values()) < 1.3 * min(heirs.values())


@pytest.mark.parametrize("weight", [0, -1, MAX_WEIGHT + 1])
def test_a_weight_out_of_range_is_refused(weight: int) -> None:
    with pytest.raises(ValueError, match="node a: weight"):
        Placement({"a": weight})
