"""The server's certificate and key: read, checked, and read again when they change."""

from __future__ import annotations

import os
import ssl
from datetime import timedelta
from pathlib import Path

import pytest
import structlog
import trio
import trustme
from cryptography.hazmat.primitives import serialization

from tests.net.certificates import Certificates
from tests.net.running import eventually
from tim_trio.net.client.dial import client_context
from tim_trio.net.tls import NodeTls, ServerTls, TlsFileError, server_context


@pytest.fixture
def made(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def test_modern_versions_only(made: Certificates) -> None:
    context = server_context(made.certificate, made.key)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.maximum_version is ssl.TLSVersion.MAXIMUM_SUPPORTED
    assert context.options & ssl.OP_NO_RENEGOTIATION


def test_no_context_takes_a_cut_for_an_end(made: Certificates) -> None:
    """Some builds of Python do so by default; the tests of sockets show what it means."""
    links = NodeTls(made.certificate, made.key, made.authority)
    for context in (
        server_context(made.certificate, made.key),
        client_context(made.authority),
        links.context,
        links.dialing,
    ):
        assert not context.options & ssl.OP_IGNORE_UNEXPECTED_EOF


def test_a_missing_file(made: Certificates) -> None:
    made.key.unlink()
    with pytest.raises(TlsFileError, match=r"^cannot read .*server\.key: No such file"):
        made.server_tls()
    with pytest.raises(TlsFileError, match=r"^cannot read .*nowhere: No such file"):
        server_context(made.directory / "nowhere", made.key)


@pytest.mark.parametrize("which", ["certificate", "key"])
def test_a_file_of_something_else(made: Certificates, which: str) -> None:
    path: Path = getattr(made, which)
    path.write_text("something else")
    with pytest.raises(TlsFileError, match="do not hold a certificate and its key"):
        made.server_tls()


def test_a_directory(made: Certificates) -> None:
    with pytest.raises(TlsFileError, match=r"^cannot read "):
        server_context(made.directory, made.key)


def test_someone_elses_key(made: Certificates) -> None:
    other = made.ca.issue_cert("other.example")
    made.key.write_bytes(other.private_key_pem.bytes())
    with pytest.raises(TlsFileError, match=r"server\.key is not the key of"):
        made.server_tls()


def test_a_key_with_a_passphrase_asks_nobody(made: Certificates) -> None:
    key = serialization.load_pem_private_key(made.key.read_bytes(), None)
    made.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(TlsFileError, match="asks for a passphrase"):
        made.server_tls()


@pytest.mark.parametrize("mode, warned", [(0o600, 0), (0o640, 0), (0o644, 1), (0o660, 1)])
def test_a_key_that_others_may_read_is_warned_about(
    made: Certificates, mode: int, warned: int
) -> None:
    made.key.chmod(mode)
    with structlog.testing.capture_logs() as logs:
        made.server_tls()
    warnings = [line for line in logs if line["log_level"] == "warning"]
    assert len(warnings) == warned
    if warned:
        assert warnings[0]["file"] == str(made.key)
        assert warnings[0]["mode"] == f"{mode:o}"


def test_reload(made: Certificates) -> None:
    tls = made.server_tls()
    first = tls.context
    assert not tls.reload()
    assert tls.context is first
    made.issue()
    assert tls.reload()
    assert tls.context is not first
    assert not tls.reload()


def test_a_bad_pair_leaves_the_old_one_and_is_said_once(made: Certificates) -> None:
    tls = made.server_tls()
    first = tls.context
    old_key = made.key.read_bytes()
    made.issue()
    new_key = made.key.read_bytes()
    made.key.write_bytes(old_key)
    with pytest.raises(TlsFileError):
        tls.reload()
    assert not tls.reload()
    assert tls.context is first
    made.key.unlink()
    with pytest.raises(TlsFileError):
        tls.reload()
    assert not tls.reload()
    assert tls.context is first
    made.key.write_bytes(new_key)
    assert tls.reload()
    assert tls.context is not first


def test_links_that_are_turned_to_another_directory(tmp_path: Path) -> None:
    """As certbot and Kubernetes replace certificates."""
    ca = trustme.CA()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        Certificates(tmp_path / name, ca)
    (tmp_path / "now").symlink_to("one")
    at = tmp_path / "now"
    tls = ServerTls(at / "server.pem", at / "server.key")
    (tmp_path / "next").symlink_to("two")
    os.replace(tmp_path / "next", tmp_path / "now")
    assert tls.reload()


async def test_follow(made: Certificates) -> None:
    tls = made.server_tls()
    with structlog.testing.capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tls.follow)
            first = tls.context
            made.certificate.write_text("half a")
            await eventually(lambda: bool(logs), "it says so")
            assert logs[0]["event"] == "certificate not usable, the old one stays"
            assert logs[0]["log_level"] == "error"
            assert tls.context is first
            await trio.sleep(0.1)
            assert len(logs) == 1
            made.issue(valid_for=timedelta(days=2))
            await eventually(lambda: tls.context is not first, "it reads the new one")
            await eventually(
                lambda: logs[-1]["event"] == "certificate read again", "it says that too"
            )
            nursery.cancel_scope.cancel()


def test_a_key_that_has_just_gone(made: Certificates) -> None:
    tls = made.server_tls()
    made.key.unlink()
    with structlog.testing.capture_logs() as logs:
        tls._warn_of_permissions()
    assert not logs
