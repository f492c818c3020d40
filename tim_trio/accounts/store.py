"""Accounts, their sign-ins and what was revoked, in a database.

Every method blocks and may be called from any thread, and from several nodes
at once. What a method has returned from is on disk: it survives SIGKILL and
loss of power.

Raises `sqlalchemy.exc.SQLAlchemyError` where the database fails; its text
holds no parameter, so no secret.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

import attrs
from sqlalchemy import Connection, Row, delete, func, insert, select
from sqlalchemy import update as update_table
from sqlalchemy.engine import URL

from tim_trio.accounts.database import Database, retried
from tim_trio.accounts.schema import ACCOUNTS, INVITATIONS, REVOCATIONS, SESSIONS, migrate
from tim_trio.core.revocation import Identity, Revocation
from tim_trio.errors import Code, room_error
from tim_trio.protocol.messages import Right

#: Far longer than any server looks back.
_REVOCATIONS_KEPT_MS: Final = 24 * 3600 * 1000
#: A sign-in used again within this time costs no write.
_USE_GRAIN_MS: Final = 60_000
_SECRET_BYTES: Final = 32


class AccountState(enum.IntEnum):
    ACTIVE = 0
    DISABLED = 1
    BANNED = 2


_END_CODES: Final = {AccountState.DISABLED: Code.DISABLED, AccountState.BANNED: Code.BANNED}


@attrs.frozen(kw_only=True)
class Account:
    """An account as it is in the database."""

    id: int
    name: str
    password_hash: str = attrs.field(repr=False)
    operator: bool
    may_register_rooms: bool
    state: AccountState
    created_ms: int

    @property
    def rights(self) -> Right:
        rights = Right(0)
        if self.operator:
            rights |= Right.OPERATOR
        if self.may_register_rooms:
            rights |= Right.REGISTER_ROOMS
        return rights


@attrs.frozen(kw_only=True)
class AccountSummary:
    """What `Store.list_accounts` tells of an account."""

    name: str
    operator: bool
    may_register_rooms: bool
    state: AccountState
    created_ms: int
    devices: int


def new_secret() -> bytes:
    """Return 32 random bytes as text that can be copied."""
    return secrets.token_urlsafe(_SECRET_BYTES).encode()


def _hash(secret: bytes) -> bytes:
    # Plain SHA-256: these secrets are random, there is nothing to guess.
    return hashlib.sha256(secret).digest()


def default_database_url(data_dir: Path) -> str:
    """Return the URL of the file ``accounts.db`` in a directory."""
    return URL.create("sqlite", database=str(data_dir / "accounts.db")).render_as_string(False)


class Store:
    """One database of accounts.

    Args:
        url: as SQLAlchemy takes it. Files of SQLite are made where missing,
            for their owner alone.
        clock: Unix time in seconds.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] = time.time) -> None:
        self._database = Database(url)
        self._clock = clock

    def open(self) -> None:
        """Connect, and bring the tables up to date.

        Raises:
            StoreError: one line that says what is wrong.
        """
        self._database.open(self._prepare)

    def _prepare(self, connection: Connection) -> None:
        migrate(connection)
        now_ms = self._now_ms()
        connection.execute(delete(SESSIONS).where(SESSIONS.c.expires_ms <= now_ms))
        connection.execute(
            delete(REVOCATIONS).where(REVOCATIONS.c.at_ms < now_ms - _REVOCATIONS_KEPT_MS)
        )

    def close(self) -> None:
        """Give up all connections. Idempotent."""
        self._database.close()

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    def read(self) -> AbstractContextManager[Connection]:
        """A transaction that sees one state of the database."""
        return self._database.read()

    def write(self, *accounts: str) -> AbstractContextManager[Connection]:
        """A transaction that is committed at the end, unless something is raised.

        Of those that concern the same accounts there is one at a time.
        """
        return self._database.write(*accounts)

    # Accounts

    @retried
    def add_account(
        self,
        name: str,
        password_hash: str,
        *,
        operator: bool = False,
        may_register_rooms: bool = True,
        invitation: bytes | None = None,
    ) -> None:
        """Make an account; an ``invitation`` is used up by it.

        Raises:
            RoomError: ``account_exists``, ``registration_closed``.
        """
        with self.write(name) as connection:
            if invitation is not None:
                used = connection.execute(
                    delete(INVITATIONS).where(
                        INVITATIONS.c.code_hash == _hash(invitation),
                        INVITATIONS.c.expires_ms > self._now_ms(),
                    )
                )
                if not used.rowcount:
                    raise room_error(Code.REGISTRATION_CLOSED, "not a valid invitation")
            if _find(connection, name) is not None:
                raise room_error(Code.ACCOUNT_EXISTS, "there is an account of that name")
            connection.execute(
                insert(ACCOUNTS).values(
                    name=name,
                    password_hash=password_hash,
                    operator=operator,
                    may_register_rooms=may_register_rooms,
                    state=AccountState.ACTIVE,
                    created_ms=self._now_ms(),
                )
            )

    @retried
    def find_account(self, name: str) -> Account | None:
        with self.read() as connection:
            return _find(connection, name)

    @retried
    def list_accounts(self) -> list[AccountSummary]:
        """Return all accounts in the order of their names' bytes."""
        devices = (
            select(func.count())
            .where(SESSIONS.c.account_id == ACCOUNTS.c.id, SESSIONS.c.expires_ms > self._now_ms())
            .scalar_subquery()
        )
        with self.read() as connection:
            rows = connection.execute(select(ACCOUNTS, devices.label("devices"))).all()
        found = [
            AccountSummary(
                name=row.name,
                operator=row.operator,
                may_register_rooms=row.may_register_rooms,
                state=AccountState(row.state),
                created_ms=row.created_ms,
                devices=row.devices,
            )
            for row in rows
        ]
        # Not ORDER BY: databases have collations of their own.
        return sorted(found, key=lambda account: account.name.encode())

    @retried
    def set_state(self, name: str, state: AccountState) -> None:
        """Enable, disable or ban; what is not active has no sign-ins any more.

        Raises:
            RoomError: ``no_such_account``.
        """
        with self.write(name) as connection:
            account = _require(connection, name)
            if account.state is state:
                return
            connection.execute(
                update_table(ACCOUNTS).where(ACCOUNTS.c.id == account.id).values(state=state)
            )
            if state is not AccountState.ACTIVE:
                connection.execute(delete(SESSIONS).where(SESSIONS.c.account_id == account.id))
                self._revoke(connection, name, _END_CODES[state])

    @retried
    def set_password(
        self, name: str, password_hash: str, *, was: str | None = None, spared: str = ""
    ) -> None:
        """Change the password, and sign out everywhere but at the session ``spared``.

        Args:
            was: the hash that was checked; None for whoever need not know it.

        Raises:
            RoomError: ``no_such_account``; ``bad_credentials`` where ``was`` is outdated.
        """
        with self.write(name) as connection:
            account = _require(connection, name)
            if was is not None and not hmac.compare_digest(was, account.password_hash):
                raise room_error(Code.BAD_CREDENTIALS, "the password was changed just now")
            connection.execute(
                update_table(ACCOUNTS)
                .where(ACCOUNTS.c.id == account.id)
                .values(password_hash=password_hash)
            )
            others = delete(SESSIONS).where(SESSIONS.c.account_id == account.id)
            if spared:
                others = others.where(SESSIONS.c.id != int(spared))
            connection.execute(others)
            self._revoke(connection, name, Code.SIGNED_OUT, spared=spared)

    @retried
    def upgrade_hash(self, name: str, password_hash: str, *, was: str) -> None:
        """Keep the same password under a hash of today's strength."""
        with self.write(name) as connection:
            connection.execute(
                update_table(ACCOUNTS)
                .where(ACCOUNTS.c.name == name, ACCOUNTS.c.password_hash == was)
                .values(password_hash=password_hash)
            )

    @retried
    def add_invitation(self, lifetime_s: float) -> bytes:
        """Return a code that lets one person register."""
        code = new_secret()
        with self.write() as connection:
            now_ms = self._now_ms()
            connection.execute(delete(INVITATIONS).where(INVITATIONS.c.expires_ms <= now_ms))
            connection.execute(
                insert(INVITATIONS).values(
                    code_hash=_hash(code), expires_ms=now_ms + int(lifetime_s * 1000)
                )
            )
        return code

    @retried
    def check_invitation(self, code: bytes) -> None:
        """Raise ``registration_closed`` for a code that `add_account` would not take."""
        with self.read() as connection:
            found = connection.execute(
                select(INVITATIONS.c.id).where(
                    INVITATIONS.c.code_hash == _hash(code),
                    INVITATIONS.c.expires_ms > self._now_ms(),
                )
            ).first()
        if found is None:
            raise room_error(Code.REGISTRATION_CLOSED, "not a valid invitation")

    # Signing in

    @retried
    def open_session(
        self,
        name: str,
        device: str,
        *,
        lifetime_s: float,
        max_devices: int,
        checked_hash: str | None = None,
    ) -> Identity:
        """Sign a device in, and the least recently used ones beyond ``max_devices`` out.

        Args:
            checked_hash: what the password was compared with; None for an
                administrator, who needs none.

        Raises:
            RoomError: ``no_such_account``; ``permission_denied`` for one that is not
                active; ``bad_credentials`` when the password has changed meanwhile.
        """
        token = new_secret()
        with self.write(name) as connection:
            account = _require(connection, name)
            if checked_hash is not None and not hmac.compare_digest(
                checked_hash, account.password_hash
            ):
                raise room_error(Code.BAD_CREDENTIALS, "the password was changed just now")
            check_active(account)
            now_ms = self._now_ms()
            connection.execute(
                delete(SESSIONS).where(
                    SESSIONS.c.account_id == account.id, SESSIONS.c.expires_ms <= now_ms
                )
            )
            expires_ms = now_ms + int(lifetime_s * 1000)
            added = connection.execute(
                insert(SESSIONS).values(
                    account_id=account.id,
                    token_hash=_hash(token),
                    device=device.replace("\0", ""),  # which PostgreSQL has no place for
                    created_ms=now_ms,
                    used_ms=now_ms,
                    expires_ms=expires_ms,
                )
            )
            assert added.inserted_primary_key is not None
            session = int(added.inserted_primary_key[0])
            others = connection.execute(
                select(SESSIONS.c.id)
                .where(SESSIONS.c.account_id == account.id, SESSIONS.c.id != session)
                .order_by(SESSIONS.c.used_ms, SESSIONS.c.id)
            ).scalars()
            others_oldest_first = list(others)
            for other in others_oldest_first[: max(0, len(others_oldest_first) + 1 - max_devices)]:
                connection.execute(delete(SESSIONS).where(SESSIONS.c.id == other))
                self._revoke(connection, name, Code.SIGNED_OUT, session=str(other))
            return _identity(connection, account, session, device, expires_ms, token)

    @retried
    def use_session(self, token: bytes, *, lifetime_s: float) -> Identity:
        """Sign in again with the token of `open_session`, whose life begins anew.

        Raises:
            RoomError: ``bad_credentials``.
        """
        digest = _hash(token)
        with self.read() as connection:
            row = _session(connection, digest, self._now_ms())
            account = _account(row)
            check_active(account)
            now_ms = self._now_ms()
            if now_ms - row.used_ms < _USE_GRAIN_MS:
                return _identity(
                    connection, account, row.session, row.device, row.expires_ms, token
                )
        with self.write() as connection:
            row = _session(connection, digest, self._now_ms(), locks=True)
            expires_ms = max(row.expires_ms, now_ms + int(lifetime_s * 1000))
            connection.execute(
                update_table(SESSIONS)
                .where(SESSIONS.c.id == row.session)
                .values(used_ms=now_ms, expires_ms=expires_ms)
            )
            account = _account(row)
            check_active(account)
            return _identity(connection, account, row.session, row.device, expires_ms, token)

    # What was revoked

    def _revoke(
        self, connection: Connection, name: str, code: Code, *, session: str = "", spared: str = ""
    ) -> None:
        self._database.lock_revocations(connection)
        connection.execute(
            insert(REVOCATIONS).values(
                account=name, code=code, session=session, spared=spared, at_ms=self._now_ms()
            )
        )

    def change_mark(self) -> int:
        """Return a number that changes whenever anyone has revoked something, at least.

        Cheap enough to ask several times a second. Not from two threads at once.
        """
        mark = self._database.change_mark()
        return self.last_revocation() if mark is None else mark

    @retried
    def last_revocation(self) -> int:
        with self.read() as connection:
            return _last_revocation(connection)

    @retried
    def revocations_after(self, number: int) -> list[Revocation]:
        with self.read() as connection:
            rows = connection.execute(
                select(REVOCATIONS).where(REVOCATIONS.c.id > number).order_by(REVOCATIONS.c.id)
            ).all()
        return [
            Revocation(
                number=row.id,
                account=row.account,
                code=Code(row.code),
                session=row.session,
                spared=row.spared,
            )
            for row in rows
        ]


