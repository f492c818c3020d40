"""The systems under test: how each is started so that it does not drop, and its version.

Every server listens on 127.0.0.1 at a port that was free a moment before, keeps
nothing on disk beyond its temporary folder, and is stopped when its block is left.
"""

import os
import re
import select
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import field, frozen

from bench.build import Programs, node_program
from bench.processes import BenchError, running

_HERE = Path(__file__).parent
_ROOT = _HERE.parent
_WS = "ws@8.18.3"
_START_TIMEOUT_S = 15.0

_NATS = """\
host: 127.0.0.1
port: {port}
max_connections: 65536
max_pending: 2147483648
write_deadline: "300s"
"""

_MOSQUITTO = """\
listener {port} 127.0.0.1
user root
allow_anonymous true
persistence false
max_connections -1
max_queued_messages 0
max_inflight_messages 0
set_tcp_nodelay true
sys_interval 0
log_type error
log_type warning
"""

#: Larger queues than its own, so that it drops no frames.
_NGINX_RTMP = """\
load_module modules/ngx_rtmp_module.so;
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr error;
worker_rlimit_nofile 65536;
events {{ worker_connections 65536; }}
rtmp {{
    server {{
        listen 127.0.0.1:{port};
        out_queue 4096;
        application live {{ live on; }}
    }}
}}
"""


@frozen(kw_only=True)
class Setup:
    """What starting any of the servers needs."""

    programs: Programs
    tim_command: tuple[str, ...] = field(factory=lambda: (sys.executable, "-m", "tim_trio"))
    core: int | None = None


@frozen
class Server:
    """A running server, or the nodes of a cluster."""

    system: str
    dialect: str
    ports: tuple[int, ...]  # of each node
    web_port: int  # of WebSocket; 0 where it speaks none
    pids: tuple[int, ...]  # of all that counts as the server
    log: Path

    def last_words(self) -> str:
        """How it ended, if it did, and the end of its log, for an error message."""
        time.sleep(0.3)  # a log line may come after the close it tells of
        ends = [
            end
            for pid in self.pids
            if (end := os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT))
        ]
        state = f"it ended ({ends[0].si_status})" if ends else "it still runs"
        tail = " | ".join(self.log.read_text(errors="replace").splitlines()[-2:])
        return f"{state}; log: {tail[-400:]}"


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert isinstance(port, int)
    return port


