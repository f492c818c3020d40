"""Requests that concern rooms and accounts on other nodes.

What changes a room is carried out by its relay, whichever node a client is
connected to; watching and publishing happen at the client's own node, which
joins the room's tree first.

Source: protocol.md, sections 7 to 12.
"""

from __future__ import annotations

from typing import Any, Final

import attrs
import trio

from tim_trio.cluster.bans import SharedBans
from tim_trio.cluster.cluster import Cluster
from tim_trio.cluster.devices import Devices
from tim_trio.cluster.forwarding import ForwardedMember, Forwarding
from tim_trio.cluster.managers_directory import unavailable
from tim_trio.cluster.room import SharedRoom
from tim_trio.cluster.room_lists import RoomLists
from tim_trio.core.accounts import Gate
from tim_trio.core.figures import load_bytes, room_for_entries
from tim_trio.core.manager import RoomManager
from tim_trio.core.member import Member
from tim_trio.core.relations import may_reach
from tim_trio.core.session import Session
from tim_trio.errors import (
    ClusterError,
    Code,
    CreatorAbsent,
    room_error,
)
from tim_trio.protocol.messages import (
    AccountSend,
    AccountSendAnswer,
    AskToPush,
    AskToPushAnswer,
    Ban,
    BanKind,
    Error,
    Figure,
    GetRoomInfo,
    Grant,
    ListRooms,
    NodeEntry,
    NodeFigures,
    NodeFiguresAnswer,
    NodeState,
    Publish,
    PushAsked,
    PushGranted,
    RegisterRoom,
    RemoveRoom,
    Revoke,
    Right,
    RoomFigures,
    RoomFiguresAnswer,
    RoomLoad,
    Subscribe,
    SubscriberFigures,
    encode,
)
from tim_trio.protocol.room_ids import is_room_id

_READY_S: Final = 5.0
_FORWARD_S: Final = 4.0
_FIRST_EVENT: Final = 0x60
_LAST_EVENT: Final = 0x7F
_LIST_LIMIT: Final = 500
_RETRY_S: Final = 2.0
#: The relay and its backups.
_SHOWN: Final = 4
#: A `node_entry` without the bytes of its texts.
_NODE_BYTES: Final = 5


