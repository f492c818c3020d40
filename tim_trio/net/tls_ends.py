"""The end of a TLS connection, told from one that somebody in between has cut."""

from __future__ import annotations

import ssl


def tell_ends_from_cuts(context: ssl.SSLContext) -> None:
    """Let an end of TCP without one of TLS be an error. Some builds of Python 3.11, Debian
    12's among them, take both for the same unless told otherwise."""
    # Where OpenSSL is older than 3.0 there is nothing to turn off.
    context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)


def is_cut(error: BaseException | None) -> bool:
    """Say whether it is TCP that has ended, and not TLS."""
    return isinstance(error, ssl.SSLError) and (
        isinstance(error, ssl.SSLEOFError) or error.reason == "UNEXPECTED_EOF_WHILE_READING"
    )
