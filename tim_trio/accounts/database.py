"""The database under the store: from a URL to transactions, on SQLite and on PostgreSQL.

Both give what the store's methods rely on: a reader sees one state, what is
committed is on disk, and of two writers that concern the same names one waits
for the other. SQLite has one writer at a time anyway; PostgreSQL is told by
named locks, so that nodes of a cluster do not wait for each other's accounts.

Every method blocks, on PostgreSQL for `postgresql.LONGEST_S` at most.
"""

from __future__ import annotations

import functools
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from tim_trio.accounts import postgresql
from tim_trio.accounts.schema import StoreError

P = ParamSpec("P")
T = TypeVar("T")

_BUSY_TIMEOUT_MS: Final = 5_000
_WRITES: Final = "tim_trio_writes"
_TRIES: Final = 5
_LONGEST_REASON: Final = 300
#: A name that no account has.
_REVOCATIONS: Final = "\0revocations"
_SCHEMA: Final = "\0schema"


class OutcomeUnknown(SQLAlchemyError):
    """The connection was lost while a commit was under way: it may have been carried out."""


def parse_url(text: str) -> URL:
    """Return the URL of a database that we know how to use.

    Raises:
        StoreError: one line, which holds nothing of the text: it may be a password.
    """
    try:
        url = make_url(text)
    except (SQLAlchemyError, ValueError):
        raise StoreError("database_url is not a database URL") from None
    match url.drivername:
        case "sqlite" | "sqlite+pysqlite" | "postgresql+psycopg":
            pass
        case "postgresql":
            url = url.set(drivername="postgresql+psycopg")
        case _:
            raise StoreError(
                "database_url must begin with sqlite:/// or postgresql+psycopg://"
            ) from None
    if "@" in (url.host or "") or (url.password and not url.host and not url.query):
        # What stands there is the rest of a password.
        raise StoreError("database_url: in a password write @ as %40, / as %2F and : as %3A")
    return url


def shown(url: URL) -> str:
    """Return a URL without its secrets, which may stand behind the question mark too."""
    return url.set(query={}).render_as_string(hide_password=True)


