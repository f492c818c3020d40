"""A greeting of TLS 1.1, which no library of today makes any more (RFC 4346)."""

from __future__ import annotations

from typing import Final

# Version 3.2, random, no session, one suite, no compression.
_BODY: Final = b"\x03\x02" + bytes(32) + b"\0" + b"\0\x02\xc0\x13" + b"\x01\0"
#: A whole record: ClientHello, which offers TLS 1.1 at most.
OLD_HELLO: Final = (
    b"\x16\x03\x01"
    + (len(_BODY) + 4).to_bytes(2, "big")
    + b"\x01"
    + len(_BODY).to_bytes(3, "big")
    + _BODY
)
