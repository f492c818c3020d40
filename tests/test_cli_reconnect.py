"""``push`` and ``watch`` when the connection is cut, through a wire that the test cuts."""

from __future__ import annotations

import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "tim_trio"]
DEADLINE_S = 30

pytestmark = pytest.mark.slow

Process = subprocess.Popen[bytes]


class Wire:
    """Passes bytes between clients and the server, in threads, until it is cut."""

    def __init__(self, target: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._target = target
        self._open: list[socket.socket] = []
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            self._open += [client, server]
            for pair in ((client, server), (server, client)):
                threading.Thread(target=self._copy, args=pair, daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65_536):
                sink.sendall(data)
        except OSError:
            pass
        for each in (source, sink):
            _hang_up(each)

    def cut(self) -> None:
        for each in self._open:
            _hang_up(each)

    def close(self) -> None:
        _hang_up(self._listener)
        self._listener.close()
        self.cut()
        for each in self._open:
            each.close()


def _hang_up(one: socket.socket) -> None:
    try:
        one.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


class Scene:
    def __init__(self, port: int, log: Path) -> None:
        self.wire = Wire(port)
        self.port = port
        self.log = log
        self.left: list[Process] = []

    def start(self, *arguments: object, through_wire: bool = False) -> Process:
        port = self.wire.port if through_wire else self.port
        address = ["--server", f"tim://127.0.0.1:{port}", "--account", "alice"]
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments), *address],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.left.append(process)
        return process

    def finish(self, process: Process) -> tuple[int, str]:
        _, err = process.communicate(timeout=DEADLINE_S)
        return process.returncode, err.decode()

    def register(self, mode: str) -> str:
        out, _ = self.start("room", "register", "--mode", mode).communicate(timeout=DEADLINE_S)
        return out.decode().strip()


@contextmanager
def running(tmp_path: Path) -> Iterator[tuple[Scene, Process]]:
    log = tmp_path / "server.log"
    with (
        log.open("wb") as stderr,
        subprocess.Popen(
            [*COMMAND, "--tcp", "127.0.0.1:0", "--no-web"], stdout=subprocess.PIPE, stderr=stderr
        ) as server,
    ):
        assert server.stdout is not None
        port = int(server.stdout.readline().decode().rpartition(":")[2])
        scene = Scene(port, log)
        try:
            yield scene, server
        finally:
            for process in (*scene.left, server):
                process.kill()
            for process in scene.left:
                process.communicate()
            scene.wire.close()


def until(size: int, path: Path) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not path.exists() or path.stat().st_size < size:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_push_whose_connection_is_cut_goes_on(tmp_path: Path) -> None:
    data = random.Random(7).randbytes(4_000_000)
    source = tmp_path / "source"
    source.write_bytes(data)
    with running(tmp_path) as (scene, _):
        room = scene.register("reliable")
        watch = scene.start("watch", room, "--out", tmp_path / "copy")
        push = scene.start(
            "push", room, source, "--wait-subscribers", 1, "--rate", "2M", through_wire=True
        )
        until(1_000_000, tmp_path / "copy.part")
        scene.wire.cut()
        code, err = scene.finish(push)
        assert code == 0, err
        assert re.search(r"connection lost.*: reconnecting\n(.*\n)*reconnected after", err)
        assert scene.finish(watch)[0] == 0
    assert (tmp_path / "copy").read_bytes() == data


def test_a_watch_whose_connection_is_cut_says_what_is_missing(tmp_path: Path) -> None:
    source = tmp_path / "source"
    # Frames that divide what is read at once: all have the same size.
    frames, frame_bytes = 4000, 1024
    source.write_bytes(bytes(frames * frame_bytes))
    with running(tmp_path) as (scene, _):
        room = scene.register("live")
        watch = scene.start("watch", room, "--out", tmp_path / "copy", through_wire=True)
        push = scene.start(
            "push", room, source, "--wait-subscribers", 1, "--frame-bytes", frame_bytes
        )
        until(1_000_000, tmp_path / "copy.part")
        scene.wire.cut()
        code, err = scene.finish(push)
        assert code == 0
        assert "pushing at 2 MB/s, since a live room drops" in err
        code, err = scene.finish(watch)
        assert "reconnected after" in err
        missing = re.search(r"error: (\d+) frames are missing", err)
        # Cut between two frames, and back before the next, nothing was missing.
        assert code == (4 if missing else 0)
        kept = (tmp_path / "copy").stat().st_size
        assert kept == frame_bytes * (frames - (int(missing[1]) if missing else 0))


def test_a_server_that_is_killed(tmp_path: Path) -> None:
    with running(tmp_path) as (scene, server):
        room = scene.register("live")
        watch = scene.start("watch", room, "--reconnect-for", "1.5")
        at_once = scene.start("watch", room, "--reconnect-for", "0")
        info = "viewers  2"
        while info not in (scene.start("room", "info", room).communicate()[0].decode()):
            time.sleep(0.05)
        server.send_signal(signal.SIGKILL)
        code, err = scene.finish(at_once)
        assert (code, "reconnecting" in err) == (1, False)
        code, err = scene.finish(watch)
        assert code == 1
        assert "connection lost: reconnecting" in err
        assert "no way back: no server at tim://" in err.splitlines()[-1]
