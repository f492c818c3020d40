"""Who a TIM client is: by password, by a token of ours, by a signed token; and registration.

TIM gives a token for name and password, to be used once instead of them.

Source: docs/tim.md.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final

import attrs
import trio

from tim_trio.core.accounts import Authenticator
from tim_trio.errors import Code, RoomError, room_error
from tim_trio.protocol.messages import (
    Authenticate,
    AuthMethod,
    AuthMode,
    RegisterAccount,
    is_account_name,
)
from tim_trio.protocol.tim import packets
from tim_trio.protocol.tim.packets import Body
from tim_trio.protocol.tim.structs import (
    ErrorCode,
    PacketType,
    TimAck,
    TimAuth,
    TimError,
    TimFormatError,
)

_TOKEN_BYTES: Final = 24
_TOKEN_LIFE_S: Final = 300.0
#: Beyond, the oldest are forgotten.
_MAX_TOKENS: Final = 10_000
#: What AUTHENTICATE takes (protocol.md, section 5).
_MAX_SECRET_BYTES: Final = 4096
_MAX_DEVICE_BYTES: Final = 1024

_CODES: Final = {
    Code.BAD_REQUEST: ErrorCode.PARAMETER,
    Code.NOT_SUPPORTED: ErrorCode.INTERFACE,
    Code.NOT_AUTHENTICATED: ErrorCode.NOT_PASSED,
    Code.BAD_CREDENTIALS: ErrorCode.NOT_PASSED,
    Code.NO_SUCH_ROOM: ErrorCode.DOES_NOT_EXIST,
    Code.PERMISSION_DENIED: ErrorCode.PERMISSION,
    Code.NO_SUCH_ACCOUNT: ErrorCode.ACCOUNT,
    Code.ACCOUNT_EXISTS: ErrorCode.EXISTS,
    Code.WEAK_PASSWORD: ErrorCode.PARAMETER,
    Code.REGISTRATION_CLOSED: ErrorCode.PERMISSION,
    Code.RATE_LIMITED: ErrorCode.RATE,
    Code.UNAVAILABLE: ErrorCode.BUSY,
    Code.DIRECTORY_UNAVAILABLE: ErrorCode.BUSY,
    Code.PATH_LOST: ErrorCode.BUSY,
    Code.TOO_MANY_ROOMS: ErrorCode.OVERLOAD,
    Code.TOO_MANY_SUBSCRIPTIONS: ErrorCode.OVERLOAD,
    Code.TOO_MANY_SOURCES: ErrorCode.OVERLOAD,
    Code.TOO_MANY_GRANTS: ErrorCode.OVERLOAD,
    Code.ALREADY_SUBSCRIBED: ErrorCode.REPEATED,
}


def tim_error(error: RoomError) -> TimError:
    """Return TIM's code for one of ours, with our text."""
    code = _CODES.get(Code(error.code), ErrorCode.UNDEFINED)
    return TimError(code=code, info=error.text)


@attrs.frozen
class _Issued:
    request: Authenticate
    expires_at: float


@attrs.define(eq=False)
class OneTimeTokens:
    """Tokens given out and not used yet. In memory: a server that restarts knows none."""

    _issued: dict[str, _Issued] = attrs.field(factory=dict, repr=False)

    def issue(self, request: Authenticate, now: float) -> str:
        """Return a token that will sign in once as ``request`` would."""
        while self._issued:
            oldest = next(iter(self._issued))
            if self._issued[oldest].expires_at > now and len(self._issued) < _MAX_TOKENS:
                break
            del self._issued[oldest]
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        self._issued[token] = _Issued(request, now + _TOKEN_LIFE_S)
        return token

    def redeem(self, token: str, name: str, now: float) -> Authenticate:
        """Return what a token stands for, and forget it.

        Raises:
            RoomError: ``bad_credentials``: unknown, used, too old, or another's.
        """
        issued = self._issued.pop(token, None)
        if issued is None or issued.expires_at <= now or name not in ("", issued.request.account):
            raise room_error(Code.BAD_CREDENTIALS, "the token is unknown, used or too old")
        return issued.request


