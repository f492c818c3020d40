"""What a signed-in connection may ask for, from request to answer.

Requests that concern the conversation itself (HELLO, signing in, passwords)
are the session's own.

Source: protocol.md, sections 7 to 9 and 11.
"""

from __future__ import annotations

from typing import Any, assert_never

import trio

from tim_trio.core import account_streams, figures
from tim_trio.core.accounts import Authenticator, Gate
from tim_trio.core.manager import RoomManager
from tim_trio.core.member import Member
from tim_trio.core.relations import Relations, as_fits, may_reach
from tim_trio.errors import Code, room_error
from tim_trio.protocol.messages import (
    AccountSend,
    AccountSendAnswer,
    AskToPush,
    AskToPushAnswer,
    Ban,
    BanAnswer,
    BanKind,
    Contact,
    ContactAnswer,
    Credit,
    GetPolicy,
    GetPolicyAnswer,
    GetRoomInfo,
    Grant,
    GrantAnswer,
    ListContacts,
    ListContactsAnswer,
    ListRooms,
    ListRoomsAnswer,
    NodeFigures,
    Publish,
    RegisterRoom,
    RegisterRoomAnswer,
    RemoveRoom,
    RemoveRoomAnswer,
    Revoke,
    RevokeAnswer,
    Right,
    RoomFigures,
    RoomInfoAnswer,
    SetPolicy,
    SetPolicyAnswer,
    Subscribe,
    SubscriberFigures,
    Unpublish,
    Unsubscribe,
    UnsubscribeAnswer,
    is_account_name,
)
from tim_trio.protocol.room_ids import is_room_id


async def carry_out(
    manager: RoomManager,
    gate: Gate[Any],
    member: Member,
    request: object,
    request_id: int,
    now: float,
) -> object | None:
    """Carry out a request and return its answer; None where that has been sent already.

    Raises:
        RoomError: the answer is ERROR.
    """
    elsewhere = manager.elsewhere
    if elsewhere is None:
        return await _carry_out(manager, gate, member, request, request_id, now)
    answer = await elsewhere.prepare(member, request, now)
    if answer is None:
        # What took its time took it from the clock too.
        now = max(now, trio.current_time())
        if member.outbox.closed:
            raise room_error(Code.UNAVAILABLE)
        answer = await _carry_out(manager, gate, member, request, request_id, now)
        if answer is not None:
            answer = await elsewhere.finish(member, request, answer, now)
    return answer


async def _carry_out(
    manager: RoomManager,
    gate: Gate[Any],
    member: Member,
    request: object,
    request_id: int,
    now: float,
) -> object | None:
    relations = gate.relations
    match request:
        case AccountSend():
            deliveries = await account_streams.send(manager, relations, member, request, now)
            return AccountSendAnswer(deliveries=deliveries)
        case Contact(action=action, account=other):
            change = await relations.contact(member.account, action, other)
            await account_streams.tell_contact(manager, member, other, change, now)
            return ContactAnswer(state=change.state)
        case ListContacts(after=after, limit=limit):
            page = await relations.list_contacts(member.account, after, limit)
            more, contacts = as_fits(*page, manager.node.limits.max_frame_bytes)
            return ListContactsAnswer(more=more, contacts=contacts)
        case SetPolicy(policy=policy):
            await relations.set_policy(member.account, policy)
            return SetPolicyAnswer()
        case GetPolicy():
            return GetPolicyAnswer(policy=await relations.get_policy(member.account))
        case AskToPush(room=number, message=message):
            told = await _ask_to_push(manager, relations, member, number, message, now)
            return AskToPushAnswer(told=told)
        case Ban():
            await _ban(manager, gate.authenticator, member, request, now)
            return BanAnswer()
        case _:
            return await _room_request(manager, member, request, request_id, now)


async def _ask_to_push(
    manager: RoomManager,
    relations: Relations,
    member: Member,
    number: int,
    message: str,
    now: float,
) -> int:
    room = manager.rooms.get(number)
    is_heard = room is None or await may_reach(relations, member.account, room.creator)
    if member.outbox.closed:
        # It lost its rights, or left, while that was looked up.
        raise room_error(Code.UNAVAILABLE)
    return manager.ask_to_push(member, number, message, now, is_heard=is_heard)


async def _ban(
    manager: RoomManager, authenticator: Authenticator, member: Member, request: Ban, now: float
) -> None:
    if not member.rights & Right.OPERATOR:
        raise room_error(Code.PERMISSION_DENIED, "only operators may ban")
    match request.kind:
        case BanKind.ROOM:
            if not is_room_id(request.room):
                raise room_error(Code.BAD_REQUEST, "not a room id")
            await manager.ban(member, request.room, request.reason, now)
        case BanKind.ACCOUNT:
            account = request.account
            if not is_account_name(account):
                raise room_error(Code.BAD_REQUEST, "not an account name")
            if account == member.account:
                raise room_error(Code.BAD_REQUEST, "that is you")
            await authenticator.ban(account)
            manager.node.account_bans += 1
            manager.log.info(
                "account banned", account=account, by=member.account, why=request.reason
            )
        case _:
            assert_never(request.kind)


async def _room_request(
    manager: RoomManager, member: Member, request: object, request_id: int, now: float
) -> object | None:
    match request:
        case RegisterRoom():
            room = await manager.register(
                member, request.mode, request.gather_ms, request.idle_timeout_s, now
            )
            return RegisterRoomAnswer(room=room.number)
        case RemoveRoom():
            await manager.remove(member, request.room, now)
            return RemoveRoomAnswer()
        case Grant():
            await manager.grant(member, request.room, request.account, now)
            return GrantAnswer()
        case Revoke():
            await manager.revoke(member, request.room, request.account, now)
            return RevokeAnswer()
        case Subscribe():
            manager.subscribe(member, request.room, request.start, request.credit, request_id, now)
            return None
        case Unsubscribe():
            manager.unsubscribe(member, request.room)
            return UnsubscribeAnswer()
        case Publish():
            manager.publish(member, request.room, request.token, request_id, now)
            return None
        case Unpublish():
            manager.unpublish(member, request.room, request.source, request_id, now)
            return None
        case GetRoomInfo():
            return RoomInfoAnswer(info=manager.info(member, request.room, now))
        case ListRooms():
            more, entries = manager.list_rooms(member, request.scope, request.after, request.limit)
            return ListRoomsAnswer(more=more, rooms=entries)
        case NodeFigures() | RoomFigures() | SubscriberFigures():
            return await figures.answer(manager, member, request, now)
        case Credit():
            manager.credit(member, request.room, request.source, request.limit)
            return None
        case _:
            raise room_error(Code.NOT_SUPPORTED, "not served here")
