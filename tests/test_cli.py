"""The command line without a server: usage, mistakes, and the small parts."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
import trio
from trio.testing import MockClock

from tim_trio import cli
from tim_trio._version import __version__
from tim_trio.cli.options import byte_count
from tim_trio.cli.output import Output, OutputClosed
from tim_trio.cli.progress import Progress, format_bytes
from tim_trio.cli.push import _Pacer
from tim_trio.cli.runner import explain, run
from tim_trio.config import render_defaults
from tim_trio.errors import (
    Code,
    ConnectionClosed,
    LocalProtocolError,
    RoomError,
    TimError,
    room_error,
)
from tim_trio.net.client import ConnectFailed, NotATimServer

ROOM = "LJ6TN2wdrZF"
COMMAND = [sys.executable, "-m", "tim_trio"]
CommandLine = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> CommandLine:
    """Run the command line in this process: exit code, stdout, stderr."""
    for name in list(os.environ):
        if name.startswith("TIM_TRIO_"):
            monkeypatch.delenv(name)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tim_trio", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capfd.readouterr()
        return int(caught.value.code or 0), out, err

    return call


def closed_port() -> int:
    """Return a port where nobody listens, nor will: the system gives it to no test beside this."""
    return 1


@pytest.mark.parametrize("group", ["room", "token", "account", "cluster", "contact"])
def test_a_group_without_a_command_shows_what_there_is(
    command_line: CommandLine, group: str
) -> None:
    code, out, err = command_line(group)
    assert (code, out) == (2, "")
    assert err.startswith(f"Usage: tim_trio {group} ")
    assert "\nCommands:\n" in err


@pytest.mark.parametrize("command", ["version", "config"])
def test_standard_output_that_takes_nothing(command: str) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND, command], stdout=full, stderr=subprocess.PIPE, timeout=60, check=False
        )
    assert (done.returncode, done.stderr) == (1, b"error: No space left on device\n")


@pytest.mark.parametrize(
    "closed, arguments", [("<&-", ["push", "-"]), (">&-", ["watch", ROOM]), ("2>&-", ["room"])]
)
def test_standard_streams_that_are_closed(closed: str, arguments: list[str]) -> None:
    """What is not there takes everything and gives nothing, as /dev/null does."""
    if len(arguments) > 1:
        arguments = [*arguments, "--server", f"tim://127.0.0.1:{closed_port()}"]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1 if len(arguments) > 1 else 2, b"")
    if closed == "2>&-":
        assert done.stderr == b""
    else:
        assert done.stderr.startswith(b"error: no server at")
        assert done.stderr.count(b"\n") == 1


def test_version_and_config(command_line: CommandLine) -> None:
    assert command_line("version") == (0, f"tim_trio {__version__}\n", "")
    assert command_line("--version") == (0, f"tim_trio {__version__}\n", "")
    assert command_line("config") == (0, render_defaults(), "")


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["watch", "--help"], ["room", "-h"]])
def test_help(command_line: CommandLine, arguments: list[str]) -> None:
    code, out, err = command_line(*arguments)
    assert (code, err) == (0, "")
    assert out.startswith("Usage: tim_trio")


def test_watch_documents_its_exit_codes(command_line: CommandLine) -> None:
    _, out, _ = command_line("watch", "--help")
    for code in ("0 ", "3 ", "4 ", "5 ", "130", "141"):
        assert f"\n    {code}" in out


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["wacth"], "No such command 'wacth'"),
        (["watch"], "Missing argument 'ROOM'. (see `tim_trio watch --help`)"),
        (["watch", "short"], "a room id has 11 characters, 'short' has 5"),
        (["watch", "LJ6TN2wdrZ0"], "'0' cannot occur in a room id"),
        (["watch", ROOM, "--trak", "1"], "No such option '--trak'"),
        (["watch", ROOM, "--server", "127.0.0.1:7600"], "write it as tim://HOST:PORT"),
        (["watch", ROOM, "--account", "a b"], "'a b' is not an account name"),
        (["watch", ROOM, "--track", "256"], "256"),
        (["push"], "give SOURCE, or ROOM and SOURCE"),
        (["push", "a", "b", "c"], "give SOURCE, or ROOM and SOURCE"),
        (["push", "nonsense", "b"], "a room id has 11 characters"),
        (["push", "--rate", "fast", "b"], "'fast' is not a number of bytes such as 500k"),
        (["push", "--mode", "quick", "b"], "'quick'"),
        (["push", "--reconnect-for", "x", "b"], "'x' is not a number."),
        (["watch", ROOM, "--track", "x"], "'x' is not a whole number."),
        (["room", "grant", ROOM], "Missing argument 'NAME'"),
        (["serve", "--prot", "1"], "No such option '--prot'"),
        (["--tpc", "1"], "No such option '--tpc'"),
        (["--set", "limits.max_rooms"], "'limits.max_rooms' is not KEY=VALUE"),
    ],
)
def test_wrong_usage_is_one_line(
    command_line: CommandLine, arguments: list[str], complaint: str
) -> None:
    code, out, err = command_line(*arguments)
    assert (code, out) == (2, "")
    assert complaint in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["push", "/nonexistent/file"], "cannot read /nonexistent/file: No such file"),
        (["push", ROOM], "No such file or directory; to push into a room, give ROOM and SOURCE"),
        (["push", "/"], "cannot read /: Is a directory"),
        (["watch", ROOM, "--out", "/nonexistent/file"], "cannot write /nonexistent/file"),
        (["--tcp", "nonsense"], '"nonsense" is not HOST:PORT'),
        (["--tcp", "0.0.0.0:0"], "not a loopback address"),
        (["--set", "limits.max_room=1"], "did you mean"),
        (["--tls", "127.0.0.1:0"], "tls_cert: listening with TLS needs a certificate"),
        (["--tls", "127.0.0.1:0", "--tls-cert", "c"], "tls_key: listening with TLS needs"),
        (
            ["--tls", "0.0.0.0:0", "--tls-cert", "c", "--tls-key", "k"],
            "tls: 0.0.0.0:0 is not a loopback address",
        ),
        (
            ["--tls", "127.0.0.1:0", "--tls-cert", "/nonexistent/c", "--tls-key", "k"],
            "cannot read /nonexistent/c: No such file",
        ),
        (
            ["room", "list", "--server", "tims://localhost:1", "--tls-ca", "/nonexistent/ca"],
            "cannot read /nonexistent/ca: No such file",
        ),
        (["--config", "/nonexistent"], "cannot read /nonexistent"),
    ],
)
def test_a_mistake_is_one_line(
    command_line: CommandLine, arguments: list[str], complaint: str
) -> None:
    code, out, err = command_line(*arguments)
    assert (code, out) == (1, "")
    assert complaint in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["watch", ROOM],
        ["push", ROOM, __file__],
        ["push", __file__],
        ["room", "register"],
        ["room", "remove", ROOM],
        ["room", "grant", ROOM, "bob"],
        ["room", "revoke", ROOM, "bob"],
        ["room", "info", ROOM],
        ["room", "list"],
    ],
)
def test_no_server_there(command_line: CommandLine, arguments: list[str]) -> None:
    address = f"tim://127.0.0.1:{closed_port()}"
    code, out, err = command_line(*arguments, "--server", address)
    assert (code, out) == (1, "")
    assert err == (
        f"error: no server at {address}: connection refused; `python -m tim_trio` starts a server\n"
    )


def test_the_server_may_come_from_the_environment(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIM_TRIO_SERVER", f"tim://127.0.0.1:{closed_port()}")
    monkeypatch.setenv("TIM_TRIO_ACCOUNT", "a b")
    assert "'a b' is not an account name" in command_line("room", "list")[2]
    monkeypatch.setenv("TIM_TRIO_ACCOUNT", "alice")
    assert os.environ["TIM_TRIO_SERVER"] in command_line("room", "list")[2]


def test_a_user_without_name_is_asked_for_one(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody() -> str:
        raise OSError("no such user")

    monkeypatch.setattr("getpass.getuser", nobody)
    code, _, err = command_line("room", "list")
    assert code == 2
    assert "no login name: give one" in err


def test_a_port_in_use(command_line: CommandLine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        code, out, err = command_line("--tcp", f"127.0.0.1:{port}")
    assert code == 1
    assert out == ""
    assert str(port) in err.splitlines()[-1]
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "text, count",
    [
        ("1", 1),
        ("500k", 500_000),
        ("500K", 500_000),
        ("2M", 2_000_000),
        ("1.5MB", 1_500_000),
        ("1g", 10**9),
        ("64Ki", 65_536),
        ("1 MiB", 2**20),
    ],
)
def test_byte_counts(text: str, count: int) -> None:
    assert byte_count(text) == count


@pytest.mark.parametrize("text", ["", "0", "-1", "0.1", "k", "1i", "1T", "1e3", "2 M M"])
def test_what_is_no_byte_count(text: str) -> None:
    with pytest.raises(click.BadParameter, match="not a number of bytes"):
        byte_count(text)


@pytest.mark.parametrize(
    "error, line",
    [
        (room_error(Code.NO_SUCH_ROOM), f"room {ROOM} does not exist, or has ended"),
        (room_error(Code.PERMISSION_DENIED), "ask alice"),
        (room_error(Code.NOT_SUPPORTED, "no reliable"), "does not serve that: no reliable"),
        (room_error(Code.UNAVAILABLE), "unavailable; try again later"),
        (RoomError(2999, "new"), "the server says: new"),
        (ConnectFailed("no server at x"), "`python -m tim_trio` starts a server"),
        (NotATimServer("no"), "is the address right?"),
        (ConnectionClosed(), "the connection to the server was lost"),
        (ConnectionClosed(None, "silent"), "was lost: silent"),
        (ConnectionClosed(1003), "the server closed the connection: closed: overloaded"),
        (ConnectionClosed(1003, "full"), "the server closed the connection: full"),
        (LocalProtocolError("too long"), "cannot send that: too long"),
        (TimError("other"), "other"),
    ],
)
def test_errors_are_explained(error: TimError, line: str) -> None:
    assert line in explain(error, room=ROOM, denied="ask alice")


def test_a_commands_exit_code_and_error() -> None:
    async def works() -> int:
        await trio.lowlevel.checkpoint()
        return 4

    async def fails() -> int:
        await trio.lowlevel.checkpoint()
        raise room_error(Code.NO_SUCH_ROOM)

    assert run(works) == 4
    with pytest.raises(click.ClickException, match="does not exist"):
        run(fails, room=ROOM)


async def test_a_file_gets_its_name_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    output = Output(path)
    await output.write(b"new ")
    await output.write(b"content")
    assert path.read_bytes() == b"old"
    output.keep()
    assert path.read_bytes() == b"new content"
    assert os.listdir(tmp_path) == ["out"]


async def test_a_device_is_written_directly() -> None:
    output = Output(Path("/dev/null"))
    assert output.part is None
    await output.write(b"x")
    output.keep()


async def test_a_full_disk_is_one_line() -> None:
    output = Output(Path("/dev/full"))
    with pytest.raises(click.ClickException, match="cannot write /dev/full: No space left"):
        await output.write(b"x")
    output.keep()


async def test_a_reader_that_has_gone() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    output = Output(Path(f"/dev/fd/{writer}"))
    os.close(writer)
    with pytest.raises(OutputClosed):
        await output.write(b"x")
    output.keep()


@pytest.mark.parametrize(
    "count, text",
    [
        (0, "0 B"),
        (999, "999 B"),
        (1500, "1.50 kB"),
        (2e6, "2.00 MB"),
        (3e9, "3.00 GB"),
        (4e12, "4.00 TB"),
    ],
)
def test_formatted_bytes(count: float, text: str) -> None:
    assert format_bytes(count) == text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


async def test_progress_is_a_line_a_second(autojump_clock: MockClock) -> None:
    file = io.StringIO()
    progress = Progress("pushed", lambda: "3 watching", file=file)
    async with progress.shown():
        for pause_s in (0.5, 0.6, 0.5, 0.6, 0.3):
            progress.bytes += 1_000_000
            progress.frames += 10
            await trio.sleep(pause_s)
    lines = file.getvalue().splitlines()
    assert lines[0] == "pushed 2.00 MB, 2.00 MB/s, 20 frames, 3 watching"
    assert lines[-1] == "pushed 5.00 MB, 2.00 MB/s, 50 frames, 3 watching in 2.5 s"
    assert len(lines) == 3


async def test_progress_on_a_terminal_is_one_line(autojump_clock: MockClock) -> None:
    file = Terminal()
    progress = Progress("received", lambda: "0 missing", file=file)
    async with progress.shown():
        await trio.sleep(1.1)
    assert file.getvalue().count("\n") == 1
    assert file.getvalue().count("\r") == 6


async def test_quiet_progress_says_nothing(autojump_clock: MockClock) -> None:
    file = io.StringIO()
    progress = Progress("received", lambda: "", True, file=file)
    progress.say("hello")
    async with progress.shown():
        await trio.sleep(3)
    assert file.getvalue() == ""


async def test_a_rate_is_kept_in_the_long_run(autojump_clock: MockClock) -> None:
    pacer = _Pacer(1000)
    started = trio.current_time()
    for _ in range(100):
        await pacer.wait(100)
    assert trio.current_time() - started == pytest.approx(9.9, abs=0.01)
    # After a pause of the input the lost time is not made up for.
    await trio.sleep(10)
    for _ in range(11):
        await pacer.wait(100)
    assert trio.current_time() - started == pytest.approx(9.9 + 10 + 1 - 0.25, abs=0.01)
