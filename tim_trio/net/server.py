"""The connections of a node, who may come in, and how a server stops.

Source: protocol.md, section 6; docs/operations.md.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import time
from collections.abc import Callable, Sequence
from typing import Final

import attrs
import trio

from tim_trio.core.accounts import Authenticator, Gate, OpenAuthenticator
from tim_trio.core.manager import RoomManager
from tim_trio.core.node import Node
from tim_trio.core.relations import MemoryRelations, Relations
from tim_trio.core.revocation import Revocation
from tim_trio.core.session import Session
from tim_trio.errors import Code, code_label
from tim_trio.limits import Limits
from tim_trio.log import StormLimiter, get_logger
from tim_trio.net import collector_pauses
from tim_trio.net.admission import Admission
from tim_trio.net.byte_socket import ByteSocket
from tim_trio.net.connection import Arrival, TcpConnection, configure_socket
from tim_trio.net.heap import trim_heap
from tim_trio.net.listening import accept_all, is_loopback
from tim_trio.net.other_nodes import NO_OTHER_NODES, Directions
from tim_trio.net.passage import Pipe
from tim_trio.net.readiness import ReadinessLoop
from tim_trio.net.tls import ServerTls
from tim_trio.net.tls_socket import TlsSocket
from tim_trio.protocol.layout import MAX_GREETING_BYTES
from tim_trio.protocol.messages import encode_close

#: Newcomers that run out of time come in crowds; others get a turn in between.
_CLOSES_IN_A_ROW: Final = 10
_FIGURES_INTERVAL_S: Final = 60
#: Rights end within a second of their time.
_EXPIRY_INTERVAL_S: Final = 0.5
_RETRY_PAUSE_S: Final = 1.0
_DIRECT_S: Final = 0.5

_log = get_logger("server")


@attrs.define(eq=False)
class Server:
    """All connections of one node.

    Args:
        limits: every bound.
        node_name: told to clients in WELCOME.
        drain_timeout_s: how long clients may stay after go-away.
        authenticator: who may come in; served as long as the server is.
        relations: who may reach whom; in this process's memory without one.
        tls: the certificate, where there are TLS listeners; followed likewise.
    """

    limits: Limits
    node_name: str = "node"
    drain_timeout_s: float = 10.0
    authenticator: Authenticator = attrs.field(factory=OpenAuthenticator)
    relations: Relations = attrs.field(factory=MemoryRelations)
    tls: ServerTls | None = None
    #: For connections to the link listeners: other nodes, who show certificates.
    link_tls: ServerTls | None = None
    link_gate: Gate[Session] | None = None
    #: Returns where clients that came by a scheme may go when this server stops, as
    #: HOST:PORT; empty for nowhere.
    refuge: Callable[[str], str] = lambda _: ""
    #: Where else they may go at any time.
    directions: Directions = attrs.field(factory=Directions)
    gate: Gate[Session] = attrs.field(init=False)
    node: Node = attrs.field(init=False)
    manager: RoomManager = attrs.field(init=False)
    connections: set[TcpConnection] = attrs.field(factory=set)
    _of_session: dict[Session, TcpConnection] = attrs.field(factory=dict)
    _storms: StormLimiter = attrs.field(factory=StormLimiter)
    _admission: Admission[TcpConnection] = attrs.field(init=False)
    _draining: bool = False
    readiness: ReadinessLoop[Arrival] = attrs.field(init=False)
    _all_gone: trio.Event = attrs.field(factory=trio.Event)
    _pipe: Pipe = attrs.field(factory=Pipe, init=False)

    def __attrs_post_init__(self) -> None:
        self.node = Node(self.limits)
        self.manager = RoomManager(self.node, _log, self.node_name)
        self.gate = Gate(
            self.authenticator,
            self.relations,
            on_known=self._note_known,
            on_signed_in=self._direct,
        )
        self.readiness = ReadinessLoop(self.limits.read_together_ms / 1000)
        self._admission = Admission(
            self.node, drop=lambda connection: connection.drop(Code.OVERLOADED)
        )

    async def serve(
        self,
        listeners: Sequence[socket.socket],
        *,
        tls_listeners: Sequence[socket.socket] = (),
        link_listeners: Sequence[socket.socket] = (),
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept and serve until cancelled or `drain` is through.

        Closes the listeners. Connections still there when it is cancelled
        are ended without further ado.
        """
        self.node.started_at = trio.current_time()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.readiness.run)
                nursery.start_soon(self.manager.run_expiry)
                nursery.start_soon(self.manager.run_viewers)
                nursery.start_soon(self.manager.run_gathering)
                nursery.start_soon(self.manager.run_pacing)
                nursery.start_soon(self._keep_alive)
                nursery.start_soon(self._end_expired)
                nursery.start_soon(self._follow_revocations)
                nursery.start_soon(self._follow_directions)
                nursery.start_soon(self._report)
                for listener in listeners:
                    nursery.start_soon(self._accept, listener, nursery)
                if self.tls is not None:
                    nursery.start_soon(self.tls.follow)
                    for listener in tls_listeners:
                        nursery.start_soon(self._accept, listener, nursery, self.tls)
                if self.link_gate is not None:
                    for listener in link_listeners:
                        nursery.start_soon(
                            self._accept, listener, nursery, self.link_tls, self.link_gate
                        )
                task_status.started()
                await self._all_gone.wait()
                nursery.cancel_scope.cancel()
        finally:
            for listener in (*listeners, *tls_listeners, *link_listeners):
                listener.close()
            self._pipe.close()

    async def drain(self) -> None:
        """Stop gracefully: accept no more, send go-away, wait, close the rest.

        Returns when every connection has ended, at most the drain timeout and
        a close timeout later; `serve` returns then too.
        """
        self._draining = True
        self._check_all_gone()
        now = trio.current_time()
        _log.info("draining", connections=len(self.connections), timeout_s=self.drain_timeout_s)
        for connection in list(self.connections):
            connection.session.go_away(
                self.drain_timeout_s / 2, now, address=self.refuge(connection.scheme)
            )
        with trio.move_on_after(self.drain_timeout_s):
            await self._all_gone.wait()
        for connection in list(self.connections):
            connection.close(Code.SHUTTING_DOWN)
        with trio.move_on_after(self.limits.close_timeout_s + 1):
            await self._all_gone.wait()
        self._all_gone.set()

    def log_figures(self) -> None:
        """Log what the node holds and has done, now."""
        tasks = trio.lowlevel.current_statistics().tasks_living
        _log.info("figures", **self.node.figures(), **collector_pauses.figures(), tasks=tasks)

    def _check_all_gone(self) -> None:
        # Links to other nodes stay as long as there is anybody whose streams they carry.
        if self._draining and all(each.session.link is not None for each in self.connections):
            self._all_gone.set()

    @property
    def is_draining(self) -> bool:
        """New connections are refused."""
        return self._draining

    async def _accept(
        self,
        listener: socket.socket,
        nursery: trio.Nursery,
        tls: ServerTls | None = None,
        gate: Gate[Session] | None = None,
    ) -> None:
        """``gate``: another than that of accounts."""

        def take(sock: socket.socket, address: str) -> None:
            refusal = (
                self.refusal(address) if self.may_connect(address) else Code.TOO_MANY_CONNECTIONS
            )
            if refusal is None:
                self._admit(sock, address, nursery, tls, gate or self.gate)
            elif tls is None:
                self._refuse(sock, address, refusal)
            else:
                # Saying why would cost a handshake.
                self.note_refusal(address, refusal)
                sock.close()

        await accept_all(listener, take, self._storms)

    def may_connect(self, address: str) -> bool:
        """Count a connection that is being opened; say whether its address keeps to its rate."""
        return self._admission.may_connect(address, trio.current_time())

    def refusal(self, address: str) -> Code | None:
        """Return why a connection from ``address`` is refused; None when it is welcome."""
        return Code.SHUTTING_DOWN if self._draining else self._admission.refusal(address)

    def note_refusal(self, address: str, code: Code) -> None:
        """Count and log a connection that did not become one."""
        self.node.count_close(code)
        suppressed = self._storms.admit("refused", trio.current_time())
        if suppressed is not None:
            _log.warning("refused", address=address, code=code.label, suppressed=suppressed)

    def _refuse(self, sock: socket.socket, address: str, code: Code) -> None:
        self.note_refusal(address, code)
        with contextlib.closing(sock), contextlib.suppress(OSError):
            sock.setblocking(False)
            sock.send(encode_close(code))
            # Closing with its HELLO unread would reset the connection, and a
            # reset may overtake our CLOSE.
            sock.shutdown(socket.SHUT_WR)
            sock.recv(MAX_GREETING_BYTES)

    def _admit(
        self,
        sock: socket.socket,
        address: str,
        nursery: trio.Nursery,
        tls: ServerTls | None,
        gate: Gate[Session],
    ) -> None:
        """Start a connection, which is welcome."""
        try:
            configure_socket(sock)
            way: ByteSocket = sock if tls is None else TlsSocket(sock, tls.context)
            connection = TcpConnection(
                way,
                address,
                self.manager,
                self.readiness,
                gate,
                is_loopback=is_loopback(address),
                pipe=self._pipe,
            )
        except OSError:  # some systems refuse options on a socket that was reset
            sock.close()
            self.node.count_close(None)
            return
        self.enter(connection)
        nursery.start_soon(self.run, connection)

    def enter(self, connection: TcpConnection) -> None:
        """Count a connection in at once, for the next of a burst is measured
        against it. `run` is to follow, and counts it out."""
        self.connections.add(connection)
        self._of_session[connection.session] = connection
        self._admission.enter(connection, connection.address)
        self.node.connections += 1

    def _note_known(self, session: Session) -> None:
        self._admission.know(self._of_session[session])

    def _direct(self, session: Session) -> None:
        """Tell a client that has come where else it may go."""
        connection = self._of_session[session]
        if connection.scheme:
            frame = self.directions.frame_for(connection.scheme, session)
            if frame != NO_OTHER_NODES:
                session.outbox.put_control(frame, trio.current_time())

    async def _follow_directions(self) -> None:
        """Tell all clients when that changes."""
        while True:
            await self.directions.changed.wait()
            # Nodes come in groups, and go so.
            await trio.sleep(_DIRECT_S)
            self.directions.changed = trio.Event()
            await self._direct_all()

    async def _direct_all(self) -> None:
        for done, connection in enumerate(list(self.connections), 1):
            session = connection.session
            if connection.scheme and session.member is not None:
                frame = self.directions.frame_for(connection.scheme, session)
                session.outbox.put_control(frame, trio.current_time())
            if done % _CLOSES_IN_A_ROW == 0:
                await trio.lowlevel.checkpoint()

    async def run(self, connection: TcpConnection) -> None:
        """Serve one connection; the boundary that keeps its faults from the others."""
        address = connection.address
        code: int | None = None
        try:
            code = await connection.run()
        except* Exception as failure:
            code = Code.INTERNAL_ERROR
            _log.error("internal error", address=address, exc_info=failure)
        finally:
            self.connections.discard(connection)
            self._check_all_gone()
            self._admission.leave(connection)
            del self._of_session[connection.session]
            self.node.connections -= 1
            self.node.count_close(code)
            self._log_end(connection, code)

    def _log_end(self, connection: TcpConnection, code: int | None) -> None:
        account = connection.session.account
        now = trio.current_time()
        label = "lost" if code is None else code_label(code)
        # A flood of those that do not even sign in must not cost a line each.
        kind = f"connections ended without signing in: {label}"
        suppressed = 0 if account else self._storms.admit(kind, now)
        if suppressed is None:
            return
        _log.info(
            "connection ended",
            address=connection.address,
            account=account,
            code=label,
            seconds=round(now - connection.accepted_at, 1),
            **({"suppressed": suppressed} if suppressed else {}),
        )

    async def _keep_alive(self) -> None:
        """Ping the silent, close the dead, and hold newcomers to their deadline."""
        limits = self.limits
        tick_s = min(1.0, limits.ping_interval_s / 4, limits.handshake_timeout_s / 4)
        while True:
            await trio.sleep(tick_s)
            now = trio.current_time()
            await self._end_late_newcomers(now)
            self._ping_silent(now)

    # In functions of their own: what a service's variables hold while it sleeps
    # is not freed, and the last connection of a night would be held until morning.

    def _ping_silent(self, now: float) -> None:
        interval_s = self.limits.ping_interval_s
        for connection in list(self.connections):
            session = connection.session
            silence_s = now - session.last_received
            if silence_s < interval_s:
                continue
            if silence_s >= 3 * interval_s:
                self.node.count_limit("ping_interval_s")
                connection.close(Code.IDLE_TIMEOUT)
            elif session.greeted and session.pinged_at < session.last_received:
                session.ping(now)

    async def _end_late_newcomers(self, now: float) -> None:
        for done, newcomer in enumerate(self._admission.newcomers(), 1):
            if now - newcomer.accepted_at < self.limits.handshake_timeout_s:
                break  # in order of arrival: all others are younger
            if self._admission.know(newcomer):
                self.node.count_limit("handshake_timeout_s")
                newcomer.close(Code.HANDSHAKE_TIMEOUT)
            if done % _CLOSES_IN_A_ROW == 0:
                await trio.lowlevel.checkpoint()

    async def _end_expired(self) -> None:
        """Close whose time is over. One look for all: a task each would cost more than this."""
        while True:
            await trio.sleep(_EXPIRY_INTERVAL_S)
            self._close_expired()

    def _close_expired(self) -> None:
        for session in self.gate.sign_ins.expired(time.time()):
            self._of_session[session].close(Code.EXPIRED)

    async def _follow_revocations(self) -> None:
        """Close whose rights are taken away. Its faults are no connection's."""
        while True:
            try:
                await self.authenticator.run(self._revoke)
            except Exception as failure:
                _log.error("internal error", exc_info=failure)
            await trio.sleep(_RETRY_PAUSE_S)

    def _revoke(self, revocation: Revocation) -> None:
        for session in self.gate.sign_ins.revoked(revocation):
            self._of_session[session].close(revocation.code)
        if revocation.is_of_account:
            self.manager.end_lingering(revocation.account, trio.current_time())

    async def _report(self) -> None:
        """Log what went wrong in storms, at most a line a second, and the node's
        figures once a minute while they change; give memory back after a crowd."""
        gaps = discarded = 0
        node = self.node
        figures = node.figures()
        somebody_came = False
        for second in itertools.count(1):
            await trio.sleep(1)
            if second % _FIGURES_INTERVAL_S == 0 and node.figures() != figures:
                figures = node.figures()
                self.log_figures()
            if node.gaps != gaps or node.discarded != discarded:
                _log.warning(
                    "frames dropped",
                    gaps=node.gaps - gaps,
                    lagging=node.lagging,
                    discarded=node.discarded - discarded,
                    backlog_bytes=node.backlog_bytes,
                )
                gaps, discarded = node.gaps, node.discarded
            if node.connections:
                somebody_came = True
            elif somebody_came:
                somebody_came = False
                await trio.to_thread.run_sync(trim_heap)
            for kind, suppressed in self._storms.flush(trio.current_time()):
                _log.warning(f"{kind}, more of them", suppressed=suppressed)
