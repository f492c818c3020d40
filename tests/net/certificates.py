"""Real certificates of an authority made for one test, and a raw client that speaks TLS."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
import trio
import trustme

from tests.net.rawclient import DEADLINE_S, RawClient
from tim_trio.net.tls import ServerTls

HOST = "127.0.0.1"


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
        return ssl.create_default_context(cafile=self.authority)


@attrs.define(eq=False)
class TlsClient(RawClient):
    """Attributes:
    was_cut: TCP ended without the end of TLS.
    """

    was_cut: bool = False
    _tls: trio.SSLStream[trio.SocketStream] = attrs.field(init=False)

    @classmethod
    async def connect_tls(
        cls,
        port: int,
        context: ssl.SSLContext,
        *,
        come_from: str = HOST,
        receive_buffer: int | None = None,
    ) -> TlsClient:
        client = await cls.connect(port, come_from=come_from, receive_buffer=receive_buffer)
        assert isinstance(client, TlsClient)
        try:
            with trio.fail_after(DEADLINE_S):
                await client.shake_hands(context)
        except BaseException:
            client.close()
            raise
        return client

    async def shake_hands(self, context: ssl.SSLContext) -> None:
        stream = trio.SocketStream(self._socket)
        self._tls = trio.SSLStream(stream, context, server_hostname=HOST)
        await self._tls.do_handshake()

    @property
    def version(self) -> str:
        return str(self._tls.version())

    def certificate_serial(self) -> str:
        found = self._tls.getpeercert()
        return str(found["serialNumber"])

    async def say_end(self) -> None:
        """End TLS, and TCP with it."""
        await self._tls.aclose()

    async def _write(self, view: memoryview) -> None:
        await self._tls.send_all(view)

    async def _read(self) -> bytes:
        try:
            return bytes(await self._tls.receive_some(65536))
        except trio.BrokenResourceError:
            self.was_cut = True
            return b""
