"""The token bucket, on a clock of the test's own."""

import math

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tim_trio.core.rates import Allowance, Recent, TokenBucket


def taken(bucket: TokenBucket, now: float, tries: int) -> int:
    return sum(bucket.take(now) for _ in range(tries))


def test_a_burst_then_the_rate() -> None:
    bucket = TokenBucket(rate=2, burst=5)
    assert taken(bucket, 100.0, 10) == 5
    assert taken(bucket, 100.4, 1) == 0
    assert taken(bucket, 101.0, 10) == 2


def test_a_long_rest_fills_no_more_than_the_burst() -> None:
    bucket = TokenBucket(rate=10, burst=3)
    assert taken(bucket, 0.0, 5) == 3
    assert taken(bucket, 1e6, 50) == 3


def test_wait_says_when_the_next_token_is_there() -> None:
    bucket = TokenBucket(rate=4, burst=1)
    assert bucket.take(7.0)
    assert bucket.wait_s() == 0.25
    assert not bucket.take(7.125)
    assert bucket.wait_s() == 0.125
    assert bucket.take(7.25)


def test_there_is_no_wait_while_tokens_are_left() -> None:
    bucket = TokenBucket(rate=4, burst=3)
    assert bucket.take(0.0)
    assert bucket.wait_s() == 0.0


@given(st.lists(st.sampled_from([0.0, 0.01, 0.125, 0.5, 3.0]), max_size=60))
def test_never_more_than_burst_and_rate_together(pauses: list[float]) -> None:
    bucket = TokenBucket(rate=8, burst=4)
    now = 0.0
    granted = 0
    for pause in pauses:
        now += pause
        granted += bucket.take(now)
        assert granted <= 4 + 8 * now + 1e-6


def test_looking_takes_nothing() -> None:
    bucket = TokenBucket(rate=1, burst=1)
    assert bucket.has_one(0.0)
    assert bucket.take(0.0)
    assert not bucket.has_one(0.5)
    assert bucket.has_one(1.0)


# What may be overdrawn


def test_overdrawing_has_to_be_waited_for() -> None:
    allowance = Allowance(rate=10, burst=20)
    assert allowance.charge(20, 0.0) == 0.0
    assert allowance.charge(5, 0.0) == 0.5
    assert allowance.charge(5, 0.0) == 1.0
    assert allowance.charge(0, 0.5) == 0.5
    assert allowance.charge(0, 1.0) == 0.0
    assert allowance.charge(20, 1e6) == 0.0
    assert allowance.charge(1, 1e6) == pytest.approx(0.1)


def test_what_is_covered_costs_no_wait() -> None:
    allowance = Allowance(rate=10, burst=20)
    assert allowance.covers(20, 0.0)
    assert not allowance.covers(21, 0.0)
    allowance.charge(20, 0.0)
    assert not allowance.covers(5, 0.4)
    assert allowance.covers(5, 0.5)
    assert allowance.covers(20, 1e6)
    assert not allowance.covers(21, 1e6)
    assert allowance.charge(5, 0.5) == 0.0  # looking has taken nothing


def test_what_was_not_done_is_given_back() -> None:
    allowance = Allowance(rate=1, burst=1)
    assert allowance.charge(3, 0.0) == 2.0
    allowance.refund(2)
    assert allowance.charge(0, 0.0) == 0.0


def test_without_a_rate_the_wait_has_no_end() -> None:
    allowance = Allowance(rate=0, burst=0)
    assert allowance.charge(0, 0.0) == 0.0
    assert allowance.charge(1, 0.0) == math.inf


@given(st.lists(st.tuples(st.integers(0, 50), st.sampled_from([0.0, 0.1, 2.0])), max_size=40))
def test_who_waits_as_told_keeps_to_the_rate(steps: list[tuple[int, float]]) -> None:
    allowance = Allowance(rate=8, burst=16)
    now = 0.0
    used = 0
    for amount, rest in steps:
        now += allowance.charge(amount, now) + rest
        used += amount
        assert used <= 16 + 8 * now + 1e-6


@pytest.mark.parametrize("limit", [TokenBucket(rate=2, burst=4), Allowance(rate=2, burst=4)])
def test_what_is_full_is_as_good_as_new(limit: TokenBucket | Allowance) -> None:
    assert limit.is_full(10.0)
    for _ in range(3):
        limit.take(10.0) if isinstance(limit, TokenBucket) else limit.charge(1, 10.0)
    assert not limit.is_full(10.0)
    assert not limit.is_full(11.4)
    assert limit.is_full(11.5)
    assert not limit.is_full(11.4)


# By key


@attrs.define(eq=False)
class Value:
    rests: bool = False

    def is_at_rest(self, now: float) -> bool:
        return self.rests


def recent(most: int) -> Recent[Value]:
    return Recent(Value, Value.is_at_rest, most)


def test_the_least_recently_used_key_is_forgotten() -> None:
    values = recent(2)
    a = id(values.of("a", 0.0))
    values.of("b", 0.0)
    assert id(values.of("a", 0.0)) == a
    values.of("c", 0.0)
    assert values.find("b") is None
    assert id(values.find("a")) == a
    assert len(values) == 2


def test_what_rests_is_forgotten_when_others_come() -> None:
    values = recent(1000)
    for number in range(100):
        values.of(str(number), 0.0).rests = True
    assert len(values) <= 2
    busy = values.of("busy", 0.0)
    for number in range(100):
        values.of(str(number), 0.0).rests = True
    assert values.of("busy", 0.0) is busy
    assert len(values) <= 3


def test_what_is_held_is_found_whatever_was_forgotten() -> None:
    values = recent(2)
    held = values.of("held", 0.0)
    held.rests = True
    for key in "abc":
        values.of(key, 0.0)
    assert values.find("held") is held
    assert values.of("held", 0.0) is held
    assert len(values) == 2
    del held
    for key in "abc":
        values.of(key, 0.0)
    assert values.find("held") is None
