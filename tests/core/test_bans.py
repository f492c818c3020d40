"""Bans in memory: who is refused, who is told, how many there may be."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tim_trio.core.bans import Bans
from tim_trio.core.revocation import Identity, Revocation
from tim_trio.errors import Code, RoomError
from tim_trio.protocol.messages import Right


async def test_a_ban_that_is_lifted_and_set_again_is_told_again() -> None:
    bans = Bans(most=1)
    told: list[Revocation] = []
    bans.add("mallory")
    bans.lift("mallory")
    bans.lift("mallory")
    bans.check("mallory")
    bans.add("mallory")
    with pytest.raises(RoomError):
        bans.check("mallory")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bans.run, told.append)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert len({each.number for each in told}) == 2


async def test_each_ban_is_told_once_whenever_it_came() -> None:
    bans = Bans()
    told: list[Revocation] = []
    bans.add("before")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bans.run, told.append)
        await wait_all_tasks_blocked()
        bans.add("one")
        bans.add("one")
        bans.add("two")
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert [each.account for each in told] == ["before", "one", "two"]
    for each in told:
        assert each.code == Code.BANNED
        assert each.concerns(Identity(account=each.account, rights=Right(0), session="9"))
    assert len({each.number for each in told}) == 3


def test_who_is_banned_is_refused() -> None:
    bans = Bans()
    bans.check("alice")
    bans.add("alice")
    with pytest.raises(RoomError) as caught:
        bans.check("alice")
    assert caught.value.code == Code.PERMISSION_DENIED
    bans.check("bob")


def test_they_are_bounded() -> None:
    bans = Bans(most=1)
    bans.add("alice")
    bans.add("alice")
    with pytest.raises(RoomError) as caught:
        bans.add("bob")
    assert caught.value.code == Code.UNAVAILABLE
    bans.check("bob")
