"""What the web port answers, without a socket."""

import gzip
from collections.abc import Mapping
from http import HTTPStatus

import pytest

from tim_trio.net.http import Later, Request, Response, Unservable
from tim_trio.net.origin import OriginPolicy
from tim_trio.net.site import COMMON_HEADERS, Caller, Site, make_pages, max_body
from tim_trio.net.tim.connection import TimOpening
from tim_trio.net.websocket import Opening

FILES = {
    "index.html": b"<!doctype html>",
    "tim/index.js": b"export {};",
    "tim/README": b"text",
    "docs/index.html": b"docs",
    "long.js": b"export {};\n" * 50,
    "v/0123456789abcdef/long.js": b"export {};\n" * 50,
}
HERE = Caller("127.0.0.1", True)
THERE = Caller("192.0.2.1", False)
UPGRADE = {
    "upgrade": "websocket",
    "connection": "Upgrade",
    "sec-websocket-version": "13",
    "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==",
    "sec-websocket-protocol": "tim.1",
}


def make_site(*, ready: bool = True, bears_token: bool = False) -> Site:
    return Site(
        make_pages(FILES),
        OriginPolicy(),
        is_ready=lambda: ready,
        render_figures=lambda: ("text/plain", b"figures"),
        may_see_figures=lambda _: bears_token,
        serve_tim=_echo,
    )


async def _echo(body: bytes, address: str) -> bytes:
    return body + address.encode()


def ask(
    path: str,
    headers: Mapping[str, str] | None = None,
    *,
    method: str = "GET",
    host: str = "localhost",
    caller: Caller = HERE,
    site: Site | None = None,
) -> Response | Later | Opening:
    sent = {"host": host, **(headers or {})}
    try:
        return (site or make_site()).answer(Request(method, host, path, sent), caller)
    except Unservable as refused:
        return refused.response


def status(
    path: str,
    headers: Mapping[str, str] | None = None,
    *,
    method: str = "GET",
    host: str = "localhost",
    caller: Caller = HERE,
    site: Site | None = None,
) -> int:
    answer = ask(path, headers, method=method, host=host, caller=caller, site=site)
    assert isinstance(answer, Response)
    return answer.status


def test_pages() -> None:
    index = ask("/")
    assert isinstance(index, Response)
    assert index.body == b"<!doctype html>"
    headers = dict(index.headers)
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["Cache-Control"] == "no-cache"
    assert ask("/index.html") == index
    script = ask("/tim/index.js")
    assert isinstance(script, Response)
    assert dict(script.headers)["Content-Type"] == "text/javascript; charset=utf-8"
    other = ask("/tim/README")
    assert isinstance(other, Response)
    assert dict(other.headers)["Content-Type"] == "application/octet-stream"
    docs = ask("/docs/")
    assert isinstance(docs, Response)
    assert docs.body == b"docs"


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/tims",
        "/tim/",
        "//",
        "/../site.py",
        "/tim/../index.html",
        "/tim/../../../etc/passwd",
        "/%2e%2e/etc/passwd",
        "/..%2f..%2fetc/passwd",
        "/index.html\x00",
        "/INDEX.HTML",
        "/\\..\\",
    ],
)
def test_no_path_leads_elsewhere(path: str) -> None:
    answer = ask(path)
    assert isinstance(answer, Response)
    assert answer.status == HTTPStatus.NOT_FOUND
    assert answer.body == b"Not Found\n"


