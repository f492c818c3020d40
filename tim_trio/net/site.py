"""What the web port answers: pages, health and figures, and the way to the WebSocket.

Source: docs/operations.md, "The web port".
"""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Final

import attrs

from tim_trio.net.http import Headers, Later, Request, Response, Unservable, plain_text
from tim_trio.net.origin import OriginPolicy, is_of_a_page
from tim_trio.net.tim.connection import open_tim
from tim_trio.net.websocket import Opening, open_websocket

#: Only our own scripts, styles and connections; no page may frame ours.
#: ``blob:`` is a local media file that is to be shared.
_CONTENT_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "worker-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
#: Sent with every response.
COMMON_HEADERS: Final[Headers] = (
    ("Content-Security-Policy", _CONTENT_POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    # A room's id stands in the address, and knowing it is the right to watch.
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Embedder-Policy", "require-corp"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Permissions-Policy", "camera=(self), microphone=(self), display-capture=(self)"),
)


def headers_for(other_hosts: Sequence[str]) -> Headers:
    """Return what is sent with every response where pages may go on at other nodes."""
    if not other_hosts:
        return COMMON_HEADERS
    others = " ".join(f"ws://{host} wss://{host}" for host in other_hosts)
    ours = "connect-src 'self'"
    return tuple((name, value.replace(ours, f"{ours} {others}")) for name, value in COMMON_HEADERS)


_NO_STORE: Final[Headers] = (("Cache-Control", "no-store"),)
#: A path under a version of the site, and the same without it.
_VERSIONED: Final = re.compile(r"/v/[0-9a-f]{1,64}(/.+)")
_NO_WEIGHT: Final = re.compile(r"q\s*=\s*0(\.0*)?")
_METHODS: Final = frozenset({"GET", "HEAD"})
#: Where TIM's clients ask for a token or register, without a WebSocket.
_TIM_POST: Final = "/tim2"
_MAX_TIM_BODY: Final = 16 * 1024
#: Python's own table depends on the machine's; these are what a browser must be told.
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".map": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}


@attrs.frozen(kw_only=True)
class Page:
    """One file, in memory.

    Attributes:
        packed: compressed by gzip, None where that saves nothing.
        tag: changes with the bytes.
        never_changes: under this path there will never be anything else.
    """

    body: bytes
    packed: bytes | None
    content_type: str
    tag: str
    never_changes: bool = False


def make_pages(files: Mapping[str, bytes]) -> dict[str, Page]:
    """Return what is served, by path, from files by their name relative to the site.

    ``index.html`` is served for its directory as well, and what is under ``v/`` never
    changes. Requests are looked up here and nowhere else, so no path leads to another file.
    """
    pages: dict[str, Page] = {}
    known: dict[bytes, bytes | None] = {}
    for name, body in files.items():
        suffix = "." + name.rpartition(".")[2]
        kind = _TYPES.get(suffix) or mimetypes.types_map.get(suffix, "application/octet-stream")
        if body not in known:
            known[body] = _pack(body)
        page = Page(
            body=body,
            packed=known[body],
            content_type=kind,
            tag=hashlib.sha256(body).hexdigest()[:32],
            never_changes=name.startswith("v/"),
        )
        pages["/" + name] = page
        if name == "index.html" or name.endswith("/index.html"):
            pages["/" + name.removesuffix("index.html")] = page
    return pages


def _pack(body: bytes) -> bytes | None:
    # Once, at the start. No time within, so that all nodes say the same.
    packed = gzip.compress(body, mtime=0)
    return packed if len(packed) < len(body) else None


@attrs.frozen
class Caller:
    """Who asks.

    Attributes:
        is_loopback: on this machine, and to an address of this machine's own.
    """

    address: str
    is_loopback: bool


