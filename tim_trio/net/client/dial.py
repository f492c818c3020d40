"""Opening a stream to a server, plain or TLS, with one clear error.

Source: docs/client.md, "TLS".
"""

from __future__ import annotations

import os
import socket
import ssl
from pathlib import Path
from typing import Final

import attrs
import trio

from tim_trio.net.client.address import Address
from tim_trio.net.client.errors import ConnectFailed, TlsFailed
from tim_trio.net.tls_ends import is_cut, tell_ends_from_cuts

#: What OpenSSL says where the other side's first bytes are no TLS.
_NO_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNEXPECTED_MESSAGE"})


def client_context(ca: Path | None) -> ssl.SSLContext:
    """Return a context that trusts the system's authorities, or those in ``ca`` alone. Blocks.

    Whoever's certificate is not for the host's name is refused, always.

    Raises:
        TlsFailed: ``ca`` holds no certificates.
    """
    try:
        context = ssl.create_default_context(cafile=ca)
    except ssl.SSLError:
        raise TlsFailed(f"{ca} holds no certificates in PEM form") from None
    except OSError as error:
        raise TlsFailed(f"cannot read {ca}: {error.strerror or error}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    tell_ends_from_cuts(context)
    return context


async def dial(where: Address, timeout_s: float, context: ssl.SSLContext | None) -> trio.abc.Stream:
    """Connect to a server, with TLS where the address says so.

    Args:
        timeout_s: for TCP and TLS together.
        context: required for TLS.

    Raises:
        ConnectFailed: nobody answers, or not in time; TlsFailed: not with TLS.
    """
    deadline = trio.current_time() + timeout_s
    stream = await dial_tcp(where, timeout_s)
    if not where.tls:
        return stream
    assert context is not None
    # Not compatible with HTTPS: an end of TCP without one of TLS is a loss.
    tls = trio.SSLStream(stream, context, server_hostname=where.host)
    try:
        with trio.fail_at(deadline):
            await tls.do_handshake()
    except trio.TooSlowError:
        await trio.aclose_forcefully(tls)
        raise ConnectFailed(f"no answer from {where} within {timeout_s:g} s") from None
    except trio.BrokenResourceError as error:
        await trio.aclose_forcefully(tls)
        raise TlsFailed(_why_no_tls(where, error.__cause__)) from error
    except BaseException:
        await trio.aclose_forcefully(tls)
        raise
    return tls


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


def _why_no_tls(where: Address, cause: BaseException | None) -> str:
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the certificate of {where} is not accepted: {cause.verify_message.rstrip('.')}"
    if isinstance(cause, ssl.SSLError) and cause.reason in _NO_TLS:
        return f"no TLS at {where}; {attrs.evolve(where, tls=False)} connects without"
    if isinstance(cause, ssl.SSLError) and not is_cut(cause):
        return f"no TLS with {where}: {(cause.reason or 'unknown').replace('_', ' ').lower()}"
    return f"{where} closed the connection before TLS was agreed on"


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
