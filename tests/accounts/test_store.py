"""The store: accounts, sign-ins and revocations that survive everything, and migrations."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import attrs
import pytest
from sqlalchemy import Column, Connection, Integer, MetaData, Table, create_engine, inspect, text
from sqlalchemy.exc import SQLAlchemyError

from tim_trio.accounts import schema
from tim_trio.accounts.schema import METADATA, STEPS, StoreError, migrate, version_of
from tim_trio.accounts.store import AccountState, Store, default_database_url
from tim_trio.core.revocation import Identity
from tim_trio.errors import Code, RoomError
from tim_trio.protocol.messages import Right

_ROOT: Final = Path(__file__).resolve().parent.parent.parent
DAY_S: Final = 86400.0


@attrs.define
class Clock:
    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(database_url: str, clock: Clock) -> Iterator[Store]:
    store = Store(database_url, clock=clock)
    store.open()
    yield store
    store.close()


def sign_in(store: Store, name: str = "alice", device: str = "", **changes: object) -> Identity:
    arguments = {"lifetime_s": DAY_S, "max_devices": 10, **changes}
    return store.open_session(name, device, **arguments)  # type: ignore[arg-type]


def raises(code: Code) -> pytest.RaisesExc[RoomError]:
    return pytest.raises(RoomError, check=lambda error: error.code == code)


# Accounts


def test_an_account_is_found_as_it_was_added(store: Store, clock: Clock) -> None:
    store.add_account("älice", "hash", operator=True, may_register_rooms=False)
    account = store.find_account("älice")
    assert account is not None
    assert (account.name, account.password_hash, account.rights) == (
        "älice",
        "hash",
        Right.OPERATOR,
    )
    assert (account.state, account.created_ms) == (AccountState.ACTIVE, int(clock.now * 1000))
    assert "hash" not in repr(account).replace("password_hash", "")


@pytest.mark.parametrize("name", ["Alice", "alice2", "äl", "a\u0308l", "%", "'; --"])
def test_names_are_compared_byte_by_byte(store: Store, name: str) -> None:
    store.add_account("alice", "hash")
    store.add_account("ä" + "l", "hash") if name == "a\u0308l" else None
    assert store.find_account(name) is None


def test_a_name_is_taken_once(store: Store) -> None:
    store.add_account("alice", "first")
    with raises(Code.ACCOUNT_EXISTS):
        store.add_account("alice", "second")
    account = store.find_account("alice")
    assert account is not None
    assert account.password_hash == "first"


def test_the_list_is_in_the_order_of_bytes_and_counts_devices(store: Store, clock: Clock) -> None:
    for name in ("bob", "ä", "Zoe", "alice"):
        store.add_account(name, "hash")
    sign_in(store, "bob")
    sign_in(store, "bob", lifetime_s=1.0)
    store.set_state("Zoe", AccountState.BANNED)
    clock.now += 2
    found = [(each.name, each.state, each.devices) for each in store.list_accounts()]
    assert found == [
        ("Zoe", AccountState.BANNED, 0),
        ("alice", AccountState.ACTIVE, 0),
        ("bob", AccountState.ACTIVE, 1),
        ("ä", AccountState.ACTIVE, 0),
    ]


def test_what_needs_an_account_says_that_there_is_none(store: Store) -> None:
    for act in (
        lambda: store.set_state("nobody", AccountState.DISABLED),
        lambda: store.set_password("nobody", "hash"),
        lambda: sign_in(store, "nobody"),
    ):
        with raises(Code.NO_SUCH_ACCOUNT):
            act()


# Sessions


def test_a_session_token_signs_in_again_and_is_not_in_the_file(
    store: Store, clock: Clock, tmp_path: Path
) -> None:
    store.add_account("alice", "hash", operator=True)
    first = sign_in(store, device="phone")
    assert first.account == "alice"
    assert first.rights == Right.OPERATOR | Right.REGISTER_ROOMS
    assert first.expires_at == clock.now + DAY_S
    assert len(first.session_token) >= 43
    assert store.use_session(first.session_token, lifetime_s=DAY_S) == first
    clock.now += DAY_S / 2
    again = store.use_session(first.session_token, lifetime_s=DAY_S)
    assert again == attrs.evolve(first, expires_at=clock.now + DAY_S)
    store.close()
    for file in tmp_path.iterdir():  # nothing, where the database is a server
        assert first.session_token not in file.read_bytes()


def test_a_session_ends_by_the_clock(store: Store, clock: Clock) -> None:
    store.add_account("alice", "hash")
    token = sign_in(store).session_token
    clock.now += DAY_S
    with raises(Code.BAD_CREDENTIALS):
        store.use_session(token, lifetime_s=DAY_S)


@pytest.mark.parametrize("token", [b"", b"\x00" * 32, b"x" * 4096])
def test_any_other_token_is_refused(store: Store, token: bytes) -> None:
    store.add_account("alice", "hash")
    sign_in(store)
    with raises(Code.BAD_CREDENTIALS):
        store.use_session(token, lifetime_s=DAY_S)


def test_one_device_too_many_signs_the_least_recently_used_one_out(
    store: Store, clock: Clock
) -> None:
    store.add_account("alice", "hash")
    tokens = []
    for _ in range(3):
        clock.now += 100
        tokens.append(sign_in(store, max_devices=3))
    clock.now += 100
    store.use_session(tokens[0].session_token, lifetime_s=DAY_S)
    newest = sign_in(store, max_devices=3)
    for kept in (tokens[0], tokens[2], newest):
        store.use_session(kept.session_token, lifetime_s=DAY_S)
    with raises(Code.BAD_CREDENTIALS):
        store.use_session(tokens[1].session_token, lifetime_s=DAY_S)
    (revocation,) = store.revocations_after(0)
    assert revocation.concerns(tokens[1])
    assert not revocation.concerns(tokens[0])
    assert revocation.code is Code.SIGNED_OUT


def test_a_password_that_changed_while_it_was_checked_signs_nobody_in(store: Store) -> None:
    store.add_account("alice", "old")
    store.set_password("alice", "new")
    with raises(Code.BAD_CREDENTIALS):
        sign_in(store, checked_hash="old")
    sign_in(store, checked_hash="new")


# Changes that end sign-ins


@pytest.mark.parametrize(
    "state, code",
    [(AccountState.DISABLED, Code.DISABLED), (AccountState.BANNED, Code.BANNED)],
)
def test_disabled_is_signed_out_until_enabled(
    store: Store, state: AccountState, code: Code
) -> None:
    store.add_account("alice", "hash")
    before = sign_in(store)
    for _ in range(2):  # once is enough
        store.set_state("alice", state)
    (revocation,) = store.revocations_after(before.as_of)
    assert revocation.code is code
    assert revocation.concerns(before)
    with raises(Code.PERMISSION_DENIED):
        sign_in(store)
    store.set_state("alice", AccountState.ACTIVE)
    with raises(Code.BAD_CREDENTIALS):
        store.use_session(before.session_token, lifetime_s=DAY_S)
    after = sign_in(store)
    assert not revocation.concerns(after)


def test_a_new_password_spares_who_changed_it(store: Store) -> None:
    store.add_account("alice", "old")
    mine, other = sign_in(store), sign_in(store)
    store.set_password("alice", "new", was="old", spared=mine.session)
    (revocation,) = store.revocations_after(0)
    assert revocation.concerns(other)
    assert not revocation.concerns(mine)
    store.use_session(mine.session_token, lifetime_s=DAY_S)
    with raises(Code.BAD_CREDENTIALS):
        store.use_session(other.session_token, lifetime_s=DAY_S)
    with raises(Code.BAD_CREDENTIALS):
        store.set_password("alice", "newer", was="old")
    store.set_password("alice", "newest")
    with raises(Code.BAD_CREDENTIALS):
        store.use_session(mine.session_token, lifetime_s=DAY_S)


def test_a_stronger_hash_of_the_same_password_signs_nobody_out(store: Store) -> None:
    store.add_account("alice", "weak")
    identity = sign_in(store)
    store.upgrade_hash("alice", "other", was="not this")
    store.upgrade_hash("alice", "strong", was="weak")
    account = store.find_account("alice")
    assert account is not None
    assert account.password_hash == "strong"
    assert store.revocations_after(0) == []
    store.use_session(identity.session_token, lifetime_s=DAY_S)


def test_revocations_are_numbered_and_those_of_yesterday_forgotten(
    store: Store, clock: Clock
) -> None:
    store.add_account("alice", "hash")
    for _ in range(3):
        store.set_password("alice", "hash")
    numbers = [each.number for each in store.revocations_after(0)]
    assert numbers == sorted(numbers)
    assert [each.number for each in store.revocations_after(numbers[0])] == numbers[1:]
    clock.now += 2 * DAY_S
    store.close()
    store.open()
    assert store.revocations_after(0) == []
    store.set_password("alice", "hash")
    # Numbers are not used again, even when all rows are gone.
    assert store.last_revocation() > numbers[-1]


# Invitations


def test_an_invitation_is_for_one(store: Store) -> None:
    code = store.add_invitation(DAY_S)
    store.check_invitation(code)
    store.add_account("alice", "hash", invitation=code)
    with raises(Code.REGISTRATION_CLOSED):
        store.check_invitation(code)
    with raises(Code.REGISTRATION_CLOSED):
        store.add_account("bob", "hash", invitation=code)
    assert store.find_account("bob") is None


def test_an_invitation_is_not_used_up_by_a_name_that_is_taken(store: Store) -> None:
    store.add_account("alice", "hash")
    code = store.add_invitation(DAY_S)
    with raises(Code.ACCOUNT_EXISTS):
        store.add_account("alice", "hash", invitation=code)
    store.add_account("bob", "hash", invitation=code)


def test_an_invitation_ends(store: Store, clock: Clock) -> None:
    code = store.add_invitation(10.0)
    clock.now += 10
    with raises(Code.REGISTRATION_CLOSED):
        store.add_account("alice", "hash", invitation=code)


# Another process


def test_a_revocation_by_another_process_shows_in_the_mark(store: Store, database_url: str) -> None:
    store.add_account("alice", "hash")
    other = Store(database_url)
    other.open()
    mark = store.change_mark()
    assert store.change_mark() == mark
    other.set_state("alice", AccountState.DISABLED)
    assert store.change_mark() != mark
    mark = store.change_mark()
    store.set_state("alice", AccountState.BANNED)
    assert store.change_mark() != mark
    other.close()


def test_a_file_may_be_closed_while_another_thread_looks_for_changes(tmp_path: Path) -> None:
    """A connection of SQLite's, closed in the middle of a question, crashes the process."""
    store = Store(default_database_url(tmp_path))

    def look() -> None:
        with suppress(AssertionError):  # not open any more
            while True:
                store.change_mark()

    for _ in range(10):
        store.open()
        looking = threading.Thread(target=look)
        looking.start()
        store.close()
        looking.join()


