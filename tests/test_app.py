"""The server as a process: signals, exit codes, ports, open files."""

from __future__ import annotations

import contextlib
import json
import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
import trio

from tests.net.certificates import Certificates
from tests.net.rawclient import DEADLINE_S, RawClient, bye, frame
from tests.net.running import eventually
from tests.net.wsclient import WsClient
from tim_trio.errors import Code
from tim_trio.protocol import messages
from tim_trio.protocol.layout import Flag

_ROOT: Final = Path(__file__).resolve().parent.parent
#: The program under test, without the command line around it.
_RUNNER: Final = """
import json, resource, sys
from tim_trio.app import run_server
from tim_trio.config import load_config
overrides, open_files = json.loads(sys.argv[1])
if open_files:
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, open_files))
sys.exit(run_server(load_config(file=None, env={}, overrides=overrides)))
"""


@attrs.define(eq=False)
class Process:
    """A server process and what it has printed."""

    process: trio.Process
    output: bytearray = attrs.Factory(bytearray)
    errors: bytearray = attrs.Factory(bytearray)
    _printed: trio.Event = attrs.Factory(trio.Event)

    async def collect(self, stream: trio.abc.ReceiveStream | None, into: bytearray) -> None:
        assert stream is not None
        async for chunk in stream:
            into += chunk
            self._printed.set()
            self._printed = trio.Event()

    async def listening(self, listeners: int = 1) -> list[str]:
        """Return the addresses that it says it listens on, once it has said them all."""
        with trio.fail_after(DEADLINE_S):
            while self.output.count(b"\n") < listeners:
                await self._printed.wait()
        lines = self.output.decode().splitlines()
        assert all(re.match("listening (tcp|tls|web-tls) ", line) for line in lines)
        return [line.split(" ", 2)[2] for line in lines]

    async def port(self) -> int:
        (address,) = await self.listening()
        return int(address.rpartition(":")[2])

    async def wait(self) -> int:
        """Return its exit code."""
        with trio.fail_after(DEADLINE_S):
            return await self.process.wait()

    @property
    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.errors.decode().splitlines()]

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.log if line["event"] == name]


@contextlib.asynccontextmanager
async def server_process(*, open_files: int = 0, **overrides: object) -> AsyncIterator[Process]:
    """Run a server until the body is done; it must not need to be killed."""
    overrides = {"tcp": ["127.0.0.1:0"], "web": [], **overrides}
    command = [sys.executable, "-c", _RUNNER, json.dumps([overrides, open_files])]
    async with trio.open_nursery() as nursery:
        process = await trio.lowlevel.open_process(
            command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        server = Process(process)
        try:
            nursery.start_soon(server.collect, process.stdout, server.output)
            nursery.start_soon(server.collect, process.stderr, server.errors)
            yield server
        finally:
            if process.poll() is None:
                process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


async def _connect(port: int, account: str | None = "alice") -> RawClient:
    client = await RawClient.connect(port)
    if account is not None:
        await client.greet(account)
    return client


# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_and_exits_with_0(number: signal.Signals) -> None:
    async with server_process(drain_timeout_s=3600) as server:
        port = await server.port()
        publisher = await _connect(port, "alice")
        room = await publisher.register()
        await publisher.publish(room)
        subscriber = await _connect(port, "bob")
        await subscriber.subscribe(room)
        server.process.send_signal(number)
        for client in (publisher, subscriber):
            away = await client.expect(messages.GoAway)
            assert away.reason == messages.GoAwayReason.STOPPING
        refused = await _connect(port, None)
        await refused.expect_close(Code.SHUTTING_DOWN)
        # Streams go on for as long as clients need to move.
        await publisher.send(frame(room, 0))
        await subscriber.expect_frames(room, 0, 0)
        for client in (publisher, subscriber):
            await client.send(bye())
            await client.rest()
            client.close()
        assert await server.wait() == 0
        assert [line["signal"] for line in server.events("stopping")] == [number.name]
    assert b"Traceback" not in server.errors


async def test_the_drain_has_a_deadline() -> None:
    async with server_process(drain_timeout_s=0.3) as server:
        client = await _connect(await server.port())
        server.process.terminate()
        (away,) = await client.expect_close(Code.SHUTTING_DOWN)
        assert isinstance(away, messages.GoAway)
        assert away.spread_ms == 150
        assert await server.wait() == 0


@pytest.mark.slow
async def test_who_does_not_leave_after_the_close_is_left() -> None:
    async with server_process(drain_timeout_s=0.1, limits={"close_timeout_s": 0.2}) as server:
        client = await _connect(await server.port())
        server.process.terminate()
        assert await server.wait() == 0
        await client.expect_close(Code.SHUTTING_DOWN)


async def test_without_connections_it_stops_at_once() -> None:
    async with server_process(drain_timeout_s=3600) as server:
        await server.port()
        server.process.terminate()
        assert await server.wait() == 0


@pytest.mark.parametrize(
    "first, second", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGTERM)]
)
async def test_a_second_signal_ends_at_once(first: signal.Signals, second: signal.Signals) -> None:
    async with server_process(drain_timeout_s=3600) as server:
        client = await _connect(await server.port())
        server.process.send_signal(first)
        await client.expect(messages.GoAway)
        server.process.send_signal(second)
        assert await server.wait() == 0
        assert await client.next() is None
        client.close()
        assert len(server.events("stopping at once")) == 1
    assert b"Traceback" not in server.errors


