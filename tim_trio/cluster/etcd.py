"""A client for etcd's v3 JSON gateway, natively on Trio.

Keys are text, values bytes. Every call has a deadline, and goes to the next
endpoint when one cannot be reached or has no leader; a write whose answer was
lost may then be carried out twice, so every write here is one that may be.

Source: etcd's "gRPC gateway" and API reference, version 3.4 and later.
"""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import attrs
import httpx
import trio

from tim_trio.errors import ClusterError
from tim_trio.net.tls_ends import is_cut

_UNAUTHENTICATED: Final = 16
#: gRPC's codes for what will not work in a moment or elsewhere either: invalid
#: argument, not found, already there, permission denied, failed precondition,
#: not implemented. All others an etcd gives that stops, starts or has no leader.
_REFUSALS: Final = frozenset({3, 5, 6, 7, 9, 12})
_PAUSE_S: Final = 0.05
_PAGE: Final = 1000


class EtcdUnavailable(ClusterError):
    """No endpoint answered in time. Whether a write took effect is unknown."""


class EtcdRefused(ClusterError):
    """etcd answered, and the answer is no: rights, or a call it does not know."""


@attrs.frozen(kw_only=True)
class KeyValue:
    """``mod_revision`` is that of the key's last change, ``lease`` 0 for none."""

    key: str
    value: bytes = attrs.field(repr=False)
    mod_revision: int
    create_revision: int
    lease: int


@attrs.frozen(kw_only=True)
class Page:
    """``revision`` is the store's when it was read."""

    kvs: list[KeyValue]
    revision: int
    more: bool


def _text(data: str) -> str:
    return base64.b64encode(data.encode()).decode()


def read_kv(kv: dict[str, Any]) -> KeyValue:
    # Fields of value 0 and empty ones are left out; 64-bit numbers are text.
    return KeyValue(
        key=base64.b64decode(kv["key"]).decode(),
        value=base64.b64decode(kv.get("value", "")),
        mod_revision=int(kv.get("mod_revision", 0)),
        create_revision=int(kv.get("create_revision", 0)),
        lease=int(kv.get("lease", 0)),
    )


