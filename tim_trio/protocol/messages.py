"""Every control frame with its fields, in the order of the wire.

`encode` and `decode` are the only functions; the classes are the layout.
A name ending in ``Answer`` is what its request is answered with.

Source: protocol.md, sections 5 and 13.
"""

from __future__ import annotations

import enum
import unicodedata
from collections.abc import Callable
from typing import Any, Final, TypeVar

import attrs

from tim_trio.errors import Code, LocalProtocolError, is_retryable
from tim_trio.protocol.layout import (
    ANSWER_BIT,
    CONTROL_HEADER,
    CONTROL_HEADER_BYTES,
    LENGTH_BYTES,
)
from tim_trio.protocol.wire import (
    U8,
    U16,
    U32,
    U64,
    Blob,
    Field,
    Reader,
    Room,
    Secret,
    Text,
    Token,
    UnreadableFields,
    record_codec,
)

C = TypeVar("C", bound=type)

__all__ = ["UnreadableFields"]


class Capability(enum.IntFlag):
    RELIABLE = 0x01
    ACCOUNTS = 0x02
    ACCOUNT_STREAMS = 0x04
    LINKS = 0x08
    OPERATOR = 0x10


class Right(enum.IntFlag):
    OPERATOR = 0x01
    REGISTER_ROOMS = 0x02


class TrackState(enum.IntFlag):
    ENDED = 0x01
    KEYED = 0x02
    INIT = 0x04
    CACHED_GROUP = 0x08


class AuthMode(enum.IntEnum):
    OPEN = 0
    ACCOUNTS = 1
    TOKEN = 2


class AuthMethod(enum.IntEnum):
    NAME = 0
    PASSWORD = 1
    SESSION = 2
    SIGNED_TOKEN = 3
    NODE = 4


class RoomMode(enum.IntEnum):
    LIVE = 0
    RELIABLE = 1


class StartFrom(enum.IntEnum):
    GROUP = 0
    LIVE = 1


class ListScope(enum.IntEnum):
    MINE = 0
    ALL = 1


class BanKind(enum.IntEnum):
    ROOM = 0
    ACCOUNT = 1


class ContactAction(enum.IntEnum):
    ASK = 0
    ACCEPT = 1
    DECLINE = 2
    REMOVE = 3
    BLOCK = 4
    UNBLOCK = 5


class Policy(enum.IntEnum):
    ANYONE = 0
    CONTACTS = 1


class ContactState(enum.IntEnum):
    """What an account sees of another."""

    NONE = 0
    ASKED_BY_ME = 1
    ASKED_BY_THEM = 2
    CONTACT = 3
    BLOCKED_BY_ME = 4


class DeliveryStatus(enum.IntEnum):
    """What became of an ACCOUNT_SEND for one of its receivers."""

    DELIVERED = 0
    OFFLINE = 1
    REFUSED = 2
    UNKNOWN = 3
    BUSY = 4


#: Of an entry of LIST_ROOMS, where nobody could say.
UNKNOWN_VIEWERS: Final = 0xFFFF_FFFF
UNKNOWN_SOURCES: Final = 0xFFFF


class LinkOutcome(enum.IntEnum):
    ACCEPTED = 0
    REDIRECTED = 1


# What servers tell clients stays a plain number on the wire, so that a client
# can take a value it does not know as "other"; these name the known ones.
class RoomClosedReason(enum.IntEnum):
    REMOVED = 1
    IDLE = 2
    BANNED = 3
    PATH_LOST = 4


class SourceLeftReason(enum.IntEnum):
    UNPUBLISHED = 1
    CONNECTION_LOST = 2
    REVOKED = 3


class GapReason(enum.IntEnum):
    LAGGED = 1
    SKIPPED = 2
    LOST_BETWEEN_NODES = 3


class RevokedReason(enum.IntEnum):
    REVOKED = 1
    BANNED = 2
    EXPIRED = 3


class GoAwayReason(enum.IntEnum):
    STOPPING = 1
    MOVING = 2


class SubscriberState(enum.IntFlag):
    """What is the matter with a subscriber."""

    LAGGING = 0x01
    WAITS_FOR_KEY = 0x02
    HOLDS_UP = 0x04
    NODE = 0x08


