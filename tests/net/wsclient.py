"""A WebSocket client that says exactly what a test wants it to say.

It reads and writes WebSocket frames by itself, from RFC 6455, so that nothing
of the server's side is used to judge it.
"""

from __future__ import annotations

import base64
import hashlib
import os
import struct
from typing import Final

import attrs
import trio

from tests.net.rawclient import DEADLINE_S, RawClient

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def ws_frame(
    payload: bytes, opcode: int = BINARY, *, fin: bool = True, masked: bool = True, bits: int = 0
) -> bytes:
    """Return one WebSocket frame; ``bits`` are the reserved ones."""
    size = len(payload)
    mask_bit = 0x80 if masked else 0
    head = bytes([(0x80 if fin else 0) | bits | opcode])
    if size < 126:
        head += bytes([mask_bit | size])
    elif size < 65536:
        head += bytes([mask_bit | 126]) + struct.pack(">H", size)
    else:
        head += bytes([mask_bit | 127]) + struct.pack(">Q", size)
    if not masked:
        return head + payload
    key = os.urandom(4)
    stream = (key * (size // 4 + 1))[:size]
    masked_payload = int.from_bytes(payload, "big") ^ int.from_bytes(stream, "big")
    return head + key + masked_payload.to_bytes(size, "big")


def handshake(
    *,
    host: str = "localhost",
    path: str = "/ws",
    origin: str | None = None,
    leave_out: str = "",
    **changed: str,
) -> bytes:
    """Return an opening request, with header lines left out, changed or added.

    Names of ``changed`` are header names with underscores.
    """
    headers = {
        "host": host,
        "upgrade": "websocket",
        "connection": "keep-alive, Upgrade",
        "sec-websocket-version": "13",
        "sec-websocket-key": base64.b64encode(bytes(16)).decode(),
        "sec-websocket-protocol": "tim.1",
        **{name.replace("_", "-"): value for name, value in changed.items()},
    }
    if origin is not None:
        headers["origin"] = origin
    headers.pop(leave_out, None)
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


@attrs.define(eq=False)
class WsClient(RawClient):
    """One connection to a web port. `open` makes it a WebSocket.

    Attributes:
        close_code: of the server's close, once it has come; None within it.
        closed: the server's close has come.
        pongs: payloads, in order.
        messages: how many binary messages have come.
    """

    close_code: int | None = None
    closed: bool = False
    pongs: list[bytes] = attrs.Factory(list)
    messages: int = 0
    _unread: bytearray = attrs.Factory(bytearray)

    async def open(self, request: bytes | None = None) -> None:
        """Shake hands."""
        await self.send_raw(request or handshake())
        status, headers, _ = await self.read_response()
        assert status == 101
        token = hashlib.sha1(base64.b64encode(bytes(16)) + _GUID).digest()
        assert headers["sec-websocket-accept"] == base64.b64encode(token).decode()
        assert headers["sec-websocket-protocol"] == "tim.1"

    async def ask_upgrade(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send an opening request and return the response; what follows it stays unread."""
        await self.send_raw(request)
        return await self.read_response(has_body=False)

    async def read_response(self, *, has_body: bool = True) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of the next HTTP response.

        Status 0 for the end of the connection instead of one.
        """
        while b"\r\n\r\n" not in self._unread:
            if not await self._read_more():
                assert not self._unread
                return 0, {}, b""
        head, _, rest = bytes(self._unread).partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        size = int(headers.get("content-length", 0)) if has_body else 0
        self._unread = bytearray(rest)
        while len(self._unread) < size:
            assert await self._read_more()
        body = bytes(self._unread[:size])
        del self._unread[:size]
        status = int(first.split()[1])
        if status == 101 and has_body:
            # Whatever came along with it is frames in a WebSocket.
            self._items.extend(self._decoder.feed(self.unwrap(b"")))
        return status, headers, body

    async def _read_more(self) -> bool:
        with trio.fail_after(DEADLINE_S):
            try:
                data = await self.read_some()
            except ConnectionError:
                self.was_reset = True
                return False
        self._unread += data
        return bool(data)

    async def ask_http(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send a request as it is and return the response."""
        await self.send_raw(request)
        return await self.read_response(has_body=not request.startswith(b"HEAD "))

    def wrap(self, data: bytes) -> bytes:
        return ws_frame(data)

    def unwrap(self, data: bytes) -> bytes:
        self._unread += data
        frames = bytearray()
        while True:
            frame = self._next_ws_frame()
            if frame is None:
                return bytes(frames)
            opcode, payload = frame
            assert not self.closed, "something behind the close"
            if opcode == BINARY:
                self.messages += 1
                _check_whole(payload)
                frames += payload
            elif opcode == CLOSE:
                self.closed = True
                self.close_code = struct.unpack_from(">H", payload)[0] if payload else None
            else:
                assert opcode == PONG
                self.pongs.append(payload)

    def _next_ws_frame(self) -> tuple[int, bytes] | None:
        data = bytes(self._unread[:10])
        if len(data) < 2:
            return None
        assert data[0] & 0xF0 == 0x80, "the server neither fragments nor extends"
        assert not data[1] & 0x80, "the server does not mask"
        size, header = data[1], 2
        if size > 125:
            header = 4 if size == 126 else 10
            if len(data) < header:
                return None
            size = int.from_bytes(data[2:header], "big")
            assert size > (125 if header == 4 else 65535)
        if len(self._unread) < header + size:
            return None
        payload = bytes(self._unread[header : header + size])
        del self._unread[: header + size]
        return data[0] & 0xF, payload


def _check_whole(message: bytes) -> None:
    position = 0
    assert message
    while position < len(message):
        position += 4 + int.from_bytes(message[position : position + 4], "big")
    assert position == len(message), "a message that does not hold whole frames"
