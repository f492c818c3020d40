"""The sender's side of one transfer, as a state machine.

Pure: messages and the time in, messages out. Whoever owns it sends those,
runs the attempt that `wanted` asks for, and looks again by `next_poll`.

Source: protocol.md, Annex B.
"""

from __future__ import annotations

import enum
from typing import Final, assert_never

import attrs

from tim_trio.net.client.files import messages, rules
from tim_trio.net.client.files.messages import By, FromSender, Message


class SenderPhase(enum.Enum):
    """Where a transfer stands, seen from the sender."""

    OFFERING = "offering"  # no attempt is under way
    STARTING = "starting"  # an accept has come; its room is being made
    SENDING = "sending"
    CONFIRMING = "confirming"  # END is sent
    OVER = "over"


class Ending(enum.Enum):
    """How a transfer ended."""

    DONE = "done"
    DECLINED = "declined"
    CANCELLED = "cancelled"
    FAILED = "failed"
    TIMED_OUT = "timed out"
    OFFLINE = "offline"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    STOPPED = "stopped"


class Heard(enum.Enum):
    """What the server said of an offer's delivery."""

    DELIVERED = "delivered"
    OFFLINE = "offline"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@attrs.frozen
class Outcome:
    """How a transfer ended, why, and by whose word."""

    ending: Ending
    reason: str = ""
    by: By = By.SENDER


_UNDER_WAY: Final = (SenderPhase.STARTING, SenderPhase.SENDING, SenderPhase.CONFIRMING)


