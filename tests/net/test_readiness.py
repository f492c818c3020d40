"""The look at all readable sockets, over pairs of sockets."""

from __future__ import annotations

import functools
import itertools
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.net.running import eventually
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


async def test_where_much_comes_it_may_gather(monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket that rests is looked at in a moment, and at once again when less has come."""
    monkeypatch.setattr(module, "_REST_S", 0.05)
    monkeypatch.setattr(module, "_WORTH_A_REST_S", 10.0)  # the machine may be busy
    ours, theirs = pair()
    with ours, theirs:
        looks: list[tuple[float, int]] = []

        def receive(now: float) -> Rest | str | None:
            try:
                data = ours.recv(1000)
            except BlockingIOError:
                data = b""
            looks.append((now, len(data)))
            if data == b"wake up":
                return "woken"
            return Rest.A_MOMENT if len(data) >= 100 else None

        def has_read(total: int) -> bool:
            return sum(size for _, size in looks) == total

        async with running() as loop, trio.open_nursery() as nursery:
            results: list[str] = []

            async def wait() -> None:
                results.append(await loop.wait(ours.fileno(), receive))

            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            for count in range(1, 4):
                theirs.send(bytes(100))
                await eventually(functools.partial(has_read, 100 * count), "it is read")
            for earlier, later in itertools.pairwise(now for now, _ in looks):
                assert later - earlier >= 0.05
            # Nothing has come meanwhile: the next is read when it comes.
            await eventually(lambda: looks[-1][1] == 0, "the last look")
            monkeypatch.setattr(module, "_REST_S", 1000.0)
            theirs.send(b"x")
            await eventually(functools.partial(has_read, 301), "it is read at once")
            theirs.send(b"wake up")
            await eventually(lambda: results == ["woken"], "the task wakes up")


async def test_who_rests_is_woken_by_a_close_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REST_S", 0.01)
    monkeypatch.setattr(module, "_WORTH_A_REST_S", 10.0)
    ours, theirs = pair()
    with ours, theirs:
        looks = 0

        def receive(now: float) -> Rest | str | None:
            nonlocal looks
            looks += 1
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


async def test_who_takes_long_does_not_rest_besides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REST_S", 1000.0)
    monkeypatch.setattr(module, "_WORTH_A_REST_S", 0.0)
    ours, theirs = pair()
    with ours, theirs:
        got = bytearray()

        def receive(now: float) -> Rest | str | None:
            got.extend(ours.recv(100))
            return Rest.A_MOMENT

        def has_got(count: int) -> bool:
            return len(got) == count

        async with running() as loop, trio.open_nursery() as nursery:
            nursery.start_soon(loop.wait, ours.fileno(), receive)
            for count in range(1, 4):
                theirs.send(b"x")
                await eventually(functools.partial(has_got, count), "it is read")
            nursery.cancel_scope.cancel()