@attrs.define(eq=False)
class Credentials:
    """Turns TimAuth into what an authenticator is asked."""

    authenticator: Authenticator
    tokens: OneTimeTokens = attrs.Factory(OneTimeTokens)

    def to_authenticate(self, auth: TimAuth) -> Authenticate:
        """Return the request that an AUTH packet stands for.

        Raises:
            RoomError: ``bad_credentials``, ``bad_request``.
        """
        if auth.token and self.authenticator.mode is not AuthMode.TOKEN:
            return self.tokens.redeem(auth.token, auth.name, trio.current_time())
        device = auth.resource if len(auth.resource.encode()) <= _MAX_DEVICE_BYTES else ""
        match self.authenticator.mode:
            case AuthMode.OPEN:
                method, secret = AuthMethod.NAME, b""
            case AuthMode.ACCOUNTS:
                method, secret = AuthMethod.PASSWORD, auth.pwd.encode()
            case AuthMode.TOKEN:
                method, secret = AuthMethod.SIGNED_TOKEN, (auth.token or auth.pwd).encode()
        if len(secret) > _MAX_SECRET_BYTES:
            raise room_error(Code.BAD_REQUEST, "too long")
        if not is_account_name(auth.name) and (auth.name or method is not AuthMethod.SIGNED_TOKEN):
            raise room_error(Code.BAD_REQUEST, "not an account name")
        return Authenticate(method=method, account=auth.name, secret=secret, device=device)

    async def serve_packet(
        self,
        message: bytes,
        address: str,
        count_limit: Callable[[str], None] = lambda _limit: None,
    ) -> bytes:
        """Answer a packet that came without a connection: TOKEN or REGISTER, or an error.

        Args:
            count_limit: called with the limit that was reached, if one was.
        """
        form = packets.format_of(message)
        kind = packets.type_of(message)
        try:
            packet = packets.decode(message)
        except TimFormatError:
            wrong = TimError(code=ErrorCode.FORMAT, info="cannot be read")
            ack = TimAck(ok=False, tim_type=kind, error=wrong)
        else:
            match packet:
                case Body(
                    type=PacketType.TOKEN | PacketType.REGISTER as served, value=TimAuth() as auth
                ):
                    try:
                        ack = await self.serve(served, auth, address=address)
                    except RoomError as error:
                        if error.limit:
                            count_limit(error.limit)
                        ack = TimAck(ok=False, tim_type=kind, error=tim_error(error))
                case _:
                    other = TimError(code=ErrorCode.INTERFACE, info="a WebSocket is for that")
                    ack = TimAck(ok=False, tim_type=kind, error=other)
        return packets.encode_body(PacketType.ACK, ack, form)

    async def serve(self, kind: PacketType, auth: TimAuth, *, address: str) -> TimAck:
        """Answer a TOKEN or a REGISTER packet, with or without a connection.

        Raises:
            RoomError: what the answer is then to say.
        """
        if kind is PacketType.TOKEN:
            name = await self._issue(auth, address)
        else:
            name = await self._register(auth, address)
        return TimAck(ok=True, tim_type=kind, n=name)

    async def _issue(self, auth: TimAuth, address: str) -> str:
        if self.authenticator.mode is AuthMode.TOKEN or auth.token:
            raise room_error(Code.NOT_SUPPORTED, "tokens come from elsewhere here")
        request = self.to_authenticate(auth)
        identity = await self.authenticator.authenticate(
            request, address=address, is_loopback=False
        )
        if identity.session_token:
            request = Authenticate(
                method=AuthMethod.SESSION,
                account=identity.account,
                secret=identity.session_token,
                device=request.device,
            )
        return self.tokens.issue(request, trio.current_time())

    async def _register(self, auth: TimAuth, address: str) -> str:
        password = auth.pwd.encode()
        if not is_account_name(auth.name) or len(password) > _MAX_SECRET_BYTES:
            raise room_error(Code.BAD_REQUEST, "not an account name, or too long a password")
        request = RegisterAccount(account=auth.name, password=password, invitation=b"")
        await self.authenticator.register(request, address=address)
        return auth.name
