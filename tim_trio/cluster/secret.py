"""Proof between nodes that they know the cluster's secret.

Source: protocol.md, section 12.
"""

from __future__ import annotations

import hmac
import secrets
from collections import OrderedDict
from pathlib import Path
from typing import Final

import attrs

from tim_trio.errors import TimError

LEAST_BYTES: Final = 16
_MOST_BYTES: Final = 4096
_WINDOW_MS: Final = 60_000
_NONCE_BYTES: Final = 16
_HEAD_BYTES: Final = 8 + _NONCE_BYTES
_PURPOSE: Final = b"tim_trio link 1"
#: Proofs remembered, so that none is good twice; older ones are refused by their time.
_SEEN_KEPT: Final = 10_000


class SecretFileError(TimError):
    """The file with the cluster's secret cannot be used; the message is for a person."""


def read_secret(path: Path) -> bytes:
    """Read the cluster's secret: all bytes of the file but white space around them. Blocks.

    Raises:
        SecretFileError: unreadable, too short or too long.
    """
    try:
        with path.open("rb") as file:
            secret = file.read(_MOST_BYTES + 1).strip()
    except OSError as error:
        raise SecretFileError(
            f"cluster_secret_file: cannot read {path}: {error.strerror or error}"
        ) from None
    if not LEAST_BYTES <= len(secret) <= _MOST_BYTES:
        raise SecretFileError(
            f"cluster_secret_file: {path} must hold {LEAST_BYTES} to {_MOST_BYTES} bytes"
        )
    return secret


def _mac(secret: bytes, dialer: str, target: str, head: bytes) -> bytes:
    message = b"\0".join((_PURPOSE, dialer.encode(), target.encode(), head))
    return hmac.digest(secret, message, "sha256")


def prove(secret: bytes, dialer: str, target: str, now_ms: int) -> bytes:
    """Return what `dialer` shows to `target`."""
    head = now_ms.to_bytes(8) + secrets.token_bytes(_NONCE_BYTES)
    return head + _mac(secret, dialer, target, head)


@attrs.define(eq=False)
class Verifier:
    """Checks the proofs of those who dial ``me``."""

    me: str
    _secret: bytes = attrs.field(repr=False)
    _seen: OrderedDict[bytes, None] = attrs.field(factory=OrderedDict, repr=False)

    def fault_in(self, dialer: str, proof: bytes, now_ms: int) -> str:
        """Return what is wrong with a proof, for our own log; empty for nothing.

        What is right is taken note of, and not right again.
        """
        head, mac = proof[:_HEAD_BYTES], proof[_HEAD_BYTES:]
        if not hmac.compare_digest(mac, _mac(self._secret, dialer, self.me, head)):
            return "it has another cluster secret"
        ahead_s = (int.from_bytes(head[:8]) - now_ms) / 1000
        if abs(ahead_s) * 1000 > _WINDOW_MS:
            return (
                f"its clock is {abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} ours"
            )
        if head in self._seen:
            return "its proof has been used before"
        self._seen[head] = None
        if len(self._seen) > _SEEN_KEPT:
            self._seen.popitem(last=False)
        return ""
