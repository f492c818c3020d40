"""The links of one node: one per other node, dialed when needed and watched over.

Source: protocol.md, section 12.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

import attrs
import trio

from tim_trio.cluster.dialing import (
    DialedSession,
    DialFailed,
    LinkRefused,
    connect,
    connect_tls,
    open_dialed,
)
from tim_trio.cluster.link import NodeLink
from tim_trio.cluster.membership import EventLog, Membership, NodeInfo
from tim_trio.cluster.secret import Verifier, prove
from tim_trio.core.manager import RoomManager
from tim_trio.core.outbox import Outbox
from tim_trio.core.session import Session
from tim_trio.errors import Code, RemoteProtocolError, room_error
from tim_trio.net.byte_socket import ByteSocket
from tim_trio.net.connection import Arrival, TcpConnection
from tim_trio.net.readiness import ReadinessLoop
from tim_trio.net.tls import NodeTls
from tim_trio.protocol.messages import Authenticate, Link, LinkAnswer, LinkExpelled
from tim_trio.protocol.runs import Run

_FIRST_PAUSE_S: Final = 0.25
_LONGEST_REDIAL_S: Final = 5.0
_PING_S: Final = 0.5
#: A peer that is silent for so long is dead, or as good as that.
DEAD_S: Final = 1.5
_DIAL_S: Final = 1.0


class LinksHost(Protocol):
    """Who is told of links, and gets what comes over them."""

    def link_is_up(self, link: NodeLink, now: float) -> None: ...
    def link_is_lost(self, link: NodeLink, now: float) -> None: ...
    def link_run(self, link: NodeLink, run: Run, now: float) -> int: ...
    def link_message(self, link: NodeLink, message: Any, request_id: int, now: float) -> None: ...


@attrs.define(eq=False)
class Links:
    """Implements the core's `LinkGate`.

    Attributes:
        established: by the other node's name.
        lost: members that could not be reached when we last tried.
    """

    manager: RoomManager
    membership: Membership
    log: EventLog
    secret: bytes = attrs.field(repr=False)
    nursery: trio.Nursery
    readiness: ReadinessLoop[Arrival]
    #: Where links are made with TLS alone.
    tls: NodeTls | None = None
    host: LinksHost = attrs.field(init=False)
    established: dict[str, NodeLink] = attrs.field(factory=dict, init=False)
    lost: set[str] = attrs.field(factory=set, init=False)
    _dialing: dict[str, list[Callable[[NodeLink | None], None]]] = attrs.field(
        factory=dict, init=False
    )
    #: Members whose proofs were no good when they last came.
    _faulty: set[str] = attrs.field(factory=set, init=False)
    _redialing: set[str] = attrs.field(factory=set, init=False)
    _connections: dict[Outbox, TcpConnection] = attrs.field(factory=dict, init=False)
    _verifier: Verifier = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._verifier = Verifier(self.me, self.secret)

    @property
    def me(self) -> str:
        return self.membership.me.name

    @property
    def incarnation(self) -> int:
        return self.membership.me.incarnation

    def get(self, peer: str) -> NodeLink | None:
        return self.established.get(peer)

    def is_near(self, peer: str) -> bool:
        """Say whether there is a link, or will be in a moment."""
        return peer in self.established or peer in self._dialing

    def with_link(self, peer: str, use: Callable[[NodeLink | None], None]) -> None:
        """Call ``use`` with the link to a node, in the order of the calls; with
        None if it cannot be had."""
        link = self.established.get(peer)
        if link is not None:
            use(link)
        elif peer in self._dialing:
            self._dialing[peer].append(use)
        else:
            self._dialing[peer] = [use]
            self.nursery.start_soon(self._dial, peer)

    def try_one(self) -> None:
        """Link to some member, to hear early on if that does not work."""
        others = [name for name in self.membership.nodes if name != self.me]
        if others:
            self.with_link(random.choice(others), lambda _: None)

    async def _dial(self, peer: str) -> None:
        try:
            if peer not in self.established:
                await self._dial_once(peer)
        except LinkRefused as error:
            self.log.warning("link failed", node=peer, error=str(error))
        except DialFailed as error:
            self.log.info("link failed", node=peer, error=str(error))
        finally:
            link = self.established.get(peer)
            for use in self._dialing.pop(peer, []):
                use(link)
            if link is None:
                self._redial_later(peer)

    async def _dial_once(self, peer: str) -> None:
        """Open a connection and return when it is a link, or is none."""
        info = self.membership.nodes.get(peer)
        if info is None or self.membership.expelled.is_set():
            raise DialFailed(f"{peer} is not a member, or we are not")
        sock = await self._connect(info)
        proof = prove(self.secret, self.me, peer, time.time_ns() // 1_000_000)
        done = trio.Event()

        def on_link(session: Session, answer: LinkAnswer, now: float) -> None:
            if answer.node != info.name or answer.incarnation != info.incarnation:
                raise RemoteProtocolError("another node than the one that was dialed")
            link = NodeLink(info.name, info.incarnation, True, session.outbox, self)
            session.link = link
            link.begin(now)
            done.set()

        connection = open_dialed(
            sock, self.manager, self.readiness, self.membership.me, proof, on_link
        )

        async def run() -> None:
            try:
                await connection.run()
            except Exception as failure:
                self.log.error("internal error", node=peer, exc_info=failure)
            finally:
                done.set()

        self._connections[connection.session.outbox] = connection
        self.nursery.start_soon(run)
        with trio.move_on_after(_DIAL_S):
            await done.wait()
        if not done.is_set():
            connection.close(Code.HANDSHAKE_TIMEOUT)
        self._connections.pop(connection.session.outbox, None)
        refused = connection.session
        if isinstance(refused, DialedSession) and refused.has_no_credentials:
            raise LinkRefused(
                f"{peer} does not take our proof: its cluster secret is another, or its clock "
                "differs by more than a minute"
            )

    async def _connect(self, info: NodeInfo) -> ByteSocket:
        if self.tls is None and not info.link:
            return await connect(info.address, _DIAL_S)
        if self.tls is None:
            raise DialFailed(f"{info.name} takes links with TLS alone, and we have no link_tls")
        if not info.link:
            raise DialFailed(f"{info.name} has no link_tls, and we make links with TLS alone")
        return await connect_tls(info.link, self.tls.dialing, _DIAL_S)

    def _redial_later(self, peer: str) -> None:
        """Link to a member again that could not be reached, until it can."""
        if peer in self.membership.nodes:
            self.lost.add(peer)
        if peer not in self._redialing and peer in self.membership.nodes:
            self._redialing.add(peer)
            self.nursery.start_soon(self._redial, peer)

    async def _redial(self, peer: str) -> None:
        try:
            pause_s = _FIRST_PAUSE_S
            while not self.membership.expelled.is_set():
                await trio.sleep(random.uniform(0, pause_s))
                if peer not in self.membership.nodes:
                    self.lost.discard(peer)
                    return
                if peer in self.established:
                    return
                if peer not in self._dialing:
                    self._dialing[peer] = []
                    try:
                        await self._dial_once(peer)
                    except DialFailed:
                        pass
                    finally:
                        link = self.established.get(peer)
                        for use in self._dialing.pop(peer, []):
                            use(link)
                pause_s = min(pause_s * 2, _LONGEST_REDIAL_S)
        finally:
            self._redialing.discard(peer)

    # LinkGate: those who dial us

    def authenticate(self, request: Authenticate) -> str:
        now_ms = time.time_ns() // 1_000_000
        fault = self._verifier.fault_in(request.account, request.secret, now_ms)
        if fault:
            # Anybody may come with anything: only what a member's name stands on is logged.
            if request.account in self.membership.nodes and request.account not in self._faulty:
                self._faulty.add(request.account)
                self.log.warning("link refused", node=request.account, why=fault)
            raise room_error(Code.BAD_CREDENTIALS)
        self._faulty.discard(request.account)
        return request.account

    def open(self, node: str, request: Link, outbox: Outbox) -> NodeLink:
        info = self.membership.nodes.get(node)
        if request.node != node:
            raise room_error(Code.BAD_REQUEST, "the name is another than the one proved")
        if info is None or info.incarnation != request.incarnation:
            raise room_error(Code.UNAVAILABLE, "not a member, as etcd is seen here")
        if self.membership.expelled.is_set():
            raise room_error(Code.UNAVAILABLE)
        known = self.established.get(node)
        ours_stays = self.me < node and (
            node in self._dialing or (known is not None and known.dialed)
        )
        if ours_stays and (known is None or known.incarnation == request.incarnation):
            raise room_error(Code.UNAVAILABLE, "a link is there, or on its way")
        return NodeLink(node, request.incarnation, False, outbox, self)

    def link_up(self, link: NodeLink, now: float) -> None:
        other = self.established.get(link.peer)
        if other is not None:
            if other.dialed and not link.dialed and other.incarnation == link.incarnation:
                ours_stays = self.me < link.peer
            else:
                ours_stays = False
            loser = link if ours_stays else other
            if loser is other:
                other.close(Code.BYE, now)
            else:
                link.close(Code.BYE, now)
                return
        self.established[link.peer] = link
        self.lost.discard(link.peer)
        self.log.info("link up", node=link.peer, dialed=link.dialed)
        for use in self._dialing.pop(link.peer, []):
            use(link)
        self.host.link_is_up(link, now)

    def link_lost(self, link: NodeLink, now: float) -> None:
        if self.established.get(link.peer) is not link:
            return
        del self.established[link.peer]
        self.log.info("link lost", node=link.peer)
        self.host.link_is_lost(link, now)
        self._redial_later(link.peer)

    def link_run(self, link: NodeLink, run: Run, now: float) -> int:
        return self.host.link_run(link, run, now)

    def link_message(self, link: NodeLink, message: object, request_id: int, now: float) -> None:
        self.host.link_message(link, message, request_id, now)

    # Those who are there

    def tell_the_expelled(self, now: float) -> None:
        """Tell who is a member no more, and may not know it."""
        for name, link in list(self.established.items()):
            info = self.membership.nodes.get(name)
            if info is None or info.incarnation != link.incarnation:
                link.tell(LinkExpelled(incarnation=link.incarnation), now)

    def forgive(self, now: float) -> None:
        """It was us who was away: the others get their chance to be heard."""
        for link in self.established.values():
            link.heard_at = now

    def watch(self, now: float) -> None:
        """Ping the quiet, and give up the silent."""
        for link in list(self.established.values()):
            if now - link.heard_at > DEAD_S:
                self.log.warning("link is silent", node=link.peer)
                link.close(Code.IDLE_TIMEOUT, now)
            elif now - max(link.heard_at, link.pinged_at) > _PING_S:
                link.ping(lambda _: None, now)

    def close(self) -> None:
        """Close all links: this node is done."""
        now = trio.current_time()
        for link in list(self.established.values()):
            link.close(Code.BYE, now)
