"""The web port: HTTP connections, some of which become WebSockets.

A connection is accepted as an HTTP one, which costs a place among few and
has seconds for each request. With a WebSocket's handshake it becomes one of
the server's connections, like those of TCP: same bounds, same deadlines.

Source: docs/operations.md, "The web port"; protocol.md, section 3.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from hmac import compare_digest
from typing import Final

import attrs
import trio

from tim_trio.core.addresses import network_of
from tim_trio.core.form import Form
from tim_trio.log import StormLimiter, get_logger
from tim_trio.net.byte_socket import ByteSocket
from tim_trio.net.connection import TcpConnection, configure_socket, shake_hands
from tim_trio.net.http import Later, Request, Response, linger, send_all, serve_http
from tim_trio.net.listening import accept_all, is_loopback
from tim_trio.net.loop_delay import LoopDelay
from tim_trio.net.metrics import NodeCollector, make_registry, render
from tim_trio.net.origin import OriginPolicy
from tim_trio.net.server import Server
from tim_trio.net.site import Caller, Site, headers_for, is_forwarded, make_pages, max_body
from tim_trio.net.tim.connection import TimConnection, TimOpening
from tim_trio.net.tim.credentials import Credentials
from tim_trio.net.tim.form import TimForms
from tim_trio.net.tls import ServerTls
from tim_trio.net.tls_socket import TlsSocket
from tim_trio.net.turns import HANDSHAKE_STEP, REQUEST
from tim_trio.net.websocket import WEBSOCKET, Opening, WebSocketConnection
from tim_trio.protocol.messages import encode_close

_BUSY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\n"
    b"Content-Length: 0\r\nConnection: close\r\n\r\n"
)

_NO_TLS: Final = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 21\r\n"
    b"Connection: close\r\n\r\nthis port speaks TLS\n"
)

_log = get_logger("web")


@attrs.define(eq=False)
class WebPort:
    """Serves pages and WebSockets for a server.

    Args:
        files: the pages, by their name relative to the site.
        policy: names and origins that are ours.
        metrics_token: lets its bearer read ``/metrics`` from elsewhere; empty for nobody.
    """

    server: Server
    files: Mapping[str, bytes]
    policy: OriginPolicy = attrs.field(factory=OriginPolicy)
    metrics_token: bytes = attrs.field(default=b"", repr=False)
    #: HTTP connections, those that have become WebSockets not among them.
    http_connections: int = 0
    _delay: LoopDelay = attrs.field(factory=LoopDelay)
    _site: Site = attrs.field(init=False)
    _tim_forms: TimForms = attrs.field(init=False)
    _tim_credentials: Credentials = attrs.field(init=False)
    _storms: StormLimiter = attrs.field(factory=StormLimiter)
    _per_network: Counter[str] = attrs.field(factory=Counter)

    def __attrs_post_init__(self) -> None:
        self._tim_forms = TimForms(self.server.manager)
        self._tim_credentials = Credentials(self.server.gate.authenticator)
        registry = make_registry(
            NodeCollector(self.server.node, self._delay, self._count_connections)
        )
        self._site = Site(
            make_pages(self.files),
            self.policy,
            is_ready=lambda: not self.server.is_draining,
            render_figures=partial(render, registry),
            may_see_figures=self._bears_token,
            serve_tim=self._serve_tim,
            other_hosts=lambda: self.server.directions.page_hosts,
        )

    async def serve(
        self,
        listeners: Sequence[socket.socket],
        *,
        tls_listeners: Sequence[socket.socket] = (),
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept and serve until cancelled. Closes the listeners.

        Args:
            tls_listeners: those that the server's certificate is for.
        """
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._delay.run)
                for listener in listeners:
                    take = partial(self._take, nursery, None)
                    nursery.start_soon(accept_all, listener, take, self._storms)
                for listener in tls_listeners:
                    take = partial(self._take, nursery, self.server.tls)
                    nursery.start_soon(accept_all, listener, take, self._storms)
                task_status.started()
        finally:
            for listener in (*listeners, *tls_listeners):
                listener.close()

    async def _serve_tim(self, packet: bytes, address: str) -> bytes:
        """Answer a packet that was posted."""
        return await self._tim_credentials.serve_packet(
            packet, address, self.server.node.count_limit
        )

    def _count_connections(self) -> dict[str, int]:
        kinds = Counter(map(_kind_of, self.server.connections))
        nothing = {"tcp": 0, "websocket": 0, "tim": 0}
        return {**nothing, **kinds, "http": self.http_connections}

    def _bears_token(self, request: Request) -> bool:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        return (
            bool(self.metrics_token)
            and scheme.lower() == "bearer"
            and compare_digest(token.strip().encode("latin-1"), self.metrics_token)
        )

    def _take(
        self, nursery: trio.Nursery, tls: ServerTls | None, sock: socket.socket, address: str
    ) -> None:
        """Count an accepted connection in at once, and start it."""
        limits = self.server.limits
        node = self.server.node
        network = network_of(address)
        may_come = self.server.may_connect(address)
        if self.http_connections >= limits.max_http_connections:
            may_come = False
            node.count_limit("max_http_connections")
        elif self._per_network[network] >= limits.max_connections_per_address:
            may_come = False
            node.count_limit("max_connections_per_address")
        if not may_come:
            self._refuse(sock, address, b"" if tls is not None else _BUSY)
            return
        self.http_connections += 1
        self._per_network[network] += 1
        nursery.start_soon(self._run, sock, address, None if tls is None else tls.context)

    def _refuse(self, sock: socket.socket, address: str, answer: bytes) -> None:
        suppressed = self._storms.admit("refused", trio.current_time())
        if suppressed is not None:
            _log.warning("refused", address=address, suppressed=suppressed)
        with contextlib.closing(sock), contextlib.suppress(OSError):
            sock.setblocking(False)
            sock.send(answer)

    async def _run(self, sock: socket.socket, address: str, context: ssl.SSLContext | None) -> None:
        """Serve one connection; the boundary that keeps its faults from the others."""
        with sock:
            try:
                connection = await self._serve_requests(sock, address, context)
            except Exception as failure:
                _log.error("internal error", address=address, exc_info=failure)
                return
            finally:
                self.http_connections -= 1
                network = network_of(address)
                self._per_network[network] -= 1
                if not self._per_network[network]:
                    del self._per_network[network]
            if connection is not None:
                await self.server.run(connection)

    def _note_late(self) -> None:
        self.server.manager.node.count_limit("http_timeout_s")

    async def _wait_for_turn(self, address: str) -> None:
        """Count an HTTP request as one of its address, and wait until it may be answered."""
        manager = self.server.manager
        now = trio.current_time()
        wait_s = manager.address_rates.of(network_of(address), now).charge(1, now)
        if wait_s:
            manager.node.count_limit("commands_per_s_per_address")
            await trio.sleep(wait_s)
        await self._turn_of(address, REQUEST)()

    def _turn_of(self, address: str, units: int) -> Callable[[], Awaitable[None]]:
        return partial(self.server.readiness.turns.take, network_of(address), units)

    async def _shake_hands(self, tls: TlsSocket, address: str) -> None:
        try:
            await shake_hands(tls, self._turn_of(address, HANDSHAKE_STEP))
        except ssl.SSLError:
            if tls.first_byte.isalpha():
                tls.send_plain(_NO_TLS)
                await linger(tls)
            raise

    async def _serve_requests(
        self, raw: socket.socket, address: str, context: ssl.SSLContext | None
    ) -> WebSocketConnection | None:
        """Answer requests; return the connection where one of them opens a WebSocket."""
        sock: ByteSocket = raw
        try:
            configure_socket(raw)
            here = str(raw.getsockname()[0])
            if context is not None:
                sock = tls = TlsSocket(raw, context)
                with trio.fail_after(self.server.limits.http_timeout_s):
                    await self._shake_hands(tls, address)
        except trio.TooSlowError:
            self._note_late()
            return None
        except OSError:  # reset already, or no TLS
            return None
        is_local = is_loopback(address)
        caller = Caller(address, is_local and is_loopback(here))

        def answer(request: Request) -> Response | Later | Opening:
            return self._site.answer(request, caller)

        timeout_s = self.server.limits.http_timeout_s
        upgrade = await serve_http(
            sock,
            answer,
            common_headers=headers_for(self.server.directions.web_hosts),
            timeout_s=timeout_s,
            max_body=max_body,
            take_turn=partial(self._wait_for_turn, address),
            note_late=self._note_late,
        )
        if upgrade is None:
            return None
        opening, early = upgrade
        try:
            with trio.fail_after(timeout_s):
                await send_all(sock, opening.answer)
            refusal = self.server.refusal(address)
            if refusal is not None:
                self.server.note_refusal(address, refusal)
                form: Form = self._tim_forms.big if isinstance(opening, TimOpening) else WEBSOCKET
                sock.send(form.encode(encode_close(refusal)) + form.farewell(refusal))
                await linger(sock)
                return None
        except trio.TooSlowError:
            self._note_late()
            return None
        except OSError:
            return None
        # Who comes through a proxy on this machine is not on this machine.
        is_local = is_local and not is_forwarded(opening.request)
        server = self.server
        ours = (sock, address, server.manager, server.readiness, server.gate)
        if isinstance(opening, TimOpening):
            connection: WebSocketConnection = TimConnection(
                *ours,
                forms=self._tim_forms,
                credentials=self._tim_credentials,
                opening=opening,
                early=early,
                is_loopback=is_local,
            )
        else:
            connection = WebSocketConnection(
                *ours, opening=opening, early=early, is_loopback=is_local
            )
        server.enter(connection)
        return connection


def _kind_of(connection: TcpConnection) -> str:
    match connection:
        case TimConnection():
            return "tim"
        case WebSocketConnection():
            return "websocket"
        case _:
            return "tcp"
