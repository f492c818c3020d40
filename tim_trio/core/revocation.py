"""Who a connection is, and that it must be no longer.

Source: protocol.md, section 11.
"""

from __future__ import annotations

from typing import Final

import attrs

from tim_trio.errors import Code
from tim_trio.protocol.messages import Right

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

    @property
    def is_of_account(self) -> bool:
        """Whether it ends everything of the account, and not some of its sign-ins."""
        return not self.session and not self.spared

    def concerns(self, identity: Identity) -> bool:
        return (
            identity.account == self.account
            and self.number > identity.as_of
            and (not self.session or identity.session == self.session)
            and (not self.spared or identity.session != self.spared)
        )
