"""``push``: a file or standard input into a room."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import click
import trio

from tim_trio.cli.login import Login, server_options
from tim_trio.cli.options import (
    byte_count,
    byte_rate,
    quiet_option,
    reconnect_option,
    room_id,
)
from tim_trio.cli.push_media import check_installed, open_media, push_media
from tim_trio.cli.pushing import check_mode, check_result, progress_of, wait_watched
from tim_trio.cli.runner import run
from tim_trio.cli.token import read_token
from tim_trio.net.client import Bounds, Client, Source
from tim_trio.net.client.client import Mode
from tim_trio.protocol.messages import RoomMode
from tim_trio.protocol.room_ids import parse_room_id

#: A pipe gives what it holds at once, so this does not delay live input.
READ_BYTES: Final = 1024 * 1024
#: Of a file into a live room: it has no clock of its own, and a live room
#: drops for whoever cannot keep up. Faster than most video, slower than a network.
_FILE_RATE: Final = 2_000_000
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
    "--rate",
    type=byte_rate,
    metavar="BYTES_PER_S",
    help="Not faster than this: 500k, 2M, …; 0 for as fast as possible.  "
    "[default: 2M for a file into a live room, else 0]",
)
@click.option(
    "--frame-bytes",
    type=byte_count,
    default="16Ki",
    show_default=True,
    metavar="BYTES",
    help="Largest payload of one frame.",
)
@click.option(
    "--token",
    "token_path",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Push with the secret in FILE, made if absent: started again with it, "
    "with the same ROOM, SOURCE and --frame-bytes, a push goes on where it was cut off, "
    "if the server still waits for it (5 s, by default).",
)
@click.option(
    "--media",
    is_flag=True,
    help="SOURCE is a media file or URL: push its video and sound, a frame each, "
    "at the pace of its timestamps (as fast as possible with --rate 0).",
)
@click.option("--loop", is_flag=True, help="With --media: begin again at the end.")
@reconnect_option
@server_options
@quiet_option
def push(
    arguments: tuple[str, ...],
    mode: Mode | None,
    track: int,
    wait_subscribers: int,
    rate: int | None,
    frame_bytes: int,
    token_path: Path | None,
    media: bool,
    loop: bool,
    reconnect_for_s: float,
    login: Login,
    quiet: bool,
) -> int:
    """Push SOURCE, a file or - for standard input, into ROOM.

    Without ROOM, a room is registered and its id printed as the first line.
    The bytes travel as they are, without keyframes: who watches from the
    start gets all of it, who comes later gets what follows. Exit code 0 says
    that the server has handed on every frame.

    A live room drops for whoever cannot keep up, so a file goes there at 2
    MB/s unless --rate says otherwise. In a room of --mode reliable nothing
    is dropped, and the slowest watcher sets the pace.

    With --media the room gets what players and browsers understand: codecs
    that WebCodecs knows are passed on as they are, others are encoded as
    H.264 and Opus. `watch --media` writes it to a file again.

    A lost connection is replaced. Meanwhile nothing is read from SOURCE.
    """
    match arguments:
        case (path,):
            room = None
        case (text, path):
            room = room_id(text)
        case _:
            raise click.UsageError("give SOURCE, or ROOM and SOURCE")
    if media:
        _check_media(path, rate=rate, loop=loop)
    elif loop:
        raise click.UsageError("--loop needs --media")
    fd = _open(path) if not media else -1
    token = read_token(token_path) if token_path is not None else None

    async def command() -> int:
        bounds = Bounds(reconnect_for_s=reconnect_for_s)
        reader = await open_media(path, loop=loop) if media else None
        async with login.connect(reconnect=reconnect_for_s > 0, bounds=bounds) as client:
            nonlocal room
            if room is None:
                room = await client.register_room(mode=mode or "live")
                click.echo(room)
                sys.stdout.flush()
            if reader is not None:
                await push_media(
                    client,
                    room,
                    reader,
                    mode=mode,
                    wait_subscribers=wait_subscribers,
                    paced=rate is None,
                    token=token,
                    quiet=quiet,
                )
                return 0
            await _push(
                client,
                room,
                fd,
                mode=mode,
                track=track,
                wait_subscribers=wait_subscribers,
                rate=rate,
                frame_bytes=frame_bytes,
                token=token,
                quiet=quiet,
            )
        return 0

    denied = (
        f"{login.who} may not push to room {room}; its creator allows it with "
        f"`tim_trio room grant {room} {login.account or 'NAME'}`"
        if room
        else f"{login.who} may not register rooms"
    )
    try:
        return run(command, room=room, denied=denied)
    except ReadFailed as error:
        raise click.ClickException(f"cannot read {path}: {error}") from error


def _check_media(path: str, *, rate: int | None, loop: bool) -> None:
    if rate:
        raise click.UsageError("--media goes by its timestamps: --rate 0 or none")
    if loop and path == "-":
        raise click.UsageError("standard input cannot begin again: leave out --loop")
    check_installed()


class ReadFailed(Exception):
    """The input cannot be read; says why."""


def _open(path: str) -> int:
    """Return a file descriptor to read from; before anyone connects anywhere."""
    if path == "-":
        return sys.stdin.fileno()
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        os.read(fd, 0)  # a directory opens, and fails here
    except FileNotFoundError as error:
        reason = f"cannot read {path}: {error.strerror}"
        with contextlib.suppress(ValueError):
            parse_room_id(path)
            reason += "; to push into a room, give ROOM and SOURCE: a file, or - for standard input"
        raise click.ClickException(reason) from error
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
    token: bytes | None,
    quiet: bool,
) -> None:
    async with client.publish(room, token=token) as source:
        check_mode(source, mode)
        progress = progress_of(client, source, quiet=quiet)
        if rate is None and source.mode is RoomMode.LIVE and _is_file(fd):
            rate = _FILE_RATE
            progress.say(
                "pushing at 2 MB/s, since a live room drops for whoever cannot keep up "
                "(--rate 0: as fast as possible; --mode reliable: nothing is dropped)"
            )
        done = await _skip(fd, source, track, frame_bytes)
        if source.has_ended(track):
            progress.say("all of it has been pushed before")
            return
        if done:
            progress.say(f"going on behind {done} bytes pushed before")
        await wait_watched(source, progress, wait_subscribers)
        async with progress.shown(client):
            pacer = _Pacer(rate or None)
            async for payload in _payloads(fd, frame_bytes, whole=token is not None):
                await pacer.wait(len(payload))
                if not client.is_connected:
                    await client.wait_connected()
                await source.send(payload, track=track)
                progress.frames += 1
                progress.bytes += len(payload)
            if not client.is_connected:
                await client.wait_connected()
            await source.send(b"", track=track, end=True)
            result = await source.unpublish()
        check_result(source, result, took_over=token is not None)


def _is_file(fd: int) -> bool:
    return stat.S_ISREG(os.fstat(fd).st_mode)


async def _skip(fd: int, source: Source, track: int, frame_bytes: int) -> int:
    """Pass over what was pushed before with this token; return how much that was.

    Raises:
        click.ClickException: the input does not fit what was pushed.
    """
    frames = source.next_seq(track)
    if source.has_ended(track):
        frames -= 1  # END is an empty frame behind the data
    pushed = frames * frame_bytes
    if not pushed:
        return 0
    there = os.fstat(fd).st_size if _is_file(fd) else await _drop(fd, pushed)
    # The last frame may have been a short one.
    if there <= pushed - frame_bytes:
        raise click.ClickException(
            f"{frames} frames of {frame_bytes} bytes were pushed with this token before, "
            f"but the input has only {there} bytes: is it the same, and --frame-bytes too?"
        )
    if _is_file(fd):
        os.lseek(fd, min(pushed, there), os.SEEK_SET)
    return min(pushed, there)


async def _drop(fd: int, count: int) -> int:
    """Read ``count`` bytes and drop them; return how many there were."""
    dropped = 0
    while dropped < count:
        data = await _read(fd, count - dropped)
        if not data:
            break
        dropped += len(data)
    return dropped


async def _payloads(fd: int, frame_bytes: int, *, whole: bool) -> AsyncIterator[bytes]:
    """Yield the input in pieces of at most ``frame_bytes``.

    Args:
        whole: all but the last have exactly that size, so that a number of
            frames says a place in the input; else what there is goes at once.
    """
    kept = b""
    while data := await _read(fd, READ_BYTES):
        data = kept + data
        end = len(data) - len(data) % frame_bytes if whole else len(data)
        for start in range(0, end, frame_bytes):
            yield data[start : min(start + frame_bytes, end)]
        kept = data[end:]
    if kept:
        yield kept


async def _read(fd: int, count: int) -> bytes:
    """Return what there is, at most ``count`` bytes or a MiB; nothing at the end of input."""
    try:
        # Abandoned on cancellation: a terminal or pipe may never speak again.
        return await trio.to_thread.run_sync(
            os.read, fd, min(count, READ_BYTES), abandon_on_cancel=True
        )
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
