"""Field types: what each takes, and what it refuses, in both directions."""

import enum
from typing import Any, get_args

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tim_trio.errors import LocalProtocolError, TimError
from tim_trio.protocol import wire
from tim_trio.protocol.room_ids import END_ROOM_ID, FIRST_ROOM_ID
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


class Colour(enum.IntEnum):
    RED = 0
    BLUE = 7


@attrs.frozen(kw_only=True)
class Inner:
    number: U16
    name: Text


@attrs.frozen(kw_only=True)
class Everything:
    u8: U8
    u16: U16
    u32: U32
    u64: U64
    room: Room
    text: Text
    blob: Blob
    secret: Secret
    token: Token
    flag: bool
    colour: Colour
    inner: Inner
    numbers: list[U8]
    inners: list[Inner]


@attrs.frozen
class JustBool:
    value: bool


@attrs.frozen
class JustColour:
    value: Colour


@attrs.frozen
class JustNumbers:
    value: list[U8]


@attrs.frozen
class JustInners:
    value: list[Inner]


EVERYTHING = Everything(
    u8=1,
    u16=2,
    u32=3,
    u64=4,
    room=FIRST_ROOM_ID,
    text="é",
    blob=b"abc",
    secret=b"",
    token=bytes(range(16)),
    flag=True,
    colour=Colour.BLUE,
    inner=Inner(number=5, name="x"),
    numbers=[1, 2],
    inners=[Inner(number=6, name=""), Inner(number=7, name="y")],
)
EVERYTHING_BYTES = bytes.fromhex(
    "01 0002 00000003 0000000000000004 05fa8624c7fba400 0002c3a9 00000003616263 00000000"
    "000102030405060708090a0b0c0d0e0f 01 07 0005000178 00020102 0002 00060000 0007000179"
)


def field_of(hint: object) -> Field[Any]:
    field = get_args(hint)[1]
    assert isinstance(field, Field)
    return field


def read(hint: object, data: str) -> object:
    return field_of(hint).read(Reader(bytes.fromhex(data)))


def test_a_record_is_its_fields_in_order() -> None:
    codec = record_codec(Everything)
    assert codec.write(EVERYTHING) == EVERYTHING_BYTES
    assert codec.read(Reader(EVERYTHING_BYTES)) == EVERYTHING


@pytest.mark.parametrize("size", range(len(EVERYTHING_BYTES)))
def test_a_record_cut_anywhere_is_unreadable(size: int) -> None:
    with pytest.raises(UnreadableFields, match="ends within a field"):
        record_codec(Everything).read(Reader(EVERYTHING_BYTES[:size]))


def test_what_is_behind_a_record_stays() -> None:
    reader = Reader(EVERYTHING_BYTES + b"rest")
    record_codec(Everything).read(reader)
    assert reader.take(4) == b"rest"


def test_unreadable_fields_are_no_protocol_error() -> None:
    # The connection lives: the request is answered with `bad_request`.
    assert UnreadableFields.__bases__ == (TimError,)


def test_reader_takes_nothing_from_nothing() -> None:
    reader = Reader(b"")
    assert reader.take(0) == b""
    with pytest.raises(UnreadableFields):
        reader.take(1)