@attrs.define(eq=False, kw_only=True)
class Sender:
    """One file on its way to one account.

    Attributes:
        offer: what is sent.
        answer_within_s: how long to offer until a first accept.
        resume_within_s: how long to offer after an attempt was lost.
        may_be_offline: go on offering to who is not there at first.
        wanted: the accept to be served now; None while there is none. When it
            changes, an attempt that serves another is over.
        attempts: accepts taken.
        peer_is_stopping: the receiver has said that it goes away for now.
        outcome: None while the transfer goes on.
    """

    offer: messages.Offer
    answer_within_s: float
    resume_within_s: float
    may_be_offline: bool = False
    phase: SenderPhase = SenderPhase.OFFERING
    wanted: messages.Accept | None = None
    attempts: int = 0
    peer_is_stopping: bool = False
    outcome: Outcome | None = None
    _receiver: str = ""
    _start: messages.Start | None = None
    _declined: dict[str, str] = attrs.Factory(dict)
    _devices: int = 0
    _offers: int = 0
    _heard: bool = False
    _next_offer: float = attrs.field(init=False)
    _deadline: float = attrs.field(init=False)
    _started_at: float = float("-inf")
    now: float = attrs.field(kw_only=True)

    def __attrs_post_init__(self) -> None:
        self._next_offer = self.now
        self._deadline = self.now + self.answer_within_s

    @property
    def transfer(self) -> str:
        return self.offer.transfer

    @property
    def next_poll(self) -> float:
        """When to call `poll` again at the latest."""
        match self.phase:
            case SenderPhase.OFFERING:
                return min(self._next_offer, self._deadline)
            case SenderPhase.STARTING | SenderPhase.SENDING | SenderPhase.OVER:
                return float("inf")
            case SenderPhase.CONFIRMING:
                return self._deadline
        assert_never(self.phase)

    def poll(self, now: float) -> list[FromSender]:
        """Return what the time brings: an offer, or the end of patience."""
        if now < self.next_poll:
            return []
        if self.phase is SenderPhase.CONFIRMING:
            return self._lose(now)
        if now >= self._deadline:
            return self._end(
                Outcome(Ending.TIMED_OUT), self._failed("timeout") if self._heard else None
            )
        self._offers += 1
        soon = self._offers <= rules.OFFERS_SOON
        self._next_offer = now + (rules.OFFER_SOON_S if soon else rules.OFFER_INTERVAL_S)
        return [self.offer]

    def heard(self, heard: Heard, devices: int = 0) -> list[FromSender]:
        """Take what the server says of the delivery of an offer."""
        if self.phase is SenderPhase.OVER:
            return []
        match heard:
            case Heard.DELIVERED:
                self._heard = True
                self._devices = devices
                return self._look_for_declines()
            case Heard.OFFLINE:
                first = not self._heard and not self.attempts
                if first and not self.may_be_offline:
                    return self._end(Outcome(Ending.OFFLINE))
                return []
            case Heard.REFUSED:
                return self._end(Outcome(Ending.REFUSED))
            case Heard.UNKNOWN:
                return self._end(Outcome(Ending.UNKNOWN))
        assert_never(heard)

    def take(self, message: Message, now: float) -> list[FromSender]:
        """Take a message about this transfer from the receiver's account."""
        if message.transfer != self.transfer:
            return []
        if isinstance(message, messages.Accept):
            return self._accept(message, now)
        if self.phase is SenderPhase.OVER:
            return []
        match message:
            case messages.Decline():
                return self._decline(message)
            case messages.Done() if self._is_chosen(message.receiver) and self._receiver:
                return self._end(Outcome(Ending.DONE, by=By.RECEIVER))
            case messages.Cancel(by=By.RECEIVER) if self._is_chosen(message.receiver):
                return self._end(Outcome(Ending.CANCELLED, by=By.RECEIVER))
            case messages.Failed(by=By.RECEIVER) if self._is_chosen(message.receiver):
                return self._end(Outcome(Ending.FAILED, message.reason, By.RECEIVER))
            case messages.Pause(by=By.RECEIVER) if self._is_chosen(message.receiver):
                self.peer_is_stopping = message.stopping
                if self.phase in _UNDER_WAY:
                    self._back_to_offering(now)
                elif not message.stopping:
                    self._next_offer = now  # it is back
            case _:
                pass  # from a sender, or of a device that has no part in it
        return []

    def _is_chosen(self, receiver: str) -> bool:
        return self._receiver in ("", receiver)

    def _accept(self, accept: messages.Accept, now: float) -> list[FromSender]:
        taken = messages.Taken(transfer=self.transfer, receiver=self._receiver)
        if self.phase is SenderPhase.OVER:
            return []
        if self.phase in _UNDER_WAY:
            if accept.receiver != self._receiver:
                return [taken]
            assert self.wanted is not None
            if accept.attempt == self.wanted.attempt:
                return [] if self._start is None else [self._start]
            if now - self._started_at < rules.ATTEMPT_INTERVAL_S:
                return []
        self._receiver = accept.receiver
        self.phase = SenderPhase.STARTING
        self.wanted = accept
        self._start = None
        self._started_at = now
        self.attempts += 1
        self.peer_is_stopping = False
        if self.attempts > 1:
            return []
        return [attrs.evolve(taken, receiver=accept.receiver)]

    def _decline(self, decline: messages.Decline) -> list[FromSender]:
        if self._receiver:
            return []
        self._declined[decline.receiver] = decline.reason
        if decline.reason == "user":
            # For the whole account: its other devices are told to ask no more.
            return self._end(Outcome(Ending.DECLINED, "user", By.RECEIVER), self._cancel())
        return self._look_for_declines()

    def _look_for_declines(self) -> list[FromSender]:
        if self._receiver or not self._declined or len(self._declined) < self._devices:
            return []
        reason = next(reversed(self._declined.values()))
        return self._end(Outcome(Ending.DECLINED, reason, By.RECEIVER))

    # -- told by whoever runs the attempt ---------------------------------------

    def started(
        self, accept: messages.Accept, *, room: str, source: int, offset: int
    ) -> list[FromSender]:
        """The attempt for ``accept`` has its room."""
        if accept is not self.wanted:
            return []
        self.phase = SenderPhase.SENDING
        self._start = messages.Start(
            transfer=self.transfer,
            receiver=accept.receiver,
            attempt=accept.attempt,
            room=room,
            source=source,
            offset=offset,
        )
        return [self._start]

    def sent(self, accept: messages.Accept, now: float) -> None:
        """The attempt for ``accept`` has sent END."""
        if accept is self.wanted:
            self.phase = SenderPhase.CONFIRMING
            self._deadline = now + rules.DONE_WITHIN_S

    def lost(self, accept: messages.Accept, now: float) -> list[FromSender]:
        """The attempt for ``accept`` came to nothing; the transfer goes on."""
        return self._lose(now) if accept is self.wanted else []

    def _lose(self, now: float) -> list[FromSender]:
        self._back_to_offering(now)
        return [messages.Pause(transfer=self.transfer, by=By.SENDER, stopping=False)]

    def _back_to_offering(self, now: float) -> None:
        self.phase = SenderPhase.OFFERING
        self.wanted = None
        self._start = None
        self._offers = 0
        self._deadline = now + self.resume_within_s
        self._next_offer = max(now, self._started_at + rules.ATTEMPT_INTERVAL_S)

    # -- our own end ----------------------------------------------------------

    def fail(self, reason: str) -> list[FromSender]:
        """Nothing will come of it: ``changed``, ``unreadable``, ``room`` or ``protocol``."""
        return self._end(Outcome(Ending.FAILED, reason), self._failed(reason))

    def cancel(self) -> list[FromSender]:
        """A person does not want it any more."""
        return self._end(Outcome(Ending.CANCELLED), self._cancel())

    def stop(self) -> list[FromSender]:
        """The process goes away; another may go on."""
        return self._end(
            Outcome(Ending.STOPPED),
            messages.Pause(transfer=self.transfer, by=By.SENDER, stopping=True),
        )

    def _failed(self, reason: str) -> messages.Failed:
        return messages.Failed(transfer=self.transfer, by=By.SENDER, reason=reason)

    def _cancel(self) -> messages.Cancel:
        return messages.Cancel(transfer=self.transfer, by=By.SENDER)

    def _end(self, outcome: Outcome, last_words: FromSender | None = None) -> list[FromSender]:
        if self.phase is SenderPhase.OVER:
            return []
        self.phase = SenderPhase.OVER
        self.wanted = None
        self.outcome = outcome
        return [] if last_words is None else [last_words]
