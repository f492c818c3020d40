"""What stands in a TIM packet, and the tables that say how each encoding names it.

A struct of both encodings at once: JSON takes the names, Thrift the numbers.

Source: docs/tim.md, "The wire".
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, Final

import attrs

#: Fields, elements and names of one struct, all that is in it counted, also what is
#: passed over. Each costs as much as a hundred bytes of a body do.
MOST_PARTS: Final = 1_000


class Format(enum.Enum):
    """How the body of a packet is written."""

    JSON = "json"
    THRIFT = "thrift"  # compact protocol


class PacketType(enum.IntEnum):
    """A packet's first byte; from a client with bit 0x80 where the body is JSON."""

    ACK = 12
    PING = 13
    REGISTER = 14
    TOKEN = 15
    AUTH = 16
    OFFLINE_MESSAGE = 17
    OFFLINE_MESSAGE_END = 18
    LOGOUT = 20
    PULL_MESSAGE = 21
    VIRTUAL_ROOM = 22
    BUSINESS = 41
    NODES = 42
    MESSAGE = 90
    PRESENCE = 91
    STREAM = 94
    BIG_STRING = 95
    BIG_BINARY = 96
    BIG_BINARY_STREAM = 97


class RoomCall(enum.IntEnum):
    """What a VIRTUAL_ROOM packet asks for, its ``rtype``."""

    REGISTER = 1
    REMOVE = 2
    GRANT = 3
    REVOKE = 4
    SUBSCRIBE = 5
    UNSUBSCRIBE = 6


class ErrorCode(enum.IntEnum):
    """TIM's own error codes, as far as they are answered here."""

    EXISTS = 4101
    NOT_PASSED = 4102
    EXPIRED = 4103
    PARAMETER = 4104
    PERMISSION = 4105
    ACCOUNT = 4106
    INTERFACE = 4107
    DOES_NOT_EXIST = 4109
    BLOCKED = 4110
    FORMAT = 4113
    BIG_DATA = 4114
    TOKEN = 4115
    REPEATED = 4117
    UNDEFINED = 5101
    BUSY = 5102
    OVERLOAD = 5104
    RATE = 5105


@attrs.frozen(kw_only=True)
class TimError:
    """Why a TimAck is not ok."""

    code: int = 0
    info: str = ""


@attrs.frozen(kw_only=True)
class TimAck:
    """The answer to a packet of type ``tim_type``."""

    ok: bool = False
    tim_type: int = 0
    error: TimError | None = None
    t: int = 0
    n: str = ""
    t2: int = 0
    n2: str = ""


@attrs.frozen(kw_only=True)
class TimAuth:
    """Of AUTH, TOKEN and REGISTER."""

    name: str = ""
    pwd: str = attrs.field(default="", repr=False)
    domain: str = ""
    resource: str = ""
    termtyp: int = 0
    token: str = attrs.field(default="", repr=False)
    extend: dict[str, str] = attrs.Factory(dict)


@attrs.frozen(kw_only=True)
class TimReq:
    """Of VIRTUAL_ROOM."""

    rtype: int = 0
    node: str = ""
    node2: str = ""
    req_int: int = 0
    req_int2: int = 0
    req_str: str = ""
    req_str2: str = ""


@attrs.frozen(kw_only=True)
class TimStream:
    """One frame of a room."""

    id: int = 0
    room: str = ""
    dtype: int = 0
    body: bytes = b""
    from_node: str = ""


@attrs.frozen(kw_only=True)
class Tid:
    """An account, and a device of it."""

    node: str = ""
    domain: str = ""
    resource: str = ""
    termtyp: int = 0
    extend: dict[str, str] = attrs.Factory(dict)


@attrs.frozen(kw_only=True)
class TimMessage:
    """A message to an account; ``od_type`` 5 is a stream of them."""

    ms_type: int = 0
    od_type: int = 0
    id: int = 0
    mid: int = 0
    bn_type: int = 0
    from_tid: Tid | None = None
    to_tid: Tid | None = None
    room_tid: Tid | None = None
    data_binary: bytes = b""
    data_string: str = ""
    is_offline: bool = False
    timestamp: int = 0
    udtype: int = 0
    udshow: int = 0
    extend: dict[str, str] = attrs.Factory(dict)
    extra: dict[str, bytes] = attrs.Factory(dict)
    to_list: tuple[str, ...] = ()


Struct = TimAck | TimAuth | TimReq | TimStream | TimMessage | Tid | TimError


class Kind(enum.Enum):
    """A field's type, beside structs of our own."""

    BOOL = "bool"
    I8 = "i8"
    I16 = "i16"
    I32 = "i32"
    I64 = "i64"
    STRING = "string"
    BINARY = "binary"
    STRING_MAP = "map<string,string>"
    BINARY_MAP = "map<string,binary>"
    STRING_LIST = "list<string>"


