"""The command line as people run it: processes, pipes and signals, a real server."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from tests.net.certificates import Certificates

COMMAND = [sys.executable, "-m", "tim_trio"]
DEADLINE_S = 30

pytestmark = pytest.mark.slow  # every command is a process that starts

Process = subprocess.Popen[bytes]


def environment(address: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if "TIM_TRIO" not in name}
    return {**kept, "TIM_TRIO_SERVER": address, "TIM_TRIO_ACCOUNT": "alice"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A running server; the value is the environment that leads to it."""
    log = (tmp_path_factory.mktemp("server") / "stderr").open("wb")
    with (
        log,
        subprocess.Popen(
            [*COMMAND, "--tcp", "127.0.0.1:0", "--no-web"], stdout=subprocess.PIPE, stderr=log
        ) as process,
    ):
        try:
            assert process.stdout is not None
            found = re.fullmatch(
                r"listening tcp (127\.0\.0\.1:\d+)\n", process.stdout.readline().decode()
            )
            assert found is not None
            yield environment(f"tim://{found[1]}")
            process.send_signal(signal.SIGTERM)
            assert process.wait(DEADLINE_S) == 0
        finally:
            process.kill()


class CommandLine:
    """Starts commands and ends those that are left."""

    def __init__(self, env: dict[str, str]) -> None:
        self.env = env
        self.left: list[Process] = []

    def run(self, *arguments: object, **extra: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [*COMMAND, *map(str, arguments)],
            env={**self.env, **extra},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=DEADLINE_S,
            check=False,
        )
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    def start(self, *arguments: object, stdout: int | IO[bytes] = subprocess.PIPE) -> Process:
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            env=self.env,
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=subprocess.PIPE,
        )
        self.left.append(process)
        return process

    def register(self) -> str:
        code, out, err = self.run("room", "register")
        assert (code, err) == (0, "")
        return out.strip()

    def until_watched(self, room: str, viewers: int) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while f"viewers  {viewers}\n" not in self.run("room", "info", room)[1]:
            assert time.monotonic() < deadline


@pytest.fixture
def command_line(server: dict[str, str]) -> Iterator[CommandLine]:
    line = CommandLine(server)
    yield line
    for process in line.left:
        process.kill()
        process.communicate()


def finish(process: Process, data: bytes | None = None) -> tuple[int, bytes, str]:
    out, err = process.communicate(data, timeout=DEADLINE_S)
    return process.returncode, out or b"", err.decode()


