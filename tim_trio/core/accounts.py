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
from typing import Final, Generic, Protocol, TypeVar

import attrs
import trio

from tim_trio.core.relations import MemoryRelations, Relations
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

#: A number that every language's doubles hold exactly (protocol.md, section 1).
_LAST_MS: Final = 2**53 - 1


@attrs.frozen(kw_only=True)
class Identity:
    """Who a connection is, and until when.

    Attributes:
        expires_at: Unix time in seconds when the connection must end, or None.
        session: names what may be revoked on its own (one device's sign-in);
            empty where only the whole account can be.
        session_token: the secret that signs in again; empty for none.
        push_rooms, subscribe_rooms: rooms the rights are narrowed to, or None for any.
        as_of: the last revocation that was already known when this was made.
    """

    account: str
    rights: Right
    device: str = ""
    expires_at: float | None = None
    session: str = ""
    session_token: bytes = attrs.field(default=b"", repr=False)
    push_rooms: frozenset[int] | None = None
    subscribe_rooms: frozenset[int] | None = None
    as_of: int = 0

    @property
    def expires_ms(self) -> int:
        """`expires_at` as AUTHENTICATE's answer says it: 0 for never."""
        if self.expires_at is None:
            return 0
        return min(int(self.expires_at * 1000), _LAST_MS)


@attrs.frozen(kw_only=True)
class Revocation:
    """An account, or some of its sign-ins, must leave now.

    Attributes:
        number: rises; an identity made `as_of` this or later is not concerned.
        code: what to close the connections with.
        session: only this sign-in; empty for every one of the account.
        spared: every one but this; empty for none.
    """

    number: int
    account: str
    code: Code
    session: str = ""
    spared: str = ""

    def concerns(self, identity: Identity) -> bool:
        return (
            identity.account == self.account
            and self.number > identity.as_of
            and (not self.session or identity.session == self.session)
            and (not self.spared or identity.session != self.spared)
        )


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

    async def run(self, revoke: Callable[[Revocation], None]) -> None:
        """Call ``revoke`` for whatever is revoked from now on, within a second.

        Runs until cancelled; one task for all connections.
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

    async def register(self, request: RegisterAccount, *, address: str) -> None:
        raise room_error(Code.NOT_SUPPORTED, "this server keeps no accounts")

    async def change_password(
        self, identity: Identity, request: ChangePassword, *, address: str
    ) -> None:
        raise room_error(Code.NOT_SUPPORTED, "this server keeps no accounts")

    async def run(self, revoke: Callable[[Revocation], None]) -> None:
        await trio.sleep_forever()


@attrs.define(eq=False)
class Gate(Generic[H]):
    """The door of one node: who checks those who come, who is in, and who may reach whom."""

    authenticator: Authenticator = attrs.field(factory=OpenAuthenticator)
    relations: Relations = attrs.field(factory=MemoryRelations)
    sign_ins: SignIns[H] = attrs.field(factory=SignIns)
