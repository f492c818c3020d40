"""Which names and which pages a web port answers to.

A page elsewhere can make a browser send requests to any address, this
machine's loopback too. Two headers that no page can forge tell: ``Origin`` is
where the page comes from, ``Host`` the name that its address was made of (a
hostile name may lead to 127.0.0.1).

Source: docs/operations.md, "The web port".
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

import attrs

_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}


def host_name(host: str) -> str | None:
    """Return the name in a Host header, without port and brackets; None if it is malformed."""
    match = _HOST.fullmatch(host)
    if match is None:
        return None
    return match[1].strip("[]").rstrip(".").lower()


def _is_loopback_name(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


@attrs.frozen
class OriginPolicy:
    """What a request must say of itself.

    Attributes:
        hosts: names that are ours. Empty for any on an address that others
            reach; on a loopback address only loopback names are ever ours
            beside these.
        origins: whose pages may open a WebSocket, each ``scheme://host[:port]``,
            beside our own pages. ``*`` for all.
    """

    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()

    def is_our_name(self, host: str, *, is_loopback: bool) -> bool:
        """Say whether a Host header names us.

        ``is_loopback``: the connection came to a loopback address.
        """
        name = host_name(host)
        if name is None:
            return False
        if name in self.hosts or (is_loopback and _is_loopback_name(name)):
            return True
        return not self.hosts and not is_loopback

    def may_connect(self, origin: str | None, host: str) -> bool:
        """Say whether a page of this origin may use us under the name ``host``.

        No origin is no page: browsers always send one with a WebSocket.
        """
        if origin is None or "*" in self.origins or origin.lower() in self.origins:
            return True
        try:
            url = urlsplit(origin)
        except ValueError:
            return False
        port = _DEFAULT_PORTS.get(url.scheme)
        if port is None:
            return False
        theirs = _with_port(url.netloc, port)
        return theirs is not None and theirs == _with_port(host, port)


def is_of_a_page(origin: str) -> bool:
    """Say whether an ``Origin`` may be one that a browser has sent for a page.

    TIM's own clients that are no pages send one with a path, which no page has.
    """
    scheme, separator, rest = origin.partition("://")
    return not (separator and scheme.lower() in _DEFAULT_PORTS and "/" in rest)


def _with_port(host: str, port: str) -> str | None:
    match = _HOST.fullmatch(host)
    return None if match is None else f"{match[1].lower()}:{match[2] or port}"
