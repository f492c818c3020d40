"""What iterators yield beside frames: the server's events, and the client's own.

Source: protocol.md, sections 6 and 13; docs/client.md.
"""

from __future__ import annotations

from typing import Final

import attrs

from tim_trio.errors import ConnectionClosed
from tim_trio.protocol import messages
from tim_trio.protocol.stream import StreamFrame

#: `Gap.reason` and `SourceLeft.reason` for what happened while the connection
#: was away. Not a byte, so that no server can mean something else by it.
WHILE_AWAY: Final = 256


@attrs.frozen
class Reconnecting:
    """The connection is lost; the client is looking for another.

    Attributes:
        error: why it was lost.
    """

    error: ConnectionClosed = attrs.field(eq=False)


@attrs.frozen(kw_only=True)
class Reconnected:
    """The connection is back, and this subscription with it.

    What did not come meanwhile follows as Gap, SourceLeft and SourceJoined.

    Attributes:
        after_s: how long it was away.
        attempts: how many connections were tried.
        sources: as the server lists them now; empty among account events.
    """

    after_s: float = attrs.field(eq=False)
    attempts: int = attrs.field(eq=False)
    sources: tuple[messages.SourceInfo, ...] = ()


Notice = messages.Gap | messages.SourceJoined | messages.SourceLeft | Reconnecting | Reconnected
Item = StreamFrame | Notice
AccountEvent = (
    messages.PushAsked
    | messages.PushGranted
    | messages.ContactChanged
    | messages.GoAway
    | Reconnecting
    | Reconnected
)
