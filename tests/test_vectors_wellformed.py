"""The golden vectors agree with themselves and with the tables of protocol.md.

The field layouts are read from the document's tables, not from tim_trio's codec,
so that a vector cannot be wrong in the same way as the code it is to check.
"""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
VECTORS = ROOT / "tests" / "vectors"
FRAME_FILES = ("stream", "connection", "rooms", "accounts", "links", "events")
INPUT_FILES = ("invalid", "limits")
CODES = {"bad_request", "not_supported", "not_authenticated"}
CODES |= {"protocol_error", "frame_too_large", "unsupported_version"}
BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
SMALLEST_ROOM, LARGEST_ROOM = 58**10, 2**64 - 1
ALWAYS_TEXT = {"room", "after", "stamp", "incarnation"}
SHORT_BYTES = {"secret", "password", "old", "new", "invitation"}
HIGHEST = {"mode": 1, "from": 1, "scope": 1, "action": 5, "policy": 1, "method": 4}
# What protocol.md lists by type alone, and the names the vectors give it.
LIST_NAMES = {
    "source_info": "sources",
    "track_info": "tracks",
    "room_entry": "rooms",
    "delivery": "deliveries",
    "contact": "contacts",
    "figure": "figures",
    "node_entry": "nodes",
    "room_load": "rooms",
    "subscriber_load": "subscribers",
}
STREAM_HEADER = [("u64", "room"), ("u32", "source"), ("u64", "seq"), ("i64", "timestamp_us")]

Vector = dict[str, Any]
Fields = list[tuple[str, str]]


class Layouts(NamedTuple):
    """The document's tables: frame types by number, composites by name."""

    frames: dict[int, tuple[str, Fields]]
    composites: dict[str, Fields]


def parse_fields(cell: str) -> Fields:
    """Return (type, name) of each field in a table's cell."""
    fields: Fields = []
    for text in re.findall(r"`([^`]+)`", cell.split(". ")[0]):
        kind, _, name = text.partition(" ")
        inner = re.fullmatch(r"list<(\w+)>", kind)
        fields.append((kind, name or (LIST_NAMES[inner[1]] if inner else kind)))
    return fields


def read_layouts() -> Layouts:
    frames: dict[int, tuple[str, Fields]] = {}
    composites: dict[str, Fields] = {}
    text = (ROOT / "protocol.md").read_text(encoding="utf-8")
    error = re.search(r"^ERROR 0x80: (.*?)\. ", text, re.MULTILINE | re.DOTALL)
    assert error is not None
    frames[0x80] = ("ERROR", parse_fields(error[1]))
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) >= 4 and re.fullmatch(r"0x[0-9a-f]{2}", cells[0]):
            number, name = int(cells[0], 16), cells[1]
            is_event = 0x60 <= number < 0x80
            frames[number] = (name, parse_fields(cells[2 if is_event else 3]))
            answer = re.match(r"(\w*) ?0x([0-9a-f]{2}): (.*)", cells[-1])
            if not is_event and answer is not None:
                own_name, answer_number, fields = answer.groups()
                assert int(answer_number, 16) == number + 0x80
                frames[number + 0x80] = (own_name or f"{name}_ANSWER", parse_fields(fields))
        elif len(cells) == 2 and cells[0].strip("`") in {*LIST_NAMES, "room_info"}:
            composites[cells[0].strip("`")] = parse_fields(cells[1])
    return Layouts(frames, composites)


LAYOUTS = read_layouts()


