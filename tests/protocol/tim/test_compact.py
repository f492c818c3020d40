"""Thrift's compact protocol: beside thriftpy2, and any bytes."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.tim import thrift_reference
from tests.protocol.tim.strategies import any_struct
from tim_trio.protocol.tim import compact
from tim_trio.protocol.tim.structs import (
    FIELDS,
    Struct,
    Tid,
    TimAck,
    TimAuth,
    TimError,
    TimFormatError,
    TimMessage,
    TimReq,
    TimStream,
    is_default,
)

KINDS = (TimAck, TimAuth, TimReq, TimStream, TimMessage, Tid, TimError)


def as_reference(value: Any) -> dict[str, Any]:
    """Return what thriftpy2 should read."""
    values = {}
    for field in FIELDS[type(value)]:
        content = getattr(value, field.name)
        if not is_default(field, content):
            if type(content) in FIELDS:
                content = as_reference(content)
            values[field.name] = list(content) if isinstance(content, tuple) else content
    return values


@given(any_struct)
def test_round_trip(value: Struct) -> None:
    assert compact.decode(type(value), compact.encode(value)) == value


@given(any_struct)
def test_another_implementation_reads_what_we_write(value: Struct) -> None:
    assert thrift_reference.read(type(value), compact.encode(value)) == as_reference(value)


@given(any_struct)
def test_we_read_what_another_implementation_writes(value: Struct) -> None:
    assert compact.decode(type(value), thrift_reference.write(value)) == value


@given(
    st.sampled_from(KINDS),
    st.binary(max_size=60)
    | any_struct.map(compact.encode)
    | st.tuples(any_struct.map(compact.encode), st.integers(0, 60), st.binary(max_size=3)).map(
        lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] + 1 :]
    ),
)
def test_any_bytes_are_a_struct_or_the_error(kind: type[Struct], data: bytes) -> None:
    try:
        value = compact.decode(kind, data)
    except TimFormatError:
        return
    assert compact.decode(kind, compact.encode(value)) == value


@pytest.mark.parametrize(
    "skipped",
    [
        pytest.param("81", id="true"),
        pytest.param("8300", id="i8"),
        pytest.param("84ffff03", id="i16"),
        pytest.param("86" + "ff" * 9 + "01", id="i64"),
        pytest.param("87" + "01" * 8, id="double"),
        pytest.param("8d" + "01" * 16, id="uuid"),
        pytest.param("880161", id="binary"),
        pytest.param("89250204", id="list of i32"),
        pytest.param("89f510" + "02" * 16, id="long list"),
        pytest.param("8a210102", id="set of booleans, a byte each"),
        pytest.param("8b00", id="empty map"),
        pytest.param("8b02580201620401 63".replace(" ", ""), id="map of i32 to binary"),
        pytest.param("8c130500", id="struct"),
        pytest.param("8c0380020500", id="struct with a long field header"),
    ],
)
def test_unknown_fields_are_passed_over(skipped: str) -> None:
    data = bytes.fromhex("180161" + skipped + "00")
    assert compact.decode(TimAuth, data) == TimAuth(name="a")


def test_a_field_of_another_type_counts_as_unknown() -> None:
    assert compact.decode(TimAuth, bytes.fromhex("1502180178" + "00")) == TimAuth(pwd="x")
    assert compact.decode(TimAck, bytes.fromhex("11" + "2501" + "00")) == TimAck(ok=True)
    with pytest.raises(TimFormatError, match="ok missing"):
        compact.decode(TimAck, bytes.fromhex("130100"))


def test_long_field_headers_and_a_field_that_comes_again() -> None:
    data = bytes.fromhex("080201" + "61" + "08040162" + "00")
    assert compact.decode(TimAuth, data) == TimAuth(name="a", pwd="b")
    assert compact.decode(TimAuth, bytes.fromhex("180161" + "0802016200")) == TimAuth(name="b")


def test_a_struct_within_structs_has_its_bound() -> None:
    deep = bytes.fromhex("8c") + bytes.fromhex("1c") * 14 + bytes(16)
    assert compact.decode(TimAuth, deep) == TimAuth()
    deep = bytes.fromhex("8c") + bytes.fromhex("1c") * 16 + bytes(18)
    with pytest.raises(TimFormatError, match="nested too deep"):
        compact.decode(TimAuth, deep)


_HUGE = "f" * 16 + "01"  # a varint of more than 2^60


@pytest.mark.parametrize(
    "kind, data",
    [
        pytest.param(TimReq, "99f1" + _HUGE + "01" * 2000, id="booleans that are skipped"),
        pytest.param(TimReq, "9af3" + _HUGE + "01" * 2000, id="set"),
        pytest.param(TimReq, "9b" + _HUGE + "33" + "01" * 2000, id="map that is skipped"),
        pytest.param(TimReq, "9c" + "13aa" * 2000, id="struct that is skipped"),
        pytest.param(TimReq, "11" * 2000, id="fields"),
        pytest.param(TimReq, "1502" + "0502" * 2000, id="long field headers"),
        pytest.param(TimMessage, "09" + "22" + "f8" + _HUGE + "00" * 2000, id="receivers"),
        pytest.param(TimAuth, "7b" + _HUGE + "88" + "00" * 2000, id="map of texts"),
    ],
)
def test_a_count_is_looked_at_before_anything_is_read(kind: type[Struct], data: str) -> None:
    with pytest.raises(TimFormatError, match="too many parts"):
        compact.decode(kind, bytes.fromhex(data))


@pytest.mark.parametrize("data", ["28" + _HUGE, "48" + _HUGE + "61"])
def test_a_text_that_claims_more_than_there_is(data: str) -> None:
    with pytest.raises(TimFormatError, match="ends in the middle"):
        compact.decode(TimReq, bytes.fromhex(data))


def test_our_own_structs_nest_no_deeper_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact, "_MAX_DEPTH", 1)
    with pytest.raises(TimFormatError, match="nested too deep"):
        compact.decode(TimMessage, compact.encode(TimMessage(to_tid=Tid(node="bob"))))


def test_all_but_the_required_is_left_out() -> None:
    assert compact.encode(TimAuth()) == b"\0"
    assert compact.encode(TimStream()) == bytes.fromhex("16001800" + "3800" + "00")
    assert all(attrs.has(kind) for kind in KINDS)


def test_long_lists_and_empty_maps() -> None:
    many = TimMessage(to_list=tuple(map(str, range(20))))
    assert compact.decode(TimMessage, compact.encode(many)) == many
    assert compact.decode(TimAuth, bytes.fromhex("7b00" + "00")) == TimAuth()
