"""Logins per minute and key."""

import pytest

from tim_trio.accounts.rates import MinuteRates
from tim_trio.errors import Code, RoomError


def refused(rates: MinuteRates, key: str, now: float) -> RoomError:
    with pytest.raises(RoomError) as caught:
        rates.take(key, now)
    assert caught.value.code == Code.RATE_LIMITED
    assert caught.value.limit == "a_limit"
    return caught.value


def test_so_many_a_minute_and_each_key_for_itself() -> None:
    rates = MinuteRates(6.0, "a_limit")
    for _ in range(6):
        rates.take("a", 0.0)
    assert refused(rates, "a", 0.0).retry_after_ms == 10_001
    rates.take("b", 0.0)
    refused(rates, "a", 9.9)
    rates.take("a", 10.1)


def test_looking_counts_nothing() -> None:
    rates = MinuteRates(1.0, "a_limit")
    for _ in range(3):
        rates.check("a", 0.0)
    rates.take("a", 0.0)
    with pytest.raises(RoomError):
        rates.check("a", 1.0)
    rates.check("a", 61.0)


def test_the_keys_are_bounded_and_the_least_recently_used_goes_first() -> None:
    rates = MinuteRates(1.0, "a_limit", keys_kept=2)
    rates.take("a", 0.0)
    rates.take("b", 0.0)
    refused(rates, "a", 0.0)
    rates.take("c", 0.0)
    refused(rates, "a", 0.0)
    rates.take("b", 0.0)  # it had been forgotten