_WRITER: Final = """
import sys
from tim_trio.accounts.store import Store
store = Store(sys.argv[1])
store.open()
n = int(sys.argv[2])
while True:
    store.add_account(f"account-{n}", f"hash of {n}")
    print(n, flush=True)
    n += 1
"""


@pytest.mark.slow
def test_what_was_acknowledged_survives_sigkill(tmp_path: Path) -> None:
    url = default_database_url(tmp_path)
    acknowledged: list[int] = []
    for round_ in range(5):
        first = len(acknowledged) + 1000 * round_
        with subprocess.Popen(
            [sys.executable, "-c", _WRITER, url, str(first)],
            cwd=_ROOT,
            stdout=subprocess.PIPE,
            text=True,
        ) as writer:
            assert writer.stdout is not None
            for _ in range(20 + 7 * round_):
                acknowledged.append(int(writer.stdout.readline()))
            os.kill(writer.pid, signal.SIGKILL)
            # What it said between our last line and its death counts too.
            acknowledged += [int(line) for line in writer.stdout if line.endswith("\n")]
        store = Store(url)
        store.open()
        there = {account.name for account in store.list_accounts()}
        for n in acknowledged:
            assert f"account-{n}" in there
        # Of the write that was under way there is all or nothing.
        assert len(there) <= len(acknowledged) + round_ + 1
        store.close()
        with sqlite3.connect(tmp_path / "accounts.db") as raw:
            assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        raw.close()


