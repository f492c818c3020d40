"""One node of a cluster: its links, its rooms' places in their trees, and what
rooms need from each other.

Requests from elsewhere and to elsewhere are `requests`; this is what goes on
between nodes by itself.

Source: protocol.md, section 12; docs/cluster.md.
"""

from __future__ import annotations

import functools
import math
import random
import time
from collections.abc import Callable
from typing import Any, Final

import attrs
import trio

from tim_trio.cluster.dialing import DialFailed, connect, open_dialed
from tim_trio.cluster.directory import EtcdDirectory, lease_seconds
from tim_trio.cluster.link import NodeLink
from tim_trio.cluster.membership import EventLog, Membership, NodeInfo
from tim_trio.cluster.room import Bond, RoomHost, SharedRoom
from tim_trio.cluster.secret import Verifier, prove
from tim_trio.cluster.tree import (
    Accept,
    Action,
    Ask,
    Invite,
    Leave,
    Redirect,
    Refuse,
    TellPath,
    Tree,
)
from tim_trio.core.manager import RoomManager
from tim_trio.core.outbox import Outbox
from tim_trio.core.room import Room
from tim_trio.core.session import Session
from tim_trio.core.sources import Source
from tim_trio.errors import ClusterError, Code, RemoteProtocolError, room_error
from tim_trio.net.connection import Arrival, TcpConnection
from tim_trio.net.readiness import ReadinessLoop
from tim_trio.protocol.layout import UNLIMITED_CREDIT
from tim_trio.protocol.messages import (
    Authenticate,
    Credit,
    Error,
    Gap,
    Link,
    LinkAnswer,
    LinkExpelled,
    LinkInvite,
    LinkOutcome,
    LinkPath,
    LinkSource,
    LinkSubscribe,
    LinkSubscribeAnswer,
    LinkViewers,
    RoomClosed,
    RoomClosedReason,
    RoomMode,
    SourceLeft,
    SourceLeftReason,
    Unsubscribe,
    UnsubscribeAnswer,
)
from tim_trio.protocol.runs import Run

#: Nodes that are asked for a way to the root, the relay first.
RANKING: Final = 16
_TICK_S: Final = 0.25
_PING_S: Final = 0.5
#: A peer that is silent for so long is dead, or as good as that.
_DEAD_S: Final = 1.5
_DIAL_S: Final = 1.0
_ASK_S: Final = 1.0
_LOOK_S: Final = 2.0
_LONGEST_LOOK_S: Final = 30.0
#: A room that nobody uses here stays for who comes back.
_UNUSED_S: Final = 2.0
_FORGET_S: Final = 30.0
#: Other tasks get a turn after so much ranking.
_TURN_S: Final = 0.003
_LONGEST_REDIAL_S: Final = 5.0


