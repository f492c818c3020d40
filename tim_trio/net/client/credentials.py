"""Who a client says it is, and by what it proves that, on each new connection.

Secrets are kept here alone, never shown, and sent in AUTHENTICATE only.

Source: protocol.md, sections 6 and 11.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Final

import attrs

from tim_trio.net.client.errors import ConnectFailed
from tim_trio.protocol import messages
from tim_trio.protocol.messages import AuthMethod

#: protocol.md, section 5.
MAX_SECRET_BYTES: Final = 4096

Secret = str | bytes
#: A signed token, or a function that gives a fresh one.
TokenSource = Secret | Callable[[], Secret] | Callable[[], Awaitable[Secret]]


def checked_account(name: str) -> str:
    """Return an account's name.

    Raises:
        TypeError: no text.
        ValueError: it can be nobody's.
    """
    if not isinstance(name, str):
        raise TypeError(f"an account name is a text, not {type(name).__name__}")
    if not messages.is_account_name(name):
        raise ValueError(
            f"{name!r} is not an account name: 1 to 64 characters without spaces "
            "and without / \\ | :"
        )
    return name


def secret_bytes(secret: Secret, name: str) -> bytes:
    """Return a secret as it travels.

    Raises:
        TypeError: neither text nor bytes.
        ValueError: longer than the protocol lets it be. It is not quoted.
    """
    if not isinstance(secret, str | bytes | bytearray):
        raise TypeError(f"{name} is text or bytes, not {type(secret).__name__}")
    data = secret.encode() if isinstance(secret, str) else bytes(secret)
    if not 0 < len(data) <= MAX_SECRET_BYTES:
        raise ValueError(f"{name} must have 1 to {MAX_SECRET_BYTES} bytes")
    return data


@attrs.define(eq=False)
class Credentials:
    """Attributes:
    account: empty where the server knows it by the secret.
    session_token: the newest that the server gave; empty for none.
    """

    account: str
    device: str
    session_token: bytes = attrs.field(repr=False)
    _password: bytes = attrs.field(repr=False)
    _token: TokenSource | None = attrs.field(repr=False)

    @classmethod
    def check(
        cls,
        account: str | None,
        *,
        password: Secret | None,
        session_token: Secret | None,
        token: TokenSource | None,
        device: str,
    ) -> Credentials:
        """Return credentials made of what a caller gave.

        Raises:
            ValueError: they do not fit together, or one is malformed.
        """
        if token is not None and (password is not None or session_token is not None):
            raise ValueError("give a token, or a password and a session token")
        if account is None:
            if token is None and session_token is None:
                raise ValueError("an account must be named, unless a token or session does it")
            account = ""
        else:
            checked_account(account)
        if token is not None and not callable(token):
            token = secret_bytes(token, "a token")
        return cls(
            account=account,
            device=device,
            session_token=b"" if session_token is None else secret_bytes(session_token, "a token"),
            password=b"" if password is None else secret_bytes(password, "a password"),
            token=token,
        )

    @property
    def is_renewable(self) -> bool:
        """Whether signing in again gives more time than there was."""
        return bool(self.session_token) or callable(self._token)

    async def request(self) -> messages.Authenticate:
        """Return what signs in on the next connection.

        Raises:
            ConnectFailed: the function that gives fresh tokens did not.
        """
        if self._token is not None:
            return self._make(AuthMethod.SIGNED_TOKEN, await self._fresh_token())
        if self.session_token:
            return self._make(AuthMethod.SESSION, self.session_token)
        if self._password:
            return self._make(AuthMethod.PASSWORD, self._password)
        return self._make(AuthMethod.NAME, b"")

    async def _fresh_token(self) -> bytes:
        token = self._token
        assert token is not None
        if not callable(token):
            return secret_bytes(token, "a token")
        try:
            given = token()
            if inspect.isawaitable(given):
                given = await given
            return secret_bytes(given, "a token")
        except Exception as error:
            # Who makes tokens may be away for a while like any server. What
            # exactly went wrong is the cause; its text may hold a secret.
            raise ConnectFailed(
                f"no fresh token: its function raised {type(error).__name__}"
            ) from error

    def fall_back(self) -> bool:
        """After ``bad_credentials``: forget the session, and say whether there is a password."""
        had_session = bool(self.session_token)
        self.session_token = b""
        return had_session and bool(self._password)

    def change_password(self, password: bytes) -> None:
        """The password is another now; only who had one needs to know."""
        if self._password:
            self._password = password

    def learn(self, answer: messages.AuthenticateAnswer) -> None:
        """Keep what signs in next time, and under which name."""
        self.account = answer.account
        if answer.session_token:
            self.session_token = answer.session_token

    def _make(self, method: AuthMethod, secret: bytes) -> messages.Authenticate:
        return messages.Authenticate(
            method=method, account=self.account, secret=secret, device=self.device
        )
