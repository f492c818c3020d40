"""``receive``: files from other accounts into a directory."""

from __future__ import annotations

import os
import sys
import termios
from pathlib import Path
from typing import Final

import attrs
import click
import trio

from tim_trio.cli.file_progress import FileProgress, shown_name
from tim_trio.cli.login import Login, server_options
from tim_trio.cli.options import account_name, quiet_option, reconnect_option
from tim_trio.cli.progress import format_bytes
from tim_trio.cli.runner import run
from tim_trio.net.client import Bounds
from tim_trio.net.client.files import Arrival, FileDeclined, FileReceiver, FileTransfer

#: Half of it is granted at a time, for each word of that wakes the server.
_BUFFER_BYTES: Final = 16 * 1024 * 1024


@click.command()
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, exists=True, file_okay=False, writable=True),
    default=".",
    show_default=True,
    metavar="DIR",
    help="Where the files go.",
)
@click.option(
    "--accept-from",
    multiple=True,
    type=account_name,
    metavar="ACCOUNT",
    help="Take everything ACCOUNT sends without asking; may be given several times.",
)
@click.option("--once", is_flag=True, help="End when one file has arrived, or came to nothing.")
@reconnect_option
@server_options
@quiet_option
def receive(
    directory: Path,
    accept_from: tuple[str, ...],
    once: bool,
    reconnect_for_s: float,
    login: Login,
    quiet: bool,
) -> int:
    """Receive files that other accounts send.

    On a terminal you are asked about each; without one the answer is no,
    except to those whom --accept-from names. The path of each file that has
    arrived is a line on standard output.

    A file appears under its name when it is whole and its digest is right,
    and never in the place of another. Until then it is a hidden file, with
    which the next `receive` in DIR goes on when it is sent again.
    """
    # Without a person nobody is asked, and the answer is no.
    asks = sys.stdin.isatty()
    under_way: list[FileTransfer] = []
    progress = FileProgress("receiving", lambda: under_way, quiet=quiet)

    async def command() -> int:
        bounds = Bounds(reconnect_for_s=reconnect_for_s, receive_buffer_bytes=_BUFFER_BYTES)
        async with login.connect(reconnect=reconnect_for_s > 0, bounds=bounds) as client:
            person = Person(progress)
            try:
                async with client.receive_files(
                    directory,
                    accept=person.ask if asks else None,
                    accept_from=frozenset(accept_from),
                ) as arrivals:
                    _greet(progress, arrivals, directory, asks or bool(accept_from))
                    progress.transfers = lambda: arrivals.transfers
                    async with progress.shown(client):
                        try:
                            return await _take(arrivals, progress, once)
                        finally:
                            under_way[:] = [each for each in arrivals.transfers if each.attempts]
            except OSError as error:
                raise click.ClickException(
                    f"cannot receive into {directory}: {error.strerror}"
                ) from error

    code = run(command)
    if code and under_way:
        names = ", ".join(map(shown_name, under_way))
        progress.say(f"interrupted: run the same command again to go on with {names}")
    return code


def _greet(progress: FileProgress, arrivals: FileReceiver, directory: Path, accepts: bool) -> None:
    where = "the current directory" if str(directory) == "." else str(directory)
    progress.say(f"receiving into {where}")
    for part in arrivals.unfinished:
        name = shown_name(FileTransfer(name=part.name))
        progress.say(f"unfinished: {name} from {part.account}, goes on when it is sent again")
    if not accepts:
        click.echo(
            "every offer will be declined: there is no terminal to ask on, and no --accept-from",
            err=True,
        )


async def _take(arrivals: FileReceiver, progress: FileProgress, once: bool) -> int:
    """Tell of each file that has arrived, and of those that have not."""
    async for arrival in arrivals:
        if arrival.path is not None:
            progress.clear()
            click.echo(str(arrival.path))
            sys.stdout.flush()
            progress.say(_summary(arrival))
        else:
            what = f"{shown_name(arrival.transfer)} from {arrival.transfer.account}"
            progress.clear()
            click.echo(f"did not get {what}: {arrival.error}", err=True)
        if once and (arrival.path is not None or not _was_refused(arrival)):
            return 0 if arrival.path is not None else 1
    return 0


def _was_refused(arrival: Arrival) -> bool:
    """Say whether it was never begun: somebody did not want it, or took it back."""
    return not arrival.transfer.attempts or isinstance(arrival.error, FileDeclined)


def _summary(arrival: Arrival) -> str:
    transfer = arrival.transfer
    return (
        f"received {os.path.basename(transfer.path)} from {transfer.account}: "
        f"{format_bytes(transfer.size)}, SHA-256 {transfer.sha256}"
    )


@attrs.define(eq=False)
class Person:
    """Somebody at the terminal, who is asked one thing at a time."""

    _progress: FileProgress
    _turn: trio.Lock = attrs.Factory(trio.Lock)

    async def ask(self, transfer: FileTransfer) -> bool:
        """Ask whether a file is wanted. Cancelled, the question is taken back."""
        async with self._turn:
            progress = self._progress
            progress.paused = True
            progress.clear()
            # What was typed before the question is no answer to it.
            termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)
            kind = _printable(transfer.media_type)
            about = format_bytes(transfer.size) + (f", {kind}" if kind else "")
            click.echo(
                f"{transfer.account} wants to send you {shown_name(transfer)} ({about}). "
                "Take it? [y/N] ",
                nl=False,
                err=True,
            )
            try:
                answer = await _read_line()
            except trio.Cancelled:
                click.echo(err=True)  # what follows begins a line
                raise
            finally:
                progress.paused = False
            return answer.strip().lower() in ("y", "yes")


async def _read_line() -> str:
    """Read what is typed up to the end of the line; nothing at the end of input.

    Not with a thread: one that waits for a line could not be called off, and
    would take the answer to the next question.
    """
    fd = sys.stdin.fileno()
    line = b""
    while not line.endswith(b"\n"):
        await trio.lowlevel.wait_readable(fd)
        data = os.read(fd, 4096)
        if not data:
            break
        line += data
    return line.decode(errors="replace")


def _printable(text: str) -> str:
    return "".join(c for c in text if c.isprintable())[:80]
