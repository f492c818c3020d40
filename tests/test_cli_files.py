"""``send`` and ``receive`` as people run them: processes, signals, a terminal, a real server."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest

from tim_trio.cli.file_progress import FileProgress
from tim_trio.cli.progress import cells, clip
from tim_trio.net.client.files import FileTransfer, TransferPhase

COMMAND = [sys.executable, "-m", "tim_trio"]
DYING = [sys.executable, "-c"]
DEADLINE_S = 50
#: Takes half a second or more on loopback, in the middle of which something happens.
LARGE = 60_000_000

pytestmark = pytest.mark.timeout(180)

Process = subprocess.Popen[bytes]


@attrs.define
class Scene:
    """A server, and a directory on each side."""

    address: str
    inbox: Path
    outbox: Path
    _left: list[Process] = attrs.Factory(list)

    def start(
        self,
        account: str,
        *arguments: object,
        stdin: int = subprocess.DEVNULL,
        command: Sequence[str] = COMMAND,
    ) -> Process:
        process = subprocess.Popen(
            [*command, *map(str, arguments), "--server", self.address, "--account", account],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,  # or a line that is read takes others with it
        )
        self._left.append(process)
        return process

    def receive(self, *arguments: object) -> Process:
        """Start a receiver, and wait until it can hear offers."""
        process = self.start("bob", "receive", "--dir", self.inbox, *arguments)
        assert process.stderr is not None
        assert process.stderr.readline().startswith(b"receiving into")
        return process

    def send(self, path: Path, *arguments: object) -> Process:
        return self.start("alice", "send", path, "--to", "bob", *arguments)

    def file(self, size: int, name: str = "film.mp4") -> Path:
        path = self.outbox / name
        with path.open("wb") as file:
            file.write(os.urandom(1000))
            file.truncate(size)
        return path

    def part_size(self) -> int:
        return sum(path.stat().st_size for path in self.inbox.glob(".*.part"))

    def end(self) -> None:
        for process in self._left:
            process.kill()
            process.communicate()


def finish(process: Process) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=DEADLINE_S)
    return process.returncode, out.decode(), err.decode()


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = (tmp_path_factory.mktemp("server") / "stderr").open("wb")
    with (
        log,
        subprocess.Popen(
            [*COMMAND, "--tcp", "127.0.0.1:0", "--no-web"], stdout=subprocess.PIPE, stderr=log
        ) as process,
    ):
        try:
            assert process.stdout is not None
            yield "tim://" + process.stdout.readline().decode().split()[-1]
        finally:
            process.kill()


@pytest.fixture
def scene(address: str, tmp_path: Path) -> Iterator[Scene]:
    inbox, outbox = tmp_path / "inbox", tmp_path / "outbox"
    inbox.mkdir()
    outbox.mkdir()
    scene = Scene(address, inbox, outbox)
    yield scene
    scene.end()


@pytest.mark.slow
def test_a_file_from_one_to_the_other(scene: Scene) -> None:
    receiver = scene.receive("--accept-from", "alice", "--once")
    path = scene.file(3_000_000)
    code, out, err = finish(scene.send(path))
    assert (code, out) == (0, "")
    assert re.search(r"^sent film\.mp4 to bob: 3\.00 MB in [\d.]+ s, [\d.]+ .B/s$", err, re.M)
    code, out, err = finish(receiver)
    assert (code, out) == (0, f"{scene.inbox / 'film.mp4'}\n")
    assert re.search(r"^received film\.mp4 from alice: 3\.00 MB, SHA-256 [0-9a-f]{64}$", err, re.M)
    assert (scene.inbox / "film.mp4").read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_quiet_is_quiet(scene: Scene) -> None:
    receiver = scene.start(
        "bob", "receive", "-q", "--dir", scene.inbox, "--accept-from", "alice", "--once"
    )
    # It cannot say when it is ready: the sender waits for it.
    code, out, err = finish(scene.send(scene.file(1000), "-q", "--wait", "20"))
    assert (code, out, err) == (0, "", "")
    assert finish(receiver) == (0, f"{scene.inbox / 'film.mp4'}\n", "")


@pytest.mark.slow
def test_without_a_terminal_the_answer_is_no(scene: Scene) -> None:
    receiver = scene.receive()
    code, _, err = finish(scene.send(scene.file(1000)))
    assert (code, err) == (1, "error: bob takes no files from this account\n")
    receiver.send_signal(signal.SIGINT)
    code, out, err = finish(receiver)
    assert (code, out) == (130, "")
    assert "every offer will be declined" in err
    assert "did not get film.mp4 from alice: declined" in err
    assert list(scene.inbox.iterdir()) == []


@pytest.mark.slow
def test_nobody_there(scene: Scene) -> None:
    path = scene.file(1000)
    code, _, err = finish(scene.send(path))
    assert (code, err) == (1, "error: bob is not online (--wait 600 waits ten minutes)\n")
    code, _, err = finish(scene.send(path, "--wait", "0.5", "-q"))
    assert (code, err) == (1, "error: bob did not answer in time\n")


@pytest.mark.slow
def test_what_cannot_be_sent_is_one_line(tmp_path: Path) -> None:
    for path, text in (
        (tmp_path / "nothing", "cannot read {}: No such file or directory"),
        (tmp_path, "cannot send {}: it is a directory"),
    ):
        done = subprocess.run(
            [*COMMAND, "send", path, "--to", "bob", "--server", "tim://127.0.0.1:1"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (1, f"error: {text.format(path)}\n")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_the_sender_is_started_again(scene: Scene, how: signal.Signals) -> None:
    receiver = scene.receive("--accept-from", "alice", "--once")
    path = scene.file(LARGE)
    sender = scene.send(path)
    wait_until(lambda: scene.part_size() > 6_000_000, "the middle of the file")
    sender.send_signal(how)
    code, _, err = finish(sender)
    if how is signal.SIGINT:
        assert code == 130
        assert "run the same command again to go on" in err
    assert not (scene.inbox / "film.mp4").exists()
    code, _, err = finish(scene.send(path))
    assert code == 0
    before = re.search(r"60\.00 MB, ([\d.]+) MB of it before", err)
    assert before is not None and float(before[1]) > 6
    assert "sent again" not in err
    # The first transfer gave way to the second; that is the one that counts.
    wait_until((scene.inbox / "film.mp4").exists, "the file")
    finish(receiver)
    assert (scene.inbox / "film.mp4").read_bytes() == path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_the_receiver_is_started_again(scene: Scene, how: signal.Signals) -> None:
    receiver = scene.receive("--accept-from", "alice")
    path = scene.file(LARGE)
    sender = scene.send(path)
    wait_until(lambda: scene.part_size() > 6_000_000, "the middle of the file")
    receiver.send_signal(how)
    finish(receiver)
    assert not (scene.inbox / "film.mp4").exists()
    # Nobody is asked again: that it is wanted was said before.
    receiver = scene.receive("--once")
    code, out, err = finish(receiver)
    assert (code, out) == (0, f"{scene.inbox / 'film.mp4'}\n")
    assert "unfinished: film.mp4 from alice" in err
    code, _, err = finish(sender)
    assert code == 0
    again = re.search(r"([\d.]+) (k|M)B sent again", err)
    # What had left the sender and not reached the disk: the windows on the way.
    assert again is None or float(again[1]) * {"k": 1e-3, "M": 1}[again[2]] < 20
    assert (scene.inbox / "film.mp4").read_bytes() == path.read_bytes()
    assert list(scene.inbox.glob(".*")) == []


#: Receives, and is killed once a file has its name: nobody has been told.
DIES = """
import os, runpy, signal
from tim_trio.net.client.files.part import Part

