"""What a server puts around frames on a WebSocket, against bytes written by hand."""

import pytest
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import BytesMessage, CloseConnection, Pong

from tim_trio.errors import Code
from tim_trio.protocol.websocket import (
    encode_close,
    encode_close_answer,
    encode_message,
    encode_ping,
    encode_pong,
    holds_whole_frames,
)


@pytest.mark.parametrize(
    "size, header",
    [
        (0, "82 00"),
        (1, "82 01"),
        (125, "82 7d"),
        (126, "82 7e 007e"),
        (65_535, "82 7e ffff"),
        (65_536, "82 7f 0000000000010000"),
        (1_048_576, "82 7f 0000000000100000"),
    ],
)
def test_a_message_is_a_header_and_the_frames(size: int, header: str) -> None:
    data = bytes([7]) * size
    assert encode_message(data) == bytes.fromhex(header) + data
    assert encode_message(memoryview(data)) == bytes.fromhex(header) + data


def test_a_close_has_its_code_raised_and_its_name() -> None:
    assert encode_close(Code.BYE) == bytes.fromhex("88 05 0fa0") + b"bye"
    assert encode_close(Code.PROTOCOL_ERROR) == bytes.fromhex("88 10 1004") + b"protocol_error"
    assert encode_close(1199) == bytes.fromhex("88 0b 1067") + b"code 1199"


@pytest.mark.parametrize("code", [*filter(lambda code: code < 1200, Code)])
def test_every_close_is_short_enough(code: Code) -> None:
    assert len(encode_close(code)) <= 2 + 125


def test_answers() -> None:
    assert encode_pong(b"") == bytes.fromhex("8a 00")
    assert encode_pong(b"x" * 125) == bytes.fromhex("8a 7d") + b"x" * 125
    assert encode_close_answer(None) == bytes.fromhex("88 00")
    assert encode_close_answer(1001) == bytes.fromhex("88 02 03e9")


def test_another_implementation_reads_it() -> None:
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(
        encode_message(b"a" * 100)
        + encode_pong(b"p")
        + encode_message(b"b" * 70_000)
        + encode_close(Code.BYE)
    )
    first, pong, second, close = client.events()
    assert isinstance(first, BytesMessage) and first.data == b"a" * 100
    assert isinstance(pong, Pong) and pong.payload == b"p"
    assert isinstance(second, BytesMessage) and second.data == b"b" * 70_000
    assert isinstance(close, CloseConnection) and (close.code, close.reason) == (4000, "bye")


@pytest.mark.parametrize(
    "message, expected",
    [
        ("", False),
        ("00", False),
        ("00000000", False),
        ("00000001 ff", False),
        ("00000004 03000000", True),
        ("00000004 030000", False),
        ("00000004 03000000 ff", False),
        ("00000005 03000000 ff", True),
        ("00000005 03000000 ff 00000004 03000000", True),
        ("00000005 03000000 ff 00000004", False),
        ("00000005 03000000 ff 00000000", False),
        ("ffffffff 03000000", False),
    ],
)
def test_whole_frames(message: str, expected: bool) -> None:
    assert holds_whole_frames(bytes.fromhex(message)) is expected


def test_a_ping_is_empty() -> None:
    assert encode_ping() == bytes.fromhex("89 00")
