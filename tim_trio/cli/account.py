"""``account``: the accounts of a server with ``auth = "accounts"``.

An administrator's commands work on the database itself, whether the server
runs or not; one that runs notices within a second. What people do with their
own account goes over the wire.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import click

from tim_trio.cli.login import Login, read_password_file, server_options
from tim_trio.cli.options import account_name
from tim_trio.cli.runner import run
from tim_trio.errors import RoomError, TimError
from tim_trio.net.client import register_account

if TYPE_CHECKING:
    from tim_trio.accounts.store import Store
    from tim_trio.config import ServerConfig

F = TypeVar("F", bound=Callable[..., object])

INVITATION_VARIABLE: Final = "TIM_TRIO_INVITATION"
_DAY_S: Final = 86400.0
#: As long as the protocol lets a password be.
_MAX_PASSWORD_BYTES: Final = 4096

config_option: Final = click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The server's TOML file, for its database_url.",
)
_days_option: Final = click.option(
    "--days",
    type=click.FloatRange(0, 3650, min_open=True),
    metavar="DAYS",
    help="How long it is good.",
)


@contextmanager
def _open_store(file: Path | None) -> Iterator[tuple[Store, ServerConfig]]:
    """Open the configured database; what goes wrong becomes one line."""
    # Imported here: these take time to load, and every command would pay.
    from sqlalchemy.exc import SQLAlchemyError

    from tim_trio.accounts.configured import new_store
    from tim_trio.config import load_config

    try:
        config = load_config(file=file, env=os.environ, overrides={})
        store = new_store(config)
        store.open()
        try:
            yield store, config
        finally:
            store.close()
    except RoomError as error:
        raise click.ClickException(error.text) from error
    except TimError as error:
        raise click.ClickException(str(error)) from error
    except SQLAlchemyError as error:
        raise click.ClickException(
            f"the database failed: {getattr(error, 'orig', error)}"
        ) from error


def read_password(prompt: str) -> bytes:
    """Ask at the terminal, twice, or take one line of standard input. Never an argument."""
    if sys.stdin.isatty():
        typed: str = click.prompt(prompt, hide_input=True, confirmation_prompt=True, err=True)
        return typed.encode()
    line = sys.stdin.buffer.readline(_MAX_PASSWORD_BYTES + 2).rstrip(b"\r\n")
    if not line:
        raise click.ClickException("no password on standard input")
    if len(line) > _MAX_PASSWORD_BYTES:
        raise click.ClickException(f"a password has at most {_MAX_PASSWORD_BYTES} bytes")
    return line


def _hash(password: bytes, name: str) -> str:
    from tim_trio.accounts.passwords import PasswordHasher, check_strength

    check_strength(password, name)
    return PasswordHasher().hash_blocking(password)


@click.group()
def account() -> None:
    """Make and change the accounts of a server with auth = "accounts"."""


@account.command()
@click.argument("name", type=account_name)
@click.option("--operator", is_flag=True, help="Sees all rooms.")
@click.option("--no-rooms", is_flag=True, help="May not register rooms.")
@config_option
def add(name: str, operator: bool, no_rooms: bool, file: Path | None) -> None:
    """Make the account NAME.

    Asks for its password, or takes it from standard input: one line.
    """
    with _open_store(file) as (store, _):
        if store.find_account(name) is not None:
            raise click.ClickException(f"there is an account {name}; `account passwd` changes it")
        password_hash = _hash(read_password(f"Password of {name}"), name)
        store.add_account(name, password_hash, operator=operator, may_register_rooms=not no_rooms)


@account.command("list")
@config_option
def list_(file: Path | None) -> None:
    """Print all accounts."""
    with _open_store(file) as (store, _):
        found = store.list_accounts()
    click.echo(f"{'STATE':8}  {'RIGHTS':14}  {'DEVICES':>7}  NAME")
    for each in found:
        rights = [
            word
            for word, has in (("operator", each.operator), ("rooms", each.may_register_rooms))
            if has
        ]
        click.echo(
            f"{each.state.name.lower():8}  {','.join(rights) or '-':14}  "
            f"{each.devices:7}  {each.name}"
        )


def _set_state(name: str, state: str, file: Path | None) -> None:
    from tim_trio.accounts.store import AccountState

    with _open_store(file) as (store, _):
        store.set_state(name, AccountState[state])


@account.command()
@click.argument("name", type=account_name)
@config_option
def disable(name: str, file: Path | None) -> None:
    """End NAME's connections and let it in no more, until `enable`."""
    _set_state(name, "DISABLED", file)


@account.command()
@click.argument("name", type=account_name)
@config_option
def enable(name: str, file: Path | None) -> None:
    """Let NAME in again, by its password; its devices have to sign in anew."""
    _set_state(name, "ACTIVE", file)


@account.command()
@click.argument("name", type=account_name, required=False)
@config_option
@server_options
def passwd(name: str | None, file: Path | None, login: Login) -> int:
    """Give NAME a new password, and sign all its devices out.

    Asks for it, or takes it from standard input: one line.

    Without NAME your own is changed, at the --server and not in its database:
    sign in as ever, by --password-file or TIM_TRIO_PASSWORD; your other
    devices are signed out.
    """
    if name is None:
        return _change_own(login)
    with _open_store(file) as (store, _):
        if store.find_account(name) is None:
            raise click.ClickException(f"there is no account {name}")
        store.set_password(name, _hash(read_password(f"New password of {name}"), name))
    return 0


def _change_own(login: Login) -> int:
    old = login.password
    if old is None:
        raise click.UsageError("give your password by --password-file or TIM_TRIO_PASSWORD")
    new = read_password("New password")

    async def command() -> int:
        async with login.connect(reconnect=False) as client:
            await client.change_password(old, new)
        return 0

    return run(command)


@account.command()
@click.option(
    "--invitation-file",
    metavar="FILE",
    help="The code that the operator gave you, where one is needed.  "
    f"[env var: {INVITATION_VARIABLE} holds the code itself]",
)
@server_options
def register(invitation_file: str | None, login: Login) -> int:
    """Make yourself an account at the --server, where that lets people do it.

    Its name is --account, its password that of --password-file or
    TIM_TRIO_PASSWORD; else it is asked for, or taken from standard input: one
    line.
    """
    name = login.account
    if name is None:
        raise click.UsageError("a token registers nobody: give a password")
    if invitation_file is not None:
        invitation = read_password_file(invitation_file)
    else:
        invitation = os.fsencode(os.environ.get(INVITATION_VARIABLE, ""))
    password = login.password or read_password(f"Password of {name}")

    async def command() -> int:
        await register_account(
            login.server, name, password, invitation=invitation, tls_ca=login.tls_ca
        )
        return 0

    return run(command)


@account.command()
@click.argument("name", type=account_name)
@click.option("--device", default="", metavar="TEXT", help="What to call the device.")
@_days_option
@config_option
def token(name: str, device: str, days: float | None, file: Path | None) -> None:
    """Print a session token that signs NAME in without its password.

    It counts as one device. Whoever has it is NAME: treat it as a password.
    """
    with _open_store(file) as (store, config):
        identity = store.open_session(
            name,
            device,
            lifetime_s=config.session_lifetime_s if days is None else days * _DAY_S,
            max_devices=config.limits.max_devices_per_account,
        )
    click.echo(identity.session_token.decode())


@account.command()
@_days_option
@config_option
def invite(days: float | None, file: Path | None) -> None:
    """Print an invitation: lets one person register where registration = "invitation"."""
    with _open_store(file) as (store, _):
        click.echo(store.add_invitation((7 if days is None else days) * _DAY_S).decode())
