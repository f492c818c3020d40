"""Who may reach whom: contacts, blocks and policies.

The rules are pure functions of what two accounts have to do with each other;
where that is written down (here in memory, or in a database further up) is
behind one interface.

**A block hides itself.** Whatever the blocked side asks for is answered as if
there were no block and the other side were away: its own view of the two
changes as ever, and only the side that blocks sees and hears nothing of it.

Source: protocol.md, section 11.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence, Sized
from contextlib import contextmanager
from typing import Final, Protocol

import attrs

from tim_trio.errors import Code, RoomError, room_error
from tim_trio.protocol.messages import (
    ContactAction,
    ContactEntry,
    ContactState,
    Policy,
    is_account_name,
)

#: Entries of one page of LIST_CONTACTS.
_LIST_LIMIT: Final = 1000
#: The answer without its entries, and a `contact` without its name.
_LIST_HEADER_BYTES: Final = 15
_ENTRY_BYTES: Final = 3

#: How one side's link looks from the other side.
MIRRORED: Final = {
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


class Verdict(enum.Enum):
    """May this account's message reach that one?"""

    DELIVER = enum.auto()
    #: A block of the receiver's, which looks as if nobody were there.
    BLOCKED = enum.auto()
    REFUSED = enum.auto()
    UNKNOWN = enum.auto()


def judge(*, blocks: bool, blocked: bool, policy: Policy, is_contact: bool) -> Verdict:
    """Say whether a message may pass.

    Args:
        blocks: the sender blocks the receiver.
        blocked: the receiver blocks the sender.
        policy: the receiver's.
    """
    # What the sender can know of itself comes first: were a block looked at
    # before it, the two answers would tell the one from the other.
    if blocks or (policy is Policy.CONTACTS and not is_contact):
        return Verdict.REFUSED
    return Verdict.BLOCKED if blocked else Verdict.DELIVER


def act(action: ContactAction, link: ContactState, blocks: bool) -> tuple[ContactState, bool]:
    """Return the link and the own block after an action."""
    match action:
        case ContactAction.BLOCK:
            return (link, True) if blocks else (ContactState.NONE, True)
        case ContactAction.UNBLOCK:
            # Also what the other side has asked meanwhile, unheard.
            return (ContactState.NONE, False) if blocks else (link, False)
        case _ if blocks:
            return link, True
        case _:
            return _NEXT.get((action, link), link), False


def seen(link: ContactState, blocks: bool) -> ContactState:
    """Return what an account is told of its side."""
    return ContactState.BLOCKED_BY_ME if blocks else link


@attrs.frozen(kw_only=True)
class ContactChange:
    """What a CONTACT led to.

    Attributes:
        state: as the one who acted sees it now.
        other_state: as the other side does.
        is_news: the other side's changed, so that it is to be told.
    """

    state: ContactState
    other_state: ContactState
    is_news: bool


class Relations(Protocol):
    """Contacts, blocks and policies. Operations may block for a while.

    Raise RoomError ``no_such_account`` for an unknown other side, and
    ``unavailable`` when the store cannot be reached.
    """

    async def verdicts(self, sender: str, receivers: Sequence[str]) -> list[Verdict]:
        """Check both sides' permission for one message to each of the receivers."""

    async def contact(self, account: str, action: ContactAction, other: str) -> ContactChange:
        """Carry out a CONTACT.

        Raises:
            RoomError: ``bad_request``, ``no_such_account``, ``too_many_contacts``,
                ``unavailable``.
        """

    async def list_contacts(
        self, account: str, after: str, limit: int
    ) -> tuple[bool, list[ContactEntry]]:
        """Return whether there are more, and entries above ``after``, in order of bytes."""

    async def set_policy(self, account: str, policy: Policy) -> None:
        """Say who may send to the account."""

    async def get_policy(self, account: str) -> Policy:
        """Return who may send to the account."""


async def may_reach(relations: Relations, sender: str, receiver: str) -> bool:
    """Say whether a word of one account may come to another's eyes, if it is there.

    Raises:
        RoomError: as `Relations.verdicts`.
    """
    (verdict,) = await relations.verdicts(sender, (receiver,))
    # An account that is not written down has nobody blocked.
    return verdict in (Verdict.DELIVER, Verdict.UNKNOWN)


def check_other(account: str, other: str) -> None:
    """Raise ``bad_request`` for who has to do with nobody but itself."""
    if account == other:
        raise room_error(Code.BAD_REQUEST, "that is you")


def too_many_contacts() -> RoomError:
    """One side has no room for another contact or block."""
    return room_error(
        Code.TOO_MANY_CONTACTS, "one of the two has too many", limit="max_contacts_per_account"
    )


def page(
    entries: dict[str, ContactState], after: str, limit: int
) -> tuple[bool, list[ContactEntry]]:
    """Return whether there are more, and the first entries above ``after``."""
    limit = min(limit or _LIST_LIMIT, _LIST_LIMIT)
    start = after.encode()
    names = sorted((name for name in entries if name.encode() > start), key=str.encode)
    return len(names) > limit, [
        ContactEntry(account=name, state=entries[name]) for name in names[:limit]
    ]


