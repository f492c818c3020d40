"""Control frames with their fields: round trips, bounds, and protocol.md's tables."""

import enum
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.protocol.builders import ROOM, control_bytes, load_vectors, split
from tim_trio.errors import Code, LocalProtocolError
from tim_trio.protocol import messages, wire
from tim_trio.protocol.messages import (
    AuthenticateAnswer,
    Close,
    Gap,
    Hello,
    Ping,
    Publish,
    TrackInfo,
    TrackState,
    UnreadableFields,
    decode,
    encode,
    encode_close,
    is_account_name,
    is_known_type,
    type_of,
)
from tim_trio.protocol.room_ids import END_ROOM_ID, FIRST_ROOM_ID

RECORDS: list[type] = [
    value for value in vars(messages).values() if isinstance(value, type) and attrs.has(value)
]
COMPOSITES = {"TrackInfo", "SourceInfo", "RoomInfo", "RoomEntry", "Delivery", "ContactEntry"}
COMPOSITES |= {"Figure", "NodeEntry", "RoomLoad", "SubscriberLoad"}
# Beside the classes the module imports for its own use.
MESSAGES = [
    record
    for record in RECORDS
    if record.__module__ == messages.__name__ and record.__name__ not in COMPOSITES
]

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.just("é" * 512)
_of_field: list[tuple[object, st.SearchStrategy[Any]]] = [
    (wire.U8, st.integers(0, 2**8 - 1)),
    (wire.U16, st.integers(0, 2**16 - 1)),
    (wire.U32, st.integers(0, 2**32 - 1)),
    (wire.U64, st.integers(0, 2**64 - 1)),
    (wire.Room, st.integers(FIRST_ROOM_ID, END_ROOM_ID - 1)),
    (wire.Text, _texts),
    (wire.Blob, st.binary(max_size=100)),
    (wire.Secret, st.binary(max_size=100) | st.just(bytes(4096))),
    (wire.Token, st.binary(min_size=16, max_size=16)),
    (bool, st.booleans()),
]


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """Return every value that a field of this type can take."""
    for known, strategy in _of_field:
        if hint == known:
            return strategy
    assert get_origin(hint) is not Annotated, f"{hint} has no strategy"
    if get_origin(hint) is list:
        return st.lists(values_of(get_args(hint)[0]), max_size=4)
    if issubclass(hint, enum.IntEnum):
        return st.sampled_from(hint)
    return records_of(hint)


def records_of(record: type) -> st.SearchStrategy[Any]:
    hints = get_type_hints(record, include_extras=True)
    return st.builds(record, **{name: values_of(hint) for name, hint in hints.items()})


def fields_of(message: object) -> bytes:
    return encode(message)[12:]


def test_all_types_are_there() -> None:
    expected = {*range(0x01, 0x05), *range(0x10, 0x20), *range(0x20, 0x27), *range(0x30, 0x38)}
    one_way = {0x04, 0x1B, 0x32, 0x33, 0x35, 0x36, 0x37}
    expected |= {number + 0x80 for number in expected - one_way}
    expected |= {0x80, *range(0x60, 0x6D)}
    assert {type_of(message) for message in MESSAGES} == expected
    assert {number for number in range(-1, 300) if is_known_type(number)} == expected
    assert len(MESSAGES) == len(expected)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.__name__)
@settings(max_examples=min(40, settings().max_examples))  # for each of 65 classes
@given(data=st.data())
def test_round_trip(message: type, data: st.DataObject) -> None:
    value = data.draw(records_of(message))
    request_id = data.draw(st.integers(0, 2**32 - 1))
    frame = encode(value, request_id)
    cut = split(frame, max_frame_bytes=2**32, max_init_bytes=2**32)
    assert cut.code is None and cut.rest == 0
    ((number, same_id, fields),) = cut.frames
    assert (number, same_id) == (type_of(message), request_id)
    assert isinstance(fields, bytes)
    assert frame == control_bytes(type_of(message), fields, request_id=request_id)
    assert decode(type_of(message), fields) == value
    later = data.draw(st.binary(max_size=20))
    assert decode(type_of(message), fields + later) == value, "later fields are ignored"
    if fields:
        with pytest.raises(UnreadableFields):
            decode(type_of(message), fields[: data.draw(st.integers(0, len(fields) - 1))])


