"""Options and argument types that commands share."""

from __future__ import annotations

import functools
import getpass
import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final

import attrs
import click

from tim_trio.net.client import Bounds, Client, connect
from tim_trio.net.client.address import DEFAULT_PORT, parse_address
from tim_trio.protocol.messages import is_account_name
from tim_trio.protocol.room_ids import parse_room_id

_UNITS: Final = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3}
_BINARY_UNITS: Final = {"k": 1024, "m": 1024**2, "g": 1024**3}


def room_id(text: str) -> str:
    """Check a room id, 11 characters of base58."""
    try:
        parse_room_id(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    return text


def server_address(text: str) -> str:
    """Check ``tim://HOST:PORT`` or ``tims://HOST:PORT``."""
    try:
        return str(parse_address(text))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def account_name(text: str) -> str:
    """Check the name of an account."""
    if not is_account_name(text):
        raise click.BadParameter(
            f"{text!r} is not an account name: 1 to 64 characters without spaces "
            "and without / \\ | :"
        )
    return text


def byte_count(text: str) -> int:
    """Read a positive number of bytes: ``500k``, ``2M``, ``1.5M``, ``64Ki``."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([kKmMgG]?)(i?)[bB]?", text.strip())
    if found is not None and not (found[3] and not found[2]):
        units = _BINARY_UNITS if found[3] else _UNITS
        count = int(float(found[1]) * units[found[2].lower()])
        if count > 0:
            return count
    raise click.BadParameter(f"{text!r} is not a number of bytes such as 500k, 2M or 64Ki")


def byte_rate(text: str) -> int:
    """Read a number of bytes a second; 0 for as fast as possible."""
    return 0 if text.strip() == "0" else byte_count(text)


def _or_login_name(_ctx: click.Context, _param: click.Parameter, account: str | None) -> str:
    if account is not None:
        return account
    try:
        return account_name(getpass.getuser())
    except (KeyError, OSError, ImportError):
        raise click.BadParameter("this user has no login name: give one") from None


@attrs.frozen(kw_only=True)
class Login:
    """Which server, as whom, and whom to trust for it."""

    server: str
    account: str
    tls_ca: Path | None

    def connect(
        self, *, reconnect: bool = True, bounds: Bounds | None = None
    ) -> AbstractAsyncContextManager[Client]:
        """As `tim_trio.connect`."""
        return connect(
            self.server,
            account=self.account,
            tls_ca=self.tls_ca,
            reconnect=reconnect,
            bounds=bounds,
        )


def server_options(command: Callable[..., int]) -> Callable[..., int]:
    """Add ``--server``, ``--account`` and ``--tls-ca``; the command gets them as ``login``."""

    @functools.wraps(command)
    def with_login(*, server: str, account: str, tls_ca: Path | None, **others: object) -> int:
        return command(login=Login(server=server, account=account, tls_ca=tls_ca), **others)

    decorated: Callable[..., int] = with_login
    for option in (
        click.option(
            "--tls-ca",
            type=click.Path(path_type=Path, dir_okay=False),
            envvar="TIM_TRIO_TLS_CA",
            show_envvar=True,
            metavar="FILE",
            help="Whom to trust for tims://, PEM.  [default: the system's authorities]",
        ),
        click.option(
            "--account",
            type=account_name,
            callback=_or_login_name,
            envvar="TIM_TRIO_ACCOUNT",
            show_envvar=True,
            metavar="NAME",
            help="Who you are.  [default: your login name]",
        ),
        click.option(
            "--server",
            type=server_address,
            default=f"tim://127.0.0.1:{DEFAULT_PORT}",
            envvar="TIM_TRIO_SERVER",
            show_default=True,
            show_envvar=True,
            metavar="tim://HOST:PORT",
            help="The server; tims://HOST:PORT for TLS.",
        ),
    ):
        decorated = option(decorated)
    return decorated


reconnect_option = click.option(
    "--reconnect-for",
    "reconnect_for_s",
    type=click.FloatRange(0),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="How long to look for the server after the connection is lost; 0 for not at all.",
)
quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress on standard error.")
