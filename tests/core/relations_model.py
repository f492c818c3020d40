"""The rules of contacts and blocks in plain sets.

Source: protocol.md, section 11.
"""

from __future__ import annotations

from typing import Final

from tim_trio.core.relations import Verdict
from tim_trio.protocol.messages import ContactAction, ContactEntry, ContactState, Policy

NAMES: Final = ("alice", "bob", "ä")


class Model:
    """Who has asked whom, who are contacts, who blocks whom."""

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
        is_contact = frozenset((sender, receiver)) in self.contacts
        if (sender, receiver) in self.blocked or (
            receiver in self.contacts_only and not is_contact
        ):
            return Verdict.REFUSED
        return Verdict.BLOCKED if (receiver, sender) in self.blocked else Verdict.DELIVER

    def set_policy(self, a: str, policy: Policy) -> None:
        if policy is Policy.CONTACTS:
            self.contacts_only.add(a)
        else:
            self.contacts_only.discard(a)

    def policy(self, a: str) -> Policy:
        return Policy.CONTACTS if a in self.contacts_only else Policy.ANYONE

    def list(self, a: str) -> list[ContactEntry]:
        return [
            ContactEntry(account=b, state=state)
            for b in NAMES
            if (state := self.state(a, b)) is not ContactState.NONE
        ]