def prefix_end(prefix: str) -> str:
    """Return the first key behind all that begin with ``prefix`` (ASCII at its end)."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


# What a transaction is made of.


def is_absent(key: str) -> dict[str, Any]:
    return {"key": _text(key), "target": "CREATE", "result": "EQUAL", "create_revision": "0"}


def is_present(key: str) -> dict[str, Any]:
    return {"key": _text(key), "target": "CREATE", "result": "GREATER", "create_revision": "0"}


def is_unchanged(key: str, mod_revision: int) -> dict[str, Any]:
    """The key was last changed at ``mod_revision``; 0 for a key that is not there."""
    return {
        "key": _text(key),
        "target": "MOD",
        "result": "EQUAL",
        "mod_revision": str(mod_revision),
    }


def put(key: str, value: bytes, lease: int = 0) -> dict[str, Any]:
    content = {"key": _text(key), "value": base64.b64encode(value).decode(), "lease": str(lease)}
    return {"requestPut": content}


def delete(key: str) -> dict[str, Any]:
    return {"requestDeleteRange": {"key": _text(key)}}


def delete_prefix(prefix: str) -> dict[str, Any]:
    content = {"key": _text(prefix), "range_end": _text(prefix_end(prefix))}
    return {"requestDeleteRange": content}


@attrs.define(eq=False)
class EtcdClient:
    """Made by `open_etcd`. Calls may be made from many tasks at once.

    Every call raises:
        EtcdUnavailable: nobody answered within the deadline.
        EtcdRefused: etcd refused; trying again will not help.
    """

    endpoints: Sequence[str]
    timeout_s: float
    _http: httpx.AsyncClient
    _user: str = ""
    _password: str = attrs.field(default="", repr=False)
    _token: str = attrs.field(default="", repr=False)
    _current: int = 0

    @property
    def endpoint(self) -> str:
        """The one that calls go to now."""
        return self.endpoints[self._current % len(self.endpoints)]

    def try_next(self, failed: str) -> None:
        """Go on with another endpoint, unless somebody has done so already."""
        if failed == self.endpoint:
            self._current += 1

    async def headers(self) -> dict[str, str]:
        """Return what a request needs, signing in first if it must."""
        if self._user and not self._token:
            answer = await self._call_once(
                "/v3/auth/authenticate", {"name": self._user, "password": self._password}, {}
            )
            self._token = str(answer.get("token", ""))
        return {"Authorization": self._token} if self._token else {}

    async def _call(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        problem = "no answer"
        signed_in_anew = False
        with trio.move_on_after(self.timeout_s):
            while True:
                endpoint = self.endpoint
                try:
                    return await self._call_once(path, body, await self.headers())
                except _Unauthenticated as error:
                    # A token does not outlive etcd's leader, or five minutes.
                    if signed_in_anew or not self._user:
                        raise EtcdRefused(str(error)) from None
                    signed_in_anew = True
                    self._token = ""
                except EtcdUnavailable as error:
                    problem = str(error)
                    self.try_next(endpoint)
                    await trio.sleep(_PAUSE_S)
        raise EtcdUnavailable(f"etcd is not available: {problem}")

    async def _call_once(
        self, path: str, body: dict[str, Any], headers: dict[str, str]
    ) -> dict[str, Any]:
        endpoint = self.endpoint
        try:
            # One silent endpoint must leave time for the next.
            response = await self._http.send(
                self._request(endpoint + path, body, headers, httpx.Timeout(self.attempt_s))
            )
            answer = response.json()
        except httpx.HTTPError as error:
            raise EtcdUnavailable(f"{endpoint}: {describe(error)}") from None
        except ValueError:
            raise EtcdUnavailable(f"{endpoint} does not answer as etcd does") from None
        if not isinstance(answer, dict):
            raise EtcdUnavailable(f"{endpoint} does not answer as etcd does")
        if response.status_code != 200 or "code" in answer:
            raise error_of(endpoint, answer)
        return answer

    @property
    def attempt_s(self) -> float:
        """How long one endpoint may take."""
        return self.timeout_s if len(self.endpoints) == 1 else self.timeout_s / 2

    # Leases

    async def grant(self, ttl_s: int) -> int:
        """Make a lease that ends ``ttl_s`` seconds after it was last kept alive."""
        answer = await self._call("/v3/lease/grant", {"TTL": str(ttl_s)})
        return int(answer["ID"])

    async def keep_alive(self, lease: int) -> int:
        """Begin a lease's time anew; return its seconds, 0 if it is over."""
        answer = await self._call("/v3/lease/keepalive", {"ID": str(lease)})
        result = answer.get("result", answer)
        return int(result.get("TTL", 0))

    async def revoke(self, lease: int) -> None:
        """End a lease, and with it its keys. Nothing happens to one that is over."""
        try:
            await self._call("/v3/lease/revoke", {"ID": str(lease)})
        except EtcdRefused as error:
            if "not found" not in str(error):
                raise

    # Keys

    async def get(self, key: str) -> KeyValue | None:
        answer = await self._call("/v3/kv/range", {"key": _text(key)})
        kvs = answer.get("kvs", [])
        return read_kv(kvs[0]) if kvs else None

    async def range(
        self, prefix: str, *, after: str = "", limit: int = 0, revision: int = 0
    ) -> Page:
        """Return the keys that begin with ``prefix`` and come behind ``after``, in order.

        At most ``limit`` of them (0: all), as they were at ``revision`` (0: now).
        """
        body: dict[str, Any] = {
            "key": _text(after + "\0" if after else prefix),
            "range_end": _text(prefix_end(prefix)),
        }
        if limit:
            body["limit"] = str(limit)
        if revision:
            body["revision"] = str(revision)
        answer = await self._call("/v3/kv/range", body)
        return Page(
            kvs=[read_kv(kv) for kv in answer.get("kvs", [])],
            revision=int(answer["header"]["revision"]),
            more=bool(answer.get("more", False)),
        )

    async def snapshot(self, prefix: str) -> Page:
        """Return all keys that begin with ``prefix``, as of one moment, in pages."""
        page = await self.range(prefix, limit=_PAGE)
        kvs, more = page.kvs, page.more
        while more:
            rest = await self.range(prefix, after=kvs[-1].key, limit=_PAGE, revision=page.revision)
            kvs, more = kvs + rest.kvs, rest.more
        return Page(kvs=kvs, revision=page.revision, more=False)

    async def count(self, prefix: str) -> int:
        body = {"key": _text(prefix), "range_end": _text(prefix_end(prefix)), "count_only": True}
        answer = await self._call("/v3/kv/range", body)
        return int(answer.get("count", 0))

    async def put(self, key: str, value: bytes, lease: int = 0) -> None:
        await self._call("/v3/kv/put", put(key, value, lease)["requestPut"])

    async def delete(self, key: str) -> None:
        await self._call("/v3/kv/deleterange", {"key": _text(key)})

    async def create(self, key: str, value: bytes, lease: int = 0) -> bool:
        """Put a key that is not there; False when it is."""
        return await self.transact([is_absent(key)], [put(key, value, lease)])

    async def swap(self, key: str, value: bytes, mod_revision: int, lease: int = 0) -> bool:
        """Put a key that was last changed at ``mod_revision``; False when it has changed."""
        return await self.transact([is_unchanged(key, mod_revision)], [put(key, value, lease)])

    async def transact(
        self, conditions: Sequence[dict[str, Any]], changes: Sequence[dict[str, Any]]
    ) -> bool:
        """Make all changes if all conditions hold, else none; say which."""
        body = {"compare": list(conditions), "success": list(changes)}
        answer = await self._call("/v3/kv/txn", body)
        return bool(answer.get("succeeded", False))

    @contextlib.asynccontextmanager
    async def stream(self, path: str, body: dict[str, Any]) -> AsyncIterator[httpx.Response]:
        """Open a call that answers line by line. Its lines have no deadline but
        the one the caller sets; httpx's own errors pass through."""
        timeout = httpx.Timeout(self.attempt_s, read=None)
        request = self._request(self.endpoint + path, body, await self.headers(), timeout)
        response = await self._http.send(request, stream=True)
        try:
            yield response
        finally:
            await response.aclose()

    def _request(
        self, url: str, body: dict[str, Any], headers: dict[str, str], timeout: httpx.Timeout
    ) -> httpx.Request:
        data = json.dumps(body).encode()
        return httpx.Request(
            "POST",
            url,
            headers={
                **headers,
                "Host": urlsplit(url).netloc,
                "Content-Type": "application/json",
                "Content-Length": str(len(data)),
            },
            stream=_Body(data),
            extensions={"timeout": timeout.as_dict()},
        )

    def forget_token(self) -> None:
        """etcd did not take it: sign in again."""
        self._token = ""


