"""Packets: the golden vectors in both formats, and any bytes."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.builders import load_vectors
from tests.protocol.tim import thrift_reference
from tests.protocol.tim.strategies import any_struct, blobs, texts
from tim_trio.protocol.tim import compact, json_form, packets
from tim_trio.protocol.tim.packets import (
    BigBinary,
    BigStream,
    BigString,
    Body,
    Other,
    Packet,
    Ping,
)
from tim_trio.protocol.tim.structs import (
    FIELDS,
    Format,
    Kind,
    PacketType,
    Struct,
    TimAck,
    TimAuth,
    TimFormatError,
    TimMessage,
    TimReq,
    TimStream,
)

CASES = load_vectors("tim")
KINDS: dict[int, type[Struct]] = {
    12: TimAck,
    14: TimAuth,
    15: TimAuth,
    16: TimAuth,
    22: TimReq,
    90: TimMessage,
    94: TimStream,
}


def joined(parts: list[list[str]]) -> bytes:
    return bytes.fromhex("".join(digits for digits, _ in parts))


def as_vector(value: Any) -> dict[str, Any]:
    """Return a struct as the vectors write it: what is left out, left out, bytes in hex."""
    written: dict[str, Any] = {}
    for field in FIELDS[type(value)]:
        content = getattr(value, field.name)
        if content in (None, "", b"", {}, ()) and not field.required:
            continue
        if not field.required and content in (0, False):
            continue
        match field.kind:
            case Kind.BINARY:
                content = content.hex()
            case Kind.BINARY_MAP:
                content = {key: each.hex() for key, each in content.items()}
            case Kind.STRING_LIST:
                content = list(content)
            case Kind():
                pass
            case _:
                content = as_vector(content)
        written[field.json_name] = content
    return written


def vectors(sender: str, form: str) -> list[Any]:
    return [
        pytest.param(case, id=case["name"])
        for case in CASES["vectors"]
        if case["from"] == sender and form in case
    ]


def test_every_vector_has_a_name_of_its_own_and_every_packet_a_vector() -> None:
    assert set(CASES) == {"description", "vectors", "invalid"}
    names = [case["name"] for case in (*CASES["vectors"], *CASES["invalid"])]
    assert len(names) == len(set(names))
    served = set(KINDS) | {13, 95, 96, 97}
    assert {case["packet"]["type"] for case in CASES["vectors"]} == served
    for case in CASES["vectors"]:
        assert ("json" in case) == ("thrift" in case) != ("bytes" in case)


@pytest.mark.parametrize("form", list(Format), ids=lambda form: form.value)
@pytest.mark.parametrize("case", vectors("client", "json"))
def test_what_clients_send(case: dict[str, Any], form: Format) -> None:
    data = joined(case[form.value])
    packet = packets.decode(data)
    assert isinstance(packet, Body)
    number = packets.type_of(data)
    assert packet.type == number
    assert packets.format_of(data) is form and packets.has_format(data)
    # In JSON what a Thrift pusher must send may be missing.
    assert {"type": number, **as_vector(packet.value)} == case["packet"]
    if form is Format.THRIFT:
        assert compact.encode(packet.value) == data[1:]
        assert thrift_reference.write(packet.value) == data[1:]


@pytest.mark.parametrize("form", list(Format), ids=lambda form: form.value)
@pytest.mark.parametrize("case", vectors("server", "json"))
def test_what_the_server_sends(case: dict[str, Any], form: Format) -> None:
    data = joined(case[form.value])
    kind = PacketType(data[0])
    value = packets.decode_body(KINDS[kind], data[1:], form)
    assert {"type": kind, **as_vector(value)} == case["packet"]
    assert packets.encode_body(kind, value, form) == data


@pytest.mark.parametrize("case", vectors("client", "bytes"))
def test_big_packets_of_clients(case: dict[str, Any]) -> None:
    packet = case["packet"]
    expected: Packet
    match packet["type"]:
        case 13:
            expected = Ping()
        case 95:
            expected = BigString(packet["node"], packet["text"])
        case 96:
            expected = BigBinary(packet["node"], bytes.fromhex(packet["body"]))
        case _:
            expected = BigStream(packet["node"], bytes.fromhex(packet["body"]))
    data = joined(case["bytes"])
    assert packets.decode(data) == expected
    assert not packets.has_format(data)


@pytest.mark.parametrize("case", vectors("server", "bytes"))
def test_big_packets_of_the_server(case: dict[str, Any]) -> None:
    packet = case["packet"]
    match packet["type"]:
        case 13:
            written = packets.PING
        case 95:
            written = packets.encode_big_string(packet["node"], packet["text"])
        case 96:
            written = packets.encode_big_binary(packet["node"], bytes.fromhex(packet["body"]))
        case _:
            body = memoryview(bytes.fromhex(packet["body"]))
            written = packets.encode_big_stream(packet["node"].encode(), body)
    assert written == joined(case["bytes"])


@pytest.mark.parametrize("case", CASES["invalid"], ids=lambda case: case["name"])
def test_what_cannot_be_read(case: dict[str, Any]) -> None:
    with pytest.raises(TimFormatError):
        packets.decode(bytes.fromhex(case["hex"]))


@pytest.mark.parametrize(
    "data, number",
    [
        (b"", 0),
        (b"\x00", 0),
        (b"\x80{}", 0),
        (b"\x14", 20),
        (b"\xda"[:0] + b"\x97{}", 23),
        (b"\x0c\0\0\0\1", 12),  # the answer to a packet with an id, which we never send
        (b"\x11garbage", 17),
        (b"\x7f", 127),
        (b"\xff", 127),
    ],
)
def test_what_is_not_served_is_not_read(data: bytes, number: int) -> None:
    assert packets.decode(data) == Other(number)


@given(any_struct)
def test_round_trip_as_json(value: Struct) -> None:
    assert json_form.decode(type(value), json_form.encode(value)) == value


@given(texts, texts, blobs, st.sampled_from(["|", "\0"]))
def test_big_round_trips(node: str, text: str, body: bytes, separator: str) -> None:
    node = node.replace("|", "").replace("\0", "")
    rest = f"{node}{separator}{text}".encode()
    packet = b"\x5f" + (5 + len(rest)).to_bytes(4, "big") + rest
    assert packets.decode(packet) == BigString(node, text)
    rest = node.encode() + b"\x83" + body
    header = (5 + len(rest)).to_bytes(4, "big")
    assert packets.decode(b"\x60" + header + rest) == BigBinary(node, body)
    assert packets.decode(b"\x61" + header + rest) == BigStream(node, body)


@given(
    st.binary(max_size=60)
    | st.tuples(
        st.sampled_from([each | bit for each in PacketType for bit in (0, 0x80)]),
        st.binary(max_size=60) | any_struct.map(json_form.encode) | any_struct.map(compact.encode),
    ).map(lambda parts: bytes((parts[0],)) + parts[1])
)
def test_any_bytes_are_a_packet_or_the_error(data: bytes) -> None:
    try:
        packet = packets.decode(data)
    except TimFormatError:
        return
    if isinstance(packet, Body):
        assert json_form.decode(type(packet.value), json_form.encode(packet.value)) == packet.value


@pytest.mark.parametrize(
    "text, expected",
    [
        ('{"vnode":"a"}', TimStream(room="a")),
        ('{"vNode":"a"}', TimStream(room="a")),
        ('{"VNODE":"a","unknown":[{}],"x":1e999}', TimStream(room="a")),
        ('{"VNode":"a","vnode":"b"}', TimStream(room="b")),
        ('{"body":null,"dtype":null}', TimStream()),
        ('{"dtype":7.0,"id":-1e3}', TimStream(dtype=7, id=-1000)),
        ('{"x":' + "9" * 5000 + "}", TimStream()),
        (' {\n} ', TimStream()),
    ],
)  # fmt: skip
def test_json_is_read_leniently(text: str, expected: TimStream) -> None:
    assert json_form.decode(TimStream, text.encode()) == expected


def test_an_ack_in_json_may_say_nothing() -> None:
    assert json_form.decode(TimAck, b"{}") == TimAck(ok=False)


def test_a_number_of_thousands_of_digits_does_not_fit() -> None:
    with pytest.raises(TimFormatError, match="dtype is not a whole number"):
        json_form.decode(TimStream, b'{"dtype":%s}' % (b"9" * 5000))
    with pytest.raises(TimFormatError, match="id does not fit into 64 bits"):
        json_form.decode(TimStream, b'{"id":9223372036854775808}')


@pytest.mark.timeout(20)  # quadratic, the quotes would take longer
@pytest.mark.parametrize("piece", [b"[", b'{"x":', b'"\\"', b'\\"', b'"', b"9", b"[[]],"])
def test_large_rubbish(piece: bytes) -> None:
    with pytest.raises(TimFormatError):
        json_form.decode(TimStream, b'{"x":' + piece * (1_000_000 // len(piece)))


@pytest.mark.parametrize(
    "members",
    [
        pytest.param('"x":[' + "0," * 2000 + "0]", id="numbers"),
        pytest.param('"x":[' + "[]," * 1000 + "0]", id="lists"),
        pytest.param(",".join(f'"{n}":0' for n in range(600)), id="members"),
        pytest.param('"ToList":[' + '"a",' * 2000 + '"a"]', id="receivers"),
        pytest.param('"x":' + '"\\"",' * 3000, id="escaped quotes"),
    ],
)
def test_what_takes_a_body_s_time_has_fewer_parts_than_that(members: str) -> None:
    with pytest.raises(TimFormatError, match="too many parts"):
        json_form.decode(TimMessage, f"{{{members}}}".encode())


def test_as_many_parts_as_there_may_be() -> None:
    message = TimMessage(to_list=tuple(f"account{number}" for number in range(900)))
    for form in Format:
        data = b"\x5a" if form is Format.THRIFT else b"\xda"
        data += packets.encode_body(PacketType.MESSAGE, message, form)[1:]
        assert packets.decode(data) == packets.Body(PacketType.MESSAGE, message)
        assert packets.decode(data, 910) == packets.Body(PacketType.MESSAGE, message)
        with pytest.raises(TimFormatError, match="too many parts"):
            packets.decode(data, 899)


def test_brackets_in_a_text_are_neither_deep_nor_parts() -> None:
    text = "[{" * 5000 + '\\"' * 3000 + ",:" * 5000
    data = json.dumps({"dataString": text}).encode()
    assert json_form.decode(TimMessage, data) == TimMessage(data_string=text)


def test_what_nests_too_deep_is_short() -> None:
    deep = '{"x":' + "[" * 15 + "]" * 15 + "}"
    assert json_form.decode(TimStream, deep.encode()) == TimStream()
    with pytest.raises(TimFormatError, match="nested too deep"):
        json_form.decode(TimStream, deep.replace("[]", "[[]]").encode())


def test_a_large_frame_takes_a_few_times_its_size() -> None:
    body = bytes(1_000_000)
    data = b"\xde" + json_form.encode(TimStream(room="a", body=body))
    tracemalloc.start()
    try:
        packet = packets.decode(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert packet == packets.Body(PacketType.STREAM, TimStream(room="a", body=body))
    assert peak < 10 * len(body)


def test_secrets_are_not_shown() -> None:
    shown = repr(TimAuth(name="alice", pwd="secret", token="also"))
    assert "alice" in shown and "secret" not in shown and "also" not in shown


def test_receivers_and_extras_in_json() -> None:
    message = TimMessage(to_list=("bob", "carol"), extra={"picture": b"\xff"})
    members = json_form.to_members(message)
    assert members["ToList"] == ["bob", "carol"]
    assert members["extra"] == {"picture": "/w=="}
