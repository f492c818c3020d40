"""Fuzzes what comes to the web port: HTTP requests, and messages of a WebSocket.

An input is a byte of choices (which of the two, and how the rest is cut up)
and the bytes a peer sends. Any requests get well-formed responses; any
WebSocket bytes give frames, pongs or a protocol error, however they are cut.
See `tests.fuzz.engine` for how to run it.
"""

from collections.abc import Iterator

import h11
import trio
from wsproto import ConnectionType
from wsproto.connection import Connection

from tests.fuzz import engine

with engine.instrumented():
    from tests.net.wsclient import (
        BINARY,
        CLOSE,
        CONTINUATION,
        PING,
        PONG,
        TEXT,
        handshake,
        ws_frame,
    )
    from tests.protocol.builders import stream_bytes
    from tim_trio.core.accounts import OpenAuthenticator
    from tim_trio.errors import RemoteProtocolError
    from tim_trio.limits import Limits
    from tim_trio.net.http import Later, Request, Response, serve_http
    from tim_trio.net.origin import OriginPolicy
    from tim_trio.net.site import COMMON_HEADERS, Caller, Site, make_pages, max_body
    from tim_trio.net.tim.credentials import Credentials
    from tim_trio.net.websocket import MessageReader, Opening
    from tim_trio.protocol.decoder import ControlFrame, Decoder
    from tim_trio.protocol.runs import Run

_MAX_FRAME_BYTES = 4096
_LIMITS = Limits(
    max_frame_bytes=_MAX_FRAME_BYTES, max_init_bytes=1024, backlog_bytes=4096, command_burst=10**6
)
_SITE = Site(
    make_pages({"index.html": b"<!doctype html>", "tim/index.js": b"export {};"}),
    OriginPolicy(),
    is_ready=lambda: True,
    render_figures=lambda: ("text/plain", b"figures"),
    may_see_figures=lambda request: "authorization" in request.headers,
    serve_tim=Credentials(OpenAuthenticator()).serve_packet,
)
_CALLER = Caller("192.0.2.1", False)


def _pieces(data: bytes, size: int) -> list[bytes]:
    """Cut into pieces of ``size`` bytes, or not at all for 0."""
    step = size or max(1, len(data))
    return [data[at : at + step] for at in range(0, len(data), step)]


# HTTP


class _Peer:
    """A socket whose peer sends these pieces and then its end."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces
        self.sent = bytearray()

    def recv(self, size: int, /) -> bytes:
        if not self._pieces:
            return b""
        piece = self._pieces.pop(0)
        if len(piece) > size:
            self._pieces.insert(0, piece[size:])
        return piece[:size]

    def send(self, data: bytes | memoryview, /) -> int:
        self.sent += data
        return len(data)

    def sendmsg(self, pieces: object, /) -> int:
        raise AssertionError("not for HTTP")

    def setsockopt(self, level: int, option: int, value: int, /) -> None:
        raise AssertionError("not for HTTP")

    def shutdown(self, how: int, /) -> None:
        pass

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        pass


def _fuzz_http(pieces: list[bytes]) -> None:
    peer = _Peer(pieces)

    def answer(request: Request) -> Response | Later | Opening:
        return _SITE.answer(request, _CALLER)

    async def serve() -> tuple[Opening, bytes] | None:
        return await serve_http(
            peer, answer, common_headers=COMMON_HEADERS, timeout_s=60, max_body=max_body
        )

    upgrade = trio.run(serve)
    assert upgrade is None or upgrade[0].answer.startswith(b"HTTP/1.1 101 ")
    data = bytes(peer.sent)
    while data:
        data = _after_response(data)


def _after_response(data: bytes) -> bytes:
    """Return what stands behind one well-formed response."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="HEAD", target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    response = client.next_event()
    assert isinstance(response, h11.Response)
    assert 200 <= response.status_code < 600
    assert isinstance(client.next_event(), h11.EndOfMessage)
    rest = client.trailing_data[0]
    if not rest or rest.startswith(b"HTTP/1.1 "):
        return rest  # it was an answer to HEAD, or one without a body
    size = int(dict(response.headers)[b"content-length"])
    assert 0 < size <= len(rest)
    return rest[size:]


