"""HTTP connections: what h11 reads, with our deadlines and bounds, over real sockets."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from typing import Final

import attrs
import pytest
import trio

from tests.net.test_connection import tcp_pair
from tests.net.wsclient import WsClient
from tim_trio.net.connection import configure_socket
from tim_trio.net.http import (
    MAX_HEAD_BYTES,
    Later,
    Request,
    Response,
    Unservable,
    Upgrade,
    plain_text,
    serve_http,
)

_HOST: Final = b"Host: localhost\r\n"
_LARGE: Final = bytes(range(256)) * 20_000


def _answer(request: Request) -> Response | Later | Upgrade:
    match request.path:
        case "/large":
            return Response(HTTPStatus.OK, _LARGE)
        case "/refused":
            raise Unservable(HTTPStatus.FORBIDDEN, "no", (("X-Why", "because"),))
        case "/upgrade":
            return Upgrade(b"switched")
        case "/later":
            return Later(partial(_later, request))
        case "/unchanged":
            return Response(HTTPStatus.NOT_MODIFIED, b"never sent")
    return plain_text(HTTPStatus.OK, f"{request.method} {request.host} {request.path}")


async def _later(request: Request) -> Response:
    await trio.sleep(0.01)
    if request.body == b"no":
        raise Unservable(HTTPStatus.FORBIDDEN)
    if request.body == b"never":
        await trio.sleep_forever()
    return Response(HTTPStatus.OK, request.body)


@attrs.define(eq=False)
class Served:
    """A client whose peer serves HTTP, and what that returned."""

    client: WsClient
    result: tuple[Upgrade, bytes] | None = None
    late: int = 0
    done: trio.Event = attrs.Factory(trio.Event)

    async def ask(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        return await self.client.ask_http(request)

    async def is_over(self) -> bool:
        """Say whether the server has closed, or does so soon."""
        return await self.client.read_response() == (0, {}, b"")


@asynccontextmanager
async def served(
    *, timeout_s: float = 10, send_buffer: int | None = None, receive_buffer: int | None = None
) -> AsyncIterator[Served]:
    theirs, ours = tcp_pair(send_buffer=send_buffer, receive_buffer=receive_buffer)
    configure_socket(theirs)
    one = Served(WsClient(ours))

    def note_late() -> None:
        one.late += 1

    async def serve() -> None:
        with theirs:
            one.result = await serve_http(
                theirs,
                _answer,
                common_headers=(("X-Common", "yes"),),
                timeout_s=timeout_s,
                max_body=lambda request: 10 if request.path == "/later" else 0,
                note_late=note_late,
            )
        one.done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        yield one
        one.client.close()
        with trio.fail_after(30):
            await one.done.wait()


def get(path: str = "/", method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\n".encode() + _HOST + b"\r\n"


async def test_requests_one_after_another() -> None:
    async with served() as one:
        status, headers, body = await one.ask(get("/a?query#x"))
        assert (status, body) == (200, b"GET localhost /a\n")
        assert headers["x-common"] == "yes"
        assert headers["content-length"] == str(len(body))
        assert headers["date"].endswith(" GMT")
        assert "connection" not in headers
        assert (await one.ask(get("/b")))[2] == b"GET localhost /b\n"


async def test_requests_that_come_together() -> None:
    async with served() as one:
        await one.client.send_raw(get("/a") + get("/b") + get("/c"))
        for path in (b"/a", b"/b", b"/c"):
            assert (await one.client.read_response())[2] == b"GET localhost %b\n" % path


async def test_every_byte_on_its_own() -> None:
    async with served() as one:
        for byte in get("/slowly"):
            await one.client.send_raw(bytes([byte]))
        assert (await one.client.read_response())[2] == b"GET localhost /slowly\n"


async def test_head_has_the_headers_alone() -> None:
    async with served() as one:
        status, headers, body = await one.ask(get("/", "HEAD"))
        assert (status, body) == (200, b"")
        assert headers["content-length"] == str(len("HEAD localhost /\n"))
        # The next response begins where it should.
        assert (await one.ask(get("/next")))[2] == b"GET localhost /next\n"


async def test_what_is_unchanged_has_no_body() -> None:
    async with served() as one:
        status, headers, body = await one.ask(get("/unchanged"))
        assert (status, body, "content-length" in headers) == (304, b"", False)
        assert (await one.ask(get("/next")))[0] == 200


async def test_a_large_response() -> None:
    async with served(send_buffer=4096) as one:
        assert (await one.ask(get("/large")))[2] == _LARGE


async def test_a_refusal_keeps_the_connection() -> None:
    async with served() as one:
        status, headers, body = await one.ask(get("/refused"))
        assert (status, headers["x-why"], body) == (403, "because", b"no\n")
        assert (await one.ask(get("/")))[0] == 200


async def test_an_absolute_target_names_the_host() -> None:
    async with served() as one:
        assert (await one.ask(get("http://other:80/path?x")))[2] == b"GET other:80 /path\n"
        assert (await one.ask(get("https://other")))[2] == b"GET other /\n"


async def test_http_1_0_is_closed_after_the_response() -> None:
    async with served() as one:
        status, headers, _ = await one.ask(b"GET / HTTP/1.0\r\n\r\n")
        assert (status, headers["connection"]) == (200, "close")
        assert await one.is_over()


async def test_an_upgrade_hands_over_what_came_behind_the_request() -> None:
    async with served() as one:
        request = get("/upgrade")[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        await one.client.send_raw(request + b"first bytes")
        await one.done.wait()
    assert one.result == (Upgrade(b"switched"), b"first bytes")


@pytest.mark.parametrize(
    "request_bytes, status",
    [
        (b"\r\nnonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + _HOST + _HOST + b"\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + _HOST + b" folded\x00\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + _HOST + b"Bad Name: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + _HOST + b"Content-Length: -1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + _HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + _HOST + b"Transfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET / HTTP/2.0\r\n" + _HOST + b"\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"CONNECT evil.example:443 HTTP/1.1\r\n" + _HOST + b"\r\n", 400),
        (b"OPTIONS * HTTP/1.1\r\n" + _HOST + b"\r\n", 400),
        (b"GET ftp://x/ HTTP/1.1\r\n" + _HOST + b"\r\n", 400),
        (b"GET http://[::1/ HTTP/1.1\r\n" + _HOST + b"\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + _HOST + b"Content-Length: 5\r\n\r\nhello", 413),
        (b"POST / HTTP/1.1\r\n" + _HOST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n", 413),
        (
            b"GET / HTTP/1.1\r\n"
            + _HOST
            + b"X: "
            + bytes([120]) * 3 * MAX_HEAD_BYTES
            + b"\r\n\r\n",
            431,
        ),
        (b"GET /" + bytes([120]) * 3 * MAX_HEAD_BYTES, 431),
    ],
)
async def test_what_is_no_request_of_ours(request_bytes: bytes, status: int) -> None:
    async with served() as one:
        answered, _, body = await one.ask(request_bytes)
        assert answered == status
        assert b"\n" in body and b"Traceback" not in body


@pytest.mark.parametrize(
    "request_bytes, status",
    [
        (get("/", "HEAD").replace(b"1.1", b"2.1"), 505),
        (get("ftp://x/", "HEAD"), 400),
        (get("/refused", "HEAD"), 403),
        (get("/unchanged", "HEAD"), 304),
        (get("/", "HEAD")[:-2] + b"Content-Length: 2\r\n\r\nxx", 413),
    ],
)
async def test_errors_of_head_have_no_body_either(request_bytes: bytes, status: int) -> None:
    async with served() as one:
        answered, _, body = await one.ask(request_bytes)
        assert (answered, body) == (status, b"")
        await one.client.send_raw(get("/next"))
        following, _, _ = await one.client.read_response()
        assert following == (0 if status == 413 else 200)


async def test_an_error_ends_the_connection() -> None:
    async with served() as one:
        _, headers, _ = await one.ask(b"nonsense\r\n\r\n" + get("/"))
        assert headers["connection"] == "close"
        assert await one.is_over()


async def test_a_body_that_never_comes_ends_the_connection() -> None:
    async with served() as one:
        status, headers, _ = await one.ask(get("/")[:-2] + b"Content-Length: 9\r\n\r\nx")
        assert (status, headers["connection"]) == (413, "close")
        assert await one.is_over()


async def test_who_never_asks_is_closed_without_a_word() -> None:
    async with served(timeout_s=0.05) as one:
        assert await one.is_over()
    assert one.late == 0


async def test_who_stays_after_a_response_likewise() -> None:
    async with served(timeout_s=0.05) as one:
        assert (await one.ask(get()))[0] == 200
        assert await one.is_over()
    assert one.late == 0


async def test_a_request_that_comes_too_slowly_is_told_so() -> None:
    """One header line after another does not buy more time."""
    async with served(timeout_s=0.2) as one:

        async def trickle() -> None:
            await one.client.send_raw(get()[:-2])
            with trio.move_on_after(1):
                while True:
                    await one.client.send_raw(b"X: y\r\n")
                    await trio.sleep(0.02)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trickle)
            status, headers, _ = await one.client.read_response()
            assert (status, headers["connection"]) == (408, "close")
            nursery.cancel_scope.cancel()
        assert one.late == 1


async def test_a_response_that_is_not_taken_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    # Otherwise its 5 MB might take 20 minutes.
    monkeypatch.setattr("tim_trio.net.http._LEAST_RATE", 10**9)
    async with served(timeout_s=0.1, send_buffer=4096, receive_buffer=4096) as one:
        await one.client.send_raw(get("/large"))
        with trio.fail_after(30):
            await one.done.wait()
        assert one.result is None
        assert one.late == 1


@pytest.mark.parametrize("cut", [0, 1, 10, 30])
async def test_who_leaves_in_the_middle(cut: int) -> None:
    async with served() as one:
        await one.client.send_raw(get()[:cut])
        one.client.reset() if cut % 2 else one.client.close()
        await one.done.wait()
        assert one.result is None


async def test_who_leaves_without_reading_the_response() -> None:
    async with served(send_buffer=4096, receive_buffer=4096) as one:
        await one.client.send_raw(get("/large"))
        await trio.sleep(0.02)
        one.client.reset()
        await one.done.wait()
        assert one.result is None


async def test_who_sends_on_after_an_error_is_not_read_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tim_trio.net.http._LINGER_S", 0.1)
    async with served() as one:
        await one.client.send_raw(b"nonsense\r\n\r\n")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while not one.done.is_set():
                await one.client.send_raw(bytes(1000))
                await trio.sleep(0.005)
        await one.done.wait()


def post(body: bytes, path: str = "/later", *, chunked: bool = False) -> bytes:
    head = f"POST {path} HTTP/1.1\r\n".encode() + _HOST
    if chunked:
        chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
        return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


async def test_a_request_with_a_body_where_it_may_have_one() -> None:
    async with served() as one:
        for body in (b"", b"hello", b"0123456789"):
            for chunked in (False, True):
                assert (await one.ask(post(body, chunked=chunked)))[::2] == (200, body)
        for byte in post(b"slowly"):
            await one.client.send_raw(bytes([byte]))
        assert (await one.client.read_response())[::2] == (200, b"slowly")
        assert (await one.ask(post(b"no")))[0] == 403
        assert (await one.ask(get("/next")))[0] == 200


@pytest.mark.parametrize("request_bytes", [post(bytes(11)), post(bytes(11), chunked=True)])
async def test_a_body_that_is_too_large(request_bytes: bytes) -> None:
    async with served() as one:
        assert (await one.ask(request_bytes))[0] == 413
        assert await one.is_over()


async def test_a_response_that_takes_too_long() -> None:
    async with served(timeout_s=0.2) as one:
        await one.client.send_raw(post(b"never"))
        assert await one.is_over()
        assert one.late == 1
