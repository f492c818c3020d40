"""Several processes behind one port."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.cluster.etcd_process import EtcdMember, free_ports
from tim_trio.net.client import connect
from tim_trio.protocol.stream import StreamFrame


@contextlib.contextmanager
def running(etcd: EtcdMember, directory: Path, port: int) -> Iterator["subprocess.Popen[str]"]:
    secret = directory / "secret"
    secret.write_text("a secret of the tests, long enough")
    command = [sys.executable, "-m", "tim_trio", "serve", "--no-web", "--workers", "2"]
    command += ["--tcp", f"127.0.0.1:{port}", "--cluster", etcd.url.replace("http", "etcd")]
    command += ["--cluster-secret", str(secret), "--name", "w", "--set", "drain_timeout_s=1"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)


@pytest.mark.slow
async def test_clients_of_one_port_meet_whichever_worker_they_get(
    etcd: EtcdMember, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    with running(etcd, tmp_path, port) as process:
        assert process.stdout is not None
        listening = [await trio.to_thread.run_sync(process.stdout.readline) for _ in range(4)]
        assert listening.count(f"listening tcp 127.0.0.1:{port}\n") == 2
        async with contextlib.AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(
                    connect(f"tim://127.0.0.1:{port}", account=f"client-{i}")
                )
                for i in range(12)
            ]
            # Of twelve connections all to one of two workers: once in two thousand runs.
            assert {client.server.node for client in clients} == {"w-1", "w-2"}
            room = await clients[0].register_room()
            streams = [
                await stack.enter_async_context(client.subscribe(room)) for client in clients
            ]
            source = await stack.enter_async_context(clients[0].publish(room))
            await source.send(b"to all", key=True)
            for stream in streams:
                with trio.fail_after(30):
                    async for item in stream:
                        if isinstance(item, StreamFrame):
                            assert item.payload == b"to all"
                            break
        process.terminate()
        with trio.fail_after(30):
            assert await trio.to_thread.run_sync(process.wait) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "options, complaint",
    [
        (("--workers", "2"), "give --cluster"),
        (("--workers", "2", "--cluster", "etcd://a:1", "--tcp", "127.0.0.1:0"), "none may be 0"),
    ],
)
def test_what_workers_need(tmp_path: Path, options: tuple[str, ...], complaint: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a secret of the tests, long enough")
    done = subprocess.run(
        [sys.executable, "-m", "tim_trio", "serve", "--cluster-secret", str(secret), *options],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 2 and complaint in done.stderr
