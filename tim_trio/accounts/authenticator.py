"""``auth = "accounts"``: passwords and session tokens against the built-in store."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Final, Literal, TypeVar

import trio
from sqlalchemy.exc import SQLAlchemyError

from tim_trio.accounts.passwords import PasswordHasher, check_strength
from tim_trio.accounts.rates import MinuteRates
from tim_trio.accounts.store import Account, AccountState, Store, check_active
from tim_trio.core.addresses import network_of
from tim_trio.core.bans import Bans
from tim_trio.core.revocation import Identity, Revocation
from tim_trio.errors import Code, RoomError, room_error
from tim_trio.limits import Limits
from tim_trio.log import StormLimiter, get_logger
from tim_trio.protocol.messages import (
    Authenticate,
    AuthMethod,
    AuthMode,
    Capability,
    ChangePassword,
    RegisterAccount,
    is_account_name,
)

T = TypeVar("T")

Registration = Literal["closed", "invitation", "open"]

#: Twice within the second that a revocation may take.
POLL_INTERVAL_S: Final = 0.4
#: SQLite writes one after another anyway; the others read. PostgreSQL gets as
#: many connections.
_THREADS: Final = 4
#: Where a database hangs, whoever comes next is told so instead of waiting too.
_LONGEST_WAIT_S: Final = 5.0
_RETRY_AFTER_MS: Final = 1_000

_log = get_logger("accounts")


class StoreThreads:
    """Calls of a blocking store, in a few threads of their own.

    A store that fails becomes ``unavailable``, and one log line a second.
    """

    def __init__(self, threads: int = _THREADS, *, longest_wait_s: float = _LONGEST_WAIT_S) -> None:
        self._places = trio.Semaphore(threads, max_value=threads)
        self._threads = trio.CapacityLimiter(threads)
        self._longest_wait_s = longest_wait_s
        self._storms = StormLimiter()

    async def call(self, work: Callable[[], T]) -> T:
        """Return what ``work`` returns; carried through even when cancelled, once it has begun.

        Raises:
            RoomError: ``unavailable``, or what ``work`` raises.
        """
        with trio.move_on_after(self._longest_wait_s) as waiting:
            await self._places.acquire()
        if waiting.cancelled_caught:
            raise _unavailable()
        try:
            return await trio.to_thread.run_sync(work, limiter=self._threads)
        except SQLAlchemyError as error:
            self.log_failure(error)
            raise _unavailable() from None
        finally:
            self._places.release()

    def log_failure(self, error: Exception) -> None:
        suppressed = self._storms.admit("store", trio.current_time())
        if suppressed is not None:
            # The kind alone: a database's own text may quote what was written.
            kind = type(getattr(error, "orig", None) or error).__name__
            _log.error("accounts unavailable", reason=kind, suppressed=suppressed)


def _unavailable() -> RoomError:
    return room_error(
        Code.UNAVAILABLE, "the accounts cannot be reached now", retry_after_ms=_RETRY_AFTER_MS
    )


class StoreAuthenticator:
    """Signs in against a `Store`, which its owner opens and closes.

    Args:
        session_lifetime_s: how long a session token signs in after its last use.
    """

    mode = AuthMode.ACCOUNTS
    capabilities = Capability.ACCOUNTS
    #: The store has them.
    bans: Bans | None = None

    def __init__(
        self,
        store: Store,
        limits: Limits,
        *,
        registration: Registration = "closed",
        session_lifetime_s: float = 30 * 86400.0,
        threads: StoreThreads | None = None,
        hasher: PasswordHasher | None = None,
    ) -> None:
        self._store = store
        self._limits = limits
        self._registration = registration
        self._session_lifetime_s = session_lifetime_s
        self._threads = threads or StoreThreads()
        self._hasher = hasher or PasswordHasher(max_waiting=limits.max_waiting_logins)
        self._of_address = MinuteRates(
            limits.logins_per_minute_per_address, "logins_per_minute_per_address"
        )
        self._of_account = MinuteRates(
            limits.logins_per_minute_per_account, "logins_per_minute_per_account"
        )
        # Set where this process has itself revoked something.
        self._look_now = trio.Event()

    async def authenticate(
        self, request: Authenticate, *, address: str, is_loopback: bool
    ) -> Identity:
        match request.method:
            case AuthMethod.PASSWORD:
                return await self._by_password(request, network_of(address))
            case AuthMethod.SESSION:
                return await self._by_session(request, network_of(address))
            case _:
                raise room_error(
                    Code.NOT_SUPPORTED, "this server takes passwords and session tokens"
                )

    async def _by_password(self, request: Authenticate, network: str) -> Identity:
        name = request.account
        if not is_account_name(name):
            raise room_error(Code.BAD_REQUEST, "not an account name")
        self._count_login(network, name)
        account = await self._check_password(name, request.secret)
        check_active(account)
        if self._hasher.is_outdated(account.password_hash):
            account = await self._rehash(account, request.secret)
        identity = await self._threads.call(
            lambda: self._store.open_session(
                name,
                request.device,
                lifetime_s=self._session_lifetime_s,
                max_devices=self._limits.max_devices_per_account,
                checked_hash=account.password_hash,
            )
        )
        # Another device may have had to go.
        self._look_now.set()
        return identity

    async def _by_session(self, request: Authenticate, network: str) -> Identity:
        # Who has a token is no guesser: a whole office may come back at once
        # through one address. Failures count.
        now = trio.current_time()
        self._of_address.check(network, now)
        try:
            identity = await self._threads.call(
                lambda: self._store.use_session(request.secret, lifetime_s=self._session_lifetime_s)
            )
            if request.account and request.account != identity.account:
                raise room_error(Code.BAD_CREDENTIALS, "not a session that is still open")
        except RoomError as error:
            if error.code == Code.BAD_CREDENTIALS:
                self._of_address.take(network, now)
            raise
        return identity

    def _count_login(self, network: str, account: str) -> None:
        now = trio.current_time()
        self._of_address.take(network, now)
        self._of_account.take(account, now)

    async def _check_password(self, name: str, password: bytes) -> Account:
        account = await self._threads.call(lambda: self._store.find_account(name))
        is_right = await self._hasher.verify(
            None if account is None else account.password_hash, password
        )
        if account is None or not is_right:
            raise room_error(Code.BAD_CREDENTIALS, "no such account, or not its password")
        return account

    async def _rehash(self, account: Account, password: bytes) -> Account:
        stronger = await self._hasher.hash(password)
        await self._threads.call(
            lambda: self._store.upgrade_hash(account.name, stronger, was=account.password_hash)
        )
        renewed = await self._threads.call(lambda: self._store.find_account(account.name))
        if renewed is None or renewed.password_hash != stronger:
            raise room_error(Code.BAD_CREDENTIALS, "the password was changed just now")
        return renewed

    async def register(self, request: RegisterAccount, *, address: str) -> None:
        name = request.account
        if self._registration == "closed":
            raise room_error(Code.REGISTRATION_CLOSED, "ask the operator for an account")
        if not is_account_name(name):
            raise room_error(Code.BAD_REQUEST, "not an account name")
        check_strength(request.password, name)
        self._of_address.take(network_of(address), trio.current_time())
        invitation = None
        if self._registration == "invitation":
            invitation = request.invitation
            # Before the costly hash; used up together with the new account.
            await self._threads.call(lambda: self._store.check_invitation(request.invitation))
        if await self._threads.call(lambda: self._store.find_account(name)) is not None:
            raise room_error(Code.ACCOUNT_EXISTS, "there is an account of that name")
        password_hash = await self._hasher.hash(request.password)
        await self._threads.call(
            lambda: self._store.add_account(name, password_hash, invitation=invitation)
        )
        _log.info("account registered", account=name)

    async def change_password(
        self, identity: Identity, request: ChangePassword, *, address: str
    ) -> None:
        name = identity.account
        self._count_login(network_of(address), name)
        account = await self._check_password(name, request.old)
        check_strength(request.new, name)
        password_hash = await self._hasher.hash(request.new)
        await self._threads.call(
            lambda: self._store.set_password(
                name, password_hash, was=account.password_hash, spared=identity.session
            )
        )
        self._look_now.set()
        _log.info("password changed", account=name)

    async def ban(self, account: str) -> None:
        await self._threads.call(lambda: self._store.set_state(account, AccountState.BANNED))
        self._look_now.set()

    async def run(self, revoke: Callable[[Revocation], None]) -> None:
        mark: int | None = None
        # Who signed in before the first look knows what was revoked by then.
        last = 0
        while True:
            self._look_now = trio.Event()
            try:
                new_mark = await trio.to_thread.run_sync(self._store.change_mark)
                if new_mark != mark:
                    after = last
                    for revocation in await trio.to_thread.run_sync(
                        lambda: self._store.revocations_after(after)  # noqa: B023
                    ):
                        last = revocation.number
                        revoke(revocation)
                    mark = new_mark
            except (SQLAlchemyError, sqlite3.Error) as error:
                self._threads.log_failure(error)
            with trio.move_on_after(POLL_INTERVAL_S):
                await self._look_now.wait()