name_it = Part.finish

def finish(part):
    name_it(part)
    os.kill(os.getpid(), signal.SIGKILL)

Part.finish = finish
runpy.run_module("tim_trio", run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("is_started_again", [False, True], ids=["same sender", "another sender"])
def test_a_receiver_killed_before_it_can_say_so_has_one_copy(
    scene: Scene, is_started_again: bool
) -> None:
    receiver = scene.start(
        "bob", "receive", "--dir", scene.inbox, "--accept-from", "alice", command=[*DYING, DIES]
    )
    path = scene.file(300_000)
    sender = scene.send(path, "--wait", "40")
    assert finish(receiver)[0] == -signal.SIGKILL
    assert (scene.inbox / "film.mp4").exists()
    if is_started_again:
        sender.kill()
        sender = scene.send(path, "--wait", "40")
    # Without a yes from anybody: it goes on with what it has, which is all.
    receiver = scene.receive("--once")
    code, out, err = finish(receiver)
    assert (code, out) == (0, f"{scene.inbox / 'film.mp4'}\n")
    assert "unfinished" not in err
    assert finish(sender)[0] == 0
    assert [file.name for file in scene.inbox.iterdir()] == ["film.mp4"]
    assert (scene.inbox / "film.mp4").read_bytes() == path.read_bytes()


class Terminal:
    """The other end of a person's terminal."""

    def __init__(self, columns: int = 80) -> None:
        self._ours, self.theirs = pty.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.text = ""

    def read_until(self, wanted: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while wanted not in self.text:
            readable, _, _ = select.select([self._ours], [], [], deadline - time.monotonic())
            assert readable, f"in vain: {wanted!r} in {self.text!r}"
            self.text += os.read(self._ours, 4096).decode()

    def live_lines(self) -> list[str]:
        """Return what each line was that has been written over."""
        pieces = self.text.split("\r\x1b[K")
        return [piece for piece in pieces if piece and "\n" not in piece]

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def close(self) -> None:
        os.close(self._ours)
        os.close(self.theirs)


@contextmanager
def at_a_terminal(
    scene: Scene, *arguments: object, account: str = "bob", columns: int = 80
) -> Iterator[tuple[Process, Terminal]]:
    terminal = Terminal(columns)
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments), "--server", scene.address, "--account", account],
        stdin=terminal.theirs,
        stdout=subprocess.PIPE,
        stderr=terminal.theirs,
    )
    try:
        yield process, terminal
    finally:
        process.kill()
        process.communicate()
        terminal.close()


