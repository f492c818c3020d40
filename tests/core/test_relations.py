"""Contacts, blocks and policies: the rules, and where they are kept in memory."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.core.relations_model import NAMES, Model
from tim_trio.core.relations import ContactChange, MemoryRelations, Verdict, as_fits
from tim_trio.errors import Code, RoomError
from tim_trio.protocol.messages import (
    ContactAction,
    ContactEntry,
    ContactState,
    ListContactsAnswer,
    Policy,
    encode,
)

PAIRS = st.permutations(NAMES).map(lambda names: (names[0], names[1]))


def do(operation: Any, *args: Any) -> Any:
    """Carry out what never waits: a loop of Trio's for each of so many would take a minute."""
    try:
        operation(*args).send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")


class Relations(RuleBasedStateMachine):
    """Against the model; and what the blocked side learns, against a world without the block."""

    def __init__(self) -> None:
        super().__init__()
        self.relations = MemoryRelations()
        self.model = Model()

    @rule(pair=PAIRS, action=st.sampled_from(ContactAction))
    def contact(self, pair: tuple[str, str], action: ContactAction) -> None:
        account, other = pair
        before = self.model.state(other, account)
        change = do(self.relations.contact, account, action, other)
        self.model.act(account, action, other)
        other_state = self.model.state(other, account)
        assert change == ContactChange(
            state=self.model.state(account, other),
            other_state=other_state,
            is_news=other_state is not before,
        )

    @rule(account=st.sampled_from(NAMES), policy=st.sampled_from(Policy))
    def set_policy(self, account: str, policy: Policy) -> None:
        do(self.relations.set_policy, account, policy)
        self.model.set_policy(account, policy)

    @invariant()
    def all_is_as_in_the_model(self) -> None:
        entries = len(self.model.contacts_only) + len(self.model.blocked)
        entries += 2 * (len(self.model.contacts) + len(self.model.asked))
        assert self.relations.entries == entries
        for account in NAMES:
            verdicts = do(self.relations.verdicts, account, NAMES)
            assert verdicts == [self.model.verdict(account, other) for other in NAMES]
            listed = do(self.relations.list_contacts, account, "", 0)
            assert listed == (False, self.model.list(account))
            policy = do(self.relations.get_policy, account)
            assert policy is self.model.policy(account)

    def teardown(self) -> None:
        for account in NAMES:
            do(self.relations.set_policy, account, Policy.ANYONE)
            for other in set(NAMES) - {account}:
                for action in (ContactAction.UNBLOCK, ContactAction.REMOVE):
                    do(self.relations.contact, account, action, other)
        assert not self.relations.entries
        assert not self.relations._of_account


TestRelations = Relations.TestCase


class Blocked(RuleBasedStateMachine):
    """Two worlds that differ in a block alone: bob, who is blocked, sees no difference.

    In both alice is away. In the one she blocks bob, and unblocks him; in the
    other she takes him out of her contacts at the same moments instead.
    """

    def __init__(self) -> None:
        super().__init__()
        self.with_block = MemoryRelations()
        self.without = MemoryRelations()
        do(self.with_block.contact, "alice", ContactAction.BLOCK, "bob")

    @rule(action=st.sampled_from(ContactAction))
    def bob_acts(self, action: ContactAction) -> None:
        one = do(self.with_block.contact, "bob", action, "alice")
        another = do(self.without.contact, "bob", action, "alice")
        assert one.state is another.state
        assert not one.is_news

    @rule(policy=st.sampled_from(Policy))
    def alice_sets_her_policy(self, policy: Policy) -> None:
        for world in (self.with_block, self.without):
            do(world.set_policy, "alice", policy)

    @rule()
    def alice_unblocks_and_blocks_again(self) -> None:
        told = [
            do(self.with_block.contact, "alice", ContactAction.UNBLOCK, "bob"),
            do(self.without.contact, "alice", ContactAction.REMOVE, "bob"),
        ]
        assert told[0].is_news == told[1].is_news
        assert told[0].other_state is told[1].other_state
        again = do(self.with_block.contact, "alice", ContactAction.BLOCK, "bob")
        assert not again.is_news

    @invariant()
    def bob_sees_the_same(self) -> None:
        seen = []
        for world in (self.with_block, self.without):
            (verdict,) = do(world.verdicts, "bob", ["alice"])
            # Delivered to somebody who is away, and blocked: the same answer.
            away = Verdict.BLOCKED if verdict is Verdict.DELIVER else verdict
            seen.append((away, do(world.list_contacts, "bob", "", 0)))
        assert seen[0] == seen[1]


