"""Connections over TLS: everything as without it, and what TLS adds."""

from __future__ import annotations

import itertools
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import structlog
import trio

from tests.net.certificates import Certificates
from tests.net.old_tls import OLD_HELLO
from tests.net.rawclient import HELLO, RawClient, authenticate, frame, to_bytes
from tests.net.running import Received, Running, bystanders, eventually, running_server
from tests.net.wsclient import WsClient
from tim_trio.errors import Code
from tim_trio.limits import Limits
from tim_trio.protocol import messages
from tim_trio.protocol.layout import Flag
from tim_trio.protocol.stream import StreamFrame


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


@asynccontextmanager
async def tls_server(
    certificates: Certificates, limits: Limits | None = None, *, send_buffer: int | None = None
) -> AsyncIterator[Running]:
    async with running_server(
        limits, certificates=certificates, send_buffer=send_buffer
    ) as running:
        yield running


async def published(running: Running) -> tuple[RawClient, int]:
    publisher = await running.connect_tls("alice")
    room = await publisher.register()
    await publisher.publish(room)
    return publisher, room


def version_of(client: RawClient) -> str:
    assert client.tls is not None
    return str(client.tls.version())


def serial_of(client: RawClient) -> str:
    """Return the number of the server's certificate."""
    assert client.tls is not None
    return str(client.tls.getpeercert()["serialNumber"])


async def test_a_stream_between_tls_and_plain_members(certificates: Certificates) -> None:
    async with tls_server(certificates) as running:
        publisher, room = await published(running)
        members: list[RawClient] = [
            await running.connect("bob"),
            await running.connect_tls("carol"),
            await running.connect_web("dave"),
            await running.connect_web("erin", tls=True),
        ]
        plain_publisher = await running.connect("alice")
        assert await plain_publisher.publish(room, os.urandom(16)) == 2
        for member in members:
            await member.subscribe(room)
        payloads = [os.urandom(size) for size in (0, 1, 16_000, 16_384, 200_000)]
        for seq, payload in enumerate(payloads):
            await publisher.send(frame(room, seq, payload))
            for member in members:
                (got,) = await member.expect_frames(room, seq, seq)
                assert got.payload == payload
        await plain_publisher.send(frame(room, 0, b"from plain", source=2))
        for member in members:
            assert (await member.expect(StreamFrame)).payload == b"from plain"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_modern_versions(certificates: Certificates, version: ssl.TLSVersion) -> None:
    async with tls_server(certificates) as running:
        context = certificates.client_context()
        context.maximum_version = version
        client = await running.connect_tls(context=context)
        assert version_of(client) == version.name.replace("_", ".")
        assert await client.is_served()


async def test_byte_by_byte(certificates: Certificates) -> None:
    """Each byte of ours in a record of its own."""
    async with tls_server(certificates) as running:
        client = await running.connect_tls(None)
        for byte in to_bytes(HELLO, authenticate(), request_ids=itertools.count(1)):
            await client.send(bytes([byte]))
        await client.expect(messages.Welcome)
        await client.expect(messages.AuthenticateAnswer)


async def test_the_peer_reads_the_close_and_the_end(certificates: Certificates) -> None:
    async with tls_server(certificates) as running:
        client = await running.connect_tls()
        await client.send(b"\0\0\0\0\0\0\0\0")
        for _ in range(20):
            await client.send(bytes(10_000))
        assert await client.expect_close(Code.PROTOCOL_ERROR) == []
        assert not client.was_cut


async def test_an_end_without_tls_is_a_loss(certificates: Certificates) -> None:
    """Whoever cuts the wire must not pass for a publisher that has said goodbye."""
    async with tls_server(certificates) as running:
        publisher, room = await published(running)
        subscriber = await running.connect_tls("bob")
        await subscriber.subscribe(room)
        publisher.close()
        await eventually(lambda: running.node.closes["lost"] == 1, "it is lost")
        # Its source waits for it to come back.
        back = await running.connect_tls("alice")
        assert await back.publish(room) == 1


async def test_the_end_of_tls_without_a_close_is_a_loss_too(certificates: Certificates) -> None:
    async with tls_server(certificates) as running:
        client = await running.connect_tls()
        with trio.move_on_after(5):
            assert client.tls is not None
            await client.tls.aclose()
        await eventually(lambda: running.node.closes["lost"] == 1, "it is lost")


async def test_a_plain_peer_is_told(certificates: Certificates) -> None:
    async with tls_server(certificates) as running:
        client = await RawClient.connect(running.tls_port)
        await client.send(HELLO, authenticate())
        close = await client.expect(messages.Close)
        assert close.code == Code.UNSUPPORTED_VERSION
        assert not close.retry
        assert "TLS" in close.text
        assert await client.rest() == []
        client.close()
        await eventually(lambda: running.node.closes["unsupported_version"] == 1, "it is counted")


