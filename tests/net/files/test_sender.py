"""The sender's state machine, without a network: time and messages are arguments."""

from __future__ import annotations

import itertools

import attrs
import pytest

from tim_trio.net.client.files import messages, rules
from tim_trio.net.client.files.messages import By
from tim_trio.net.client.files.sender import Ending, Heard, Outcome, Sender, SenderPhase

TRANSFER, PHONE, LAPTOP = "1" * 32, "a" * 32, "b" * 32
ROOM = "LJ6TN2wdrZF"
DIGEST = "0" * 64
OFFER = messages.Offer(transfer=TRANSFER, name="a.txt", size=100, sha256=DIGEST)


def phase_of(machine: Sender) -> SenderPhase:
    """Not narrowed by the type checker, which does not see that methods change it."""
    return machine.phase


def make(*, may_be_offline: bool = False) -> Sender:
    return Sender(
        offer=OFFER, answer_within_s=60, resume_within_s=300, may_be_offline=may_be_offline, now=0.0
    )


def accept(receiver: str = PHONE, attempt: str = "1", offset: int = 0) -> messages.Accept:
    return messages.Accept(
        transfer=TRANSFER,
        receiver=receiver,
        attempt=attempt * 32,
        offset=offset,
        prefix_sha256=DIGEST,
    )


def taken(receiver: str) -> messages.Taken:
    return messages.Taken(transfer=TRANSFER, receiver=receiver)


def decline(receiver: str, reason: str) -> messages.Decline:
    return messages.Decline(transfer=TRANSFER, receiver=receiver, reason=reason)


def pause(*, by: By = By.RECEIVER, stopping: bool = False) -> messages.Pause:
    receiver = PHONE if by is By.RECEIVER else ""
    return messages.Pause(transfer=TRANSFER, by=by, receiver=receiver, stopping=stopping)


def sending() -> tuple[Sender, messages.Accept]:
    """Return a sender whose first attempt is under way since 10.0."""
    sender = make()
    sender.poll(0.0)
    sender.heard(Heard.DELIVERED, 2)
    wanted = accept()
    assert sender.take(wanted, 10.0) == [taken(PHONE)]
    assert sender.wanted is wanted
    (start,) = sender.started(wanted, room=ROOM, source=1, offset=0)
    assert isinstance(start, messages.Start) and start.attempt == wanted.attempt
    assert phase_of(sender) is SenderPhase.SENDING
    return sender, wanted


def test_an_offer_is_repeated_until_there_is_an_answer() -> None:
    sender = make()
    times = []
    while sender.next_poll < 40:
        times.append(sender.next_poll)
        assert sender.poll(sender.next_poll) == [OFFER]
        assert sender.poll(times[-1]) == []
        sender.heard(Heard.DELIVERED, 1)
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert times[0] == 0
    assert gaps[:9] == [rules.OFFER_SOON_S] * 9 and set(gaps[10:]) == {rules.OFFER_INTERVAL_S}
    sender.take(accept(), 40.0)
    assert sender.next_poll == float("inf")
    assert sender.poll(1000.0) == []


def test_patience_ends() -> None:
    sender = make()
    sender.poll(0.0)
    sender.heard(Heard.DELIVERED, 1)
    (failed,) = sender.poll(60.0)
    assert failed == messages.Failed(transfer=TRANSFER, by=By.SENDER, reason="timeout")
    assert sender.outcome == Outcome(Ending.TIMED_OUT)


def test_who_never_heard_of_it_is_not_told_of_its_end() -> None:
    sender = make(may_be_offline=True)
    sender.poll(0.0)
    sender.heard(Heard.OFFLINE)
    assert not sender.outcome
    assert sender.poll(60.0) == []
    assert sender.outcome == Outcome(Ending.TIMED_OUT)


@pytest.mark.parametrize(
    "heard, ending",
    [
        (Heard.OFFLINE, Ending.OFFLINE),
        (Heard.REFUSED, Ending.REFUSED),
        (Heard.UNKNOWN, Ending.UNKNOWN),
    ],
)
def test_who_cannot_be_reached_ends_it(heard: Heard, ending: Ending) -> None:
    sender = make()
    assert sender.heard(heard) == []
    assert sender.outcome == Outcome(ending)
    assert sender.heard(Heard.DELIVERED, 1) == []
    assert sender.outcome == Outcome(ending)


