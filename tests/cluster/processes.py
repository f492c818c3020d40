"""Nodes as processes of their own, to be killed and stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import attrs

from tests.cluster.etcd_process import free_ports
from tim_trio.cluster.placement import Placement
from tim_trio.net.client import Client, connect
from tim_trio.protocol.room_ids import parse_room_id

_START_S = 30.0


@attrs.define(eq=False)
class NodeProcess:
    """One server process of a cluster."""

    name: str
    port: int
    command: list[str]
    log: Path
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"tim://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def client(self, account: str) -> contextlib.AbstractAsyncContextManager[Client]:
        return connect(self.url, account=account)

    def start(self) -> None:
        """Start it, and block until it serves."""
        with self.log.open("ab") as log:
            began = log.tell()
            environment = {
                key: value for key, value in os.environ.items() if not key.startswith("TIM_TRIO_")
            }
            self._process = subprocess.Popen(self.command, stdout=log, stderr=log, env=environment)
        deadline = time.monotonic() + _START_S
        while b"listening tcp" not in self.log.read_bytes()[began:]:
            assert self._process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.02)

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it as a power cut would. Idempotent."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def wait(self, timeout_s: float) -> int:
        """Block until it has ended by itself; return its exit code."""
        assert self._process is not None
        code = self._process.wait(timeout_s)
        self._process = None
        return code


@attrs.define(eq=False)
class Processes:
    """Some node processes, by name."""

    nodes: dict[str, NodeProcess]

    def __getitem__(self, name: str) -> NodeProcess:
        return self.nodes[name]

    def ranking(self, room: str) -> tuple[str, ...]:
        placement = Placement(dict.fromkeys(self.nodes, 1))
        return placement.rank(parse_room_id(room), len(self.nodes))


async def room_at(client: Client, processes: Processes, relay: str) -> str:
    """Register rooms until one has its relay there."""
    while True:
        room = await client.register_room()
        if processes.ranking(room)[0] == relay:
            return room


@contextlib.contextmanager
def running_nodes(etcd_url: str, *names: str, options: tuple[str, ...] = ()) -> Iterator[Processes]:
    ports = free_ports(len(names))
    with tempfile.TemporaryDirectory() as directory:
        secret = Path(directory) / "secret"
        secret.write_text("a secret of the tests, long enough")
        nodes = {}
        for name, port in zip(names, ports, strict=True):
            command = [sys.executable, "-m", "tim_trio", "serve", "--no-web", "--name", name]
            command += ["--tcp", f"127.0.0.1:{port}", "--cluster", etcd_url.replace("http", "etcd")]
            command += ["--cluster-secret", str(secret), *options]
            nodes[name] = NodeProcess(name, port, command, Path(directory) / f"{name}.log")
        try:
            for node in nodes.values():
                node.start()
            yield Processes(nodes)
        finally:
            for node in nodes.values():
                node.kill()
