"""Logins per minute and key."""

import pytest

from tim_trio.accounts.rates import MinuteRates, network_of
from tim_trio.errors import Code, RoomError


@pytest.mark.parametrize(
    "address, network",
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("no address", "no address"),
        ("", ""),
    ],
)
def test_what_counts_as_one_address(address: str, network: str) -> None:
    assert network_of(address) == network


def refused(rates: MinuteRates, key: str, now: float) -> RoomError:
    with pytest.raises(RoomError) as caught:
        rates.take(key, now)
    assert caught.value.code == Code.RATE_LIMITED
    return caught.value


def test_so_many_a_minute_and_each_key_for_itself() -> None:
    rates = MinuteRates(6.0)
    for _ in range(6):
        rates.take("a", 0.0)
    assert refused(rates, "a", 0.0).retry_after_ms == 10_001
    rates.take("b", 0.0)
    refused(rates, "a", 9.9)
    rates.take("a", 10.1)


def test_looking_counts_nothing() -> None:
    rates = MinuteRates(1.0)
    for _ in range(3):
        rates.check("a", 0.0)
    rates.take("a", 0.0)
    with pytest.raises(RoomError):
        rates.check("a", 1.0)
    rates.check("a", 61.0)


def test_the_keys_are_bounded_and_the_least_recently_used_goes_first() -> None:
    rates = MinuteRates(1.0, keys_kept=2)
    rates.take("a", 0.0)
    rates.take("b", 0.0)
    refused(rates, "a", 0.0)
    rates.take("c", 0.0)
    refused(rates, "a", 0.0)
    rates.take("b", 0.0)  # it had been forgotten