class NodeState(enum.IntFlag):
    DRAINING = 0x01
    LINKED = 0x02


class Role(enum.IntEnum):
    CREATOR = 0
    GRANTED = 1
    OPERATOR = 2


@attrs.frozen(kw_only=True)
class TrackInfo:
    track: U8
    state: U8
    last_seq: U64

    @property
    def ended(self) -> bool:
        return bool(self.state & TrackState.ENDED)


@attrs.frozen(kw_only=True)
class SourceInfo:
    source: U32
    account: Text
    left: bool
    tracks: list[TrackInfo]


@attrs.frozen(kw_only=True)
class RoomInfo:
    room: Room
    mode: RoomMode
    gather_ms: U16
    idle_timeout_s: U32
    creator: Text
    age_ms: U64
    viewers: U32
    frames: U64
    bytes: U64
    sources: list[SourceInfo]
    granted: list[Text]


@attrs.frozen(kw_only=True)
class RoomEntry:
    room: Room
    mode: RoomMode
    creator: Text
    role: U8
    viewers: U32
    sources: U16


@attrs.frozen(kw_only=True)
class Delivery:
    account: Text
    status: U8
    devices: U16


@attrs.frozen(kw_only=True)
class ContactEntry:
    account: Text
    state: U8


@attrs.frozen(kw_only=True)
class Figure:
    """One of a node's numbers: what it has now, or has done since its start."""

    name: Text
    value: U64


@attrs.frozen(kw_only=True)
class NodeEntry:
    node: Text
    address: Text
    state: U8


@attrs.frozen(kw_only=True)
class RoomLoad:
    room: Room
    mode: RoomMode
    creator: Text
    viewers: U32
    sources: U16
    frames: U64
    bytes: U64
    lagging: U32
    gaps: U64
    lost: U64
    nodes: list[Text]


@attrs.frozen(kw_only=True)
class SubscriberLoad:
    number: U64
    account: Text
    state: U8
    age_ms: U64
    frames: U64
    bytes: U64
    pending_bytes: U64
    pending_ms: U32
    gaps: U64
    lost: U64


_types: dict[type, tuple[int, Field[Any]]] = {}
_classes: dict[int, tuple[type, Field[Any]]] = {}


def _frame_type(number: int) -> Callable[[C], C]:
    def register(message: C) -> C:
        codec: Field[Any] = record_codec(message)
        _types[message] = (number, codec)
        _classes[number] = (message, codec)
        return message

    return register


_ANSWER: Final = ANSWER_BIT


@_frame_type(0x01)
@attrs.frozen(kw_only=True)
class Hello:
    magic: U32
    min_version: U8
    max_version: U8
    capabilities: U32
    agent: Text


@_frame_type(0x01 + _ANSWER)
@attrs.frozen(kw_only=True)
class Welcome:
    version: U8
    capabilities: U32
    agent: Text
    node: Text
    auth_mode: AuthMode
    max_frame_bytes: U32
    max_init_bytes: U32
    backlog_bytes: U32
    backlog_age_ms: U32
    stall_timeout_ms: U32
    ping_interval_ms: U32
    max_subscriptions: U16


@_frame_type(0x02)
@attrs.frozen(kw_only=True)
class Authenticate:
    method: AuthMethod
    account: Text
    secret: Secret = attrs.field(repr=False)
    device: Text


@_frame_type(0x02 + _ANSWER)
@attrs.frozen(kw_only=True)
class AuthenticateAnswer:
    account: Text
    rights: U8
    session_token: Secret = attrs.field(repr=False)
    expires_ms: U64


@_frame_type(0x03)
@attrs.frozen(kw_only=True)
class Ping:
    stamp: U64


@_frame_type(0x03 + _ANSWER)
@attrs.frozen(kw_only=True)
class Pong:
    stamp: U64


@_frame_type(0x04)
@attrs.frozen(kw_only=True)
class Close:
    code: U16
    retry: bool
    retry_after_ms: U32
    text: Text


@_frame_type(0x10)
@attrs.frozen(kw_only=True)
class RegisterRoom:
    mode: RoomMode
    gather_ms: U16
    idle_timeout_s: U32


