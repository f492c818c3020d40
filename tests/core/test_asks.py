"""Asks to push in one room."""

import pytest

from tim_trio.core import asks as asks_module
from tim_trio.core.asks import Asks
from tim_trio.errors import Code, RoomError
from tim_trio.limits import Limits


def refused(asks: Asks, account: str, now: float) -> RoomError:
    with pytest.raises(RoomError) as caught:
        asks.check(account, now)
    assert caught.value.code == Code.RATE_LIMITED
    return caught.value


def ask(asks: Asks, account: str, now: float) -> None:
    asks.check(account, now)
    asks.note(account, now)


def test_one_per_account_and_interval() -> None:
    asks = Asks(Limits(ask_interval_s=10))
    ask(asks, "bob", 100.0)
    error = refused(asks, "bob", 104.0)
    assert error.retry_after_ms == 6001
    assert error.limit == "ask_interval_s"
    ask(asks, "eve", 104.0)
    ask(asks, "bob", 110.0)


def test_who_may_not_be_told_has_not_asked() -> None:
    asks = Asks(Limits(asks_per_minute_per_room=1))
    for _ in range(3):
        asks.check("bob", 0.0)
    ask(asks, "bob", 0.0)


def test_who_is_granted_and_revoked_may_ask_anew() -> None:
    asks = Asks(Limits())
    ask(asks, "bob", 0.0)
    asks.forget("bob")
    asks.forget("nobody")
    ask(asks, "bob", 1.0)


def test_so_many_a_minute_of_all_accounts() -> None:
    asks = Asks(Limits(asks_per_minute_per_room=6, ask_interval_s=0))
    for number in range(6):
        ask(asks, f"account {number}", 0.0)
    error = refused(asks, "another", 0.0)
    assert error.limit == "asks_per_minute_per_room"
    assert error.retry_after_ms == 10_001
    ask(asks, "another", 10.1)
    refused(asks, "a third", 10.1)


def test_only_so_many_askers_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asks_module, "_ASKERS_KEPT", 2)
    asks = Asks(Limits(ask_interval_s=10))
    ask(asks, "bob", 0.0)
    ask(asks, "carol", 5.0)
    assert refused(asks, "dave", 9.0).retry_after_ms == 1001
    ask(asks, "bob", 10.0)  # the oldest asks again and is the newest now
    refused(asks, "dave", 14.0)
    ask(asks, "dave", 15.0)
    refused(asks, "bob", 16.0)
    ask(asks, "carol", 21.0)
