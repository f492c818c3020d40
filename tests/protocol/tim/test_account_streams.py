"""Account streams that are TIM's messages, and messages that are account streams."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.tim import thrift_reference
from tests.protocol.tim.strategies import structs
from tim_trio.protocol.tim import account_streams, packets
from tim_trio.protocol.tim.packets import BigBinary, BigString
from tim_trio.protocol.tim.structs import Format, Tid, TimMessage

FORMATS = pytest.mark.parametrize("form", list(Format))


def arrives(kind: int, payload: bytes, form: Format = Format.JSON) -> bytes:
    return account_streams.to_packet("alice", kind, payload, form, id=7, timestamp_ns=8)


def members(packet: bytes) -> dict[str, Any]:
    assert packet[0] == 90
    read: dict[str, Any] = json.loads(packet[1:])
    return read


def test_a_text() -> None:
    kind, payload = account_streams.to_payload(BigString("bob", "h\u00e9"))
    assert (kind, payload) == (3, b"h\xc3\xa9")
    assert arrives(kind, payload) == b"\x5falice|h\xc3\xa9"
    assert arrives(3, b"\xff") == "\x5falice|\ufffd".encode()


def test_bytes() -> None:
    kind, payload = account_streams.to_payload(BigBinary("bob", b"\0\x83\xff"))
    assert (kind, payload) == (4, b"\0\x83\xff")
    assert arrives(kind, payload) == b"\x60alice\x83\0\x83\xff"


def test_a_message_says_nothing_of_who_it_is_from() -> None:
    sent = TimMessage(
        ms_type=2,
        od_type=5,
        id=1,
        mid=2,
        from_tid=Tid(node="somebody else"),
        to_tid=Tid(node="bob"),
        data_string="hi",
        is_offline=True,
        timestamp=3,
    )
    kind, payload = account_streams.to_payload(sent)
    assert kind == 2
    assert json.loads(payload) == {
        "msType": 2,
        "odType": 5,
        "id": 1,
        "toTid": {"node": "bob"},
        "dataString": "hi",
        "timestamp": 3,
    }
    assert members(arrives(kind, payload)) == {
        **json.loads(payload),
        "fromTid": {"node": "alice"},
    }


def test_a_message_of_another_client_is_given_what_it_lacks() -> None:
    payload = b'{"fromTid":{"node":"eve"},"datastring":"hi","msType":1,"odType":3}'
    assert members(arrives(2, payload)) == {
        "msType": 2,
        "odType": 5,
        "id": 7,
        "fromTid": {"node": "alice"},
        "dataString": "hi",
        "timestamp": 8,
    }


@pytest.mark.parametrize(
    "kind, payload, udtype",
    [
        (0, b"x", None),
        (1, b"x", 1),
        (2, b"no object", None),
        (2, b"", None),
        (5, b"x", 5),
        (32_767, b"x", 32_767),
        (32_768, b"x", None),
        (65_535, b"x", None),
    ],
)
def test_any_other_kind_is_a_message_with_its_bytes(
    kind: int, payload: bytes, udtype: int | None
) -> None:
    message = members(arrives(kind, payload))
    assert message.get("udtype") == udtype
    fields = thrift_reference.read(TimMessage, arrives(kind, payload, Format.THRIFT)[1:])
    assert fields.get("data_binary", b"") == payload
    assert fields.get("udtype") == udtype


@FORMATS
@given(data=st.data())
def test_every_message_arrives_as_it_was_sent(form: Format, data: st.DataObject) -> None:
    sent = data.draw(structs(TimMessage))
    kind, payload = account_streams.to_payload(sent)
    packet = arrives(kind, payload, form)
    read = packets.decode_body(TimMessage, packet[1:], form)
    assert read == attrs.evolve(
        sent,
        ms_type=2,
        od_type=5,
        id=sent.id or 7,
        mid=0,
        from_tid=Tid(node="alice"),
        is_offline=False,
        timestamp=sent.timestamp or 8,
    )


@FORMATS
@given(kind=st.integers(0, 0xFFFF), payload=st.binary(max_size=200))
def test_any_payload_arrives_as_something(form: Format, kind: int, payload: bytes) -> None:
    packet = arrives(kind, payload, form)
    assert packet[0] in (90, 95, 96)
