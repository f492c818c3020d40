"""The golden vectors against the codec, in both directions.

What only a connection's state can tell (``level`` is ``state``, and what a type
outside the known ones leads to) is tested with the session; here such frames
must come out of the decoder well-formed.
"""

from typing import Any, cast, get_args, get_origin, get_type_hints

import attrs
import pytest

from tests.protocol.builders import VALID_FILES, VECTORS, load_vectors, split, vector_bytes
from tim_trio.errors import Code, RemoteProtocolError
from tim_trio.protocol import messages
from tim_trio.protocol.decoder import ControlFrame, Decoder
from tim_trio.protocol.layout import MAX_GREETING_BYTES
from tim_trio.protocol.messages import UnreadableFields, decode, encode, is_known_type, type_of
from tim_trio.protocol.runs import Run
from tim_trio.protocol.stream import StreamFrame, encode_stream_frame, iter_stream_frames

Vector = dict[str, Any]

OTHER_FILES = {"invalid", "limits", "room_ids", "account_names", "media", "tim"}
OTHER_FILES |= {"file_messages", "file_names", "placement"}
OUR_NAMES = {"from": "start", "room_info": "info"}
OUR_CLASSES = {"ROOM_INFO": messages.GetRoomInfo}


def vectors(*stems: str) -> list[Any]:
    return [
        pytest.param(vector, id=vector["name"])
        for stem in stems
        for vector in load_vectors(stem)["vectors"]
    ]


def decoder_of(vector: Vector) -> Decoder:
    greeting = vector.get("phase") == "new"
    return Decoder(
        max_frame_bytes=MAX_GREETING_BYTES if greeting else 1_048_576, max_init_bytes=65_536
    )


def class_of(name: str) -> type:
    """Return the class of a message by its name in protocol.md."""
    return OUR_CLASSES.get(name) or cast(
        "type", getattr(messages, "".join(part.capitalize() for part in name.split("_")))
    )


def value_of(hint: Any, value: Any) -> Any:
    """Return a vector's value as a field of this type holds it."""
    if get_origin(hint) is list:
        return [value_of(get_args(hint)[0], entry) for entry in value]
    kind = hint if isinstance(hint, type) else get_args(hint)[0]
    if kind is bytes:
        return bytes.fromhex(value)
    if issubclass(kind, int):
        assert isinstance(value, bool) == (kind is bool)
        return kind(int(value))
    if attrs.has(kind):
        return record_of(kind, value)
    assert kind is str
    return value


def record_of(record: type, values: Vector) -> Any:
    hints = get_type_hints(record, include_extras=True)
    named = {OUR_NAMES.get(name, name): value for name, value in values.items()}
    assert list(named) == list(hints), "fields in the order of protocol.md"
    return record(**{name: value_of(hint, named[name]) for name, hint in hints.items()})


def stream_frame_of(frame: Vector) -> StreamFrame:
    values = {name: value for name, value in frame.items() if name not in ("type", "ext")}
    hints = get_type_hints(StreamFrame)
    assert set(values) == set(hints)
    return StreamFrame(**{name: value_of(hints[name], value) for name, value in values.items()})


def control_of(vector: Vector) -> ControlFrame:
    (item,) = decoder_of(vector).feed(vector_bytes(vector))
    assert isinstance(item, ControlFrame)
    return item


def test_every_file_is_used() -> None:
    assert {path.stem for path in VECTORS.glob("*.json")} == {*VALID_FILES, *OTHER_FILES}


def test_every_message_has_a_vector() -> None:
    seen = {
        vector["frame"]["type"] for stem in VALID_FILES for vector in load_vectors(stem)["vectors"]
    }
    numbers = {type_of(class_of(name)) for name in seen - {"STREAM"}}
    assert numbers == {number for number in range(256) if is_known_type(number)}