async def test_noise(certificates: Certificates) -> None:
    async with tls_server(certificates) as running:
        with structlog.testing.capture_logs() as logs:
            for noise in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff", os.urandom(500)):
                client = await RawClient.connect(running.tls_port)
                await client.send(noise)
                await client.finish()
                await client.rest_raw()
                client.close()
            await running.until_gone()
        assert not [line for line in logs if line["log_level"] in ("error", "critical")]
        assert await (await running.connect_tls()).is_served()


# Handshakes that take their time


async def test_a_handshake_that_does_not_end(certificates: Certificates) -> None:
    limits = Limits(handshake_timeout_s=0.3, close_timeout_s=0.2)
    async with tls_server(certificates, limits) as running, bystanders(running):
        silent = await RawClient.connect(running.tls_port)
        halfway = await RawClient.connect(running.tls_port)
        await halfway.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        shaken = await running.connect_tls(None)  # but says no HELLO
        await shaken.expect_close(Code.HANDSHAKE_TIMEOUT)
        for client in (silent, halfway):
            with trio.fail_after(30):
                assert await client.read_some() == b""
            client.close()
        await eventually(lambda: running.node.closes["handshake_timeout"] == 3, "they are counted")


async def test_half_handshakes_count_as_unauthenticated(certificates: Certificates) -> None:
    limits = Limits(max_unauthenticated=2)
    async with tls_server(certificates, limits) as running:
        half = [await RawClient.connect(running.tls_port) for _ in range(2)]
        await running.until_connected(2)
        refused = await RawClient.connect(running.tls_port)
        with trio.fail_after(30):
            assert await refused.rest_raw() == b""
        refused.close()
        assert running.node.closes["overloaded"] == 1
        for client in half:
            client.close()
        await running.until_gone()
        assert await (await running.connect_tls()).is_served()


# Who does not read


async def test_who_stops_reading_lags_and_comes_back(certificates: Certificates) -> None:
    limits = Limits(backlog_bytes=200_000, max_frame_bytes=100_000)
    async with tls_server(certificates, limits, send_buffer=16_384) as running:
        publisher, room = await published(running)
        stalled = await running.connect_tls("bob", receive_buffer=16_384)
        await stalled.subscribe(room)
        seq = 0
        async with bystanders(running):
            while not running.node.lagging:
                flags = Flag.KEY if seq % 10 == 0 else Flag.NONE
                await publisher.send(frame(room, seq, os.urandom(10_000), flags=flags))
                assert await publisher.is_served()
                seq += 1
            received = Received()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(received.read_until_end, stalled)
                await eventually(lambda: not running.node.backlog_bytes, "it reads again")
                for flags in (Flag.KEY, Flag.NONE, Flag.END):
                    await publisher.send(frame(room, seq, b"x", flags=flags))
                    seq += 1
        (gap,) = received.gaps
        assert received.seqs == [*range(gap.first_seq), *range(gap.last_seq + 1, seq)]


async def test_who_takes_nothing_is_closed(certificates: Certificates) -> None:
    limits = Limits(stall_timeout_s=0.5, close_timeout_s=0.5)
    async with tls_server(certificates, limits, send_buffer=16_384) as running:
        publisher, room = await published(running)
        stalled = await running.connect_tls("bob", receive_buffer=4096)
        await stalled.subscribe(room)
        for seq in range(60):
            await publisher.send(frame(room, seq, os.urandom(10_000)))
        await eventually(lambda: running.node.closes["slow_consumer"] == 1, "it is closed")
        assert await publisher.is_served()
        stalled.close()


async def test_who_takes_little_at_a_time_is_not(certificates: Certificates) -> None:
    """What counts is that bytes go, not that a whole batch has gone."""
    limits = Limits(
        stall_timeout_s=0.5, backlog_bytes=2**24, connection_backlog_bytes=2**24, backlog_age_s=60
    )
    async with tls_server(certificates, limits, send_buffer=4096) as running:
        publisher, room = await published(running)
        slow = await running.connect_tls("bob", receive_buffer=4096)
        await slow.subscribe(room)
        payload = os.urandom(120_000)
        await publisher.send(frame(room, 0, payload))
        got = b""
        # 12 KB each 0.1 s: more than the stall timeout in all.
        for _ in range(8):
            await trio.sleep(0.1)
            assert slow.tls is not None
            got += bytes(await slow.tls.receive_some(12_000))
        assert running.node.closes["slow_consumer"] == 0
        slow._items.extend(slow._decoder.feed(got))
        assert (await slow.expect(StreamFrame)).payload == payload


# The certificate


