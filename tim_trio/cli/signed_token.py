"""``token``: make and check signed tokens, for development and for looking at one."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click

from tim_trio.cli.options import account_name, room_id
from tim_trio.protocol.room_ids import format_room_id

_HOUR_S: Final = 3600.0
_MAX_TOKEN_BYTES: Final = 4096

_key_option: Final = click.option(
    "--key",
    "key_file",
    type=click.Path(path_type=Path),
    envvar="TIM_TRIO_TOKEN_KEY_FILE",
    show_envvar=True,
    required=True,
    metavar="FILE",
    help="The secret (HS256), or a key in PEM form.",
)
_audience_option: Final = click.option(
    "--audience",
    default="",
    envvar="TIM_TRIO_TOKEN_AUDIENCE",
    show_envvar=True,
    metavar="TEXT",
    help="What aud names.",
)


@click.group()
def token() -> None:
    """Make and check signed tokens (JWT) for a server with auth = "token"."""


@token.command()
@click.argument("name", type=account_name)
@_key_option
@click.option(
    "--hours",
    type=click.FloatRange(0, min_open=True, max=24 * 3650),
    default=1.0,
    show_default=True,
    metavar="HOURS",
    help="How long it is good.",
)
@click.option("--push", type=room_id, multiple=True, metavar="ROOM", help="May push here alone.")
@click.option("--no-push", is_flag=True, help="May push nowhere.")
@click.option(
    "--subscribe", type=room_id, multiple=True, metavar="ROOM", help="May watch here alone."
)
@click.option("--register/--no-register", default=None, help="May register rooms, or not.")
@click.option("--operator", is_flag=True, help="Sees all rooms.")
@_audience_option
def make(
    name: str,
    key_file: Path,
    hours: float,
    push: tuple[str, ...],
    no_push: bool,
    subscribe: tuple[str, ...],
    register: bool | None,
    operator: bool,
    audience: str,
) -> None:
    """Print a token for the account NAME.

    For development: in production your own user system makes them.
    """
    from tim_trio.accounts.tokens import KeyFileError, claims_for, make_token, read_key

    if push and no_push:
        raise click.UsageError("--push and --no-push exclude each other")
    claims = claims_for(
        name,
        lifetime_s=hours * _HOUR_S,
        push=frozenset(push) if push or no_push else None,
        subscribe=frozenset(subscribe) if subscribe else None,
        register=register,
        operator=operator,
        audience=audience,
    )
    try:
        click.echo(make_token(read_key(key_file), claims))
    except KeyFileError as error:
        raise click.ClickException(str(error)) from error


@token.command()
@_key_option
@_audience_option
def check(key_file: Path, audience: str) -> int:
    """Read a token from standard input and say whom it lets in, as a server would.

    Exit code 1 for a token that is not valid.
    """
    from tim_trio.accounts.tokens import (
        KeyFileError,
        TokenError,
        check_token,
        checking_key,
        read_key,
        unchecked_claims,
    )
    from tim_trio.protocol.messages import Right

    data = sys.stdin.buffer.read(_MAX_TOKEN_BYTES + 1).strip()
    try:
        identity = check_token(data, checking_key(read_key(key_file)), audience=audience)
    except KeyFileError as error:
        raise click.ClickException(str(error)) from error
    except TokenError as error:
        claims = unchecked_claims(data)
        if claims:
            click.echo(f"what it claims, not to be trusted: {claims}", err=True)
        raise click.ClickException(str(error)) from error
    assert identity.expires_at is not None
    rights = [right.name.lower() for right in Right if right in identity.rights and right.name]
    click.echo(f"account    {identity.account}")
    click.echo(f"expires    {_when(identity.expires_ms)}")
    click.echo(f"rights     {', '.join(rights) or 'none'}")
    click.echo(f"push       {_rooms(identity.push_rooms)}")
    click.echo(f"subscribe  {_rooms(identity.subscribe_rooms)}")
    return 0


def _when(unix_ms: int) -> str:
    try:
        return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(" ", "seconds")
    except (ValueError, OverflowError, OSError):
        return "in more than 7,000 years"


def _rooms(rooms: frozenset[int] | None) -> str:
    if rooms is None:
        return "any room that lets the account"
    return ", ".join(sorted(map(format_room_id, rooms))) or "nowhere"
