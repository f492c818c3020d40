"""One connection of the server over a socket pair of TCP, without a server around it."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import structlog
import trio
import trio.testing

from tests.net.rawclient import HELLO, RawClient, authenticate, bye, frame, register_room
from tests.net.running import eventually
from tim_trio.core.manager import RoomManager
from tim_trio.core.node import Node
from tim_trio.core.room import Room
from tim_trio.errors import Code
from tim_trio.limits import Limits
from tim_trio.net.connection import READ_BYTES, Arrival, TcpConnection, configure_socket
from tim_trio.net.readiness import ReadinessLoop
from tim_trio.protocol import messages
from tim_trio.protocol.runs import Run
from tim_trio.protocol.stream import StreamFrame

#: Nobody lags.
ROOMY = Limits(backlog_bytes=64 * 2**20, connection_backlog_bytes=64 * 2**20, backlog_age_s=60)


def tcp_pair(
    *, send_buffer: int | None = None, receive_buffer: int | None = None
) -> tuple[socket.socket, socket.socket]:
    """Return the server's and the client's end of a connection."""
    with socket.socket() as listener:
        if send_buffer is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        ours = socket.socket()
        ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_buffer is not None:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        ours.connect(listener.getsockname())
        theirs, _ = listener.accept()
    return theirs, ours


@attrs.define(eq=False)
class Rig:
    """Connections of one node, as a server would hold them."""

    manager: RoomManager
    nursery: trio.Nursery
    readiness: ReadinessLoop[Arrival]
    clients: list[RawClient] = attrs.Factory(list)
    results: dict[TcpConnection, int | None] = attrs.Factory(dict)

    @property
    def node(self) -> Node:
        return self.manager.node

    def open(
        self, *, send_buffer: int | None = None, receive_buffer: int | None = None
    ) -> tuple[TcpConnection, RawClient]:
        theirs, ours = tcp_pair(send_buffer=send_buffer, receive_buffer=receive_buffer)
        configure_socket(theirs)
        connection = TcpConnection(theirs, "127.0.0.1", self.manager, self.readiness)
        client = RawClient(ours)
        self.clients.append(client)
        return connection, client

    def start(
        self, *, send_buffer: int | None = None, receive_buffer: int | None = None
    ) -> tuple[TcpConnection, RawClient]:
        connection, client = self.open(send_buffer=send_buffer, receive_buffer=receive_buffer)
        self.nursery.start_soon(self._run, connection)
        return connection, client

    async def _run(self, connection: TcpConnection) -> None:
        self.results[connection] = await connection.run()

    async def result(self, connection: TcpConnection) -> int | None:
        """Return what `run` returned, once it has; the connection holds nothing any more."""
        await eventually(lambda: connection in self.results, "the connection is to end")
        assert connection.session.member is None
        assert connection._socket.fileno() == -1
        return self.results[connection]


@asynccontextmanager
async def open_rig(limits: Limits | None = None) -> AsyncIterator[Rig]:
    manager = RoomManager(Node(limits or Limits()), structlog.get_logger())
    readiness = ReadinessLoop[Arrival]()
    async with trio.open_nursery() as reading:
        reading.start_soon(readiness.run)
        async with trio.open_nursery() as nursery:
            rig = Rig(manager, nursery, readiness)
            try:
                yield rig
            finally:
                for client in rig.clients:
                    client.close()
        reading.cancel_scope.cancel()
    assert rig.node.backlog_bytes == rig.node.pinned_bytes == rig.node.subscriptions == 0


async def published(rig: Rig, *, send_buffer: int | None = None) -> tuple[RawClient, int]:
    _, publisher = rig.start(send_buffer=send_buffer)
    await publisher.greet("alice")
    room = await publisher.register()
    await publisher.publish(room)
    return publisher, room


async def overfill(rig: Rig, publisher: RawClient, room: int) -> int:
    """Push until more is queued than the kernel will take by itself; return how many frames."""
    seq = 0
    while rig.node.backlog_bytes < 60_000:
        assert rig.node.subscriptions
        await publisher.send(frame(room, seq, bytes(10_000)))
        assert await publisher.is_served()
        seq += 1
    return seq


def test_configure_socket() -> None:
    theirs, ours = tcp_pair()
    with theirs, ours:
        configure_socket(theirs)
        assert not theirs.getblocking()
        assert theirs.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert theirs.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == 16384


async def test_the_kernel_takes_more_for_who_subscribes_to_a_reliable_room() -> None:
    def unsent(connection: TcpConnection) -> int:
        sock = connection._socket
        assert isinstance(sock, socket.socket)
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)

    async with open_rig() as rig:
        for mode, expected in (
            (messages.RoomMode.LIVE, 16384),
            (messages.RoomMode.RELIABLE, 1 << 20),
        ):
            connection, client = rig.start()
            await client.greet("alice")
            request = messages.RegisterRoom(mode=mode, gather_ms=0, idle_timeout_s=0)
            answer = await client.request(request, messages.RegisterRoomAnswer)
            assert unsent(connection) == 16384
            await client.subscribe(answer.room)
            assert unsent(connection) == expected


# How a connection ends, and what `run` says of it


async def test_lost() -> None:
    async with open_rig() as rig:
        connection, client = rig.start()
        await client.greet()
        client.close()
        assert await rig.result(connection) is None


async def test_reset() -> None:
    async with open_rig() as rig:
        connection, client = rig.start()
        await client.greet()
        client.reset()
        assert await rig.result(connection) is None


async def test_bye() -> None:
    async with open_rig() as rig:
        connection, client = rig.start()
        await client.greet()
        await client.send(bye())
        assert await client.expect_close(Code.BYE) == []
        assert await rig.result(connection) == Code.BYE


async def test_what_came_before_a_bad_frame_is_carried_out() -> None:
    async with open_rig() as rig:
        connection, client = rig.start()
        await client.send(HELLO, authenticate(), register_room(), b"\0\0\0\0\0\0\0\0")
        *_, registered = await client.expect_close(Code.PROTOCOL_ERROR)
        assert isinstance(registered, messages.RegisterRoomAnswer)
        assert list(rig.manager.rooms) == [registered.room]
        assert await rig.result(connection) == Code.PROTOCOL_ERROR


async def test_nothing_behind_an_offence_is_carried_out() -> None:
    async with open_rig() as rig:
        connection, client = rig.start()
        await client.send(HELLO, authenticate(), frame(2**63, 0), register_room())
        await client.expect_close(Code.FOREIGN_SOURCE)
        assert not rig.manager.rooms
        assert await rig.result(connection) == Code.FOREIGN_SOURCE


async def test_the_peer_reads_the_close_though_it_sends_on() -> None:
    """Closing a socket with unread bytes would reset it and throw our CLOSE away."""
    async with open_rig() as rig:
        connection, client = rig.start()
        await client.greet()
        await client.send(b"\0\0\0\0\0\0\0\0")
        for _ in range(20):
            await client.send(bytes(10_000))
        assert await client.expect_close(Code.PROTOCOL_ERROR) == []
        assert await rig.result(connection) == Code.PROTOCOL_ERROR


async def test_a_peer_that_does_not_close_is_not_waited_for() -> None:
    async with open_rig(Limits(close_timeout_s=0.1)) as rig:
        connection, client = rig.start()
        await client.greet()
        await client.send(b"\0\0\0\0\0\0\0\0")
        assert await rig.result(connection) == Code.PROTOCOL_ERROR
        await client.expect_close(Code.PROTOCOL_ERROR)


async def test_a_peer_that_sends_for_ever_is_not_waited_for() -> None:
    async with open_rig(Limits(close_timeout_s=0.1)) as rig:
        connection, client = rig.start()
        await client.greet()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):  # noqa: PT012
            while True:
                await client.send(b"\0" * 4096)
        assert await rig.result(connection) == Code.PROTOCOL_ERROR


async def test_a_reset_while_it_lingers() -> None:
    async with open_rig() as rig:
        connection, client = rig.start()
        await client.greet()
        await client.send(b"\0\0\0\0\0\0\0\0")
        await client.expect(messages.Close)
        client.reset()
        assert await rig.result(connection) == Code.PROTOCOL_ERROR


# Closing from outside


async def test_close() -> None:
    async with open_rig() as rig:
        connection, client = rig.start()
        await client.greet()
        connection.close(Code.SHUTTING_DOWN)
        assert await client.expect_close(Code.SHUTTING_DOWN) == []
        assert await rig.result(connection) == Code.SHUTTING_DOWN


async def test_closing_again_while_it_lingers_changes_nothing() -> None:
    async with open_rig() as rig:
        connection, client = rig.start()
        await client.greet()
        connection.close(Code.IDLE_TIMEOUT)
        await trio.testing.wait_all_tasks_blocked()
        connection.close(Code.SHUTTING_DOWN)
        connection.close(Code.IDLE_TIMEOUT)
        await trio.testing.wait_all_tasks_blocked()
        assert connection not in rig.results  # it waits for its peer still
        await client.expect_close(Code.IDLE_TIMEOUT)
        assert await rig.result(connection) == Code.IDLE_TIMEOUT


async def test_close_before_it_runs() -> None:
    async with open_rig() as rig:
        connection, client = rig.open()
        connection.close(Code.SHUTTING_DOWN)
        rig.nursery.start_soon(rig._run, connection)
        assert await client.expect_close(Code.SHUTTING_DOWN) == []
        assert await rig.result(connection) == Code.SHUTTING_DOWN


async def test_lost_before_it_runs() -> None:
    async with open_rig() as rig:
        connection, client = rig.open()
        client.reset()
        connection.close(Code.SHUTTING_DOWN)  # its CLOSE finds no peer
        assert await connection.run() is None


async def test_close_wakes_a_writer_that_waits() -> None:
    limits = Limits(close_timeout_s=0.2)
    async with open_rig(limits) as rig:
        publisher, room = await published(rig)
        connection, stalled = rig.start(send_buffer=4096, receive_buffer=4096)
        await stalled.greet("bob")
        await stalled.subscribe(room)
        await overfill(rig, publisher, room)
        connection.close(Code.IDLE_TIMEOUT)
        assert rig.node.subscriptions == 0  # at once
        assert await rig.result(connection) == Code.IDLE_TIMEOUT
        assert rig.node.backlog_bytes == 0


async def test_what_is_queued_is_sent_before_the_close() -> None:
    async with open_rig() as rig:
        publisher, room = await published(rig)
        connection, slow = rig.start(send_buffer=4096, receive_buffer=4096)
        await slow.greet("bob")
        await slow.subscribe(room)
        sent = await overfill(rig, publisher, room)
        connection.close(Code.SHUTTING_DOWN)
        got = await slow.expect_close(Code.SHUTTING_DOWN)
        assert [item.seq for item in got if isinstance(item, StreamFrame)] == [*range(sent)]
        assert await rig.result(connection) == Code.SHUTTING_DOWN


async def test_cancelled_it_leaves_nothing() -> None:
    limits = Limits(linger_s=0)
    async with open_rig(limits) as rig:
        publisher, room = await published(rig)
        connection, stalled = rig.open(send_buffer=4096, receive_buffer=4096)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.run)
            await stalled.greet("alice")
            await stalled.subscribe(room)
            await stalled.publish(room, bytes(16))
            await overfill(rig, publisher, room)
            nursery.cancel_scope.cancel()
        assert rig.node.backlog_bytes == rig.node.subscriptions == 0
        assert connection.session.member is None
        (source,) = rig.manager.rooms[room].sources
        assert source == 1  # the other one's


# Faults of ours


async def test_a_fault_in_a_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the secret of the house")

    async with open_rig() as rig:
        publisher, room = await published(rig)
        victim_connection, victim = rig.start()
        await victim.greet("bob")
        await victim.subscribe(room)
        monkeypatch.setattr(RoomManager, "list_rooms", fail)
        with structlog.testing.capture_logs() as logs:
            await victim.send(
                messages.ListRooms(scope=messages.ListScope.MINE, after=0, limit=0),
                messages.Ping(stamp=1),
            )
            assert await victim.expect_close(Code.INTERNAL_ERROR) == []
        (line,) = [line for line in logs if line["event"] == "internal error"]
        assert line["log_level"] == "error"
        assert "the secret" in str(line["exc_info"])
        assert await rig.result(victim_connection) == Code.INTERNAL_ERROR
        assert await publisher.is_served()


async def test_a_fault_in_pushing(monkeypatch: pytest.MonkeyPatch) -> None:
    push = Room.push

    def fail(room: Room, source: object, run: Run, now: float) -> int:
        if b"poison" in run.data:
            raise ZeroDivisionError
        return push(room, source, run, now)  # type: ignore[arg-type]

    monkeypatch.setattr(Room, "push", fail)
    async with open_rig() as rig:
        publisher, room = await published(rig)
        _, subscriber = rig.start()
        await subscriber.greet("bob")
        await subscriber.subscribe(room)
        await publisher.send(frame(room, 0), frame(room, 1, b"poison", track=1), frame(room, 1))
        await publisher.expect(messages.Viewers)
        await publisher.expect_close(Code.INTERNAL_ERROR)
        await subscriber.expect_frames(room, 0, 0)
        assert await subscriber.is_served()


# Reading


async def test_full_reads_one_after_another() -> None:
    async with open_rig(ROOMY) as rig:
        publisher, room = await published(rig)
        _, subscriber = rig.start()
        await subscriber.greet("bob")
        await subscriber.subscribe(room)
        payloads = [os.urandom(READ_BYTES - 36 - size) for size in (0, 0, 1, 0, 0, 0, 2, 0)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                publisher.send, *(frame(room, seq, each) for seq, each in enumerate(payloads))
            )
            got = await subscriber.expect_frames(room, 0, len(payloads) - 1)
        assert [each.payload for each in got] == payloads


async def test_a_flood_of_requests_lets_others_in(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[str] = []
    info = RoomManager.info

    def noted(manager: RoomManager, member: object, number: int, now: float) -> object:
        served.append(member.account)  # type: ignore[attr-defined]
        return info(manager, member, number, now)  # type: ignore[arg-type]

    monkeypatch.setattr(RoomManager, "info", noted)
    async with open_rig() as rig:
        _, flooder = rig.start()
        await flooder.greet("flooder")
        _, other = rig.start()
        await other.greet("other")
        room = await other.register()
        ask = messages.encode(messages.GetRoomInfo(room=room), 9)
        for _ in range(8):
            await trio.testing.wait_all_tasks_blocked()
            served.clear()
            # Without a checkpoint in between, so that both are there when the
            # readers wake up, whichever is first.
            flooder.raw.send(ask * 80)
            other.raw.send(ask)
            await eventually(lambda: len(served) == 81, "all are to be served")
            assert served.index("other") < 79


async def test_a_flood_of_deliveries_stops_when_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one read brought is given up in the middle when the connection is closed."""
    async with open_rig() as rig:
        connection, publisher = rig.start()
        await publisher.greet()
        room = await publisher.register()
        await publisher.publish(room)
        real = Room.push
        pushed = 0

        def push(room: Room, source: object, run: Run, now: float) -> int:
            nonlocal pushed
            pushed += 1
            connection.close(Code.SHUTTING_DOWN)
            return real(room, source, run, now)  # type: ignore[arg-type]

        monkeypatch.setattr(Room, "push", push)
        # Tracks in turn, so that each frame is a run of its own.
        await publisher.send(*(frame(room, seq, track=t) for seq in range(50) for t in (0, 1)))
        await publisher.expect(messages.Viewers)
        await publisher.expect_close(Code.SHUTTING_DOWN)
        assert await rig.result(connection) == Code.SHUTTING_DOWN
        assert pushed == 1


