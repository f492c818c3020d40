"""Opening a TCP stream to a server, with one clear error."""

from __future__ import annotations

import os
import socket

import trio

from tim_trio.net.client.address import Address
from tim_trio.net.client.errors import ConnectFailed


async def dial_tcp(where: Address, timeout_s: float) -> trio.abc.Stream:
    """Connect to a server.

    Raises:
        ConnectFailed: nobody answers, or not in time.
    """
    try:
        with trio.fail_after(timeout_s):
            return await trio.open_tcp_stream(where.host, where.port)
    except trio.TooSlowError:
        raise ConnectFailed(f"no answer from {where} within {timeout_s:g} s") from None
    except OSError as error:
        raise ConnectFailed(f"no server at {where}: {_reason(error)}") from error


def _reason(error: OSError) -> str:
    """Return why connecting failed; Trio hides it behind a general sentence."""
    cause: BaseException = error.__cause__ or error
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    if isinstance(cause, socket.gaierror):
        return "the host's name is not known"
    if isinstance(cause, OSError) and cause.errno is not None:
        return os.strerror(cause.errno).lower()
    return str(cause)