TestBlocked = Blocked.TestCase


async def refusal(operation: Any, *args: Any) -> Code:
    with pytest.raises(RoomError) as caught:
        await operation(*args)
    return Code(caught.value.code)


async def test_names() -> None:
    relations = MemoryRelations()
    assert await relations.verdicts("alice", ["no body", "bob", "alice"]) == [
        Verdict.UNKNOWN,
        Verdict.DELIVER,
        Verdict.DELIVER,
    ]
    ask = relations.contact
    assert await refusal(ask, "alice", ContactAction.ASK, "no body") is Code.NO_SUCH_ACCOUNT
    assert await refusal(ask, "alice", ContactAction.ASK, "alice") is Code.BAD_REQUEST
    assert not relations.entries


async def test_links_and_blocks_of_an_account_are_bounded() -> None:
    relations = MemoryRelations(max_contacts=1)
    contact = relations.contact
    await contact("me", ContactAction.ASK, "a")
    # Who is asked too often can still block.
    await contact("me", ContactAction.BLOCK, "b")
    for account, action, other in (
        ("me", ContactAction.ASK, "c"),
        ("me", ContactAction.BLOCK, "c"),
        ("c", ContactAction.ASK, "me"),
        # As if there were no block.
        ("b", ContactAction.ASK, "me"),
    ):
        assert await refusal(contact, account, action, other) is Code.TOO_MANY_CONTACTS
    await contact("me", ContactAction.UNBLOCK, "b")
    await contact("me", ContactAction.BLOCK, "a")
    await contact("c", ContactAction.ASK, "me")


async def test_the_memory_is_bounded() -> None:
    relations = MemoryRelations(max_entries=3)
    await relations.contact("a", ContactAction.ASK, "b")
    ask = relations.contact
    assert await refusal(ask, "c", ContactAction.ASK, "d") is Code.UNAVAILABLE
    await relations.set_policy("c", Policy.CONTACTS)
    await relations.set_policy("c", Policy.CONTACTS)
    assert await refusal(relations.set_policy, "d", Policy.CONTACTS) is Code.UNAVAILABLE
    assert await refusal(ask, "c", ContactAction.BLOCK, "d") is Code.UNAVAILABLE
    # What is there may change, and go.
    assert (await ask("b", ContactAction.ACCEPT, "a")).state is ContactState.CONTACT
    await relations.set_policy("c", Policy.ANYONE)
    await ask("b", ContactAction.REMOVE, "a")
    assert not relations.entries


async def test_the_list_is_paged_in_the_order_of_bytes() -> None:
    relations = MemoryRelations()
    for other in ("b", "ä", "Z", "a"):
        await relations.contact("me", ContactAction.ASK, other)

    async def page(after: str, limit: int) -> tuple[bool, list[str]]:
        more, entries = await relations.list_contacts("me", after, limit)
        return more, [entry.account for entry in entries]

    assert await page("", 0) == (False, ["Z", "a", "b", "ä"])
    assert await page("", 2) == (True, ["Z", "a"])
    assert await page("a", 2) == (False, ["b", "ä"])


@pytest.mark.parametrize("more", [False, True])
def test_a_page_is_cut_to_what_fits_into_a_frame(more: bool) -> None:
    entries = [ContactEntry(account=name * 9, state=1) for name in "aäb"]
    size = len(encode(ListContactsAnswer(more=True, contacts=entries), 1))
    assert as_fits(more, entries, size) == (more, entries)
    assert as_fits(more, entries, size - 1) == (True, entries[:2])
    assert as_fits(more, entries, 16) == (True, [])
