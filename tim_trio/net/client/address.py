"""Server addresses as people write them: ``tim://HOST:PORT``."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

import attrs

DEFAULT_PORT: Final = 7600
SCHEME: Final = "tim"


@attrs.frozen
class Address:
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{SCHEME}://{host}:{self.port}"


def parse_address(text: str) -> Address:
    """Return the host and port of ``tim://HOST:PORT``; without a port it is 7600.

    Raises:
        ValueError: not such an address; the message says what is wrong.
    """
    hint = f"write it as {SCHEME}://HOST:PORT"
    if "://" not in text:
        raise ValueError(f"{text!r} is not a server address: {hint}")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{text!r} is not a server address ({error}): {hint}") from None
    if parts.scheme != SCHEME:
        raise ValueError(f"cannot connect by {parts.scheme!r}: {hint}")
    if not host or parts.path not in ("", "/") or parts.query or parts.fragment or parts.username:
        raise ValueError(f"{text!r} is not a server address: {hint}")
    if port == 0:
        raise ValueError(f"port 0 is no server's port: {hint}")
    return Address(host, DEFAULT_PORT if port is None else port)
