"""Running a command's Trio part: signals, errors, exit codes."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable

import click
import trio

from tim_trio.errors import (
    ConnectionClosed,
    LocalProtocolError,
    NoSuchRoom,
    NotSupported,
    PermissionDenied,
    RoomError,
    TimError,
)
from tim_trio.net.client import ConnectFailed, NotATimServer, TlsFailed
from tim_trio.net.client.plain_nursery import open_plain_nursery


def run(command: Callable[[], Awaitable[int]], *, room: str | None = None, denied: str = "") -> int:
    """Run a command until it returns its exit code, or SIGINT or SIGTERM.

    A signal cancels the command, which says goodbye to the server, and gives
    130 or 143.

    Args:
        room: what "no such room" is about.
        denied: what to tell who may not do this.

    Raises:
        click.ClickException: one line that says what went wrong.
    """
    try:
        return trio.run(_until_signal, command)
    except TimError as error:
        raise click.ClickException(explain(error, room=room, denied=denied)) from error


async def _until_signal(command: Callable[[], Awaitable[int]]) -> int:
    stopped_by = 0
    code = 0

    async def stop_on_signal() -> None:
        nonlocal stopped_by
        async for number in signals:
            stopped_by = number
            nursery.cancel_scope.cancel()

    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with open_plain_nursery() as nursery:
            nursery.start_soon(stop_on_signal)
            code = await command()
            nursery.cancel_scope.cancel()
    return 128 + stopped_by if stopped_by else code


def explain(error: TimError, *, room: str | None = None, denied: str = "") -> str:
    """Return one line that says what went wrong, and what to do where we know it."""
    match error:
        case NoSuchRoom() if room is not None:
            return f"room {room} does not exist, or has ended"
        case PermissionDenied() if denied:
            return denied
        case NotSupported():
            return f"this server does not serve that: {error.text}"
        case RoomError() if error.retryable:
            return f"the server says: {error.text}; try again later"
        case RoomError():
            return f"the server says: {error.text}"
        case TlsFailed():
            return str(error)
        case NotATimServer():
            return f"{error}; is the address right?"
        case ConnectFailed():
            return f"{error}; `python -m tim_trio` starts a server"
        case ConnectionClosed(code=None):
            return "the connection to the server was lost" + (
                f": {error.text}" if error.text else ""
            )
        case ConnectionClosed():
            return f"the server closed the connection: {error.text or error}"
        case LocalProtocolError():
            return f"cannot send that: {error}"
        case _:
            return str(error)
