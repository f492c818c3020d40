import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tim_trio.net.client.files.names import MAX_BYTES, numbered, safe_name, shortened

VECTORS = json.loads(
    (Path(__file__).parents[2] / "vectors" / "file_names.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("vector", VECTORS["names"], ids=lambda vector: vector["why"])
def test_a_suggested_name_is_made_safe(vector: dict[str, str]) -> None:
    assert safe_name(vector["offered"]) == vector["name"]


def test_what_no_message_can_hold_is_made_safe_too() -> None:
    assert safe_name("lone\ud800surrogate") == "lonesurrogate"
    assert safe_name("") == "file"


def test_shortened_to_less() -> None:
    assert shortened("abcdef.txt", 7) == "abc.txt"
    assert shortened("abc.txt", 7) == "abc.txt"


@pytest.mark.parametrize(
    "name, number, expected",
    [
        ("a.txt", 0, "a.txt"),
        ("a.txt", 1, "a (1).txt"),
        ("a", 2, "a (2)"),
        ("a.b.c", 3, "a.b (3).c"),
        ("a.tar.gz", 1, "a (1).tar.gz"),
    ],
)
def test_numbered(name: str, number: int, expected: str) -> None:
    assert numbered(name, number) == expected


@given(
    st.text(st.characters(), max_size=600) | st.text("./\\ \u3000conCOM1\u200b\x00é", max_size=400)
)
def test_any_name_is_safe(suggested: str) -> None:
    name = safe_name(suggested)
    assert 1 <= len(name.encode()) <= MAX_BYTES + 1
    assert not set(name) & set('/\\<>:"|?*')
    assert name[0] != "." and name[-1] not in ". "
    assert all(unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in name)
    assert safe_name(name) == name
