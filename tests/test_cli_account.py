"""``account`` and ``token`` on the command line, and the server beside them."""

from __future__ import annotations

import io
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import click
import pytest

from tim_trio import cli
from tim_trio.accounts.store import AccountState, Store, default_database_url
from tim_trio.cli.account import read_password
from tim_trio.cli.signed_token import _when

_ROOT: Final = Path(__file__).resolve().parent.parent
ROOM, OTHER = "LJ6TN2wdrZF", "21111111111"
PASSWORD: Final = "correct horse"


class Shell:
    """Runs the command line in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capfd = capfd

    def __call__(self, *arguments: object, stdin: str = "") -> tuple[int, str, str]:
        self._monkeypatch.setattr(sys, "argv", ["tim_trio", *map(str, arguments)])
        self._monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = self._capfd.readouterr()
        return int(caught.value.code or 0), out, err

    def good(self, *arguments: object, stdin: str = "") -> str:
        code, out, err = self(*arguments, stdin=stdin)
        assert (code, err) == (0, "")
        return out

    def bad(self, *arguments: object, stdin: str = "") -> str:
        code, out, err = self(*arguments, stdin=stdin)
        assert (code, out) == (1, "")
        assert err.startswith("error: ") and err.count("\n") == 1
        return err


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Shell:
    for name in list(os.environ):
        if name.startswith("TIM_TRIO_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TIM_TRIO_DATABASE_URL", default_database_url(tmp_path))
    return Shell(monkeypatch, capfd)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(default_database_url(tmp_path))


# account


def test_the_life_of_an_account(shell: Shell, store: Store) -> None:
    shell.good("account", "add", "alice", "--operator", stdin=PASSWORD + "\n")
    shell.good("account", "add", "bob", "--no-rooms", stdin=PASSWORD)
    assert shell.good("account", "token", "bob", "--device", "tv", "--days", "1")
    assert shell.good("account", "list").splitlines() == [
        "STATE     RIGHTS          DEVICES  NAME",
        "active    operator,rooms        0  alice",
        "active    -                     1  bob",
    ]
    shell.good("account", "disable", "bob")
    store.open()
    account = store.find_account("bob")
    assert account is not None and account.state is AccountState.DISABLED
    assert "this account is disabled" in shell.bad("account", "token", "bob")
    shell.good("account", "enable", "bob")
    token = shell.good("account", "token", "bob").strip().encode()
    assert store.use_session(token, lifetime_s=1).account == "bob"
    shell.good("account", "passwd", "bob", stdin="battery staple")
    after = store.find_account("bob")
    assert after is not None and after.password_hash != account.password_hash
    assert len(store.revocations_after(0)) == 2
    store.close()


def test_an_invitation(shell: Shell, store: Store) -> None:
    codes = [shell.good("account", "invite").strip(), shell.good("account", "invite", "--days", 1)]
    store.open()
    for code in codes:
        store.check_invitation(code.strip().encode())
    store.close()


@pytest.mark.parametrize(
    "arguments, stdin, text",
    [
        (["add", "alice"], PASSWORD, "there is an account alice"),
        (["add", "bob"], "", "no password on standard input"),
        (["add", "bob"], "short", "at least 8 bytes"),
        (["add", "bob"], "x" * 5000, "at most 4096 bytes"),
        (["passwd", "nobody"], PASSWORD, "there is no account nobody"),
        (["disable", "nobody"], "", "there is no account of that name"),
        (["list", "--config", "/no/such/file"], "", "cannot read /no/such/file"),
    ],
)
def test_mistakes_are_one_line(shell: Shell, arguments: list[str], stdin: str, text: str) -> None:
    shell.good("account", "add", "alice", stdin=PASSWORD)
    assert text in shell.bad("account", *arguments, stdin=stdin)


def test_a_database_that_fails_is_one_line(shell: Shell, tmp_path: Path) -> None:
    shell.good("account", "list")
    raw = sqlite3.connect(tmp_path / "accounts.db")
    raw.execute("DROP TABLE invitations")
    raw.close()
    assert "the database failed: no such table" in shell.bad("account", "invite")


def test_there_is_no_way_to_give_a_password_as_an_argument(shell: Shell) -> None:
    code, _, _ = shell("account", "add", "alice", PASSWORD)
    assert code == 2
    code, _, err = shell("account", "add", "alice", "--password", PASSWORD)
    assert code == 2
    assert PASSWORD not in err


def test_at_a_terminal_it_asks_twice_and_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def prompt(text: str, **options: object) -> str:
        asked.append(options)
        return "pässword"

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(click, "prompt", prompt)
    assert read_password("Password") == "pässword".encode()
    assert asked == [{"hide_input": True, "confirmation_prompt": True, "err": True}]


# token


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_bytes(b"0123456789abcdef0123456789abcdef")
    return path


def test_a_token_is_made_and_checked(shell: Shell, key: Path) -> None:
    made = shell.good("token", "make", "alice", "--key", key)
    said = shell.good("token", "check", "--key", key, stdin=made)
    assert "account    alice\n" in said
    assert "rights     register_rooms\n" in said
    assert "push       any room" in said
    made = shell.good(
        *("token", "make", "bob", "--key", key, "--hours", 2, "--audience", "tim"),
        *("--push", ROOM, "--subscribe", ROOM, "--subscribe", OTHER, "--operator"),
    )
    said = shell.good("token", "check", "--key", key, "--audience", "tim", stdin=made)
    assert "rights     operator\n" in said
    assert f"push       {ROOM}\n" in said
    assert f"subscribe  {OTHER}, {ROOM}\n" in said
    made = shell.good("token", "make", "eve", "--key", key, "--no-push", "--no-register")
    said = shell.good("token", "check", "--key", key, stdin=made)
    assert "rights     none\npush       nowhere\n" in said


def test_the_key_may_come_from_the_environment(
    shell: Shell, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIM_TRIO_TOKEN_KEY_FILE", str(key))
    made = shell.good("token", "make", "alice")
    assert "alice" in shell.good("token", "check", stdin=made)


def test_a_bad_token_says_why(shell: Shell, key: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"x" * 32)
    made = shell.good("token", "make", "alice", "--key", other)
    code, out, err = shell("token", "check", "--key", key, stdin=made)
    assert (code, out) == (1, "")
    assert "not to be trusted" in err and "not a token signed for this server" in err
    assert "not a token" in shell.bad("token", "check", "--key", key, stdin="nonsense")
    missing = tmp_path / "missing"
    assert "No such file" in shell.bad("token", "make", "alice", "--key", missing)
    assert "No such file" in shell.bad("token", "check", "--key", missing, stdin=made)
    code, _, err = shell("token", "make", "alice", "--key", key, "--push", ROOM, "--no-push")
    assert (code, "exclude each other" in err) == (2, True)


def test_an_end_too_far_away_for_a_calendar() -> None:
    assert _when(0).startswith("1970-01-01")
    assert "years" in _when(2**53 - 1)


# Both beside a server


@pytest.mark.slow
def test_the_password_is_in_no_process_title_or_log(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "TIM_TRIO_DATABASE_URL": default_database_url(tmp_path),
    }
    with subprocess.Popen(
        [sys.executable, "-m", "tim_trio", "account", "add", "alice"],
        cwd=_ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as adding:
        assert adding.stdin is not None
        time.sleep(0.3)
        title = Path(f"/proc/{adding.pid}/cmdline").read_bytes()
        _, errors = adding.communicate(PASSWORD.encode() + b"\n")
    assert adding.returncode == 0
    assert PASSWORD.encode() not in title + errors
