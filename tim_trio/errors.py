"""The whole error tree, and the codes that travel in CLOSE and ERROR frames.

::

    TimError
    ├── ProtocolError
    │   ├── LocalProtocolError    our caller's fault; nothing was sent
    │   └── RemoteProtocolError   the peer's fault; carries a close code
    ├── RoomError                 an ERROR answer; the connection lives
    │   ├── BadRequest, NotSupported, NotAuthenticated, BadCredentials, RateLimited, …
    │   └── NoSuchRoom, PermissionDenied, CreatorAbsent, …
    ├── ConnectionClosed          code, reason, worth a retry?
    └── ClusterError

Source: protocol.md, section 14.
"""

from __future__ import annotations

import enum


class Code(enum.IntEnum):
    """A CLOSE or ERROR code. The range says whether coming back may help."""

    BYE = 1000
    SHUTTING_DOWN = 1001
    IDLE_TIMEOUT = 1002
    OVERLOADED = 1003
    INTERNAL_ERROR = 1004
    SLOW_CONSUMER = 1005
    HANDSHAKE_TIMEOUT = 1006
    TOO_MANY_CONNECTIONS = 1007

    PROTOCOL_ERROR = 1100
    UNSUPPORTED_VERSION = 1101
    FRAME_TOO_LARGE = 1102
    BAD_SEQUENCE = 1103
    FOREIGN_SOURCE = 1104
    FLOODING = 1105
    EXPIRED = 1106
    DISABLED = 1107
    BANNED = 1108
    SIGNED_OUT = 1109
    AUTHENTICATION_FAILED = 1110
    CREDIT_EXCEEDED = 1111

    UNAVAILABLE = 2000
    RATE_LIMITED = 2001
    DIRECTORY_UNAVAILABLE = 2002
    PATH_LOST = 2003
    CREATOR_ABSENT = 2004

    BAD_REQUEST = 2100
    NOT_SUPPORTED = 2101
    NOT_AUTHENTICATED = 2102
    BAD_CREDENTIALS = 2103
    NO_SUCH_ROOM = 2104
    PERMISSION_DENIED = 2105
    TOO_MANY_ROOMS = 2106
    TOO_MANY_SUBSCRIPTIONS = 2107
    TOO_MANY_SOURCES = 2108
    TOO_MANY_GRANTS = 2109
    ALREADY_SUBSCRIBED = 2110
    NOT_SUBSCRIBED = 2111
    NO_SUCH_SOURCE = 2112
    TOKEN_IN_USE = 2113
    ALREADY_GRANTED = 2114
    ACCOUNT_EXISTS = 2115
    WEAK_PASSWORD = 2116
    REGISTRATION_CLOSED = 2117
    NO_SUCH_ACCOUNT = 2118
    TOO_MANY_CONTACTS = 2119

    @property
    def label(self) -> str:
        """The code's name as protocol.md and the logs write it."""
        return self.name.lower()


def is_retryable(code: int) -> bool:
    """Say whether trying again may help; works for codes we do not know, by range."""
    return 1000 <= code <= 1099 or 2000 <= code <= 2099


class TimError(Exception):
    """Base of everything this package raises on purpose."""


class ProtocolError(TimError):
    """Somebody broke the protocol: see the two kinds."""


class LocalProtocolError(ProtocolError):
    """Our caller asked for something the protocol forbids. Nothing was sent."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something the protocol forbids. Its connection must end.

    ``code`` is the CLOSE code that says so; the message is for our log only
    and never reaches the peer. ``limit`` is the configuration key of the bound
    that was passed, for our counters.
    """

    def __init__(self, message: str, code: Code = Code.PROTOCOL_ERROR, *, limit: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.limit = limit


class RoomError(TimError):
    """A request was refused; the connection goes on.

    ``code`` is a :class:`Code` where we know it, else the bare number.
    ``retry_after_ms`` is the server's advice, 0 for none. ``limit`` is the
    configuration key of the bound that was reached; it stays in the server.
    """

    def __init__(
        self, code: int, text: str = "", *, retry_after_ms: int = 0, limit: str = ""
    ) -> None:
        self.code = code
        self.limit = limit
        self.text = text or code_label(code).replace("_", " ")
        self.retry_after_ms = retry_after_ms
        super().__init__(self.text)

    @property
    def retryable(self) -> bool:
        return is_retryable(self.code)


class BadRequest(RoomError):
    """The request's fields were malformed."""


class NotSupported(RoomError):
    """The server does not know or does not serve this request."""


class NotAuthenticated(RoomError):
    """AUTHENTICATE has to come first."""


class BadCredentials(RoomError):
    """No such account, or the password, session or token is not its."""


class RateLimited(RoomError):
    """Too many requests; wait ``retry_after_ms``."""


class NoSuchRoom(RoomError):
    """The room never existed, or has ended."""


class PermissionDenied(RoomError):
    """The account may not do this."""


class CreatorAbsent(RoomError):
    """Nobody who could answer is connected."""


_KINDS: dict[int, type[RoomError]] = {
    Code.BAD_REQUEST: BadRequest,
    Code.NOT_SUPPORTED: NotSupported,
    Code.NOT_AUTHENTICATED: NotAuthenticated,
    Code.BAD_CREDENTIALS: BadCredentials,
    Code.RATE_LIMITED: RateLimited,
    Code.NO_SUCH_ROOM: NoSuchRoom,
    Code.PERMISSION_DENIED: PermissionDenied,
    Code.CREATOR_ABSENT: CreatorAbsent,
}


def room_error(code: int, text: str = "", *, retry_after_ms: int = 0, limit: str = "") -> RoomError:
    """Return the RoomError of the kind that belongs to ``code``."""
    kind = _KINDS.get(code, RoomError)
    return kind(code, text, retry_after_ms=retry_after_ms, limit=limit)


def code_label(code: int) -> str:
    """Return the code's name, or ``code 1234`` where we do not know it."""
    try:
        return Code(code).label
    except ValueError:
        return f"code {code}"


class ConnectionClosed(TimError):
    """The connection is over.

    ``code`` is what the CLOSE frame said, None when the connection was lost
    without one. ``retryable`` says whether connecting again may help.
    """

    def __init__(self, code: int | None = None, text: str = "", *, retry_after_ms: int = 0) -> None:
        self.code = code
        self.text = text
        self.retry_after_ms = retry_after_ms
        label = "connection lost" if code is None else f"closed: {code_label(code)}"
        super().__init__(f"{label} ({text})" if text else label)

    @property
    def retryable(self) -> bool:
        return self.code is None or is_retryable(self.code)


class ClusterError(TimError):
    """Nodes could not agree, or could not be reached."""
