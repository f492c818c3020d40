"""Who may come in, by address."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tim_trio.core.node import Node
from tim_trio.errors import Code
from tim_trio.limits import Limits
from tim_trio.net.admission import Admission


@attrs.define(eq=False)
class Visitor:
    address: str
    is_known: bool = False


@attrs.define
class Door:
    """An admission, and who is in."""

    limits: Limits
    admission: Admission[Visitor] = attrs.field(init=False)
    dropped: list[Visitor] = attrs.Factory(list)

    def __attrs_post_init__(self) -> None:
        self.admission = Admission(Node(self.limits), self.dropped.append)

    def come(self, address: str = "192.0.2.1") -> Visitor | Code:
        refusal = self.admission.refusal(address)
        if refusal is not None:
            return refusal
        visitor = Visitor(address)
        self.admission.enter(visitor, address)
        return visitor

    def come_in(self, address: str = "192.0.2.1") -> Visitor:
        visitor = self.come(address)
        assert isinstance(visitor, Visitor)
        return visitor


def test_in_all() -> None:
    door = Door(Limits(max_connections=2))
    first = door.come_in("192.0.2.1")
    door.come_in("192.0.2.2")
    assert door.come("192.0.2.3") is Code.OVERLOADED
    door.admission.leave(first)
    door.come_in("192.0.2.3")
    assert door.admission.node.limited == {"max_connections": 1}


def test_from_one_address() -> None:
    door = Door(Limits(max_connections_per_address=2))
    first = door.come_in("2001:db8::1")
    door.come_in("2001:db8::2")
    assert door.come("2001:db8::3") is Code.TOO_MANY_CONNECTIONS  # of one /64
    door.come_in("2001:db8:0:1::1")
    door.admission.leave(first)
    door.come_in("2001:db8::3")
    assert door.admission.node.limited == {"max_connections_per_address": 1}


def test_a_rate_of_one_address() -> None:
    door = Door(Limits(max_connections_per_address=2, connections_per_s_per_address=1))
    may = door.admission.may_connect
    assert [may("192.0.2.1", 0.0) for _ in range(4)] == [True, True, False, False]
    assert may("192.0.2.2", 0.0)
    assert [may("192.0.2.1", 1.0) for _ in range(2)] == [True, False]
    assert door.admission.node.limited == {"connections_per_s_per_address": 3}


def test_newcomers_that_are_known_by_now_do_not_count() -> None:
    door = Door(Limits(max_unauthenticated=2))
    first, second = door.come_in(), door.come_in("192.0.2.2")
    assert door.admission.know(first)
    assert not door.admission.know(first)
    third = door.come_in("192.0.2.3")
    assert door.admission.newcomers() == (second, third)
    assert door.come("192.0.2.4") is Code.OVERLOADED
    assert door.admission.node.limited == {"max_unauthenticated": 1}
    door.admission.leave(second)
    assert not door.admission.know(second)


def test_the_address_with_most_newcomers_makes_room() -> None:
    door = Door(Limits(max_unauthenticated=4))
    crowd = [door.come_in("192.0.2.9") for _ in range(3)]
    other = door.come_in("192.0.2.1")
    assert door.come("192.0.2.9") is Code.OVERLOADED  # itself gets nothing by it
    late = door.come_in("192.0.2.2")
    assert door.dropped == [crowd[0]]
    assert door.admission.newcomers() == (*crowd[1:], other, late)
    # Now nobody has clearly more than the one who comes.
    assert door.come("192.0.2.1") is Code.OVERLOADED
    for visitor in (crowd[0], *crowd[1:], other, late):
        door.admission.leave(visitor)
    assert not door.admission.newcomers()
    for _ in range(4):
        door.come_in()


def test_a_crowd_cannot_keep_others_out() -> None:
    door = Door(Limits(max_unauthenticated=10))
    for number in range(200):
        door.come("192.0.2.9")
        assert door.admission.know(door.come_in(f"198.51.100.{number}"))


@pytest.mark.parametrize("bound", [1, 3])
@given(
    st.lists(st.tuples(st.sampled_from(["come", "leave", "greet"]), st.integers(0, 9)), max_size=60)
)
def test_the_counts_are_those_of_who_is_there(bound: int, steps: list[tuple[str, int]]) -> None:
    door = Door(Limits(max_unauthenticated=bound, max_connections=6, max_connections_per_address=4))
    there: list[Visitor] = []
    for act, number in steps:
        if act == "come":
            visitor = door.come(f"192.0.2.{number % 3}")
            if isinstance(visitor, Visitor):
                there.append(visitor)
        elif there:
            visitor = there[number % len(there)]
            if act == "greet":
                visitor.is_known = True
                door.admission.know(visitor)
            else:
                there.remove(visitor)
                door.admission.leave(visitor)
        unknown = [each for each in there if not each.is_known and each not in door.dropped]
        assert list(door.admission.newcomers()) == unknown
        assert len(unknown) <= bound
        assert len(there) <= 6
        for address in ("192.0.2.0", "192.0.2.1", "192.0.2.2"):
            assert sum(each.address == address for each in there) <= 4