@_frame_type(0x10 + _ANSWER)
@attrs.frozen(kw_only=True)
class RegisterRoomAnswer:
    room: Room


@_frame_type(0x11)
@attrs.frozen(kw_only=True)
class RemoveRoom:
    room: Room


@_frame_type(0x11 + _ANSWER)
@attrs.frozen(kw_only=True)
class RemoveRoomAnswer:
    pass


@_frame_type(0x12)
@attrs.frozen(kw_only=True)
class Grant:
    room: Room
    account: Text


@_frame_type(0x12 + _ANSWER)
@attrs.frozen(kw_only=True)
class GrantAnswer:
    pass


@_frame_type(0x13)
@attrs.frozen(kw_only=True)
class Revoke:
    room: Room
    account: Text


@_frame_type(0x13 + _ANSWER)
@attrs.frozen(kw_only=True)
class RevokeAnswer:
    pass


@_frame_type(0x14)
@attrs.frozen(kw_only=True)
class Subscribe:
    room: Room
    start: StartFrom
    credit: U64


@_frame_type(0x14 + _ANSWER)
@attrs.frozen(kw_only=True)
class SubscribeAnswer:
    room: Room
    mode: RoomMode
    gather_ms: U16
    sources: list[SourceInfo]
    path: list[Text]


@_frame_type(0x15)
@attrs.frozen(kw_only=True)
class Unsubscribe:
    room: Room


@_frame_type(0x15 + _ANSWER)
@attrs.frozen(kw_only=True)
class UnsubscribeAnswer:
    pass


@_frame_type(0x16)
@attrs.frozen(kw_only=True)
class Publish:
    room: Room
    token: Token = attrs.field(repr=False)


@_frame_type(0x16 + _ANSWER)
@attrs.frozen(kw_only=True)
class PublishAnswer:
    room: Room
    source: U32
    mode: RoomMode
    received: U64
    credit: U64
    tracks: list[TrackInfo]


@_frame_type(0x17)
@attrs.frozen(kw_only=True)
class Unpublish:
    room: Room
    source: U32


@_frame_type(0x17 + _ANSWER)
@attrs.frozen(kw_only=True)
class UnpublishAnswer:
    forwarded: U64
    discarded: U64


@_frame_type(0x18)
@attrs.frozen(kw_only=True)
class GetRoomInfo:
    room: Room


@_frame_type(0x18 + _ANSWER)
@attrs.frozen(kw_only=True)
class RoomInfoAnswer:
    info: RoomInfo


@_frame_type(0x19)
@attrs.frozen(kw_only=True)
class ListRooms:
    scope: ListScope
    after: U64
    limit: U16


@_frame_type(0x19 + _ANSWER)
@attrs.frozen(kw_only=True)
class ListRoomsAnswer:
    more: bool
    rooms: list[RoomEntry]


@_frame_type(0x1A)
@attrs.frozen(kw_only=True)
class AskToPush:
    room: Room
    message: Text


@_frame_type(0x1A + _ANSWER)
@attrs.frozen(kw_only=True)
class AskToPushAnswer:
    told: U16


@_frame_type(0x1B)
@attrs.frozen(kw_only=True)
class Credit:
    room: Room
    source: U32
    limit: U64


@_frame_type(0x1C)
@attrs.frozen(kw_only=True)
class Ban:
    kind: BanKind
    room: U64
    account: Text
    reason: Text


@_frame_type(0x1C + _ANSWER)
@attrs.frozen(kw_only=True)
class BanAnswer:
    pass


@_frame_type(0x1D)
@attrs.frozen(kw_only=True)
class NodeFigures:
    node: Text


@_frame_type(0x1D + _ANSWER)
@attrs.frozen(kw_only=True)
class NodeFiguresAnswer:
    node: Text
    uptime_ms: U64
    figures: list[Figure]
    nodes: list[NodeEntry]


@_frame_type(0x1E)
@attrs.frozen(kw_only=True)
class RoomFigures:
    node: Text
    after: U64
    limit: U16


@_frame_type(0x1E + _ANSWER)
@attrs.frozen(kw_only=True)
class RoomFiguresAnswer:
    node: Text
    uptime_ms: U64
    more: bool
    rooms: list[RoomLoad]


