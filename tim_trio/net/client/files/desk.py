"""All transfers to us: which message belongs to which, and how many there may be.

Pure, as the transfers themselves (`receiver`).

Source: protocol.md, Annex B, "Accepting" and "What either side must expect".
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection

import attrs

from tim_trio.net.client.files import messages, rules
from tim_trio.net.client.files.messages import FromReceiver, Message
from tim_trio.net.client.files.receiver import Receiver, ReceiverPhase

_Key = tuple[str, str]


@attrs.define(eq=False, kw_only=True)
class Desk:
    """Attributes:
    patience_s: how long a sender may stay away in mid-transfer.
    find_part: our name (`receiver`) for a part of such a file that we hold and
        that was wanted, or None.
    opened: called with each new transfer: ASKING, or WAITING where we go on
        with a part.
    own: ids of transfers that this client sends; not offered to itself.
    """

    patience_s: float
    find_part: Callable[[str, messages.Offer], str | None]
    opened: Callable[[Receiver], object]
    own: Collection[str] = ()
    _transfers: dict[_Key, Receiver] = attrs.Factory(dict)
    #: Over, and answered for a while.
    _remembered: OrderedDict[_Key, Receiver] = attrs.Factory(OrderedDict)

    def transfers(self) -> list[Receiver]:
        """Return the transfers that are not over."""
        self._put_away()
        return list(self._transfers.values())

    def take(self, account: str, message: Message, now: float) -> list[FromReceiver]:
        """Take a message from an account; return the answers to it."""
        self._put_away()
        key = account, message.transfer
        found = self._transfers.get(key) or self._remembered.get(key)
        if found is not None:
            return found.take(message, now)
        match message:
            case messages.UnknownOffer():
                offer = messages.Offer(transfer=message.transfer, name="", size=0, sha256="")
                return self._refuse(account, offer, "version", now)
            case messages.Offer() if message.transfer not in self.own:
                return self._open(account, message, now)
            case _:
                return []

    def _open(self, account: str, offer: messages.Offer, now: float) -> list[FromReceiver]:
        replies: list[FromReceiver] = []
        part = self.find_part(account, offer)
        for old in self._transfers.values():
            if part is not None and old.receiver == part:
                replies += old.fail("superseded")
        self._put_away()
        asking = [
            each.account for each in self._transfers.values() if each.phase is ReceiverPhase.ASKING
        ]
        if len(self._transfers) >= rules.MAX_TRANSFERS or (
            part is None
            and (
                len(asking) >= rules.MAX_QUESTIONS
                or asking.count(account) >= rules.MAX_QUESTIONS_PER_ACCOUNT
            )
        ):
            return [*replies, *self._refuse(account, offer, "busy", now)]
        receiver = self._new(account, offer, part or messages.new_id(), now)
        self._transfers[account, offer.transfer] = receiver
        if part is not None:
            receiver.agree(now)
        self.opened(receiver)
        return replies

    def _refuse(
        self, account: str, offer: messages.Offer, reason: str, now: float
    ) -> list[FromReceiver]:
        receiver = self._new(account, offer, messages.new_id(), now)
        replies = receiver.decline(reason)
        # Under one name, however often it is offered: a sender counts the names.
        self._remember((account, offer.transfer), receiver)
        return replies

    def _new(self, account: str, offer: messages.Offer, name: str, now: float) -> Receiver:
        return Receiver(
            account=account, offer=offer, receiver=name, patience_s=self.patience_s, now=now
        )

    def _put_away(self) -> None:
        for key, receiver in list(self._transfers.items()):
            if receiver.phase is ReceiverPhase.OVER:
                del self._transfers[key]
                self._remember(key, receiver)

    def _remember(self, key: _Key, receiver: Receiver) -> None:
        self._remembered[key] = receiver
        while len(self._remembered) > rules.MAX_REMEMBERED:
            self._remembered.popitem(last=False)
