"""Contacts, blocks and policies in the store. The rules are `tim_trio.core.relations`'.

Source: protocol.md, section 11.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Table, delete, exists, func, insert, select

from tim_trio.accounts.authenticator import StoreThreads
from tim_trio.accounts.database import retried
from tim_trio.accounts.schema import ACCOUNTS, BLOCKS, LINKS, POLICIES
from tim_trio.accounts.store import Store
from tim_trio.core.relations import (
    MIRRORED,
    ContactChange,
    Verdict,
    act,
    check_other,
    judge,
    page,
    seen,
    too_many_contacts,
)
from tim_trio.errors import Code, room_error
from tim_trio.protocol.messages import (
    ContactAction,
    ContactEntry,
    ContactState,
    Policy,
    is_account_name,
)


class StoreRelations:
    """Who may reach whom.

    Args:
        knows_accounts: the store has all accounts, so that a name that is not
            in it is unknown. Otherwise any name may be somebody.
        max_contacts: that one account may have, asks included, and block.
    """

    def __init__(
        self,
        store: Store,
        *,
        knows_accounts: bool = True,
        max_contacts: int = 10_000,
        threads: StoreThreads | None = None,
    ) -> None:
        self._store = store
        self._knows_accounts = knows_accounts
        self._max_contacts = max_contacts
        self._threads = threads or StoreThreads()

    async def verdicts(self, sender: str, receivers: Sequence[str]) -> list[Verdict]:
        return await self._threads.call(lambda: self.verdicts_blocking(sender, receivers))

    async def contact(self, account: str, action: ContactAction, other: str) -> ContactChange:
        return await self._threads.call(lambda: self.contact_blocking(account, action, other))

    async def list_contacts(
        self, account: str, after: str, limit: int
    ) -> tuple[bool, list[ContactEntry]]:
        return await self._threads.call(lambda: self.list_blocking(account, after, limit))

    async def set_policy(self, account: str, policy: Policy) -> None:
        await self._threads.call(lambda: self.set_policy_blocking(account, policy))

    async def get_policy(self, account: str) -> Policy:
        return await self._threads.call(lambda: self.get_policy_blocking(account))

    # The same, for threads.

    @retried
    def verdicts_blocking(self, sender: str, receivers: Sequence[str]) -> list[Verdict]:
        """Five questions, however many receivers."""
        others = [name for name in dict.fromkeys(receivers) if is_account_name(name)]
        with self._store.read() as connection:
            known = set(others)
            if self._knows_accounts:
                known = _names(
                    connection, select(ACCOUNTS.c.name).where(ACCOUNTS.c.name.in_(others))
                )
            blocking = _names(
                connection,
                select(BLOCKS.c.account).where(
                    BLOCKS.c.other == sender, BLOCKS.c.account.in_(others)
                ),
            )
            blocked = _names(
                connection,
                select(BLOCKS.c.other).where(
                    BLOCKS.c.account == sender, BLOCKS.c.other.in_(others)
                ),
            )
            contacts = _names(
                connection,
                select(LINKS.c.other).where(
                    LINKS.c.account == sender,
                    LINKS.c.other.in_(others),
                    LINKS.c.state == ContactState.CONTACT,
                ),
            )
            policies: dict[str, int] = {
                row.account: row.policy
                for row in connection.execute(
                    select(POLICIES).where(POLICIES.c.account.in_(others))
                )
            }

        def verdict(receiver: str) -> Verdict:
            if receiver not in known:
                return Verdict.UNKNOWN
            if receiver == sender:
                return Verdict.DELIVER
            return judge(
                blocks=receiver in blocked,
                blocked=receiver in blocking,
                policy=Policy(policies.get(receiver, Policy.ANYONE)),
                is_contact=receiver in contacts,
            )

        return [verdict(receiver) for receiver in receivers]

    @retried
    def contact_blocking(self, account: str, action: ContactAction, other: str) -> ContactChange:
        check_other(account, other)
        with self._store.write(account, other) as connection:
            if not self._exists(connection, other):
                raise room_error(Code.NO_SUCH_ACCOUNT, "there is no account of that name")
            link, blocks = _side(connection, account, other)
            before = seen(*_side(connection, other, account))
            new_link, new_blocks = act(action, link, blocks)
            if (new_link, new_blocks) != (link, blocks):
                if new_blocks and not blocks:
                    self._check_room(connection, BLOCKS, account)
                elif link is ContactState.NONE and new_link is not link:
                    # Whether they have a block for us makes no difference, or it would show.
                    self._check_room(connection, LINKS, account)
                    self._check_room(connection, LINKS, other)
                _set_block(connection, account, other, blocks, new_blocks)
                _set_link(connection, account, other, new_link)
            after = seen(*_side(connection, other, account))
        return ContactChange(
            state=seen(new_link, new_blocks), other_state=after, is_news=after is not before
        )

    def _check_room(self, connection: Connection, table: Table, account: str) -> None:
        """Raise where one more would be one too many."""
        held = connection.execute(
            select(func.count()).select_from(table).where(table.c.account == account)
        ).scalar_one()
        if held >= self._max_contacts:
            raise too_many_contacts()

    @retried
    def list_blocking(
        self, account: str, after: str, limit: int
    ) -> tuple[bool, list[ContactEntry]]:
        with self._store.read() as connection:
            entries = {
                row.other: ContactState(row.state)
                for row in connection.execute(
                    select(LINKS.c.other, LINKS.c.state).where(LINKS.c.account == account)
                )
            }
            blocks = _names(connection, select(BLOCKS.c.other).where(BLOCKS.c.account == account))
        return page(entries | dict.fromkeys(blocks, ContactState.BLOCKED_BY_ME), after, limit)

    @retried
    def set_policy_blocking(self, account: str, policy: Policy) -> None:
        with self._store.write(account) as connection:
            connection.execute(delete(POLICIES).where(POLICIES.c.account == account))
            if policy is not Policy.ANYONE:
                connection.execute(insert(POLICIES).values(account=account, policy=policy))

    @retried
    def get_policy_blocking(self, account: str) -> Policy:
        with self._store.read() as connection:
            number = connection.execute(
                select(POLICIES.c.policy).where(POLICIES.c.account == account)
            ).scalar()
        return Policy(number or Policy.ANYONE)

    def _exists(self, connection: Connection, name: str) -> bool:
        if not is_account_name(name):
            return False
        return not self._knows_accounts or bool(
            connection.execute(select(exists().where(ACCOUNTS.c.name == name))).scalar()
        )


def _names(connection: Connection, question: Any) -> set[str]:
    return set(connection.execute(question).scalars())


def _side(connection: Connection, account: str, other: str) -> tuple[ContactState, bool]:
    """Return the link as ``account`` sees it, and whether it blocks the other."""
    state, blocks = connection.execute(
        select(
            select(LINKS.c.state)
            .where(LINKS.c.account == account, LINKS.c.other == other)
            .scalar_subquery(),
            exists().where(BLOCKS.c.account == account, BLOCKS.c.other == other),
        )
    ).one()
    return ContactState(state or 0), bool(blocks)


def _set_block(connection: Connection, account: str, other: str, was: bool, is_now: bool) -> None:
    if is_now and not was:
        connection.execute(insert(BLOCKS).values(account=account, other=other))
    elif was and not is_now:
        connection.execute(
            delete(BLOCKS).where(BLOCKS.c.account == account, BLOCKS.c.other == other)
        )


def _set_link(connection: Connection, account: str, other: str, state: ContactState) -> None:
    """Write a link down from both sides, so that either finds its own by index."""
    for mine, theirs, each in ((account, other, state), (other, account, MIRRORED[state])):
        connection.execute(delete(LINKS).where(LINKS.c.account == mine, LINKS.c.other == theirs))
        if each is not ContactState.NONE:
            connection.execute(insert(LINKS).values(account=mine, other=theirs, state=each))