class _Body(httpx.AsyncByteStream):
    """A request's body, as one piece.

    httpx's own is a generator, which a lost connection leaves unfinished for
    the garbage collector to complain about.
    """

    def __init__(self, data: bytes) -> None:
        self._pieces = [data]

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._pieces:
            raise StopAsyncIteration
        return self._pieces.pop()


class _Unauthenticated(ClusterError):
    """The token is not taken, any more."""


def describe(error: Exception) -> str:
    """Return what went wrong. httpx's errors often have no text but their cause's."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, socket.gaierror):
            return "the host's name is not known"
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not accepted: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError) and (
            is_cut(cause) or cause.reason == "WRONG_VERSION_NUMBER"
        ):
            return "no TLS there; etcd:// connects without"
        cause = cause.__cause__ or cause.__context__
    cause = error
    while cause is not None and not str(cause):
        cause = cause.__cause__ or cause.__context__
    return str(cause) if cause is not None else type(error).__name__


def error_of(endpoint: str, answer: dict[str, Any]) -> ClusterError:
    """Return what an answer that is an error means."""
    code = answer.get("code", answer.get("grpc_code", 0))
    text = str(answer.get("message") or answer.get("error") or "an error without a text")
    if code == _UNAUTHENTICATED or "invalid auth token" in text:
        return _Unauthenticated(text)
    if code in _REFUSALS:
        return EtcdRefused(f"etcd refused: {text}")
    return EtcdUnavailable(f"{endpoint}: {text}")


def parse_endpoints(text: str) -> tuple[str, ...]:
    """Return the endpoints of ``etcd://HOST:PORT,HOST:PORT`` or ``etcds://…``.

    Raises:
        ValueError: with a message for a person.
    """
    scheme, colon, rest = text.strip().partition("://")
    protocol = {"etcd": "http", "etcds": "https"}.get(scheme)
    if not colon or protocol is None:
        raise ValueError(f'"{text}" is not etcd://HOST:PORT or etcds://HOST:PORT')
    endpoints = []
    for part in rest.rstrip("/").split(","):
        if "@" in part:
            raise ValueError("a user and password do not belong into the address")
        try:
            parts = urlsplit(f"{protocol}://{part}")
            if not parts.hostname or parts.port is None or parts.path:
                raise ValueError
        except ValueError:
            raise ValueError(f'"{part}" in "{text}" is not HOST:PORT') from None
        endpoints.append(f"{protocol}://{part}")
    return tuple(endpoints)


@contextlib.asynccontextmanager
async def open_etcd(
    endpoints: Sequence[str],
    *,
    user: str = "",
    password: str = "",
    tls: ssl.SSLContext | None = None,
    timeout_s: float = 5.0,
) -> AsyncIterator[EtcdClient]:
    """Give a client. Nothing is sent before its first call.

    Args:
        endpoints: base URLs; the next is tried where one does not answer.
        tls: for ``https``: whom to trust, and a certificate of our own if etcd wants one.
        timeout_s: deadline of a call, over all endpoints.
    """
    async with httpx.AsyncClient(verify=tls or True, trust_env=False) as http:
        yield EtcdClient(endpoints, timeout_s, http, user, password)
