"""A server under test in this process, and the proof that it leaves nothing behind."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import attrs
import trio
import trio.testing

from tests.net.certificates import Certificates
from tests.net.rawclient import DEADLINE_S, RawClient, frame
from tests.net.wsclient import WsClient
from tim_trio.core.accounts import Authenticator, OpenAuthenticator
from tim_trio.core.manager import RoomManager
from tim_trio.core.node import Node
from tim_trio.core.relations import MemoryRelations, Relations
from tim_trio.limits import Limits
from tim_trio.net.listening import open_listeners
from tim_trio.net.origin import OriginPolicy
from tim_trio.net.server import Server
from tim_trio.net.web import WebPort
from tim_trio.protocol import messages
from tim_trio.protocol.layout import Flag
from tim_trio.protocol.stream import StreamFrame

_POLL_S: Final = 0.005


async def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition holds that no event announces."""
    with trio.move_on_after(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - the server must not know of tests
            await trio.sleep(_POLL_S)
        return
    raise AssertionError(f"in vain for {DEADLINE_S} s: {what}")


def open_descriptors() -> int:
    # The directory itself is open while it is listed.
    return len(os.listdir("/proc/self/fd")) - 1


def living_tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


@attrs.define(eq=False)
class Running:
    """A server that runs, and the raw clients that were connected to it."""

    server: Server
    port: int
    web: WebPort
    web_port: int
    tls_port: int
    web_tls_port: int
    certificates: Certificates | None = None
    _clients: list[RawClient] = attrs.Factory(list)

    @property
    def node(self) -> Node:
        return self.server.node

    @property
    def manager(self) -> RoomManager:
        return self.server.manager

    async def connect(
        self,
        account: str | None = "alice",
        *,
        come_from: str = "127.0.0.1",
        receive_buffer: int | None = None,
    ) -> RawClient:
        """Return a client, signed in unless ``account`` is None. Closed with the server."""
        client = await RawClient.connect(
            self.port, come_from=come_from, receive_buffer=receive_buffer
        )
        self._clients.append(client)
        if account is not None:
            await client.greet(account)
        return client

    async def connect_tls(
        self,
        account: str | None = "alice",
        *,
        come_from: str = "127.0.0.1",
        receive_buffer: int | None = None,
        context: ssl.SSLContext | None = None,
    ) -> RawClient:
        """As `connect`, over TLS."""
        assert self.certificates is not None
        client = await RawClient.connect(
            self.tls_port, come_from=come_from, receive_buffer=receive_buffer
        )
        self._clients.append(client)
        await client.start_tls(context or self.certificates.client_context())
        if account is not None:
            await client.greet(account)
        return client

    async def connect_web(
        self,
        account: str | None = "alice",
        *,
        come_from: str = "127.0.0.1",
        receive_buffer: int | None = None,
        tls: bool = False,
    ) -> WsClient:
        """Return a WebSocket client, likewise."""
        client = await WsClient.connect(
            self.web_tls_port if tls else self.web_port,
            come_from=come_from,
            receive_buffer=receive_buffer,
        )
        self._clients.append(client)
        if tls:
            assert self.certificates is not None
            await client.start_tls(self.certificates.client_context())
        await client.open()
        if account is not None:
            await client.greet(account)
        return client

    async def dial_web(self, *, come_from: str = "127.0.0.1") -> WsClient:
        """Return a connection to the web port over which nothing has been said."""
        client = await WsClient.connect(self.web_port, come_from=come_from)
        self._clients.append(client)
        return client

    async def published_room(self) -> tuple[RawClient, int]:
        """Return a client that publishes source 1 in a room of its own."""
        publisher = await self.connect("alice")
        room = await publisher.register()
        assert await publisher.publish(room) == 1
        return publisher, room

    async def until_gone(self, connections: int = 0) -> None:
        """Wait until no more than so many connections are left."""
        await eventually(
            lambda: len(self.server.connections) <= connections, "connections are to end"
        )

    async def until_connected(self, connections: int) -> None:
        """Wait until so many connections have been accepted and live."""
        await eventually(
            lambda: len(self.server.connections) == connections, "connections are to be accepted"
        )

    def close_clients(self) -> None:
        for client in self._clients:
            client.close()
        self._clients.clear()


@asynccontextmanager
async def running_server(
    limits: Limits | None = None,
    *,
    drain_timeout_s: float = DEADLINE_S,
    send_buffer: int | None = None,
    authenticator: Authenticator | None = None,
    relations: Relations | None = None,
    files: Mapping[str, bytes] | None = None,
    policy: OriginPolicy | None = None,
    metrics_token: bytes = b"",
    certificates: Certificates | None = None,
    close: Callable[[], None] = lambda: None,
) -> AsyncIterator[Running]:
    """Serve on a free port of loopback; afterwards look for leaks.

    When the body is done its clients are closed, and then the server must
    come back to what it was when it began: no connection, subscription or
    byte held, no task and no descriptor more.

    Args:
        send_buffer: SO_SNDBUF of accepted connections.
        authenticator: open mode without one.
        relations: in memory without some.
        files, policy, metrics_token: of the web port.
        certificates: serve TLS too, on a port of its own.
        close: called when nothing is served any more: closes what the authenticator
            uses, and may have opened files for that the server is not to be blamed for.
    """
    descriptors = open_descriptors()
    server = Server(
        limits or Limits(),
        drain_timeout_s=drain_timeout_s,
        authenticator=authenticator or OpenAuthenticator(),
        relations=relations or MemoryRelations(),
        tls=None if certificates is None else certificates.server_tls(),
    )
    listeners = open_listeners("127.0.0.1", 0)
    web_listeners = open_listeners("127.0.0.1", 0)
    tls_listeners = open_listeners("127.0.0.1", 0)
    web_tls_listeners = open_listeners("127.0.0.1", 0)
    if send_buffer is not None:
        # Accepted sockets inherit it.
        for listener in (*listeners, *tls_listeners, *web_listeners, *web_tls_listeners):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    web = WebPort(server, files or {}, policy or OriginPolicy(), metrics_token)
    running = Running(
        server,
        listeners[0].getsockname()[1],
        web,
        web_listeners[0].getsockname()[1],
        tls_listeners[0].getsockname()[1],
        web_tls_listeners[0].getsockname()[1],
        certificates,
    )
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(server.serve, listeners, tls_listeners=tls_listeners))
            await nursery.start(partial(web.serve, web_listeners, tls_listeners=web_tls_listeners))
            await trio.testing.wait_all_tasks_blocked()
            tasks = living_tasks()
            yield running
            running.close_clients()
            await running.until_gone()
            await eventually(lambda: not web.http_connections, "HTTP connections are to end")
            await eventually(lambda: living_tasks() <= tasks, "tasks are to end")
            await _assert_nothing_held(server)
            nursery.cancel_scope.cancel()
        close()
    finally:
        running.close_clients()
    assert open_descriptors() <= descriptors


