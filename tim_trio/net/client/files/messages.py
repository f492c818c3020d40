"""The messages of a file transfer: JSON objects in account streams of kind 1.

Pure: bytes in, typed values out. What is malformed is None, for nobody
answers it.

Source: protocol.md, Annex B.
"""

from __future__ import annotations

import enum
import json
import re
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import attrs

from tim_trio.protocol.room_ids import parse_room_id

T = TypeVar("T")

#: The `kind` of the account streams that carry these messages.
KIND: Final = 1
VERSION: Final = 1
MAX_MESSAGE_BYTES: Final = 4096
MAX_NAME_BYTES: Final = 1024
MAX_MEDIA_TYPE_BYTES: Final = 255
_MAX_DEPTH: Final = 16
#: Integers that every language's doubles hold exactly.
_MAX_INTEGER: Final = 2**53 - 1
_MAX_SOURCE: Final = 2**32 - 1

_HEX: Final = re.compile(r"[0-9a-f]+")
ID_DIGITS: Final = 32
DIGEST_DIGITS: Final = 64


class By(enum.StrEnum):
    """Which side a message of either side comes from."""

    SENDER = "sender"
    RECEIVER = "receiver"


@attrs.frozen(kw_only=True)
class Offer:
    """The sender has a file for us. ``sha256`` is of the whole of it, in hex."""

    transfer: str
    name: str
    size: int
    sha256: str
    media_type: str = ""


@attrs.frozen(kw_only=True)
class UnknownOffer:
    """An offer of another version of the profile."""

    transfer: str


@attrs.frozen(kw_only=True)
class Accept:
    """The receiver holds ``offset`` bytes with that digest, and wants the rest."""

    transfer: str
    receiver: str
    attempt: str
    offset: int
    prefix_sha256: str


@attrs.frozen(kw_only=True)
class Decline:
    transfer: str
    receiver: str
    reason: str


@attrs.frozen(kw_only=True)
class Start:
    """The bytes from ``offset`` on come as this source of this room."""

    transfer: str
    receiver: str
    attempt: str
    room: str
    source: int
    offset: int


@attrs.frozen(kw_only=True)
class Taken:
    """Another device of the account has the transfer: ``receiver``."""

    transfer: str
    receiver: str


@attrs.frozen(kw_only=True)
class Pause:
    """The attempt is over, the transfer is not. ``stopping``: the process goes away."""

    transfer: str
    by: By
    receiver: str = ""
    stopping: bool


@attrs.frozen(kw_only=True)
class Cancel:
    """Somebody does not want it any more."""

    transfer: str
    by: By
    receiver: str = ""


@attrs.frozen(kw_only=True)
class Failed:
    transfer: str
    by: By
    receiver: str = ""
    reason: str


@attrs.frozen(kw_only=True)
class Done:
    """The receiver has all of it, and the digest is right."""

    transfer: str
    receiver: str


FromSender = Offer | UnknownOffer | Start | Taken | Pause | Cancel | Failed
FromReceiver = Accept | Decline | Done | Pause | Cancel | Failed
Message = FromSender | FromReceiver

_TYPES: Final[dict[type[Any], str]] = {
    Offer: "offer",
    Accept: "accept",
    Decline: "decline",
    Start: "start",
    Taken: "taken",
    Pause: "pause",
    Cancel: "cancel",
    Failed: "failed",
    Done: "done",
}


