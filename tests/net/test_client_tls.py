"""The client library over ``tims://``: whom it trusts, what it says, and coming back."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import trio
import trustme

import tim_trio
from tests.net.certificates import Certificates
from tests.net.rawclient import HOST
from tests.net.running import Running, eventually, running_server
from tim_trio.net.client.address import Address
from tim_trio.net.client.dial import client_context, dial
from tim_trio.protocol import messages
from tim_trio.protocol.stream import StreamFrame


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


@asynccontextmanager
async def serving(certificates: Certificates) -> AsyncIterator[Running]:
    async with running_server(certificates=certificates) as running:
        yield running


def address(running: Running, host: str = HOST) -> str:
    return f"tims://{host}:{running.tls_port}"


async def refused(where: str, ca: Path | None) -> str:
    """Return what is said of a server that is not connected to."""
    with pytest.raises(tim_trio.TlsFailed) as caught:
        async with tim_trio.connect(where, account="alice", tls_ca=ca):
            raise AssertionError("not reached")
    return str(caught.value)


async def test_push_and_watch(certificates: Certificates) -> None:
    async with (
        serving(certificates) as running,
        tim_trio.connect(address(running), account="alice", tls_ca=certificates.authority) as alice,
        tim_trio.connect(
            address(running, "localhost"), account="bob", tls_ca=str(certificates.authority)
        ) as bob,
    ):
        room = await alice.register_room()
        async with alice.publish(room) as source, bob.subscribe(room) as stream:
            payload = bytes(range(256)) * 1000
            await source.send(payload, key=True)
            async for item in stream:
                if isinstance(item, StreamFrame):
                    assert item.payload == payload
                    break


# Whom it trusts


async def test_an_unknown_authority(certificates: Certificates) -> None:
    """The system's authorities have not signed it."""
    async with serving(certificates) as running:
        said = await refused(address(running), None)
        assert said.startswith(f"the certificate of {address(running)} is not accepted: ")
        assert "issuer" in said or "self-signed" in said


async def test_another_authority(certificates: Certificates, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Certificates(tmp_path / "other")
    async with serving(certificates) as running:
        assert "not accepted" in await refused(address(running), other.authority)


async def test_another_host(certificates: Certificates) -> None:
    certificates.issue("tim.example.org")
    async with serving(certificates) as running:
        said = await refused(address(running), certificates.authority)
        assert "IP address mismatch" in said
        said = await refused(address(running, "localhost"), certificates.authority)
        assert "Hostname mismatch" in said


async def test_an_expired_certificate(certificates: Certificates) -> None:
    certificates.issue(valid_for=-timedelta(days=1))
    async with serving(certificates) as running:
        assert "expired" in await refused(address(running), certificates.authority)


async def test_a_chain(certificates: Certificates) -> None:
    middle = trustme.CA(parent_cert=certificates.ca)
    certificates.issue(ca=middle)
    async with (
        serving(certificates) as running,
        tim_trio.connect(address(running), account="a", tls_ca=certificates.authority),
    ):
        pass


async def test_a_file_without_authorities(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    assert await refused("tims://localhost:1", nothing) == (
        f"cannot read {nothing}: No such file or directory"
    )
    nothing.write_text("no certificate")
    assert await refused("tims://localhost:1", nothing) == (
        f"{nothing} holds no certificates in PEM form"
    )


def test_nothing_can_be_switched_off(certificates: Certificates) -> None:
    for ca in (None, certificates.authority):
        context = client_context(ca)
        assert context.check_hostname
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2


# The other side speaks something else


async def test_no_tls_there(certificates: Certificates) -> None:
    async with serving(certificates) as running:
        where = f"tims://{HOST}:{running.port}"
        assert await refused(where, certificates.authority) == (
            f"no TLS at {where}; tim://{HOST}:{running.port} connects without"
        )


async def test_tls_there(certificates: Certificates) -> None:
    async with serving(certificates) as running:
        with pytest.raises(tim_trio.ConnectionClosed, match="this port speaks TLS") as caught:
            async with tim_trio.connect(f"tim://{HOST}:{running.tls_port}", account="alice"):
                raise AssertionError("not reached")
        assert not caught.value.retryable


async def test_a_server_that_closes_at_once(certificates: Certificates) -> None:
    async def hang_up(stream: trio.SocketStream) -> None:
        await stream.receive_some()

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, hang_up, 0, host=HOST))
        where = f"tims://{HOST}:{listener.socket.getsockname()[1]}"
        assert await refused(where, certificates.authority) == (
            f"{where} closed the connection before TLS was agreed on"
        )
        nursery.cancel_scope.cancel()


