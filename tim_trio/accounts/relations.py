"""Contacts, blocks and policies in the store.

Source: protocol.md, section 11.
"""

from __future__ import annotations

import enum
from typing import Any, Final

from sqlalchemy import Connection, Select, delete, exists, insert, select

from tim_trio.accounts.authenticator import StoreThreads
from tim_trio.accounts.schema import ACCOUNTS, BLOCKS, LINKS, POLICIES
from tim_trio.accounts.store import Store
from tim_trio.core.accounts import Verdict
from tim_trio.errors import Code, room_error
from tim_trio.protocol.messages import ContactAction, ContactEntry, Policy, is_account_name

_LIST_LIMIT: Final = 1000


class ContactState(enum.IntEnum):
    """What an account sees of another: ``contact.state`` of the protocol."""

    NONE = 0
    ASKED_BY_ME = 1
    ASKED_BY_THEM = 2
    CONTACT = 3
    BLOCKED_BY_ME = 4


#: How one side's link looks from the other side.
_MIRRORED: Final = {
    ContactState.NONE: ContactState.NONE,
    ContactState.ASKED_BY_ME: ContactState.ASKED_BY_THEM,
    ContactState.ASKED_BY_THEM: ContactState.ASKED_BY_ME,
    ContactState.CONTACT: ContactState.CONTACT,
}

#: The link after an action, where there is no block of one's own. A pair that
#: is not listed stays as it is.
_NEXT: Final = {
    (ContactAction.ASK, ContactState.NONE): ContactState.ASKED_BY_ME,
    (ContactAction.ASK, ContactState.ASKED_BY_THEM): ContactState.CONTACT,
    (ContactAction.ACCEPT, ContactState.ASKED_BY_THEM): ContactState.CONTACT,
    (ContactAction.DECLINE, ContactState.ASKED_BY_ME): ContactState.NONE,
    (ContactAction.DECLINE, ContactState.ASKED_BY_THEM): ContactState.NONE,
    (ContactAction.DECLINE, ContactState.CONTACT): ContactState.NONE,
    (ContactAction.REMOVE, ContactState.ASKED_BY_ME): ContactState.NONE,
    (ContactAction.REMOVE, ContactState.ASKED_BY_THEM): ContactState.NONE,
    (ContactAction.REMOVE, ContactState.CONTACT): ContactState.NONE,
}