@attrs.define(eq=False)
class Cluster(RoomHost):
    """Made by `open_cluster` (cluster/service.py).

    Args:
        fanout: children of a node in one room before it sends further ones on.
    """

    manager: RoomManager
    membership: Membership
    directory: EtcdDirectory
    log: EventLog
    secret: bytes = attrs.field(repr=False)
    nursery: trio.Nursery
    readiness: ReadinessLoop[Arrival]
    fanout: int = 64
    links: dict[str, NodeLink] = attrs.field(factory=dict)
    #: Carries out a FORWARD; set by who knows requests.
    on_forward: Callable[[NodeLink, Any, int, float], None] = lambda *_: None
    failovers: int = 0
    _dialing: dict[str, list[Callable[[NodeLink | None], None]]] = attrs.field(factory=dict)
    _redialing: set[str] = attrs.field(factory=set)
    _connections: dict[Outbox, TcpConnection] = attrs.field(factory=dict)
    # What came for a room while it is looked up, in order.
    _opening: dict[int, list[Callable[[], None]]] = attrs.field(factory=dict)
    _members_changed: trio.Event = attrs.field(factory=trio.Event)
    _verifier: Verifier = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._verifier = Verifier(self.me, self.secret)
        self.manager.make_room = self._make_room

    @property
    def me(self) -> str:
        return self.membership.me.name

    @property
    def incarnation(self) -> int:
        return self.membership.me.incarnation

    # Rooms

    def _make_room(self, number: int, *args: Any, **kwargs: Any) -> Room:
        tree = Tree(self.me, number, self.fanout)
        room = SharedRoom(number, *args, me=self.me, host=self, tree=tree, **kwargs)
        tree.keeps_warm = room.mode is RoomMode.LIVE
        tree.set_ranking(self.ranking(number))
        # Unused until somebody uses it: a creator often comes back at once.
        room.idle_since = trio.current_time()
        return room

    def ranking(self, number: int) -> tuple[str, ...]:
        return self.membership.placement.rank(number, RANKING)

    def room(self, number: int) -> SharedRoom | None:
        room = self.manager.rooms.get(number)
        assert room is None or isinstance(room, SharedRoom)
        return room

    def shared_rooms(self) -> list[SharedRoom]:
        return [room for room in self.manager.rooms.values() if isinstance(room, SharedRoom)]

    async def open_room(self, number: int) -> SharedRoom | None:
        """Return a room, present here from now on; None where there is none.

        Raises:
            ClusterError: the directory could not be asked.
        """
        room = self.room(number)
        if room is None:
            record = await self.directory.find_room(number)
            room = self.room(number)  # somebody else may have been quicker
            if room is None and record is not None:
                opened = self.manager.open_room(record, trio.current_time())
                assert isinstance(opened, SharedRoom)
                room = opened
        return room

    def in_order(self, number: int, action: Callable[[], None], *, opens: bool = False) -> None:
        """Carry out what a node wants of a room, after what it wanted before.

        ``opens``: the room is looked up if it is not here.
        """
        waiting = self._opening.get(number)
        if waiting is not None:
            waiting.append(action)
        elif self.room(number) is not None or not opens:
            action()
        else:
            self._opening[number] = [action]
            self.nursery.start_soon(self._open_for_peers, number)

    async def _open_for_peers(self, number: int) -> None:
        try:
            await self.open_room(number)
        except ClusterError as error:
            self.log.warning("a room could not be looked up", error=str(error))
        finally:
            for action in self._opening.pop(number):
                action()

    # What rooms report (RoomHost)

    def touched(self, room: SharedRoom) -> None:
        now = trio.current_time()
        if room.is_used:
            room.idle_since = None
            if not room.tree.wanted:
                room.tree.want(True)
                self.act(room, now)
        elif room.idle_since is None:
            room.idle_since = now
            if room.mode is RoomMode.RELIABLE and room.tree.wanted:
                # A node that takes nothing any more would hold the others up.
                room.tree.want(False)
                self.act(room, now)

    def released(self, room: SharedRoom, source: int, epoch: int) -> None:
        self.nursery.start_soon(self._release, room.number, source, epoch)

    async def _release(self, room: int, source: int, epoch: int) -> None:
        try:
            await self.directory.release_source(room, source, epoch)
        except ClusterError as error:
            # It hangs on the room's lease.
            self.log.warning("a source could not be released", error=str(error))

    def taken_over(self, source: Source) -> None:
        self.manager.stop_lingering(source)

    # The tree

    def act(self, room: SharedRoom, now: float) -> None:
        """Carry out what a room's tree wants, and see what has become of it."""
        while actions := room.tree.take_actions():
            for action in actions:
                self._carry_out(room, action, now)
        path = room.tree.path
        anchor = room.tree.parent or (self.me if path else None)
        if anchor != room.anchor:
            if room.anchor is not None and anchor is not None:
                self.failovers += 1
                self.log.info("room moved", room=str(room), parent=anchor, was=room.anchor)
            before, room.anchor = room.anchor, anchor
            if before is not None and room.mode is RoomMode.RELIABLE and room.sources:
                self._break(room, now)
                return
        if room.tree.is_root:
            room.total_viewers = None
            room.caught_up_with = self.me
        if path and room.caught_up_with == anchor:
            room.ready.set()
        elif room.ready.is_set() and not path:
            room.ready = trio.Event()

    def _break(self, room: SharedRoom, now: float) -> None:
        """The path of a reliable room has changed: what was under way is lost."""
        for source in list(room.sources.values()):
            holder = room.holders.get(source.number)
            if holder is not None and holder.node == self.me:
                self.released(room, source.number, holder.epoch)
        self._drop(room, RoomClosedReason.PATH_LOST, now)

    def _drop(self, room: SharedRoom, reason: RoomClosedReason, now: float) -> None:
        """End a room here; it may live on elsewhere."""
        room.tree.want(False)
        room.tree.invited(False)
        for peer in list(room.tree.children):
            room.tree.child_left(peer)
        self.manager.close_here(room, reason, now)
        for action in room.tree.take_actions():
            self._carry_out(room, action, now)

    def _carry_out(self, room: SharedRoom, action: Action, now: float) -> None:
        match action:
            case Ask(peer, waiting):
                self._ask(room, peer, waiting, now)
            case Leave(peer):
                self._leave(room, peer, now)
            case Accept(peer, path):
                self._accept(room, peer, path, now)
            case Refuse(peer):
                self._answer_question(room, peer, Code.PATH_LOST, now)
            case Redirect(peer, to):
                self._redirect(room, peer, to, now)
            case TellPath(peer, path):
                if peer in self.links:
                    self.links[peer].tell(LinkPath(room=room.number, path=list(path)), now)
            case Invite(peer, warm):
                invitation = LinkInvite(room=room.number, warm=warm)
                self.with_link(peer, functools.partial(_tell, invitation))

    def _ask(self, room: SharedRoom, peer: str, waiting: tuple[str, ...], now: float) -> None:
        room.ask_until = now + _ASK_S
        request = LinkSubscribe(room=room.number, credit=UNLIMITED_CREDIT, path=list(waiting))
        if room.mode is RoomMode.RELIABLE:
            request = attrs.evolve(request, credit=0)

        def send(link: NodeLink | None) -> None:
            if link is None:
                room.tree.link_down(peer)
                self.act(room, trio.current_time())
            else:
                link.ask(
                    request, functools.partial(self._on_answer, room, link), trio.current_time()
                )

        self.with_link(peer, send)

    def _on_answer(self, room: SharedRoom, link: NodeLink, answer: object) -> None:
        now = trio.current_time()
        peer = link.peer
        match answer:
            case LinkSubscribeAnswer(outcome=LinkOutcome.ACCEPTED):
                room.tree.accepted(peer, tuple(answer.path))
                if room.tree.parent == peer and self.room(room.number) is room:
                    self._join(room, link, answer, now)
            case LinkSubscribeAnswer():
                to = self._node_at(answer.address)
                if to is None:
                    room.tree.refused(peer)
                else:
                    room.tree.redirected(peer, to)
            case Error(code=Code.NO_SUCH_ROOM):
                room.tree.refused(peer)
                if self.room(room.number) is room:
                    self._drop(room, RoomClosedReason.REMOVED, now)
                    return
            case Error():
                room.tree.refused(peer)
            case _:
                return  # the link broke: `link_lost` has said so
        self.act(room, now)

    def _join(
        self, room: SharedRoom, link: NodeLink, answer: LinkSubscribeAnswer, now: float
    ) -> None:
        """A node is our parent now: take what it has, and give it what we have."""
        bond = room.bond(link.peer, link.member, 0)
        bond.as_parent = True
        for info in answer.sources:
            for track in info.tracks:
                bond.skipped_to[info.source, track.track] = track.last_seq
        room.adopt(answer.sources, link.peer, now)
        room.open_bond(bond, answer.sources, now)
        room.told_up = -1

        def caught_up(pong: object) -> None:
            if pong is not None and room.tree.parent == link.peer:
                room.caught_up_with = link.peer
                self.act(room, trio.current_time())

        link.ping(caught_up, now)

    def _leave(self, room: SharedRoom, peer: str, now: float) -> None:
        bond = room.bonds.get(peer)
        if bond is not None:
            bond.as_parent = False
            if not bond.as_child:
                room.unbond(peer)
        if peer in self.links or peer in self._dialing:
            leave = Unsubscribe(room=room.number)
            self.with_link(peer, functools.partial(_ask_in_passing, leave))

    def _accept(self, room: SharedRoom, peer: str, path: tuple[str, ...], now: float) -> None:
        link = self.links.get(peer)
        questions = room.questions.get(peer)
        if link is None or not questions:
            return
        answer = LinkSubscribeAnswer(
            outcome=LinkOutcome.ACCEPTED,
            address="",
            mode=room.mode,
            sources=room.infos(),
            path=list(path),
        )
        link.tell(answer, now, questions.pop(0))
        bond = room.bond(peer, link.member, 0)
        bond.as_child = True
        room.open_bond(bond, (), now)
        room.told_down = -1

    def _answer_question(self, room: SharedRoom, peer: str, code: Code, now: float) -> None:
        link = self.links.get(peer)
        questions = room.questions.get(peer)
        if link is not None and questions:
            link.refuse(LinkSubscribe, questions.pop(0), code, now)

    def _redirect(self, room: SharedRoom, peer: str, to: str, now: float) -> None:
        link = self.links.get(peer)
        questions = room.questions.get(peer)
        info = self.membership.nodes.get(to)
        if info is None:
            self._answer_question(room, peer, Code.PATH_LOST, now)
        elif link is not None and questions:
            answer = LinkSubscribeAnswer(
                outcome=LinkOutcome.REDIRECTED,
                address=info.address,
                mode=RoomMode.LIVE,
                sources=[],
                path=[],
            )
            link.tell(answer, now, questions.pop(0))

    def _node_at(self, address: str) -> str | None:
        for info in self.membership.nodes.values():
            if info.address == address:
                return info.name
        return None

    # Links

    def with_link(self, peer: str, use: Callable[[NodeLink | None], None]) -> None:
        """Call ``use`` with the link to a node, in the order of the calls; with
        None if it cannot be had."""
        link = self.links.get(peer)
        if link is not None:
            use(link)
        elif peer in self._dialing:
            self._dialing[peer].append(use)
        else:
            self._dialing[peer] = [use]
            self.nursery.start_soon(self._dial, peer)

    async def _dial(self, peer: str) -> None:
        try:
            if peer not in self.links:
                await self._dial_once(peer)
        except DialFailed as error:
            self.log.info("link failed", node=peer, error=str(error))
        finally:
            link = self.links.get(peer)
            for use in self._dialing.pop(peer, []):
                use(link)
            if link is None:
                self._redial_later(peer)

    async def _dial_once(self, peer: str) -> None:
        """Open a connection and return when it is a link, or is none."""
        info = self.membership.nodes.get(peer)
        if info is None or self.membership.expelled.is_set():
            raise DialFailed(f"{peer} is not a member, or we are not")
        sock = await connect(info.address, _DIAL_S)
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

    def _redial_later(self, peer: str) -> None:
        """Link to a member again that could not be reached, until it can."""
        if peer not in self._redialing and peer in self.membership.nodes:
            self._redialing.add(peer)
            self.nursery.start_soon(self._redial, peer)

    async def _redial(self, peer: str) -> None:
        try:
            pause_s = _TICK_S
            while not self.membership.expelled.is_set():
                await trio.sleep(random.uniform(0, pause_s))
                if peer in self.links or peer not in self.membership.nodes:
                    return
                if peer not in self._dialing:
                    self._dialing[peer] = []
                    try:
                        await self._dial_once(peer)
                    except DialFailed:
                        pass
                    finally:
                        link = self.links.get(peer)
                        for use in self._dialing.pop(peer, []):
                            use(link)
                pause_s = min(pause_s * 2, _LONGEST_REDIAL_S)
        finally:
            self._redialing.discard(peer)

    # LinkGate: those who dial us

    def authenticate(self, request: Authenticate) -> str:
        self._verifier.verify(request.account, request.secret, time.time_ns() // 1_000_000)
        return request.account

    def open(self, node: str, request: Link, outbox: Outbox) -> NodeLink:
        info = self.membership.nodes.get(node)
        if request.node != node:
            raise room_error(Code.BAD_REQUEST, "the name is another than the one proved")
        if info is None or info.incarnation != request.incarnation:
            raise room_error(Code.UNAVAILABLE, "not a member, as etcd is seen here")
        if self.membership.expelled.is_set():
            raise room_error(Code.UNAVAILABLE)
        known = self.links.get(node)
        ours_stays = self.me < node and (
            node in self._dialing or (known is not None and known.dialed)
        )
        if ours_stays and (known is None or known.incarnation == request.incarnation):
            raise room_error(Code.UNAVAILABLE, "a link is there, or on its way")
        return NodeLink(node, request.incarnation, False, outbox, self)

    def link_up(self, link: NodeLink, now: float) -> None:
        other = self.links.get(link.peer)
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
        self.links[link.peer] = link
        self.log.info("link up", node=link.peer, dialed=link.dialed)
        for use in self._dialing.pop(link.peer, []):
            use(link)
        for room in self.shared_rooms():
            room.tree.link_up(link.peer)
            self.act(room, now)

    def link_lost(self, link: NodeLink, now: float) -> None:
        if self.links.get(link.peer) is not link:
            return
        del self.links[link.peer]
        self.log.info("link lost", node=link.peer)
        for room in self.shared_rooms():
            room.questions.pop(link.peer, None)
            room.unbond(link.peer)
            room.tree.link_down(link.peer)
        for room in self.shared_rooms():
            self.act(room, now)
        self._redial_later(link.peer)

    def link_run(self, link: NodeLink, run: Run, now: float) -> int:
        room = self.room(run.room)
        bond = room.bonds.get(link.peer) if room is not None else None
        if room is None or bond is None:
            return 1
        try:
            return room.relay(run, bond, now)
        except RemoteProtocolError as error:
            # The other node's mistake about one source must not end the link.
            self.log.warning("a run was dropped", room=str(room), node=link.peer, error=str(error))
            return 1

    def link_message(self, link: NodeLink, message: Any, request_id: int, now: float) -> None:
        match message:
            case LinkSubscribe():
                self.in_order(
                    message.room,
                    functools.partial(self._on_question, link, message, request_id),
                    opens=True,
                )
            case Unsubscribe():
                link.tell(UnsubscribeAnswer(), now, request_id)
                self.in_order(message.room, functools.partial(self._on_leave, link, message.room))
            case LinkInvite():
                self.in_order(
                    message.room,
                    functools.partial(self._on_invitation, message),
                    opens=message.warm,
                )
            case LinkExpelled():
                if message.incarnation == self.incarnation:
                    self.membership.expel(f"{link.peer} says so")
            case _ if hasattr(message, "room"):
                room = self.room(message.room)
                bond = room.bonds.get(link.peer) if room is not None else None
                if room is not None and bond is not None:
                    self._on_word(room, bond, message, now)
            case _:
                self.on_forward(link, message, request_id, now)

    def _on_question(self, link: NodeLink, request: LinkSubscribe, request_id: int) -> None:
        if self.links.get(link.peer) is not link:
            return
        now = trio.current_time()
        room = self.room(request.room)
        if room is None:
            link.refuse(LinkSubscribe, request_id, Code.NO_SUCH_ROOM, now)
            return
        room.questions.setdefault(link.peer, []).append(request_id)
        bond = room.bonds.get(link.peer)
        if bond is not None and bond.as_child and not bond.as_parent:
            room.unbond(link.peer)  # it asks anew
        room.tree.asked(link.peer, tuple(request.path))
        self.act(room, now)

    def _on_leave(self, link: NodeLink, number: int) -> None:
        room = self.room(number)
        if room is None or self.links.get(link.peer) is not link:
            return
        bond = room.bonds.get(link.peer)
        if bond is not None:
            bond.as_child = False
            bond.viewers = 0
            if not bond.as_parent:
                room.unbond(link.peer)
        room.tree.child_left(link.peer)
        self.act(room, trio.current_time())

    def _on_invitation(self, invitation: LinkInvite) -> None:
        room = self.room(invitation.room)
        if room is not None:
            room.tree.invited(invitation.warm)
            self.act(room, trio.current_time())

    def _on_word(self, room: SharedRoom, bond: Bond, message: Any, now: float) -> None:
        match message:
            case LinkPath():
                room.tree.path_changed(bond.peer, tuple(message.path))
                self.act(room, now)
            case LinkSource():
                room.hear_of(message, bond.peer, now)
            case SourceLeft():
                room.end_far_source(message.source, message.reason, bond.peer, now)
            case Gap():
                room.hear_of_gap(message, bond, now)
            case Credit():
                room.hear_of_credit(bond, message.source, message.limit)
            case LinkViewers():
                if bond.as_child:
                    if bond.viewers != message.viewers:
                        bond.viewers = message.viewers
                        room.viewers_changed = True
                elif bond.as_parent and room.total_viewers != message.viewers:
                    room.total_viewers = message.viewers
                    room.viewers_changed = True
            case RoomClosed():
                known = [reason.value for reason in RoomClosedReason]
                reason = RoomClosedReason(message.reason if message.reason in known else 1)
                if reason is RoomClosedReason.PATH_LOST and room.mode is RoomMode.LIVE:
                    return
                self._drop(room, reason, now)

    # By themselves

    def members_changed(self) -> None:
        """The membership has another view: tell who is out, and rank all rooms anew."""
        now = trio.current_time()
        for name, link in list(self.links.items()):
            info = self.membership.nodes.get(name)
            if info is None or info.incarnation != link.incarnation:
                link.tell(LinkExpelled(incarnation=link.incarnation), now)
        self._members_changed.set()

    async def follow_members(self) -> None:
        """Rank the rooms here anew when the members change. Runs until cancelled."""
        while True:
            await self._members_changed.wait()
            self._members_changed = trio.Event()
            began = trio.current_time()
            for room in self.shared_rooms():
                if self.room(room.number) is not room:
                    continue
                room.looks = 0
                room.tree.set_ranking(self.ranking(room.number))
                self.act(room, trio.current_time())
                if trio.current_time() - began > _TURN_S:
                    # Streams go on between two rooms.
                    await trio.lowlevel.checkpoint()
                    began = trio.current_time()

    async def run(self) -> None:
        """Watch over links and rooms until cancelled."""
        last = trio.current_time()
        while True:
            await trio.sleep(_TICK_S)
            now = trio.current_time()
            if now - last > _DEAD_S / 2:
                # It was us who was away: the others get their chance to be heard.
                for link in self.links.values():
                    link.heard_at = now
            last = now
            self._watch_links(now)
            for room in self.shared_rooms():
                try:
                    self._watch_room(room, now)
                except Exception as failure:
                    # A fault about one room is not to end the node.
                    self.log.error("internal error", room=str(room), exc_info=failure)

    def _watch_links(self, now: float) -> None:
        for link in list(self.links.values()):
            if now - link.heard_at > _DEAD_S:
                self.log.warning("link is silent", node=link.peer)
                link.close(Code.IDLE_TIMEOUT, now)
            elif now - max(link.heard_at, link.pinged_at) > _PING_S:
                link.ping(lambda _: None, now)

    def _watch_room(self, room: SharedRoom, now: float) -> None:
        tree = room.tree
        if tree.is_looking and now > room.ask_until:
            tree.give_up()
            self.act(room, now)
        if not tree.is_settled and now > room.look_at:
            # Ever more seldom: what changes the answer is heard of otherwise.
            pause_s = min(_LOOK_S * 2**room.looks, _LONGEST_LOOK_S)
            room.looks += 1
            room.look_at = now + random.uniform(pause_s / 2, pause_s)
            tree.look_again()
            self.act(room, now)
        if room.idle_since is not None and now - room.idle_since > _UNUSED_S and not room.is_used:
            if tree.wanted:
                tree.want(False)
                self.act(room, now)
            if now - room.idle_since > _FORGET_S and not tree.is_active and not room.bonds:
                self._drop(room, RoomClosedReason.IDLE, now)
                return
        self._count_viewers(room, now)
        if tree.is_root:
            self._mind_holders(room, now)
            self._renew(room, now)

    def _count_viewers(self, room: SharedRoom, now: float) -> None:
        below, total = room.viewers_below, room.viewers
        for bond in room.bonds.values():
            link = self.links.get(bond.peer)
            if link is None:
                continue
            if bond.as_parent and room.told_up != below:
                link.tell(LinkViewers(room=room.number, viewers=below), now)
            if bond.as_child and room.told_down != total:
                link.tell(LinkViewers(room=room.number, viewers=total), now)
        if room.told_down not in (-1, total):
            room.viewers_changed = True
        room.told_up, room.told_down = below, total

    def _mind_holders(self, room: SharedRoom, now: float) -> None:
        """End the sources of a node that is gone, when nobody has taken them over."""
        for number, holder in list(room.holders.items()):
            if not holder.node or holder.node in self.membership.nodes:
                holder.gone_since = None
                continue
            if holder.gone_since is None:
                holder.gone_since = now
            elif now - holder.gone_since > self.manager.node.limits.linger_s:
                holder.gone_since = math.inf
                self.nursery.start_soon(self._end_orphan, room, number, holder.epoch)

    async def _end_orphan(self, room: SharedRoom, number: int, epoch: int) -> None:
        try:
            if not await self.directory.release_source(room.number, number, epoch):
                return  # it has been taken over
        except ClusterError:
            return
        source = room.sources.get(number)
        holder = room.holders.get(number)
        if source is not None and holder is not None and holder.epoch == epoch:
            room.end_source(source, SourceLeftReason.CONNECTION_LOST, trio.current_time())

    def _renew(self, room: SharedRoom, now: float) -> None:
        """Keep a room's lease alive while data arrives."""
        every_s = lease_seconds(room.idle_timeout_s) / 4
        if room.last_frame_at > room.renewed_at and now - room.renewed_at > every_s:
            room.renewed_at = now
            self.nursery.start_soon(self._renew_once, room)

    async def _renew_once(self, room: SharedRoom) -> None:
        try:
            lives = await self.directory.renew_room(room.number)
        except ClusterError:
            return
        if not lives and self.room(room.number) is room:
            self._drop(room, RoomClosedReason.REMOVED, trio.current_time())

    def nodes(self) -> list[NodeInfo]:
        return list(self.membership.nodes.values())

    def close(self) -> None:
        """Close all links: this node is done."""
        now = trio.current_time()
        for link in list(self.links.values()):
            link.close(Code.BYE, now)


def _tell(message: object, link: NodeLink | None) -> None:
    if link is not None:
        link.tell(message, trio.current_time())


def _ask_in_passing(request: object, link: NodeLink | None) -> None:
    if link is not None:
        link.ask(request, lambda _: None, trio.current_time())
