"""Field types of control frames: how each is written and read.

A message class names one of the annotated types below per field (`U8`,
`Text`, `Room`, …), an `IntEnum`, a `bool`, another record, or a `list` of
those; `record_codec` turns the class into functions. So the class is the
layout, and nothing is said twice.

Source: protocol.md, section 1.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from struct import Struct
from typing import (
    Annotated,
    Any,
    Final,
    Generic,
    TypeVar,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

import attrs

from tim_trio.errors import LocalProtocolError, TimError
from tim_trio.protocol.room_ids import is_room_id

T = TypeVar("T")
E = TypeVar("E", bound=enum.IntEnum)

MAX_TEXT_BYTES: Final = 1024
MAX_SECRET_BYTES: Final = 4096
TOKEN_BYTES: Final = 16
_MAX_LIST: Final = 0xFFFF


class UnreadableFields(TimError):
    """A control frame's fields do not have their layout."""


class Reader:
    """Takes fields off the front of some bytes."""

    __slots__ = ("_data", "_position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def take(self, count: int) -> bytes:
        """Return the next ``count`` bytes.

        Raises:
            UnreadableFields: fewer are left.
        """
        end = self._position + count
        if end > len(self._data):
            raise UnreadableFields("the frame ends within a field")
        piece = self._data[self._position : end]
        self._position = end
        return piece


@attrs.frozen
class Field(Generic[T]):
    """How one field is read and written."""

    read: Callable[[Reader], T]
    write: Callable[[T], bytes]


def _number(layout: str, name: str) -> Field[int]:
    struct = Struct(layout)

    def read(reader: Reader) -> int:
        (value,) = struct.unpack(reader.take(struct.size))
        return int(value)

    def write(value: int) -> bytes:
        try:
            return struct.pack(value)
        except Exception as error:
            raise LocalProtocolError(f"{value!r} does not fit {name}") from error

    return Field(read, write)


_U8 = _number(">B", "u8")
_U16 = _number(">H", "u16")
_U32 = _number(">I", "u32")
_U64 = _number(">Q", "u64")


def _read_room(reader: Reader) -> int:
    room = _U64.read(reader)
    if not is_room_id(room):
        raise UnreadableFields(f"{room} is not a room id")
    return room


def _write_room(room: int) -> bytes:
    if not is_room_id(room):
        raise LocalProtocolError(f"{room!r} is not a room id")
    return _U64.write(room)


def _read_text(reader: Reader) -> str:
    count = _U16.read(reader)
    if count > MAX_TEXT_BYTES:
        raise UnreadableFields(f"a text of {count} bytes, {MAX_TEXT_BYTES} allowed")
    try:
        return reader.take(count).decode()
    except UnicodeDecodeError as error:
        raise UnreadableFields("a text is not UTF-8") from error


def _write_text(text: str) -> bytes:
    if not isinstance(text, str):
        raise LocalProtocolError(f"{type(text).__name__} where a text is due")
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise LocalProtocolError("a text cannot be written as UTF-8") from error
    if len(data) > MAX_TEXT_BYTES:
        raise LocalProtocolError(f"a text of {len(data)} bytes, {MAX_TEXT_BYTES} allowed")
    return _U16.write(len(data)) + data


def _blob(most: int | None) -> Field[bytes]:
    def read(reader: Reader) -> bytes:
        count = _U32.read(reader)
        if most is not None and count > most:
            raise UnreadableFields(f"a field of {count} bytes, {most} allowed")
        return reader.take(count)

    def write(value: bytes) -> bytes:
        if not isinstance(value, bytes):
            raise LocalProtocolError(f"{type(value).__name__} where bytes are due")
        if most is not None and len(value) > most:
            raise LocalProtocolError(f"a field of {len(value)} bytes, {most} allowed")
        return _U32.write(len(value)) + value

    return Field(read, write)


def _write_token(token: bytes) -> bytes:
    if len(token) != TOKEN_BYTES:
        raise LocalProtocolError(f"a token has {TOKEN_BYTES} bytes, not {len(token)}")
    return token


def _read_bool(reader: Reader) -> bool:
    value = _U8.read(reader)
    if value > 1:
        raise UnreadableFields(f"{value} is neither 0 nor 1")
    return bool(value)


def _write_bool(value: bool) -> bytes:
    return b"\x01" if value else b"\x00"


_BOOL = Field(_read_bool, _write_bool)

U8 = Annotated[int, _U8]
U16 = Annotated[int, _U16]
U32 = Annotated[int, _U32]
U64 = Annotated[int, _U64]
Room = Annotated[int, Field(_read_room, _write_room)]
Text = Annotated[str, Field(_read_text, _write_text)]
Blob = Annotated[bytes, _blob(None)]
Secret = Annotated[bytes, _blob(MAX_SECRET_BYTES)]
Token = Annotated[bytes, Field(lambda reader: reader.take(TOKEN_BYTES), _write_token)]


def _choice(kind: type[E]) -> Field[E]:
    def read(reader: Reader) -> E:
        value = _U8.read(reader)
        try:
            return kind(value)
        except ValueError as error:
            raise UnreadableFields(f"{value} is no {kind.__name__}") from error

    def write(value: E) -> bytes:
        try:
            return _U8.write(kind(value))
        except ValueError as error:
            raise LocalProtocolError(f"{value!r} is no {kind.__name__}") from error

    return Field(read, write)


def _list_of(item: Field[T]) -> Field[list[T]]:
    def read(reader: Reader) -> list[T]:
        return [item.read(reader) for _ in range(_U16.read(reader))]

    def write(values: list[T]) -> bytes:
        if len(values) > _MAX_LIST:
            raise LocalProtocolError(f"a list of {len(values)} entries, {_MAX_LIST} allowed")
        return _U16.write(len(values)) + b"".join(item.write(value) for value in values)

    return Field(read, write)


def _field_for(hint: object) -> Field[Any]:
    if get_origin(hint) is Annotated:
        field = get_args(hint)[1]
        assert isinstance(field, Field)
        return field
    if get_origin(hint) is list:
        return _list_of(_field_for(get_args(hint)[0]))
    if hint is bool:
        return _BOOL
    kind = cast("type[object]", hint)
    if issubclass(kind, enum.IntEnum):
        return _choice(kind)
    return record_codec(kind)


def record_codec(record: type[T]) -> Field[T]:
    """Return how an attrs class of annotated fields is read and written.

    Reading raises UnreadableFields, writing LocalProtocolError.
    """
    hints = get_type_hints(record, include_extras=True)
    fields = [
        (attribute.name, _field_for(hints[attribute.name]))
        for attribute in attrs.fields(cast("type[attrs.AttrsInstance]", record))
    ]

    def read(reader: Reader) -> T:
        return record(**{name: field.read(reader) for name, field in fields})

    def write(value: T) -> bytes:
        pieces = []
        for name, field in fields:
            try:
                pieces.append(field.write(getattr(value, name)))
            except LocalProtocolError as error:
                raise LocalProtocolError(f"{name}: {error}") from error
        return b"".join(pieces)

    return Field(read, write)