async def test_sigusr1_tells_what_is_held_and_ends_nothing() -> None:
    async with server_process() as server:
        port = await server.port()

        async def figures() -> dict[str, Any]:
            told = len(server.events("figures"))
            server.process.send_signal(signal.SIGUSR1)
            await eventually(lambda: len(server.events("figures")) > told, "figures are told")
            return server.events("figures")[-1]

        before = await figures()
        publisher = await _connect(port, "alice")
        room = await publisher.register()
        await publisher.publish(room)
        await publisher.send(frame(room, 0, flags=Flag.KEY))
        subscriber = await _connect(port, "bob")
        await subscriber.subscribe(room)
        await subscriber.expect_frames(room, 0, 0)
        busy = await figures()
        held = ("connections", "rooms", "subscriptions", "backlog_bytes", "frames_in")
        assert [busy[name] for name in held] == [2, 1, 1, 0, 1]
        assert busy["cache_bytes"] > 0
        assert busy["tasks"] > before["tasks"]
        await publisher.request(messages.RemoveRoom(room=room), messages.RemoveRoomAnswer)
        for client in (publisher, subscriber):
            client.close()
        await eventually(lambda: len(server.events("connection ended")) == 2, "both are gone")
        after = await figures()
        assert after["tasks"] == before["tasks"]
        assert not any(after[name] for name in ("connections", "rooms", "cache_bytes"))
        server.process.terminate()
        assert await server.wait() == 0


# Ports


async def test_two_listeners() -> None:
    async with server_process(tcp=["127.0.0.1:0", "[::1]:0"]) as server:
        four, six = await server.listening(2)
        assert re.fullmatch(r"127\.0\.0\.1:[1-9]\d*", four)
        assert re.fullmatch(r"\[::1\]:[1-9]\d*", six)
        (await _connect(int(four.rpartition(":")[2]))).close()
        raw = socket.create_connection(("::1", int(six.rpartition(":")[2])))
        client = RawClient(raw)
        await client.greet()
        client.close()
        server.process.terminate()
        assert await server.wait() == 0


async def test_tls_beside_plain(tmp_path: Path) -> None:
    made = Certificates(tmp_path)
    async with server_process(
        tls=["127.0.0.1:0"],
        web_tls=["127.0.0.1:0"],
        tls_cert=str(made.certificate),
        tls_key=str(made.key),
    ) as server:
        plain, tls, web = (int(each.rpartition(":")[2]) for each in await server.listening(3))
        assert server.output.decode() == (
            f"listening tcp 127.0.0.1:{plain}\nlistening tls 127.0.0.1:{tls}\n"
            f"listening web-tls 127.0.0.1:{web}\n"
        )
        browser = await WsClient.connect(web)
        await browser.start_tls(made.client_context())
        await browser.open()
        browser.close()
        (await _connect(plain)).close()
        client = await RawClient.connect(tls)
        await client.start_tls(made.client_context())
        await client.greet()
        server.process.terminate()
        (away,) = [one for one in [await client.next()] if isinstance(one, messages.GoAway)]
        assert away.reason == messages.GoAwayReason.STOPPING
        client.close()
        assert await server.wait() == 0
    assert b"Traceback" not in server.errors