def test_going_offline_later_does_not_end_it() -> None:
    sender = make()
    sender.heard(Heard.DELIVERED, 1)
    sender.heard(Heard.OFFLINE)
    assert not sender.outcome
    sender, wanted = sending()
    sender.lost(wanted, 20.0)
    sender.heard(Heard.OFFLINE)
    assert not sender.outcome


def test_the_first_accept_wins() -> None:
    sender, _ = sending()
    assert sender.take(accept(LAPTOP), 11.0) == [taken(PHONE)]
    assert sender.attempts == 1


def test_an_accept_that_is_repeated_gets_the_same_start() -> None:
    sender, wanted = sending()
    (start,) = sender.take(attrs.evolve(wanted), 10.1)
    assert isinstance(start, messages.Start) and start.room == ROOM
    assert sender.wanted is wanted
    sender = make()
    sender.take(wanted, 10.0)
    assert sender.take(wanted, 10.1) == []  # its room is still being made


def test_another_attempt_of_the_same_device_replaces_the_first() -> None:
    sender, wanted = sending()
    again = accept(attempt="2", offset=50)
    assert sender.take(again, 10.5) == []
    assert sender.wanted is wanted, "too soon"
    assert sender.take(again, 12.0) == []
    assert sender.wanted is again
    assert phase_of(sender) is SenderPhase.STARTING
    # What the first attempt has to say does not matter any more.
    assert sender.started(wanted, room=ROOM, source=2, offset=0) == []
    assert sender.lost(wanted, 12.0) == []
    sender.sent(wanted, 12.0)
    assert phase_of(sender) is SenderPhase.STARTING


def test_after_a_loss_it_is_offered_again_and_any_device_may_accept() -> None:
    sender, wanted = sending()
    assert sender.lost(wanted, 30.0) == [pause(by=By.SENDER)]
    assert (sender.phase, sender.wanted) == (SenderPhase.OFFERING, None)
    assert sender.next_poll == 30.0
    assert sender.poll(30.0) == [OFFER]
    other = accept(LAPTOP)
    assert sender.take(other, 31.0) == []
    assert sender.wanted is other
    assert sender.take(accept(PHONE, attempt="3"), 32.0) == [taken(LAPTOP)]


def test_an_attempt_that_fails_at_once_is_not_repeated_at_once() -> None:
    sender, wanted = sending()
    sender.lost(wanted, 10.2)
    assert sender.next_poll == 10.0 + rules.ATTEMPT_INTERVAL_S


def test_patience_after_a_loss() -> None:
    sender, wanted = sending()
    sender.lost(wanted, 30.0)
    assert sender.poll(330.0) == [
        messages.Failed(transfer=TRANSFER, by=By.SENDER, reason="timeout")
    ]
    assert sender.outcome == Outcome(Ending.TIMED_OUT)


def test_done() -> None:
    sender, wanted = sending()
    sender.sent(wanted, 20.0)
    assert phase_of(sender) is SenderPhase.CONFIRMING
    assert sender.take(messages.Done(transfer=TRANSFER, receiver=LAPTOP), 21.0) == []
    assert not sender.outcome, "that device has no part in it"
    sender.take(messages.Done(transfer=TRANSFER, receiver=PHONE), 21.0)
    assert sender.outcome == Outcome(Ending.DONE, by=By.RECEIVER)
    assert sender.wanted is None
    assert sender.take(accept(attempt="2"), 22.0) == []
    assert sender.take(pause(), 22.0) == []


def test_done_before_anything_was_accepted_is_nothing() -> None:
    sender = make()
    sender.take(messages.Done(transfer=TRANSFER, receiver=PHONE), 1.0)
    assert not sender.outcome


def test_without_a_word_after_the_end_it_is_offered_again() -> None:
    sender, wanted = sending()
    sender.sent(wanted, 20.0)
    assert sender.next_poll == 20.0 + rules.DONE_WITHIN_S
    assert sender.poll(sender.next_poll) == [pause(by=By.SENDER)]
    assert phase_of(sender) is SenderPhase.OFFERING