async def _assert_nothing_held(server: Server) -> None:
    node = server.node
    assert node.connections == 0
    assert node.subscriptions == 0
    assert node.lagging == 0
    assert node.backlog_bytes == 0
    assert len(server.gate.sign_ins) == 0
    for room in list(server.manager.rooms.values()):
        assert room.viewers == 0
        await server.manager.close(room, messages.RoomClosedReason.REMOVED, trio.current_time())
    assert node.rooms == 0
    assert node.cache_bytes == 0
    assert node.pinned_bytes == 0


@asynccontextmanager
async def bystanders(running: Running) -> AsyncIterator[None]:
    """A well-behaved publisher and subscriber, who must notice nothing of the body."""
    publisher = await running.connect("bob")
    room = await publisher.register()
    await publisher.publish(room)
    subscriber = await running.connect("carol")
    await subscriber.subscribe(room)
    stop = trio.Event()
    sent = 0

    async def push() -> None:
        nonlocal sent
        while not stop.is_set():
            flags = Flag.KEY if sent % 10 == 0 else Flag.NONE
            await publisher.send(frame(room, sent, b"frame %d" % sent, flags=flags))
            sent += 1
            await trio.sleep(0.002)
        await publisher.send(frame(room, sent, b"", flags=Flag.END))

    async def read() -> None:
        expected = 0
        while True:
            item = await subscriber.next()
            if isinstance(item, messages.Ping):
                await subscriber.send(messages.Pong(stamp=item.stamp))
                continue
            assert isinstance(item, StreamFrame), item
            assert (item.room, item.seq) == (room, expected)
            if item.is_end:
                return
            assert item.payload == b"frame %d" % expected
            expected += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(push)
        nursery.start_soon(read)
        yield
        stop.set()
    publisher.close()
    subscriber.close()


@attrs.define
class Received:
    """What one subscriber got of one source, checked against protocol.md, section 9.

    Per track ``seq`` rises by 1, or the numbers between lie in one GAP that
    came before; inside a GAP only an INIT may still follow it.
    """

    source: int = 1
    frames: list[StreamFrame] = attrs.Factory(list)
    gaps: list[messages.Gap] = attrs.Factory(list)
    _next: dict[int, int] = attrs.Factory(dict)

    def take(self, item: StreamFrame | messages.Gap) -> None:
        assert item.source == self.source
        expected = self._next.get(item.track)
        if isinstance(item, messages.Gap):
            assert expected is None or item.first_seq == expected
            assert item.last_seq >= item.first_seq
            self._next[item.track] = item.last_seq + 1
            self.gaps.append(item)
            return
        late_init = item.is_init and any(
            gap.first_seq <= item.seq <= gap.last_seq and gap.track == item.track
            for gap in self.gaps
        )
        if not late_init:
            assert expected is None or item.seq == expected
            self._next[item.track] = item.seq + 1
        self.frames.append(item)

    async def read_until_end(self, subscriber: RawClient) -> None:
        """Take everything up to END; events about who comes and goes are passed over."""
        while True:
            item = await subscriber.next()
            if isinstance(item, StreamFrame | messages.Gap):
                self.take(item)
            if item is None or (isinstance(item, StreamFrame) and item.is_end):
                return

    @property
    def seqs(self) -> list[int]:
        return [frame.seq for frame in self.frames]
