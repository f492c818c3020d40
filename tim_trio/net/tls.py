"""Certificates of servers and nodes: files in, TLS contexts out, read again when they change.

Source: docs/operations.md, "TLS"; docs/cluster.md, "Links with TLS".
"""

from __future__ import annotations

import os
import ssl
import stat
from pathlib import Path
from typing import Final

import trio

from tim_trio.errors import TimError
from tim_trio.log import get_logger
from tim_trio.net.tls_ends import tell_ends_from_cuts

_POLL_INTERVAL_S: Final = 1.0
#: Whoever may read the key can pretend to be the server.
_TOO_OPEN: Final = stat.S_IRWXO | stat.S_IWGRP

_log = get_logger("tls")


class TlsFileError(TimError):
    """A certificate or its key cannot be used; ``str()`` is one line for a person."""


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return a context for accepting: TLS 1.3, or 1.2 for who has no better. Blocks.

    Args:
        certificate: PEM, with the chain up to what clients know.
        key: PEM, without a passphrase.

    Raises:
        TlsFileError: what is wrong with which file.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Nobody needs it, and each costs us a handshake.
    context.options |= ssl.OP_NO_RENEGOTIATION
    tell_ends_from_cuts(context)
    _load_pair(context, certificate, key)
    return context


def _check_readable(path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise TlsFileError(f"cannot read {path}: {error.strerror or error}") from None


def _load_pair(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    for path in (certificate, key):
        _check_readable(path)
    is_locked = False

    def ask_nobody() -> str:
        # Without this, OpenSSL would ask on our terminal.
        nonlocal is_locked
        is_locked = True
        return ""

    try:
        context.load_cert_chain(certificate, key, password=ask_nobody)
    except ssl.SSLError as error:
        if is_locked:
            raise TlsFileError(f"{key} asks for a passphrase: give a key without one") from None
        raise TlsFileError(_explain(error, certificate, key)) from None


def _explain(error: ssl.SSLError, certificate: Path, key: Path) -> str:
    match error.reason:
        case "KEY_VALUES_MISMATCH" | "KEY_TYPE_MISMATCH":
            return f"{key} is not the key of the certificate in {certificate}"
        case "EE_KEY_TOO_SMALL" | "CA_KEY_TOO_SMALL" | "CA_MD_TOO_WEAK":
            return f"the certificate in {certificate} is too weak for TLS today"
    return f"{certificate} and {key} do not hold a certificate and its key, in PEM form"


class ServerTls:
    """A certificate and its key, as they are in their files now.

    Attributes:
        context: for connections that begin now. Those that live keep theirs.

    Raises:
        TlsFileError: they cannot be used. Construction blocks.
    """

    def __init__(
        self, certificate: Path, key: Path, *, poll_interval_s: float = _POLL_INTERVAL_S
    ) -> None:
        self._poll_interval_s = poll_interval_s
        self._certificate = certificate
        self._key = key
        self._seen = self._fingerprint()
        self._load()
        self._warn_of_permissions()

    @property
    def _files(self) -> tuple[Path, ...]:
        return self._certificate, self._key

    def _load(self) -> None:
        self.context = server_context(self._certificate, self._key)

    def reload(self) -> bool:
        """Read the files if they have changed; say whether there is a new pair. Blocks.

        Raises:
            TlsFileError: they hold no pair now; the old one stays. Not again
                before they change once more.
        """
        found = self._fingerprint()
        if found == self._seen:
            return False
        # First what they look like, then what is in them: a change in between
        # is seen the next time.
        self._seen = found
        self._load()
        self._warn_of_permissions()
        return True

    async def follow(self) -> None:
        """Read the files again when they change, until cancelled."""
        while True:
            await trio.sleep(self._poll_interval_s)
            try:
                if await trio.to_thread.run_sync(self.reload):
                    _log.info("certificate read again", file=str(self._certificate))
            except TlsFileError as error:
                _log.error("certificate not usable, the old one stays", reason=str(error))

    def _fingerprint(self) -> tuple[object, ...]:
        return tuple(map(_look_at, self._files))

    def _warn_of_permissions(self) -> None:
        try:
            mode = os.stat(self._key).st_mode
        except OSError:
            return  # replaced just now; that is looked at next
        if mode & _TOO_OPEN:
            _log.warning(
                "others may read or change the private key",
                file=str(self._key),
                mode=f"{stat.S_IMODE(mode):o}",
            )


class NodeTls(ServerTls):
    """Both ends of the links between nodes: each shows a certificate of one authority.

    Attributes:
        context: for those who dial us. It takes no other certificates.
        dialing: for those whom we dial; it checks their host's name as well.
    """

    dialing: ssl.SSLContext

    def __init__(
        self,
        certificate: Path,
        key: Path,
        authority: Path,
        *,
        poll_interval_s: float = _POLL_INTERVAL_S,
    ) -> None:
        self._authority = authority
        super().__init__(certificate, key, poll_interval_s=poll_interval_s)

    @property
    def _files(self) -> tuple[Path, ...]:
        return self._certificate, self._key, self._authority

    def _load(self) -> None:
        accepting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # A link is not resumed: it shows its certificate each time.
        accepting.num_tickets = 0
        accepting.verify_mode = ssl.CERT_REQUIRED
        dialing = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        for context in (accepting, dialing):
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            tell_ends_from_cuts(context)
            _load_pair(context, self._certificate, self._key)
            _check_readable(self._authority)
            try:
                context.load_verify_locations(self._authority)
            except ssl.SSLError:
                raise TlsFileError(
                    f"{self._authority} does not hold certificates of authorities, in PEM form"
                ) from None
        self.context, self.dialing = accepting, dialing


def _look_at(path: Path) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)  # follows links, which is how certificates are often replaced
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
