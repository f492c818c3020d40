"""The receiver's side of one transfer, as a state machine.

Pure: messages and the time in, messages out. Whoever owns it asks the user
while it is ASKING, answers an offer while `wants_answer`, and runs the attempt
that `start` describes while it is RECEIVING.

Source: protocol.md, Annex B.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final, assert_never

import attrs

from tim_trio.net.client.files import messages, rules
from tim_trio.net.client.files.messages import By, FromReceiver, Message
from tim_trio.net.client.files.sender import Ending, Outcome


class ReceiverPhase(enum.Enum):
    """Where a transfer stands, seen from the receiver."""

    ASKING = "asking"  # nobody has said yes or no
    WAITING = "waiting"  # wanted, and no attempt is under way
    ACCEPTED = "accepted"  # an accept is sent
    RECEIVING = "receiving"
    OVER = "over"


_OFFERED: Final = messages.Offer | messages.Start


@attrs.define(eq=False, kw_only=True)
class Receiver:
    """One file on its way to us.

    Attributes:
        account: who sends it.
        receiver: our name for our part in it.
        wants_answer: an offer waits for `accept`.
        start: what to subscribe to, while RECEIVING.
        peer_is_stopping: the sender has said that it goes away for now.
        outcome: None while the transfer goes on. DECLINED by the sender's
            side means that another device has taken it.
        changed: called after every change.
    """

    account: str
    offer: messages.Offer
    receiver: str
    patience_s: float
    phase: ReceiverPhase = ReceiverPhase.ASKING
    wants_answer: bool = False
    start: messages.Start | None = None
    peer_is_stopping: bool = False
    outcome: Outcome | None = None
    changed: Callable[[], object] = lambda: None
    _attempt: str = ""
    _offset: int = 0
    _offered_at: float = attrs.field(alias="now")
    _accepted_at: float = 0.0
    _waits_since: float = 0.0
    _last_words: FromReceiver | None = None

    @property
    def transfer(self) -> str:
        return self.offer.transfer

    def is_asking(self) -> bool:
        return self.phase is ReceiverPhase.ASKING

    @property
    def next_poll(self) -> float:
        """When to call `poll` again at the latest."""
        match self.phase:
            case ReceiverPhase.ASKING:
                return self._offered_at + rules.OFFER_LAPSES_S
            case ReceiverPhase.WAITING:
                return self._waits_since + self.patience_s
            case ReceiverPhase.ACCEPTED:
                # An offer may have come since that was not answered.
                return self._accepted_at + self.patience_s
            case ReceiverPhase.RECEIVING | ReceiverPhase.OVER:
                return float("inf")
        assert_never(self.phase)

    def poll(self, now: float) -> None:
        """End what the sender has forgotten."""
        if now >= self.next_poll:
            asking = self.phase is ReceiverPhase.ASKING
            self._end(Outcome(Ending.CANCELLED if asking else Ending.TIMED_OUT))

    def take(self, message: Message, now: float) -> list[FromReceiver]:
        """Take a message about this transfer from the sender's account."""
        if self.phase is ReceiverPhase.OVER:
            again = isinstance(message, _OFFERED) and self._last_words is not None
            return [self._last_words] if again and self._last_words is not None else []
        match message:
            case messages.Offer():
                self._take_offer(now)
            case messages.Start():
                return self._take_start(message, now)
            case messages.Taken():
                self._end_if_taken(message.receiver)
            case messages.Pause(by=By.SENDER):
                self._take_pause(message, now)
            case messages.Cancel(by=By.SENDER):
                self._end(Outcome(Ending.CANCELLED))
            case messages.Failed(by=By.SENDER):
                self._end(Outcome(Ending.FAILED, message.reason))
            case _:
                pass  # of a receiver: another device of our own account, if it is ours
        return []

    def _take_offer(self, now: float) -> None:
        self._offered_at = now
        self.peer_is_stopping = False
        match self.phase:
            case ReceiverPhase.ASKING:
                return
            case ReceiverPhase.ACCEPTED if now - self._accepted_at < rules.START_WITHIN_S:
                return
            case ReceiverPhase.ACCEPTED | ReceiverPhase.RECEIVING:
                # The sender offers only when no attempt is under way.
                self._wait(now)
            case _:
                self._waits_since = now
        self.wants_answer = True
        self.changed()

    def _take_start(self, start: messages.Start, now: float) -> list[FromReceiver]:
        if self._end_if_taken(start.receiver) or self.phase is not ReceiverPhase.ACCEPTED:
            return []
        if start.attempt != self._attempt:
            return []
        if start.offset not in (0, self._offset):
            return self.fail("protocol")
        self.phase = ReceiverPhase.RECEIVING
        self.start = start
        self.changed()
        return []

    def _take_pause(self, pause: messages.Pause, now: float) -> None:
        self.peer_is_stopping = pause.stopping
        match self.phase:
            case ReceiverPhase.ASKING if pause.stopping:
                self._end(Outcome(Ending.CANCELLED))
            case ReceiverPhase.ACCEPTED | ReceiverPhase.RECEIVING:
                self._wait(now)
            case _:
                pass
        self.changed()

    def _end_if_taken(self, receiver: str) -> bool:
        if receiver == self.receiver:
            return False
        self._end(Outcome(Ending.DECLINED))
        return True

    # -- told by whoever asks the user and runs the attempt ----------------------

    def agree(self, now: float) -> None:
        """It is wanted."""
        if self.phase is ReceiverPhase.ASKING:
            self._wait(now)
            self.wants_answer = True
            self.changed()

    def decline(self, reason: str) -> list[FromReceiver]:
        """It is not: ``user``, ``policy``, ``busy``, ``space``."""
        if self.phase is ReceiverPhase.OVER:
            return []
        words = messages.Decline(transfer=self.transfer, receiver=self.receiver, reason=reason)
        return self._end(Outcome(Ending.DECLINED, reason, By.RECEIVER), words)

    def accept(self, *, attempt: str, offset: int, sha256: str, now: float) -> list[FromReceiver]:
        """Answer the offer: we hold ``offset`` bytes with that digest, safely."""
        if self.phase is not ReceiverPhase.WAITING or not self.wants_answer:
            return []
        self.phase = ReceiverPhase.ACCEPTED
        self.wants_answer = False
        self._attempt = attempt
        self._offset = offset
        self._accepted_at = now
        return [
            messages.Accept(
                transfer=self.transfer,
                receiver=self.receiver,
                attempt=attempt,
                offset=offset,
                prefix_sha256=sha256,
            )
        ]

    def lost(self, start: messages.Start, now: float) -> list[FromReceiver]:
        """The attempt came to nothing; the next offer is answered."""
        if self.start is not start:
            return []
        self._wait(now)
        self.changed()
        return [self._pause(stopping=False)]

    def _wait(self, now: float) -> None:
        self.phase = ReceiverPhase.WAITING
        self.start = None
        self._attempt = ""
        self._waits_since = now

    def done(self) -> list[FromReceiver]:
        """All of it is here, and its digest is right."""
        words = messages.Done(transfer=self.transfer, receiver=self.receiver)
        return self._end(Outcome(Ending.DONE, by=By.RECEIVER), words)

    def fail(self, reason: str) -> list[FromReceiver]:
        """It cannot be: ``digest``, ``space``, ``unwritable``, ``superseded``, ``protocol``."""
        words = messages.Failed(
            transfer=self.transfer, by=By.RECEIVER, receiver=self.receiver, reason=reason
        )
        return self._end(Outcome(Ending.FAILED, reason, By.RECEIVER), words)

    def cancel(self) -> list[FromReceiver]:
        """A person does not want it any more."""
        words = messages.Cancel(transfer=self.transfer, by=By.RECEIVER, receiver=self.receiver)
        return self._end(Outcome(Ending.CANCELLED, by=By.RECEIVER), words)

    def stop(self) -> list[FromReceiver]:
        """The process goes away; another may go on."""
        was_asking = self.phase is ReceiverPhase.ASKING
        words = self._end(Outcome(Ending.STOPPED, by=By.RECEIVER), self._pause(stopping=True))
        self._last_words = None
        return [] if was_asking else words

    def _pause(self, *, stopping: bool) -> messages.Pause:
        return messages.Pause(
            transfer=self.transfer, by=By.RECEIVER, receiver=self.receiver, stopping=stopping
        )

    def _end(self, outcome: Outcome, last_words: FromReceiver | None = None) -> list[FromReceiver]:
        if self.phase is ReceiverPhase.OVER:
            return []
        self.phase = ReceiverPhase.OVER
        self.start = None
        self.wants_answer = False
        self.outcome = outcome
        self._last_words = last_words
        self.changed()
        return [] if last_words is None else [last_words]
