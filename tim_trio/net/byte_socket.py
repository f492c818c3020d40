"""What connections need of a socket, so that it may be a plain one or one with TLS."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from tim_trio.core.form import Buffer


class ByteSocket(Protocol):
    """`socket.socket`, or `tls_socket.TlsSocket` around one.

    All calls are non-blocking: BlockingIOError for "not now", another OSError
    for a connection that is lost. Who is told BlockingIOError by ``send``
    must begin the next one with the same bytes.
    """

    def recv(self, size: int, /) -> bytes: ...

    def send(self, data: Buffer, /) -> int: ...

    def sendmsg(self, pieces: Iterable[Buffer], /) -> int: ...

    def shutdown(self, how: int, /) -> None: ...

    def setsockopt(self, level: int, option: int, value: int, /) -> None: ...

    def fileno(self) -> int: ...

    def close(self) -> None: ...
