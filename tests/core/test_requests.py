"""What concerns other accounts, through a session: requests, answers, events.

What concerns rooms is in test_session.py, with the rest of a conversation.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from tests.core.builders import TOKEN, FakeAuthenticator, make_manager
from tests.core.relations_model import NAMES, Model
from tests.core.test_session import Caller
from tim_trio.core.accounts import Gate
from tim_trio.core.manager import RoomManager
from tim_trio.core.member import Member
from tim_trio.core.relations import MemoryRelations, Relations, Verdict
from tim_trio.core.requests import carry_out
from tim_trio.core.session import Session
from tim_trio.errors import Code, RoomError
from tim_trio.protocol.messages import (
    AccountSend,
    AccountSendAnswer,
    AccountStream,
    AskToPush,
    AskToPushAnswer,
    Ban,
    BanAnswer,
    BanKind,
    Contact,
    ContactAction,
    ContactAnswer,
    ContactChanged,
    ContactEntry,
    ContactState,
    DeliveryStatus,
    GetPolicy,
    GetPolicyAnswer,
    ListContacts,
    ListContactsAnswer,
    NodeFigures,
    NodeFiguresAnswer,
    Policy,
    Publish,
    PushAsked,
    Right,
    RoomClosed,
    RoomClosedReason,
    SetPolicy,
    SetPolicyAnswer,
    StartFrom,
    Subscribe,
)

_STATUS = {
    Verdict.DELIVER: DeliveryStatus.DELIVERED,
    Verdict.BLOCKED: DeliveryStatus.OFFLINE,
    Verdict.REFUSED: DeliveryStatus.REFUSED,
}


@pytest.fixture
def manager() -> RoomManager:
    return make_manager()


class Sessions(RuleBasedStateMachine):
    """Three accounts talk to the server, and nobody hears what the model does not say."""

    def __init__(self) -> None:
        super().__init__()
        self.manager = make_manager(command_burst=100_000)
        gate: Gate[Session] = Gate(relations=self.make_relations())
        self.callers = {name: Caller(self.manager, gate=gate) for name in NAMES}
        self.model = Model()
        for name, caller in self.callers.items():
            trio.run(caller.enter, name)

    def make_relations(self) -> Relations:
        return MemoryRelations()

    @rule(pair=st.permutations(NAMES), action=st.sampled_from(ContactAction))
    def contact(self, pair: list[str], action: ContactAction) -> None:
        account, other, third = pair
        before = self.model.state(other, account)
        self.model.act(account, action, other)
        answer = trio.run(self.callers[account].ask, Contact(action=action, account=other))
        assert answer == ContactAnswer(state=self.model.state(account, other))
        after = self.model.state(other, account)
        news = [ContactChanged(account=account, state=after)] if after is not before else []
        assert self.callers[other].peer.new() == news
        assert self.callers[third].peer.new() == []

    @rule(account=st.sampled_from(NAMES), policy=st.sampled_from(Policy))
    def set_policy(self, account: str, policy: Policy) -> None:
        self.model.set_policy(account, policy)
        answer = trio.run(self.callers[account].ask, SetPolicy(policy=policy))
        assert answer == SetPolicyAnswer()

    @rule(account=st.sampled_from(NAMES))
    def get_policy(self, account: str) -> None:
        answer = trio.run(self.callers[account].ask, GetPolicy())
        assert answer == GetPolicyAnswer(policy=self.model.policy(account))

    @rule(account=st.sampled_from(NAMES))
    def list_contacts(self, account: str) -> None:
        answer = trio.run(self.callers[account].ask, ListContacts(after="", limit=0))
        assert answer == ListContactsAnswer(more=False, contacts=self.model.list(account))

    @rule(pair=st.permutations(NAMES), both=st.booleans())
    def send(self, pair: list[str], both: bool) -> None:
        sender, *others = pair
        receivers = others if both else others[:1]
        answer = trio.run(
            self.callers[sender].ask, AccountSend(receivers=receivers, kind=9, payload=b"hi")
        )
        assert isinstance(answer, AccountSendAnswer)
        for receiver, delivery in zip(receivers, answer.deliveries, strict=True):
            status = _STATUS[self.model.verdict(sender, receiver)]
            is_delivered = status is DeliveryStatus.DELIVERED
            assert (delivery.account, delivery.status) == (receiver, status)
            assert delivery.devices == is_delivered
            message = AccountStream(account=sender, kind=9, payload=b"hi")
            assert self.callers[receiver].peer.new() == [message] * is_delivered
        for silent in set(others) - set(receivers):
            assert self.callers[silent].peer.new() == []


TestSessions = Sessions.TestCase
TestSessions.settings = settings(max_examples=40, stateful_step_count=30)


async def test_errors_of_a_contact(manager: RoomManager) -> None:
    alice = await Caller(manager).enter("alice")
    for other, code in (("no body", Code.NO_SUCH_ACCOUNT), ("alice", Code.BAD_REQUEST)):
        request = Contact(action=ContactAction.ASK, account=other)
        assert await alice.refusal(request) is code


async def test_a_list_of_contacts_fits_into_a_frame() -> None:
    alice = await Caller(make_manager(command_burst=1000)).enter("alice")
    names = sorted(f"{number}-{'x' * 50}" for number in range(100))
    for name in names:
        await alice.ask(Contact(action=ContactAction.ASK, account=name))
    found: list[ContactEntry] = []
    pages = 0
    while True:
        after = found[-1].account if found else ""
        answer = await alice.get(ListContactsAnswer, ListContacts(after=after, limit=0))
        found += answer.contacts
        pages += 1
        if not answer.more:
            break
    assert pages == 2
    assert [entry.account for entry in found] == names
    assert {entry.state for entry in found} == {ContactState.ASKED_BY_ME}


# Asking to push


@pytest.mark.parametrize("how", ["block", "policy"])
async def test_an_ask_that_the_creator_does_not_want_to_hear(
    manager: RoomManager, how: str
) -> None:
    gate: Gate[Session] = Gate(relations=MemoryRelations())
    alice = await Caller(manager, gate=gate).enter("alice")
    bob = await Caller(manager, gate=gate).enter("bob")
    room = await alice.register()
    ask = AskToPush(room=room, message="please")
    unheard = {
        "block": Contact(action=ContactAction.BLOCK, account="bob"),
        "policy": SetPolicy(policy=Policy.CONTACTS),
    }[how]
    heard = {
        "block": Contact(action=ContactAction.UNBLOCK, account="bob"),
        "policy": SetPolicy(policy=Policy.ANYONE),
    }[how]
    await alice.ask(unheard)
    # As where the creator is away, which may also be asked again at once.
    for _ in range(2):
        assert await bob.refusal(ask) is Code.CREATOR_ABSENT
    assert alice.peer.new() == []
    await alice.ask(heard)
    assert await bob.ask(ask) == AskToPushAnswer(told=1)
    assert alice.peer.new() == [PushAsked(room=room, account="bob", message="please")]
    # What one may know anyway is said as ever.
    await alice.ask(unheard)
    assert await bob.refusal(ask, 1.0) is Code.RATE_LIMITED
    assert await bob.refusal(AskToPush(room=room + 1, message="")) is Code.NO_SUCH_ROOM


async def test_an_asker_that_leaves_meanwhile(manager: RoomManager) -> None:
    class Slow(MemoryRelations):
        async def verdicts(self, sender: str, receivers: Sequence[str]) -> list[Verdict]:
            bob.peer.outbox.abort(None)
            return await super().verdicts(sender, receivers)

    gate: Gate[Session] = Gate(relations=Slow())
    alice = await Caller(manager, gate=gate).enter("alice")
    bob = await Caller(manager, gate=gate).enter("bob")
    ask = AskToPush(room=await alice.register(), message="")
    with pytest.raises(RoomError) as caught:
        await carry_out(manager, gate, member_of(bob), ask, 1, 0.0)
    assert caught.value.code is Code.UNAVAILABLE
    assert alice.peer.new() == []


def member_of(caller: Caller) -> Member:
    assert caller.session.member is not None
    return caller.session.member


# Bans


@pytest.fixture
def authenticator() -> FakeAuthenticator:
    return FakeAuthenticator()


@pytest.fixture
def gate(authenticator: FakeAuthenticator) -> Gate[Session]:
    return Gate(authenticator)


async def enter(
    manager: RoomManager,
    gate: Gate[Session],
    authenticator: FakeAuthenticator,
    account: str,
    rights: Right = Right.REGISTER_ROOMS,
) -> Caller:
    authenticator.identity["rights"] = rights
    return await Caller(manager, gate=gate).enter(account)


def ban_room(room: int, reason: str = "") -> Ban:
    return Ban(kind=BanKind.ROOM, room=room, account="", reason=reason)


def ban_account(account: str, room: int = 0) -> Ban:
    return Ban(kind=BanKind.ACCOUNT, room=room, account=account, reason="spam")


@pytest.mark.parametrize(
    "reason, text",
    [
        ("", "closed by an operator"),
        ("not in here", "closed by an operator: not in here"),
        ("ä" * 512, "closed by an operator: " + "ä" * 500),
    ],
)
async def test_a_banned_room_is_over_for_everyone(
    manager: RoomManager,
    gate: Gate[Session],
    authenticator: FakeAuthenticator,
    reason: str,
    text: str,
) -> None:
    alice = await enter(manager, gate, authenticator, "alice")
    bob = await enter(manager, gate, authenticator, "bob")
    operator = await enter(manager, gate, authenticator, "op", Right.OPERATOR)
    room = await alice.register()
    track = await alice.publish(room)
    await bob.ask(Subscribe(room=room, start=StartFrom.GROUP, credit=0))
    alice.peer.new()
    assert await operator.ask(ban_room(room, reason)) == BanAnswer()
    closed = RoomClosed(room=room, reason=RoomClosedReason.BANNED, text=text)
    assert alice.peer.new() == [closed]
    assert bob.peer.new() == [closed]
    assert manager.node.room_bans == 1
    await alice.send(track.data(0))  # on its way when the room ended
    again = Publish(room=room, token=TOKEN)
    assert await alice.refusal(again) is Code.NO_SUCH_ROOM
    assert await operator.refusal(ban_room(room)) is Code.NO_SUCH_ROOM
    manager.draw = iter([room, room + 1]).__next__
    assert await alice.register() == room + 1


async def test_a_banned_account_is_the_authenticators(
    manager: RoomManager, gate: Gate[Session], authenticator: FakeAuthenticator
) -> None:
    operator = await enter(manager, gate, authenticator, "op", Right.OPERATOR)
    # The room is not looked at.
    assert await operator.ask(ban_account("bob", room=7)) == BanAnswer()
    assert authenticator.asked[-1] == ("bob", "")
    assert manager.node.account_bans == 1
    authenticator.refusal = Code.NO_SUCH_ACCOUNT
    assert await operator.refusal(ban_account("nobody")) is Code.NO_SUCH_ACCOUNT
    assert manager.node.account_bans == 1


async def test_who_may_not_ban_and_what_cannot_be_banned(
    manager: RoomManager, gate: Gate[Session], authenticator: FakeAuthenticator
) -> None:
    alice = await enter(manager, gate, authenticator, "alice")
    room = await alice.register()
    for request in (ban_room(room), ban_account("bob"), ban_room(1)):
        assert await alice.refusal(request) is Code.PERMISSION_DENIED
    operator = await enter(manager, gate, authenticator, "op", Right.OPERATOR)
    for request in (ban_room(1), ban_account("a b"), ban_account("op")):
        assert await operator.refusal(request) is Code.BAD_REQUEST
    assert manager.node.room_bans == manager.node.account_bans == 0


async def test_figures_are_asked_for_like_anything_else(manager: RoomManager) -> None:
    caller = Caller(manager)
    await caller.enter("alice")
    assert await caller.refusal(NodeFigures(node="")) is Code.PERMISSION_DENIED
    assert caller.session.member is not None
    caller.session.member.rights |= Right.OPERATOR
    assert isinstance(await caller.ask(NodeFigures(node="")), NodeFiguresAnswer)
