"""docs/examples/plain_client.py, which knows protocol.md alone, against the real server.

Nothing sleeps: a test that must not outrun the watcher feeds the publisher a piece and
reads it back from the watcher before the next.
"""

import os
import runpy
import struct
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

CLIENT = Path(__file__).resolve().parent.parent / "docs" / "examples" / "plain_client.py"
SERVE = [sys.executable, "-m", "tim_trio"]
PIECE = 65_536

Process = subprocess.Popen[bytes]


@contextmanager
def running(*command: str) -> Iterator[Process]:
    with subprocess.Popen(
        [sys.executable, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


def line(stream: IO[bytes] | None) -> str:
    return pipe(stream).readline().decode().strip()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that ends a lost publisher's source at once."""
    log = tmp_path_factory.mktemp("server") / "stderr"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [*SERVE, "--tcp", "127.0.0.1:0", "--no-web", "--set", "limits.linger_s=0"],
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        with process:
            try:
                while not (said := line(process.stdout)).startswith("listening tcp "):
                    assert process.poll() is None, log.read_text()
                yield said.removeprefix("listening tcp ")
            finally:
                process.terminate()
                process.wait(timeout=20)


@contextmanager
def push(server: str, *room: str) -> Iterator[tuple[Process, str]]:
    """A publisher waiting for input, and its room."""
    with running(str(CLIENT), server, "push", *room) as publisher:
        said = line(publisher.stdout)
        assert said, pipe(publisher.stderr).read().decode()
        yield publisher, said


@contextmanager
def watch(server: str, room: str) -> Iterator[Process]:
    """A watcher that has subscribed."""
    with running(str(CLIENT), server, "watch", room) as watcher:
        assert line(watcher.stderr) == f"watching {room}"
        yield watcher


def feed(publisher: Process, data: bytes) -> None:
    pipe(publisher.stdin).write(data)
    pipe(publisher.stdin).flush()


def end(process: Process) -> tuple[int, bytes, str]:
    """Close the input; return exit status, the rest of the output, and the complaints."""
    output, complaints = process.communicate(timeout=30)
    return process.returncode, output, complaints.decode()


def test_what_is_pushed_is_what_a_watcher_writes(server: str) -> None:
    data = os.urandom(2_000_000)
    with push(server) as (publisher, room), watch(server, room) as watcher:
        received = b""
        for start in range(0, len(data), PIECE):
            piece = data[start : start + PIECE]
            feed(publisher, piece)
            received += pipe(watcher.stdout).read(len(piece))
        assert end(publisher) == (0, b"", "")
        assert end(watcher) == (0, b"", "")
    assert received == data


def test_empty_input_is_one_frame(server: str) -> None:
    with push(server) as (publisher, room), watch(server, room) as watcher:
        assert end(publisher) == (0, b"", "")
        assert end(watcher) == (0, b"", "")


def test_a_latecomer_begins_at_the_key(server: str) -> None:
    first, second = os.urandom(100_000), os.urandom(PIECE)
    with push(server) as (publisher, room), watch(server, room) as early:
        feed(publisher, first)
        assert pipe(early.stdout).read(len(first)) == first
        with watch(server, room) as late:
            assert pipe(late.stdout).read(len(first)) == first
            feed(publisher, second)
            assert end(publisher)[0] == 0
            assert end(early) == (0, second, "")
            assert end(late) == (0, second, "")


def test_who_comes_after_the_end_is_told(server: str) -> None:
    with push(server) as (publisher, room):
        assert end(publisher)[0] == 0
    with running(str(CLIENT), server, "watch", room) as watcher:
        status, output, complaints = end(watcher)
    assert (status, output) == (1, b"")
    assert "left already" in complaints


def test_two_publishers_in_one_room(server: str) -> None:
    with push(server) as (_idle, room), watch(server, room) as watcher:
        with push(server, room) as (publisher, same_room):
            assert same_room == room
            feed(publisher, b"from the second")
            assert end(publisher)[0] == 0
        assert end(watcher) == (0, b"from the second", "")


def test_a_lost_publisher_is_noticed(server: str) -> None:
    with push(server) as (publisher, room), watch(server, room) as watcher:
        feed(publisher, b"half")
        assert pipe(watcher.stdout).read(4) == b"half"
        publisher.kill()
        status, output, complaints = end(watcher)
    assert (status, output) == (1, b"")
    assert "left before its END, reason 2" in complaints


def test_who_does_not_read_gets_a_gap(server: str) -> None:
    with push(server) as (publisher, room), watch(server, room) as watcher:
        assert publisher.communicate(bytes(48 << 20), timeout=30)[1] == b""
        assert publisher.returncode == 0
        status, output, complaints = end(watcher)
    assert status == 1
    assert "GAP: frames " in complaints and "reason 1" in complaints
    assert 0 < len(output) < 48 << 20


def test_a_reliable_room_loses_nothing_at_full_speed(server: str) -> None:
    data = os.urandom(16 << 20)
    client: dict[str, Any] = runpy.run_path(str(CLIENT))
    host, _, port = server.rpartition(":")
    with closing(client["Connection"](host, port)) as owner:
        (number,) = struct.unpack(">Q", owner.request(0x10, struct.pack(">BHI", 1, 0, 0)))
    room = client["room_text"](number)
    with (
        watch(server, room) as watcher,
        push(server, room) as (publisher, _),
        ThreadPoolExecutor() as pool,
    ):
        watched = pool.submit(end, watcher)
        # More than all buffers hold together: the publisher has to wait for the watcher.
        assert publisher.communicate(data, timeout=30) == (b"", b"")
        assert publisher.returncode == 0
        assert watched.result() == (0, data, "")


@pytest.mark.parametrize("verb", ["push", "watch"])
def test_no_such_room(server: str, verb: str) -> None:
    with running(str(CLIENT), server, verb, "LJ6TN2wdrZF") as client:
        status, output, complaints = end(client)
    assert (status, output) == (1, b"")
    assert complaints.startswith("refused: 2104 ")


@pytest.mark.parametrize("text", ["LJ6TN2wdrZ", "LJ6TN2wdrZ0", "1zzzzzzzzzz", "jpXCZedGfVR"])
def test_not_a_room_id(text: str) -> None:
    with running(str(CLIENT), "127.0.0.1:1", "watch", text) as client:
        assert end(client) == (1, b"", f"not a room id: {text}\n")