class StoreRelations:
    """Who may reach whom.

    A block hides itself: the blocked side may go on asking, and sees that it
    has asked; the other side hears nothing of it.

    Args:
        knows_accounts: the store has all accounts, so that a name that is not
            in it is unknown. Otherwise any name may be somebody.
    """

    def __init__(
        self, store: Store, *, knows_accounts: bool = True, threads: StoreThreads | None = None
    ) -> None:
        self._store = store
        self._knows_accounts = knows_accounts
        self._threads = threads or StoreThreads()

    async def verdict(self, sender: str, receiver: str) -> Verdict:
        """Check both sides' permission for one message."""
        return await self._threads.call(lambda: self.verdict_blocking(sender, receiver))

    async def contact(self, account: str, action: ContactAction, other: str) -> tuple[int, int]:
        """Carry out a CONTACT; return the new state as (account, other) sees it.

        Where the other side's state is "blocked by me" it is to hear nothing.

        Raises:
            RoomError: ``bad_request``, ``no_such_account``, ``unavailable``.
        """
        return await self._threads.call(lambda: self.contact_blocking(account, action, other))

    async def list_contacts(
        self, account: str, after: str, limit: int
    ) -> tuple[bool, list[ContactEntry]]:
        """Return whether there are more, and entries above ``after``."""
        return await self._threads.call(lambda: self.list_blocking(account, after, limit))

    async def set_policy(self, account: str, policy: Policy) -> None:
        """Say who may send to the account."""
        await self._threads.call(lambda: self.set_policy_blocking(account, policy))

    # The same, for threads and for the command line.

    def verdict_blocking(self, sender: str, receiver: str) -> Verdict:
        with self._store.read() as connection:
            if not self._exists(connection, receiver):
                return Verdict.UNKNOWN
            if sender == receiver:
                return Verdict.DELIVER
            # One question, so that one message costs one look.
            blocked, blocks, policy, is_contact = connection.execute(
                select(
                    _has_block(receiver, sender),
                    _has_block(sender, receiver),
                    select(POLICIES.c.policy)
                    .where(POLICIES.c.account == receiver)
                    .scalar_subquery(),
                    exists().where(
                        LINKS.c.account == receiver,
                        LINKS.c.other == sender,
                        LINKS.c.state == ContactState.CONTACT,
                    ),
                )
            ).one()
        if blocked:
            return Verdict.OFFLINE
        if blocks or (policy == Policy.CONTACTS and not is_contact):
            return Verdict.REFUSED
        return Verdict.DELIVER

    def contact_blocking(
        self, account: str, action: ContactAction, other: str
    ) -> tuple[ContactState, ContactState]:
        if account == other:
            raise room_error(Code.BAD_REQUEST, "that is you")
        with self._store.write() as connection:
            if not self._exists(connection, other):
                raise room_error(Code.NO_SUCH_ACCOUNT, "there is no account of that name")
            link = _link(connection, account, other)
            blocks = connection.execute(select(_has_block(account, other))).scalar_one()
            if action is ContactAction.BLOCK:
                if not blocks:
                    connection.execute(insert(BLOCKS).values(account=account, other=other))
                    _set_link(connection, account, other, ContactState.NONE)
            elif action is ContactAction.UNBLOCK:
                if blocks:
                    connection.execute(
                        delete(BLOCKS).where(BLOCKS.c.account == account, BLOCKS.c.other == other)
                    )
                    # Also what the other side has asked meanwhile, unheard.
                    _set_link(connection, account, other, ContactState.NONE)
            elif not blocks:
                after = _NEXT.get((action, link), link)
                if after is not link:
                    _set_link(connection, account, other, after)
            return _seen(connection, account, other), _seen(connection, other, account)

    def list_blocking(
        self, account: str, after: str, limit: int
    ) -> tuple[bool, list[ContactEntry]]:
        limit = min(limit or _LIST_LIMIT, _LIST_LIMIT)
        with self._store.read() as connection:
            entries: dict[str, int] = {
                row.other: row.state
                for row in connection.execute(
                    select(LINKS.c.other, LINKS.c.state).where(LINKS.c.account == account)
                )
            }
            blocks: Select[Any] = select(BLOCKS.c.other).where(BLOCKS.c.account == account)
            for other in connection.execute(blocks).scalars():
                entries[other] = ContactState.BLOCKED_BY_ME
        # In order of bytes, whatever collation the database has.
        names = sorted((name for name in entries if name.encode() > after.encode()), key=str.encode)
        return len(names) > limit, [
            ContactEntry(account=name, state=entries[name]) for name in names[:limit]
        ]

    def set_policy_blocking(self, account: str, policy: Policy) -> None:
        with self._store.write() as connection:
            connection.execute(delete(POLICIES).where(POLICIES.c.account == account))
            if policy is not Policy.ANYONE:
                connection.execute(insert(POLICIES).values(account=account, policy=policy))

    def _exists(self, connection: Connection, name: str) -> bool:
        if not self._knows_accounts:
            return is_account_name(name)
        return bool(connection.execute(select(exists().where(ACCOUNTS.c.name == name))).scalar())


def _has_block(account: str, other: str) -> Any:
    return exists().where(BLOCKS.c.account == account, BLOCKS.c.other == other)


def _link(connection: Connection, account: str, other: str) -> ContactState:
    state = connection.execute(
        select(LINKS.c.state).where(LINKS.c.account == account, LINKS.c.other == other)
    ).scalar()
    return ContactState(state or 0)


def _seen(connection: Connection, account: str, other: str) -> ContactState:
    if connection.execute(select(_has_block(account, other))).scalar():
        return ContactState.BLOCKED_BY_ME
    return _link(connection, account, other)


def _set_link(connection: Connection, account: str, other: str, state: ContactState) -> None:
    """Write a link down from both sides, so that either finds its own by index."""
    for mine, theirs, seen in ((account, other, state), (other, account, _MIRRORED[state])):
        connection.execute(delete(LINKS).where(LINKS.c.account == mine, LINKS.c.other == theirs))
        if seen is not ContactState.NONE:
            connection.execute(insert(LINKS).values(account=mine, other=theirs, state=seen))
