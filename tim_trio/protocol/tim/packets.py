"""Packets: the type byte, the body in either format, and the big forms.

Source: docs/tim.md, "The wire".
"""

from __future__ import annotations

import struct
from typing import Final, TypeVar

import attrs

from tim_trio.protocol.tim import compact, json_form
from tim_trio.protocol.tim.structs import (
    MOST_PARTS,
    Format,
    PacketType,
    Struct,
    TimAuth,
    TimFormatError,
    TimMessage,
    TimReq,
    TimStream,
)

S = TypeVar("S")

#: Of a client's type byte: the body is JSON.
JSON_BIT: Final = 0x80
#: Between an account or a room and binary data. It may be a byte in the middle
#: of a character, and then what stands before it is no whole text.
BINARY_SEPARATOR: Final = 131
#: Between an account and a text; one client sends the other.
_TEXT_SEPARATORS: Final = (ord("|"), 0)
#: Longer than any name of an account or a room, with what stands behind it.
_MAX_NODE_BYTES: Final = 257
_BIG_HEADER: Final = struct.Struct(">BI")


@attrs.frozen
class Ping:
    """A sign of life; the answer is another."""


@attrs.frozen
class BigString:
    """A text to or from an account."""

    node: str
    text: str


@attrs.frozen
class BigBinary:
    """Bytes to or from an account."""

    node: str
    body: bytes


@attrs.frozen
class BigStream:
    """A frame of a room, without anything around it."""

    room: str
    body: bytes


@attrs.frozen
class Body:
    """A packet whose body is a struct."""

    type: PacketType
    value: Struct


@attrs.frozen
class Other:
    """A packet of a type that is not served, whatever is in it."""

    type: int


Packet = Ping | BigString | BigBinary | BigStream | Body | Other

#: What a client sends as a struct.
_REQUESTS: Final[dict[PacketType, type[Struct]]] = {
    PacketType.REGISTER: TimAuth,
    PacketType.TOKEN: TimAuth,
    PacketType.AUTH: TimAuth,
    PacketType.VIRTUAL_ROOM: TimReq,
    PacketType.MESSAGE: TimMessage,
    PacketType.STREAM: TimStream,
}
_BIG: Final = frozenset(
    (PacketType.BIG_STRING, PacketType.BIG_BINARY, PacketType.BIG_BINARY_STREAM)
)


def format_of(data: bytes) -> Format:
    """Return which format a client's packet is in."""
    return Format.JSON if data and data[0] & JSON_BIT else Format.THRIFT


def has_format(data: bytes) -> bool:
    """Say whether a client's packet is in one; those without a struct are in none."""
    return type_of(data) not in (PacketType.PING, *_BIG)


def type_of(data: bytes) -> int:
    """Return the type of a client's packet, 0 where there is none."""
    return data[0] & ~JSON_BIT if data else 0


def decode(data: bytes, most_parts: int = MOST_PARTS) -> Packet:
    """Read a packet from a client: one whole message of its WebSocket.

    ``most_parts``: what a struct may have in all, each receiver it names among them.

    Raises:
        TimFormatError: what stands behind its type cannot be read.
    """
    number = type_of(data)
    try:
        kind = PacketType(number)
    except ValueError:
        return Other(number)
    if kind is PacketType.PING:
        return Ping()
    if kind in _BIG:
        return _decode_big(kind, data)
    expected = _REQUESTS.get(kind)
    if expected is None:
        return Other(number)
    return Body(kind, decode_body(expected, data[1:], format_of(data), most_parts))


def decode_body(kind: type[S], data: bytes, form: Format, most_parts: int = MOST_PARTS) -> S:
    """Read a struct in a format.

    Raises:
        TimFormatError: it is none.
    """
    decode_struct = json_form.decode if form is Format.JSON else compact.decode
    return decode_struct(kind, data, most_parts)


def _decode_big(kind: PacketType, data: bytes) -> Packet:
    """Read ``type · u32 length of the whole · account or room · separator · content``."""
    if len(data) < _BIG_HEADER.size:
        raise TimFormatError("ends in the middle")
    if _BIG_HEADER.unpack_from(data)[1] != len(data):
        raise TimFormatError("its length is another")
    rest = data[_BIG_HEADER.size :]
    separators = _TEXT_SEPARATORS if kind is PacketType.BIG_STRING else (BINARY_SEPARATOR,)
    node, content = _split(rest, separators)
    match kind:
        case PacketType.BIG_STRING:
            return BigString(node, _text(content))
        case PacketType.BIG_BINARY:
            return BigBinary(node, content)
        case _:
            return BigStream(node, content)


def _split(rest: bytes, separators: tuple[int, ...]) -> tuple[str, bytes]:
    for place, byte in enumerate(rest[:_MAX_NODE_BYTES]):
        if byte in separators:
            try:
                return rest[:place].decode("utf-8"), rest[place + 1 :]
            except UnicodeDecodeError:
                continue
    raise TimFormatError("without a separator")


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise TimFormatError("a text that is no UTF-8") from None


# What the server sends


def encode_body(kind: PacketType, value: Struct, form: Format) -> bytes:
    """Return a packet of the server with a struct in a client's format."""
    encoded = json_form.encode(value) if form is Format.JSON else compact.encode(value)
    return bytes((kind,)) + encoded


PING: Final = bytes((PacketType.PING,))


def encode_big_stream(room: bytes, body: bytes | memoryview) -> bytes:
    """Return a frame for a subscriber in the big-binary form."""
    return b"".join((_BIG_STREAM, room, _SEPARATOR, body))


def encode_big_string(node: str, text: str) -> bytes:
    """Return a text from an account."""
    return _BIG_STRING + node.encode("utf-8") + b"|" + text.encode("utf-8")


def encode_big_binary(node: str, body: bytes) -> bytes:
    """Return bytes from an account."""
    return b"".join((_BIG_BINARY, node.encode("utf-8"), _SEPARATOR, body))


_SEPARATOR: Final = bytes((BINARY_SEPARATOR,))
_BIG_STREAM: Final = bytes((PacketType.BIG_BINARY_STREAM,))
_BIG_STRING: Final = bytes((PacketType.BIG_STRING,))
_BIG_BINARY: Final = bytes((PacketType.BIG_BINARY,))