def write(process: Process, data: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(data)
    process.stdin.flush()


def read_line(process: Process) -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


def test_a_file_reaches_every_watcher_identical(command_line: CommandLine, tmp_path: Path) -> None:
    watchers = 6
    data = random.Random(1).randbytes(3_000_000)
    source = tmp_path / "source"
    source.write_bytes(data)
    # The room is made by push, and its id is the first line.
    push = command_line.start("push", source, "--wait-subscribers", watchers, "--rate", "2M")
    room = read_line(push)
    processes = [
        command_line.start("watch", room, "--out", tmp_path / f"copy{number}")
        for number in range(watchers - 1)
    ]
    piped = command_line.start("watch", room, "--quiet")
    code, out, err = finish(piped)
    assert (code, err) == (0, "")
    assert out == data
    for number, process in enumerate(processes):
        code, out, err = finish(process)
        assert (code, out) == (0, b"")
        assert re.search(r"received 3\.00 MB, .*, 18\d frames, 0 missing in", err)
        assert (tmp_path / f"copy{number}").read_bytes() == data
    code, out, err = finish(push)
    assert (code, out) == (0, b"")
    assert f"waiting for {watchers} to watch room {room}" in err
    assert re.search(r"pushed 3\.00 MB, .*/s, 184 frames, 6 watching in", err)
    assert not list(tmp_path.glob("*.part"))
    # Who comes after the end is told so at once.
    assert command_line.run("watch", room)[:2] == (0, "")


def test_over_tls(tmp_path: Path) -> None:
    made = Certificates(tmp_path)
    data = random.Random(2).randbytes(1_000_000)
    source = tmp_path / "source"
    source.write_bytes(data)
    files = ["--tls-cert", str(made.certificate), "--tls-key", str(made.key)]
    with subprocess.Popen(
        [*COMMAND, "--set", "tcp=", "--tls", "localhost:0", *files],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            assert server.stdout is not None
            kind, where = server.stdout.readline().decode().split()[1:]
            assert kind == "tls"
            line = CommandLine(environment(f"tims://{where}"))
            code, _, err = line.run("room", "list")
            assert code == 1
            assert re.fullmatch(r"error: the certificate of tims://\S+ is not accepted: .*\n", err)
            line.env["TIM_TRIO_TLS_CA"] = str(made.authority)
            push = line.start("push", source, "--wait-subscribers", 1)
            watch = line.start("watch", read_line(push))
            assert finish(watch)[:2] == (0, data)
            assert finish(push)[0] == 0
            server.send_signal(signal.SIGTERM)
            assert server.wait(DEADLINE_S) == 0
        finally:
            server.kill()


def test_live_input_is_passed_on_at_once(command_line: CommandLine) -> None:
    push = command_line.start("push", "-", "--wait-subscribers", 1, "--track", 3)
    watch = command_line.start("watch", read_line(push))
    for text in (b"one\n", b"two\n"):
        write(push, text)
        assert read_line(watch) == text.decode().strip()
    assert finish(push)[0] == 0
    assert finish(watch)[0] == 0


def test_an_empty_input_is_a_whole_stream(command_line: CommandLine, tmp_path: Path) -> None:
    push = command_line.start("push", "-", "--wait-subscribers", 1)
    watch = command_line.start("watch", read_line(push), "--out", tmp_path / "copy")
    assert finish(push, b"")[0] == 0
    assert finish(watch)[0] == 0
    assert (tmp_path / "copy").read_bytes() == b""


def test_interrupting_push_ends_it_and_the_watcher_says_so(
    command_line: CommandLine, tmp_path: Path
) -> None:
    push = command_line.start("push", "-", "--wait-subscribers", 1)
    room = read_line(push)
    watch = command_line.start("watch", room, "--out", tmp_path / "copy")
    command_line.until_watched(room, 1)
    write(push, b"half")
    while not (tmp_path / "copy.part").stat().st_size:
        time.sleep(0.01)
    push.send_signal(signal.SIGINT)
    assert push.wait(DEADLINE_S) == 130  # before `finish` ends its input
    code, _, err = finish(push)
    assert (code, "Traceback" in err) == (130, False)
    code, _, err = finish(watch)
    assert code == 3
    assert "error: source 1 left before its END" in err
    assert f"incomplete: what came is in {tmp_path}/copy.part" in err
    assert (tmp_path / "copy.part").read_bytes() == b"half"
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("number, expected", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupting_watch(
    command_line: CommandLine, tmp_path: Path, number: int, expected: int
) -> None:
    room = command_line.register()
    watch = command_line.start("watch", room, "--out", tmp_path / "copy")
    command_line.until_watched(room, 1)
    watch.send_signal(number)
    code, _, err = finish(watch)
    assert (code, "Traceback" in err) == (expected, False)
    assert not list(tmp_path.iterdir())
    command_line.until_watched(room, 0)


def test_a_reader_that_goes_away_is_no_error(command_line: CommandLine) -> None:
    push = command_line.start("push", "-", "--wait-subscribers", 1)
    watch = command_line.start("watch", read_line(push), "--quiet")
    write(push, b"first\n")
    assert read_line(watch) == "first"
    assert watch.stdout is not None
    watch.stdout.close()
    write(push, b"second\n")
    assert watch.wait(DEADLINE_S) == 141
    assert watch.stderr is not None
    assert watch.stderr.read() == b""


def test_a_room_that_is_removed(command_line: CommandLine) -> None:
    push = command_line.start("push", "-", "--wait-subscribers", 1)
    room = read_line(push)
    watch = command_line.start("watch", room)
    command_line.until_watched(room, 1)
    write(push, b"x")
    assert command_line.run("room", "remove", room) == (0, "", "")
    code, _, err = finish(watch)
    assert code == 3
    assert f"error: room {room} has ended: its creator removed it" in err
    code, _, err = finish(push, b"more")
    assert code == 1
    assert f"error: room {room} has ended: its creator removed it" in err


def test_rights_and_lists(command_line: CommandLine, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"content")
    room = command_line.register()

    code, out, err = command_line.run("push", room, source, "--account", "bob")
    assert (code, out) == (1, "")
    assert err == (
        f"error: account bob may not push to room {room}; its creator allows it with "
        f"`tim_trio room grant {room} bob`\n"
    )
    assert command_line.run("room", "grant", room, "bob") == (0, "", "")
    assert command_line.run("push", room, source, "--account", "bob", "--quiet") == (0, "", "")
    assert command_line.run("room", "revoke", room, "bob") == (0, "", "")
    assert command_line.run("push", room, source, "--account", "bob")[0] == 1

    code, out, _ = command_line.run("room", "info", room)
    assert code == 0
    assert f"room     {room}\nmode     live\ncreator  alice\n" in out
    assert "pushed   2 frames, 79 B\n" in out
    assert "source   1 by bob (left): track 0 at seq 1 (ended)\n" in out
    code, out, _ = command_line.run("room", "list")
    assert code == 0
    assert out.splitlines()[0].split() == "ROOM MODE ROLE VIEWERS SOURCES CREATOR".split()
    assert f"{room} live creator 0 0 alice".split() in [line.split() for line in out.splitlines()]
    code, out, _ = command_line.run("room", "list", "--account", "nobody")
    assert len(out.splitlines()) == 1

    for command in (["remove", room], ["grant", room, "x"], ["revoke", room, "x"]):
        code, out, err = command_line.run("room", *command, "--account", "bob")
        assert (code, out) == (1, "")
        assert err == f"error: only the creator of room {room} may do that\n"


@pytest.mark.parametrize(
    "arguments",
    [["watch"], ["push"], ["room", "info"], ["room", "remove"]],
)
def test_a_room_that_does_not_exist(
    command_line: CommandLine, tmp_path: Path, arguments: list[str]
) -> None:
    room = "LJ6TN2wdrZF"
    more = ["/dev/null"] if arguments == ["push"] else []
    code, out, err = command_line.run(*arguments, room, *more)
    assert (code, out) == (1, "")
    assert err == f"error: room {room} does not exist, or has ended\n"


def test_a_frame_the_server_does_not_take(command_line: CommandLine, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(2_000_000))
    code, _, err = command_line.run("push", source, "--frame-bytes", "2M", "--quiet")
    assert code == 1
    assert "error: cannot send that: a frame of 1048612 bytes" in err


def test_push_checks_the_mode_of_the_room(command_line: CommandLine) -> None:
    room = command_line.register()
    code, _, err = command_line.run("push", room, "/dev/null", "--mode", "reliable")
    assert code == 1
    assert err == f"error: room {room} is live, not reliable\n"


def test_output_into_a_closed_pipe(command_line: CommandLine) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as stdout:
        code, _, err = finish(command_line.start("room", "list", stdout=stdout))
    assert (code, err) == (141, "")


@contextmanager
def frozen(process: Process) -> Iterator[None]:
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def test_a_watcher_that_was_too_slow_says_what_is_missing(
    command_line: CommandLine, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(40_000_000))
    room = command_line.register()
    watch = command_line.start("watch", room, "--out", tmp_path / "copy")
    command_line.until_watched(room, 1)
    with frozen(watch):
        # Far more than the server holds for one watcher, and the END behind it.
        assert command_line.run("push", room, source, "--rate", 0, "--quiet") == (0, "", "")
    code, _, err = finish(watch)
    assert code == 4
    found = re.search(r"error: (\d+) frames are missing", err)
    assert found is not None
    # The last frame of data is a short one, and may be among those.
    kept = (tmp_path / "copy").stat().st_size
    assert 0 <= kept - (40_000_000 - int(found[1]) * 16_384) < 16_384
