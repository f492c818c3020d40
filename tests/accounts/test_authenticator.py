"""Signing in against the store: passwords, session tokens, registration, and being put out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import argon2
import pytest
import structlog.testing
import trio
import trio.testing
from sqlalchemy import text

from tests.accounts.cheap import CHEAP, cheap_hasher
from tim_trio.accounts.authenticator import Registration, StoreAuthenticator
from tim_trio.accounts.passwords import PasswordHasher
from tim_trio.accounts.store import AccountState, Store
from tim_trio.core.revocation import Identity, Revocation
from tim_trio.errors import Code, RoomError
from tim_trio.limits import Limits
from tim_trio.protocol.messages import (
    Authenticate,
    AuthMethod,
    AuthMode,
    Capability,
    ChangePassword,
    RegisterAccount,
    Right,
)

PASSWORD = b"correct horse"
NEW = b"battery staple"
ADDRESS = "192.0.2.7"


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    store = Store(database_url)
    store.open()
    store.add_account("alice", CHEAP.hash(PASSWORD), operator=True)
    yield store
    store.close()


def new_authenticator(
    store: Store,
    registration: Registration = "closed",
    session_lifetime_s: float = 3600.0,
    **limits: Any,
) -> StoreAuthenticator:
    return StoreAuthenticator(
        store,
        Limits(**limits),
        registration=registration,
        session_lifetime_s=session_lifetime_s,
        hasher=cheap_hasher(),
    )


@pytest.fixture
def door(store: Store) -> StoreAuthenticator:
    return new_authenticator(store)


async def login(
    door: StoreAuthenticator,
    secret: bytes = PASSWORD,
    account: str = "alice",
    *,
    method: AuthMethod = AuthMethod.PASSWORD,
    address: str = ADDRESS,
) -> Identity:
    request = Authenticate(method=method, account=account, secret=secret, device="phone")
    return await door.authenticate(request, address=address, is_loopback=False)


async def come_back(door: StoreAuthenticator, token: bytes, account: str = "alice") -> Identity:
    return await login(door, token, account, method=AuthMethod.SESSION)


async def refusal(act: Awaitable[object]) -> Code:
    with pytest.raises(RoomError) as caught:
        await act
    assert (caught.value.retry_after_ms > 0) == (
        caught.value.code in (Code.RATE_LIMITED, Code.UNAVAILABLE)
    )
    return Code(caught.value.code)


def registration(account: str = "bob", password: bytes = PASSWORD) -> RegisterAccount:
    return RegisterAccount(account=account, password=password, invitation=b"")


# Signing in


async def test_a_password_signs_in_and_its_token_signs_in_again(door: StoreAuthenticator) -> None:
    assert (door.mode, door.capabilities) == (AuthMode.ACCOUNTS, Capability.ACCOUNTS)
    identity = await login(door)
    assert (identity.account, identity.device) == ("alice", "phone")
    assert identity.rights == Right.OPERATOR | Right.REGISTER_ROOMS
    assert identity.expires_ms > 0
    again = await come_back(door, identity.session_token)
    assert again == identity
    assert await come_back(door, identity.session_token, "") == identity


@pytest.mark.parametrize(
    "secret, account, method, code",
    [
        (b"wrong", "alice", AuthMethod.PASSWORD, Code.BAD_CREDENTIALS),
        (b"", "alice", AuthMethod.PASSWORD, Code.BAD_CREDENTIALS),
        (PASSWORD, "nobody", AuthMethod.PASSWORD, Code.BAD_CREDENTIALS),
        (PASSWORD, "a b", AuthMethod.PASSWORD, Code.BAD_REQUEST),
        (b"wrong", "alice", AuthMethod.SESSION, Code.BAD_CREDENTIALS),
        (PASSWORD, "alice", AuthMethod.NAME, Code.NOT_SUPPORTED),
        (PASSWORD, "alice", AuthMethod.SIGNED_TOKEN, Code.NOT_SUPPORTED),
        (PASSWORD, "alice", AuthMethod.NODE, Code.NOT_SUPPORTED),
    ],
)
async def test_what_does_not_sign_in(
    door: StoreAuthenticator, secret: bytes, account: str, method: AuthMethod, code: Code
) -> None:
    assert await refusal(login(door, secret, account, method=method)) is code


async def test_nobody_and_a_wrong_password_look_the_same(door: StoreAuthenticator) -> None:
    texts = set()
    for account in ("alice", "nobody"):
        with pytest.raises(RoomError) as caught:
            await login(door, b"wrong", account)
        texts.add(str(caught.value))
    assert len(texts) == 1


async def test_a_token_of_somebody_else(door: StoreAuthenticator, store: Store) -> None:
    store.add_account("bob", CHEAP.hash(PASSWORD))
    token = (await login(door)).session_token
    assert await refusal(come_back(door, token, "bob")) is Code.BAD_CREDENTIALS


@pytest.mark.parametrize("state", [AccountState.DISABLED, AccountState.BANNED])
async def test_who_is_disabled_is_told_so_once_the_password_is_right(
    door: StoreAuthenticator, store: Store, state: AccountState
) -> None:
    token = (await login(door)).session_token
    store.set_state("alice", state)
    assert await refusal(login(door)) is Code.PERMISSION_DENIED
    assert await refusal(login(door, b"wrong")) is Code.BAD_CREDENTIALS
    assert await refusal(come_back(door, token)) is Code.BAD_CREDENTIALS


async def test_a_hash_of_yesterdays_strength_is_renewed(store: Store) -> None:
    stronger = argon2.PasswordHasher(time_cost=2, memory_cost=8, parallelism=1)
    door = StoreAuthenticator(store, Limits(), hasher=PasswordHasher(argon2_hasher=stronger))
    identity = await login(door)
    account = store.find_account("alice")
    assert account is not None
    assert not stronger.check_needs_rehash(account.password_hash)
    assert await come_back(door, identity.session_token) == identity
    await login(door)


async def test_a_password_changed_while_its_hash_is_renewed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    stronger = argon2.PasswordHasher(time_cost=2, memory_cost=8, parallelism=1)
    door = StoreAuthenticator(store, Limits(), hasher=PasswordHasher(argon2_hasher=stronger))
    monkeypatch.setattr(store, "upgrade_hash", lambda *_, **__: None)
    assert await refusal(login(door)) is Code.BAD_CREDENTIALS


# Rates


async def test_passwords_count_for_the_address_and_for_the_account(store: Store) -> None:
    door = new_authenticator(store, logins_per_minute_per_address=3)
    for _ in range(3):
        await login(door)
    assert await refusal(login(door)) is Code.RATE_LIMITED
    await login(door, address="192.0.2.8")
    door = new_authenticator(store, logins_per_minute_per_account=3)
    for n in range(3):
        assert await refusal(login(door, b"x", address=f"192.0.2.{n}")) is Code.BAD_CREDENTIALS
    assert await refusal(login(door)) is Code.RATE_LIMITED
    assert await refusal(login(door, b"x", "bob")) is Code.BAD_CREDENTIALS


async def test_of_session_tokens_failures_alone_count(store: Store) -> None:
    door = new_authenticator(store, logins_per_minute_per_address=2)
    token = (await login(door)).session_token
    for _ in range(5):
        await come_back(door, token)
    assert await refusal(come_back(door, b"x")) is Code.BAD_CREDENTIALS
    assert await refusal(come_back(door, token)) is Code.RATE_LIMITED


async def test_a_storm_of_logins_gets_typed_answers_each(store: Store) -> None:
    door = new_authenticator(
        store,
        max_waiting_logins=2,
        logins_per_minute_per_account=1e6,
        logins_per_minute_per_address=1e6,
    )
    door._hasher = cheap_hasher(max_waiting=2)
    outcomes: list[Code | str] = []

    async def attempt() -> None:
        try:
            outcomes.append((await login(door)).account)
        except RoomError as error:
            outcomes.append(Code(error.code))

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(attempt)
    assert len(outcomes) == 100
    assert set(outcomes) <= {"alice", Code.UNAVAILABLE}
    assert "alice" in outcomes


# Registering


@pytest.mark.parametrize(
    "mode, request_, code",
    [
        ("closed", registration(), Code.REGISTRATION_CLOSED),
        ("invitation", registration(), Code.REGISTRATION_CLOSED),
        ("open", registration("alice"), Code.ACCOUNT_EXISTS),
        ("open", registration("b b"), Code.BAD_REQUEST),
        ("open", registration(password=b"1234567"), Code.WEAK_PASSWORD),
    ],
)
async def test_registrations_that_are_refused(
    store: Store, mode: Registration, request_: RegisterAccount, code: Code
) -> None:
    door = new_authenticator(store, mode)
    assert await refusal(door.register(request_, address=ADDRESS)) is code
    assert [account.name for account in store.list_accounts()] == ["alice"]


async def test_an_open_registration_signs_in_then(store: Store) -> None:
    door = new_authenticator(store, "open")
    await door.register(registration(), address=ADDRESS)
    identity = await login(door, account="bob")
    assert identity.rights == Right.REGISTER_ROOMS


async def test_an_invitation_lets_one_in(store: Store) -> None:
    door = new_authenticator(store, "invitation")
    code = store.add_invitation(60)
    request = RegisterAccount(account="bob", password=PASSWORD, invitation=code)
    await door.register(request, address=ADDRESS)
    again = RegisterAccount(account="carol", password=PASSWORD, invitation=code)
    assert await refusal(door.register(again, address=ADDRESS)) is Code.REGISTRATION_CLOSED


async def test_registrations_count_as_logins(store: Store) -> None:
    door = new_authenticator(store, "open", logins_per_minute_per_address=1)
    await door.register(registration("bob"), address=ADDRESS)
    assert await refusal(door.register(registration("eve"), address=ADDRESS)) is Code.RATE_LIMITED


# Changing the password


async def test_a_changed_password(door: StoreAuthenticator) -> None:
    mine, other = await login(door), await login(door)
    change = ChangePassword(old=PASSWORD, new=NEW)
    await door.change_password(mine, change, address=ADDRESS)
    assert await refusal(login(door)) is Code.BAD_CREDENTIALS
    await login(door, NEW)
    await come_back(door, mine.session_token)
    assert await refusal(come_back(door, other.session_token)) is Code.BAD_CREDENTIALS


@pytest.mark.parametrize(
    "change, code",
    [
        (ChangePassword(old=b"wrong", new=NEW), Code.BAD_CREDENTIALS),
        (ChangePassword(old=PASSWORD, new=b"short"), Code.WEAK_PASSWORD),
    ],
)
async def test_changes_that_are_refused(
    door: StoreAuthenticator, change: ChangePassword, code: Code
) -> None:
    identity = await login(door)
    assert await refusal(door.change_password(identity, change, address=ADDRESS)) is code
    await login(door)


# Being put out


class Watched:
    """What an authenticator's service says."""

    def __init__(self) -> None:
        self.revoked: list[Revocation] = []
        self._said = trio.Event()

    def revoke(self, revocation: Revocation) -> None:
        self.revoked.append(revocation)
        self._said.set()

    async def next(self) -> Revocation:
        with trio.fail_after(30):
            await self._said.wait()
        self._said = trio.Event()
        return self.revoked[-1]


