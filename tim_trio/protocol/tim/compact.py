"""Structs in Thrift's compact protocol.

Our own, and small: the libraries for it read from streams, take a size that a
stranger names as a size to allocate, recurse as deep as he likes, tell text
from binary by trying, and fail with whatever Python raises where the bytes
are no struct. Here any bytes give a struct or one error, in memory no larger
than the bytes. (The tests compare with thriftpy2.)

Source: the Thrift project's "Thrift compact protocol" specification.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

from tim_trio.protocol.tim.structs import (
    FIELDS,
    MOST_PARTS,
    WIDTHS,
    Field,
    Kind,
    TimFormatError,
    is_default,
)

S = TypeVar("S")

_STOP: Final = 0
_TRUE: Final = 1
_FALSE: Final = 2
_I8: Final = 3
_DOUBLE: Final = 7
_BINARY: Final = 8
_LIST: Final = 9
_SET: Final = 10
_MAP: Final = 11
_STRUCT: Final = 12
_UUID: Final = 13
_WIRE_TYPES: Final = {
    Kind.I8: _I8,
    Kind.I16: 4,
    Kind.I32: 5,
    Kind.I64: 6,
    Kind.STRING: _BINARY,
    Kind.BINARY: _BINARY,
    Kind.STRING_MAP: _MAP,
    Kind.BINARY_MAP: _MAP,
    Kind.STRING_LIST: _LIST,
}
_INTEGERS: Final = frozenset((4, 5, 6))
#: A 64-bit number takes ten bytes of seven bits.
_VARINT_BYTES: Final = 10
_MAX_DEPTH: Final = 16
_LONG_LIST: Final = 15


# Writing


def encode(value: object) -> bytes:
    """Return a struct's bytes."""
    out = bytearray()
    _write_struct(out, value)
    return bytes(out)


def _write_struct(out: bytearray, value: object) -> None:
    last = 0
    for field in FIELDS[type(value)]:
        content = getattr(value, field.name)
        if is_default(field, content):
            continue
        if isinstance(field.kind, Kind):
            wire_type = _WIRE_TYPES.get(field.kind) or (_TRUE if content else _FALSE)
        else:
            wire_type = _STRUCT
        # Numbers are in order and near: the short form always fits.
        out.append((field.number - last) << 4 | wire_type)
        last = field.number
        _write_value(out, field, content)
    out.append(_STOP)


def _write_value(out: bytearray, field: Field, content: Any) -> None:
    match field.kind:
        case Kind.BOOL:
            pass  # the type says it
        case Kind.I8:
            out.append(content & 0xFF)
        case Kind.I16 | Kind.I32 | Kind.I64:
            _write_varint(out, content << 1 ^ content >> 63)
        case Kind.STRING:
            _write_bytes(out, content.encode("utf-8"))
        case Kind.BINARY:
            _write_bytes(out, content)
        case Kind.STRING_MAP | Kind.BINARY_MAP:
            _write_map(out, content)
        case Kind.STRING_LIST:
            _write_list(out, content)
        case _:
            _write_struct(out, content)


def _write_map(out: bytearray, content: dict[str, str | bytes]) -> None:
    # An empty one, which would have no types, is left out.
    _write_varint(out, len(content))
    out.append(_BINARY << 4 | _BINARY)
    for key, value in content.items():
        _write_bytes(out, key.encode("utf-8"))
        _write_bytes(out, value if isinstance(value, bytes) else value.encode("utf-8"))


def _write_list(out: bytearray, content: tuple[str, ...]) -> None:
    if len(content) < _LONG_LIST:
        out.append(len(content) << 4 | _BINARY)
    else:
        out.append(_LONG_LIST << 4 | _BINARY)
        _write_varint(out, len(content))
    for each in content:
        _write_bytes(out, each.encode("utf-8"))


def _write_bytes(out: bytearray, content: bytes) -> None:
    _write_varint(out, len(content))
    out += content


def _write_varint(out: bytearray, value: int) -> None:
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


# Reading


def decode(kind: type[S], data: bytes, most_parts: int = MOST_PARTS) -> S:
    """Read a struct; what stands behind it is not looked at.

    Unknown fields are passed over. Linear in the data, and but for the sizes
    of texts in the parts.

    Raises:
        TimFormatError: that is no such struct, or it has too many parts.
    """
    return _Reader(data, most_parts).struct(kind, 1)


