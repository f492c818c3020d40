"""What a server puts around frames on a WebSocket: RFC 6455, sections 5.2 and 5.5.

A message from server to client is not masked, so it is a header of 2 to 10
bytes and the frames as they are. Reading, the other direction, is a library's.

Source: protocol.md, section 3.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from tim_trio.errors import code_label
from tim_trio.protocol.layout import LENGTH_BYTES, PRELUDE_BYTES

Buffer = bytes | memoryview

SUBPROTOCOL: Final = "tim.1"
#: A WebSocket close code is a CLOSE code and this.
CLOSE_CODE_OFFSET: Final = 3000

_FINAL_BINARY: Final = 0x82
_FINAL_CLOSE: Final = 0x88
_FINAL_PING: Final = 0x89
_FINAL_PONG: Final = 0x8A
#: Lengths up to this stand in the header's second byte; the two above it
#: announce a longer field.
_SHORT: Final = 125
_TWO_BYTES_FOLLOW: Final = 126
_EIGHT_BYTES_FOLLOW: Final = 127
_MEDIUM: Final = 0xFFFF

_SHORT_HEADER: Final = Struct(">BB")
_MEDIUM_HEADER: Final = Struct(">BBH")
_LONG_HEADER: Final = Struct(">BBQ")
_CLOSE_CODE: Final = Struct(">H")
_LENGTH: Final = Struct(">I")


def encode_message(data: Buffer) -> bytes:
    """Return a whole binary message that holds ``data``."""
    return encode_message_head(len(data)) + data


def encode_message_head(size: int) -> bytes:
    """Return what stands before the ``size`` bytes of a binary message."""
    if size <= _SHORT:
        return _SHORT_HEADER.pack(_FINAL_BINARY, size)
    if size <= _MEDIUM:
        return _MEDIUM_HEADER.pack(_FINAL_BINARY, _TWO_BYTES_FOLLOW, size)
    return _LONG_HEADER.pack(_FINAL_BINARY, _EIGHT_BYTES_FOLLOW, size)


def encode_ping() -> bytes:
    """Return a ping without a payload."""
    return _SHORT_HEADER.pack(_FINAL_PING, 0)


def encode_pong(payload: bytes) -> bytes:
    """Return the answer to a ping, whose payload has at most 125 bytes."""
    return _SHORT_HEADER.pack(_FINAL_PONG, len(payload)) + payload


def encode_close(code: int) -> bytes:
    """Return the close for a CLOSE code, with its name as the reason."""
    reason = code_label(code).encode()
    return (
        _SHORT_HEADER.pack(_FINAL_CLOSE, _CLOSE_CODE.size + len(reason))
        + _CLOSE_CODE.pack(code + CLOSE_CODE_OFFSET)
        + reason
    )


def encode_close_answer(code: int | None) -> bytes:
    """Return the answer to a peer's close: its own code, or none where it gave none."""
    if code is None:
        return _SHORT_HEADER.pack(_FINAL_CLOSE, 0)
    return _SHORT_HEADER.pack(_FINAL_CLOSE, _CLOSE_CODE.size) + _CLOSE_CODE.pack(code)


def holds_whole_frames(data: bytes) -> bool:
    """Say whether a message ends where a frame ends, and is not empty.

    Only the lengths are looked at; whether they are allowed is the decoder's
    to say. It says so of a whole prelude, so what has none is no whole frame.
    """
    size = len(data)
    position = 0
    while position + PRELUDE_BYTES <= size:
        position += LENGTH_BYTES + _LENGTH.unpack_from(data, position)[0]
    return position == size and size > 0
