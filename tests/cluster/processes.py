"""Nodes as processes of their own, to be killed and stopped."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import trio

from tests.cluster.etcd_process import free_ports
from tests.cluster.wires import Network
from tim_trio.cluster.placement import Placement
from tim_trio.net.client import Client, connect
from tim_trio.protocol.room_ids import parse_room_id

_START_S = 60.0


@attrs.define(eq=False)
class NodeProcess:
    """One server process of a cluster."""

    name: str
    host: str
    port: int
    command: list[str]
    log: Path
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"tim://{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def client(self, account: str) -> contextlib.AbstractAsyncContextManager[Client]:
        return connect(self.url, account=account)

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, and block until it serves."""
        self.wait_serving(self.launch())

    def launch(self) -> int:
        """Start it; return where its log begins, for `wait_serving`."""
        with self.log.open("ab") as log:
            began = log.tell()
            environment = {
                key: value for key, value in os.environ.items() if not key.startswith("TIM_TRIO_")
            }
            self._process = subprocess.Popen(self.command, stdout=log, stderr=log, env=environment)
        return began

    def wait_serving(self, began: int) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_S
        while b"listening tcp" not in self.log.read_bytes()[began:]:
            assert self._process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.02)

    def events(self) -> list[dict[str, Any]]:
        """Return the lines of its log that are whole."""
        lines = self.log.read_text().rpartition("\n")[0].splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def is_linked(self, peer: str) -> bool:
        """Say whether it has a link to another node, by its log."""
        of_it = [
            event["event"]
            for event in self.events()
            if event.get("node") == peer and event["event"] in ("link up", "link lost")
        ]
        return of_it[-1:] == ["link up"]

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

    def restore(self) -> None:
        """Start those again that have ended."""
        _start(*(node for node in self.nodes.values() if not node.is_running))

    async def until_said(self, names: str, event: str, within_s: float = 30, **fields: str) -> None:
        """Wait until each of some nodes has logged something, from now on."""
        wanted = {"event": event, **fields}.items()
        known = {name: len(self.nodes[name].events()) for name in names}
        with trio.fail_after(within_s):
            while not all(  # noqa: ASYNC110 - nodes do not know of tests
                any(wanted <= said.items() for said in self.nodes[name].events()[count:])
                for name, count in known.items()
            ):
                await trio.sleep(0.05)

    def ranking(self, room: str) -> tuple[str, ...]:
        placement = Placement(dict.fromkeys(self.nodes, 1))
        return placement.rank(parse_room_id(room), len(self.nodes))


def _start(*nodes: NodeProcess) -> None:
    """Start nodes together, and block until all serve."""
    for node, began in [(node, node.launch()) for node in nodes]:
        node.wait_serving(began)


async def room_at(client: Client, processes: Processes, *first: str) -> str:
    """Register rooms until one has its relay at the first of ``first``, its second at the
    next, and so on."""
    while True:
        room = await client.register_room()
        if processes.ranking(room)[: len(first)] == first:
            return room
        await client.remove_room(room)


@contextlib.contextmanager
def running_nodes(
    etcd_url: str,
    *names: str,
    options: tuple[str, ...] = (),
    network: Network | None = None,
    started: bool = True,
) -> Iterator[Processes]:
    """Run nodes, each on its machine of ``network`` if there is one; ``started``: at once.

    Args:
        etcd_url: as nodes are told it, or the one of a member.
    """
    ports = free_ports(len(names))
    with tempfile.TemporaryDirectory() as directory:
        secret = Path(directory) / "secret"
        secret.write_text("a secret of the tests, long enough")
        nodes = {}
        for name, port in zip(names, ports, strict=True):
            command = [sys.executable, "-m", "tim_trio", "serve", "--no-web", "--name", name]
            host = network[name].address if network else "127.0.0.1"
            command += ["--tcp", f"{host}:{port}", "--cluster", etcd_url.replace("http", "etcd")]
            command += ["--cluster-secret", str(secret), *options]
            if network is not None:
                command = network[name].namespace.inside(*command)
            nodes[name] = NodeProcess(name, host, port, command, Path(directory) / f"{name}.log")
        try:
            if started:
                _start(*nodes.values())
            yield Processes(nodes)
        finally:
            for node in nodes.values():
                node.kill()