class _Reader:
    def __init__(self, data: bytes, most_parts: int) -> None:
        self._data = data
        self._at = 0
        self._parts_left = most_parts

    def struct(self, kind: type[S], depth: int) -> S:
        """Read a struct of a kind of ours."""
        if depth > _MAX_DEPTH:
            raise TimFormatError("nested too deep")
        fields = {field.number: field for field in FIELDS[kind]}
        values: dict[str, Any] = {}
        last = 0
        while True:
            header = self._byte()
            wire_type = header & 15
            if wire_type == _STOP:
                break
            self._count(1)
            last = last + (header >> 4) if header >> 4 else self._integer(16)
            field = fields.get(last)
            if field is None or not _fits(field, wire_type):
                self._skip(wire_type, depth)
            else:
                values[field.name] = self._value(field, wire_type, depth)
        missing = [f.json_name for f in fields.values() if f.required and f.name not in values]
        if missing:
            raise TimFormatError(f"{', '.join(missing)} missing")
        return kind(**values)

    def _value(self, field: Field, wire_type: int, depth: int) -> object:
        match field.kind:
            case Kind.BOOL:
                return wire_type == _TRUE
            case Kind.I8:
                value = self._byte()
                return value - 256 if value > 127 else value
            case Kind.I16 | Kind.I32 | Kind.I64 as kind:
                return self._integer(WIDTHS[kind])
            case Kind.STRING:
                return self._text()
            case Kind.BINARY:
                return self._bytes()
            case Kind.STRING_MAP:
                return dict(self._map(_Reader._text))
            case Kind.BINARY_MAP:
                return dict(self._map(_Reader._bytes))
            case Kind.STRING_LIST:
                return self._texts()
            case _:
                assert not isinstance(field.kind, Kind)
                return self.struct(field.kind, depth + 1)

    def _map(self, read_value: Any) -> list[tuple[str, Any]]:
        count = self._varint()
        if not count:
            return []
        if self._byte() != _BINARY << 4 | _BINARY:
            raise TimFormatError("a map of other types")
        self._count(2 * count)
        return [(self._text(), read_value(self)) for _ in range(count)]

    def _texts(self) -> tuple[str, ...]:
        header = self._byte()
        count = header >> 4
        if count == _LONG_LIST:
            count = self._varint()
        if count and header & 15 != _BINARY:
            raise TimFormatError("a list of other types")
        self._count(count)
        return tuple([self._text() for _ in range(count)])

    # What is not asked for

    def _skip(self, wire_type: int, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise TimFormatError("nested too deep")
        if wire_type in (_TRUE, _FALSE):
            return
        if wire_type == _I8:
            self._take(1)
        elif wire_type in _INTEGERS:
            self._varint()
        elif wire_type == _DOUBLE:
            self._take(8)
        elif wire_type == _UUID:
            self._take(16)
        elif wire_type == _BINARY:
            self._bytes()
        elif wire_type in (_LIST, _SET):
            header = self._byte()
            count = header >> 4 if header >> 4 != _LONG_LIST else self._varint()
            self._count(count)
            for _ in range(count):
                self._skip_element(header & 15, depth + 1)
        elif wire_type == _MAP:
            count = self._varint()
            types = self._byte() if count else 0
            self._count(2 * count)
            for _ in range(count):
                self._skip_element(types >> 4, depth + 1)
                self._skip_element(types & 15, depth + 1)
        elif wire_type == _STRUCT:
            while header := self._byte():
                self._count(1)
                if not header >> 4:
                    self._varint()
                self._skip(header & 15, depth + 1)
        else:
            raise TimFormatError(f"a field of type {wire_type}")

    def _skip_element(self, wire_type: int, depth: int) -> None:
        # Inside containers a boolean has a byte of its own.
        if wire_type in (_TRUE, _FALSE):
            self._take(1)
        else:
            self._skip(wire_type, depth)

    # The smallest parts

    def _count(self, parts: int) -> None:
        """Count parts before they are read: a size that a stranger names may be any."""
        self._parts_left -= parts
        if self._parts_left < 0:
            raise TimFormatError("too many parts")

    def _byte(self) -> int:
        return self._take(1)[0]

    def _take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise TimFormatError("ends in the middle")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def _bytes(self) -> bytes:
        return self._take(self._varint())

    def _text(self) -> str:
        try:
            return self._bytes().decode("utf-8")
        except UnicodeDecodeError:
            raise TimFormatError("a text that is no UTF-8") from None

    def _varint(self) -> int:
        value = 0
        for place in range(_VARINT_BYTES):
            byte = self._byte()
            value |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                return value
        raise TimFormatError("a number of more than ten bytes")

    def _integer(self, width: int) -> int:
        zigzag = self._varint()
        value = zigzag >> 1 ^ -(zigzag & 1)
        if not -(1 << width - 1) <= value < 1 << width - 1:
            raise TimFormatError(f"a number that does not fit into {width} bits")
        return value


def _fits(field: Field, wire_type: int) -> bool:
    """Say whether a field has the type that it should; one that has not counts as unknown."""
    if field.kind is Kind.BOOL:
        return wire_type in (_TRUE, _FALSE)
    if isinstance(field.kind, Kind):
        return wire_type == _WIRE_TYPES[field.kind]
    return wire_type == _STRUCT
