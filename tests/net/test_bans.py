"""Bans over real connections, in every mode, through the client library."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import trio

import tim_trio
from tests.accounts.cheap import CHEAP, cheap_hasher
from tests.net.running import Running, running_server
from tests.net.test_client_sign_in import PASSWORD, to
from tim_trio.accounts.authenticator import StoreAuthenticator
from tim_trio.accounts.store import AccountState, Store, default_database_url
from tim_trio.accounts.tokens import KeyFile, TokenAuthenticator, make_token
from tim_trio.errors import Code
from tim_trio.limits import Limits
from tim_trio.net.client import Client
from tim_trio.protocol.messages import AuthMode, RoomClosedReason, SourceLeftReason

SignIn = Callable[[str], AbstractAsyncContextManager[Client]]


@asynccontextmanager
async def serving(mode: AuthMode, tmp_path: Path) -> AsyncIterator[tuple[Running, SignIn]]:
    """A server of a mode, and how accounts sign in there; ``op`` is its operator."""
    match mode:
        case AuthMode.OPEN:
            async with running_server() as running:
                yield running, lambda account: to(running, account=account)
        case AuthMode.ACCOUNTS:
            store = Store(default_database_url(tmp_path))
            store.open()
            if not store.list_accounts():
                for name in ("alice", "bob", "op"):
                    store.add_account(name, CHEAP.hash(PASSWORD), operator=name == "op")
            authenticator = StoreAuthenticator(store, Limits(), hasher=cheap_hasher())
            async with running_server(authenticator=authenticator, close=store.close) as running:
                yield running, lambda account: to(running, account=account, password=PASSWORD)
        case AuthMode.TOKEN:
            path = tmp_path / "key"
            path.write_bytes(b"x" * 32)
            key = KeyFile(path)

            def sign_in(account: str) -> AbstractAsyncContextManager[Client]:
                claims: dict[str, object] = {"sub": account, "exp": time.time() + 60}
                if account == "op":
                    claims["tim"] = {"operator": True}
                return to(running, token=make_token(key.key, claims))

            async with running_server(authenticator=TokenAuthenticator(key, Limits())) as running:
                yield running, sign_in


async def stream_while_banned(publisher: Client, room: str, operator: Client) -> None:
    """Push for a second from the ban on, which must not last so long."""
    async with publisher.publish(room) as source:
        await source.send(b"1")
        await operator.ban_account(publisher.account, "spam")
        with trio.fail_after(1):
            while True:
                await source.send(b"more")
                await trio.sleep(0.01)


@pytest.mark.parametrize("mode", AuthMode)
async def test_a_banned_account_is_out_while_it_streams(mode: AuthMode, tmp_path: Path) -> None:
    async with (
        serving(mode, tmp_path) as (running, sign_in),
        sign_in("op") as operator,
        sign_in("bob") as bob,
        sign_in("alice") as alice,
        sign_in("alice") as other,
    ):
        room = await alice.register_room()
        async with bob.subscribe(room) as stream:
            with pytest.raises(tim_trio.ConnectionClosed) as caught:
                await stream_while_banned(alice, room, operator)
            assert caught.value.code == Code.BANNED
            with pytest.raises(tim_trio.ConnectionClosed) as caught, trio.fail_after(1):
                await anext(other.events())
            assert caught.value.code == Code.BANNED
            with trio.fail_after(2):
                left = await anext(stream)
                while not isinstance(left, tim_trio.SourceLeft):
                    left = await anext(stream)
            assert left.reason == SourceLeftReason.REVOKED
        with pytest.raises(tim_trio.PermissionDenied, match="banned"):
            async with sign_in("alice"):
                raise AssertionError("not reached")
        # The room is not the account, and nobody else is concerned.
        assert (await bob.room_info(room)).creator == "alice"
        assert running.node.account_bans == 1
        with pytest.raises(tim_trio.RoomError) as refused:
            await operator.ban_account("op")
        assert refused.value.code == Code.BAD_REQUEST


async def test_a_ban_is_kept_with_the_accounts_until_it_is_taken_back(tmp_path: Path) -> None:
    mode = AuthMode.ACCOUNTS
    async with serving(mode, tmp_path) as (_, sign_in), sign_in("op") as operator:
        await operator.ban_account("alice")
        with pytest.raises(tim_trio.RoomError) as refused:
            await operator.ban_account("nobody")
        assert refused.value.code == Code.NO_SUCH_ACCOUNT
    async with serving(mode, tmp_path) as (_, sign_in):
        with pytest.raises(tim_trio.PermissionDenied, match="banned"):
            async with sign_in("alice"):
                raise AssertionError("not reached")
        store = Store(default_database_url(tmp_path))
        store.open()
        store.set_state("alice", AccountState.ACTIVE)
        store.close()
        async with sign_in("alice") as alice:
            assert alice.account == "alice"


@pytest.mark.parametrize("mode", [AuthMode.ACCOUNTS, AuthMode.TOKEN])
async def test_operators_alone_ban_and_see_everything(mode: AuthMode, tmp_path: Path) -> None:
    async with (
        serving(mode, tmp_path) as (running, sign_in),
        sign_in("op") as operator,
        sign_in("alice") as alice,
        sign_in("bob") as bob,
    ):
        room = await alice.register_room()
        await alice.grant(room, "bob")
        for act in (
            lambda: bob.ban_room(room),
            lambda: bob.ban_account("alice"),
            lambda: bob.list_rooms(all_rooms=True),
        ):
            with pytest.raises(tim_trio.PermissionDenied):
                await act()
        assert (await bob.room_info(room)).granted == []
        assert (await operator.room_info(room)).granted == ["bob"]
        assert [each.creator for each in await operator.list_rooms(all_rooms=True)] == ["alice"]
        async with alice.subscribe(room) as stream:
            await operator.ban_room(room, "not in here")
            with pytest.raises(tim_trio.RoomClosed, match="by an operator: not in here") as closed:
                await anext(stream)
            assert closed.value.reason == RoomClosedReason.BANNED
        with pytest.raises(tim_trio.NoSuchRoom):
            await alice.room_info(room)
        assert running.node.room_bans == 1


async def test_what_was_left_behind_is_not_waited_for() -> None:
    async with (
        running_server() as running,
        to(running, account="op") as operator,
        to(running, account="bob") as bob,
    ):
        publisher, room = await running.published_room()
        async with bob.subscribe(room) as stream:
            publisher.reset()
            await running.until_gone(2)
            await operator.ban_account("alice")
            with trio.fail_after(1):
                left = await anext(stream)
            assert isinstance(left, tim_trio.SourceLeft)
            assert left.reason == SourceLeftReason.REVOKED