@pytest.mark.slow
def test_a_person_at_a_terminal(scene: Scene) -> None:
    with at_a_terminal(scene, "receive", "--dir", scene.inbox, "--once") as (process, terminal):
        terminal.read_until("receiving into")
        # Typed before there is a question, it is no answer to it.
        terminal.type("y\n")
        path = scene.file(2_000_000)
        evil = "../\x1b[2J\u202eevil.mp4"
        first = scene.send(path, "--name", evil)
        question = "alice wants to send you [2Jevil.mp4 (2.00 MB, video/mp4). Take it? [y/N] "
        terminal.read_until(question)
        assert first.poll() is None
        terminal.type("\n")
        assert finish(first)[::2] == (1, "error: bob does not want the file\n")
        terminal.read_until("did not get [2Jevil.mp4 from alice: declined")
        # One that is taken back asks no more, and the next question gets its own answer.
        second = scene.send(path)
        terminal.read_until("you film.mp4 (2.00 MB, video/mp4). Take it? [y/N] ")
        second.send_signal(signal.SIGINT)
        terminal.read_until("did not get film.mp4 from alice: alice has cancelled")
        third = scene.send(path, "--name", "third.mp4")
        terminal.read_until("you third.mp4 (2.00 MB, video/mp4). Take it? [y/N] ")
        terminal.type("yes\n")
        assert finish(third)[0] == 0
        out, _ = process.communicate(timeout=DEADLINE_S)
        assert (process.returncode, out.decode()) == (0, f"{scene.inbox / 'third.mp4'}\n")
        assert "\x1b[2J" not in terminal.text


@pytest.mark.slow
def test_a_bar_on_a_terminal(scene: Scene) -> None:
    arguments = ("receive", "--dir", scene.inbox, "--accept-from", "alice", "--once")
    with at_a_terminal(scene, *arguments) as (process, terminal):
        terminal.read_until("receiving into")
        sender = scene.send(scene.file(LARGE))
        terminal.read_until("receiving film.mp4 ")
        terminal.read_until("received film.mp4 from alice")
        bars = re.findall(r"receiving film\.mp4 \d+ % \[#*\.*\] [\d.]+ .?B of 60", terminal.text)
        assert bars
        assert finish(sender)[0] == 0
        process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 40])
def test_both_sides_in_a_terminal_of_so_many_columns(scene: Scene, columns: int) -> None:
    path = scene.file(400_000_000)
    receive = ("receive", "--dir", scene.inbox, "--accept-from", "alice")
    send = ("send", path, "--to", "bob")
    with (
        at_a_terminal(scene, *receive, columns=columns) as (receiver, below),
        at_a_terminal(scene, *send, "--wait", 40, account="alice", columns=columns) as (
            sender,
            above,
        ),
    ):
        for terminal in (above, below):
            terminal.read_until(" left")
        receiver.send_signal(signal.SIGINT)
        assert receiver.wait(DEADLINE_S) == 130
        below.read_until("interrupted: run the same command again to go on with film.mp4")
        above.read_until("bob has stopped, waiting")
        sender.send_signal(signal.SIGINT)
        assert sender.wait(DEADLINE_S) == 130
        above.read_until("interrupted: run the same command again to go on")
        for terminal in (above, below):
            lines = terminal.live_lines()
            assert max(map(cells, lines)) < columns
            moving = [line for line in lines if line.endswith(" left")]
            assert moving
            for line in moving:
                assert re.fullmatch(
                    r"(sending |receiving )?film\.mp4 \d+ %"
                    r"( \[#*\.*\])?( [\d.]+ .?B of 400\.00 MB)?"
                    r", [\d.]+ .?B/s, [\d:]+ (s|min|h) left",
                    line,
                ), line


# The line of progress


def line_of(*transfers: FileTransfer, verb: str = "sending") -> str:
    return FileProgress(verb, lambda: transfers)._line(0.0)