async def by_another_process(store: Store, database_url: str) -> None:
    other = Store(database_url)
    other.open()
    other.set_state("alice", AccountState.DISABLED)
    other.close()


async def test_another_process_disables_and_we_notice_within_a_second(
    door: StoreAuthenticator, store: Store, database_url: str
) -> None:
    watched = Watched()
    identity = await login(door)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(door.run, watched.revoke)
        await trio.sleep(0.05)
        started = trio.current_time()
        await by_another_process(store, database_url)
        revocation = await watched.next()
        assert revocation.concerns(identity)
        assert revocation.code is Code.DISABLED
        assert trio.current_time() - started < 5  # a busy machine; the interval is 0.4 s
        nursery.cancel_scope.cancel()


async def test_our_own_changes_are_noticed_at_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tim_trio.accounts.authenticator.POLL_INTERVAL_S", 3600.0)
    door = new_authenticator(store, max_devices_per_account=2)
    watched = Watched()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(door.run, watched.revoke)
        first, mine = await login(door), await login(door)
        await login(door)
        gone = await watched.next()
        assert gone.concerns(first) and not gone.concerns(mine)
        change = ChangePassword(old=PASSWORD, new=NEW)
        await door.change_password(mine, change, address=ADDRESS)
        changed = await watched.next()
        assert changed.concerns(first) and not changed.concerns(mine)
        nursery.cancel_scope.cancel()


