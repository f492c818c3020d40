"""The tables, and the numbered steps that lead to them.

A step is never changed once it has been released: a database remembers the
number of the last step it has taken. Steps write their own tables down and do
not use those at the top, which show where all steps together lead.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    func,
    insert,
    inspect,
    select,
    text,
)

from tim_trio.errors import TimError

#: Names are at most 255 bytes (protocol.md, section 5).
NAME: Final = String(255)

METADATA: Final = MetaData()

#: SQLite numbers rows only in a column of this very type.
_NUMBER: Final = BigInteger().with_variant(Integer, "sqlite")

ACCOUNTS: Final = Table(
    "accounts",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("name", NAME, nullable=False, unique=True),
    Column("password_hash", String(255), nullable=False),
    Column("operator", Boolean, nullable=False),
    Column("may_register_rooms", Boolean, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
)

SESSIONS: Final = Table(
    "sessions",
    METADATA,
    Column("id", _NUMBER, primary_key=True),
    Column("account_id", Integer, ForeignKey("accounts.id"), nullable=False, index=True),
    Column("token_hash", LargeBinary(32), nullable=False, unique=True),
    Column("device", String(1024), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("used_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    sqlite_autoincrement=True,
)

INVITATIONS: Final = Table(
    "invitations",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("code_hash", LargeBinary(32), nullable=False, unique=True),
    Column("expires_ms", BigInteger, nullable=False),
)

#: What running servers have to notice: `tim_trio.core.accounts.Revocation`.
REVOCATIONS: Final = Table(
    "revocations",
    METADATA,
    Column("id", _NUMBER, primary_key=True),
    Column("account", NAME, nullable=False),
    Column("code", Integer, nullable=False),
    Column("session", String(64), nullable=False),
    Column("spared", String(64), nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    # Never the number of a row that is gone: servers remember the last one.
    sqlite_autoincrement=True,
)

#: By name and not by id: where accounts are somebody else's there are no ids.
LINKS: Final = Table(
    "links",
    METADATA,
    Column("account", NAME, primary_key=True),
    Column("other", NAME, primary_key=True),
    Column("state", SmallInteger, nullable=False),
)

BLOCKS: Final = Table(
    "blocks",
    METADATA,
    Column("account", NAME, primary_key=True),
    Column("other", NAME, primary_key=True),
)

POLICIES: Final = Table(
    "policies",
    METADATA,
    Column("account", NAME, primary_key=True),
    Column("policy", SmallInteger, nullable=False),
)

VERSIONS: Final = Table(
    "schema_versions",
    MetaData(),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("applied_ms", BigInteger, nullable=False),
)


class StoreError(TimError):
    """The database cannot be used; ``str()`` is one line for a person."""


def _step_1(connection: Connection) -> None:
    """Accounts, and how they sign in."""
    tables = MetaData()
    Table(
        "accounts",
        tables,
        Column("id", Integer, primary_key=True),
        Column("name", String(255), nullable=False, unique=True),
        Column("password_hash", String(255), nullable=False),
        Column("operator", Boolean, nullable=False),
        Column("may_register_rooms", Boolean, nullable=False),
        Column("state", SmallInteger, nullable=False),
        Column("created_ms", BigInteger, nullable=False),
    )
    Table(
        "sessions",
        tables,
        Column("id", Integer, primary_key=True),
        Column("account_id", Integer, ForeignKey("accounts.id"), nullable=False, index=True),
        Column("token_hash", LargeBinary(32), nullable=False, unique=True),
        Column("device", String(1024), nullable=False),
        Column("created_ms", BigInteger, nullable=False),
        Column("used_ms", BigInteger, nullable=False),
        Column("expires_ms", BigInteger, nullable=False),
        sqlite_autoincrement=True,
    )
    Table(
        "invitations",
        tables,
        Column("id", Integer, primary_key=True),
        Column("code_hash", LargeBinary(32), nullable=False, unique=True),
        Column("expires_ms", BigInteger, nullable=False),
    )
    Table(
        "revocations",
        tables,
        Column("id", Integer, primary_key=True),
        Column("account", String(255), nullable=False),
        Column("code", Integer, nullable=False),
        Column("session", String(64), nullable=False),
        Column("spared", String(64), nullable=False),
        Column("at_ms", BigInteger, nullable=False),
        sqlite_autoincrement=True,
    )
    tables.create_all(connection)


def _step_2(connection: Connection) -> None:
    """Contacts, blocks and policies."""
    tables = MetaData()
    Table(
        "links",
        tables,
        Column("account", String(255), primary_key=True),
        Column("other", String(255), primary_key=True),
        Column("state", SmallInteger, nullable=False),
    )
    Table(
        "blocks",
        tables,
        Column("account", String(255), primary_key=True),
        Column("other", String(255), primary_key=True),
    )
    Table(
        "policies",
        tables,
        Column("account", String(255), primary_key=True),
        Column("policy", SmallInteger, nullable=False),
    )
    tables.create_all(connection)


def _step_3(connection: Connection) -> None:
    """On PostgreSQL, numbers of what comes and goes beyond 2^31."""
    if connection.dialect.name != "postgresql":
        return  # SQLite's have 64 bits from the start
    for table in ("sessions", "revocations"):
        connection.execute(text(f"ALTER TABLE {table} ALTER COLUMN id TYPE bigint"))
        connection.execute(text(f"ALTER SEQUENCE {table}_id_seq AS bigint"))


Step = Callable[[Connection], None]

STEPS: Final[tuple[Step, ...]] = (_step_1, _step_2, _step_3)


def version_of(connection: Connection) -> int:
    """Return the number of the last step taken, 0 for an empty database."""
    if not inspect(connection).has_table(VERSIONS.name):
        return 0
    return connection.execute(select(func.max(VERSIONS.c.version))).scalar() or 0


def migrate(connection: Connection, steps: Sequence[Step] = STEPS) -> int:
    """Take the steps that are missing and return how many those were.

    Everything happens in the transaction that the connection is in, which
    must keep other processes from migrating at the same time.

    Raises:
        StoreError: a newer version of this program has been here.
    """
    done = version_of(connection)
    if done > len(steps):
        raise StoreError(
            f"the database has schema version {done} and this tim_trio knows {len(steps)}: "
            "it was used with a newer version"
        )
    VERSIONS.create(connection, checkfirst=True)
    for number, step in enumerate(steps[done:], done + 1):
        step(connection)
        connection.execute(
            insert(VERSIONS).values(version=number, applied_ms=int(time.time() * 1000))
        )
    return len(steps) - done