def check_active(account: Account) -> None:
    """Raise ``permission_denied`` for an account that is disabled or banned."""
    if account.state is not AccountState.ACTIVE:
        raise room_error(Code.PERMISSION_DENIED, f"this account is {account.state.name.lower()}")


def _account(row: Row[Any]) -> Account:
    return Account(
        id=row.id,
        name=row.name,
        password_hash=row.password_hash,
        operator=row.operator,
        may_register_rooms=row.may_register_rooms,
        state=AccountState(row.state),
        created_ms=row.created_ms,
    )


def _find(connection: Connection, name: str) -> Account | None:
    row = connection.execute(select(ACCOUNTS).where(ACCOUNTS.c.name == name)).first()
    return None if row is None else _account(row)


def _require(connection: Connection, name: str) -> Account:
    account = _find(connection, name)
    if account is None:
        raise room_error(Code.NO_SUCH_ACCOUNT, "there is no account of that name")
    return account


def _session(
    connection: Connection, digest: bytes, now_ms: int, *, locks: bool = False
) -> Row[Any]:
    """Return the sign-in together with its account; nobody else ends it before we commit
    if it ``locks``."""
    question = (
        select(
            ACCOUNTS,
            SESSIONS.c.id.label("session"),
            SESSIONS.c.token_hash,
            SESSIONS.c.device,
            SESSIONS.c.used_ms,
            SESSIONS.c.expires_ms,
        )
        .join(ACCOUNTS, ACCOUNTS.c.id == SESSIONS.c.account_id)
        .where(SESSIONS.c.token_hash == digest, SESSIONS.c.expires_ms > now_ms)
    )
    if locks:
        question = question.with_for_update(of=SESSIONS)
    row = connection.execute(question).first()
    # The index compares hashes of what came, so its timing tells nothing.
    if row is None or not hmac.compare_digest(row.token_hash, digest):
        raise room_error(Code.BAD_CREDENTIALS, "not a session that is still open")
    return row


def _identity(
    connection: Connection,
    account: Account,
    session: int,
    device: str,
    expires_ms: int,
    token: bytes,
) -> Identity:
    return Identity(
        account=account.name,
        rights=account.rights,
        device=device,
        expires_at=expires_ms / 1000,
        session=str(session),
        session_token=token,
        as_of=_last_revocation(connection),
    )


def _last_revocation(connection: Connection) -> int:
    return connection.execute(select(func.max(REVOCATIONS.c.id))).scalar() or 0
