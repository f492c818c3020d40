"""The token bucket, on a clock of the test's own."""

from hypothesis import given
from hypothesis import strategies as st

from tim_trio.core.rates import TokenBucket


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
