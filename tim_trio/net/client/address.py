"""Server addresses as people write them: ``tim://HOST:PORT``, ``tims://`` for TLS."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

import attrs

DEFAULT_PORT: Final = 7600
SCHEME: Final = "tim"
TLS_SCHEME: Final = "tims"


@attrs.frozen
class Address:
    """Where a server listens, and whether with TLS."""

    host: str
    port: int
    tls: bool = False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{TLS_SCHEME if self.tls else SCHEME}://{host}:{self.port}"


def parse_address(text: str) -> Address:
    """Return what ``tim://HOST:PORT`` or ``tims://HOST:PORT`` says; without a port it is 7600.

    Raises:
        TypeError: no text.
        ValueError: not such an address; the message says what is wrong.
    """
    hint = f"write it as {SCHEME}://HOST:PORT, or {TLS_SCHEME}://HOST:PORT for TLS"
    if not isinstance(text, str):
        raise TypeError(f"a server address is a text, not {type(text).__name__}: {hint}")
    if "://" not in text:
        raise ValueError(f"{text!r} is not a server address: {hint}")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{text!r} is not a server address ({error}): {hint}") from None
    if parts.scheme not in (SCHEME, TLS_SCHEME):
        raise ValueError(f"cannot connect by {parts.scheme!r}: {hint}")
    if not host or parts.path not in ("", "/") or parts.query or parts.fragment or parts.username:
        raise ValueError(f"{text!r} is not a server address: {hint}")
    if port == 0:
        raise ValueError(f"port 0 is no server's port: {hint}")
    return Address(host, DEFAULT_PORT if port is None else port, parts.scheme == TLS_SCHEME)
