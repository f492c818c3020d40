"""Contacts and blocks of the signed-in account.

Source: protocol.md, section 11.
"""

from __future__ import annotations

from typing import Final, Literal

import attrs

from tim_trio.net.client.line import Line
from tim_trio.protocol import messages
from tim_trio.protocol.messages import ContactAction, ContactState, Policy

SendPolicy = Literal["anyone", "contacts"]

_POLICIES: Final[dict[str, Policy]] = {"anyone": Policy.ANYONE, "contacts": Policy.CONTACTS}
_POLICY_NAMES: Final[dict[int, SendPolicy]] = {
    Policy.ANYONE: "anyone",
    Policy.CONTACTS: "contacts",
}


@attrs.frozen
class Contact:
    """Another account, as we see it.

    Attributes:
        state: a `ContactState`, or a number we do not know.
    """

    account: str
    state: ContactState | int


def _state(number: int) -> ContactState | int:
    try:
        return ContactState(number)
    except ValueError:
        return number


@attrs.define(eq=False)
class Contacts:
    """Who may reach us, and whom we have asked. Made by `Client.contacts`.

    Each change returns the new state. The other side hears of it by
    ContactChanged among its `Client.events`, of a block only that the contact
    is over. A refusal raises RoomError: ``no_such_account``, ``bad_request``
    for ourselves, ``too_many_contacts``, ``unavailable``.
    """

    _line: Line = attrs.field(repr=False)

    async def _change(self, action: ContactAction, account: str) -> ContactState | int:
        session = await self._line.up()
        answer = await session.connection.request(
            messages.Contact(action=action, account=account), messages.ContactAnswer
        )
        return _state(answer.state)

    async def ask(self, account: str) -> ContactState | int:
        """Ask to become contacts; who has asked us becomes one at once."""
        return await self._change(ContactAction.ASK, account)

    async def accept(self, account: str) -> ContactState | int:
        """Become contacts with who has asked us."""
        return await self._change(ContactAction.ACCEPT, account)

    async def decline(self, account: str) -> ContactState | int:
        """Say no to who has asked us."""
        return await self._change(ContactAction.DECLINE, account)

    async def remove(self, account: str) -> ContactState | int:
        """Be contacts no longer, or take back that we asked."""
        return await self._change(ContactAction.REMOVE, account)

    async def block(self, account: str) -> ContactState | int:
        """Let nothing of an account reach us. To it, we are offline from now on."""
        return await self._change(ContactAction.BLOCK, account)

    async def unblock(self, account: str) -> ContactState | int:
        """Take a block back; contacts we are not again."""
        return await self._change(ContactAction.UNBLOCK, account)

    async def list(self) -> list[Contact]:
        """Return everyone we have asked, who has asked us, contacts and blocks."""
        found: list[Contact] = []
        while True:
            session = await self._line.up()
            answer = await session.connection.request(
                messages.ListContacts(after=found[-1].account if found else "", limit=0),
                messages.ListContactsAnswer,
            )
            found += [Contact(entry.account, _state(entry.state)) for entry in answer.contacts]
            if not answer.more or not answer.contacts:
                return found

    async def get_policy(self) -> SendPolicy | int:
        """Return whose messages may reach us; a number for a policy that we do not know."""
        session = await self._line.up()
        answer = await session.connection.request(messages.GetPolicy(), messages.GetPolicyAnswer)
        return _POLICY_NAMES.get(answer.policy, answer.policy)

    async def set_policy(self, policy: SendPolicy) -> None:
        """Say whose messages may reach us: anyone's, or contacts' alone."""
        try:
            number = _POLICIES[policy]
        except KeyError:
            raise ValueError(f"{policy!r} is none of {', '.join(map(repr, _POLICIES))}") from None
        session = await self._line.up()
        await session.connection.request(
            messages.SetPolicy(policy=number), messages.SetPolicyAnswer
        )