#: Bits of each kind of integer.
WIDTHS: Final = {Kind.I8: 8, Kind.I16: 16, Kind.I32: 32, Kind.I64: 64}


@attrs.frozen
class Field:
    """One field of a struct.

    Attributes:
        name: our attribute.
        number: Thrift's.
        json_name: as the server writes it; a reader takes any case.
        kind: or the struct that it is.
        required: written also where it has its default value.
    """

    name: str
    number: int
    json_name: str
    kind: Kind | type[Any]
    required: bool = False


FIELDS: Final[Mapping[type[Any], tuple[Field, ...]]] = {
    TimError: (
        Field("code", 1, "code", Kind.I32),
        Field("info", 2, "info", Kind.STRING),
    ),
    TimAck: (
        Field("ok", 1, "ok", Kind.BOOL, True),
        Field("tim_type", 2, "timType", Kind.I8),
        Field("error", 3, "error", TimError),
        Field("t", 4, "t", Kind.I64),
        Field("n", 5, "n", Kind.STRING),
        Field("t2", 6, "t2", Kind.I64),
        Field("n2", 7, "n2", Kind.STRING),
    ),
    TimAuth: (
        Field("name", 1, "name", Kind.STRING),
        Field("pwd", 2, "pwd", Kind.STRING),
        Field("domain", 3, "domain", Kind.STRING),
        Field("resource", 4, "resource", Kind.STRING),
        Field("termtyp", 5, "termtyp", Kind.I8),
        Field("token", 6, "token", Kind.STRING),
        Field("extend", 7, "extend", Kind.STRING_MAP),
    ),
    TimReq: (
        Field("rtype", 1, "rtype", Kind.I32),
        Field("node", 2, "node", Kind.STRING),
        Field("node2", 3, "node2", Kind.STRING),
        Field("req_int", 4, "reqInt", Kind.I64),
        Field("req_int2", 5, "reqInt2", Kind.I64),
        Field("req_str", 6, "reqStr", Kind.STRING),
        Field("req_str2", 7, "reqStr2", Kind.STRING),
    ),
    TimStream: (
        Field("id", 1, "id", Kind.I64, True),
        Field("room", 2, "VNode", Kind.STRING, True),
        Field("dtype", 3, "dtype", Kind.I8),
        Field("body", 4, "body", Kind.BINARY),
        Field("from_node", 5, "fromNode", Kind.STRING, True),
    ),
    Tid: (
        Field("node", 1, "node", Kind.STRING, True),
        Field("domain", 2, "domain", Kind.STRING),
        Field("resource", 3, "resource", Kind.STRING),
        Field("termtyp", 4, "termtyp", Kind.I8),
        Field("extend", 5, "extend", Kind.STRING_MAP),
    ),
    TimMessage: (
        Field("ms_type", 1, "msType", Kind.I8, True),
        Field("od_type", 2, "odType", Kind.I8, True),
        Field("id", 3, "id", Kind.I64),
        Field("mid", 4, "mid", Kind.I64),
        Field("bn_type", 5, "bnType", Kind.I32),
        Field("from_tid", 6, "fromTid", Tid),
        Field("to_tid", 7, "toTid", Tid),
        Field("room_tid", 8, "roomTid", Tid),
        Field("data_binary", 9, "dataBinary", Kind.BINARY),
        Field("data_string", 10, "dataString", Kind.STRING),
        Field("is_offline", 11, "isOffline", Kind.BOOL),
        Field("timestamp", 12, "timestamp", Kind.I64),
        Field("udtype", 13, "udtype", Kind.I16),
        Field("udshow", 14, "udshow", Kind.I16),
        Field("extend", 15, "extend", Kind.STRING_MAP),
        Field("extra", 16, "extra", Kind.BINARY_MAP),
        Field("to_list", 17, "ToList", Kind.STRING_LIST),
    ),
}


class TimFormatError(Exception):
    """A packet cannot be read; says why, for our own log."""


def is_default(field: Field, value: object) -> bool:
    """Say whether a value need not be written."""
    return not field.required and (value is None or value == _EMPTY.get(field.kind))


_EMPTY: Final[dict[object, object]] = {
    Kind.BOOL: False,
    Kind.I8: 0,
    Kind.I16: 0,
    Kind.I32: 0,
    Kind.I64: 0,
    Kind.STRING: "",
    Kind.BINARY: b"",
    Kind.STRING_MAP: {},
    Kind.BINARY_MAP: {},
    Kind.STRING_LIST: (),
}
