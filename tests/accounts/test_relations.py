"""Contacts, blocks and policies in the store, against a plain model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from tests.core.relations_model import NAMES, Model
from tests.core.test_requests import Sessions
from tim_trio.accounts.relations import StoreRelations
from tim_trio.accounts.store import Store, default_database_url
from tim_trio.core.relations import ContactChange, Verdict
from tim_trio.errors import Code, RoomError
from tim_trio.protocol.messages import ContactAction, ContactEntry, ContactState, Policy

PAIRS = st.permutations(NAMES).map(lambda names: (names[0], names[1]))


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
        before = self.model.state(other, account)
        change = self.relations.contact_blocking(account, action, other)
        self.model.act(account, action, other)
        other_state = self.model.state(other, account)
        assert change == ContactChange(
            state=self.model.state(account, other),
            other_state=other_state,
            is_news=other_state is not before,
        )

    @rule(account=st.sampled_from(NAMES), policy=st.sampled_from(Policy))
    def set_policy(self, account: str, policy: Policy) -> None:
        self.relations.set_policy_blocking(account, policy)
        self.model.set_policy(account, policy)

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store.open()

    @rule()
    def look(self) -> None:
        for account in NAMES:
            verdicts = self.relations.verdicts_blocking(account, NAMES)
            assert verdicts == [self.model.verdict(account, other) for other in NAMES]
            assert self.relations.list_blocking(account, "", 0) == (False, self.model.list(account))
            assert self.relations.get_policy_blocking(account) is self.model.policy(account)


TestRelations = Relations.TestCase
# Each example makes a database, and each step waits for the disk.
TestRelations.settings = settings(max_examples=30, stateful_step_count=30)


class StoreSessions(Sessions):
    """The same through sessions, with all that they say to each side."""

    def make_relations(self) -> StoreRelations:
        self.directory = TemporaryDirectory()
        self.store = Store(default_database_url(Path(self.directory.name)))
        self.store.open()
        for name in NAMES:
            self.store.add_account(name, "hash")
        return StoreRelations(self.store)

    def teardown(self) -> None:
        self.store.close()
        self.directory.cleanup()


TestStoreSessions = StoreSessions.TestCase
TestStoreSessions.settings = settings(max_examples=15, stateful_step_count=25)


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    store = Store(database_url)
    store.open()
    for name in NAMES:
        store.add_account(name, "hash")
    yield store
    store.close()


def changed(state: int, other_state: int, *, is_news: bool) -> ContactChange:
    return ContactChange(
        state=ContactState(state), other_state=ContactState(other_state), is_news=is_news
    )


async def test_the_blocked_side_sees_what_it_would_see_of_who_is_away(store: Store) -> None:
    relations = StoreRelations(store)
    assert await relations.contact("alice", ContactAction.BLOCK, "bob") == changed(
        4, 0, is_news=False
    )
    assert await relations.verdicts("bob", ["alice"]) == [Verdict.BLOCKED]
    # It may ask, and hears that it has asked.
    assert await relations.contact("bob", ContactAction.ASK, "alice") == changed(
        1, 4, is_news=False
    )
    assert await relations.list_contacts("bob", "", 0) == (
        False,
        [ContactEntry(account="alice", state=1)],
    )
    assert await relations.list_contacts("alice", "", 0) == (
        False,
        [ContactEntry(account="bob", state=4)],
    )
    # As if it had been declined just now.
    assert await relations.contact("alice", ContactAction.UNBLOCK, "bob") == changed(
        0, 0, is_news=True
    )


async def test_a_policy_refuses_all_but_contacts(store: Store) -> None:
    relations = StoreRelations(store)
    await relations.set_policy("alice", Policy.CONTACTS)
    assert await relations.get_policy("alice") is Policy.CONTACTS
    assert await relations.verdicts("bob", ["alice"]) == [Verdict.REFUSED]
    await relations.contact("alice", ContactAction.ASK, "bob")
    await relations.contact("bob", ContactAction.ACCEPT, "alice")
    assert await relations.verdicts("bob", ["alice"]) == [Verdict.DELIVER]
    await relations.set_policy("alice", Policy.ANYONE)
    assert await relations.verdicts("ä", ["alice", "bob"]) == [Verdict.DELIVER] * 2


async def test_nobody(store: Store) -> None:
    relations = StoreRelations(store)
    assert await relations.verdicts("alice", ["nobody", "no body"]) == [Verdict.UNKNOWN] * 2
    for other, code in (
        ("nobody", Code.NO_SUCH_ACCOUNT),
        ("no\0body", Code.NO_SUCH_ACCOUNT),
        ("alice", Code.BAD_REQUEST),
    ):
        with pytest.raises(RoomError) as caught:
            await relations.contact("alice", ContactAction.BLOCK, other)
        assert caught.value.code == code


async def test_where_accounts_are_somebody_elses_any_name_may_be_somebody(store: Store) -> None:
    relations = StoreRelations(store, knows_accounts=False)
    assert await relations.verdicts("alice", ["nobody", "no body"]) == [
        Verdict.DELIVER,
        Verdict.UNKNOWN,
    ]
    assert await relations.contact("nobody", ContactAction.ASK, "noone") == changed(
        1, 2, is_news=True
    )


async def test_contacts_and_blocks_are_bounded_on_both_sides(store: Store) -> None:
    relations = StoreRelations(store, knows_accounts=False, max_contacts=1)
    await relations.contact("me", ContactAction.ASK, "a")
    # Who is asked too often can still block.
    await relations.contact("me", ContactAction.BLOCK, "b")
    for account, action, other in (
        ("me", ContactAction.ASK, "c"),
        ("me", ContactAction.BLOCK, "c"),
        ("c", ContactAction.ASK, "me"),
    ):
        with pytest.raises(RoomError) as caught:
            await relations.contact(account, action, other)
        assert caught.value.code == Code.TOO_MANY_CONTACTS
    await relations.contact("me", ContactAction.UNBLOCK, "b")
    await relations.contact("me", ContactAction.BLOCK, "a")
    await relations.contact("c", ContactAction.ASK, "me")


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
    assert await StoreRelations(store).verdicts("bob", ["alice"]) == [Verdict.BLOCKED]
