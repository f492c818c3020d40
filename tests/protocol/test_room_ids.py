"""Room ids as text: strict both ways."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.builders import load_vectors
from tim_trio.protocol.room_ids import (
    ALPHABET,
    END_ROOM_ID,
    FIRST_ROOM_ID,
    format_room_id,
    is_room_id,
    parse_room_id,
)

CASES = load_vectors("room_ids")


def test_every_group_of_the_vectors_is_used() -> None:
    assert set(CASES) == {"description", "valid", "invalid_text", "invalid_value"}


@pytest.mark.parametrize("case", CASES["valid"], ids=lambda case: case["text"])
def test_valid(case: dict[str, Any]) -> None:
    room = int(case["room"])
    assert is_room_id(room)
    assert parse_room_id(case["text"]) == room
    assert format_room_id(room) == case["text"]


@pytest.mark.parametrize("case", CASES["invalid_text"], ids=lambda case: ascii(case["text"]))
def test_invalid_text(case: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="room id") as caught:
        parse_room_id(case["text"])
    assert repr(case["text"]) in str(caught.value)


@pytest.mark.parametrize("case", CASES["invalid_value"], ids=lambda case: case["room"])
def test_invalid_value(case: dict[str, Any]) -> None:
    room = int(case["room"])
    assert not is_room_id(room)
    with pytest.raises(ValueError, match="is not a room id"):
        format_room_id(room)


def test_messages_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"has 11 characters, 'abc' has 3"):
        parse_room_id("abc")
    with pytest.raises(ValueError, match=r"'0' cannot occur"):
        parse_room_id("LJ6TN2wdrZ0")
    with pytest.raises(ValueError, match=r"outside the range"):
        parse_room_id("11111111111")


@given(st.integers(FIRST_ROOM_ID, END_ROOM_ID - 1))
def test_round_trip_of_numbers(room: int) -> None:
    text = format_room_id(room)
    assert len(text) == 11
    assert parse_room_id(text) == room


@given(st.text(ALPHABET, min_size=11, max_size=11) | st.text(max_size=12))
def test_a_text_is_refused_or_the_only_spelling(text: str) -> None:
    try:
        room = parse_room_id(text)
    except ValueError:
        return
    assert format_room_id(room) == text