def new_id() -> str:
    """Return a fresh `transfer`, `receiver` or `attempt`: 16 random bytes in hex."""
    return secrets.token_hex(ID_DIGITS // 2)


def is_id(text: str) -> bool:
    """Say whether it has the form of one."""
    return len(text) == ID_DIGITS and _HEX.fullmatch(text) is not None


def encode(message: Message) -> bytes:
    """Return a message's bytes. What is empty and may be left out is left out."""
    members: dict[str, object] = {"type": _TYPES[type(message)]}
    if isinstance(message, Offer):
        members["version"] = VERSION
    for name, value in attrs.asdict(message).items():
        if value != "" or name not in ("receiver", "media_type"):
            members[name] = value
    return json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode()


def decode(payload: bytes) -> Message | None:
    """Return the message in an account stream's payload, None for what is to be ignored.

    Never raises.
    """
    if len(payload) > MAX_MESSAGE_BYTES:
        return None
    try:
        members = json.loads(payload.decode(), parse_constant=_refuse)
        if not isinstance(members, dict) or _depth(members) > _MAX_DEPTH:
            return None
        return _read(members)
    except (ValueError, RecursionError):
        # UnicodeDecodeError and JSONDecodeError are ValueErrors, and so are
        # numbers of too many digits.
        return None


class _Malformed(ValueError):
    """A member is missing or of another form."""


def _refuse(constant: str) -> object:
    raise _Malformed(constant)  # NaN and Infinity, which are not JSON


def _depth(value: object) -> int:
    deepest, todo = 0, [(value, 1)]
    while todo:
        one, depth = todo.pop()
        if isinstance(one, dict | list):
            deepest = max(deepest, depth)
            todo += [
                (inner, depth + 1) for inner in (one.values() if isinstance(one, dict) else one)
            ]
    return deepest


def _read(members: Mapping[str, object]) -> Message | None:
    text = members.get("type")
    reader = _READERS.get(text) if isinstance(text, str) else None
    return None if reader is None else reader(members, _id(members, "transfer"))


def _read_offer(members: Mapping[str, object], transfer: str) -> Message:
    if _integer(members, "version") != VERSION:
        return UnknownOffer(transfer=transfer)
    return Offer(
        transfer=transfer,
        name=_text(members, "name", MAX_NAME_BYTES),
        size=_integer(members, "size"),
        sha256=_hex(members, "sha256", DIGEST_DIGITS),
        media_type=(
            _text(members, "media_type", MAX_MEDIA_TYPE_BYTES, least=0)
            if "media_type" in members
            else ""
        ),
    )


def _read_accept(members: Mapping[str, object], transfer: str) -> Message:
    return Accept(
        transfer=transfer,
        receiver=_id(members, "receiver"),
        attempt=_id(members, "attempt"),
        offset=_integer(members, "offset"),
        prefix_sha256=_hex(members, "prefix_sha256", DIGEST_DIGITS),
    )


def _read_decline(members: Mapping[str, object], transfer: str) -> Message:
    return Decline(transfer=transfer, receiver=_id(members, "receiver"), reason=_reason(members))


def _read_start(members: Mapping[str, object], transfer: str) -> Message:
    room = _text(members, "room", 11)
    parse_room_id(room)
    return Start(
        transfer=transfer,
        receiver=_id(members, "receiver"),
        attempt=_id(members, "attempt"),
        room=room,
        source=_integer(members, "source", _MAX_SOURCE),
        offset=_integer(members, "offset"),
    )


def _read_taken(members: Mapping[str, object], transfer: str) -> Message:
    return Taken(transfer=transfer, receiver=_id(members, "receiver"))


def _read_pause(members: Mapping[str, object], transfer: str) -> Message:
    stopping = members.get("stopping")
    if not isinstance(stopping, bool):
        raise _Malformed("stopping")
    by, receiver = _side(members)
    return Pause(transfer=transfer, by=by, receiver=receiver, stopping=stopping)


def _read_cancel(members: Mapping[str, object], transfer: str) -> Message:
    by, receiver = _side(members)
    return Cancel(transfer=transfer, by=by, receiver=receiver)


def _read_failed(members: Mapping[str, object], transfer: str) -> Message:
    by, receiver = _side(members)
    return Failed(transfer=transfer, by=by, receiver=receiver, reason=_reason(members))


def _read_done(members: Mapping[str, object], transfer: str) -> Message:
    return Done(transfer=transfer, receiver=_id(members, "receiver"))


_READERS: Final[dict[str, Callable[[Mapping[str, object], str], Message]]] = {
    "offer": _read_offer,
    "accept": _read_accept,
    "decline": _read_decline,
    "start": _read_start,
    "taken": _read_taken,
    "pause": _read_pause,
    "cancel": _read_cancel,
    "failed": _read_failed,
    "done": _read_done,
}


def _text(members: Mapping[str, object], name: str, most: int, *, least: int = 1) -> str:
    value = members.get(name)
    # An unpaired surrogate, which JSON can escape, fails to encode.
    if not isinstance(value, str) or not least <= len(value.encode()) <= most:
        raise _Malformed(name)
    return value


def _reason(members: Mapping[str, object]) -> str:
    return _text(members, "reason", MAX_NAME_BYTES)


def _hex(members: Mapping[str, object], name: str, digits: int) -> str:
    value = members.get(name)
    if not isinstance(value, str) or len(value) != digits or not _HEX.fullmatch(value):
        raise _Malformed(name)
    return value


def _id(members: Mapping[str, object], name: str) -> str:
    return _hex(members, name, ID_DIGITS)


def _integer(members: Mapping[str, object], name: str, most: int = _MAX_INTEGER) -> int:
    value = members.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 1e3 is an integer, as it is where numbers are doubles
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise _Malformed(name)
    return value


def _side(members: Mapping[str, object]) -> tuple[By, str]:
    by = By(_text(members, "by", 16))
    return by, _id(members, "receiver") if by is By.RECEIVER else ""