@attrs.define(eq=False)
class Site:
    """Answers requests.

    Attributes:
        is_ready: new clients are welcome.
        render_figures: for ``/metrics``; a content type and a text.
        may_see_figures: whether a request from elsewhere may, by its Authorization header.
        serve_tim: answers a packet of a client of TIM's, from an address.
        other_hosts: ``HOST:PORT`` of the cluster's other nodes, whose pages are as good as ours.
    """

    pages: Mapping[str, Page]
    policy: OriginPolicy
    is_ready: Callable[[], bool]
    render_figures: Callable[[], tuple[str, bytes]]
    may_see_figures: Callable[[Request], bool]
    serve_tim: Callable[[bytes, str], Awaitable[bytes]]
    other_hosts: Callable[[], Sequence[str]] = tuple

    def answer(self, request: Request, caller: Caller) -> Response | Later | Opening:
        """Return the answer to a request.

        Raises:
            Unservable: likewise an answer.
        """
        if not self.policy.is_our_name(request.host, is_loopback=caller.is_loopback):
            raise Unservable(
                HTTPStatus.MISDIRECTED_REQUEST,
                "this server does not go by that name; its setting web_hosts lists its names",
            )
        if request.path == _TIM_POST:
            return self._post_tim(request, caller)
        if request.method not in _METHODS:
            allowed = (("Allow", "GET, HEAD"),)
            raise Unservable(HTTPStatus.METHOD_NOT_ALLOWED, "", allowed)
        match request.path:
            case "/ws":
                return self._open(request)
            case "/tim":
                return self._open(request, is_tim=True)
            case "/healthz":
                return plain_text(HTTPStatus.OK, "ok", _NO_STORE)
            case "/readyz":
                if self.is_ready():
                    return plain_text(HTTPStatus.OK, "ready", _NO_STORE)
                return plain_text(HTTPStatus.SERVICE_UNAVAILABLE, "draining", _NO_STORE)
            case "/metrics":
                return self._figures(request, caller)
        return _serve(self._find(request.path), request)

    def _find(self, path: str) -> Page:
        page = self.pages.get(path)
        versioned = _VERSIONED.fullmatch(path) if page is None else None
        if versioned is not None:
            # A page of before a restart, or of another node, looks for a worker: what is
            # here now will do, but not under that name for ever.
            page = self.pages.get(versioned[1])
        if page is None:
            raise Unservable(HTTPStatus.NOT_FOUND)
        return page

    def _open(self, request: Request, *, is_tim: bool = False) -> Opening:
        self._check_origin(request, is_tim=is_tim)
        if request.method != "GET":
            raise Unservable(HTTPStatus.METHOD_NOT_ALLOWED, "", (("Allow", "GET"),))
        return open_tim(request) if is_tim else open_websocket(request)

    def _check_origin(self, request: Request, *, is_tim: bool) -> None:
        origin = request.headers.get("origin")
        if is_tim and origin is not None and not is_of_a_page(origin):
            return
        if not any(
            self.policy.may_connect(origin, host) for host in (request.host, *self.other_hosts())
        ):
            raise Unservable(
                HTTPStatus.FORBIDDEN,
                "this page may not connect; the server's setting web_origins lists who may",
            )

    def _post_tim(self, request: Request, caller: Caller) -> Later:
        self._check_origin(request, is_tim=True)
        if request.method != "POST":
            raise Unservable(HTTPStatus.METHOD_NOT_ALLOWED, "", (("Allow", "POST"),))

        async def make() -> Response:
            body = await self.serve_tim(request.body, caller.address)
            headers: Headers = (("Content-Type", "application/octet-stream"), *_NO_STORE)
            origin = request.headers.get("origin")
            if origin is not None:
                # A page that may use the server may read what it says.
                headers = (*headers, ("Access-Control-Allow-Origin", origin), ("Vary", "Origin"))
            return Response(HTTPStatus.OK, body, headers)

        return Later(make)

    def _figures(self, request: Request, caller: Caller) -> Response:
        is_local = caller.is_loopback and not is_forwarded(request)
        if not is_local and not self.may_see_figures(request):
            raise Unservable(
                HTTPStatus.UNAUTHORIZED,
                "from this machine, or with the token in the server's metrics_token_file",
                (("WWW-Authenticate", "Bearer"),),
            )
        kind, text = self.render_figures()
        return Response(HTTPStatus.OK, text, (("Content-Type", kind), *_NO_STORE))


def max_body(request: Request) -> int:
    """Return how large a body a request may have."""
    return _MAX_TIM_BODY if (request.method, request.path) == ("POST", _TIM_POST) else 0


def is_forwarded(request: Request) -> bool:
    """Say whether a proxy on this machine asks for somebody elsewhere."""
    return "forwarded" in request.headers or "x-forwarded-for" in request.headers


def _serve(page: Page, request: Request) -> Response:
    # All but what is named after its content is asked for anew each time, and hardly ever
    # sent anew: a new version of the server must not meet an old page.
    keep = "public, max-age=31536000, immutable" if page.never_changes else "no-cache"
    packs = page.packed is not None and _takes_gzip(request.headers.get("accept-encoding", ""))
    tag = f'"{page.tag}-gzip"' if packs else f'"{page.tag}"'
    headers: Headers = (("ETag", tag), ("Cache-Control", keep))
    if page.packed is not None:
        headers = (*headers, ("Vary", "Accept-Encoding"))
    known = request.headers.get("if-none-match", "")
    if known == "*" or tag in (each.strip().removeprefix("W/") for each in known.split(",")):
        return Response(HTTPStatus.NOT_MODIFIED, b"", headers)
    headers = (("Content-Type", page.content_type), *headers)
    if packs:
        assert page.packed is not None
        return Response(HTTPStatus.OK, page.packed, (*headers, ("Content-Encoding", "gzip")))
    return Response(HTTPStatus.OK, page.body, headers)


def _takes_gzip(accepted: str) -> bool:
    """Say whether an Accept-Encoding header has gzip, and not at a weight of nothing."""
    for each in accepted.lower().split(","):
        coding, _, weight = each.partition(";")
        if coding.strip() in ("gzip", "x-gzip"):
            return _NO_WEIGHT.fullmatch(weight.strip()) is None
    return False
