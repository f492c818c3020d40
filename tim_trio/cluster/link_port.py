"""The port that other nodes link to with TLS: who comes there is a node or nobody.

Source: docs/cluster.md, "Links with TLS".
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from tim_trio.core.bans import Bans
from tim_trio.core.revocation import Identity, Revocation
from tim_trio.errors import Code, RoomError, room_error
from tim_trio.protocol.messages import (
    Authenticate,
    AuthMode,
    Capability,
    ChangePassword,
    RegisterAccount,
)


def _refusal() -> RoomError:
    return room_error(Code.NOT_SUPPORTED, "this port is for nodes alone")


class NoAccounts:
    """The `Authenticator` of the link port: lets no account in."""

    mode = AuthMode.TOKEN
    capabilities = Capability(0)
    bans: Bans | None = None

    async def authenticate(
        self, request: Authenticate, *, address: str, is_loopback: bool
    ) -> Identity:
        raise _refusal()

    async def register(self, request: RegisterAccount, *, address: str) -> None:
        raise _refusal()

    async def change_password(
        self, identity: Identity, request: ChangePassword, *, address: str
    ) -> None:
        raise _refusal()

    async def ban(self, account: str) -> None:
        raise _refusal()

    async def run(self, revoke: Callable[[Revocation], None]) -> None:
        await trio.sleep_forever()
