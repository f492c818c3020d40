"""Account streams: one message to every live device of each receiver, never stored.

Source: protocol.md, section 11.
"""

from __future__ import annotations

from typing import Final, assert_never

from tim_trio.core.manager import RoomManager
from tim_trio.core.member import Member
from tim_trio.core.relations import ContactChange, Relations, Verdict
from tim_trio.errors import Code, room_error
from tim_trio.protocol.messages import (
    AccountSend,
    AccountStream,
    ContactChanged,
    Delivery,
    DeliveryStatus,
    encode,
)

#: What the longest account name and the fields around a payload may take.
_FRAME_OVERHEAD: Final = 512
#: The answer without its deliveries, and a `delivery` without its name.
_ANSWER_BYTES: Final = 14
_DELIVERY_BYTES: Final = 5


async def send(
    manager: RoomManager, relations: Relations, member: Member, request: AccountSend, now: float
) -> list[Delivery]:
    """Carry out an ACCOUNT_SEND, and say for each receiver what became of it.

    A receiver that is named twice gets it once.

    Raises:
        RoomError: ``bad_request``, ``unavailable``.
    """
    node = manager.node
    limits = node.limits
    receivers = list(dict.fromkeys(request.receivers))
    answer_bytes = _ANSWER_BYTES + sum(
        _DELIVERY_BYTES + len(receiver.encode()) for receiver in receivers
    )
    if len(receivers) > limits.max_receivers or answer_bytes > limits.max_frame_bytes:
        raise room_error(
            Code.BAD_REQUEST,
            f"at most {limits.max_receivers} receivers at once",
            limit="max_receivers",
        )
    longest = min(limits.max_account_stream_bytes, limits.max_frame_bytes - _FRAME_OVERHEAD)
    if len(request.payload) > longest:
        raise room_error(
            Code.BAD_REQUEST,
            f"a payload has at most {longest} bytes",
            limit="max_account_stream_bytes",
        )
    verdicts = await relations.verdicts(member.account, receivers)
    if member.outbox.closed:
        # The sender lost its rights, or left, while that was looked up.
        raise room_error(Code.UNAVAILABLE)
    frame = encode(
        AccountStream(account=member.account, kind=request.kind, payload=request.payload)
    )
    deliveries = []
    for receiver, verdict in zip(receivers, verdicts, strict=True):
        status, devices = DeliveryStatus.OFFLINE, 0
        match verdict:
            case Verdict.DELIVER:
                status, devices = _deliver(manager, member, receiver, frame, now)
                node.account_bytes += devices * len(request.payload)
            case Verdict.BLOCKED:
                node.account_refused += 1
            case Verdict.REFUSED:
                status = DeliveryStatus.REFUSED
                node.account_refused += 1
            case Verdict.UNKNOWN:
                status = DeliveryStatus.UNKNOWN
                node.account_missed += 1
            case _:
                assert_never(verdict)
        deliveries.append(Delivery(account=receiver, status=status, devices=devices))
    return deliveries


def _deliver(
    manager: RoomManager, sender: Member, receiver: str, frame: bytes, now: float
) -> tuple[DeliveryStatus, int]:
    """Hand a frame to every connection of an account but the sender's own."""
    node = manager.node
    there = delivered = 0
    # A copy: a connection that turns out to be broken leaves at once.
    for other in tuple(manager.members_of(receiver)):
        if other is sender or other.outbox.closed:
            continue
        there += 1
        delivered += other.inbox.put(frame, sender.account, other.outbox, node.limits, now)
    node.account_delivered += delivered
    if delivered:
        return DeliveryStatus.DELIVERED, delivered
    if there:
        node.account_busy += 1
        node.count_limit("account_backlog_bytes")
        return DeliveryStatus.BUSY, 0
    node.account_missed += 1
    return DeliveryStatus.OFFLINE, 0


async def tell_contact(
    manager: RoomManager, member: Member, other: str, change: ContactChange, now: float
) -> None:
    """Tell the other side of a CONTACT what has changed for it, where there is room.

    It stands in line with account streams and not with what is never dropped:
    who asks and takes back again and again must not get the other side closed.
    """
    if not change.is_news:
        return
    event = encode(ContactChanged(account=member.account, state=change.other_state))
    for connection in tuple(manager.members_of(other)):
        connection.inbox.put(event, member.account, connection.outbox, manager.node.limits, now)
    if manager.elsewhere is not None:
        await manager.elsewhere.tell(other, event)
