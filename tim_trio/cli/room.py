"""``room``: register, remove, grant, revoke, info, list."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

import click

from tim_trio.cli.login import Login, server_options
from tim_trio.cli.options import account_name, room_id
from tim_trio.cli.progress import format_bytes
from tim_trio.cli.runner import run
from tim_trio.net.client import Client
from tim_trio.net.client.client import Mode
from tim_trio.protocol.messages import UNKNOWN_SOURCES, UNKNOWN_VIEWERS, Role, RoomInfo, SourceInfo
from tim_trio.protocol.room_ids import format_room_id


@click.group()
def room() -> None:
    """Register, remove and look at rooms; let others push."""


def _run(
    login: Login,
    act: Callable[[Client], Awaitable[None]],
    *,
    room: str | None = None,
    denied: str = "",
) -> int:
    async def command() -> int:
        async with login.connect() as client:
            await act(client)
        return 0

    return run(command, room=room, denied=denied)


def _creator_only(room: str) -> str:
    return f"only the creator of room {room} may do that"


@room.command()
@click.option(
    "--mode",
    type=click.Choice(["live", "reliable"]),
    default="live",
    show_default=True,
    help="live leaves out frames for slow watchers; reliable makes the publisher wait.",
)
@click.option(
    "--gather-ms",
    type=click.IntRange(0, 1000),
    default=0,
    show_default=True,
    help="Hold small frames that long to send several at once.",
)
@click.option(
    "--idle-timeout",
    "idle_timeout_s",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    metavar="SECONDS",
    help="The room ends after so long without data; 0 for the server's default.",
)
@server_options
def register(mode: Mode, gather_ms: int, idle_timeout_s: int, login: Login) -> int:
    """Register a room and print its id."""

    async def act(client: Client) -> None:
        click.echo(
            await client.register_room(
                mode=mode, gather_ms=gather_ms, idle_timeout_s=idle_timeout_s
            )
        )

    return _run(login, act, denied=f"{login.who} may not register rooms")


@room.command()
@click.argument("room", type=room_id)
@server_options
def remove(room: str, login: Login) -> int:
    """End ROOM for everyone in it."""
    return _run(
        login,
        lambda client: client.remove_room(room),
        room=room,
        denied=_creator_only(room),
    )


@room.command()
@click.argument("room", type=room_id)
@click.argument("name", type=account_name)
@server_options
def grant(room: str, name: str, login: Login) -> int:
    """Let the account NAME push to ROOM."""
    return _run(
        login,
        lambda client: client.grant(room, name),
        room=room,
        denied=_creator_only(room),
    )


@room.command()
@click.argument("room", type=room_id)
@click.argument("name", type=account_name)
@server_options
def revoke(room: str, name: str, login: Login) -> int:
    """Take the right to push to ROOM from the account NAME, at once."""
    return _run(
        login,
        lambda client: client.revoke(room, name),
        room=room,
        denied=_creator_only(room),
    )


@room.command()
@click.argument("room", type=room_id)
@server_options
def info(room: str, login: Login) -> int:
    """Print what the server knows of ROOM."""

    async def act(client: Client) -> None:
        click.echo(_describe(await client.room_info(room)))

    return _run(login, act, room=room)


@room.command("list")
@click.option("--all", "all_rooms", is_flag=True, help="Every room, for operators.")
@server_options
def list_(all_rooms: bool, login: Login) -> int:
    """Print the rooms that are yours or that you may push to."""

    async def act(client: Client) -> None:
        rooms = await client.list_rooms(all_rooms=all_rooms)
        click.echo(f"{'ROOM':11}  {'MODE':8}  {'ROLE':8}  {'VIEWERS':>7}  {'SOURCES':>7}  CREATOR")
        for entry in rooms:
            click.echo(
                f"{format_room_id(entry.room)}  {entry.mode.name.lower():8}  "
                f"{_role(entry.role):8}  {_count(entry.viewers, UNKNOWN_VIEWERS):>7}  "
                f"{_count(entry.sources, UNKNOWN_SOURCES):>7}  {entry.creator}"
            )

    return _run(login, act, denied="only operators may list every room")


def _count(number: int, unknown: int) -> str:
    return "?" if number == unknown else str(number)


def _role(role: int) -> str:
    try:
        return Role(role).name.lower()
    except ValueError:
        return str(role)


def _describe(info: RoomInfo) -> str:
    lines = [
        f"room     {format_room_id(info.room)}",
        f"mode     {info.mode.name.lower()}",
        f"creator  {info.creator}",
        f"age      {timedelta(seconds=info.age_ms // 1000)}",
        f"viewers  {info.viewers}",
        f"pushed   {info.frames} frames, {format_bytes(info.bytes)}",
        f"idle     ends after {info.idle_timeout_s} s without data",
    ]
    if info.gather_ms:
        lines.append(f"gather   up to {info.gather_ms} ms")
    if info.granted:
        lines.append(f"granted  {', '.join(info.granted)}")
    lines += [f"source   {_describe_source(source)}" for source in info.sources]
    return "\n".join(lines)


def _describe_source(source: SourceInfo) -> str:
    tracks = ", ".join(
        f"track {track.track} at seq {track.last_seq}{' (ended)' if track.ended else ''}"
        for track in source.tracks
    )
    state = " (left)" if source.left else ""
    return f"{source.source} by {source.account}{state}: {tracks or 'nothing sent yet'}"