@_frame_type(0x1F)
@attrs.frozen(kw_only=True)
class SubscriberFigures:
    node: Text
    room: Room
    limit: U16


@_frame_type(0x1F + _ANSWER)
@attrs.frozen(kw_only=True)
class SubscriberFiguresAnswer:
    node: Text
    uptime_ms: U64
    total: U32
    behind: U32
    subscribers: list[SubscriberLoad]


@_frame_type(0x20)
@attrs.frozen(kw_only=True)
class AccountSend:
    receivers: list[Text]
    kind: U16
    payload: Blob


@_frame_type(0x20 + _ANSWER)
@attrs.frozen(kw_only=True)
class AccountSendAnswer:
    deliveries: list[Delivery]


@_frame_type(0x21)
@attrs.frozen(kw_only=True)
class Contact:
    action: ContactAction
    account: Text


@_frame_type(0x21 + _ANSWER)
@attrs.frozen(kw_only=True)
class ContactAnswer:
    state: U8


@_frame_type(0x22)
@attrs.frozen(kw_only=True)
class ListContacts:
    after: Text
    limit: U16


@_frame_type(0x22 + _ANSWER)
@attrs.frozen(kw_only=True)
class ListContactsAnswer:
    more: bool
    contacts: list[ContactEntry]


@_frame_type(0x23)
@attrs.frozen(kw_only=True)
class SetPolicy:
    policy: Policy


@_frame_type(0x23 + _ANSWER)
@attrs.frozen(kw_only=True)
class SetPolicyAnswer:
    pass


@_frame_type(0x24)
@attrs.frozen(kw_only=True)
class RegisterAccount:
    account: Text
    password: Secret = attrs.field(repr=False)
    invitation: Secret = attrs.field(repr=False)


@_frame_type(0x24 + _ANSWER)
@attrs.frozen(kw_only=True)
class RegisterAccountAnswer:
    account: Text


@_frame_type(0x25)
@attrs.frozen(kw_only=True)
class ChangePassword:
    old: Secret = attrs.field(repr=False)
    new: Secret = attrs.field(repr=False)


@_frame_type(0x25 + _ANSWER)
@attrs.frozen(kw_only=True)
class ChangePasswordAnswer:
    pass


@_frame_type(0x26)
@attrs.frozen(kw_only=True)
class GetPolicy:
    pass


@_frame_type(0x26 + _ANSWER)
@attrs.frozen(kw_only=True)
class GetPolicyAnswer:
    policy: U8


@_frame_type(0x30)
@attrs.frozen(kw_only=True)
class Link:
    node: Text
    incarnation: U64


@_frame_type(0x30 + _ANSWER)
@attrs.frozen(kw_only=True)
class LinkAnswer:
    node: Text
    incarnation: U64


@_frame_type(0x31)
@attrs.frozen(kw_only=True)
class LinkSubscribe:
    room: Room
    credit: U64
    path: list[Text]


@_frame_type(0x31 + _ANSWER)
@attrs.frozen(kw_only=True)
class LinkSubscribeAnswer:
    outcome: LinkOutcome
    address: Text
    mode: RoomMode
    sources: list[SourceInfo]
    path: list[Text]


@_frame_type(0x32)
@attrs.frozen(kw_only=True)
class LinkPath:
    room: Room
    path: list[Text]


@_frame_type(0x33)
@attrs.frozen(kw_only=True)
class LinkViewers:
    room: Room
    viewers: U32


@_frame_type(0x34)
@attrs.frozen(kw_only=True)
class Forward:
    account: Text
    frame: Blob
    rights: U8


@_frame_type(0x34 + _ANSWER)
@attrs.frozen(kw_only=True)
class ForwardAnswer:
    frame: Blob


@_frame_type(0x35)
@attrs.frozen(kw_only=True)
class LinkSource:
    room: Room
    source: U32
    account: Text
    node: Text
    epoch: U32
    tracks: list[TrackInfo]


@_frame_type(0x36)
@attrs.frozen(kw_only=True)
class LinkInvite:
    room: Room
    warm: bool


@_frame_type(0x37)
@attrs.frozen(kw_only=True)
class LinkExpelled:
    incarnation: U64


@_frame_type(0x60)
@attrs.frozen(kw_only=True)
class RoomClosed:
    room: Room
    reason: U8
    text: Text