@given(st.sampled_from(MESSAGES), st.binary(max_size=200))
def test_any_fields_are_a_message_or_unreadable(message: type, fields: bytes) -> None:
    try:
        value = decode(type_of(message), fields)
    except UnreadableFields:
        return
    assert type(value) is message
    assert fields.startswith(fields_of(value)), "each value has one spelling"


@pytest.mark.parametrize("number", [0x00, 0x05, 0x3F, 0x40, 0x41, 0x6D, 0x84, 0xFF])
def test_an_unknown_type(number: int) -> None:
    with pytest.raises(UnreadableFields, match=f"type {number:#04x}"):
        decode(number, b"")


def test_only_messages_are_encoded() -> None:
    with pytest.raises(LocalProtocolError, match="str is not a message"):
        encode("hello")
    with pytest.raises(LocalProtocolError, match="TrackInfo is not a message"):
        encode(TrackInfo(track=0, state=0, last_seq=0))


@pytest.mark.parametrize("request_id", [-1, 2**32])
def test_a_request_id_outside_its_range(request_id: int) -> None:
    with pytest.raises(LocalProtocolError, match="does not fit u32"):
        encode(Ping(stamp=0), request_id)


def test_a_field_outside_its_range() -> None:
    with pytest.raises(LocalProtocolError, match="does not fit u64"):
        encode(Ping(stamp=-1))


def test_unreadable_fields_can_be_caught_from_here() -> None:
    assert messages.UnreadableFields is wire.UnreadableFields


def test_worked_examples() -> None:
    hello = Hello(magic=0x54494D54, min_version=1, max_version=1, capabilities=0, agent="ex")
    assert encode(hello, 1).hex() == "00000016010000000000000154494d5401010000000000026578"
    gap = Gap(room=ROOM, source=7, track=1, first_seq=5, last_seq=9, reason=1)
    assert encode(gap).hex() == (
        "0000002663000000" "00000000" "735b0a1c2d3e4f12" "00000007" "01"
        "0000000000000005" "0000000000000009" "01"
    )  # fmt: skip
    close = Close(code=1000, retry=True, retry_after_ms=0, text="")
    assert decode(0x04, fields_of(close)) == close


@pytest.mark.parametrize("code", [code for code in Code if code < 2000])
def test_a_close_says_only_its_codes_name(code: Code) -> None:
    close = decode(0x04, encode_close(code)[12:])
    assert close == Close(
        code=code, retry=code < 1100, retry_after_ms=0, text=code.label.replace("_", " ")
    )


def test_secrets_stay_out_of_logs() -> None:
    secret = b"do not show"
    shown = [
        repr(
            message(**{name: secret if hint == wire.Secret else 0 for name, hint in hints.items()})
        )
        for message in MESSAGES
        if wire.Secret in (hints := get_type_hints(message, include_extras=True)).values()
    ]
    assert len(shown) == 4
    shown.append(repr(Publish(room=ROOM, token=secret)))
    shown.append(
        repr(AuthenticateAnswer(account="a", rights=0, session_token=secret, expires_ms=0))
    )
    assert not any("do not show" in text for text in shown)


@pytest.mark.parametrize("state", range(16))
def test_track_state(state: int) -> None:
    info = TrackInfo(track=0, state=state, last_seq=0)
    assert info.ended is bool(state & 1)
    assert TrackState(state) & TrackState.ENDED == state & 1


ACCOUNT_NAMES = load_vectors("account_names")


def test_every_group_of_account_names_is_used() -> None:
    assert set(ACCOUNT_NAMES) == {"description", "valid", "invalid"}


@pytest.mark.parametrize("case", ACCOUNT_NAMES["valid"], ids=lambda case: case["why"])
def test_account_name(case: dict[str, str]) -> None:
    assert is_account_name(case["text"])


@pytest.mark.parametrize("case", ACCOUNT_NAMES["invalid"], ids=lambda case: case["why"])
def test_no_account_name(case: dict[str, str]) -> None:
    assert not is_account_name(case["text"])


def test_a_lone_surrogate_is_no_account_name() -> None:
    assert not is_account_name("a\ud800")
