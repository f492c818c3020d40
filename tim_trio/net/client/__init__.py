"""The client library. `connect` is where to begin."""

from tim_trio.net.client.client import AccountEvent, Client, connect, open_client
from tim_trio.net.client.connection import Bounds
from tim_trio.net.client.errors import (
    ConnectFailed,
    NotATimServer,
    RequestTimedOut,
    RoomClosed,
    SourceReplaced,
    SourceRevoked,
    StreamOver,
)
from tim_trio.net.client.source import Source
from tim_trio.net.client.subscription import Item, Subscription

__all__ = [
    "AccountEvent",
    "Bounds",
    "Client",
    "ConnectFailed",
    "Item",
    "NotATimServer",
    "RequestTimedOut",
    "RoomClosed",
    "Source",
    "SourceReplaced",
    "SourceRevoked",
    "StreamOver",
    "Subscription",
    "connect",
    "open_client",
]