def test_every_commit_is_synced_in_a_write_ahead_log(sqlite_url: str) -> None:
    store = Store(sqlite_url)
    store.open()
    with store.read() as connection:
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1
    store.close()


# Opening


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    store = Store(default_database_url(tmp_path / "new" / "deeper"))
    store.open()
    store.add_account("alice", "hash")
    files = list((tmp_path / "new" / "deeper").iterdir())
    assert len(files) == 3
    for file in files:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "new" / "deeper").stat().st_mode) == 0o700
    store.close()
    store.close()


@pytest.mark.parametrize(
    "url, complaint",
    [
        ("not a url: hunter2", "database_url is not a database URL"),
        ("sqlite://", "must name a file"),
        ("sqlite:///:memory:", "must name a file"),
        ("sqlite:////proc/accounts.db?hunter2=1", "the file alone; leave out"),
        ("sqlite:////proc/no/such/accounts.db", "cannot use sqlite:////proc/no/such/accounts.db"),
        ("postgresql+nosuchdriver://u:hunter2@host/db", "must begin with sqlite:/// or postg"),
        ("mysql://u:hunter2@host/db", "must begin with sqlite:/// or postgresql"),
        ("postgres://u:hunter2@host/db", "must begin with sqlite:/// or postgresql"),
        ("postgresql://u:hun@ter2@host/db", "write @ as %40"),
        ("postgresql://u:/hunter2@host/db", "cannot use|not a database URL"),
        ("postgresql://u:hunter2", "not a database URL"),
        ("postgresql://u:hunter2@127.0.0.1:1/db", r"u:\*\*\*@127.0.0.1:1/db.*refused"),
        ("postgresql://127.0.0.1:1/db?user=u&password=hunter2", r"//127.0.0.1:1/db: .*refused"),
        ("postgresql://u@127.0.0.1:1/db?pasword=hunter2", "invalid"),
    ],
)
def test_a_database_that_cannot_be_used_is_one_line(url: str, complaint: str) -> None:
    with pytest.raises(StoreError, match=complaint) as caught:
        Store(url).open()
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_driver_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreError, match=r'pip install "tim_trio\[postgresql\]"') as caught:
        Store("postgresql://u:hunter2@host/db").open()
    assert "hunter2" not in str(caught.value)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "accounts.db").write_bytes(b"once upon a time " * 1000)
    with pytest.raises(StoreError, match="not a database"):
        Store(default_database_url(tmp_path)).open()