def as_fits(
    has_more: bool, entries: list[ContactEntry], max_frame_bytes: int
) -> tuple[bool, list[ContactEntry]]:
    """Return a page cut down to what an answer may hold."""
    size = _LIST_HEADER_BYTES
    for count, entry in enumerate(entries):
        size += _ENTRY_BYTES + len(entry.account.encode())
        if size > max_frame_bytes:
            return True, entries[:count]
    return has_more, entries


@attrs.define(eq=False)
class _Ties:
    """What one account has to do with others.

    Attributes:
        links: with whom, as this account would see it without blocks.
    """

    links: dict[str, ContactState] = attrs.field(factory=dict)
    blocks: set[str] = attrs.field(factory=set)
    policy: Policy = Policy.ANYONE

    @property
    def entries(self) -> int:
        return len(self.links) + len(self.blocks) + (self.policy is not Policy.ANYONE)


#: What nobody has to do with anybody.
_NO_TIES: Final = _Ties()


class MemoryRelations:
    """Relations of any names, as long as the process lives. Never blocks.

    For where accounts are somebody else's: any valid name may be somebody.

    Args:
        max_contacts: that one account may have, asks included, and block.
        max_entries: of all accounts together; a contact makes two.

    Attributes:
        entries: how many there are.
    """

    def __init__(self, max_contacts: int = 10_000, max_entries: int = 200_000) -> None:
        self.entries = 0
        self._max_contacts = max_contacts
        self._max_entries = max_entries
        self._of_account: dict[str, _Ties] = {}

    def _ties(self, account: str) -> _Ties:
        return self._of_account.get(account, _NO_TIES)

    async def verdicts(self, sender: str, receivers: Sequence[str]) -> list[Verdict]:
        return [self._verdict(sender, receiver) for receiver in receivers]

    def _verdict(self, sender: str, receiver: str) -> Verdict:
        if not is_account_name(receiver):
            return Verdict.UNKNOWN
        if sender == receiver:
            return Verdict.DELIVER
        theirs = self._ties(receiver)
        return judge(
            blocks=receiver in self._ties(sender).blocks,
            blocked=sender in theirs.blocks,
            policy=theirs.policy,
            is_contact=theirs.links.get(sender) is ContactState.CONTACT,
        )

    async def contact(self, account: str, action: ContactAction, other: str) -> ContactChange:
        check_other(account, other)
        if not is_account_name(other):
            raise room_error(Code.NO_SUCH_ACCOUNT, "there is no account of that name")
        mine, theirs = self._ties(account), self._ties(other)
        link = mine.links.get(other, ContactState.NONE)
        blocks = other in mine.blocks
        before = seen(theirs.links.get(account, ContactState.NONE), account in theirs.blocks)
        new_link, new_blocks = act(action, link, blocks)
        if (new_link, new_blocks) != (link, blocks):
            if new_blocks and not blocks:
                self._check_room(1, mine.blocks)
            elif link is ContactState.NONE and new_link is not link:
                # Whether they have a block for us makes no difference, or it would show.
                self._check_room(2, mine.links, theirs.links)
            with self._changing(account) as ties:
                _write(ties, other, new_link)
                if new_blocks:
                    ties.blocks.add(other)
                else:
                    ties.blocks.discard(other)
            with self._changing(other) as ties:
                _write(ties, account, MIRRORED[new_link])
        theirs = self._ties(other)
        after = seen(theirs.links.get(account, ContactState.NONE), account in theirs.blocks)
        return ContactChange(
            state=seen(new_link, new_blocks), other_state=after, is_news=after is not before
        )

    def _check_room(self, new: int, *concerned: Sized) -> None:
        """Raise where what is about to be written down would be one too many."""
        if any(len(one) >= self._max_contacts for one in concerned):
            raise too_many_contacts()
        self._check_entries(new)

    def _check_entries(self, new: int) -> None:
        if self.entries + new > self._max_entries:
            raise room_error(
                Code.UNAVAILABLE,
                "this server's memory for contacts is full",
                limit="max_contacts_in_memory",
            )

    @contextmanager
    def _changing(self, account: str) -> Iterator[_Ties]:
        """Give an account's ties to be changed, and keep the count and nothing that is empty."""
        ties = self._of_account.setdefault(account, _Ties())
        self.entries -= ties.entries
        yield ties
        self.entries += ties.entries
        if not ties.entries:
            del self._of_account[account]

    async def list_contacts(
        self, account: str, after: str, limit: int
    ) -> tuple[bool, list[ContactEntry]]:
        ties = self._ties(account)
        blocked = dict.fromkeys(ties.blocks, ContactState.BLOCKED_BY_ME)
        return page(ties.links | blocked, after, limit)

    async def set_policy(self, account: str, policy: Policy) -> None:
        if policy is not self._ties(account).policy:
            self._check_entries(policy is not Policy.ANYONE)
            with self._changing(account) as ties:
                ties.policy = policy

    async def get_policy(self, account: str) -> Policy:
        return self._ties(account).policy


def _write(ties: _Ties, other: str, link: ContactState) -> None:
    if link is ContactState.NONE:
        ties.links.pop(other, None)
    else:
        ties.links[other] = link