async def test_a_server_that_says_nothing(certificates: Certificates) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host=HOST)
    where = Address(HOST, listener.socket.getsockname()[1], tls=True)
    with pytest.raises(tim_trio.ConnectFailed, match=r"no answer from tims://.* within 0\.1 s"):
        await dial(where, 0.1, client_context(certificates.authority))
    with trio.move_on_after(0.1):
        await dial(where, 10, client_context(certificates.authority))
    await listener.aclose()


async def test_no_version_in_common(certificates: Certificates) -> None:
    async def speak_old(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"\x15\x03\x01\0\x02\x02\x46")  # fatal, protocol_version

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, speak_old, 0, host=HOST))
        where = f"tims://{HOST}:{listener.socket.getsockname()[1]}"
        said = await refused(where, certificates.authority)
        assert said == f"no TLS with {where}: tlsv1 alert protocol version"
        nursery.cancel_scope.cancel()


# Coming back


async def test_coming_back(certificates: Certificates) -> None:
    async with (
        serving(certificates) as running,
        tim_trio.connect(address(running), account="alice", tls_ca=certificates.authority) as alice,
        tim_trio.connect(address(running), account="bob", tls_ca=certificates.authority) as bob,
    ):
        room = await alice.register_room()
        async with alice.publish(room) as source, bob.subscribe(room) as stream:
            await source.send(b"before", key=True)
            got = [item async for item in _frames(stream, 1)]
            certificates.issue()
            for connection in list(running.server.connections):
                connection.session.outbox.abort(None)  # cut: TCP ends, and not TLS
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def push() -> None:
                    # What a live source sends while it is away goes nowhere.
                    while True:
                        await source.send(b"after", key=True)
                        await trio.sleep(0.05)

                got += [item async for item in _frames(stream, 1)]
                nursery.cancel_scope.cancel()
        assert [item.payload for item in got] == [b"before", b"after"]
        assert running.node.closes["lost"] == 2


async def _frames(stream: tim_trio.Subscription, count: int) -> AsyncIterator[StreamFrame]:
    async for item in stream:
        if isinstance(item, StreamFrame):
            yield item
            count -= 1
            if not count:
                return


async def test_sent_elsewhere_it_keeps_to_tls(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialled: list[Address] = []

    async def noted(where: Address, timeout_s: float, context: object) -> trio.abc.Stream:
        dialled.append(where)
        return await dial(where, timeout_s, context)  # type: ignore[arg-type]

    monkeypatch.setattr("tim_trio.net.client.opening.dial", noted)
    async with (
        serving(certificates) as running,
        tim_trio.connect(address(running), account="alice", tls_ca=certificates.authority) as alice,
    ):
        (connection,) = running.server.connections
        connection.session.outbox.put_control(
            messages.encode(
                tim_trio.GoAway(reason=2, address=f"localhost:{running.tls_port}", spread_ms=0)
            ),
            trio.current_time(),
        )
        await eventually(lambda: len(dialled) == 2, "it moves")
        await alice.wait_connected()
    assert dialled == [
        Address(HOST, running.tls_port, tls=True),
        Address("localhost", running.tls_port, tls=True),
    ]
