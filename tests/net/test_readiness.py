"""The look at all readable sockets, over pairs of sockets."""

from __future__ import annotations

import functools
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.net.running import eventually
from tim_trio.net import readiness as module
from tim_trio.net.readiness import ReadinessLoop


@asynccontextmanager
async def running(together_s: float = 0.0) -> AsyncIterator[ReadinessLoop[str]]:
    loop = ReadinessLoop[str](together_s)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(loop.run)
        yield loop
        nursery.cancel_scope.cancel()


def pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    return ours, theirs


async def test_what_needs_no_task_wakes_none() -> None:
    ours, theirs = pair()
    with ours, theirs:
        got: list[bytes] = []
        first_looks: list[float] = []

        def receive(now: float) -> str | None:
            first_looks.append(now)
            got.append(ours.recv(100))
            return "woken" if got[-1].endswith(b"wake up") else None

        def has_read(count: int) -> bool:
            return len(got) == count

        async with running() as loop, trio.open_nursery() as nursery:
            results: list[str] = []

            async def wait() -> None:
                results.append(await loop.wait(ours.fileno(), receive))

            nursery.start_soon(wait)
            for count, piece in enumerate((b"one", b"two"), 1):
                theirs.send(piece)
                await eventually(functools.partial(has_read, count), "it is read")
                assert not results
            theirs.send(b"wake up")
            await eventually(lambda: bool(results), "the task wakes up")
            assert got == [b"one", b"two", b"wake up"]
            assert results == ["woken"]
            assert first_looks == sorted(first_looks)
            # Nobody waits now, so nobody is called.
            theirs.send(b"later")
            await wait_all_tasks_blocked(0.01)
            assert len(got) == 3
            # What came meanwhile is found by the next wait.
            nursery.start_soon(wait)
            theirs.send(b"wake up")
            await eventually(lambda: len(results) == 2, "the task wakes up again")


async def test_cancelled_and_closed_waits_are_forgotten() -> None:
    ours, theirs = pair()
    with ours, theirs:
        async with running() as loop:
            with trio.move_on_after(0.01) as scope:
                await loop.wait(ours.fileno(), lambda _: "never called")
            assert scope.cancelled_caught
            theirs.send(b"x")
            async with trio.open_nursery() as nursery:
                ended: list[str] = []

                async def wait() -> None:
                    with pytest.raises(trio.ClosedResourceError):
                        await loop.wait(ours.fileno(), lambda _: None)
                    ended.append("closed")

                nursery.start_soon(wait)
                await trio.sleep(0.01)
                loop.close(ours.fileno())
                loop.close(ours.fileno())
            assert ended == ["closed"]


async def test_the_end_of_the_loop_ends_every_wait() -> None:
    ours, theirs = pair()
    with ours, theirs:
        loop = ReadinessLoop[str]()
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()

            async def run() -> None:
                with scope:
                    await loop.run()

            nursery.start_soon(run)

            async def wait() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await loop.wait(ours.fileno(), lambda _: None)

            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            scope.cancel()


async def test_a_descriptor_that_cannot_be_waited_for_leaves_nothing() -> None:
    ours, theirs = pair()
    ours.close()
    theirs.close()
    async with running() as loop:
        with pytest.raises(OSError, match="descriptor"):
            await loop.wait(10_000, lambda _: None)
        loop.close(10_000)


async def test_receiving_may_end_the_very_wait_it_is_called_for() -> None:
    ours, theirs = pair()
    with ours, theirs:
        async with running() as loop:
            scope = trio.CancelScope()

            def receive(now: float) -> str | None:
                ours.recv(100)
                scope.cancel()
                return "too late"

            theirs.send(b"x")
            with scope:
                await loop.wait(ours.fileno(), receive)
            assert scope.cancelled_caught


async def test_long_work_gives_others_a_turn_between_sockets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_TURN_S", 0.0)
    pairs = [pair() for _ in range(5)]
    order: list[str] = []
    try:
        async with running() as loop, trio.open_nursery() as nursery:

            def receive_from(sock: socket.socket) -> module.Receive[str]:
                def receive(now: float) -> str | None:
                    sock.recv(100)
                    order.append("read")
                    return None

                return receive

            for ours, _ in pairs:
                nursery.start_soon(loop.wait, ours.fileno(), receive_from(ours))
            await wait_all_tasks_blocked()
            for _, theirs in pairs:
                theirs.send(b"x")

            while order.count("read") < 5:
                order.append("turn")
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        first, last = order.index("read"), len(order) - 1
        assert "turn" in order[first:last]
    finally:
        for ours, theirs in pairs:
            ours.close()
            theirs.close()


@pytest.mark.parametrize("senders", [2, 20])
async def test_many_senders_share_a_look(senders: int) -> None:
    """Few are looked at at once; many wait for each other, for a bounded time."""
    together_s = 0.02
    pairs = [pair() for _ in range(senders)]
    looks: set[float] = set()
    reads = 0
    try:
        async with running(together_s) as loop, trio.open_nursery() as nursery:

            def receive_from(sock: socket.socket) -> module.Receive[str]:
                def receive(now: float) -> str | None:
                    nonlocal reads
                    reads += len(sock.recv(100))
                    looks.add(now)
                    return None

                return receive

            for ours, _ in pairs:
                nursery.start_soon(loop.wait, ours.fileno(), receive_from(ours))
            await wait_all_tasks_blocked()
            sent = 0
            for turn in range(300):
                for each in range(turn, turn + min(5, senders)):
                    pairs[each % senders][1].send(b"x")
                    sent += 1
                await trio.sleep(0.001)
            await eventually(lambda: reads == sent, "all is read")
            nursery.cancel_scope.cancel()
        if senders < 8:
            assert len(looks) > 200
        else:
            assert len(looks) < 100
    finally:
        for ours, theirs in pairs:
            ours.close()
            theirs.close()