@_frame_type(0x61)
@attrs.frozen(kw_only=True)
class SourceJoined:
    room: Room
    source: U32
    account: Text


@_frame_type(0x62)
@attrs.frozen(kw_only=True)
class SourceLeft:
    room: Room
    source: U32
    reason: U8


@_frame_type(0x63)
@attrs.frozen(kw_only=True)
class Gap:
    room: Room
    source: U32
    track: U8
    first_seq: U64
    last_seq: U64
    reason: U8


@_frame_type(0x64)
@attrs.frozen(kw_only=True)
class PushRevoked:
    room: Room
    source: U32
    reason: U8


@_frame_type(0x65)
@attrs.frozen(kw_only=True)
class Replaced:
    room: Room
    source: U32


@_frame_type(0x66)
@attrs.frozen(kw_only=True)
class Viewers:
    room: Room
    viewers: U32


@_frame_type(0x67)
@attrs.frozen(kw_only=True)
class AccountStream:
    account: Text
    kind: U16
    payload: Blob


@_frame_type(0x68)
@attrs.frozen(kw_only=True)
class GoAway:
    reason: U8
    address: Text
    spread_ms: U32


@_frame_type(0x69)
@attrs.frozen(kw_only=True)
class PushAsked:
    room: Room
    account: Text
    message: Text


@_frame_type(0x6A)
@attrs.frozen(kw_only=True)
class PushGranted:
    room: Room


@_frame_type(0x6B)
@attrs.frozen(kw_only=True)
class ContactChanged:
    account: Text
    state: U8


@_frame_type(0x6C)
@attrs.frozen(kw_only=True)
class OtherNodes:
    addresses: list[Text]


@_frame_type(0x80)
@attrs.frozen(kw_only=True)
class Error:
    request_type: U8
    code: U16
    retry: bool
    retry_after_ms: U32
    text: Text


def type_of(message: type) -> int:
    """Return the frame type of a message class."""
    return _types[message][0]


def is_known_type(number: int) -> bool:
    return number in _classes


def encode(message: object, request_id: int = 0) -> bytes:
    """Return the whole frame of a message.

    Raises:
        LocalProtocolError: not a message, or a field or ``request_id`` does
            not fit its type.
    """
    try:
        number, codec = _types[type(message)]
    except KeyError:
        raise LocalProtocolError(f"{type(message).__name__} is not a message") from None
    fields = codec.write(message)
    length = CONTROL_HEADER_BYTES - LENGTH_BYTES + len(fields)
    if not 0 <= request_id <= 0xFFFF_FFFF:
        raise LocalProtocolError(f"request_id {request_id} does not fit u32")
    return CONTROL_HEADER.pack(length, number, 0, 0, 0, request_id) + fields


def encode_close(code: Code) -> bytes:
    """Return a CLOSE frame. Its text is the code's name: never an exception's text."""
    text = code.label.replace("_", " ")
    return encode(Close(code=code, retry=is_retryable(code), retry_after_ms=0, text=text))


def decode(number: int, fields: bytes) -> object:
    """Return the message of a control frame's type and fields.

    Bytes behind the last known field are ignored.

    Raises:
        UnreadableFields: the type is unknown, or the fields do not have its
            layout.
    """
    try:
        _, codec = _classes[number]
    except KeyError:
        raise UnreadableFields(f"no control frame has type {number:#04x}") from None
    message: object = codec.read(Reader(fields))
    return message


_FORBIDDEN_IN_NAMES: Final = frozenset("/\\|:")
_MAX_NAME_CODE_POINTS: Final = 64
_MAX_NAME_BYTES: Final = 255


def is_account_name(name: str) -> bool:
    """Say whether a text may name an account (protocol.md, section 5)."""
    if not 1 <= len(name) <= _MAX_NAME_CODE_POINTS:
        return False
    for character in name:
        # Cc control, Cf format, Cs surrogate, Zl/Zp/Zs separators.
        category = unicodedata.category(character)
        if category in ("Cc", "Cf", "Cs") or category[0] == "Z" or character in _FORBIDDEN_IN_NAMES:
            return False
    return len(name.encode()) <= _MAX_NAME_BYTES
