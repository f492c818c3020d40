"""The rates of one connection, on a clock of the test's own."""

import pytest

from tests.core.builders import limits
from tim_trio.core.node import Node
from tim_trio.core.rates import Allowance
from tim_trio.core.throttle import AccountRates, Throttle, address_commands
from tim_trio.errors import Code, RemoteProtocolError, RoomError


def make(**bounds: float) -> Throttle:
    node = Node(limits(**bounds))
    throttle = Throttle(node, address_commands(node.limits))
    throttle.join_account(AccountRates.of(node.limits))
    return throttle


def test_within_the_rates_nothing_waits() -> None:
    throttle = make()
    assert throttle.charge_command(0.0) == 0.0
    assert throttle.charge_messages(10_000, 0.0) == 0.0
    assert throttle.charge_stream(1_000_000, 0.0) == 0.0


def test_a_command_over_the_rate_waits_for_its_turn() -> None:
    throttle = make(commands_per_s=10, command_burst=1)
    assert throttle.charge_command(0.0) == 0.0
    assert throttle.charge_command(0.0) == pytest.approx(0.1)
    assert throttle.charge_command(0.1) == pytest.approx(0.1)


def test_what_would_wait_is_not_counted_where_nobody_can() -> None:
    throttle = make(commands_per_s=10, command_burst=1)
    assert throttle.charge_command_at_once(0.0)
    assert not throttle.charge_command_at_once(0.05)
    assert throttle.charge_command_at_once(0.1)


def test_what_others_of_its_address_have_used_up_is_not_there_at_once() -> None:
    node = Node(limits(commands_per_s_per_address=10))
    shared = address_commands(node.limits)
    first, second = Throttle(node, shared), Throttle(node, shared)
    while shared.covers(1, 0.0):
        assert first.charge_command_at_once(0.0)
    assert not second.charge_command_at_once(0.0)
    assert second.charge_command_at_once(0.1)


def test_after_too_many_waits_commands_are_refused_and_then_are_a_flood() -> None:
    throttle = make(commands_per_s=1, command_burst=1, max_slowed_s=2, max_refused_commands=2)
    now = 0.0
    for _ in range(3):
        now += throttle.charge_command(now)
    for _ in range(2):
        with pytest.raises(RoomError) as refused:
            throttle.charge_command(now)
        assert refused.value.code == Code.RATE_LIMITED
        assert refused.value.retry_after_ms
    with pytest.raises(RemoteProtocolError) as flood:
        throttle.charge_command(now)
    assert (flood.value.code, flood.value.limit) == (Code.FLOODING, "max_refused_commands")


def test_a_refused_command_costs_nothing() -> None:
    throttle = make(commands_per_s=1, command_burst=1, max_slowed_s=0)
    assert throttle.charge_command(0.0) == 0.0
    for _ in range(5):
        with pytest.raises(RoomError):
            throttle.charge_command(0.0)
    assert throttle.charge_command(1.0) == 0.0


def test_the_waits_of_an_address_are_no_ones_fault() -> None:
    node = Node(limits(commands_per_s_per_address=1, max_slowed_s=0, max_refused_commands=1))
    shared = Allowance(1, 1)
    mine, other = Throttle(node, shared), Throttle(node, shared)
    assert mine.charge_command(0.0) == 0.0
    assert [other.charge_command(0.0) for _ in range(8)] == [1, 2, 3, 4, 5, 5, 5, 5]
    assert node.limited == {"commands_per_s_per_address": 8}


def test_connections_of_an_account_share_its_bytes() -> None:
    node = Node(
        limits(
            stream_bytes_per_s_per_account=10_000,
            account_stream_bytes_per_s_per_account=10_000,
        )
    )
    rates = AccountRates.of(node.limits)
    several = [Throttle(node, address_commands(node.limits)) for _ in range(2)]
    for each in several:
        each.join_account(rates)
    assert several[0].charge_stream(10_000, 0.0) == 0.0
    assert several[1].charge_stream(10_000, 0.0) == pytest.approx(1.0)
    assert several[0].charge_messages(10_000, 0.0) == 0.0
    assert several[1].charge_messages(10_000, 0.0) == pytest.approx(1.0)
    assert node.limited == {
        "stream_bytes_per_s_per_account": 1,
        "account_stream_bytes_per_s_per_account": 1,
    }
    assert node.slowed_ms == 2000


def test_a_pause_has_an_end_and_what_is_owed_stays_owed() -> None:
    throttle = make(stream_bytes_per_s=1024)
    assert throttle.charge_stream(1024 * 13, 0.0) == 5.0
    assert throttle.charge_stream(0, 5.0) == 5.0
    assert throttle.charge_stream(0, 10.0) == pytest.approx(2.0)
    assert throttle.charge_stream(0, 12.0) == 0.0


def test_unchecked_bytes_are_few_where_the_rate_is_low() -> None:
    assert make().unchecked_bytes == 256 * 1024
    assert make(stream_bytes_per_s=16_000).unchecked_bytes == 1000
    assert make(stream_bytes_per_s_per_account=16_000).unchecked_bytes == 1000


def test_messages_over_the_rate_are_refused_in_the_end() -> None:
    throttle = make(account_stream_bytes_per_s=1024, max_slowed_s=1)
    assert throttle.charge_messages(1024, 0.0) == 0.0
    assert throttle.charge_messages(1024, 0.0) == pytest.approx(1.0)
    with pytest.raises(RoomError):
        throttle.charge_messages(1024, 0.0)
    assert throttle.charge_messages(0, 1.1) == 0.0  # the refused one did not count


def test_a_publisher_is_warned_once_a_second_and_then_closed() -> None:
    throttle = make(max_slowed_s=6)
    assert [throttle.must_warn(2.0, 0.0) for _ in range(5)] == [False, False, False, True, False]
    assert throttle.must_warn(0.1, 1.0)
    with pytest.raises(RemoteProtocolError) as flood:
        throttle.must_warn(3.0, 1.0)
    assert (flood.value.code, flood.value.limit) == (Code.FLOODING, "max_slowed_s")


def test_patience_comes_back() -> None:
    throttle = make(max_slowed_s=6)
    assert not throttle.must_warn(6.0, 0.0)
    assert throttle.must_warn(1.0, 0.0)
    assert not throttle.must_warn(6.0, 70.0)
