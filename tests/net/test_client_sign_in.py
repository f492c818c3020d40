"""Signing in, coming back and going on, through the client library."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

import tim_trio
from tests.accounts.cheap import CHEAP, cheap_hasher
from tests.net.running import Running, eventually, running_server
from tests.net.scripted_network import Network, close
from tests.net.scripted_server import WELCOME
from tim_trio.accounts.authenticator import Registration, StoreAuthenticator
from tim_trio.accounts.store import AccountState, Store, default_database_url
from tim_trio.accounts.tokens import KeyFile, TokenAuthenticator, make_token
from tim_trio.errors import Code
from tim_trio.limits import Limits
from tim_trio.net.client import Client, open_client, register_account
from tim_trio.net.client.credentials import Credentials
from tim_trio.net.client.plain_nursery import open_plain_nursery
from tim_trio.net.client.renewal import renewal_wait_s
from tim_trio.protocol import messages
from tim_trio.protocol.messages import AuthMethod, Right

PASSWORD, OTHER = b"correct horse", b"battery staple"


def to(running: Running, **how: Any) -> AbstractAsyncContextManager[Client]:
    return tim_trio.connect(f"tim://127.0.0.1:{running.port}", **how)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(default_database_url(tmp_path))
    store.open()
    store.add_account("alice", CHEAP.hash(PASSWORD), operator=True)
    store.add_account("bob", CHEAP.hash(PASSWORD))
    yield store
    store.close()


@asynccontextmanager
async def accounts_server(
    store: Store, *, registration: Registration = "closed", session_lifetime_s: float = 3600.0
) -> AsyncIterator[Running]:
    authenticator = StoreAuthenticator(
        store,
        Limits(),
        registration=registration,
        session_lifetime_s=session_lifetime_s,
        hasher=cheap_hasher(),
    )
    async with running_server(authenticator=authenticator, close=store.close) as running:
        yield running


@asynccontextmanager
async def token_server(tmp_path: Path) -> AsyncIterator[tuple[Running, Callable[..., str]]]:
    path = tmp_path / "key"
    path.write_bytes(b"x" * 32)
    key_file = KeyFile(path)

    def token(account: str = "alice", lifetime_s: float = 3600.0, **claims: Any) -> str:
        return make_token(key_file.key, {"sub": account, "exp": time.time() + lifetime_s, **claims})

    async with running_server(authenticator=TokenAuthenticator(key_file, Limits())) as running:
        yield running, token


# Accounts


async def test_by_password_and_again_by_the_session_it_gave(store: Store) -> None:
    async with accounts_server(store) as running:
        async with to(running, account="alice", password=PASSWORD, device="phone") as alice:
            assert alice.account == "alice"
            assert alice.rights == Right.OPERATOR | Right.REGISTER_ROOMS
            session = alice.session_token
            assert session
        async with to(running, session_token=session) as alice:
            assert alice.account == "alice"
            assert alice.session_token == session
        async with to(running, account="bob", password=PASSWORD.decode()) as bob:
            assert bob.rights == Right.REGISTER_ROOMS
        devices = {each.name: each.devices for each in store.list_accounts()}
        assert devices == {"alice": 1, "bob": 1}


@pytest.mark.parametrize(
    "how, error",
    [
        ({"account": "alice", "password": OTHER}, tim_trio.BadCredentials),
        ({"account": "carol", "password": PASSWORD}, tim_trio.BadCredentials),
        ({"session_token": b"none of ours"}, tim_trio.BadCredentials),
        ({"account": "alice"}, tim_trio.RoomError),
        ({"token": "a.b.c"}, tim_trio.RoomError),
    ],
)
async def test_who_is_not_let_in(store: Store, how: dict[str, Any], error: type[Exception]) -> None:
    async with accounts_server(store) as running:
        with pytest.raises(error) as caught:
            async with to(running, **how):
                raise AssertionError("not reached")
        secrets = [value for key, value in how.items() if key != "account"]
        assert all(str(secret) not in repr(caught.value) for secret in secrets)


async def test_a_session_that_is_over_falls_back_to_the_password(store: Store) -> None:
    async with accounts_server(store) as running:
        how: dict[str, Any] = {"account": "alice", "session_token": "over", "password": PASSWORD}
        async with to(running, **how) as alice:
            assert alice.session_token not in (b"", b"over")


async def test_it_comes_back_by_its_session_when_the_connection_is_lost(store: Store) -> None:
    async with accounts_server(store) as running:
        async with to(running, account="alice", password=PASSWORD) as alice:
            room = await alice.register_room()
            async with alice.publish(room) as source:
                await source.send(b"1")
                (connection,) = running.server.connections
                connection._cancel()
                events = alice.events()
                assert isinstance(await anext(events), tim_trio.Reconnecting)
                assert isinstance(await anext(events), tim_trio.Reconnected)
                await source.send(b"2")
                assert source.number == 1
        assert store.list_accounts()[0].devices == 1


async def test_a_changed_password(store: Store) -> None:
    async with accounts_server(store) as running:
        async with (
            to(running, account="alice", password=PASSWORD) as phone,
            to(running, account="alice", password=PASSWORD) as laptop,
        ):
            with pytest.raises(tim_trio.BadCredentials):
                await phone.change_password(OTHER, PASSWORD)
            await phone.change_password(PASSWORD, OTHER)
            with pytest.raises(tim_trio.ConnectionClosed) as caught:
                await anext(laptop.events())
            assert caught.value.code == Code.SIGNED_OUT
            assert await phone.list_rooms() == []
        async with to(running, account="alice", password=OTHER):
            pass


async def test_who_is_disabled_does_not_come_back(store: Store) -> None:
    async with (
        accounts_server(store) as running,
        to(running, account="bob", password=PASSWORD) as bob,
    ):
        await trio.to_thread.run_sync(store.set_state, "bob", AccountState.DISABLED)
        with pytest.raises(tim_trio.ConnectionClosed) as caught:
            await anext(bob.events())
        assert caught.value.code == Code.DISABLED
        with pytest.raises(tim_trio.PermissionDenied):
            async with to(running, account="bob", password=PASSWORD):
                raise AssertionError("not reached")


async def test_registering(store: Store) -> None:
    async with accounts_server(store, registration="invitation") as running:
        address = f"tim://127.0.0.1:{running.port}"
        invitation = await trio.to_thread.run_sync(store.add_invitation, 60.0)
        for password, code in ((b"short", Code.WEAK_PASSWORD), (OTHER, Code.REGISTRATION_CLOSED)):
            with pytest.raises(tim_trio.RoomError) as caught:
                await register_account(address, "carol", password)
            assert caught.value.code == code
        await register_account(address, "carol", OTHER, invitation=invitation)
        async with to(running, account="carol", password=OTHER):
            pass
        for account, password in (("no body", OTHER), ("dave", b"")):
            with pytest.raises(ValueError, match=r"not an account name|1 to 4096 bytes"):
                await register_account(address, account, password)
    with pytest.raises(tim_trio.ConnectFailed):
        await register_account(address, "dave", OTHER)


@pytest.mark.slow
async def test_a_session_goes_on_beyond_its_end_without_a_loss(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Used within a minute a session's life is not written anew; here it must be.
    monkeypatch.setattr("tim_trio.accounts.store._USE_GRAIN_MS", 0)
    async with (
        accounts_server(store, session_lifetime_s=1.0) as running,
        to(running, account="alice", password=PASSWORD) as alice,
    ):
        room = await alice.register_room()
        async with alice.publish(room) as source, alice.subscribe(room) as stream:
            first = running.server.connections.copy()
            with trio.move_on_after(2.5):
                while True:
                    await source.send(b"x", key=True)
                    await trio.sleep(0.05)
            assert not running.server.connections & first
            await source.send(b"", end=True)
            seqs = []
            async for item in stream:
                if isinstance(item, tim_trio.StreamFrame):
                    seqs.append(item.seq)
                    if item.is_end:
                        break
                else:
                    assert isinstance(item, tim_trio.SourceJoined)
            assert seqs == list(range(seqs[-1] + 1))
            assert source.number == 1


# Signed tokens


async def test_by_a_signed_token(tmp_path: Path) -> None:
    async with token_server(tmp_path) as (running, token):
        async with to(running, token=token()) as alice:
            assert alice.account == "alice"
            assert alice.session_token == b""
        # Longer than what a server takes before it has said WELCOME.
        long = token(filler="x" * 2500)
        assert len(long) > 3000
        async with to(running, token=long.encode(), account="alice") as alice:
            assert alice.account == "alice"
        for how in ({"token": token("bob"), "account": "alice"}, {"token": token(lifetime_s=-60)}):
            with pytest.raises(tim_trio.BadCredentials):
                async with to(running, **how):
                    raise AssertionError("not reached")


@pytest.mark.slow
async def test_a_fresh_token_goes_on_where_the_old_one_ends(tmp_path: Path) -> None:
    async with token_server(tmp_path) as (running, token):
        asked = 0

        async def fresh() -> str:
            nonlocal asked
            asked += 1
            await trio.lowlevel.checkpoint()
            # The server allows clocks to differ by 5 seconds, and counts whole ones.
            return token(lifetime_s=2.0)

        async with to(running, token=fresh) as alice:
            room = await alice.register_room()
            async with alice.publish(room) as source:
                await eventually(lambda: asked >= 2, "a fresh token is asked for")
                await source.send(b"x")
                assert source.number == 1
            events = alice.events()
            assert not events._queue


async def test_who_makes_no_fresh_tokens(tmp_path: Path) -> None:
    async with token_server(tmp_path) as (running, _):

        def broken() -> str:
            raise OSError("secret text")

        with pytest.raises(tim_trio.ConnectFailed) as caught:
            async with to(running, token=broken):
                raise AssertionError("not reached")
        assert str(caught.value) == "no fresh token: its function raised OSError"


# By script: what comes back after which close


@attrs.define
class _Signs:
    methods: list[tuple[AuthMethod, bytes]] = attrs.Factory(list)

    async def greet(self, network: Network, *, expires_ms: int = 0, session: bytes = b"") -> Any:
        server = await network._got.receive()
        await server.answer(messages.Hello, WELCOME)
        who, number = await server.expect(messages.Authenticate)
        self.methods.append((who.method, who.secret))
        answer = messages.AuthenticateAnswer(
            account="alice", rights=2, session_token=session, expires_ms=expires_ms
        )
        await server.send(answer, request_id=number)
        return server


async def test_what_has_expired_comes_back_with_a_fresh_token_alone(
    autojump_clock: MockClock,
) -> None:
    tokens = iter([b"first", b"second"])
    signs, network = _Signs(), Network()
    async with open_plain_nursery() as nursery:
        stream = await network.dial(None)

        async def serve() -> None:
            server = await signs.greet(network)
            await server.send(close(Code.EXPIRED))
            again = await signs.greet(network)
            await trio.sleep(1)
            await again.send(close(Code.BANNED))

        nursery.start_soon(serve)
        how: dict[str, Any] = {"token": lambda: next(tokens), "dial": network.dial}
        async with open_client(stream, **how) as client:
            events = client.events()
            assert isinstance(await anext(events), tim_trio.Reconnecting)
            assert isinstance(await anext(events), tim_trio.Reconnected)
            with pytest.raises(tim_trio.ConnectionClosed) as caught:
                await anext(events)
    assert caught.value.code == Code.BANNED
    assert signs.methods == [
        (AuthMethod.SIGNED_TOKEN, b"first"),
        (AuthMethod.SIGNED_TOKEN, b"second"),
    ]


async def test_a_token_without_a_function_does_not_come_back(autojump_clock: MockClock) -> None:
    signs, network = _Signs(), Network()
    async with open_plain_nursery() as nursery:
        stream = await network.dial(None)

        async def serve() -> None:
            server = await signs.greet(network)
            await server.send(close(Code.EXPIRED))

        nursery.start_soon(serve)
        async with open_client(stream, token="only", dial=network.dial) as client:
            with pytest.raises(tim_trio.ConnectionClosed):
                await anext(client.events())
    assert len(signs.methods) == 1


@pytest.mark.parametrize("now", [0.0, 1e9])
def test_when_a_sign_in_is_renewed(now: float) -> None:
    def wait_s(left_s: float) -> float | None:
        return renewal_wait_s(int((now + left_s) * 1000), now)

    for _ in range(20):
        assert 0.8 <= (wait_s(1.0) or 0) <= 0.9
        assert 3600 - 60 <= (wait_s(3600) or 0) <= 3600 - 30
    assert renewal_wait_s(0, now) is None
    assert wait_s(-1) is None


# What does not fit together


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"account": "a b"},
        {"account": "a", "password": ""},
        {"account": "a", "password": "x" * 4097},
        {"account": "a", "password": "x", "token": "y"},
        {"session_token": "x", "token": "y"},
        {"token": b""},
    ],
)
async def test_what_does_not_fit_together_is_said_before_anybody_is_dialled(
    how: dict[str, Any],
) -> None:
    with pytest.raises(ValueError, match=r"give|name|must") as caught:
        async with tim_trio.connect("tim://127.0.0.1:1", **how):
            raise AssertionError("not reached")
    assert "xxx" not in str(caught.value)


def test_credentials_show_no_secret() -> None:
    credentials = Credentials.check(
        "alice", password="hush", session_token="psst", token=None, device=""
    )
    assert "hush" not in repr(credentials) and "psst" not in repr(credentials)