def test_errors_hold_no_parameters(store: Store) -> None:
    with store.write() as connection:
        connection.execute(text("DROP TABLE sessions"))
    store.add_account("alice", "hash")
    with pytest.raises(SQLAlchemyError) as caught:
        store.use_session(b"hunter2", lifetime_s=1.0)
    assert "hunter2" not in str(caught.value)


# Schema versions


def test_the_steps_lead_to_the_tables(store: Store) -> None:
    with store.read() as connection:
        assert version_of(connection) == len(STEPS)
        found = inspect(connection)
        for table in METADATA.tables.values():
            columns = {column["name"]: column for column in found.get_columns(table.name)}
            assert set(columns) == set(table.columns.keys())
            for column in table.columns:
                assert columns[column.name]["nullable"] == column.nullable
                wanted = column.type.compile(connection.dialect)
                assert columns[column.name]["type"].compile(connection.dialect) == wanted
    assert "schema_versions" not in METADATA.tables


def test_each_step_keeps_the_data_of_the_ones_before(database_url: str) -> None:
    engine = create_engine(database_url)
    with engine.begin() as connection:
        assert migrate(connection, STEPS[:1]) == 1
        connection.execute(
            schema.ACCOUNTS.insert().values(
                name="alice",
                password_hash="hash",
                operator=False,
                may_register_rooms=True,
                state=0,
                created_ms=1,
            )
        )
    engine.dispose()
    store = Store(database_url)
    store.open()
    assert store.find_account("alice") is not None
    assert sign_in(store).account == "alice"
    with store.read() as connection:
        assert version_of(connection) == len(STEPS)
    store.close()


def _next_step(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE accounts ADD COLUMN note VARCHAR(10) DEFAULT 'x'"))


def _broken_step(connection: Connection) -> None:
    Table("half", MetaData(), Column("id", Integer)).create(connection)
    raise RuntimeError("power cut")


def test_a_step_is_taken_once_and_a_failed_one_not_at_all(store: Store) -> None:
    store.add_account("alice", "hash")
    steps = (*STEPS, _next_step)
    with store.write() as connection:
        assert migrate(connection, steps) == 1
    with pytest.raises(RuntimeError), store.write() as connection:
        migrate(connection, (*steps, _broken_step))
    with store.write() as connection:
        assert migrate(connection, steps) == 0
        assert not inspect(connection).has_table("half")
        assert connection.execute(text("SELECT name, note FROM accounts")).all() == [("alice", "x")]


def test_a_database_of_a_newer_version_is_left_alone(store: Store) -> None:
    with store.write() as connection:
        migrate(connection, (*STEPS, _next_step))
    store.close()
    with pytest.raises(StoreError, match="used with a newer version"):
        store.open()


@pytest.mark.slow
def test_two_processes_may_start_at_once(database_url: str) -> None:
    code = "import sys; from tim_trio.accounts.store import Store; Store(sys.argv[1]).open()"
    starting = [
        subprocess.Popen([sys.executable, "-c", code, database_url], cwd=_ROOT) for _ in range(4)
    ]
    assert [process.wait() for process in starting] == [0] * 4
