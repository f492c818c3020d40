"""One node of a cluster: its links, its rooms' places in their trees, and what
rooms need from each other.

Requests from elsewhere and to elsewhere are `requests`; this is what goes on
between nodes by itself.

Source: protocol.md, section 12; docs/cluster.md.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

import attrs
import trio

from tim_trio.cluster.bond import Bond, RoomHost
from tim_trio.cluster.bonded import BondedRoom
from tim_trio.cluster.directory import EtcdDirectory
from tim_trio.cluster.link import NodeLink
from tim_trio.cluster.links import DEAD_S, Links
from tim_trio.cluster.membership import EventLog, Membership, NodeInfo
from tim_trio.cluster.minding import Minder
from tim_trio.cluster.room import SharedRoom
from tim_trio.cluster.tree import Tree
from tim_trio.cluster.tree_actions import TreeActions
from tim_trio.core.manager import RoomManager
from tim_trio.core.room import Room
from tim_trio.core.sources import Source
from tim_trio.errors import ClusterError, Code, RemoteProtocolError
from tim_trio.protocol.messages import (
    Credit,
    Gap,
    LinkExpelled,
    LinkInvite,
    LinkPath,
    LinkSource,
    LinkSubscribe,
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
_ASK_S: Final = 1.0
#: Other tasks get a turn after so much ranking.
_TURN_S: Final = 0.003


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
    nursery: trio.Nursery
    links: Links
    fanout: int = 64
    #: Carries out a FORWARD; set by who knows requests.
    on_forward: Callable[[NodeLink, Any, int, float], None] = lambda *_: None
    failovers: int = 0
    _actions: TreeActions = attrs.field(init=False)
    # What came for a room while it is looked up, in order.
    _opening: dict[int, list[Callable[[], None]]] = attrs.field(factory=dict)
    # The members that rooms were ranked by, by name.
    _incarnations: dict[str, int] = attrs.field(factory=dict)
    _members_changed: trio.Event = attrs.field(factory=trio.Event)

    def __attrs_post_init__(self) -> None:
        self._actions = TreeActions(self, self.links, self.membership)
        self.links.host = self
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
        tree.keeps_warm = tree.overlaps = room.mode is RoomMode.LIVE
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

    @property
    def is_bridge(self) -> bool:
        """Whether frames may have to go over this node, whoever uses its rooms."""
        return any(room.tree.children or room.tree.leaving for room in self.shared_rooms())

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

    def caught_up(self, room: BondedRoom, now: float) -> None:
        assert isinstance(room, SharedRoom)
        room.tree.caught_up()
        self.act(room, now)

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

    def retire(self, room: SharedRoom, source: Source, reason: SourceLeftReason) -> None:
        holder = room.holders[source.number]
        self.nursery.start_soon(self._retire, room, source, holder.epoch, reason)

    async def _retire(
        self, room: SharedRoom, source: Source, epoch: int, reason: SourceLeftReason
    ) -> None:
        try:
            is_over = await self.directory.release_source(room.number, source.number, epoch)
        except ClusterError:
            is_over = True  # so it seems from here; its record hangs on the room's lease
        if is_over and room.sources.get(source.number) is source:
            room.end_for_all(source, reason, trio.current_time())

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
                self._actions.carry_out(room, action, now)
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
        self.drop(room, RoomClosedReason.PATH_LOST, now)

    def drop(self, room: SharedRoom, reason: RoomClosedReason, now: float) -> None:
        """End a room here; it may live on elsewhere."""
        room.tree.want(False)
        room.tree.invited(False)
        for peer in list(room.tree.children):
            room.tree.child_left(peer)
        room.tree.part()
        self.manager.close_here(room, reason, now)
        for action in room.tree.take_actions():
            self._actions.carry_out(room, action, now)

    # Links (LinksHost)

    def link_is_up(self, link: NodeLink, now: float) -> None:
        for room in self.shared_rooms():
            room.tree.link_up(link.peer)
            self.act(room, now)

    def link_is_lost(self, link: NodeLink, now: float) -> None:
        for room in self.shared_rooms():
            room.questions.pop(link.peer, None)
            if link.peer in room.bonds:
                room.broken_at = now
            room.unbond(link.peer, now)
            room.tree.link_down(link.peer)
        for room in self.shared_rooms():
            self.act(room, now)

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
        if room.mode is RoomMode.RELIABLE and bond is not None and not bond.as_parent:
            room.unbond(link.peer, now)  # it asks anew
        room.tree.asked(link.peer, tuple(request.path))
        self.act(room, now)

    def _on_leave(self, link: NodeLink, number: int) -> None:
        room = self.room(number)
        if room is None or self.links.get(link.peer) is not link:
            return
        now = trio.current_time()
        bond = room.bonds.get(link.peer)
        if bond is not None:
            bond.as_child = False
            bond.viewers = 0
            if not bond.as_parent:
                room.unbond(link.peer, now)
        room.tree.child_left(link.peer)
        self.act(room, now)

    def _on_invitation(self, invitation: LinkInvite) -> None:
        room = self.room(invitation.room)
        if room is not None:
            room.tree.invited(invitation.warm)
            self.act(room, trio.current_time())

    def _on_word(self, room: SharedRoom, bond: Bond, message: Any, now: float) -> None:
        match message:
            case LinkPath():
                if bond.as_child and bond.peer != room.tree.parent and self.me not in message.path:
                    bond.viewers = 0  # it is counted elsewhere from now on
                    room.viewers_changed = True
                room.tree.path_changed(bond.peer, tuple(message.path))
                room.mind_move(now)
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
                elif bond.peer == room.tree.parent and room.total_viewers != message.viewers:
                    room.total_viewers = message.viewers
                    room.viewers_changed = True
            case RoomClosed():
                known = [reason.value for reason in RoomClosedReason]
                reason = RoomClosedReason(message.reason if message.reason in known else 1)
                if reason is RoomClosedReason.PATH_LOST and room.mode is RoomMode.LIVE:
                    return
                self.drop(room, reason, now)

    # By themselves

    def other_members(self) -> list[NodeInfo]:
        """Return the nodes that take clients, but for this one."""
        return [
            info
            for info in self.membership.nodes.values()
            if info.name != self.me and not info.draining
        ]

    def members_changed(self) -> None:
        """The membership has another view: tell who is out, and rank all rooms anew."""
        now = trio.current_time()
        self.links.tell_the_expelled(now)
        self._members_changed.set()

    async def follow_members(self) -> None:
        """Rank the rooms here anew when the members change. Runs until cancelled."""
        while True:
            await self._members_changed.wait()
            self._members_changed = trio.Event()
            began = trio.current_time()
            known, self._incarnations = (
                self._incarnations,
                {info.name: info.incarnation for info in self.membership.nodes.values()},
            )
            returned = [
                name
                for name, incarnation in self._incarnations.items()
                if known.get(name) != incarnation
            ]
            for room in self.shared_rooms():
                if self.room(room.number) is not room:
                    continue
                room.looks = 0
                try:
                    room.tree.set_ranking(self.ranking(room.number), returned)
                    self.act(room, trio.current_time())
                except Exception as failure:
                    # A fault about one room is not to end the node.
                    self.log.error("internal error", room=str(room), exc_info=failure)
                if trio.current_time() - began > _TURN_S:
                    # Streams go on between two rooms.
                    await trio.lowlevel.checkpoint()
                    began = trio.current_time()

    async def run(self) -> None:
        """Watch over links and rooms until cancelled."""
        minder = Minder(self)
        last = trio.current_time()
        while True:
            await trio.sleep(_TICK_S)
            now = trio.current_time()
            if now - last > DEAD_S / 2:
                self.links.forgive(now)
            last = now
            self.links.watch(now)
            for room in self.shared_rooms():
                try:
                    minder.watch(room, now)
                except Exception as failure:
                    # A fault about one room is not to end the node.
                    self.log.error("internal error", room=str(room), exc_info=failure)
