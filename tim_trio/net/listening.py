"""Listening sockets, and the loop that accepts on one.

Source: docs/operations.md.
"""

from __future__ import annotations

import errno
import functools
import ipaddress
import os
import socket
from collections.abc import Callable
from typing import Final

import trio

from tim_trio.errors import TimError
from tim_trio.log import StormLimiter, get_logger

_BACKLOG: Final = 4096
#: Connections accepted in a row before other tasks get a turn.
_ACCEPTS_IN_A_ROW: Final = 4
_ACCEPT_PAUSE_S: Final = 0.2
#: Out of descriptors or memory: nothing is wrong with the listener, wait.
_ACCEPT_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})

_log = get_logger("server")


class ListenError(TimError):
    """An address cannot be listened on; the message says which and why."""


def open_listeners(
    host: str, port: int, *, option: str = "--tcp", is_shared: bool = False
) -> list[socket.socket]:
    """Bind and listen on every address that ``host`` names.

    Args:
        option: where another port could be given, for the error.
        is_shared: other processes of this user may listen there too; the
            system shares new connections out among them.

    Raises:
        ListenError: one line that says what is wrong.
    """
    where = f"{host}:{port}"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ListenError(f"cannot listen on {where}: {error.strerror or error}") from error
    listeners: list[socket.socket] = []
    for family, kind, protocol, _, address in dict.fromkeys(found):
        sock = socket.socket(family, kind, protocol)
        listeners.append(sock)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if is_shared:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address)
            sock.listen(_BACKLOG)
        except OSError as error:
            for each in listeners:
                each.close()
            why = (
                f"the port is in use; choose another with {option} HOST:PORT"
                if error.errno == errno.EADDRINUSE
                else error.strerror or str(error)
            )
            raise ListenError(f"cannot listen on {where}: {why}") from error
    return listeners


@functools.lru_cache(maxsize=1024)
def is_loopback(address: str) -> bool:
    """Say whether a numeric address is this machine's loopback."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None)
    return (mapped or ip).is_loopback


def describe(sock: socket.socket) -> str:
    """Return ``HOST:PORT`` of a bound socket, with brackets around IPv6."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def accept_all(
    listener: socket.socket, take: Callable[[socket.socket, str], None], storms: StormLimiter
) -> None:
    """Hand each accepted socket and its peer's address to ``take``, until cancelled."""
    accepted = 0
    while True:
        try:
            if accepted % _ACCEPTS_IN_A_ROW == 0:
                await trio.lowlevel.checkpoint()
            sock, peer = listener.accept()
        except BlockingIOError:
            accepted = 0
            await trio.lowlevel.wait_readable(listener)
            continue
        except OSError as error:
            if error.errno not in _ACCEPT_EXHAUSTED:
                accepted += 1  # this peer is gone already; should all be, others get a turn
                continue
            suppressed = storms.admit("cannot accept", trio.current_time())
            if suppressed is not None:
                _log.warning(
                    "cannot accept", reason=os.strerror(error.errno), suppressed=suppressed
                )
            await trio.sleep(_ACCEPT_PAUSE_S)
            continue
        accepted += 1
        take(sock, str(peer[0]))
        # Would keep the last one alive.
        del sock, peer