@pytest.mark.parametrize("vector", vectors(*VALID_FILES))
def test_decode(vector: Vector) -> None:
    data = vector_bytes(vector)
    (item,) = decoder_of(vector).feed(data)
    if isinstance(item, Run):
        assert item.data == data
        (frame,) = iter_stream_frames(item.data)
        expected = stream_frame_of(vector["frame"])
        assert frame == expected
        assert (item.room, item.source, item.track) == (frame.room, frame.source, frame.track)
        assert item.first_seq == item.last_seq == frame.seq
        assert item.init_bytes == (len(data) if frame.is_init else 0)
        assert item.first_key == item.last_key == (0 if frame.is_key else -1)
        assert item.end_offset == (0 if frame.is_end else -1)
    else:
        fields = dict(vector["frame"])
        message = class_of(fields.pop("type"))
        assert item.type == type_of(message)
        assert item.request_id == fields.pop("request_id")
        assert decode(item.type, item.fields) == record_of(message, fields)


@pytest.mark.parametrize("vector", vectors(*VALID_FILES))
def test_encode(vector: Vector) -> None:
    fields = dict(vector["frame"])
    if "decode_only" in vector:
        # Not what we would send; but what we would send instead says the same.
        item = control_of(vector)
        again = encode(decode(item.type, item.fields), item.request_id)
        assert Decoder(max_frame_bytes=2**20, max_init_bytes=0).feed(again) != []
        assert again != vector_bytes(vector)
    elif fields["type"] == "STREAM":
        frame = stream_frame_of(fields)
        if not fields["ext"]:
            assert encode_stream_frame(frame) == vector_bytes(vector)
        else:
            (run,) = decoder_of(vector).feed(vector_bytes(vector))
            assert isinstance(run, Run) and run.data == vector_bytes(vector), "forwarded verbatim"
    else:
        message = class_of(fields.pop("type"))
        request_id = fields.pop("request_id")
        assert encode(record_of(message, fields), request_id) == vector_bytes(vector)


@pytest.mark.parametrize("vector", vectors("limits"))
def test_limits(vector: Vector) -> None:
    assert vector["expect"] == {"more": True}
    data = vector_bytes(vector)
    length = 4 + int.from_bytes(data[:4], "big")
    decoder = decoder_of(vector)
    assert decoder.feed(data) == []
    assert decoder.buffered_bytes == len(data)
    assert len(decoder.feed(bytes(length - len(data)))) == 1, "and with its rest it is a frame"


@pytest.mark.parametrize("vector", vectors("invalid"))
def test_invalid(vector: Vector) -> None:
    data = vector_bytes(vector)
    number = data[4]
    decoder = decoder_of(vector)
    code = split(
        data, max_frame_bytes=decoder.max_frame_bytes, max_init_bytes=decoder.max_init_bytes
    ).code
    match vector["level"]:
        case "framing" if code is not None:
            with pytest.raises(RemoteProtocolError) as caught:
                decoder.feed(data)
            assert vector["expect"] == {"close": code.label}
            assert caught.value.code is code
        case "framing":
            # Well framed; the fault lies in its type or its request_id.
            item = control_of(vector)
            assert (item.type, item.request_id) == (number, int.from_bytes(data[8:12], "big"))
            assert not is_known_type(number) or item.request_id == 0 or number >= 0x60
        case "fields":
            item = control_of(vector)
            with pytest.raises(UnreadableFields):
                decode(item.type, item.fields)
        case "state" if number == 0x40:
            (run,) = decoder.feed(data)
            assert isinstance(run, Run)
        case "state":
            item = control_of(vector)
            if is_known_type(number):
                decode(item.type, item.fields)
        case level:
            pytest.fail(f"unknown level {level}")


def test_outcomes_are_known() -> None:
    labels = {code.label for code in Code}
    for vector in load_vectors("invalid")["vectors"]:
        match vector["expect"]:
            case {"close": name} | {"error": name}:
                assert name in labels
            case outcome:
                assert outcome in ({"closed": True}, {"ignored": True})
