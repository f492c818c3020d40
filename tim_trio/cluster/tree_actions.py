"""What rooms' trees want of other nodes, carried out over links; and what those answer.

Source: protocol.md, section 12 (LINK_SUBSCRIBE); docs/cluster.md, "The tree".
"""

from __future__ import annotations

import functools
from typing import Final, Protocol

import attrs
import trio

from tim_trio.cluster.link import NodeLink
from tim_trio.cluster.links import Links
from tim_trio.cluster.membership import Membership
from tim_trio.cluster.room import SharedRoom
from tim_trio.cluster.tree_words import (
    Accept,
    Action,
    Ask,
    Invite,
    Leave,
    Overlap,
    Redirect,
    Refuse,
    TellPath,
)
from tim_trio.errors import Code
from tim_trio.protocol.layout import UNLIMITED_CREDIT
from tim_trio.protocol.messages import (
    Error,
    LinkInvite,
    LinkOutcome,
    LinkPath,
    LinkSubscribe,
    LinkSubscribeAnswer,
    RoomClosedReason,
    RoomMode,
    Unsubscribe,
)

_ASK_S: Final = 1.0


class Trees(Protocol):
    """Whose rooms they are: the cluster."""

    def room(self, number: int) -> SharedRoom | None: ...
    def act(self, room: SharedRoom, now: float) -> None: ...
    def drop(self, room: SharedRoom, reason: RoomClosedReason, now: float) -> None: ...


@attrs.define(eq=False)
class TreeActions:
    """Everything here is synchronous; what is asked is answered to `Trees.act`."""

    trees: Trees
    links: Links
    membership: Membership

    def carry_out(self, room: SharedRoom, action: Action, now: float) -> None:
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
            case Overlap(peer, path):
                room.begin_move(now)
                self._tell_path(room, peer, path, now)
            case TellPath(peer, path):
                self._tell_path(room, peer, path, now)
            case Invite(peer, warm):
                invitation = LinkInvite(room=room.number, warm=warm)
                self.links.with_link(peer, functools.partial(_tell, invitation))

    def _tell_path(self, room: SharedRoom, peer: str, path: tuple[str, ...], now: float) -> None:
        link = self.links.get(peer)
        if link is not None:
            link.tell(LinkPath(room=room.number, path=list(path)), now)

    def _ask(self, room: SharedRoom, peer: str, waiting: tuple[str, ...], now: float) -> None:
        room.ask_until = now + _ASK_S
        request = LinkSubscribe(room=room.number, credit=UNLIMITED_CREDIT, path=list(waiting))
        if room.mode is RoomMode.RELIABLE:
            request = attrs.evolve(request, credit=0)

        def send(link: NodeLink | None) -> None:
            if link is None:
                room.tree.link_down(peer)
                self.trees.act(room, trio.current_time())
            else:
                link.ask(
                    request, functools.partial(self._on_answer, room, link), trio.current_time()
                )

        self.links.with_link(peer, send)

    def _on_answer(self, room: SharedRoom, link: NodeLink, answer: object) -> None:
        now = trio.current_time()
        peer = link.peer
        match answer:
            case LinkSubscribeAnswer(outcome=LinkOutcome.ACCEPTED):
                room.tree.accepted(peer, tuple(answer.path))
                if room.tree.parent == peer and self.trees.room(room.number) is room:
                    self._join(room, link, answer, now)
            case LinkSubscribeAnswer():
                to = self._node_at(answer.address)
                if to is None:
                    room.tree.refused(peer)
                else:
                    room.tree.redirected(peer, to)
            case Error(code=Code.NO_SUCH_ROOM):
                room.tree.refused(peer)
                if self.trees.room(room.number) is room:
                    self.trees.drop(room, RoomClosedReason.REMOVED, now)
                    return
            case Error():
                room.tree.refused(peer)
            case _:
                return  # the link broke: `link_lost` has said so
        self.trees.act(room, now)

    def _join(
        self, room: SharedRoom, link: NodeLink, answer: LinkSubscribeAnswer, now: float
    ) -> None:
        """A node is our parent now: take what it has, and give it what we have."""
        bond = room.bond(link.peer, link.member, 0, now)
        bond.as_parent = True
        bond.since = now
        room.begin_move(now)
        for info in answer.sources:
            room.catch_up(info.source, info.tracks)
        for info in answer.sources:
            for track in info.tracks:
                bond.skipped_to[info.source, track.track] = track.last_seq
        room.adopt(answer.sources, link.peer, now)
        room.open_bond(bond, answer.sources, now)
        room.told_up = -1
        room.mind_move(now)

        def caught_up(pong: object) -> None:
            if pong is not None and room.tree.parent == link.peer:
                room.caught_up_with = link.peer
                self.trees.act(room, trio.current_time())

        link.ping(caught_up, now)

    def _leave(self, room: SharedRoom, peer: str, now: float) -> None:
        bond = room.bonds.get(peer)
        if bond is not None:
            bond.as_parent = False
            if not bond.as_child:
                room.unbond(peer, now)
        if self.links.is_near(peer):
            leave = Unsubscribe(room=room.number)
            self.links.with_link(peer, functools.partial(_ask_in_passing, leave))

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
        bond = room.bond(peer, link.member, 0, now)
        bond.as_child = True
        bond.since = now
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


def _tell(message: object, link: NodeLink | None) -> None:
    if link is not None:
        link.tell(message, trio.current_time())


def _ask_in_passing(request: object, link: NodeLink | None) -> None:
    if link is not None:
        link.ask(request, lambda _: None, trio.current_time())
