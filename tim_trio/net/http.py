"""HTTP/1.1 on a non-blocking socket: small requests in, small responses out.

h11 knows the protocol; here are the waiting, the deadlines and the bounds. A
connection is kept for further requests until it is idle for too long, and is
handed over where a request asks for another protocol.

Source: docs/operations.md, "The web port".
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import Final, TypeVar
from urllib.parse import urlsplit

import attrs
import h11
import trio

from tim_trio.net.byte_socket import ByteSocket

#: Request line and headers together.
MAX_HEAD_BYTES: Final = 16 * 1024
_READ_BYTES: Final = 16 * 1024
#: A response may take its base time and this much for its bytes.
_LEAST_RATE: Final = 4 * 1024
#: After a response that ends the connection, what the peer still sends is
#: read and dropped for so long: closing with unread bytes resets the
#: connection, and the peer would lose our answer.
_LINGER_S: Final = 1.0

Headers = tuple[tuple[str, str], ...]


class Unservable(Exception):
    """A request that is answered by an error, ``response``."""

    def __init__(self, status: HTTPStatus, text: str = "", headers: Headers = ()) -> None:
        super().__init__(text or status.phrase)
        self.response = plain_text(status, text, headers)


@attrs.frozen
class Request:
    """One request.

    Attributes:
        host: what the client calls us, with the port as it wrote it.
        path: without the query, as it was sent: nothing is decoded.
        headers: names in lower case; of a repeated one the values are joined.
        body: empty where no path takes one.
    """

    method: str
    host: str
    path: str
    headers: dict[str, str]
    body: bytes = b""


@attrs.frozen
class Response:
    """``body`` is left out where the method is HEAD or the status has none."""

    status: HTTPStatus
    body: bytes = b""
    headers: Headers = ()


@attrs.frozen
class Upgrade:
    """The connection is to speak another protocol, beginning with ``answer``."""

    answer: bytes


@attrs.frozen
class Later:
    """A response that takes its time. ``make`` may raise `Unservable`."""

    make: Callable[[], Awaitable[Response]]


U = TypeVar("U", bound=Upgrade)
#: Raises `Unservable` for an error.
Handler = Callable[[Request], Response | Later | U]
#: How large a body a request may have, known from its head.
BodyLimit = Callable[[Request], int]


def plain_text(status: HTTPStatus, text: str = "", headers: Headers = ()) -> Response:
    """Return a response for a person, one line."""
    line = f"{text or status.phrase}\n".encode()
    return Response(status, line, (("Content-Type", "text/plain; charset=utf-8"), *headers))


async def serve_http(
    sock: ByteSocket,
    handler: Handler[U],
    *,
    common_headers: Headers,
    timeout_s: float,
    max_body: BodyLimit = lambda _request: 0,
    take_turn: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
    note_late: Callable[[], None] = lambda: None,
) -> tuple[U, bytes] | None:
    """Answer requests until the connection ends (None) or is handed over.

    Then the answer of the `Upgrade` is still to be sent; the bytes beside it
    are what the client has sent already behind its request.

    Args:
        common_headers: of every response.
        timeout_s: for a request to arrive whole, from the end of the one
            before, for a response to be made, and for it to be taken, beside
            its size.
        take_turn: waits until a request may be answered.
        note_late: called when a request has begun and ``timeout_s`` ended it.

    Never raises for what the peer does. Closing the socket is the caller's.
    """
    connection = _HttpConnection(sock, timeout_s, max_body)
    try:
        while True:
            try:
                request = await connection.next_request()
                if request is None:
                    return None
                await take_turn()
                response = handler(request)
                if isinstance(response, Later):
                    with trio.fail_after(timeout_s):
                        response = await response.make()
                if isinstance(response, Upgrade):
                    return response, connection.early_bytes
            except h11.RemoteProtocolError as error:
                response = plain_text(HTTPStatus(error.error_status_hint))
            except Unservable as refused:
                response = refused.response
                if response.status is HTTPStatus.REQUEST_TIMEOUT:
                    note_late()
            if not await connection.respond(response, common_headers):
                await linger(sock)
                return None
    except trio.TooSlowError:
        note_late()
        return None
    except (OSError, trio.ClosedResourceError):
        return None


class _HttpConnection:
    """h11 and a socket."""

    def __init__(self, sock: ByteSocket, timeout_s: float, max_body: BodyLimit) -> None:
        self._sock = sock
        self._timeout_s = timeout_s
        self._max_body = max_body
        self._parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        # Known before the request has been found to be servable.
        self._is_head = False

    @property
    def early_bytes(self) -> bytes:
        """What has come behind the last request."""
        return self._parser.trailing_data[0]

    async def next_request(self) -> Request | None:
        """Return the next request, None at the end of the connection.

        Raises:
            h11.RemoteProtocolError: it is none.
            Unservable: it is not one of those that are served here.
        """
        # Many may have come together.
        await trio.lowlevel.checkpoint()
        head: h11.Request | None = None
        body = bytearray()
        most = -1
        self._is_head = False
        with trio.move_on_after(self._timeout_s) as patience:
            while True:
                event = self._parser.next_event()
                if event is h11.NEED_DATA:
                    self._parser.receive_data(await receive(self._sock, _READ_BYTES))
                elif isinstance(event, h11.Request):
                    head = event
                    self._is_head = event.method == b"HEAD"
                elif isinstance(event, h11.Data):
                    assert head is not None
                    if most < 0:
                        most = self._max_body(_read_request(head))
                    body += event.data
                    if len(body) > most:
                        text = f"the body may have {most} bytes" if most else "takes no body"
                        raise Unservable(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text)
                elif isinstance(event, h11.EndOfMessage):
                    assert head is not None
                    return attrs.evolve(_read_request(head), body=bytes(body))
                else:  # ConnectionClosed; PAUSED only comes behind EndOfMessage
                    return None
        assert patience.cancelled_caught
        if self._parser.their_state is h11.IDLE and not self.early_bytes:
            return None  # it has not begun
        raise Unservable(HTTPStatus.REQUEST_TIMEOUT)

    async def respond(self, response: Response, common_headers: Headers) -> bool:
        """Send a response; say whether another request may follow."""
        parser = self._parser
        is_unchanged = response.status is HTTPStatus.NOT_MODIFIED
        headers = [("Date", formatdate(usegmt=True)), *common_headers, *response.headers]
        if not is_unchanged:
            headers.append(("Content-Length", str(len(response.body))))
        if parser.their_state is not h11.DONE:
            headers.append(("Connection", "close"))
        head = h11.Response(
            status_code=response.status.value, headers=headers, reason=response.status.phrase
        )
        pieces = [parser.send(head) or b""]
        if not self._is_head and not is_unchanged:
            pieces.append(parser.send(h11.Data(data=response.body)) or b"")
        pieces.append(parser.send(h11.EndOfMessage()) or b"")
        with trio.fail_after(self._timeout_s + len(response.body) / _LEAST_RATE):
            await send_all(self._sock, b"".join(pieces))
        if parser.our_state is not h11.DONE or parser.their_state is not h11.DONE:
            return False
        parser.start_next_cycle()
        return True


def _read_request(event: h11.Request) -> Request:
    if not event.http_version.startswith(b"1."):
        raise Unservable(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
    headers: dict[str, str] = {}
    for raw_name, raw_value in event.headers:
        name, value = raw_name.decode("ascii"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    if event.http_version == b"1.0":
        headers.pop("upgrade", None)  # which it does not know
    target = event.target.decode("latin-1")
    host = headers.get("host", "")
    if not target.startswith("/"):
        try:
            url = urlsplit(target)
        except ValueError:
            raise Unservable(HTTPStatus.BAD_REQUEST) from None
        if url.scheme not in ("http", "https"):
            raise Unservable(HTTPStatus.BAD_REQUEST)
        host, target = url.netloc, url.path or "/"
    path = target.partition("?")[0]
    return Request(event.method.decode("ascii"), host, path, headers)


async def receive(sock: ByteSocket, size: int) -> bytes:
    """Return what has come, waiting for it; empty at the end.

    Raises:
        OSError: lost.
        trio.ClosedResourceError: closed by us.
    """
    while True:
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            return sock.recv(size)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(sock)


async def send_all(sock: ByteSocket, data: bytes) -> None:
    """Send everything, waiting as often as it takes. Raises as `receive`."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[sock.send(rest) :]
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sock)


async def linger(sock: ByteSocket) -> None:
    """Say the end, and drop what the peer still sends for a moment."""
    with trio.move_on_after(_LINGER_S):
        sock.shutdown(socket.SHUT_WR)
        while await receive(sock, _READ_BYTES):
            pass