class Cursor:
    """Reads one frame's fields in order, each as the vectors write it."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        assert self.at + size <= len(self.data), "the frame ends within a field"
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, size: int, *, signed: bool = False) -> int:
        return int.from_bytes(self.take(size), "big", signed=signed)

    def field(self, kind: str, name: str) -> object:
        if kind in ("u8", "u16", "u32"):
            return self.number(int(kind[1:]) // 8)
        if kind in ("u64", "i64", "room"):
            value = self.number(8, signed=kind == "i64")
            assert kind != "room" or value >= SMALLEST_ROOM
            return str(value) if name in ALWAYS_TEXT or abs(value) >= 2**53 else value
        if kind == "bool":
            value = self.number(1)
            assert value in (0, 1)
            return value == 1
        if kind == "str":
            size = self.number(2)
            assert size <= 1024
            return self.take(size).decode("utf-8")
        if kind == "bytes":
            size = self.number(4)
            assert name not in SHORT_BYTES or size <= 4096
            return self.take(size).hex()
        if kind == "token":
            return self.take(16).hex()
        if kind.startswith("list<"):
            return [self.field(kind[5:-1], "") for _ in range(self.number(2))]
        return self.fields(LAYOUTS.composites[kind])

    def fields(self, layout: Fields) -> dict[str, object]:
        return {name: self.field(kind, name) for kind, name in layout}


def load(stem: str) -> dict[str, Any]:
    loaded = json.loads((VECTORS / f"{stem}.json").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def vectors(*stems: str) -> list[Any]:
    return [
        pytest.param(vector, id=vector["name"])
        for stem in stems
        for vector in load(stem)["vectors"]
    ]


def joined(vector: Vector) -> bytes:
    assert all(comment for _, comment in vector["hex"]), "every field has a comment"
    return bytes.fromhex("".join(digits for digits, _ in vector["hex"]))


@pytest.mark.parametrize("vector", vectors(*FRAME_FILES))
def test_frame_is_what_its_bytes_say(vector: Vector) -> None:
    data = joined(vector)
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    number, flags, track, words = data[4:8]
    cursor = Cursor(data[8:])
    if number == 0x40:
        expected = {"type": "STREAM", "flags": flags, "track": track}
        expected |= cursor.fields(STREAM_HEADER)
        expected["ext"] = cursor.take(4 * words).hex()
        expected["payload"] = cursor.take(len(cursor.data) - cursor.at).hex()
    else:
        name, layout = LAYOUTS.frames[number]
        expected = {"type": name, "request_id": cursor.number(4)}
        cursor.take(4 * words)
        expected |= cursor.fields(layout)
        odd = flags != 0 or track != 0 or words != 0 or cursor.at != len(cursor.data)
        assert odd == ("decode_only" in vector)
    assert vector["frame"] == expected
    wide = any(
        isinstance(value, str) and name in {"seq", "first_seq", "last_seq", "timestamp_us"}
        for name, value in vector["frame"].items()
    )
    assert wide == vector.get("wide", False)


def test_every_frame_type_has_a_vector() -> None:
    seen = {joined(vector)[4] for stem in FRAME_FILES for vector in load(stem)["vectors"]}
    assert seen == {0x40, *LAYOUTS.frames}


def test_layouts_were_found() -> None:
    assert set(LAYOUTS.composites) == {*LIST_NAMES, "room_info"}
    assert LAYOUTS.frames[0x14] == (
        "SUBSCRIBE",
        [("room", "room"), ("u8", "from"), ("u64", "credit")],
    )
    assert (
        len(LAYOUTS.frames) == 35 + 28 + 1 + 13
    )  # requests and one-way messages, answers, ERROR, events


@pytest.mark.parametrize("vector", vectors(*INPUT_FILES))
def test_input_is_as_long_as_it_says(vector: Vector) -> None:
    data = joined(vector)
    length = int.from_bytes(data[:4], "big")
    assert len(data) >= 8
    assert (length != len(data) - 4) == vector.get("prefix", False)
    assert vector["receiver"] in ("server", "client")
    assert vector["phase"] in ("new", "welcomed", "open")
    assert vector["level"] in ("framing", "fields", "state")
    expect = vector["expect"]
    match next(iter(expect)):
        case "close":
            assert expect["close"] in CODES and len(expect) == 1
        case "error":
            assert expect["error"] in CODES
            assert expect["request_type"] == data[4]
            assert expect["request_id"] == int.from_bytes(data[8:12], "big")
        case "closed" | "ignored" | "more" as outcome:
            assert expect == {outcome: True}
        case other:
            pytest.fail(f"unknown outcome {other}")


@pytest.mark.parametrize("vector", vectors("invalid"))
def test_fields_cannot_be_read_exactly_where_that_is_the_fault(vector: Vector) -> None:
    data = joined(vector)
    if vector["level"] == "framing":
        return
    name, layout = LAYOUTS.frames.get(data[4], ("", []))
    cursor = Cursor(data[8:])
    cursor.take(4 + 4 * data[7])
    try:
        values = cursor.fields(layout)
    except (AssertionError, UnicodeDecodeError):
        readable = False
    else:
        highest = HIGHEST | ({"kind": 1} if name == "BAN" else {})
        numbers = {name: value for name, value in values.items() if isinstance(value, int)}
        readable = all(value <= highest.get(name, value) for name, value in numbers.items())
    assert readable == (vector["level"] == "state")


def test_names_are_unique() -> None:
    names = [v["name"] for stem in (*FRAME_FILES, *INPUT_FILES) for v in load(stem)["vectors"]]
    assert len(names) == len(set(names))


def base58_value(text: str) -> int | None:
    value = 0
    for character in text:
        digit = BASE58.find(character)
        if digit < 0:
            return None
        value = value * 58 + digit
    return value


def is_room(value: int | None) -> bool:
    return value is not None and SMALLEST_ROOM <= value <= LARGEST_ROOM


def test_room_ids() -> None:
    cases = load("room_ids")
    for case in cases["valid"]:
        assert len(case["text"]) == 11
        assert base58_value(case["text"]) == int(case["room"]) and is_room(int(case["room"]))
    for case in cases["invalid_text"]:
        assert len(case["text"]) != 11 or not is_room(base58_value(case["text"])), case
    for case in cases["invalid_value"]:
        assert not is_room(int(case["room"])), case


def test_account_names_have_the_length_they_claim() -> None:
    cases = load("account_names")
    for case in cases["valid"]:
        assert 1 <= len(case["text"]) <= 64 and len(case["text"].encode()) <= 255
    texts = [case["text"] for group in ("valid", "invalid") for case in cases[group]]
    assert len(texts) == len(set(texts))