def wait_until_accepting(process: subprocess.Popen[bytes], port: int) -> None:
    """Block until a server takes connections. Raises BenchError if it ends, or in vain."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise BenchError(f"{process.args!r} does not accept connections")


def _wait_for_listening_lines(process: subprocess.Popen[bytes], *kinds: str) -> list[int]:
    """The port of the first ``listening KIND HOST:PORT`` on its stdout, for each kind."""
    assert process.stdout is not None
    deadline = time.monotonic() + _START_TIMEOUT_S
    text = b""
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([process.stdout], [], [], left)[0]:
            break
        chunk = os.read(process.stdout.fileno(), 4096)
        if not chunk:
            break
        text += chunk
        found = [
            re.search(rf"^listening {kind} \S+:(\d+)\n".encode(), text, re.M) for kind in kinds
        ]
        ports = [int(each[1]) for each in found if each]
        if len(ports) == len(kinds):
            return ports
    state = "still runs" if process.poll() is None else f"ended with {process.returncode}"
    raise BenchError(f"no line 'listening {kinds[0]} HOST:PORT'; it {state}")


def nats_config(port: int) -> str:
    """What a nats-server is told so that it does not drop."""
    return _NATS.format(port=port)


def _nats(setup: Setup, folder: Path, port: int) -> list[str]:
    config = folder / "nats.conf"
    config.write_text(nats_config(port))
    return ["nats-server", "-c", str(config)]


def _redis(setup: Setup, folder: Path, port: int) -> list[str]:
    return [
        *("redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)),
        *("--save", "", "--appendonly", "no", "--daemonize", "no", "--maxclients", "30000"),
        *("--client-output-buffer-limit", "pubsub 0 0 0", "--tcp-backlog", "1024"),
        *("--logfile", ""),
    ]


def _mosquitto(setup: Setup, folder: Path, port: int) -> list[str]:
    config = folder / "mosquitto.conf"
    config.write_text(_MOSQUITTO.format(port=port))
    return ["mosquitto", "-c", str(config)]


def _nginx_rtmp(setup: Setup, folder: Path, port: int) -> list[str]:
    config = folder / "nginx.conf"
    config.write_text(_NGINX_RTMP.format(port=port, folder=folder))
    return ["nginx", "-e", "stderr", "-c", str(config)]


def _floor(setup: Setup, folder: Path, port: int) -> list[str]:
    return [str(setup.programs.floor)]


def _pipe(setup: Setup, folder: Path, port: int) -> list[str]:
    return [str(setup.programs.pipe)]


def _tim(setup: Setup, folder: Path, port: int) -> list[str]:
    return [*setup.tim_command, "--tcp", "127.0.0.1:0", "--no-web"]


def _tim_web(setup: Setup, folder: Path, port: int) -> list[str]:
    return [*setup.tim_command, "--tcp", "127.0.0.1:0", "--web", "127.0.0.1:0"]


def _websockets(setup: Setup, folder: Path, port: int) -> list[str]:
    return [sys.executable, str(_HERE / "relays" / "websockets_relay.py")]


def _ws(setup: Setup, folder: Path, port: int) -> list[str]:
    return ["node", str(node_program(_HERE / "relays" / "ws_relay.mjs", _WS))]


@frozen
class System:
    """One of the systems: how to start it, what it speaks, how it tells its version."""

    dialect: str
    command: Callable[[Setup, Path, int], list[str]]
    version: tuple[str, ...]
    announces_port: bool = False
    speaks_websocket: bool = False


SYSTEMS = {
    "tim": System("tim", _tim, (sys.executable, "-m", "tim_trio", "version"), announces_port=True),
    "tim_web": System("tim", _tim_web, (), announces_port=True, speaks_websocket=True),
    "nats": System("nats", _nats, ("nats-server", "--version")),
    "redis": System("redis", _redis, ("redis-server", "--version")),
    "mosquitto": System("mqtt", _mosquitto, ("mosquitto", "-h")),
    "nginx_rtmp": System("rtmp", _nginx_rtmp, ("nginx", "-v")),
    "floor": System("raw", _floor, ("cc", "--version"), announces_port=True),
    "pipe": System("raw", _pipe, ("cc", "--version"), announces_port=True),
    "websockets": System(
        "relay",
        _websockets,
        (sys.executable, "-c", "import websockets; print(websockets.__version__)"),
        announces_port=True,
        speaks_websocket=True,
    ),
    "ws": System(
        "relay",
        _ws,
        ("node", "-p", f"`ws {_WS[3:]}, node ${{process.version}}`"),
        announces_port=True,
        speaks_websocket=True,
    ),
}


def version_of(name: str) -> str:
    """The first line a system says about its version; empty where it cannot."""
    if not SYSTEMS[name].version:
        return ""
    try:
        result = subprocess.run(
            SYSTEMS[name].version, capture_output=True, text=True, timeout=20, cwd=_ROOT
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = result.stdout.splitlines()
    return lines[0].strip() if lines else ""


@contextmanager
def server(name: str, setup: Setup) -> Iterator[Server]:
    """Run a system; the block gets it once it accepts connections.

    Raises:
        BenchError: not installed, or it did not start within 15 s.
    """
    system = SYSTEMS[name]
    with tempfile.TemporaryDirectory(prefix="bench-") as text:
        folder = Path(text)
        log = folder / "log"
        port = 0 if system.announces_port else free_port()
        command = system.command(setup, folder, port)
        with (
            log.open("wb") as log_file,
            running(
                command,
                core=setup.core,
                cwd=_ROOT,
                stdout=subprocess.PIPE if system.announces_port else log_file,
                stderr=log_file,
            ) as process,
        ):
            web_port = 0
            try:
                if system.speaks_websocket:
                    port, web_port = _wait_for_listening_lines(process, "tcp", "web")
                elif system.announces_port:
                    (port,) = _wait_for_listening_lines(process, "tcp")
                else:
                    wait_until_accepting(process, port)
            except BenchError as error:
                tail = " | ".join(log.read_text(errors="replace").splitlines()[-3:])
                raise BenchError(
                    f"{name} did not start ({shlex.join(command)}): {error}. {tail}"
                ) from None
            yield Server(name, system.dialect, (port,), web_port, (process.pid,), log)
