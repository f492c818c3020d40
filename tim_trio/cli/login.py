"""Which server, who we are, and by what that is proved: the same on every command.

A secret comes from a file or from the environment. As an argument every user
of the machine could read it.
"""

from __future__ import annotations

import functools
import getpass
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import attrs
import click

from tim_trio.cli.options import account_name, server_address
from tim_trio.errors import BadCredentials, NotSupported, PermissionDenied
from tim_trio.net.client import Bounds, Client, connect
from tim_trio.net.client.address import DEFAULT_PORT
from tim_trio.net.client.credentials import MAX_SECRET_BYTES

F = TypeVar("F", bound=Callable[..., Any])

PASSWORD_VARIABLE: Final = "TIM_TRIO_PASSWORD"
TOKEN_VARIABLE: Final = "TIM_TRIO_TOKEN"
#: A file name that stands for the terminal.
_ASK: Final = "-"


@attrs.frozen(kw_only=True)
class Login:
    """A server and our place there.

    Attributes:
        account: None where a token says it.
        tls_ca: whom to trust for the server.
    """

    server: str
    account: str | None
    tls_ca: Path | None = None
    _secrets: Mapping[str, Any] = attrs.field(factory=dict, repr=False)

    @property
    def who(self) -> str:
        """The account, in a sentence."""
        return "this account" if self.account is None else f"account {self.account}"

    @property
    def password(self) -> bytes | None:
        """The password, where that is what signs in."""
        password: bytes | None = self._secrets.get("password")
        return password

    @asynccontextmanager
    async def connect(
        self, *, reconnect: bool = True, bounds: Bounds | None = None
    ) -> AsyncIterator[Client]:
        """As `tim_trio.connect`, with one line for whoever cannot sign in."""
        signed_in = False
        try:
            async with connect(
                self.server,
                account=self.account,
                tls_ca=self.tls_ca,
                reconnect=reconnect,
                bounds=bounds,
                **self._secrets,
            ) as client:
                signed_in = True
                yield client
        except (BadCredentials, PermissionDenied) as error:
            if signed_in:
                raise
            raise click.ClickException(
                f"{self.server} does not let {self.who} in: {error.text}"
            ) from error
        except NotSupported as error:
            if signed_in:
                raise
            raise click.ClickException(
                f"{error.text}; see --password-file and --token-file"
            ) from error


def server_options(command: F) -> F:
    """Add the options of a server and of who we are; the command gets a `Login` as ``login``."""

    @functools.wraps(command)
    def with_login(
        *args: Any,
        server: str,
        account: str | None,
        tls_ca: Path | None,
        password_file: str | None,
        token_file: str | None,
        **options: Any,
    ) -> Any:
        login = make_login(server, account, password_file, token_file, tls_ca)
        return command(*args, login=login, **options)

    decorated: Any = with_login
    for option in (
        click.option(
            "--token-file",
            metavar="FILE",
            help="Sign in with the token in FILE, a signed one (JWT) or one of `account token`.  "
            f"[env var: {TOKEN_VARIABLE} holds the token itself]",
        ),
        click.option(
            "--password-file",
            metavar="FILE",
            help="Sign in with the password in FILE, its first line; - asks for it.  "
            f"[env var: {PASSWORD_VARIABLE} holds the password itself]",
        ),
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
            envvar="TIM_TRIO_ACCOUNT",
            show_envvar=True,
            metavar="NAME",
            help="Who you are.  [default: whom the token names, or your login name]",
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
    result: F = decorated
    return result


def make_login(
    server: str,
    account: str | None,
    password_file: str | None,
    token_file: str | None,
    tls_ca: Path | None = None,
) -> Login:
    """Return what the options and the environment say; the options are stronger.

    Raises:
        click.ClickException: one line that says what is wrong.
    """
    if password_file is not None and token_file is not None:
        raise click.UsageError("--password-file and --token-file exclude each other")
    secrets: dict[str, Any] = {}
    if token_file is not None:
        secrets = _by_token(Path(token_file))
    elif password_file is not None:
        secrets = {"password": read_password_file(password_file)}
    elif os.environ.get(TOKEN_VARIABLE) and os.environ.get(PASSWORD_VARIABLE):
        raise click.ClickException(
            f"{TOKEN_VARIABLE} and {PASSWORD_VARIABLE} are both set: unset one"
        )
    elif token := os.environ.get(TOKEN_VARIABLE):
        secrets = _by_name(_checked(os.fsencode(token).strip(), TOKEN_VARIABLE))
    elif password := os.environ.get(PASSWORD_VARIABLE):
        secrets = {"password": _checked(os.fsencode(password), PASSWORD_VARIABLE)}
    if account is None and not {"token", "session_token"} & secrets.keys():
        account = _login_name()
    return Login(server=server, account=account, tls_ca=tls_ca, secrets=secrets)


def _login_name() -> str:
    try:
        return account_name(getpass.getuser())
    except (KeyError, OSError, ImportError):
        raise click.BadParameter(
            "this user has no login name: give one", param_hint="'--account'"
        ) from None


def _by_token(path: Path) -> dict[str, Any]:
    token = read_token_file(path)
    if _is_signed(token):
        # Read for each connection: whoever keeps the file fresh keeps us in.
        return {"token": lambda: read_token_file(path)}
    return {"session_token": token}


def _by_name(token: bytes) -> dict[str, Any]:
    return {"token" if _is_signed(token) else "session_token": token}


def _is_signed(token: bytes) -> bool:
    """Say whether it is a JWT: three parts with dots between them. Session tokens have no dot."""
    return token.count(b".") == 2


def read_token_file(path: Path) -> bytes:
    return _checked(_read(path).strip(), str(path))


def read_password_file(name: str) -> bytes:
    """Return the first line of a file, or what is typed at the terminal for ``-``."""
    if name != _ASK:
        return _checked(_read(Path(name)).partition(b"\n")[0].rstrip(b"\r"), name)
    if not sys.stdin.isatty():
        raise click.ClickException("no terminal to ask for the password at")
    typed: str = click.prompt("Password", hide_input=True, err=True)
    return _checked(typed.encode(), "the password")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            # More than any secret has, so that it shows.
            return file.read(4 * MAX_SECRET_BYTES)
    except OSError as error:
        raise click.ClickException(f"cannot read {path}: {error.strerror}") from error


def _checked(secret: bytes, where: str) -> bytes:
    if not secret:
        raise click.ClickException(f"{where} is empty")
    if len(secret) > MAX_SECRET_BYTES:
        raise click.ClickException(f"{where}: more than {MAX_SECRET_BYTES} bytes")
    return secret
