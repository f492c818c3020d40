"""``push``: a file or standard input into a room."""

from __future__ import annotations

import os
import sys
from typing import Final

import click
import trio

from tim_trio.cli.options import byte_count, quiet_option, room_id, server_options
from tim_trio.cli.progress import Progress
from tim_trio.cli.runner import run
from tim_trio.net.client import Client, connect
from tim_trio.net.client.client import Mode

#: A pipe gives what it holds at once, so this does not delay live input.
READ_BYTES: Final = 1024 * 1024
#: Behind schedule by more than this, the rest is not sent in a burst.
_MAX_LATE_S: Final = 0.25
#: Sleeping for less costs more than it paces.
_MIN_SLEEP_S: Final = 0.002


@click.command()
@click.argument("arguments", nargs=-1, metavar="[ROOM] SOURCE")
@click.option(
    "--mode",
    type=click.Choice(["live", "reliable"]),
    help="Of the room that is registered; of ROOM, check that it is this.  [default: live]",
)
@click.option(
    "--track", type=click.IntRange(0, 255), default=0, show_default=True, help="Push as this track."
)
@click.option(
    "--wait-subscribers",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Begin once N watch the room.",
)
@click.option(
    "--rate", type=byte_count, metavar="BYTES_PER_S", help="Not faster than this: 500k, 2M, …"
)
@click.option(
    "--frame-bytes",
    type=byte_count,
    default="16Ki",
    show_default=True,
    metavar="BYTES",
    help="Largest payload of one frame.",
)
@server_options
@quiet_option
def push(
    arguments: tuple[str, ...],
    mode: Mode | None,
    track: int,
    wait_subscribers: int,
    rate: int | None,
    frame_bytes: int,
    server: str,
    account: str,
    quiet: bool,
) -> int:
    """Push SOURCE, a file or - for standard input, into ROOM.

    Without ROOM, a room is registered and its id printed as the first line.
    The bytes travel as they are, without keyframes: who watches from the
    start gets all of it, who comes later gets what follows. Exit code 0 says
    that the server has handed on every frame.
    """
    match arguments:
        case (path,):
            room = None
        case (text, path):
            room = room_id(text)
        case _:
            raise click.UsageError("give SOURCE, or ROOM and SOURCE")
    fd = _open(path)

    async def command() -> int:
        async with connect(server, account=account) as client:
            nonlocal room
            if room is None:
                room = await client.register_room(mode=mode or "live")
                click.echo(room)
                sys.stdout.flush()
            await _push(
                client,
                room,
                fd,
                mode=mode,
                track=track,
                wait_subscribers=wait_subscribers,
                rate=rate,
                frame_bytes=frame_bytes,
                quiet=quiet,
            )
        return 0

    denied = (
        f"account {account} may not push to room {room}; its creator allows it with "
        f"`tim_trio room grant {room} {account}`"
        if room
        else f"account {account} may not register rooms"
    )
    try:
        return run(command, room=room, denied=denied)
    except ReadFailed as error:
        raise click.ClickException(f"cannot read {path}: {error}") from error


class ReadFailed(Exception):
    """The input cannot be read; says why."""


def _open(path: str) -> int:
    """Return a file descriptor to read from; before anyone connects anywhere."""
    if path == "-":
        return sys.stdin.fileno()
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        os.read(fd, 0)  # a directory opens, and fails here
    except OSError as error:
        raise click.ClickException(f"cannot read {path}: {error.strerror}") from error
    return fd


async def _push(
    client: Client,
    room: str,
    fd: int,
    *,
    mode: Mode | None,
    track: int,
    wait_subscribers: int,
    rate: int | None,
    frame_bytes: int,
    quiet: bool,
) -> None:
    async with client.publish(room) as source:
        actual = source.mode.name.lower()
        if mode is not None and mode != actual:
            raise click.ClickException(f"room {room} is {actual}, not {mode}")
        progress = Progress("pushed", lambda: f"{source.viewers or 0} watching", quiet=quiet)
        if wait_subscribers:
            progress.say(f"waiting for {wait_subscribers} to watch room {room}")
            await source.wait_viewers(wait_subscribers)
        async with progress.shown():
            pacer = _Pacer(rate)
            while data := await _read(fd):
                for start in range(0, len(data), frame_bytes):
                    payload = data[start : start + frame_bytes]
                    await pacer.wait(len(payload))
                    await source.send(payload, track=track)
                    progress.frames += 1
                    progress.bytes += len(payload)
            await source.send(b"", track=track, end=True)
            result = await source.unpublish()
        if result.discarded:
            raise click.ClickException(f"the server discarded {result.discarded} frames")


async def _read(fd: int) -> bytes:
    """Return what there is, at most a MiB; nothing at the end of input."""
    try:
        # Abandoned on cancellation: a terminal or pipe may never speak again.
        return await trio.to_thread.run_sync(os.read, fd, READ_BYTES, abandon_on_cancel=True)
    except OSError as error:
        raise ReadFailed(error.strerror) from error


class _Pacer:
    """Holds a rate in bytes a second in the long run."""

    def __init__(self, rate: int | None) -> None:
        self._rate = rate
        self._due = trio.current_time()

    async def wait(self, size: int) -> None:
        """Wait until ``size`` more bytes are due."""
        if self._rate is None:
            return
        now = trio.current_time()
        self._due = max(self._due, now - _MAX_LATE_S)
        if self._due - now > _MIN_SLEEP_S:
            await trio.sleep_until(self._due)
        self._due += size / self._rate