async def test_a_bad_certificate_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    made = Certificates(tmp_path)
    made.key.write_text("no key")
    async with server_process(
        tls=["127.0.0.1:0"], tls_cert=str(made.certificate), tls_key=str(made.key)
    ) as server:
        assert await server.wait() == 1
    assert server.errors.decode() == (
        f"error: {made.certificate} and {made.key} do not hold a certificate and its key, "
        "in PEM form\n"
    )
    assert not server.output


async def test_a_tls_port_in_use_is_one_line(tmp_path: Path) -> None:
    made = Certificates(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with server_process(
            tls=[f"127.0.0.1:{port}"], tls_cert=str(made.certificate), tls_key=str(made.key)
        ) as server:
            assert await server.wait() == 1
        assert server.errors.decode() == (
            f"error: cannot listen on 127.0.0.1:{port}: "
            "the port is in use; choose another with --tls HOST:PORT\n"
        )


async def test_a_port_in_use_is_one_line_and_exit_code_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with server_process(tcp=[f"127.0.0.1:{port}"]) as server:
            assert await server.wait() == 1
        assert server.errors.decode() == (
            f"error: cannot listen on 127.0.0.1:{port}: "
            "the port is in use; choose another with --tcp HOST:PORT\n"
        )
        assert not server.output


@pytest.mark.slow
async def test_one_of_two_ports_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with server_process(tcp=["127.0.0.1:0", f"127.0.0.1:{port}"]) as server:
            assert await server.wait() == 1
        assert server.errors.count(b"\n") == 1
        assert not server.output


@pytest.mark.slow
async def test_it_starts_again_on_its_port() -> None:
    """Also right after it has closed connections from its side."""
    async with server_process(drain_timeout_s=0.1) as server:
        port = await server.port()
        client = await _connect(port)
        room = await client.register()
        server.process.terminate()
        await client.expect_close(Code.SHUTTING_DOWN)
        assert await server.wait() == 0
    async with server_process(tcp=[f"127.0.0.1:{port}"]) as server:
        assert await server.port() == port
        client = await _connect(port)
        # A single node's rooms end with it.
        await client.refused(messages.GetRoomInfo(room=room), Code.NO_SUCH_ROOM)
        client.close()
        server.process.terminate()
        assert await server.wait() == 0


# Open files


@pytest.mark.slow
async def test_out_of_descriptors_it_goes_on_with_whom_it_has() -> None:
    async with server_process(open_files=40) as server:
        port = await server.port()
        publisher = await _connect(port, "alice")
        room = await publisher.register()
        await publisher.publish(room)
        subscriber = await _connect(port, "bob")
        await subscriber.subscribe(room)
        # The kernel lets everybody in; the server takes as many as it can.
        crowd = [await _connect(port, None) for _ in range(60)]
        await eventually(lambda: bool(server.events("cannot accept")), "it says so")
        started = trio.current_time()
        for seq in range(100):
            await publisher.send(frame(room, seq))
            await subscriber.expect_frames(room, seq, seq)
            await trio.sleep(0.015)
        seconds = trio.current_time() - started
        lines = [line for line in server.log if line["event"].startswith("cannot accept")]
        assert 1 <= len(lines) <= seconds + 2
        assert lines[0]["reason"] == "Too many open files"

        # When some leave, those who waited are served.
        for client in crowd[:50]:
            client.close()
        for client in crowd[50:]:
            await client.greet("patient")
            client.close()
        for client in (publisher, subscriber):
            client.close()
        server.process.terminate()
        assert await server.wait() == 0
    assert b"Traceback" not in server.errors


@pytest.mark.slow
async def test_it_takes_all_the_open_files_it_may_have() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with server_process() as server:
        await server.port()
        soft_and_hard = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
        assert soft_and_hard == (hard, hard)
        server.process.terminate()
        assert await server.wait() == 0


# Output


async def test_standard_output_has_the_listeners_and_nothing_else() -> None:
    async with server_process() as server:
        client = await _connect(await server.port())
        await client.register()
        client.close()
        await eventually(lambda: bool(server.events("connection ended")), "the end is logged")
        server.process.terminate()
        assert await server.wait() == 0
    assert re.fullmatch(rb"listening tcp 127\.0\.0\.1:\d+\n", bytes(server.output))
    (ended,) = server.events("connection ended")
    assert (ended["account"], ended["code"], ended["level"]) == ("alice", "lost", "info")
    assert len(server.events("room registered")) == 1
