"""What can go wrong for a client beyond `tim_trio.errors`.

::

    TimError
    ├── ConnectFailed          no connection could be made
    │   ├── NotATimServer      someone answered, in another language
    │   └── TlsFailed          no TLS there, or not to be trusted
    ├── RequestTimedOut        the server did not answer one request
    └── StreamOver             a source or a subscription has ended
        ├── RoomClosed         the room is gone: reason and text
        ├── SourceRevoked      the right to push was taken away
        ├── SourceReplaced     another connection took the source over
        └── SourceLost         the connection came back too late for it
"""

from __future__ import annotations

from typing import Final

from tim_trio.errors import TimError
from tim_trio.protocol.messages import RevokedReason, RoomClosedReason

_WHY_CLOSED: Final[dict[int, str]] = {
    RoomClosedReason.REMOVED: "its creator removed it",
    RoomClosedReason.IDLE: "no data came for too long",
    RoomClosedReason.BANNED: "an operator banned it",
    RoomClosedReason.PATH_LOST: "the way to its node was lost",
}
_WHY_REVOKED: Final[dict[int, str]] = {
    RevokedReason.REVOKED: "its creator took the right to push away",
    RevokedReason.BANNED: "an operator banned the account",
    RevokedReason.EXPIRED: "the account's time is over",
}


class ConnectFailed(TimError):
    """Nobody answered, or not in time. Trying again later may help."""


class NotATimServer(ConnectFailed):
    """Whoever listens there does not speak this protocol."""


class TlsFailed(ConnectFailed):
    """No TLS with this server: it has none, or its certificate does not prove who it is."""


class RequestTimedOut(TimError):
    """The server did not answer one request in time; it may still carry it out.

    The connection goes on. What comes too late is undone where that is
    possible: a late subscription or source is ended at once.
    """


class StreamOver(TimError):
    """A source or a subscription has ended; its connection goes on."""


class RoomClosed(StreamOver):
    """The room is gone. ``reason`` is a number of `RoomClosedReason`, or one we do not know."""

    def __init__(self, room: str, reason: int, text: str = "") -> None:
        self.room = room
        self.reason = reason
        self.text = text
        why = _WHY_CLOSED.get(reason, text)
        if reason == RoomClosedReason.BANNED and text:
            # With the operator's own words.
            why = "".join(each if each.isprintable() else "?" for each in text)
        super().__init__(f"room {room} has ended" + (f": {why}" if why else ""))


class SourceRevoked(StreamOver):
    """The room no longer takes this source. ``reason`` is a number of `RevokedReason`."""

    def __init__(self, room: str, reason: int) -> None:
        self.room = room
        self.reason = reason
        why = _WHY_REVOKED.get(reason, f"reason {reason}")
        super().__init__(f"pushing to room {room} was ended: {why}")


class SourceReplaced(StreamOver):
    """Another connection published with the same token and goes on with the source."""

    def __init__(self, room: str) -> None:
        self.room = room
        super().__init__(f"another connection took over this source of room {room}")


class SourceLost(StreamOver):
    """The server had ended this source of a reliable room before the connection was back.

    Its subscribers saw it leave; a new source would begin in the middle.
    """

    def __init__(self, room: str) -> None:
        self.room = room
        super().__init__(f"the connection came back too late for this source of room {room}")
