"""The receiver's state machine, and the desk above it, without a network."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest

from tim_trio.net.client.files import messages, rules
from tim_trio.net.client.files.desk import Desk
from tim_trio.net.client.files.messages import By, FromReceiver
from tim_trio.net.client.files.receiver import Receiver, ReceiverPhase
from tim_trio.net.client.files.sender import Ending, Outcome

TRANSFER, US, OTHER, ATTEMPT = "1" * 32, "a" * 32, "b" * 32, "c" * 32
ROOM = "LJ6TN2wdrZF"
DIGEST = "0" * 64
OFFER = messages.Offer(transfer=TRANSFER, name="a.txt", size=100, sha256=DIGEST)
START = messages.Start(
    transfer=TRANSFER, receiver=US, attempt=ATTEMPT, room=ROOM, source=1, offset=0
)
TAKEN = messages.Taken(transfer=TRANSFER, receiver=OTHER)
PAUSE = messages.Pause(transfer=TRANSFER, by=By.SENDER, stopping=False)
STOPPING = attrs.evolve(PAUSE, stopping=True)
CANCEL = messages.Cancel(transfer=TRANSFER, by=By.SENDER)
FAILED = messages.Failed(transfer=TRANSFER, by=By.SENDER, reason="changed")


def phase_of(machine: Receiver) -> ReceiverPhase:
    """Not narrowed by the type checker, which does not see that methods change it."""
    return machine.phase


def wants_answer(receiver: Receiver) -> bool:
    return receiver.wants_answer


def asking() -> Receiver:
    return Receiver(account="alice", offer=OFFER, receiver=US, patience_s=300, now=0.0)


def waiting() -> Receiver:
    receiver = asking()
    receiver.agree(5.0)
    assert wants_answer(receiver)
    return receiver


def accepted(offset: int = 0) -> Receiver:
    receiver = waiting()
    (accept,) = receiver.accept(attempt=ATTEMPT, offset=offset, sha256=DIGEST, now=6.0)
    assert accept == messages.Accept(
        transfer=TRANSFER, receiver=US, attempt=ATTEMPT, offset=offset, prefix_sha256=DIGEST
    )
    assert not wants_answer(receiver)
    return receiver


def receiving() -> Receiver:
    receiver = accepted()
    assert receiver.take(START, 7.0) == []
    assert receiver.start is START
    assert phase_of(receiver) is ReceiverPhase.RECEIVING
    return receiver


STATES: list[Callable[[], Receiver]] = [asking, waiting, accepted, receiving]


def test_a_question_lives_as_long_as_the_offer_is_repeated() -> None:
    receiver = asking()
    receiver.poll(19.0)
    receiver.take(OFFER, 19.0)
    receiver.poll(38.0)
    assert not receiver.outcome and receiver.is_asking()
    assert receiver.next_poll == 19.0 + rules.OFFER_LAPSES_S
    receiver.poll(39.0)
    assert receiver.outcome == Outcome(Ending.CANCELLED)
    receiver.agree(40.0)
    assert phase_of(receiver) is ReceiverPhase.OVER


def test_a_sender_that_stops_takes_its_question_back() -> None:
    receiver = asking()
    receiver.take(PAUSE, 1.0)
    assert receiver.is_asking()
    receiver.take(STOPPING, 1.0)
    assert receiver.outcome == Outcome(Ending.CANCELLED)


def test_each_offer_is_answered_once() -> None:
    receiver = accepted()
    assert receiver.accept(attempt="d" * 32, offset=0, sha256=DIGEST, now=6.0) == []
    receiver.take(OFFER, 6.0 + rules.START_WITHIN_S - 1)
    assert not wants_answer(receiver), "start may be on its way"
    receiver.take(OFFER, 6.0 + rules.START_WITHIN_S)
    assert wants_answer(receiver)
    assert phase_of(receiver) is ReceiverPhase.WAITING
    assert receiver.take(START, 22.0) == []
    assert phase_of(receiver) is ReceiverPhase.WAITING, "of an attempt we have given up"


def test_an_accept_without_an_offer_is_not_sent() -> None:
    assert asking().accept(attempt=ATTEMPT, offset=0, sha256=DIGEST, now=6.0) == []
    receiver = receiving()
    receiver.take(PAUSE, 8.0)
    assert receiver.accept(attempt=ATTEMPT, offset=0, sha256=DIGEST, now=9.0) == []


def test_a_start_for_another_attempt_is_ignored() -> None:
    receiver = accepted()
    assert receiver.take(attrs.evolve(START, attempt="d" * 32), 7.0) == []
    assert phase_of(receiver) is ReceiverPhase.ACCEPTED
    again = receiving()
    assert again.take(attrs.evolve(START), 8.0) == []
    assert again.start is START


@pytest.mark.parametrize("offset, right", [(0, True), (50, True), (49, False), (51, False)])
def test_a_start_must_begin_where_we_are_or_at_0(offset: int, right: bool) -> None:
    receiver = accepted(offset=50)
    words = receiver.take(attrs.evolve(START, offset=offset), 7.0)
    if right:
        assert words == [] and phase_of(receiver) is ReceiverPhase.RECEIVING
    else:
        assert receiver.outcome == Outcome(Ending.FAILED, "protocol", By.RECEIVER)
        assert words == [
            messages.Failed(transfer=TRANSFER, by=By.RECEIVER, receiver=US, reason="protocol")
        ]


def test_an_offer_during_an_attempt_ends_it() -> None:
    receiver = receiving()
    receiver.take(OFFER, 8.0)
    assert (phase_of(receiver), receiver.start) == (ReceiverPhase.WAITING, None)
    assert wants_answer(receiver)
    assert receiver.lost(START, 8.0) == []


def test_a_lost_attempt() -> None:
    receiver = receiving()
    assert receiver.lost(START, 8.0) == [
        messages.Pause(transfer=TRANSFER, by=By.RECEIVER, receiver=US, stopping=False)
    ]
    assert phase_of(receiver) is ReceiverPhase.WAITING and not receiver.wants_answer
    receiver.take(OFFER, 9.0)
    assert wants_answer(receiver)


@pytest.mark.parametrize("make", [accepted, receiving])
def test_the_sender_pauses(make: Callable[[], Receiver]) -> None:
    receiver = make()
    receiver.take(STOPPING, 8.0)
    assert phase_of(receiver) is ReceiverPhase.WAITING
    assert receiver.peer_is_stopping
    receiver.take(OFFER, 9.0)
    assert receiver.wants_answer and not receiver.peer_is_stopping


def test_patience_with_a_sender_that_stays_away() -> None:
    receiver = receiving()
    assert receiver.next_poll == float("inf")
    receiver.lost(START, 10.0)
    receiver.take(OFFER, 20.0)
    receiver.poll(319.0)
    assert not receiver.outcome
    receiver.poll(320.0)
    assert receiver.outcome == Outcome(Ending.TIMED_OUT)
    receiver = accepted()
    receiver.poll(306.0)
    assert receiver.outcome == Outcome(Ending.TIMED_OUT)


@pytest.mark.parametrize("make", STATES)
@pytest.mark.parametrize(
    "message, outcome",
    [
        (TAKEN, Outcome(Ending.DECLINED)),
        (attrs.evolve(START, receiver=OTHER), Outcome(Ending.DECLINED)),
        (CANCEL, Outcome(Ending.CANCELLED)),
        (FAILED, Outcome(Ending.FAILED, "changed")),
    ],
)
def test_the_sender_ends_it_in_any_state(
    make: Callable[[], Receiver], message: messages.FromSender, outcome: Outcome
) -> None:
    receiver = make()
    assert receiver.take(message, 8.0) == []
    assert receiver.outcome == outcome
    assert (receiver.start, receiver.wants_answer) == (None, False)
    # And says nothing about it, whatever comes.
    for later in (OFFER, START, message):
        assert receiver.take(later, 9.0) == []
    receiver.poll(10_000.0)
    assert receiver.outcome == outcome


@pytest.mark.parametrize("make", STATES)
def test_what_other_receivers_say_is_not_for_us(make: Callable[[], Receiver]) -> None:
    receiver = make()
    phase = receiver.phase
    for message in (
        messages.Done(transfer=TRANSFER, receiver=OTHER),
        messages.Cancel(transfer=TRANSFER, by=By.RECEIVER, receiver=OTHER),
        messages.Failed(transfer=TRANSFER, by=By.RECEIVER, receiver=OTHER, reason="space"),
        messages.Pause(transfer=TRANSFER, by=By.RECEIVER, receiver=OTHER, stopping=True),
    ):
        assert receiver.take(message, 8.0) == []
    assert phase_of(receiver) is phase and receiver.outcome is None


@pytest.mark.parametrize("make", STATES)
def test_our_last_word_is_repeated_to_who_did_not_hear_it(make: Callable[[], Receiver]) -> None:
    ends: list[Callable[[Receiver], list[FromReceiver]]] = [
        lambda receiver: receiver.done(),
        lambda receiver: receiver.decline("user"),
        lambda receiver: receiver.fail("space"),
        lambda receiver: receiver.cancel(),
    ]
    for end in ends:
        receiver = make()
        words = end(receiver)
        assert len(words) == 1
        assert receiver.take(OFFER, 9.0) == words
        assert receiver.take(START, 9.0) == words
        assert receiver.take(PAUSE, 9.0) == []
        assert end(receiver) == []


def test_stopping_is_said_where_the_sender_knows_us() -> None:
    assert asking().stop() == []
    receiver = receiving()
    assert receiver.stop() == [
        messages.Pause(transfer=TRANSFER, by=By.RECEIVER, receiver=US, stopping=True)
    ]
    assert receiver.outcome == Outcome(Ending.STOPPED, by=By.RECEIVER)
    assert receiver.take(OFFER, 9.0) == []


def test_changes_are_announced() -> None:
    changes = []
    receiver = asking()
    receiver.changed = lambda: changes.append(receiver.phase)
    receiver.agree(1.0)
    receiver.accept(attempt=ATTEMPT, offset=0, sha256=DIGEST, now=1.0)
    receiver.take(START, 2.0)
    receiver.lost(START, 3.0)
    receiver.take(OFFER, 4.0)
    receiver.cancel()
    assert changes == [
        ReceiverPhase.WAITING,
        ReceiverPhase.RECEIVING,
        ReceiverPhase.WAITING,
        ReceiverPhase.WAITING,
        ReceiverPhase.OVER,
    ]


# -- the desk -------------------------------------------------------------------


@attrs.define
class Scene:
    desk: Desk = attrs.field(init=False)
    opened: list[Receiver] = attrs.Factory(list)
    parts: dict[tuple[str, str], str] = attrs.Factory(dict)
    own: set[str] = attrs.Factory(set)

    def __attrs_post_init__(self) -> None:
        self.desk = Desk(
            patience_s=300,
            find_part=lambda account, offer: self.parts.get((account, offer.sha256)),
            opened=self.opened.append,
            own=self.own,
        )

    def offer(self, number: int, account: str = "alice") -> list[FromReceiver]:
        return self.desk.take(account, attrs.evolve(OFFER, transfer=f"{number:032x}"), 1.0)


def test_an_offer_opens_a_question_once() -> None:
    scene = Scene()
    assert scene.offer(1) == scene.offer(1) == []
    assert [receiver.phase for receiver in scene.opened] == [ReceiverPhase.ASKING]
    assert scene.desk.transfers() == scene.opened
    # The same number from another account is another transfer.
    scene.offer(1, "mallory")
    assert [receiver.account for receiver in scene.opened] == ["alice", "mallory"]


def test_messages_reach_their_transfer_from_its_account_alone() -> None:
    scene = Scene()
    scene.offer(1)
    cancel = attrs.evolve(CANCEL, transfer=f"{1:032x}")
    scene.desk.take("mallory", cancel, 2.0)
    scene.desk.take("alice", attrs.evolve(CANCEL, transfer=f"{2:032x}"), 2.0)
    assert not scene.opened[0].outcome
    scene.desk.take("alice", cancel, 2.0)
    assert scene.opened[0].outcome == Outcome(Ending.CANCELLED)
    assert scene.desk.transfers() == []
    # It is remembered: the same offer does not open another question.
    assert scene.offer(1) == []
    assert len(scene.opened) == 1


def test_a_message_about_nothing_is_ignored() -> None:
    scene = Scene()
    for message in (START, TAKEN, PAUSE, CANCEL, FAILED):
        assert scene.desk.take("alice", message, 1.0) == []
    assert scene.opened == []


def test_our_own_offers_are_not_for_us() -> None:
    scene = Scene()
    scene.own.add(f"{1:032x}")
    assert scene.offer(1) == []
    assert scene.opened == []


def test_another_version_is_declined() -> None:
    scene = Scene()
    unknown = messages.UnknownOffer(transfer=TRANSFER)
    (words,) = scene.desk.take("alice", unknown, 1.0)
    assert isinstance(words, messages.Decline)
    assert (words.transfer, words.reason) == (TRANSFER, "version")
    assert scene.opened == []


def test_too_many_questions_of_one_account() -> None:
    scene = Scene()
    most = rules.MAX_QUESTIONS_PER_ACCOUNT
    for number in range(most):
        assert scene.offer(number) == []
    (words,) = scene.offer(most)
    assert isinstance(words, messages.Decline) and words.reason == "busy"
    assert scene.offer(most) == [words], "under one name, however often"
    assert scene.offer(most, "bob") == []
    assert len(scene.opened) == most + 1
    # One that is answered makes room.
    scene.opened[0].agree(2.0)
    assert scene.offer(most + 1) == []
    assert len(scene.opened) == most + 2


def test_too_many_questions_in_all() -> None:
    scene = Scene()
    for number in range(rules.MAX_QUESTIONS):
        assert scene.offer(number, f"account{number}") == []
    (words,) = scene.offer(0, "alice")
    assert isinstance(words, messages.Decline) and words.reason == "busy"


def test_what_is_remembered_is_bounded() -> None:
    scene = Scene()
    for number in range(rules.MAX_REMEMBERED + 10):
        scene.offer(number)
        scene.opened[-1].decline("user")
    scene.offer(rules.MAX_REMEMBERED + 9)
    assert len(scene.opened) == rules.MAX_REMEMBERED + 10
    scene.offer(0)
    assert len(scene.opened) == rules.MAX_REMEMBERED + 11


def test_a_part_is_gone_on_with_without_asking() -> None:
    scene = Scene()
    scene.parts["alice", DIGEST] = US
    assert scene.offer(1) == []
    (receiver,) = scene.opened
    assert phase_of(receiver) is ReceiverPhase.WAITING and receiver.wants_answer
    assert receiver.receiver == US
    scene.offer(2, "mallory")
    assert scene.opened[1].is_asking()


def test_the_same_file_once_more_takes_the_place_of_the_first() -> None:
    scene = Scene()
    scene.parts["alice", DIGEST] = US
    scene.offer(1)
    (words,) = scene.offer(2)
    assert words == messages.Failed(
        transfer=f"{1:032x}", by=By.RECEIVER, receiver=US, reason="superseded"
    )
    first, second = scene.opened
    assert first.outcome == Outcome(Ending.FAILED, "superseded", By.RECEIVER)
    assert phase_of(second) is ReceiverPhase.WAITING and second.receiver == US
    assert scene.desk.transfers() == [second]
