"""tim_trio: a relay for live streams, on Trio.

The client library is here; a server is started by ``python -m tim_trio``::

    async with tim_trio.connect("tim://127.0.0.1:7600", account="alice") as client:
        room = await client.register_room()
        async with client.publish(room) as source:
            await source.send(b"hello")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

from tim_trio._version import __version__

if TYPE_CHECKING:
    from tim_trio.errors import (
        BadCredentials,
        ConnectionClosed,
        LocalProtocolError,
        NoSuchRoom,
        PermissionDenied,
        RateLimited,
        RoomError,
        TimError,
    )
    from tim_trio.net.client import (
        WHILE_AWAY,
        AccountStreams,
        Bounds,
        Client,
        ConnectFailed,
        Contact,
        Contacts,
        NotATimServer,
        Receipt,
        Reconnected,
        Reconnecting,
        RequestTimedOut,
        RoomClosed,
        Source,
        SourceLost,
        SourceReplaced,
        SourceRevoked,
        StreamOver,
        Subscription,
        TlsFailed,
        connect,
        open_client,
        register_account,
    )
    from tim_trio.net.client.files import (
        Arrival,
        FileCancelled,
        FileDeclined,
        FileReceiver,
        FileSent,
        FileTransfer,
        FileTransferError,
        FileUnusable,
        PeerUnreachable,
        TransferFailed,
        TransferPhase,
        TransferTimedOut,
    )
    from tim_trio.protocol.messages import (
        AccountStream,
        ContactChanged,
        ContactState,
        DeliveryStatus,
        Gap,
        GoAway,
        PushAsked,
        PushGranted,
        SourceJoined,
        SourceLeft,
    )
    from tim_trio.protocol.stream import StreamFrame

__all__ = [
    "WHILE_AWAY",
    "AccountStream",
    "AccountStreams",
    "Arrival",
    "BadCredentials",
    "Bounds",
    "Client",
    "ConnectFailed",
    "ConnectionClosed",
    "Contact",
    "ContactChanged",
    "ContactState",
    "Contacts",
    "DeliveryStatus",
    "FileCancelled",
    "FileDeclined",
    "FileReceiver",
    "FileSent",
    "FileTransfer",
    "FileTransferError",
    "FileUnusable",
    "Gap",
    "GoAway",
    "LocalProtocolError",
    "NoSuchRoom",
    "NotATimServer",
    "PeerUnreachable",
    "PermissionDenied",
    "PushAsked",
    "PushGranted",
    "RateLimited",
    "Receipt",
    "Reconnected",
    "Reconnecting",
    "RequestTimedOut",
    "RoomClosed",
    "RoomError",
    "Source",
    "SourceJoined",
    "SourceLeft",
    "SourceLost",
    "SourceReplaced",
    "SourceRevoked",
    "StreamFrame",
    "StreamOver",
    "Subscription",
    "TimError",
    "TlsFailed",
    "TransferFailed",
    "TransferPhase",
    "TransferTimedOut",
    "__version__",
    "connect",
    "open_client",
    "register_account",
]

# Looked up on first use: importing the protocol core must not import Trio,
# nor a server the client.
_MODULES: Final = (
    "tim_trio.net.client",
    "tim_trio.net.client.files",
    "tim_trio.errors",
    "tim_trio.protocol.messages",
    "tim_trio.protocol.stream",
)


def __getattr__(name: str) -> object:
    if name in __all__:
        for module_name in _MODULES:
            module = import_module(module_name)
            if hasattr(module, name):
                value: object = getattr(module, name)
                globals()[name] = value
                return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
