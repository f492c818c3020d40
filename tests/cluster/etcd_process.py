"""Real etcd processes on free ports, for tests."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cluster.wires import Machine

_START_S = 20.0


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on now, below those that the system gives to
    outgoing connections: a node that is down for a moment must find its port free."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(15_000, 32_000)
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                sock.bind(("127.0.0.1", port))
                ports.append(port)
    return ports


class EtcdMember:
    """One etcd process, which may be stopped and started again with its data."""

    def __init__(self, command: Sequence[str], url: str, log: Path) -> None:
        self.url = url
        self._command = command
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)

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

    def is_leader(self) -> bool:
        status = httpx.post(self.url + "/v3/maintenance/status", json={}, timeout=2).json()
        return bool(status["leader"] == status["header"]["member_id"])

    def hidden(self) -> EtcdMember:
        """Return the same member, to be started where no node looks for it."""
        url = f"http://127.0.0.1:{free_ports(1)[0]}"
        command = [url if word == self.url else word for word in self._command]
        return EtcdMember(command, url, self._log)

    def ask(self, what: str, **fields: str) -> dict[str, Any]:
        """Call its gateway, as in ``ask("kv/range", key=…)``; return the answer."""
        response = httpx.post(f"{self.url}/v3/{what}", json=fields, timeout=5)
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer

    def wait_ready(self) -> None:
        """Block until it takes writes."""
        deadline = time.monotonic() + _START_S
        while True:
            with contextlib.suppress(httpx.HTTPError):
                response = httpx.post(
                    self.url + "/v3/kv/put", json={"key": "cmVhZHk=", "value": ""}, timeout=1
                )
                if response.status_code in (200, 400):  # 400: it wants a password
                    return
            assert time.monotonic() < deadline, self._log.read_text()[-2000:]
            time.sleep(0.02)


@contextlib.contextmanager
def running_etcd(
    members: int = 1,
    *,
    tls: tuple[str, str, str] | None = None,
    machine: Machine | None = None,
) -> Iterator[list[EtcdMember]]:
    """Run a cluster of etcd; ``tls`` names the files of authority, certificate and key,
    ``machine`` where it is to run."""
    program = shutil.which("etcd")
    if program is None:
        pytest.fail("etcd is missing; `make test` installs it")
    ports = free_ports(2 * members)
    client_ports, peer_ports = ports[:members], ports[members:]
    scheme = "https" if tls else "http"
    host = machine.address if machine else "127.0.0.1"
    everyone = ",".join(f"m{i}=http://127.0.0.1:{port}" for i, port in enumerate(peer_ports))
    # Not on disk where memory will do: etcd waits for every fsync.
    where = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=where) as directory:
        running = []
        for i in range(members):
            client_url = f"{scheme}://{host}:{client_ports[i]}"
            peer_url = f"http://127.0.0.1:{peer_ports[i]}"
            command = [program, "--name", f"m{i}", "--data-dir", f"{directory}/m{i}"]
            command += ["--listen-client-urls", client_url, "--advertise-client-urls", client_url]
            command += ["--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url]
            command += ["--initial-cluster", everyone]
            command += ["--heartbeat-interval", "50", "--election-timeout", "500"]
            command += ["--logger", "zap", "--log-level", "error"]
            if tls:
                command += ["--trusted-ca-file", tls[0], "--cert-file", tls[1]]
                command += ["--key-file", tls[2]]
            if machine is not None:
                command = machine.namespace.inside(*command)
            running.append(EtcdMember(command, client_url, Path(directory) / f"m{i}.log"))
        try:
            for member in running:
                member.start()
            if not tls:
                for member in running:
                    member.wait_ready()
            yield running
        finally:
            for member in running:
                member.kill()
