"""Structs as JSON.

Readers take names in any case, and numbers as JavaScript has them; bytes are
base64. Unknown members are ignored, and so is null.

Source: docs/tim.md, "The wire".
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any, Final, NoReturn, TypeVar

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

_MAX_DEPTH: Final = 16
#: Never fails behind a quote, so that one pass over a text of quotes stays one pass,
#: and never goes back (``+``), for which it would keep a note per character.
_STRING: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?+', re.DOTALL)
_BRACKETS: Final = re.compile(r"[\[\]{}]")


# Writing


def encode(value: object) -> bytes:
    """Return a struct as UTF-8."""
    return json.dumps(to_members(value), ensure_ascii=False, separators=(",", ":")).encode(
        "utf-8", "replace"
    )


def to_members(value: object) -> dict[str, Any]:
    """Return a struct's members as JSON has them."""
    return {
        field.json_name: _to_json(field, content)
        for field in FIELDS[type(value)]
        if not is_default(field, content := getattr(value, field.name))
    }


def _to_json(field: Field, content: Any) -> object:
    match field.kind:
        case Kind.BINARY:
            return _base64(content)
        case Kind.BINARY_MAP:
            return {key: _base64(value) for key, value in content.items()}
        case Kind.STRING_LIST:
            return list(content)
        case Kind():
            return content
        case _:
            return to_members(content)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


# Reading


def decode(kind: type[S], data: bytes, most_parts: int = MOST_PARTS) -> S:
    """Read a struct; required members may be missing, as in the clients' requests.

    Linear in the data. A member is two parts, an element of a list one.

    Raises:
        TimFormatError: that is no such struct, or it has too many parts.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise TimFormatError("not UTF-8") from None
    _check_shape(text, most_parts)
    try:
        parsed = json.loads(text, parse_int=_parse_int, parse_constant=_refuse_constant)
    except ValueError:
        raise TimFormatError("not JSON") from None
    return from_members(kind, parsed)


def from_members(kind: type[S], members: object) -> S:
    """Read a struct out of what JSON holds.

    Raises:
        TimFormatError: as `decode`.
    """
    if not isinstance(members, dict):
        raise TimFormatError("not a JSON object")
    by_name = {name.lower(): value for name, value in members.items()}
    values = {
        field.name: _from_json(field, by_name[field.json_name.lower()])
        for field in FIELDS[kind]
        if by_name.get(field.json_name.lower()) is not None
    }
    return kind(**values)


def _from_json(field: Field, value: Any) -> object:
    match field.kind:
        case Kind.BOOL if isinstance(value, bool):
            return value
        case Kind.I8 | Kind.I16 | Kind.I32 | Kind.I64 as kind if isinstance(
            value, int | float
        ) and not isinstance(value, bool):
            return _number(value, WIDTHS[kind], field.json_name)
        case Kind.STRING if isinstance(value, str):
            return _text(value)
        case Kind.BINARY if isinstance(value, str):
            return _bytes(value, field.json_name)
        case Kind.STRING_MAP if isinstance(value, dict) and _all_text(value.values()):
            return {_text(key): _text(each) for key, each in value.items()}
        case Kind.BINARY_MAP if isinstance(value, dict) and _all_text(value.values()):
            return {_text(key): _bytes(each, field.json_name) for key, each in value.items()}
        case Kind.STRING_LIST if isinstance(value, list) and _all_text(value):
            return tuple(_text(each) for each in value)
        case Kind():
            raise TimFormatError(f"{field.json_name} has another type")
        case struct:
            return from_members(struct, value)


def _all_text(values: Any) -> bool:
    return all(isinstance(each, str) for each in values)


def _number(value: Any, width: int, name: str) -> int:
    # Infinity is what 1e999 is read as; a fraction is no number of a thing.
    if isinstance(value, float) and not value.is_integer():
        raise TimFormatError(f"{name} is not a whole number")
    if not -(1 << width - 1) <= value < 1 << width - 1:
        raise TimFormatError(f"{name} does not fit into {width} bits")
    return int(value)


def _text(value: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise TimFormatError("half of a surrogate pair") from None
    return value


def _bytes(value: str, name: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise TimFormatError(f"{name} is not base64") from None


def _parse_int(digits: str) -> float:
    # Python would refuse thousands of digits with an error of its own.
    return int(digits) if len(digits) <= 20 else float(digits)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _check_shape(text: str, most_parts: int) -> None:
    """Look for what a parser would recurse into, or make many objects of.

    Raises:
        TimFormatError: nested too deep, or too many parts.
    """
    brackets = text.count("{") + text.count("[")
    parts = brackets + text.count(",") + text.count(":")
    if brackets <= _MAX_DEPTH and parts <= most_parts:
        return  # whether they stand in a text or not
    # As many strings as parts and one more: a quick look, for each string is a match below.
    quotes = text.count('"') - text.count('\\"')
    if quotes > 2 * most_parts + 2:
        raise TimFormatError("too many parts")
    outside = _STRING.sub("", text)
    if sum(map(outside.count, ",:[{")) > most_parts:
        raise TimFormatError("too many parts")
    depth = 0
    for bracket in _BRACKETS.findall(outside):
        depth += 1 if bracket in "[{" else -1
        if depth > _MAX_DEPTH:
            raise TimFormatError("nested too deep")