def _reason(error: Exception, url: URL) -> str:
    """Return in one line why a database cannot be used."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    why = " ".join(str(getattr(error, "orig", None) or error).split())[:_LONGEST_REASON]
    secrets = {str(url.password or ""), str(url.query.get("password", ""))} - {""}
    for secret in secrets:
        why = why.replace(secret, "***")
    return why


def retried(method: Callable[P, T]) -> Callable[P, T]:
    """Begin a method's transaction anew where the database has undone it for no fault of its own.

    That is: for another one's sake, or because the connection was lost before
    the commit, as after a restart of the server.
    """

    @functools.wraps(method)
    def again(*args: P.args, **kwargs: P.kwargs) -> T:
        lost = False
        for left in reversed(range(_TRIES)):
            try:
                return method(*args, **kwargs)
            except DBAPIError as error:
                is_lost = error.connection_invalidated
                if not left or not (postgresql.is_conflict(error) or (is_lost and not lost)):
                    raise
                lost = lost or is_lost
        raise AssertionError("the last try returns or raises")

    return again


class Database:
    """Connections to one database.

    Args:
        url: as SQLAlchemy takes it. Files of SQLite are made where missing,
            for their owner alone.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._engine: Engine | None = None
        self._reader: Engine | None = None
        self._watchdog: postgresql.Watchdog | None = None
        #: Looks for changes by other processes, on SQLite.
        self._watcher: Any = None
        # Closed while another thread asks it, it takes the whole process along.
        self._watching = threading.Lock()

    @property
    def is_open(self) -> bool:
        return self._engine is not None

    def open(self, prepare: Callable[[Connection], None]) -> None:
        """Connect, and have ``prepare`` bring the tables up to date, one process at a time.

        Raises:
            StoreError: one line that says what is wrong.
        """
        url = parse_url(self._url)
        try:
            if url.get_backend_name() == "sqlite":
                self._reader = self._engine = _sqlite(url)
            else:
                self._engine = postgresql.engine(url)
                self._reader = postgresql.reader(self._engine)
                self._watchdog = postgresql.Watchdog()
            with self.write(_SCHEMA) as connection:
                if self._watchdog is not None:
                    postgresql.check(connection)
                prepare(connection)
            if self._watchdog is None:
                self._watcher = self._engine.raw_connection()
        except ImportError as error:
            self.close()
            raise StoreError(
                f'cannot use {shown(url)}: pip install "tim_trio[postgresql]" ({error})'
            ) from None
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:
            self.close()
            raise StoreError(f"cannot use {shown(url)}: {_reason(error, url)}") from None
        except StoreError as error:
            self.close()
            if self._url and url.get_backend_name() != "sqlite":
                raise StoreError(f"cannot use {shown(url)}: {error}") from None
            raise

    def close(self) -> None:
        """Give up all connections. Idempotent; another thread may be using one."""
        with self._watching:
            if self._watcher is not None:
                self._watcher.close()
                self._watcher = None
        if self._engine is not None:
            self._engine.dispose()
            self._engine = self._reader = None
        if self._watchdog is not None:
            self._watchdog.close()
            self._watchdog = None

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database."""
        assert self._reader is not None, "open the store first"
        with self._watched(self._reader) as connection:
            try:
                yield connection
            finally:
                _give_up(connection)

    @contextmanager
    def write(self, *names: str) -> Iterator[Connection]:
        """A transaction that is committed at the end, unless something is raised.

        Only one at a time has a name among its ``names``.

        Raises:
            OutcomeUnknown: the connection was lost while it committed.
        """
        assert self._engine is not None, "open the store first"
        with self._watched(self._engine) as connection:
            connection = connection.execution_options(**{_WRITES: True})
            try:
                for name in sorted(set(names)):
                    self._lock(connection, name)
                yield connection
            except BaseException:
                _give_up(connection)
                raise
            try:
                connection.commit()
            except DBAPIError as error:
                if error.connection_invalidated:
                    raise OutcomeUnknown("lost while it committed") from error
                raise

    @contextmanager
    def _watched(self, engine: Engine) -> Iterator[Connection]:
        with engine.connect() as connection, ExitStack() as stack:
            if self._watchdog is not None:
                stack.enter_context(self._watchdog.watch(connection))
            yield connection

    def lock_revocations(self, connection: Connection) -> None:
        """From here to the commit nobody else numbers a revocation.

        Numbers are then seen in their order: who has seen one need not look
        below it again. To be the last lock that a transaction takes.
        """
        self._lock(connection, _REVOCATIONS)

    def _lock(self, connection: Connection, name: str) -> None:
        if self._watchdog is not None:
            postgresql.lock(connection, name)

    def change_mark(self) -> int | None:
        """Return a number that changes with every change by anyone; None where there is none."""
        with self._watching:
            if self._watcher is None:
                return None
            return int(self._watcher.cursor().execute("PRAGMA data_version").fetchone()[0])


def _give_up(connection: Connection) -> None:
    """End a transaction that is not to be; the connection may be why."""
    with suppress(SQLAlchemyError):
        connection.rollback()


def _sqlite(url: URL) -> Engine:
    if not url.database or url.database == ":memory:":
        raise StoreError("database_url must name a file: memory is lost with the process")
    if url.query:
        # What it may hold would go past what we set, or be ignored with a warning.
        raise StoreError("database_url: of SQLite it is the file alone; leave out ? and the rest")
    path = Path(url.database)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # SQLite gives the files beside it the same mode.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    engine = create_engine(url, hide_parameters=True, connect_args={"check_same_thread": False})
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # Transactions begin where we say, with the lock that we say.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout = {_BUSY_TIMEOUT_MS}",
        "journal_mode = WAL",
        # What is acknowledged is on disk. NORMAL loses the last commits with the power.
        "synchronous = FULL",
        "foreign_keys = ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and writes then would find the database
    # changed in between, and fail instead of waiting.
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
