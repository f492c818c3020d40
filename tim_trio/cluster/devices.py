"""Events and messages to an account's devices at other nodes.

Source: protocol.md, sections 11 and 12.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import attrs
import trio

from tim_trio.cluster.cluster import Cluster
from tim_trio.core.manager import RoomManager
from tim_trio.core.relations import Relations, Verdict
from tim_trio.errors import ClusterError
from tim_trio.protocol.messages import (
    AccountSend,
    AccountSendAnswer,
    AccountStream,
    AskToPushAnswer,
    ContactChanged,
    Delivery,
    DeliveryStatus,
    PushAsked,
    PushGranted,
    encode,
)

#: Receivers of one message that are looked for at once.
_AT_ONCE: Final = 16
#: For one message, however many receivers it has and whatever is down.
_LONGEST_S: Final = 6.0
#: Who is charged for what no account has sent.
_THE_NODES: Final = "node"

#: Has a frame carried out at a node: its name, the account, the frame, rights.
#: None where the node cannot be reached, or takes no more now.
Forwarding = Callable[[str, str, bytes, int], Awaitable[object | None]]


@attrs.define(eq=False)
class Devices:
    """The devices of all accounts at all nodes but this one, and those here for the others."""

    cluster: Cluster
    relations: Relations
    forward: Forwarding

    @property
    def manager(self) -> RoomManager:
        return self.cluster.manager

    async def tell(self, account: str, event: bytes) -> tuple[int, bool]:
        """Hand an event over; return to how many connections, and whether a node took none.

        Raises:
            ClusterError: the directory could not be asked where they are.
        """
        told, is_busy = 0, False
        for node in await self.cluster.directory.nodes_of(account):
            if node == self.cluster.me or node not in self.cluster.membership.nodes:
                continue
            answer = await self.forward(node, account, event, 0)
            if isinstance(answer, AskToPushAnswer):
                told += answer.told
            else:
                is_busy = True
        return told, is_busy

    async def send_on(
        self, sender: str, request: AccountSend, answer: AccountSendAnswer
    ) -> AccountSendAnswer:
        """Hand a message to its receivers' devices elsewhere; return the answer with them in it."""
        # What those here were told for good holds everywhere.
        final = (DeliveryStatus.REFUSED, DeliveryStatus.UNKNOWN)
        names = [each.account for each in answer.deliveries if each.status not in final]
        verdicts = await self.relations.verdicts(sender, names)
        event = encode(AccountStream(account=sender, kind=request.kind, payload=request.payload))
        reached = await self._tell_all(
            (name for name, each in zip(names, verdicts, strict=True) if each is Verdict.DELIVER),
            event,
        )
        return AccountSendAnswer(
            deliveries=[
                _with(each, *reached.get(each.account, (0, False))) for each in answer.deliveries
            ]
        )

    async def _tell_all(self, accounts: Iterable[str], event: bytes) -> dict[str, tuple[int, bool]]:
        reached: dict[str, tuple[int, bool]] = {}
        places = trio.Semaphore(_AT_ONCE)

        async def tell(account: str) -> None:
            async with places:
                try:
                    reached[account] = await self.tell(account, event)
                except ClusterError as error:
                    self.cluster.log.warning("other nodes were not told", error=str(error))

        with trio.move_on_after(_LONGEST_S):
            async with trio.open_nursery() as nursery:
                for account in accounts:
                    nursery.start_soon(tell, account)
        return reached

    def take(self, account: str, event: object, frame: bytes) -> int | None:
        """Hand an event of another node to an account's connections here.

        Returns how many there were with room for it; None for what is no such event.
        """
        match event:
            case AccountStream(account=sender) | ContactChanged(account=sender):
                pass
            case PushAsked() | PushGranted():
                sender = _THE_NODES
            case _:
                return None
        node = self.manager.node
        told = 0
        # A copy: a connection that turns out to be broken leaves at once.
        for member in tuple(self.manager.members_of(account)):
            if not member.outbox.closed:
                now = trio.current_time()
                told += member.inbox.put(frame, sender, member.outbox, node.limits, now)
        if isinstance(event, AccountStream):
            node.account_delivered += told
            node.account_bytes += told * len(event.payload)
        return told


def _with(delivery: Delivery, told: int, is_busy: bool) -> Delivery:
    """Return what became of a message here and elsewhere together."""
    if told:
        return Delivery(
            account=delivery.account,
            status=DeliveryStatus.DELIVERED,
            devices=delivery.devices + told,
        )
    if is_busy and delivery.status is DeliveryStatus.OFFLINE:
        return Delivery(account=delivery.account, status=DeliveryStatus.BUSY, devices=0)
    return delivery
