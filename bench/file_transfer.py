"""Row F1: one file from one process to another, through a server."""

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.load import Load, Sample
from bench.peers import Server, Setup
from bench.processes import BenchError, cpu_seconds, rss_bytes, running

_HERE = Path(__file__).parent
_BLOCK_BYTES = 16 * 1024 * 1024
_START_TIMEOUT_S = 15.0
#: A megabyte a second is no benchmark any more.
_LEAST_RATE = 1e6


def run_file(server: Server, load: Load, setup: Setup) -> Sample:
    """Send a file of ``frames`` times ``payload_bytes``; a delivery is one of those.

    The server's CPU is counted from before the first client connects until both have
    ended. What arrived is compared with what was sent.

    Raises:
        BenchError: a client failed or took too long, or another file arrived.
    """
    (pid,) = server.pids
    rss_start = rss_bytes(pid)
    size = load.frames * load.payload_bytes
    with tempfile.TemporaryDirectory(prefix="bench-") as text:
        folder = Path(text)
        source, inbox = folder / "file.bin", folder / "inbox"
        inbox.mkdir()
        digest = _make_file(source, size)
        arrived = inbox / source.name
        sender, receiver = _commands(server, setup, source, arrived)
        times_before = os.times()
        cpu_before = cpu_seconds(pid)
        with running(receiver, cwd=folder, stderr=subprocess.PIPE) as taking:
            _wait_until_ready(server, taking)
            started = time.monotonic()
            with running(sender, cwd=folder, stderr=subprocess.PIPE) as sending:
                deadline = started + 30 + size / _LEAST_RATE
                for process in (sending, taking):
                    _wait_for_end(process, deadline)
                wall_s = time.monotonic() - started
                server_cpu_s = cpu_seconds(pid) - cpu_before
        rss_end = rss_bytes(pid)
        times = os.times()
        if _digest(arrived) != digest:
            raise BenchError(f"{server.system}: another file arrived than was sent")
    clients_cpu_s = (
        times.children_user
        + times.children_system
        - times_before.children_user
        - times_before.children_system
    )
    return Sample(
        frames=load.frames,
        deliveries=load.frames,
        bytes=size,
        lost=0,
        wall_s=wall_s,
        server_cpu_s=server_cpu_s,
        load_cpu_s=clients_cpu_s,
        rss_start=rss_start,
        rss_end=rss_end,
        rss_samples=(rss_end,),
    )


def _commands(
    server: Server, setup: Setup, source: Path, arrived: Path
) -> tuple[list[str], list[str]]:
    """What sends and what receives, as command lines."""
    if server.system == "pipe":
        end = [sys.executable, str(_HERE / "relays" / "pipe_end.py")]
        port = str(server.ports[0])
        return [*end, "send", port, str(source)], [*end, "receive", port, str(arrived)]
    there = ["--server", f"tim://127.0.0.1:{server.ports[0]}", "--quiet"]
    tim = setup.tim_command
    return (
        [*tim, "send", str(source), "--to", "bob", "--account", "alice", "--wait", "60", *there],
        [
            *(*tim, "receive", "--dir", str(arrived.parent), "--account", "bob"),
            *("--accept-from", "alice", "--once", *there),
        ],
    )


def _wait_until_ready(server: Server, taking: subprocess.Popen[bytes]) -> None:
    """Wait until the receiver is connected: starting Python is not what is measured."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    link = f":{server.ports[0]:04X} "
    while time.monotonic() < deadline and taking.poll() is None:
        # Source: proc_pid_net(5), "tcp": remote address in hex, then state 01 (established).
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
        if any(link in line and line.split()[3] == "01" for line in lines):
            return
        time.sleep(0.01)
    raise BenchError(f"the receiver did not connect: {_last_words(taking)}")


def _wait_for_end(process: subprocess.Popen[bytes], deadline: float) -> None:
    try:
        code = process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise BenchError(f"the file has not arrived in time: {process.args!r}") from None
    if code:
        raise BenchError(f"{process.args!r} failed: {_last_words(process)}")


def _last_words(process: subprocess.Popen[bytes]) -> str:
    process.kill()
    assert process.stderr is not None
    return process.stderr.read().decode(errors="replace").strip()[-400:] or "it said nothing"


def _make_file(path: Path, size: int) -> str:
    """Write bytes that do not compress; return their digest."""
    digest = hashlib.sha256()
    block = os.urandom(_BLOCK_BYTES)
    left = size
    with path.open("wb", buffering=0) as file:
        while left:
            piece = memoryview(block)[: min(left, _BLOCK_BYTES)]
            file.write(piece)
            digest.update(piece)
            left -= len(piece)
    return digest.hexdigest()


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BenchError(f"no file arrived: {error.strerror}") from None
