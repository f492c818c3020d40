"""Who may sign in, and who may reach whom: the interfaces the core asks.

Open mode is answered here, from memory. What keeps accounts on disk or
checks signed tokens implements the same two interfaces further up.

Source: protocol.md, sections 6 and 11.
"""

from __future__ import annotations

import enum
from typing import Protocol

import attrs

from tim_trio.errors import Code, room_error
from tim_trio.protocol.messages import (
    Authenticate,
    AuthMethod,
    AuthMode,
    Capability,
    ContactAction,
    ContactEntry,
    Policy,
    Right,
    is_account_name,
)


@attrs.frozen(kw_only=True)
class Identity:
    """Who a connection is, and until when.

    Attributes:
        expires_at: Unix time in seconds when the connection must end, or None.
        session: names what may be revoked on its own (one device's sign-in);
            empty where only the whole account can be.
        session_token: the secret that signs in again; empty for none.
        push_rooms, subscribe_rooms: rooms the rights are narrowed to, or None for any.
    """

    account: str
    rights: Right
    device: str = ""
    expires_at: float | None = None
    session: str = ""
    session_token: bytes = attrs.field(default=b"", repr=False)
    push_rooms: frozenset[int] | None = None
    subscribe_rooms: frozenset[int] | None = None


class Authenticator(Protocol):
    """Checks AUTHENTICATE."""

    mode: AuthMode
    #: What it adds to WELCOME's capabilities.
    capabilities: Capability

    async def authenticate(
        self, request: Authenticate, *, address: str, is_loopback: bool
    ) -> Identity:
        """Return who this is. May take long; cancellation is harmless.

        Raises:
            RoomError: ``bad_credentials``, ``bad_request``, ``not_supported``,
                ``rate_limited``, ``unavailable``.
        """


class OpenAuthenticator:
    """Any name, without proof. A loopback client is an operator."""

    mode = AuthMode.OPEN
    capabilities = Capability(0)

    async def authenticate(
        self, request: Authenticate, *, address: str, is_loopback: bool
    ) -> Identity:
        if request.method is not AuthMethod.NAME:
            raise room_error(Code.NOT_SUPPORTED, "this server takes names only")
        if not is_account_name(request.account):
            raise room_error(Code.BAD_REQUEST, "not an account name")
        rights = Right.REGISTER_ROOMS
        if is_loopback:
            rights |= Right.OPERATOR
        return Identity(account=request.account, rights=rights, device=request.device)


class Verdict(enum.IntEnum):
    """May this account's message reach that one? The values are ``delivery.status``."""

    DELIVER = 0
    #: A block: the sender cannot tell it from nobody being there.
    OFFLINE = 1
    REFUSED = 2
    UNKNOWN = 3


class Relations(Protocol):
    """Contacts, blocks and policies. Operations may block for a while.

    Raise RoomError ``no_such_account`` for an unknown other side, and
    ``unavailable`` when the store cannot be reached.
    """

    async def verdict(self, sender: str, receiver: str) -> Verdict:
        """Check both sides' permission for one message."""

    async def contact(self, account: str, action: ContactAction, other: str) -> tuple[int, int]:
        """Carry out a CONTACT; return the new state as (account, other) sees it."""

    async def list_contacts(
        self, account: str, after: str, limit: int
    ) -> tuple[bool, list[ContactEntry]]:
        """Return whether there are more, and entries above ``after``."""

    async def set_policy(self, account: str, policy: Policy) -> None:
        """Say who may send to the account."""