@attrs.define(eq=False)
class Requests:
    """Implements the core's `Elsewhere`."""

    cluster: Cluster
    gate: Gate[Session]
    #: Where accounts are somebody else's.
    bans: SharedBans | None = None
    devices: Devices = attrs.field(init=False)
    forwarding: Forwarding = attrs.field(init=False)
    _lists: RoomLists = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.forwarding = Forwarding(self.cluster, self.gate)
        self._lists = RoomLists(self.cluster, self.forwarding.send)
        self.devices = Devices(self.cluster, self.gate.relations, self.forwarding.send)
        self.forwarding.take_event = self.devices.take

    @property
    def manager(self) -> RoomManager:
        return self.cluster.manager

    # Before a request is carried out here

    async def prepare(self, member: Member, request: object, now: float) -> object | None:
        try:
            return await self._prepare(member, request, now)
        except ClusterError as error:
            raise unavailable(error) from error

    async def _prepare(self, member: Member, request: object, now: float) -> object | None:
        cluster = self.cluster
        match request:
            case Subscribe(room=number):
                if member.may_subscribe_to(number) and number not in member.subscriptions:
                    await self._joined_room(number)
            case Publish(room=number, token=token):
                if member.may_push_to(number):
                    await self._claim(member, number, token)
            case RegisterRoom():
                if not cluster.membership.is_certain(trio.current_time()):
                    raise room_error(Code.DIRECTORY_UNAVAILABLE)
            case RemoveRoom() | Grant() | Revoke() | GetRoomInfo() | AskToPush():
                return await self._at_relay(member, request, now)
            case Ban(kind=BanKind.ROOM, room=number) if is_room_id(number):
                if member.rights & Right.OPERATOR:
                    return await self._at_relay(member, request, now)
            case ListRooms():
                if not isinstance(member, ForwardedMember):
                    return await self._lists.answer(member, request)
            case NodeFigures() | RoomFigures() | SubscriberFigures():
                return await self._figures_elsewhere(member, request)
        return None

    async def _figures_elsewhere(
        self, member: Member, request: NodeFigures | RoomFigures | SubscriberFigures
    ) -> object | None:
        """Have another node say its figures; None where they are to be those of this one."""
        node = request.node
        if (
            isinstance(request, SubscriberFigures)
            and not node
            and self.cluster.room(request.room) is None
        ):
            node = next(iter(self.cluster.ranking(request.room)), "")
        if node in ("", self.cluster.me) or node not in self.cluster.membership.nodes:
            return None
        if isinstance(member, ForwardedMember):
            return None  # who forwards has picked the node
        answer = await self.forwarding.send(
            node, member.account, encode(request, 1), int(member.rights)
        )
        if answer is None:
            raise room_error(Code.PATH_LOST)
        if isinstance(answer, Error):
            raise room_error(answer.code, answer.text, retry_after_ms=answer.retry_after_ms)
        return answer

    async def _present(self, number: int) -> SharedRoom:
        room = await self.cluster.open_room(number)
        if room is None:
            raise room_error(Code.NO_SUCH_ROOM)
        return room

    async def _joined_room(self, number: int) -> SharedRoom:
        """Return a room with a path to its root, and with what is there already.

        Raises:
            RoomError: ``no_such_room``, ``path_lost``.
        """
        room = await self._present(number)
        now = trio.current_time()
        if not room.tree.wanted:
            room.idle_since = now  # in case nothing comes of it
            room.tree.want(True)
            self.cluster.act(room, now)
        with trio.move_on_after(_READY_S):
            while not room.ready.is_set():
                await room.ready.wait()
        if self.manager.rooms.get(number) is not room:
            raise room_error(Code.NO_SUCH_ROOM)
        if not room.ready.is_set():
            raise room_error(Code.PATH_LOST)
        return room

    async def _claim(self, member: Member, number: int, token: bytes) -> None:
        room = await self._joined_room(number)
        if not room.may_push(member.account):
            record = await self.cluster.directory.find_room(number)
            if record is not None and member.account in record.granted:
                self.manager.learn_grant(room, member.account)
        if room.may_push(member.account):
            claim = await self.cluster.directory.claim_source(
                number, member.account, token, self.cluster.me
            )
            # No checkpoint between this and what uses it.
            room.claim = claim

    async def _at_relay(self, member: Member, request: Any, now: float) -> object | None:
        if not member.may_subscribe_to(request.room) and not member.may_push_to(request.room):
            return None  # refused right here
        number = request.room
        ranking = self.cluster.ranking(number)
        if isinstance(member, ForwardedMember) or ranking[:1] == (self.cluster.me,):
            return await self._as_relay(member, request, now)
        if isinstance(request, AskToPush) and not member.may_push_to(number):
            return None
        for node in ranking[:2]:
            if node == self.cluster.me:
                return await self._as_relay(member, request, now)
            answer = await self.forwarding.send(
                node, member.account, encode(request, 1), int(member.rights)
            )
            if answer is not None:
                if isinstance(answer, Error):
                    raise room_error(answer.code, answer.text, retry_after_ms=answer.retry_after_ms)
                return answer
        raise room_error(Code.PATH_LOST)

    async def _as_relay(self, member: Member, request: Any, now: float) -> object | None:
        room = await self._present(request.room)
        record = await self.cluster.directory.find_room(room.number)
        if record is None:
            raise room_error(Code.NO_SUCH_ROOM)
        for account in record.granted - room.granted:
            self.manager.learn_grant(room, account)
        if isinstance(request, AskToPush):
            return await self._ask(member, room, request, now)
        return None

    async def _ask(
        self, member: Member, room: SharedRoom, request: AskToPush, now: float
    ) -> AskToPushAnswer:
        """As `RoomManager.ask_to_push`, for a creator who may be anywhere."""
        here = 0
        is_heard = await may_reach(self.gate.relations, member.account, room.creator)
        try:
            here = self.manager.ask_to_push(
                member, room.number, request.message, now, is_heard=is_heard
            )
        except CreatorAbsent:
            if not is_heard:
                raise
        event = PushAsked(room=room.number, account=member.account, message=request.message)
        elsewhere, _ = await self.devices.tell(room.creator, encode(event))
        if not here + elsewhere:
            raise room_error(Code.CREATOR_ABSENT)
        if not here:
            room.asks.note(member.account, now)
        return AskToPushAnswer(told=here + elsewhere)

    # After it was carried out here

    async def finish(self, member: Member, request: object, answer: object, now: float) -> object:
        match request, answer:
            case Grant(), _:
                await self.tell(request.account, encode(PushGranted(room=request.room)))
            case NodeFigures(), NodeFiguresAnswer():
                return self._with_nodes(answer)
            case RoomFigures(), RoomFiguresAnswer():
                return self._with_rankings(answer)
            case AccountSend(), AccountSendAnswer():
                return await self.devices.send_on(member.account, request, answer)
            case Ban(kind=BanKind.ACCOUNT), _ if self.bans is not None:
                try:
                    await self.bans.share(request.account, member.account, request.reason)
                except ClusterError as error:
                    raise unavailable(error) from error
        return answer

    def _with_nodes(self, answer: NodeFiguresAnswer) -> NodeFiguresAnswer:
        """Add who the nodes are, and which of them this one has links to."""
        left = room_for_entries(self.manager) // 2
        nodes = []
        for info in sorted(self.cluster.membership.nodes.values(), key=lambda info: info.name):
            left -= _NODE_BYTES + len(info.name.encode()) + len(info.address.encode())
            if left < 0:
                break
            state = NodeState.DRAINING if info.draining else NodeState(0)
            if self.cluster.links.get(info.name) is not None:
                state |= NodeState.LINKED
            nodes.append(NodeEntry(node=info.name, address=info.address, state=state))
        failovers = Figure(name="failovers", value=self.cluster.failovers)
        return attrs.evolve(answer, figures=[*answer.figures, failovers], nodes=nodes)

    def _with_rankings(self, answer: RoomFiguresAnswer) -> RoomFiguresAnswer:
        """Add each room's relay and backups, to as many rooms as then fit."""
        left = room_for_entries(self.manager)
        rooms: list[RoomLoad] = []
        for load in answer.rooms:
            ranked = attrs.evolve(load, nodes=list(self.cluster.ranking(load.room)[:_SHOWN]))
            left -= load_bytes(ranked)
            if left < 0:
                return attrs.evolve(answer, rooms=rooms, more=True)
            rooms.append(ranked)
        return attrs.evolve(answer, rooms=rooms)

    async def tell(self, account: str, event: bytes) -> None:
        try:
            await self.devices.tell(account, event)
        except ClusterError as error:
            self.cluster.log.warning("other nodes were not told", error=str(error))