# WebSocket


def _read(pieces: list[bytes]) -> tuple[list[object], bytes, bytes, object]:
    """Return frames, pongs, the answer to a close, and the code of an offence."""
    replies = bytearray()
    decoder = Decoder(max_frame_bytes=_MAX_FRAME_BYTES, max_init_bytes=1024)
    reader = MessageReader(
        Connection(ConnectionType.SERVER), decoder, _LIMITS, lambda data, _: replies.extend(data)
    )
    items: list[Run | ControlFrame] = []
    code = None
    for piece in pieces:
        reader.feed(piece)
        try:
            while reader.take(items, 0.0):
                pass
        except RemoteProtocolError as broken:
            code = broken.code
            break
        assert decoder.buffered_bytes < _MAX_FRAME_BYTES
        if reader.close_answer:
            break
    frames: list[object] = []
    for item in items:
        if isinstance(item, Run):
            at = 0
            while at < len(item.data):
                end = at + 4 + int.from_bytes(item.data[at : at + 4], "big")
                frames.append(item.data[at:end])
                at = end
            assert at == len(item.data)
        else:
            frames.append((item.type, item.request_id, item.fields))
    return frames, bytes(replies), reader.close_answer, code


def _fuzz_messages(data: bytes, size: int) -> None:
    assert _read(_pieces(data, size)) == _read([data])


def run_one(data: bytes) -> None:
    """Feed one input and check all that was promised."""
    if not data:
        return
    size = data[0] >> 1
    if data[0] & 1:
        _fuzz_messages(data[1:], size)
    else:
        _fuzz_http(_pieces(data[1:], size))


def seeds() -> Iterator[bytes]:
    """Requests and messages of every kind, alone and together, whole and cut up."""
    get = b" HTTP/1.1\r\nHost: localhost:7680\r\n\r\n"
    requests = [
        b"GET /" + get,
        b"HEAD /tim/index.js" + get,
        b"GET /metrics" + get,
        b"GET http://localhost/healthz?x" + get,
        b"GET / HTTP/1.1\r\nHost: a\r\nIf-None-Match: *\r\nContent-Length: 0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"POST /tim2 HTTP/1.1\r\nHost: a\r\nContent-Length: 13\r\n\r\n" + b'\x8f{"name":"x"}',
        b"POST /tim2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n\x0e\r\n"
        b"0\r\n\r\n",
        handshake(path="/tim", leave_out="sec-websocket-protocol"),
        handshake(origin="http://localhost") + ws_frame(b"early"),
        handshake(sec_websocket_extensions="permessage-deflate", authorization="Bearer x"),
    ]
    one, two = stream_bytes(0), stream_bytes(1, payload=bytes(200))
    ping = bytes.fromhex("00000010 03000000 00000001 0000000000000007")
    messages = [
        ws_frame(one),
        ws_frame(one + two),
        ws_frame(ping),
        ws_frame(one[:9], fin=False) + ws_frame(one[9:], CONTINUATION),
        ws_frame(one[:9], BINARY, fin=False) + ws_frame(b"p", PING) + ws_frame(b"", CONTINUATION),
        ws_frame(b"p" * 125, PING) + ws_frame(b"", PONG),
        ws_frame(b"\x03\xe8bye", CLOSE),
        ws_frame(b"text", TEXT),
        ws_frame(one, masked=False),
        ws_frame(bytes(70_000)),
    ]
    for cut in (b"\x00", b"\x0e"):
        for request in (*requests, b"".join(requests)):
            yield cut + request
    for cut in (b"\x01", b"\x0f"):
        for message in (*messages, b"".join(messages)):
            yield cut + message


if __name__ == "__main__":
    engine.main(run_one, seeds(), max_input_bytes=4096)
