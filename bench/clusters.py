"""Three nodes of a system as one: how each cluster is started, until its nodes see each other."""

import functools
import json
import secrets
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from bench.peers import Server, Setup, free_port, nats_config, server, wait_until_accepting
from bench.processes import BenchError, running

_NODES = 3
_START_TIMEOUT_S = 20.0
#: Of a thousand rooms 997 have their relay at a node that is so much heavier than two others.
_HEAVY = 1000

_NATS_ROUTES = """\
http: 127.0.0.1:{monitor}
cluster {{
  name: bench
  host: 127.0.0.1
  port: {cluster}
  routes: [{routes}]
}}
"""


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except (OSError, ValueError):
            pass  # not yet
        time.sleep(0.05)
    raise BenchError(f"in vain for {_START_TIMEOUT_S:.0f} s: {what}")


def _json_of(url: str, body: bytes | None = None) -> dict[str, object]:
    with urllib.request.urlopen(url, data=body, timeout=2) as response:
        value = json.load(response)
    assert isinstance(value, dict)
    return value


@contextmanager
def _nats(setup: Setup) -> Iterator[Server]:
    """A full mesh of routes, with their defaults."""
    ports, cluster_ports, monitors = ([free_port() for _ in range(_NODES)] for _ in range(3))
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in cluster_ports)

    def sees_all(monitor: int) -> bool:
        found = _json_of(f"http://127.0.0.1:{monitor}/routez")["routes"]
        assert isinstance(found, list)
        return len({each["remote_id"] for each in found}) == _NODES - 1

    with tempfile.TemporaryDirectory(prefix="bench-") as text, ExitStack() as stack:
        folder = Path(text)
        log = folder / "log"
        log_file = stack.enter_context(log.open("ab"))
        pids = []
        for i, port in enumerate(ports):
            config = folder / f"nats-{i}.conf"
            config.write_text(
                nats_config(port)
                + f"server_name: n{i}\n"
                + _NATS_ROUTES.format(monitor=monitors[i], cluster=cluster_ports[i], routes=routes)
            )
            command = ["nats-server", "-c", str(config)]
            process = stack.enter_context(
                running(command, core=setup.core, stdout=log_file, stderr=log_file)
            )
            wait_until_accepting(process, port)
            pids.append(process.pid)
        for monitor in monitors:
            _until(functools.partial(sees_all, monitor), "nats-server links to the others")
        yield Server("nats_cluster", "nats", tuple(ports), 0, tuple(pids), log)


def _etcd_command(folder: Path, port: int, peer_port: int) -> list[str]:
    here, peers = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer_port}"
    return [
        *("etcd", "--data-dir", str(folder / "etcd"), "--logger", "zap", "--log-level", "error"),
        *("--listen-client-urls", here, "--advertise-client-urls", here),
        *("--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers),
        *("--initial-cluster", f"default={peers}"),
    ]


@contextmanager
def _tim(setup: Setup, relay: int, name: str) -> Iterator[Server]:
    """Nodes and their etcd, whose CPU counts as well; the rooms' relay is node ``relay``."""
    ports = [free_port() for _ in range(_NODES)]
    etcd_port, etcd_peer_port = free_port(), free_port()
    etcd = f"http://127.0.0.1:{etcd_port}"
    with tempfile.TemporaryDirectory(prefix="bench-") as text, ExitStack() as stack:
        folder = Path(text)
        log = folder / "log"
        log_file = stack.enter_context(log.open("ab"))
        secret = folder / "secret"
        secret.write_text(secrets.token_hex())
        pids = []

        def start(command: list[str], port: int) -> None:
            process = stack.enter_context(
                running(command, core=setup.core, stdout=log_file, stderr=log_file)
            )
            wait_until_accepting(process, port)
            pids.append(process.pid)

        start(_etcd_command(folder, etcd_port, etcd_peer_port), etcd_port)
        ready = b'{"key": "cmVhZHk="}'
        _until(lambda: bool(_json_of(f"{etcd}/v3/kv/put", ready)), "etcd takes writes")
        for i, port in enumerate(ports):
            start(
                [
                    *(*setup.tim_command, "--no-web", "--tcp", f"127.0.0.1:{port}"),
                    *("--name", f"n{i}", "--set", f"node_weight={_HEAVY if i == relay else 1}"),
                    *("--cluster", f"etcd://127.0.0.1:{etcd_port}"),
                    *("--cluster-secret", str(secret)),
                ],
                port,
            )
        yield Server(name, "tim", tuple(ports), 0, tuple(pids), log)


#: The publisher is at the first node, so with ``tim_cluster`` its relay is there too, and
#: the others are one hop away as in nats; with ``tim_cluster_far`` the last is two hops away.
CLUSTERS: dict[str, Callable[[Setup], AbstractContextManager[Server]]] = {
    "tim_cluster": lambda setup: _tim(setup, 0, "tim_cluster"),
    "tim_cluster_far": lambda setup: _tim(setup, 1, "tim_cluster_far"),
    "nats_cluster": _nats,
}


def started(name: str, setup: Setup) -> AbstractContextManager[Server]:
    """Run a system, single or a cluster; see `bench.peers.server`."""
    return CLUSTERS[name](setup) if name in CLUSTERS else server(name, setup)
