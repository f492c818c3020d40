"""What PostgreSQL needs beside SQLAlchemy: deadlines, named locks, and telling errors apart.

Readers see one snapshot (REPEATABLE READ). Writers run READ COMMITTED behind
advisory locks on the names they concern, so they see all that was committed
before them, and nothing has to be tried again for conflicts that are none.

Source: docs/operations.md, "Accounts in PostgreSQL".
"""

from __future__ import annotations

import itertools
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from tim_trio.accounts.schema import StoreError

#: Of a whole transaction. A server that takes longer counts as away.
LONGEST_S: Final = 5.0
_CONNECT_S: Final = 4
_POOL_WAIT_S: Final = 5.0
#: The threads of one node and the one that looks for revocations.
_CONNECTIONS: Final = 5
#: A node that is frozen in the middle of a transaction loses its locks.
_ABANDONED_S: Final = 10
_TICK_S: Final = 0.25

#: Serialization failure, deadlock.
_CONFLICTS: Final = frozenset({"40001", "40P01"})
#: Shutting down, crashed, starting, or a standby that takes no writes (any more).
_AWAY: Final = frozenset({"57P01", "57P02", "57P03", "25006"})


def engine(url: URL) -> Engine:
    """Return where writers get their connections; the server is not asked yet."""
    arguments: dict[str, Any] = {
        "connect_timeout": _CONNECT_S,
        "application_name": "tim_trio",
        # A wire that was cut, where nothing else would tell.
        "tcp_user_timeout": int(LONGEST_S * 1000),
        "keepalives_idle": 10,
        "client_encoding": "utf8",
    }
    settings = {
        "statement_timeout": int(LONGEST_S * 1000),
        "idle_in_transaction_session_timeout": _ABANDONED_S * 1000,
        # What is acknowledged is on disk, whatever the server's default.
        "synchronous_commit": "on",
    }
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    given = url.query.get("options", "")
    arguments["options"] = f"{options} {given}".strip() if isinstance(given, str) else options
    made = create_engine(
        url,
        hide_parameters=True,
        pool_size=_CONNECTIONS,
        max_overflow=0,
        pool_timeout=_POOL_WAIT_S,
        # Not asked whether they live each time: `retried` finds out.
        connect_args={
            name: value
            for name, value in arguments.items()
            if name == "options" or name not in url.query
        },
    )
    event.listen(made, "handle_error", _find_lost)
    return made


def _find_lost(context: ExceptionContext) -> None:
    """Have connections given up that are of no use any more, though they live."""
    if getattr(context.original_exception, "sqlstate", None) in _AWAY:
        context.is_disconnect = True


def reader(writer: Engine) -> Engine:
    """Return the same connections, for transactions that read one state."""
    return writer.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def check(connection: Connection) -> None:
    """Raise StoreError for a database that cannot hold every name."""
    encoding = connection.execute(text("SHOW server_encoding")).scalar_one()
    if encoding != "UTF8":
        raise StoreError(f"its encoding is {encoding}: make the database with UTF8")


def lock(connection: Connection, name: str) -> None:
    """Wait until nobody else's transaction has locked a name, and lock it to the end of ours."""
    digest = blake2b(name.encode(), digest_size=8, person=b"tim_trio lock").digest()
    key = int.from_bytes(digest, signed=True)
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})


def is_conflict(error: DBAPIError) -> bool:
    """Say whether the server has undone a transaction for another one's sake."""
    return getattr(error.orig, "sqlstate", None) in _CONFLICTS


class Overdue(SQLAlchemyError):
    """A transaction took too long, and its connection was cut off."""


class Watchdog:
    """Cuts off connections whose transaction takes too long.

    The server's own timeouts do not help where the server hangs, and a thread
    that waits for it would be gone for good.
    """

    def __init__(self, longest_s: float = LONGEST_S) -> None:
        self._longest_s = longest_s
        self._changed = threading.Condition()
        self._numbers = itertools.count()
        #: In the order of their ends, for all may take the same time.
        self._watched: dict[int, tuple[float, Any]] = {}
        self._is_over = False
        self._thread = threading.Thread(target=self._run, name="accounts watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        with self._changed:
            self._is_over = True
            self._changed.notify()
        self._thread.join()

    @contextmanager
    def watch(self, connection: Connection) -> Iterator[None]:
        """Cut the connection off if this lasts too long.

        Raises:
            Overdue: it did, and what went on there failed.
        """
        number = next(self._numbers)
        with self._changed:
            self._watched[number] = (
                time.monotonic() + self._longest_s,
                connection.connection.dbapi_connection,
            )
            if len(self._watched) == 1:
                self._changed.notify()
        try:
            yield
        except DBAPIError:
            if number in self._watched:
                raise
            raise Overdue(f"took more than {self._longest_s} s") from None
        finally:
            with self._changed:
                self._watched.pop(number, None)

    def _run(self) -> None:
        with self._changed:
            while not self._is_over:
                now = time.monotonic()
                for number, (end, raw) in list(self._watched.items()):
                    if end > now:
                        break
                    del self._watched[number]
                    _cut(raw)
                self._changed.wait(_TICK_S if self._watched else None)


def _cut(raw: Any) -> None:
    """End a connection under whoever waits for it."""
    try:
        with socket.socket(fileno=os.dup(raw.pgconn.socket)) as sock:
            sock.shutdown(socket.SHUT_RDWR)
    except Exception:  # it has ended by itself
        pass
