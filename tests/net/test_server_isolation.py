"""One subscriber in trouble leaves all the others alone."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from typing import Final

import pytest
import trio

from tests.net.rawclient import DEADLINE_S, RawClient, frame
from tests.net.running import Received, Running, bystanders, eventually, running_server
from tim_trio.core.manager import RoomManager
from tim_trio.errors import Code
from tim_trio.limits import Limits
from tim_trio.net.connection import TcpConnection
from tim_trio.protocol import messages
from tim_trio.protocol.layout import Flag
from tim_trio.protocol.messages import GapReason
from tim_trio.protocol.stream import StreamFrame

_GROUP: Final = 10
_PAYLOAD: Final = bytes(1000)
_LIMITS: Final = Limits(
    max_frame_bytes=16 * 1024,
    max_init_bytes=4096,
    backlog_bytes=64 * 1024,
    backlog_age_s=30,
    stall_timeout_s=30,
    command_burst=1_000_000,  # a PING per frame
)


class Group:
    """A publisher that pushes group after group, and knows what it has pushed."""

    def __init__(self, publisher: RawClient, room: int) -> None:
        self.publisher = publisher
        self.room = room
        self.frames: list[StreamFrame] = []

    async def push(self, flags: int = Flag.NONE) -> None:
        await self.send(frame(self.room, len(self.frames), _PAYLOAD, flags=flags))

    async def send(self, one: StreamFrame) -> None:
        self.frames.append(one)
        await self.publisher.send(one)
        # The answer comes after the fan-out.
        assert await self.publisher.is_served()

    async def push_group_until(self, condition: Callable[[], bool]) -> None:
        """Push groups until a condition holds after one of them."""
        with trio.fail_after(DEADLINE_S):
            while not condition():
                await self.push_group()

    async def push_group(self) -> None:
        for index in range(_GROUP):
            await self.push(Flag.NONE if index else Flag.KEY)

    async def end(self) -> None:
        await self.send(frame(self.room, len(self.frames), b"", flags=Flag.END))


@contextlib.asynccontextmanager
async def reading_along(
    running: Running, group: Group, subscribers: int = 3
) -> AsyncIterator[None]:
    """Subscribers that read all the while; at the end each has everything, in order."""
    audience = [await running.connect(f"reader{n}") for n in range(subscribers)]
    for each in audience:
        await each.subscribe(group.room)
    received = [Received() for _ in audience]
    async with trio.open_nursery() as nursery:
        for client, taken in zip(audience, received, strict=True):
            nursery.start_soon(taken.read_until_end, client)
        yield
        await group.end()
    for taken in received:
        assert not taken.gaps
        assert taken.frames == group.frames


#: How the one in trouble is connected; the others are always there by TCP.
_BOTH_KINDS: Final = pytest.mark.parametrize("kind", ["tcp", "websocket"])
#: What a WebSocket message costs beside its frames, at most.
_HEADER: Final = 10


async def _stalled(running: Running, room: int, kind: str = "tcp") -> RawClient:
    """Return a subscriber that does not read, for whom the kernel holds little.

    The others keep their large buffers: with small ones it would be up to the
    kernel's delays whether they keep up.
    """
    connect = running.connect if kind == "tcp" else running.connect_web
    stalled: RawClient = await connect("stalled", receive_buffer=4096)
    for connection in running.server.connections:
        if connection.session.account == "stalled":
            assert isinstance(connection._socket, socket.socket)
            connection._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    await stalled.subscribe(room)
    return stalled


@_BOTH_KINDS
async def test_who_stops_reading_lags_alone_and_comes_back_at_a_key(kind: str) -> None:
    async with running_server(_LIMITS) as running:
        node = running.node
        group = Group(*await running.published_room())
        await group.push(Flag.INIT)
        stalled = await _stalled(running, group.room, kind)
        taken = Received()
        async with trio.open_nursery() as nursery, reading_along(running, group):
            await group.push_group_until(lambda: node.lagging > 0)
            full = node.backlog_bytes
            assert _LIMITS.backlog_bytes // 2 < full <= _LIMITS.backlog_bytes + _HEADER
            for _ in range(5):
                await group.push_group()
            # It costs nothing more, however long it sleeps.
            assert node.backlog_bytes <= full

            nursery.start_soon(taken.read_until_end, stalled)
            await eventually(lambda: not node.backlog_bytes, "it reads what was queued")
            # In the middle of a group there is still nothing for it.
            await group.push()
            assert node.lagging == 1
            resumed_at = len(group.frames)
            await group.push_group()
            assert node.lagging == 0
            await group.push_group()
        (gap,) = taken.gaps
        assert gap.reason == GapReason.LAGGED
        assert gap.last_seq == resumed_at - 1
        missing = range(gap.first_seq, gap.last_seq + 1)
        assert taken.frames == [each for each in group.frames if each.seq not in missing]
        assert group.frames[resumed_at].is_key
        assert node.backlog_bytes == 0


@_BOTH_KINDS
async def test_init_and_end_come_through_a_lag(kind: str) -> None:
    async with running_server(_LIMITS) as running:
        group = Group(*await running.published_room())
        await group.push(Flag.INIT)
        stalled = await _stalled(running, group.room, kind)
        async with reading_along(running, group):
            await group.push_group_until(lambda: running.node.lagging > 0)
            await group.push_group()
            renewed = frame(group.room, len(group.frames), b"another codec", flags=Flag.INIT)
            await group.send(renewed)
            await group.push_group()
        taken = Received()
        await taken.read_until_end(stalled)
        (gap,) = taken.gaps
        assert gap.last_seq == group.frames[-2].seq
        assert taken.frames[-1] == group.frames[-1]  # END
        assert taken.frames[-2] == renewed


@_BOTH_KINDS
async def test_the_end_of_a_room_comes_through_a_lag(kind: str) -> None:
    async with running_server(_LIMITS) as running:
        group = Group(*await running.published_room())
        stalled = await _stalled(running, group.room, kind)
        await group.push_group_until(lambda: running.node.lagging > 0)
        await group.publisher.request(
            messages.RemoveRoom(room=group.room), messages.RemoveRoomAnswer
        )
        assert running.node.lagging == running.node.subscriptions == 0
        await stalled.send(messages.Ping(stamp=1))
        items = []
        while not isinstance(item := await stalled.next(), messages.Pong):
            items.append(item)
        *frames, gap, closed = items
        assert all(isinstance(each, StreamFrame) for each in frames)
        assert isinstance(gap, messages.Gap)
        assert (gap.first_seq, gap.last_seq) == (len(frames), len(group.frames) - 1)
        assert isinstance(closed, messages.RoomClosed)


@_BOTH_KINDS
async def test_who_never_reads_again_is_closed_as_a_slow_consumer(kind: str) -> None:
    limits = Limits(
        max_frame_bytes=16 * 1024,
        max_init_bytes=4096,
        backlog_bytes=64 * 1024,
        command_burst=1_000_000,
        stall_timeout_s=0.4,
        close_timeout_s=0.2,
    )
    async with running_server(limits) as running:
        group = Group(*await running.published_room())
        stalled = await _stalled(running, group.room, kind)
        async with reading_along(running, group):
            await group.push_group_until(
                lambda: (
                    running.node.backlog_bytes > limits.backlog_bytes or bool(running.node.closes)
                )
            )
            assert running.node.closes == {"slow_consumer": 1}
            assert running.node.lagging == 0
            assert running.node.backlog_bytes == 0
            await group.push_group()
        # It may find that out without a CLOSE, for which there was no room.
        taken = Received()
        await taken.read_until_end(stalled)
        assert taken.frames == group.frames[: len(taken.frames)]


@_BOTH_KINDS
async def test_many_that_stall_stay_within_the_bound_of_the_node(kind: str) -> None:
    limits = Limits(
        max_frame_bytes=512 * 1024,
        backlog_bytes=512 * 1024,
        node_backlog_bytes=1024 * 1024,
        command_burst=1_000_000,
        backlog_age_s=30,
        stall_timeout_s=30,
    )
    async with running_server(limits) as running:
        group = Group(*await running.published_room())
        for _ in range(5):
            await _stalled(running, group.room, kind)
        async with reading_along(running, group):
            await group.push_group_until(
                lambda: (
                    running.node.backlog_bytes > limits.node_backlog_bytes
                    or running.node.lagging == 5
                )
            )
            assert running.node.lagging == 5
        running.close_clients()
        await running.until_gone()
        assert running.node.backlog_bytes == 0


async def test_who_reads_no_answers_is_closed_too() -> None:
    limits = Limits(control_backlog_bytes=16 * 1024, close_timeout_s=0.2, command_burst=100_000)
    async with running_server(limits, send_buffer=4096) as running, bystanders(running):
        deaf = await running.connect("deaf", receive_buffer=4096)
        await deaf.subscribe(await deaf.register())
        ask = messages.encode(messages.Ping(stamp=1), 9)

        async def ask_on() -> None:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                while True:
                    await deaf.send(ask * 100)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_on)
            await eventually(lambda: bool(running.node.closes), "it is to be closed")
            # It may not hear of that for seconds: its kernel has no room for
            # what ours says, and waits longer and longer before it tries again.
            nursery.cancel_scope.cancel()
        assert running.node.closes == {"slow_consumer": 1}


async def test_resets_in_the_middle_of_a_fan_out() -> None:
    async with running_server() as running:
        group = Group(*await running.published_room())
        first = await running.connect("first")
        await first.subscribe(group.room)
        victims = []
        for number in range(20):
            victims.append(await running.connect(f"victim{number}"))
            await victims[-1].subscribe(group.room)
        taken = Received()
        async with trio.open_nursery() as nursery, reading_along(running, group, subscribers=1):
            nursery.start_soon(taken.read_until_end, first)
            others = len(running.server.connections) - len(victims)
            for left in reversed(range(len(victims))):
                # Both without a checkpoint in between: whether the fan-out or
                # the victim's reader meets the reset is left to chance.
                victims[left].reset()
                await group.push_group()
                await running.until_gone(others + left)
        assert taken.frames == group.frames
        assert running.node.closes == {"lost": len(victims)}


async def test_the_fan_out_itself_meets_a_broken_connection() -> None:
    async with running_server() as running:
        group = Group(*await running.published_room())
        async with reading_along(running, group, subscribers=1):
            victim = await running.connect("victim")
            (connection,) = [
                each for each in running.server.connections if each.session.account == "victim"
            ]

            def broken(_data: object) -> int:
                raise ConnectionResetError

            await victim.subscribe(group.room)
            await group.push(Flag.KEY)
            connection.session.outbox.transmit = broken
            # A newcomer has the list of the audience made anew.
            last = await running.connect("last")
            await last.subscribe(group.room)
            await group.push()
            assert connection.session.outbox.closed
            await group.push()
            await running.until_gone(3)
            assert running.node.closes == {"lost": 1}
            await last.expect_frames(group.room, 0, 2)


async def test_a_fault_of_ours_ends_one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the secret of the house")

    monkeypatch.setattr(RoomManager, "list_rooms", fail)
    async with running_server() as running, bystanders(running):
        victim = await running.connect("victim")
        await victim.send(messages.ListRooms(scope=messages.ListScope.MINE, after=0, limit=0))
        before = await victim.expect_close(Code.INTERNAL_ERROR)
        assert before == []
        await eventually(lambda: bool(running.node.closes), "its end is counted")
        assert running.node.closes == {"internal_error": 1}


async def test_a_fault_at_the_end_of_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """What escapes a connection ends at the server's boundary around each."""

    def fail(*_: object) -> None:
        raise RuntimeError("out of the middle of an end")

    async with running_server() as running, bystanders(running):
        victim = await running.connect("victim")
        with monkeypatch.context() as patch:
            patch.setattr(TcpConnection, "_linger", fail)
            await victim.send(b"\0\0\0\0\0\0\0\0")
            await victim.expect_close(Code.PROTOCOL_ERROR)
            await eventually(lambda: bool(running.node.closes), "its end is counted")
        assert running.node.closes == {"internal_error": 1}