def transfer(phase: TransferPhase, **fields: object) -> FileTransfer:
    view = FileTransfer(account="bob", name="../a\nb.txt", size=200, phase=phase)
    for name, value in fields.items():
        setattr(view, name, value)
    return view


@pytest.mark.parametrize(
    "phase, fields, verb, line",
    [
        (TransferPhase.READING, {"position": 50}, "sending", "reading ab.txt 25 %"),
        (TransferPhase.OFFERED, {}, "sending", "waiting for bob to answer"),
        (TransferPhase.OFFERED, {}, "receiving", ""),
        (TransferPhase.RUNNING, {"position": 100}, "sending", "sending ab.txt 50 % 100 B of 200 B"),
        (TransferPhase.AWAY, {}, "sending", "ab.txt: bob is away, waiting"),
        (
            TransferPhase.AWAY,
            {"peer_is_stopping": True},
            "sending",
            "ab.txt: bob has stopped, waiting",
        ),
        (TransferPhase.CHECKING, {}, "sending", "ab.txt: waiting for bob to have all of it"),
        (
            TransferPhase.CHECKING,
            {"position": 200},
            "receiving",
            "receiving ab.txt 100 % 200 B of 200 B",
        ),
        (TransferPhase.OVER, {}, "sending", ""),
    ],
)
def test_a_line_for_each_phase(
    phase: TransferPhase, fields: dict[str, object], verb: str, line: str
) -> None:
    assert line_of(transfer(phase, **fields), verb=verb) == line


def test_a_line_for_several_files() -> None:
    running = TransferPhase.RUNNING
    both = (transfer(running, position=50), transfer(running, position=100))
    assert line_of(*both) == "sending 2 files 37 % 150 B of 400 B"
    assert line_of(transfer(running, size=0)) == "sending ab.txt 100 % 0 B of 0 B"


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    "name, columns, line",
    [
        (
            "film.mp4",
            99,
            "receiving film.mp4 41 % [#########...............]"
            " 300.00 MB of 730.00 MB, 100.00 MB/s, 4 s left",
        ),
        (
            "film.mp4",
            79,
            "receiving film.mp4 41 % [##.....] 300.00 MB of 730.00 MB, 100.00 MB/s, 4 s left",
        ),
        (
            "holiday film.mp4",
            79,
            "receiving holiday film.mp4 41 % 300.00 MB of 730.00 MB, 100.00 MB/s, 4 s left",
        ),
        (
            "the whole of our holidays.mp4",
            79,
            "receiving the whole of our … 41 % 300.00 MB of 730.00 MB, 100.00 MB/s, 4 s left",
        ),
        ("film.mp4", 49, "receiving film.mp4 41 %, 100.00 MB/s, 4 s left"),
        ("film.mp4", 39, "film.mp4 41 %, 100.00 MB/s, 4 s left"),
        ("a long name.mp4", 39, "a long nam… 41 %, 100.00 MB/s, 4 s left"),
        ("电影电影电影电影.mp4", 39, "电影电影电… 41 %, 100.00 MB/s, 4 s left"),
    ],
)
def test_a_line_is_as_wide_as_the_terminal(name: str, columns: int, line: str) -> None:
    view = transfer(TransferPhase.RUNNING, name=name, size=730_000_000)
    progress = FileProgress("receiving", lambda: [view], file=Screen())
    view.position = view.moved_bytes = 200_000_000
    progress._line(0.0, columns)
    view.position = view.moved_bytes = 300_000_000
    assert progress._line(1.0, columns) == line
    assert cells(line) <= columns


@pytest.mark.parametrize("columns", range(1, 120))
def test_no_line_is_wider_than_the_terminal(columns: int) -> None:
    view = transfer(TransferPhase.RUNNING, name="电影 e\u0301tude.mp4", size=730_000_000)
    progress = FileProgress("receiving", lambda: [view], file=Screen())
    for now in range(3):
        view.position = view.moved_bytes = now * 100_000_000
        assert cells(clip(progress._line(float(now), columns), columns)) <= columns


def test_the_rate_is_of_the_last_moments() -> None:
    view = transfer(TransferPhase.RUNNING)
    progress = FileProgress("sending", lambda: [view])
    lines = []
    for now in range(12):
        view.position = view.moved_bytes = 10 * now
        lines.append(progress._line(float(now)))
    assert lines[0].endswith("0 B of 200 B")
    assert lines[11].endswith("110 B of 200 B, 10 B/s, 9 s left")
    view.size = 1_000_000
    assert progress._line(12.0).endswith("h left")
    view.size = 2_000
    assert progress._line(12.0).endswith("min left")
