"""The messages of protocol.md, Annex B, against the golden vectors and whatever else comes."""

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tim_trio.net.client.files import messages
from tim_trio.net.client.files.messages import By, Message

VECTORS = json.loads(
    (Path(__file__).parents[2] / "vectors" / "file_messages.json").read_text(encoding="utf-8")
)
CLASSES: dict[str, type[Any]] = {
    "offer": messages.Offer,
    "accept": messages.Accept,
    "decline": messages.Decline,
    "start": messages.Start,
    "taken": messages.Taken,
    "pause": messages.Pause,
    "cancel": messages.Cancel,
    "failed": messages.Failed,
    "done": messages.Done,
}


def build(members: dict[str, Any]) -> Message:
    fields = dict(members)
    kind = CLASSES[fields.pop("type")]
    if fields.pop("version", 1) != 1:
        kind = messages.UnknownOffer
    if "by" in fields:
        fields["by"] = By(fields["by"])
    message: Message = kind(**fields)
    return message


@pytest.mark.parametrize("vector", VECTORS["valid"], ids=lambda vector: vector["name"])
def test_a_valid_message_is_read(vector: dict[str, Any]) -> None:
    message = messages.decode(vector["text"].encode())
    assert message == build(vector["message"])
    if not isinstance(message, messages.UnknownOffer):
        assert message is not None
        assert messages.decode(messages.encode(message)) == message


@pytest.mark.parametrize("vector", VECTORS["ignored"], ids=lambda vector: vector["why"])
def test_a_malformed_message_is_nothing(vector: dict[str, Any]) -> None:
    payload = bytes.fromhex(vector["hex"]) if "hex" in vector else vector["text"].encode()
    assert messages.decode(payload) is None


def test_every_type_has_a_vector() -> None:
    seen = {vector["message"]["type"] for vector in VECTORS["valid"]}
    assert seen == set(CLASSES)


def test_a_written_message_says_its_version_and_nothing_empty() -> None:
    offer = messages.Offer(transfer="0" * 32, name="a", size=0, sha256="0" * 64)
    members = json.loads(messages.encode(offer))
    assert members["version"] == messages.VERSION
    assert "media_type" not in members
    pause = messages.Pause(transfer="0" * 32, by=By.SENDER, stopping=False)
    assert json.loads(messages.encode(pause)) == {
        "type": "pause",
        "transfer": "0" * 32,
        "by": "sender",
        "stopping": False,
    }


@given(st.binary(max_size=5000))
def test_any_bytes_give_a_message_or_nothing(payload: bytes) -> None:
    messages.decode(payload)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
_MEMBERS = sorted({name for vector in VECTORS["valid"] for name in json.loads(vector["text"])})


@given(
    st.sampled_from(VECTORS["valid"]),
    st.dictionaries(st.sampled_from(_MEMBERS), _JSON, max_size=2),
)
def test_any_members_give_a_message_that_fits_or_nothing(
    vector: dict[str, Any], changes: dict[str, Any]
) -> None:
    members = {**json.loads(vector["text"]), **changes}
    message = messages.decode(json.dumps(members).encode())
    if message is not None and not isinstance(message, messages.UnknownOffer):
        assert len(messages.encode(message)) <= messages.MAX_MESSAGE_BYTES
        for field in attrs.fields(type(message)):
            value = getattr(message, field.name)
            if value != "" and not isinstance(value, bool):
                # A number read from 1.0 is written as 1, and is the same.
                assert members[field.name] == value


def test_ids_are_fresh() -> None:
    assert len({messages.new_id() for _ in range(100)}) == 100
    assert len(messages.new_id()) == messages.ID_DIGITS
