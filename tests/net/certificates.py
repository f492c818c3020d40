"""Real certificates of an authority made for one test."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
import trustme

from tests.net.rawclient import HOST
from tim_trio.net.tls import ServerTls
from tim_trio.net.tls_ends import tell_ends_from_cuts


@attrs.define(eq=False)
class Certificates:
    """An authority, and a server's certificate and key in files.

    Attributes:
        authority: the file that clients trust.
    """

    directory: Path
    ca: trustme.CA = attrs.Factory(trustme.CA)

    def __attrs_post_init__(self) -> None:
        self.ca.cert_pem.write_to_path(self.authority)
        self.issue()

    @property
    def authority(self) -> Path:
        return self.directory / "ca.pem"

    @property
    def certificate(self) -> Path:
        return self.directory / "server.pem"

    @property
    def key(self) -> Path:
        return self.directory / "server.key"

    def issue(
        self, *hosts: str, valid_for: timedelta = timedelta(days=1), ca: trustme.CA | None = None
    ) -> trustme.LeafCert:
        """Put another certificate and its key into the files."""
        now = datetime.now(UTC)
        leaf = (ca or self.ca).issue_cert(
            *(hosts or (HOST, "localhost")),
            not_before=now - timedelta(days=30),
            not_after=now + valid_for,
        )
        self.certificate.write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
        self.key.write_bytes(leaf.private_key_pem.bytes())
        self.key.chmod(0o600)
        return leaf

    def server_tls(self) -> ServerTls:
        return ServerTls(self.certificate, self.key, poll_interval_s=0.02)

    def client_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.authority)
        tell_ends_from_cuts(context)
        return context