async def test_who_signs_in_after_the_change_is_not_put_out_by_it(
    door: StoreAuthenticator, store: Store
) -> None:
    store.set_state("alice", AccountState.DISABLED)
    store.set_state("alice", AccountState.ACTIVE)
    identity = await login(door)
    watched = Watched()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(door.run, watched.revoke)
        assert not (await watched.next()).concerns(identity)
        nursery.cancel_scope.cancel()


# A store that fails


async def test_a_store_that_fails_is_unavailable_and_one_log_line(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tim_trio.accounts.authenticator.POLL_INTERVAL_S", 0.01)
    door = new_authenticator(store)
    with store.write() as connection:
        for table in ("sessions", "revocations", "accounts"):
            connection.execute(text(f"DROP TABLE {table}"))
    watched = Watched()
    with structlog.testing.capture_logs() as lines:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(door.run, watched.revoke)
            attempts: list[Callable[[], Awaitable[object]]] = [
                lambda: login(door, b"hunter2"),
                lambda: come_back(door, b"hunter2"),
            ]
            for attempt in attempts:
                assert await refusal(attempt()) is Code.UNAVAILABLE
            await trio.sleep(0.05)
            nursery.cancel_scope.cancel()
    assert [line["event"] for line in lines] == ["accounts unavailable"]
    assert lines[0]["reason"] in ("OperationalError", "UndefinedTable")
    assert "hunter2" not in str(lines)
