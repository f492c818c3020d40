"""Who is closed when reliable rooms hold too much, on bare numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.core.builders import LIMITS, make_peer
from tim_trio.core.node import Node
from tim_trio.core.outbox import Outbox
from tim_trio.core.shedding import Claim, choose, held_bytes

NODE = Node(LIMITS)
ONE, TWO, THREE = (make_peer(NODE).outbox for _ in range(3))


def test_who_waits_for_the_same_shares_it() -> None:
    assert held_bytes([]) == 0
    claims = [Claim("a", ONE, 700), Claim("b", TWO, 900)]
    assert held_bytes(claims) == 900
    assert choose([claims, claims[:1]], 1600) == []


def test_the_account_that_makes_it_hold_most_goes_first() -> None:
    claims = [[Claim("many", ONE, 500)], [Claim("many", ONE, 500)], [Claim("one", TWO, 900)]]
    assert choose(claims, 1899) == [ONE]
    assert choose(claims, 900) == [ONE]
    assert choose(claims, 899) == [ONE, TWO]


def test_of_an_account_the_connection_that_is_furthest_behind() -> None:
    claims = [[Claim("a", ONE, 500), Claim("a", TWO, 600)], [Claim("a", THREE, 550)]]
    assert choose(claims, 1100) == [TWO]
    assert choose(claims, 1000) == [TWO, THREE]


def test_everyone_goes_where_nothing_may_be_held() -> None:
    claims = [[Claim("a", ONE, 5), Claim("b", TWO, 5)], []]
    assert set(choose(claims, 0)) == {ONE, TWO}
    assert choose([], 0) == []


@given(
    st.lists(st.dictionaries(st.sampled_from([ONE, TWO, THREE]), st.integers(1, 1000))),
    st.integers(0, 5000),
)
def test_what_is_left_fits(sources: list[dict[Outbox, int]], most_bytes: int) -> None:
    claims = [
        [Claim("a" if outbox is ONE else "b", outbox, size) for outbox, size in source.items()]
        for source in sources
    ]
    closed = choose(claims, most_bytes)
    assert len(closed) == len(set(closed))

    def left(gone: list[Outbox]) -> int:
        return sum(
            held_bytes(claim for claim in source if claim.outbox not in gone) for source in claims
        )

    assert left(closed) <= most_bytes
    # And nobody goes once it does.
    assert not closed or left(closed[:-1]) > most_bytes
