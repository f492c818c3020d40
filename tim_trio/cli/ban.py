"""``ban``: what operators end."""

from __future__ import annotations

import click

from tim_trio.cli.login import Login, server_options
from tim_trio.cli.options import account_name, room_id
from tim_trio.cli.runner import run

_DENIED = "only operators may ban"


@click.group()
def ban() -> None:
    """End a room, or shut an account out. For operators."""


@ban.command("room")
@click.argument("room", type=room_id)
@click.option("--reason", default="", metavar="TEXT", help="Told to everyone in the room.")
@server_options
def room_(room: str, reason: str, login: Login) -> int:
    """End ROOM for everyone in it. Its id is never good again."""

    async def command() -> int:
        async with login.connect() as client:
            await client.ban_room(room, reason)
        return 0

    return run(command, room=room, denied=_DENIED)


@ban.command("account")
@click.argument("name", type=account_name)
@click.option("--reason", default="", metavar="TEXT", help="For the server's log.")
@server_options
def account_(name: str, reason: str, login: Login) -> int:
    """Close NAME's connections, end what it pushes, and let it in no more.

    With auth = "accounts" until `account enable NAME`; in the other modes as
    long as the server runs.
    """

    async def command() -> int:
        async with login.connect() as client:
            await client.ban_account(name, reason)
        return 0

    return run(command, denied=_DENIED)
