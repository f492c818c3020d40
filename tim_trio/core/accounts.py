"""Who may sign in and until when: the interface the core asks.

Open mode is answered here. What keeps accounts on disk or checks signed
tokens implements the same interface further up.

Rights can end while a connection lives: by the clock (`Identity.expires_at`),
or by a `Revocation`, which an authenticator's service hands out. `SignIns`
knows which connections that concerns.

Source: protocol.md, sections 6 and 11.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

import attrs

from tim_trio.core.bans import Bans
from tim_trio.core.links import LinkGate
from tim_trio.core.relations import MemoryRelations, Relations
from tim_trio.core.revocation import Identity, Revocation
from tim_trio.errors import Code, room_error
from tim_trio.protocol.messages import (
    Authenticate,
    AuthMethod,
    AuthMode,
    Capability,
    ChangePassword,
    RegisterAccount,
    Right,
    is_account_name,
)

H = TypeVar("H")


class SignIns(Generic[H]):
    """Which holder (a connection) goes by which identity. Never blocks."""

    def __init__(self) -> None:
        self._of_account: dict[str, dict[H, Identity]] = {}
        self._expiries: dict[H, float] = {}

    def __len__(self) -> int:
        return sum(map(len, self._of_account.values()))

    def add(self, holder: H, identity: Identity) -> None:
        self._of_account.setdefault(identity.account, {})[holder] = identity
        if identity.expires_at is not None:
            self._expiries[holder] = identity.expires_at

    def discard(self, holder: H, account: str) -> None:
        """Forget a holder of ``account``. Idempotent."""
        holders = self._of_account.get(account, {})
        if holders.pop(holder, None) is not None:
            self._expiries.pop(holder, None)
            if not holders:
                del self._of_account[account]

    def expired(self, unix_time: float) -> list[H]:
        """Return whose time has come. About 30 ns for each that has an end."""
        # Looked through and not kept in order: clients that come back again
        # and again would fill a heap with ends that are weeks away.
        return [holder for holder, at in self._expiries.items() if at <= unix_time]

    def revoked(self, revocation: Revocation) -> Iterator[H]:
        """Yield whom a revocation concerns; they may be discarded meanwhile."""
        holders = self._of_account.get(revocation.account, {})
        for holder, identity in list(holders.items()):
            if revocation.concerns(identity):
                yield holder


class Authenticator(Protocol):
    """Checks AUTHENTICATE, and says when somebody's rights are over."""

    mode: AuthMode
    #: What it adds to WELCOME's capabilities.
    capabilities: Capability

    @property
    def bans(self) -> Bans | None:
        """Whom it has banned, where it keeps that in memory alone."""

    async def authenticate(
        self, request: Authenticate, *, address: str, is_loopback: bool
    ) -> Identity:
        """Return who this is. May take long; cancellation is harmless.

        Between the return and `SignIns.add` there must be no checkpoint, or
        a revocation may pass between the two.

        Raises:
            RoomError: ``bad_credentials``, ``bad_request``, ``not_supported``,
                ``permission_denied`` (disabled), ``rate_limited``, ``unavailable``.
        """

    async def register(self, request: RegisterAccount, *, address: str) -> None:
        """Make an account.

        Raises:
            RoomError: ``account_exists``, ``weak_password``, ``registration_closed``,
                ``bad_request``, ``not_supported``, ``rate_limited``, ``unavailable``.
        """

    async def change_password(
        self, identity: Identity, request: ChangePassword, *, address: str
    ) -> None:
        """Change the password and revoke the account's other sign-ins.

        Raises:
            RoomError: ``bad_credentials``, ``weak_password``, ``not_supported``,
                ``rate_limited``, ``unavailable``.
        """

    async def ban(self, account: str) -> None:
        """Let an account in no more, and revoke all its sign-ins.

        Raises:
            RoomError: ``no_such_account``, ``unavailable``.
        """

    async def run(self, revoke: Callable[[Revocation], None]) -> None:
        """Call ``revoke`` for whatever is revoked from now on, within a second.

        Runs until cancelled; one task for all connections.
        """


class OpenAuthenticator:
    """Any name, without proof. A loopback client is an operator."""

    mode = AuthMode.OPEN
    capabilities = Capability(0)

    def __init__(self) -> None:
        self.bans = Bans()

    async def authenticate(
        self, request: Authenticate, *, address: str, is_loopback: bool
    ) -> Identity:
        if request.method is not AuthMethod.NAME:
            raise room_error(Code.NOT_SUPPORTED, "this server takes names only")
        if not is_account_name(request.account):
            raise room_error(Code.BAD_REQUEST, "not an account name")
        self.bans.check(request.account)
        rights = Right.REGISTER_ROOMS
        if is_loopback:
            rights |= Right.OPERATOR
        return Identity(account=request.account, rights=rights, device=request.device)

    async def register(self, request: RegisterAccount, *, address: str) -> None:
        raise room_error(Code.NOT_SUPPORTED, "this server keeps no accounts")

    async def change_password(
        self, identity: Identity, request: ChangePassword, *, address: str
    ) -> None:
        raise room_error(Code.NOT_SUPPORTED, "this server keeps no accounts")

    async def ban(self, account: str) -> None:
        self.bans.add(account)

    async def run(self, revoke: Callable[[Revocation], None]) -> None:
        await self.bans.run(revoke)


@attrs.define(eq=False)
class Gate(Generic[H]):
    """The door of one node: who checks those who come, who is in, and who may reach whom.

    Attributes:
        on_known: called with each holder that has authenticated, nodes included.
        on_signed_in: called with each client, behind the answer that says so.
    """

    authenticator: Authenticator = attrs.field(factory=OpenAuthenticator)
    relations: Relations = attrs.field(factory=MemoryRelations)
    sign_ins: SignIns[H] = attrs.field(factory=SignIns)
    #: Who of the other nodes may link to this one; None on a single node.
    links: LinkGate | None = None
    on_known: Callable[[H], None] = lambda _: None
    on_signed_in: Callable[[H], None] = lambda _: None