@pytest.mark.parametrize("stopping", [False, True])
def test_the_receiver_pauses(stopping: bool) -> None:
    sender, _ = sending()
    assert sender.take(pause(stopping=stopping), 20.0) == []
    assert phase_of(sender) is SenderPhase.OFFERING
    assert sender.peer_is_stopping is stopping
    sender.poll(20.0)
    sender.take(pause(stopping=True), 20.5)
    assert sender.next_poll > 20.5
    sender.take(pause(stopping=False), 20.5)
    assert sender.next_poll == 20.5, "it is back"
    sender.take(accept(attempt="2"), 22.0)
    assert not sender.peer_is_stopping


def test_a_person_declines_for_the_account() -> None:
    sender = make()
    sender.heard(Heard.DELIVERED, 5)
    assert sender.take(decline(PHONE, "user"), 1.0) == [
        messages.Cancel(transfer=TRANSFER, by=By.SENDER)
    ]
    assert sender.outcome == Outcome(Ending.DECLINED, "user", By.RECEIVER)


def test_devices_decline_for_themselves() -> None:
    sender = make()
    sender.heard(Heard.DELIVERED, 2)
    for _ in range(3):
        sender.take(decline(PHONE, "policy"), 1.0)
    assert not sender.outcome
    sender.take(decline(LAPTOP, "space"), 1.0)
    assert sender.outcome == Outcome(Ending.DECLINED, "space", By.RECEIVER)


def test_a_decline_may_overtake_the_word_of_how_many_heard() -> None:
    sender = make()
    sender.heard(Heard.DELIVERED, 2)
    sender.take(decline(PHONE, "policy"), 1.0)
    sender.heard(Heard.DELIVERED, 1)
    assert sender.outcome == Outcome(Ending.DECLINED, "policy", By.RECEIVER)


def test_a_decline_after_an_accept_is_nothing() -> None:
    sender, _ = sending()
    for reason in ("user", "policy"):
        assert sender.take(decline(LAPTOP, reason), 11.0) == []
    assert not sender.outcome


@pytest.mark.parametrize("receiver, ends", [(PHONE, True), (LAPTOP, False)])
def test_only_the_chosen_device_may_end_it(receiver: str, ends: bool) -> None:
    sender, _ = sending()
    sender.take(messages.Cancel(transfer=TRANSFER, by=By.RECEIVER, receiver=receiver), 11.0)
    assert (sender.outcome == Outcome(Ending.CANCELLED, by=By.RECEIVER)) is ends
    sender, _ = sending()
    failed = messages.Failed(transfer=TRANSFER, by=By.RECEIVER, receiver=receiver, reason="digest")
    sender.take(failed, 11.0)
    assert (sender.outcome == Outcome(Ending.FAILED, "digest", By.RECEIVER)) is ends


def test_what_a_sender_says_is_not_for_us() -> None:
    sender, _ = sending()
    for message in (
        OFFER,
        pause(by=By.SENDER),
        messages.Cancel(transfer=TRANSFER, by=By.SENDER),
        messages.Failed(transfer=TRANSFER, by=By.SENDER, reason="changed"),
        attrs.evolve(accept(), transfer="2" * 32),
    ):
        assert sender.take(message, 11.0) == []
    assert not sender.outcome and phase_of(sender) is SenderPhase.SENDING


def test_our_own_ends() -> None:
    sender, _ = sending()
    assert sender.fail("changed") == [
        messages.Failed(transfer=TRANSFER, by=By.SENDER, reason="changed")
    ]
    assert sender.outcome == Outcome(Ending.FAILED, "changed")
    sender, _ = sending()
    assert sender.cancel() == [messages.Cancel(transfer=TRANSFER, by=By.SENDER)]
    assert sender.outcome == Outcome(Ending.CANCELLED)
    sender, _ = sending()
    assert sender.stop() == [pause(by=By.SENDER, stopping=True)]
    assert sender.outcome == Outcome(Ending.STOPPED)
    assert sender.stop() == [] and sender.cancel() == [] and sender.fail("room") == []