def test_a_page_that_is_known_is_not_sent_again() -> None:
    index = ask("/")
    assert isinstance(index, Response)
    tag = dict(index.headers)["ETag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = ask("/", {"if-none-match": known})
        assert isinstance(again, Response)
        assert (again.status, again.body) == (HTTPStatus.NOT_MODIFIED, b"")
        assert dict(again.headers)["ETag"] == tag
    assert status("/", {"if-none-match": '"other"'}) == 200
    assert make_pages({"a": b"1"})["/a"].tag != make_pages({"a": b"2"})["/a"].tag


def test_what_is_named_after_its_content_is_kept() -> None:
    page = ask("/v/0123456789abcdef/long.js")
    assert isinstance(page, Response)
    assert dict(page.headers)["Cache-Control"] == "public, max-age=31536000, immutable"
    # Of another version: what is here now, and not for ever.
    other = ask("/v/fedcba9876543210/long.js")
    assert isinstance(other, Response)
    assert other.body == page.body
    assert dict(other.headers)["Cache-Control"] == "no-cache"
    for path in (
        "/v/fedcba9876543210/no.js",
        "/v/fedcba9876543210/",
        "/v//long.js",
        "/v/x/long.js",
    ):
        assert status(path) == 404


def test_texts_are_compressed_for_who_can_read_it() -> None:
    plain = ask("/long.js")
    assert isinstance(plain, Response)
    assert "Content-Encoding" not in dict(plain.headers)
    for accepted in ("gzip", "deflate, gzip;q=0.5, br", "br,x-gzip", "GZIP"):
        packed = ask("/long.js", {"accept-encoding": accepted})
        assert isinstance(packed, Response)
        headers = dict(packed.headers)
        assert (headers["Content-Encoding"], headers["Vary"]) == ("gzip", "Accept-Encoding")
        assert gzip.decompress(packed.body) == plain.body
        assert len(packed.body) < len(plain.body)
        # Another text to caches, by another tag.
        assert headers["ETag"] != dict(plain.headers)["ETag"]
        again = {"accept-encoding": accepted, "if-none-match": headers["ETag"]}
        assert status("/long.js", again) == 304
    for refused in ("", "br", "gzip;q=0", "gzip; q=0.000", "identity, gzips"):
        assert ask("/long.js", {"accept-encoding": refused}) == plain
    # Too short to gain by it.
    assert ask("/tim/README", {"accept-encoding": "gzip"}) == ask("/tim/README")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get"])
def test_other_methods(method: str) -> None:
    answer = ask("/", method=method)
    assert isinstance(answer, Response)
    assert answer.status == HTTPStatus.METHOD_NOT_ALLOWED
    assert ("Allow", "GET, HEAD") in answer.headers


def test_wrong_names_are_misdirected_whatever_they_ask() -> None:
    for path in ("/", "/ws", "/metrics", "/healthz", "/nothing"):
        assert status(path, host="evil.example") == HTTPStatus.MISDIRECTED_REQUEST
        assert status(path, host="") == HTTPStatus.MISDIRECTED_REQUEST
    assert status("/", host="evil.example", caller=THERE) == 200


def test_health_and_readiness() -> None:
    assert status("/healthz") == status("/readyz") == 200
    draining = make_site(ready=False)
    assert status("/healthz", site=draining) == 200
    assert status("/readyz", site=draining) == 503


def test_figures_are_for_this_machine_and_for_who_bears_the_token() -> None:
    assert status("/metrics") == 200
    assert status("/metrics", caller=THERE) == 401
    assert status("/metrics", caller=THERE, site=make_site(bears_token=True)) == 200
    # Through a proxy on this machine, for somebody elsewhere.
    assert status("/metrics", {"x-forwarded-for": "192.0.2.1"}) == 401
    assert status("/metrics", {"forwarded": "for=192.0.2.1"}) == 401
    refused = ask("/metrics", caller=THERE)
    assert isinstance(refused, Response)
    assert ("WWW-Authenticate", "Bearer") in refused.headers


def test_a_websocket_is_for_our_own_pages() -> None:
    answer = ask("/ws", {**UPGRADE, "origin": "http://localhost:7680"}, host="localhost:7680")
    assert isinstance(answer, Opening)
    assert answer.answer.startswith(b"HTTP/1.1 101 ")
    assert status("/ws", {**UPGRADE, "origin": "https://evil.example"}) == HTTPStatus.FORBIDDEN
    assert status("/ws", UPGRADE, method="HEAD") == HTTPStatus.METHOD_NOT_ALLOWED


def test_the_policy_lets_nothing_of_others_in() -> None:
    policy = dict(COMMON_HEADERS)["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    for loose in ("unsafe", "http:", "https:", "*", "data: blob:"):
        assert loose not in policy


def test_tims_clients_open_their_websocket_without_a_subprotocol() -> None:
    headers = {name: value for name, value in UPGRADE.items() if "protocol" not in name}
    opening = ask("/tim", headers)
    assert isinstance(opening, TimOpening)
    assert b"Sec-WebSocket-Protocol" not in opening.answer
    assert isinstance(ask("/tim", UPGRADE), TimOpening)
    assert not isinstance(ask("/ws", UPGRADE), TimOpening)
    assert status("/tim") is HTTPStatus.UPGRADE_REQUIRED
    assert status("/tim", {**headers, "origin": "http://elsewhere"}) is HTTPStatus.FORBIDDEN
    assert status("/tim", headers, method="HEAD") is HTTPStatus.METHOD_NOT_ALLOWED
    # What those send that are no pages; the same is no origin of ours elsewhere.
    theirs = {**headers, "origin": "https://github.com/donnie4w/tim"}
    assert isinstance(ask("/tim", theirs), TimOpening)
    assert status("/tim", {**headers, "origin": "https://github.com"}) is HTTPStatus.FORBIDDEN
    assert status("/tim", {**headers, "origin": "null"}) is HTTPStatus.FORBIDDEN
    assert status("/ws", {**UPGRADE, **theirs}) is HTTPStatus.FORBIDDEN


async def test_tims_clients_ask_for_a_token_by_post() -> None:
    later = ask("/tim2", {"origin": "http://localhost"}, method="POST", caller=THERE, host="a.b")
    assert isinstance(later, Response) and later.status is HTTPStatus.FORBIDDEN
    later = ask("/tim2", method="POST")
    assert isinstance(later, Later)
    response = await later.make()
    assert (response.status, response.body) == (HTTPStatus.OK, b"127.0.0.1")
    assert "Access-Control-Allow-Origin" not in dict(response.headers)
    later = ask("/tim2", {"origin": "http://localhost"}, method="POST")
    assert isinstance(later, Later)
    theirs = {"origin": "https://github.com/donnie4w/tim"}
    assert isinstance(ask("/tim2", theirs, method="POST"), Later)
    headers = dict((await later.make()).headers)
    assert headers["Access-Control-Allow-Origin"] == "http://localhost"
    assert status("/tim2") is HTTPStatus.METHOD_NOT_ALLOWED


@pytest.mark.parametrize(
    "method, path, size", [("POST", "/tim2", 16_384), ("GET", "/tim2", 0), ("POST", "/", 0)]
)
def test_where_a_request_may_have_a_body(method: str, path: str, size: int) -> None:
    assert max_body(Request(method, "localhost", path, {})) == size
