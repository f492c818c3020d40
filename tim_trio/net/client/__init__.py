"""The client library. `connect` is where to begin."""

from tim_trio.net.client.account_streams import AccountStreams, Receipt
from tim_trio.net.client.client import Client
from tim_trio.net.client.connection import Bounds
from tim_trio.net.client.contacts import Contact, Contacts
from tim_trio.net.client.errors import (
    ConnectFailed,
    NotATimServer,
    RequestTimedOut,
    RoomClosed,
    SourceLost,
    SourceReplaced,
    SourceRevoked,
    StreamOver,
    TlsFailed,
)
from tim_trio.net.client.figures import Figures, NodeView, RoomsView
from tim_trio.net.client.notices import (
    WHILE_AWAY,
    AccountEvent,
    Item,
    Reconnected,
    Reconnecting,
)
from tim_trio.net.client.opening import connect, open_client, register_account
from tim_trio.net.client.source import Source
from tim_trio.net.client.subscription import Subscription

__all__ = [
    "WHILE_AWAY",
    "AccountEvent",
    "AccountStreams",
    "Bounds",
    "Client",
    "ConnectFailed",
    "Contact",
    "Contacts",
    "Figures",
    "Item",
    "NodeView",
    "NotATimServer",
    "Receipt",
    "Reconnected",
    "Reconnecting",
    "RequestTimedOut",
    "RoomClosed",
    "RoomsView",
    "Source",
    "SourceLost",
    "SourceReplaced",
    "SourceRevoked",
    "StreamOver",
    "Subscription",
    "TlsFailed",
    "connect",
    "open_client",
    "register_account",
]