async def test_a_new_certificate_under_live_connections(tmp_path: Path) -> None:
    made = Certificates(tmp_path)
    async with tls_server(made) as running:
        publisher, room = await published(running)
        subscriber = await running.connect_tls("bob")
        await subscriber.subscribe(room)
        first = serial_of(subscriber)
        made.issue(valid_for=timedelta(days=2))
        assert running.server.tls is not None
        old = running.server.tls.context
        await eventually(lambda: running.server.tls.context is not old, "it is read again")  # type: ignore[union-attr]
        await publisher.send(frame(room, 0, b"goes on"))
        await subscriber.expect_frames(room, 0, 0)
        newcomer = await running.connect_tls("carol")
        assert serial_of(newcomer) != first
        made.key.write_text("broken")
        await trio.sleep(0.2)
        assert await (await running.connect_tls("dave")).is_served()
        assert await subscriber.is_served()


# Stopping


async def test_a_drain(certificates: Certificates) -> None:
    async with tls_server(certificates) as running:
        publisher, room = await published(running)
        subscriber = await running.connect_tls("bob")
        await subscriber.subscribe(room)
        halfway = await RawClient.connect(running.tls_port)
        await running.until_connected(3)
        running.server.drain_timeout_s = 0.3
        async with trio.open_nursery() as nursery:
            nursery.start_soon(running.server.drain)
            await subscriber.expect(messages.GoAway)
            await publisher.expect(messages.GoAway)
            refused = await RawClient.connect(running.tls_port)
            assert await refused.rest_raw() == b""
            refused.close()
            await publisher.send(frame(room, 0, b"to the end"))
            await subscriber.expect_frames(room, 0, 0)
            await subscriber.expect_close(Code.SHUTTING_DOWN)
            await publisher.expect_close(Code.SHUTTING_DOWN)
            assert await halfway.rest_raw() == b""
            halfway.close()


async def test_cancelled_in_mid_handshake(certificates: Certificates) -> None:
    with trio.move_on_after(5):
        async with tls_server(certificates) as running:
            halfway = await RawClient.connect(running.tls_port)
            await halfway.send(b"\x16\x03\x01")
            await running.until_connected(1)
            halfway.close()


async def test_a_reset_in_mid_handshake(certificates: Certificates) -> None:
    async with tls_server(certificates) as running:
        halfway = await RawClient.connect(running.tls_port)
        await halfway.send(b"\x16\x03\x01")
        await running.until_connected(1)
        halfway.reset()
        await running.until_gone()
        assert running.node.closes["lost"] == 1


async def test_old_versions_are_refused(certificates: Certificates) -> None:
    async with tls_server(certificates) as running:
        with socket.create_connection(("127.0.0.1", running.tls_port)) as old:
            old.sendall(OLD_HELLO)
            alert = await trio.to_thread.run_sync(old.recv, 100)
        assert alert[-2:] == bytes([2, 70])  # fatal, protocol_version
        await eventually(lambda: running.node.closes["protocol_error"] == 1, "it is counted")


# The web port


async def test_a_browser_publishes_over_tls(certificates: Certificates) -> None:
    async with tls_server(certificates) as running:
        publisher = await running.connect_web("alice", tls=True)
        room = await publisher.register()
        await publisher.publish(room)
        subscriber = await running.connect("bob")
        await subscriber.subscribe(room)
        payload = os.urandom(150_000)
        await publisher.send(frame(room, 0, payload))
        assert (await subscriber.expect(StreamFrame)).payload == payload


async def test_a_page_over_tls(certificates: Certificates) -> None:
    async with running_server(certificates=certificates, files={"index.html": b"hi"}) as running:
        client = await WsClient.connect(running.web_tls_port)
        await client.start_tls(certificates.client_context())
        for _ in range(2):
            await client.send_raw(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            status, _, body = await client.read_response()
            assert (status, body) == (200, b"hi")
        client.close()


async def test_a_browser_without_tls_is_told(certificates: Certificates) -> None:
    async with tls_server(certificates) as running:
        client = await WsClient.connect(running.web_tls_port)
        await client.send_raw(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        status, _, body = await client.read_response()
        assert (status, body) == (400, b"this port speaks TLS\n")
        client.close()


async def test_what_is_neither_http_nor_tls_is_closed(certificates: Certificates) -> None:
    async with tls_server(certificates, Limits(http_timeout_s=0.2)) as running:
        noise = await RawClient.connect(running.web_tls_port)
        await noise.send(bytes(100))
        silent = await RawClient.connect(running.web_tls_port)
        for client in (noise, silent):
            assert await client.rest_raw() == b""
            client.close()
        assert running.node.limited == {"http_timeout_s": 1}  # the silent one


async def test_too_many_browsers_over_tls(certificates: Certificates) -> None:
    async with tls_server(certificates, Limits(max_http_connections=1)) as running:
        first = await RawClient.connect(running.web_tls_port)
        await eventually(lambda: running.web.http_connections == 1, "it is let in")
        second = await RawClient.connect(running.web_tls_port)
        assert await second.rest_raw() == b""
        first.close()
        second.close()
