"""Hashing: beside streams, bounded, and alike for accounts that do not exist."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Literal

import argon2
import pytest
import trio
import trio.testing

from tests.accounts.cheap import CHEAP, cheap_hasher
from tim_trio.accounts.passwords import PasswordHasher, check_strength, gently, weakness
from tim_trio.errors import Code, RoomError


def test_the_costs_are_the_librarys_defaults() -> None:
    hashed = PasswordHasher().hash_blocking(b"correct horse")
    parameters = argon2.extract_parameters(hashed)
    assert parameters == argon2.extract_parameters(argon2.PasswordHasher().hash(b"x"))
    assert hashed.startswith("$argon2id$")


@pytest.mark.parametrize(
    "password, account, is_weak",
    [
        (b"1234567", "alice", True),
        (b"12345678", "alice", False),
        (b"aaaaaaaaaaaa", "alice", True),
        (b"Charlotte", "charlotte", True),
        (b"charlotte2", "charlotte", False),
        ("ätzend".encode(), "alice", True),
        (b"\x00" * 4 + b"\xff" * 4, "alice", False),
    ],
)
def test_weak_passwords(password: bytes, account: str, is_weak: bool) -> None:
    assert (weakness(password, account) is not None) == is_weak
    if is_weak:
        with pytest.raises(RoomError) as caught:
            check_strength(password, account)
        assert caught.value.code == Code.WEAK_PASSWORD
    else:
        check_strength(password, account)


async def test_a_password_fits_its_hash_alone() -> None:
    hasher = cheap_hasher()
    hashed = await hasher.hash(b"correct horse")
    assert await hasher.verify(hashed, b"correct horse")
    assert not await hasher.verify(hashed, b"correct hors")
    assert not await hasher.verify("not a hash", b"correct horse")


async def test_nobodys_password_is_checked_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    verified: list[str] = []

    class Spy(argon2.PasswordHasher):
        def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:
            verified.append(str(hash))
            return super().verify(hash, password)

    hasher = PasswordHasher(argon2_hasher=Spy(time_cost=1, memory_cost=8, parallelism=1))
    hashed = await hasher.hash(b"correct horse")
    await hasher.verify(hashed, b"wrong horse")
    for _ in range(2):
        assert not await hasher.verify(None, b"correct horse")
    assert len(verified) == 3
    # Of the same cost, and not made anew each time.
    assert verified[1] == verified[2] != hashed
    assert argon2.extract_parameters(verified[1]) == argon2.extract_parameters(hashed)


async def test_a_crowd_is_told_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    hasher = cheap_hasher(threads=1, max_waiting=2)
    go_on = threading.Event()
    results: list[bool] = []

    async def login() -> None:
        results.append(await hasher.verify(None, b"x"))

    hasher._decoy = CHEAP.hash(b"nobody")
    monkeypatch.setattr(hasher, "_verify", lambda *_: go_on.wait(10))
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(login)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(RoomError) as caught:
            await hasher.verify(None, b"x")
        assert caught.value.code == Code.UNAVAILABLE
        assert caught.value.retry_after_ms > 0
        go_on.set()
    assert results == [True] * 3
    # There is room again.
    assert await hasher.verify(None, b"x")


async def test_who_stops_waiting_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    hasher = cheap_hasher(threads=1, max_waiting=1)
    go_on = threading.Event()
    monkeypatch.setattr(hasher, "_verify", lambda *_: go_on.wait(10))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hasher.verify, None, b"x")
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0.01):
            await hasher.verify(None, b"x")
        with trio.move_on_after(0.01) as scope:
            await hasher.verify(None, b"x")
        assert scope.cancelled_caught  # and not refused
        go_on.set()


def test_the_work_is_done_with_low_priority_and_errors_come_out() -> None:
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = niceness()
    if sys.platform == "linux":
        assert gently(niceness) == min(19, before + 10)
    assert niceness() == before
    with pytest.raises(ZeroDivisionError):
        gently(lambda: 1 // 0)


async def test_hashing_leaves_the_event_loop_free() -> None:
    hasher = PasswordHasher()
    longest = 0.0
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            nonlocal longest
            while True:
                started = time.perf_counter()
                await trio.lowlevel.checkpoint()
                longest = max(longest, time.perf_counter() - started)

        nursery.start_soon(watch)
        took = time.perf_counter()
        await hasher.hash(b"correct horse")
        took = time.perf_counter() - took
        nursery.cancel_scope.cancel()
    assert longest < took
    assert hasher.is_outdated(CHEAP.hash(b"x"))