# Writing


@pytest.mark.parametrize("size", [0, 1, 100, 20_000, 200_000])
async def test_every_byte_arrives_in_order(size: int) -> None:
    """Small pieces are joined, large ones scattered, and both are taken in part."""
    async with open_rig(ROOMY) as rig:
        publisher, room = await published(rig)
        _, slow = rig.start(send_buffer=8192, receive_buffer=8192)
        await slow.greet("bob")
        await slow.subscribe(room)
        count = max(20, min(3000, 2**20 // (size + 1)))
        payloads = [os.urandom(size) for _ in range(count)]
        # Tracks in turn, so that each frame is a piece of its own.
        for seq, payload in enumerate(payloads):
            await publisher.send(frame(room, seq // 2, payload, track=seq % 2))
        assert await publisher.is_served()
        if size > 1:
            assert rig.node.backlog_bytes
        for seq, payload in enumerate(payloads):
            got = await slow.expect(StreamFrame)
            assert (got.track, got.seq, got.payload) == (seq % 2, seq // 2, payload)
        await eventually(lambda: not rig.node.backlog_bytes, "the backlog is to be empty")


async def test_a_peer_that_takes_nothing_is_a_slow_consumer() -> None:
    limits = Limits(stall_timeout_s=0.5, close_timeout_s=5)
    async with open_rig(limits) as rig:
        publisher, room = await published(rig)
        connection, stalled = rig.start(send_buffer=4096, receive_buffer=4096)
        await stalled.greet("bob")
        await stalled.subscribe(room)
        await overfill(rig, publisher, room)
        # It is out, and what it held given back, long before it has closed.
        await eventually(lambda: rig.node.subscriptions == 0, "it is to leave its rooms")
        assert rig.node.backlog_bytes == 0
        assert connection not in rig.results
        items = await stalled.rest()
        assert not any(isinstance(item, messages.Close) for item in items)
        stalled.close()
        assert await rig.result(connection) == Code.SLOW_CONSUMER


async def test_a_peer_that_goes_while_the_writer_waits() -> None:
    async with open_rig() as rig:
        publisher, room = await published(rig)
        connection, stalled = rig.start(send_buffer=4096, receive_buffer=4096)
        await stalled.greet("bob")
        await stalled.subscribe(room)
        await overfill(rig, publisher, room)
        stalled.reset()
        assert await rig.result(connection) is None
        assert rig.node.backlog_bytes == 0
        assert await publisher.is_served()
