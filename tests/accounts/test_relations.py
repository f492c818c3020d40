"""Contacts, blocks and policies against a model in plain dictionaries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from tim_trio.accounts.relations import ContactState, StoreRelations
from tim_trio.accounts.store import Store, default_database_url
from tim_trio.core.accounts import Verdict
from tim_trio.errors import Code, RoomError
from tim_trio.protocol.messages import ContactAction, ContactEntry, Policy

NAMES = ("alice", "bob", "ä")
PAIRS = st.permutations(NAMES).map(lambda names: (names[0], names[1]))


class Model:
    """The rules of protocol.md, section 11, in the words of that page."""

    def __init__(self) -> None:
        self.asked: set[tuple[str, str]] = set()
        self.contacts: set[frozenset[str]] = set()
        self.blocked: set[tuple[str, str]] = set()
        self.contacts_only: set[str] = set()

    def part(self, a: str, b: str) -> None:
        self.asked -= {(a, b), (b, a)}
        self.contacts.discard(frozenset((a, b)))

    def act(self, a: str, action: ContactAction, b: str) -> None:
        together = frozenset((a, b))
        if action is ContactAction.BLOCK and (a, b) not in self.blocked:
            self.part(a, b)
            self.blocked.add((a, b))
        elif action is ContactAction.UNBLOCK and (a, b) in self.blocked:
            self.part(a, b)
            self.blocked.discard((a, b))
        elif (a, b) in self.blocked or action in (ContactAction.BLOCK, ContactAction.UNBLOCK):
            pass
        elif action in (ContactAction.DECLINE, ContactAction.REMOVE):
            self.part(a, b)
        elif (b, a) in self.asked:
            self.part(a, b)
            self.contacts.add(together)
        elif action is ContactAction.ASK and together not in self.contacts:
            self.asked.add((a, b))

    def state(self, a: str, b: str) -> ContactState:
        if (a, b) in self.blocked:
            return ContactState.BLOCKED_BY_ME
        if frozenset((a, b)) in self.contacts:
            return ContactState.CONTACT
        if (a, b) in self.asked:
            return ContactState.ASKED_BY_ME
        return ContactState.ASKED_BY_THEM if (b, a) in self.asked else ContactState.NONE

    def verdict(self, sender: str, receiver: str) -> Verdict:
        if sender == receiver:
            return Verdict.DELIVER
        if (receiver, sender) in self.blocked:
            return Verdict.OFFLINE
        if (sender, receiver) in self.blocked:
            return Verdict.REFUSED
        is_contact = frozenset((sender, receiver)) in self.contacts
        return (
            Verdict.REFUSED
            if receiver in self.contacts_only and not is_contact
            else Verdict.DELIVER
        )


class Relations(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = TemporaryDirectory()
        self.store = Store(default_database_url(Path(self.directory.name)))
        self.store.open()
        for name in NAMES:
            self.store.add_account(name, "hash")
        self.relations = StoreRelations(self.store)
        self.model = Model()

    def teardown(self) -> None:
        self.look()
        self.store.close()
        self.directory.cleanup()

    @rule(pair=PAIRS, action=st.sampled_from(ContactAction))
    def contact(self, pair: tuple[str, str], action: ContactAction) -> None:
        account, other = pair
        states = self.relations.contact_blocking(account, action, other)
        self.model.act(account, action, other)
        assert states == (self.model.state(account, other), self.model.state(other, account))
        for sender, receiver in (pair, pair[::-1]):
            verdict = self.relations.verdict_blocking(sender, receiver)
            assert verdict is self.model.verdict(sender, receiver)

    @rule(account=st.sampled_from(NAMES), policy=st.sampled_from(Policy))
    def set_policy(self, account: str, policy: Policy) -> None:
        self.relations.set_policy_blocking(account, policy)
        if policy is Policy.CONTACTS:
            self.model.contacts_only.add(account)
        else:
            self.model.contacts_only.discard(account)

    @rule()
    def look(self) -> None:
        for account in NAMES:
            for other in NAMES:
                verdict = self.relations.verdict_blocking(account, other)
                assert verdict is self.model.verdict(account, other)
            expected = [
                ContactEntry(account=other, state=state)
                for other in NAMES
                if (state := self.model.state(account, other)) is not ContactState.NONE
            ]
            assert self.relations.list_blocking(account, "", 0) == (False, expected)


TestRelations = Relations.TestCase
# Each example makes a database, and each step waits for the disk.
TestRelations.settings = settings(max_examples=30, stateful_step_count=30)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(default_database_url(tmp_path))
    store.open()
    for name in NAMES:
        store.add_account(name, "hash")
    yield store
    store.close()


async def test_the_blocked_side_sees_what_it_would_see_of_who_is_away(store: Store) -> None:
    relations = StoreRelations(store)
    assert await relations.contact("alice", ContactAction.BLOCK, "bob") == (4, 0)
    assert await relations.verdict("bob", "alice") is Verdict.OFFLINE
    # It may ask, and hears that it has asked.
    assert await relations.contact("bob", ContactAction.ASK, "alice") == (1, 4)
    assert await relations.list_contacts("bob", "", 0) == (
        False,
        [ContactEntry(account="alice", state=1)],
    )
    assert await relations.list_contacts("alice", "", 0) == (
        False,
        [ContactEntry(account="bob", state=4)],
    )
    assert await relations.contact("alice", ContactAction.UNBLOCK, "bob") == (0, 0)


async def test_a_policy_refuses_all_but_contacts(store: Store) -> None:
    relations = StoreRelations(store)
    await relations.set_policy("alice", Policy.CONTACTS)
    assert await relations.verdict("bob", "alice") is Verdict.REFUSED
    await relations.contact("alice", ContactAction.ASK, "bob")
    await relations.contact("bob", ContactAction.ACCEPT, "alice")
    assert await relations.verdict("bob", "alice") is Verdict.DELIVER
    await relations.set_policy("alice", Policy.ANYONE)
    assert await relations.verdict("ä", "alice") is Verdict.DELIVER


async def test_nobody(store: Store) -> None:
    relations = StoreRelations(store)
    assert await relations.verdict("alice", "nobody") is Verdict.UNKNOWN
    with pytest.raises(RoomError) as caught:
        await relations.contact("alice", ContactAction.BLOCK, "nobody")
    assert caught.value.code == Code.NO_SUCH_ACCOUNT
    with pytest.raises(RoomError) as caught:
        await relations.contact("alice", ContactAction.ASK, "alice")
    assert caught.value.code == Code.BAD_REQUEST


async def test_where_accounts_are_somebody_elses_any_name_may_be_somebody(store: Store) -> None:
    relations = StoreRelations(store, knows_accounts=False)
    assert await relations.verdict("alice", "nobody") is Verdict.DELIVER
    assert await relations.verdict("alice", "no body") is Verdict.UNKNOWN
    assert await relations.contact("nobody", ContactAction.ASK, "noone") == (1, 2)


async def test_the_list_is_paged_in_the_order_of_bytes(store: Store) -> None:
    relations = StoreRelations(store, knows_accounts=False)
    for other in ("b", "ä", "Z", "a"):
        await relations.contact("me", ContactAction.ASK, other)
    await relations.contact("me", ContactAction.BLOCK, "c")

    async def page(after: str, limit: int) -> tuple[bool, list[str]]:
        more, entries = await relations.list_contacts("me", after, limit)
        return more, [entry.account for entry in entries]

    assert await page("", 0) == (False, ["Z", "a", "b", "c", "ä"])
    assert await page("", 2) == (True, ["Z", "a"])
    assert await page("a", 3) == (False, ["b", "c", "ä"])
    assert await page("ä", 3) == (False, [])


async def test_what_was_agreed_is_there_after_a_restart(store: Store) -> None:
    await StoreRelations(store).contact("alice", ContactAction.BLOCK, "bob")
    store.close()
    store.open()
    assert await StoreRelations(store).verdict("bob", "alice") is Verdict.OFFLINE
