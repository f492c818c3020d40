"""The look at all readable sockets, over pairs of sockets."""

from __future__ import annotations

import contextlib
import functools
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.net.running import eventually
from tests.net.test_connection import tcp_pair
from tim_trio.net import readiness as module
from tim_trio.net.readiness import ReadinessLoop, Rest


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


async def test_where_much_comes_it_may_gather() -> None:
    """Until the low-water mark, but not for longer than a rest."""
    ours, theirs = tcp_pair()
    ours.setblocking(False)
    with ours, theirs:
        looks: list[tuple[float, int]] = []
        rest = Rest.UNTIL_MUCH

        def receive(now: float) -> Rest | str | None:
            try:
                data = ours.recv(10_000)
            except BlockingIOError:
                data = b""
            looks.append((now, len(data)))
            if data == b"wake up":
                return "woken"
            rests = len(data) >= 1000
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 2000 if rests else 1)
            return rest if rests else None

        def has_read(total: int) -> bool:
            return sum(size for _, size in looks) == total

        async with running() as loop, trio.open_nursery() as nursery:
            results: list[str] = []

            async def wait() -> None:
                results.append(await loop.wait(ours.fileno(), receive))

            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            theirs.send(bytes(1000))
            await eventually(functools.partial(has_read, 1000), "it is read")
            for total in (2000, 3000):
                theirs.send(bytes(1000))
                await eventually(functools.partial(has_read, total), "it is read")
                (earlier, _), (later, _) = looks[-2:]
                assert later - earlier >= Rest.UNTIL_MUCH.value
            rest = Rest.A_MOMENT
            theirs.send(bytes(1000))
            await eventually(functools.partial(has_read, 4000), "it is read")
            await eventually(lambda: looks[-1][1] == 0, "the look at the end of its rest")
            (earlier, _), (later, _) = looks[-2:]
            assert later - earlier >= Rest.A_MOMENT.value
            theirs.send(b"wake up")
            await eventually(lambda: results == ["woken"], "the task wakes up")


async def test_much_that_has_come_ends_a_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rest.UNTIL_MUCH, "_value_", 1000.0)
    ours, theirs = tcp_pair()
    ours.setblocking(False)
    with ours, theirs:
        got = bytearray()

        def receive(now: float) -> Rest | str | None:
            got.extend(ours.recv(10_000))
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 2000)
            return Rest.UNTIL_MUCH

        def has_got(count: int) -> bool:
            return len(got) == count

        async with running() as loop, trio.open_nursery() as nursery:
            nursery.start_soon(loop.wait, ours.fileno(), receive)
            theirs.send(bytes(10))
            await eventually(functools.partial(has_got, 10), "it is read")
            theirs.send(bytes(1000))
            await trio.sleep(0.05)
            assert len(got) == 10
            theirs.send(bytes(1000))
            await eventually(functools.partial(has_got, 2010), "it is read")
            nursery.cancel_scope.cancel()


async def test_one_that_rests_for_long_keeps_nobody_else_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Rest.UNTIL_MUCH, "_value_", 1000.0)
    pairs = [tcp_pair() for _ in Rest]
    got = dict.fromkeys(Rest, 0)

    def receive_from(sock: socket.socket, rest: Rest) -> Callable[[float], Rest | str | None]:
        def receive(now: float) -> Rest | str | None:
            with contextlib.suppress(BlockingIOError):
                got[rest] += len(sock.recv(10_000))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 2000)
            return rest

        return receive

    def has_got(rest: Rest, count: int) -> bool:
        return got[rest] == count

    try:
        async with running() as loop, trio.open_nursery() as nursery:
            for rest, (ours, theirs) in zip((Rest.UNTIL_MUCH, Rest.A_MOMENT), pairs, strict=True):
                ours.setblocking(False)
                nursery.start_soon(loop.wait, ours.fileno(), receive_from(ours, rest))
                theirs.send(bytes(10))
                await eventually(functools.partial(has_got, rest, 10), "it is read")
            pairs[1][1].send(bytes(10))
            await eventually(functools.partial(has_got, Rest.A_MOMENT, 20), "it is read")
            nursery.cancel_scope.cancel()
    finally:
        for ours, theirs in pairs:
            ours.close()
            theirs.close()


async def test_who_rests_is_woken_by_a_close_and_forgotten() -> None:
    ours, theirs = pair()
    with ours, theirs:
        looks = 0

        def receive(now: float) -> Rest | str | None:
            nonlocal looks
            looks += 1
            with contextlib.suppress(BlockingIOError):
                ours.recv(100)
            return Rest.A_MOMENT

        async with running() as loop, trio.open_nursery() as nursery:

            async def close() -> None:
                await eventually(lambda: looks > 1, "it rests")
                loop.close(ours.fileno())

            nursery.start_soon(close)
            theirs.send(b"x")
            with pytest.raises(trio.ClosedResourceError):
                await loop.wait(ours.fileno(), receive)
            before = looks
            await trio.sleep(0.05)
            assert looks == before
