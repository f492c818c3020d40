"""Room ids as people see them: 11 characters of base58.

Source: protocol.md, section 1.
"""

from __future__ import annotations

from typing import Final

ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
DIGITS: Final = 11
#: The smallest id with 11 digits, and the first number too large for a u64.
FIRST_ROOM_ID: Final = 58**10
END_ROOM_ID: Final = 2**64

_VALUES: Final = {character: value for value, character in enumerate(ALPHABET)}


def is_room_id(number: int) -> bool:
    return FIRST_ROOM_ID <= number < END_ROOM_ID


def format_room_id(room: int) -> str:
    """Return the room id's 11 characters.

    Raises:
        ValueError: the number is outside the range of room ids.
    """
    if not is_room_id(room):
        raise ValueError(f"{room} is not a room id")
    digits = []
    for _ in range(DIGITS):
        room, digit = divmod(room, 58)
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits))


def parse_room_id(text: str) -> int:
    """Return the number of a room id given as text.

    Raises:
        ValueError: not exactly 11 base58 characters, or outside the range;
            the message says which.
    """
    if len(text) != DIGITS:
        raise ValueError(f"a room id has {DIGITS} characters, {text!r} has {len(text)}")
    number = 0
    for character in text:
        value = _VALUES.get(character)
        if value is None:
            raise ValueError(f"{character!r} cannot occur in a room id ({text!r})")
        number = number * 58 + value
    if not is_room_id(number):
        raise ValueError(f"{text!r} is outside the range of room ids")
    return number