@pytest.mark.parametrize("hint, bits", [(U8, 8), (U16, 16), (U32, 32), (U64, 64)])
def test_numbers(hint: object, bits: int) -> None:
    field = field_of(hint)
    most = 2**bits - 1
    for value in (0, 1, most):
        data = value.to_bytes(bits // 8, "big")
        assert field.write(value) == data
        assert field.read(Reader(data)) == value
    for value in (-1, most + 1):
        with pytest.raises(LocalProtocolError, match=f"{value} does not fit u{bits}"):
            field.write(value)


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(LocalProtocolError, match=r"^u16: 65536 does not fit u16$"):
        record_codec(Everything).write(attrs.evolve(EVERYTHING, u16=65_536))
    values: dict[str, Any] = {"text": b"x", "blob": "x", "secret": None}
    for name, value in values.items():
        wrong = attrs.evolve(EVERYTHING, **{name: value})
        with pytest.raises(LocalProtocolError, match=f"{name}: {type(value).__name__} where"):
            record_codec(Everything).write(wrong)


@pytest.mark.parametrize("room", [FIRST_ROOM_ID, END_ROOM_ID - 1])
def test_room(room: int) -> None:
    data = room.to_bytes(8, "big")
    assert field_of(Room).write(room) == data
    assert field_of(Room).read(Reader(data)) == room


@pytest.mark.parametrize("room", [0, FIRST_ROOM_ID - 1])
def test_a_room_outside_its_range(room: int) -> None:
    with pytest.raises(UnreadableFields, match="is not a room id"):
        field_of(Room).read(Reader(room.to_bytes(8, "big")))
    with pytest.raises(LocalProtocolError, match="is not a room id"):
        field_of(Room).write(room)


def test_a_room_too_large_for_its_bytes() -> None:
    with pytest.raises(LocalProtocolError):
        field_of(Room).write(END_ROOM_ID)


@given(st.text(max_size=300))
def test_text(text: str) -> None:
    data = text.encode()
    field = field_of(Text)
    if len(data) <= wire.MAX_TEXT_BYTES:
        assert field.write(text) == len(data).to_bytes(2, "big") + data
        assert field.read(Reader(field.write(text))) == text
    else:
        with pytest.raises(LocalProtocolError):
            field.write(text)


def test_a_text_of_exactly_its_bound() -> None:
    data = field_of(Text).write("é" * 512)
    assert len(data) == 1026
    assert field_of(Text).read(Reader(data)) == "é" * 512


def test_a_text_above_its_bound() -> None:
    with pytest.raises(LocalProtocolError, match="1025 bytes, 1024 allowed"):
        field_of(Text).write("é" * 512 + "a")
    with pytest.raises(UnreadableFields, match="1025 bytes, 1024 allowed"):
        field_of(Text).read(Reader(b"\x04\x01" + b"a" * 1025))


def test_a_lone_surrogate_cannot_be_written() -> None:
    with pytest.raises(LocalProtocolError, match="UTF-8"):
        field_of(Text).write("\ud800")


@pytest.mark.parametrize("data", ["000180", "0002c328", "0002c080", "0003eda080", "0004f4908080"])
def test_a_text_that_is_not_utf8(data: str) -> None:
    with pytest.raises(UnreadableFields, match="not UTF-8"):
        read(Text, data)


def test_blob_has_no_bound_of_its_own() -> None:
    value = bytes(100_000)
    data = field_of(Blob).write(value)
    assert data == (100_000).to_bytes(4, "big") + value
    assert field_of(Blob).read(Reader(data)) == value


def test_a_blob_longer_than_its_frame_reserves_nothing() -> None:
    with pytest.raises(UnreadableFields, match="ends within a field"):
        read(Blob, "ffffffff 00")


def test_secret() -> None:
    value = b"s" * 4096
    assert field_of(Secret).read(Reader(field_of(Secret).write(value))) == value


def test_a_secret_above_its_bound() -> None:
    with pytest.raises(LocalProtocolError, match="4097 bytes, 4096 allowed"):
        field_of(Secret).write(bytes(4097))
    with pytest.raises(UnreadableFields, match="4097 bytes, 4096 allowed"):
        field_of(Secret).read(Reader(b"\0\0\x10\x01" + bytes(4097)))


@pytest.mark.parametrize("size", [0, 15, 17])
def test_a_token_of_the_wrong_size(size: int) -> None:
    with pytest.raises(LocalProtocolError, match=f"16 bytes, not {size}"):
        field_of(Token).write(bytes(size))


def test_bool() -> None:
    codec = record_codec(JustBool)
    for value, data in ((False, b"\0"), (True, b"\1")):
        assert codec.write(JustBool(value)) == data
        assert codec.read(Reader(data)).value is value


@pytest.mark.parametrize("value", [2, 255])
def test_a_bool_that_is_neither(value: int) -> None:
    with pytest.raises(UnreadableFields, match=f"{value} is neither 0 nor 1"):
        record_codec(JustBool).read(Reader(bytes([value])))


def test_choice() -> None:
    codec = record_codec(JustColour)
    for value in Colour:
        assert codec.write(JustColour(value)) == bytes([value])
        assert codec.read(Reader(bytes([value]))).value is value


def test_a_choice_outside_its_set() -> None:
    with pytest.raises(UnreadableFields, match="1 is no Colour"):
        record_codec(JustColour).read(Reader(b"\1"))
    with pytest.raises(LocalProtocolError, match="1 is no Colour"):
        record_codec(JustColour).write(JustColour(1))  # type: ignore[arg-type]


def test_the_longest_list() -> None:
    codec = record_codec(JustNumbers)
    longest = JustNumbers([1] * 65535)
    assert codec.read(Reader(codec.write(longest))) == longest


def test_too_long_a_list() -> None:
    with pytest.raises(LocalProtocolError, match="65536 entries, 65535 allowed"):
        record_codec(JustNumbers).write(JustNumbers([1] * 65536))


def test_a_list_that_ends_early() -> None:
    with pytest.raises(UnreadableFields):
        record_codec(JustInners).read(Reader(bytes.fromhex("0002 0006 0000 0007 0001")))


def test_every_exported_type_is_a_field() -> None:
    for hint in (U8, U16, U32, U64, Room, Text, Blob, Secret, Token):
        assert isinstance(field_of(hint), Field)
