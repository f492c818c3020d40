"""Which server and who we are, on the command line: files, variables, and a real server."""

from __future__ import annotations

import contextlib
import getpass
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from tests.net.test_client_sign_in import PASSWORD
from tests.test_cli_account import Shell
from tests.test_cli_end_to_end import COMMAND
from tim_trio.accounts.passwords import PasswordHasher
from tim_trio.accounts.store import Store, default_database_url
from tim_trio.cli.login import Login, make_login

JWT = "aaa.bbb.ccc"
SERVER = "tim://127.0.0.1:7600"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("TIM_TRIO_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(getpass, "getuser", lambda: "login")


def made(
    account: str | None = None, password_file: object = None, token_file: object = None
) -> Login:
    return make_login(
        SERVER,
        account,
        None if password_file is None else str(password_file),
        None if token_file is None else str(token_file),
    )


def test_without_anything_it_is_the_login_name() -> None:
    assert made() == Login(server=SERVER, account="login")
    assert made("alice").who == "account alice"


def test_a_password_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_bytes(b"correct horse\r\nnot this\n")
    login = made(password_file=path)
    assert login.password == b"correct horse"
    assert login.account == "login"
    assert "horse" not in repr(login)


def test_a_token_in_a_file_says_who_we_are(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("session\n")
    login = made(token_file=path)
    assert (login.account, login.who) == (None, "this account")
    assert login._secrets == {"session_token": b"session"}
    assert made("alice", token_file=path).account == "alice"


def test_a_signed_token_is_read_for_each_connection(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f" {JWT}\n")
    token = made(token_file=path)._secrets["token"]
    assert token() == JWT.encode()
    path.write_text("ddd.eee.fff")
    assert token() == b"ddd.eee.fff"


def test_variables_hold_the_secrets_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIM_TRIO_PASSWORD", "correct horse")
    assert made().password == b"correct horse"
    monkeypatch.setenv("TIM_TRIO_TOKEN", JWT)
    with pytest.raises(click.ClickException, match="both set"):
        made()
    monkeypatch.delenv("TIM_TRIO_PASSWORD")
    assert made()._secrets == {"token": JWT.encode()}
    monkeypatch.setenv("TIM_TRIO_TOKEN", "session")
    assert made()._secrets == {"session_token": b"session"}


def test_an_option_is_stronger_than_a_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TIM_TRIO_PASSWORD", "correct horse")
    monkeypatch.setenv("TIM_TRIO_TOKEN", JWT)
    path = tmp_path / "password"
    path.write_text("from the file")
    assert made(password_file=path)._secrets == {"password": b"from the file"}


@pytest.mark.parametrize("option", ["password_file", "token_file"])
def test_a_file_that_holds_no_secret(tmp_path: Path, option: str) -> None:
    missing, empty, large = (tmp_path / name for name in ("missing", "empty", "large"))
    empty.write_text("\n")
    large.write_text("x" * 5000)
    for path, text in ((missing, "No such file"), (empty, "is empty"), (large, "more than 4096")):
        with pytest.raises(click.ClickException, match=text) as caught:
            made(None, *[path, None][:: 1 if option == "password_file" else -1])
        assert "xxx" not in caught.value.message


def test_both_files_are_a_mistake() -> None:
    with pytest.raises(click.UsageError):
        made(password_file="a", token_file="b")


def test_the_password_may_be_asked_for(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(click.ClickException, match="no terminal"):
        made(password_file="-")
    monkeypatch.setattr(sys, "stdin", io.StringIO("x"))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("click.termui.hidden_prompt_func", lambda _: "typed")
    assert made(password_file="-").password == b"typed"


def test_who_has_no_login_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError

    monkeypatch.setattr(getpass, "getuser", nobody)
    with pytest.raises(click.BadParameter, match="no login name"):
        made()


# Against a server


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Start a server with accounts, and alice's; the value is its address."""
    with contextlib.ExitStack() as stack:

        def start(registration: str = "closed") -> str:
            store = Store(default_database_url(tmp_path))
            store.open()
            store.add_account("alice", PasswordHasher().hash_blocking(PASSWORD))
            store.close()
            log = stack.enter_context((tmp_path / "log").open("wb"))
            process = stack.enter_context(
                subprocess.Popen(
                    [*COMMAND, "--tcp", "127.0.0.1:0", "--no-web"],
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env={
                        **os.environ,
                        "TIM_TRIO_AUTH": "accounts",
                        "TIM_TRIO_DATABASE_URL": default_database_url(tmp_path),
                        "TIM_TRIO_REGISTRATION": registration,
                    },
                )
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            line = process.stdout.readline().decode()
            return f"tim://{line.split()[-1]}"

        yield start


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Shell:
    return Shell(monkeypatch, capfd)


@pytest.mark.slow
def test_signing_in(
    serve: Callable[..., str], shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    monkeypatch.setenv("TIM_TRIO_SERVER", server)
    monkeypatch.setenv("TIM_TRIO_ACCOUNT", "alice")
    password = tmp_path / "password"
    password.write_bytes(PASSWORD)
    room = shell.good("room", "register", "--password-file", password).strip()
    assert room in shell.good("room", "list", "--password-file", password)
    session = shell_token(shell, tmp_path)
    token = tmp_path / "token"
    token.write_text(session)
    assert room in shell.good("room", "list", "--token-file", token)
    monkeypatch.setenv("TIM_TRIO_TOKEN", session)
    assert room in shell.good("room", "list")
    monkeypatch.delenv("TIM_TRIO_TOKEN")
    assert shell.bad("room", "list") == (
        "error: this server takes passwords and session tokens; "
        "see --password-file and --token-file\n"
    )
    password.write_bytes(b"wrong")
    refused = shell.bad("room", "list", "--password-file", password)
    assert refused == (
        f"error: {server} does not let account alice in: no such account, or not its password\n"
    )


def shell_token(shell: Shell, tmp_path: Path) -> str:
    config = tmp_path / "server.toml"
    config.write_text(f'database_url = "{default_database_url(tmp_path)}"\n')
    return shell.good("account", "token", "alice", "--config", config).strip()


@pytest.mark.slow
def test_registering_and_changing_the_password(
    serve: Callable[..., str], shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIM_TRIO_SERVER", serve("invitation"))
    monkeypatch.setenv("TIM_TRIO_ACCOUNT", "carol")
    config = tmp_path / "server.toml"
    config.write_text(f'database_url = "{default_database_url(tmp_path)}"\n')
    code = shell.good("account", "invite", "--config", config).strip()
    assert "not a valid invitation" in shell.bad("account", "register", stdin="staple battery\n")
    monkeypatch.setenv("TIM_TRIO_INVITATION", code)
    assert "at least 8 bytes" in shell.bad("account", "register", stdin="short\n")
    shell.good("account", "register", stdin="staple battery\n")
    again = tmp_path / "code"
    again.write_text(code)
    assert "not a valid invitation" in shell.bad(
        "account", "register", "--account", "dave", "--invitation-file", again, stdin="battery st\n"
    )
    monkeypatch.setenv("TIM_TRIO_PASSWORD", "staple battery")
    shell.good("room", "list")
    shell.good("account", "passwd", stdin="another one\n")
    assert "does not let account carol in" in shell.bad("room", "list")
    monkeypatch.setenv("TIM_TRIO_PASSWORD", "another one")
    shell.good("room", "list")
    monkeypatch.delenv("TIM_TRIO_PASSWORD")
    code_, _, err = shell("account", "passwd")
    assert code_ == 2 and "--password-file" in err
    monkeypatch.setenv("TIM_TRIO_TOKEN", "session")
    monkeypatch.delenv("TIM_TRIO_ACCOUNT")
    code_, _, err = shell("account", "register")
    assert code_ == 2 and "a token registers nobody" in err
