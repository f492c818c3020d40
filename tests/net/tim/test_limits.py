"""Limits as clients of TIM's meet them: the same as everybody's, told in their codes, and counted.

Those of the connection itself are in test_wire: how many, until when, how much at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.accounts.cheap import CHEAP, cheap_hasher
from tests.net.running import Running, running_server
from tests.net.tim.client import (
    AUTH,
    BIG_BINARY,
    REGISTER,
    ROOM,
    STREAM,
    TOKEN,
    TimClient,
    big,
    encode,
    tim_client,
)
from tests.net.tim.test_credentials import post
from tests.net.tim.test_wire import wire
from tests.net.wsclient import ws_frame
from tim_trio.accounts.authenticator import StoreAuthenticator
from tim_trio.accounts.store import Store, default_database_url
from tim_trio.errors import Code
from tim_trio.limits import Limits
from tim_trio.protocol.tim.structs import ErrorCode

PASSWORD = "correct horse"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(default_database_url(tmp_path))
    store.open()
    store.add_account("alice", CHEAP.hash(PASSWORD.encode()))
    yield store
    store.close()


@asynccontextmanager
async def accounts_server(store: Store, **limits: Any) -> AsyncIterator[Running]:
    bounds = Limits(**limits)
    authenticator = StoreAuthenticator(store, bounds, registration="open", hasher=cheap_hasher())
    async with running_server(bounds, authenticator=authenticator, close=store.close) as running:
        yield running


async def error_of(client: TimClient, kind: int, **members: Any) -> int:
    ack = await client.ask(kind, **members)
    assert not ack.get("ok") and ack["timType"] == kind, ack
    code: int = ack["error"]["code"]
    return code


def wrong(kind: int) -> dict[str, Any]:
    """Return the members of a packet that takes a password, and has a wrong one."""
    name = "bob" if kind == REGISTER else "alice"
    return {"name": name, "pwd": "battery staple"}


@pytest.mark.parametrize("kind", [AUTH, TOKEN])
@pytest.mark.parametrize(
    "limit", ["logins_per_minute_per_account", "logins_per_minute_per_address"]
)
async def test_logins_a_minute(kind: int, limit: str, store: Store) -> None:
    async with (
        accounts_server(store, **{limit: 1}) as running,
        tim_client(running.web_port, None) as client,
    ):
        assert await error_of(client, kind, **wrong(kind)) == ErrorCode.NOT_PASSED
        assert running.node.limited[limit] == 0
        assert await error_of(client, kind, **wrong(kind)) == ErrorCode.RATE
        assert running.node.limited[limit] == 1


@pytest.mark.parametrize("kind", [TOKEN, REGISTER])
async def test_logins_a_minute_by_post(kind: int, store: Store) -> None:
    limit = "logins_per_minute_per_address"
    async with accounts_server(store, **{limit: 1}) as running:
        packet = encode("json", kind, wrong(kind))
        await post(running, "json", packet)
        assert running.node.limited[limit] == 0
        assert (await post(running, "json", packet))["error"]["code"] == ErrorCode.RATE
        assert running.node.limited[limit] == 1


@pytest.mark.parametrize(
    "kind, members",
    [(AUTH, wrong(AUTH)), (TOKEN, wrong(TOKEN)), (AUTH, {"name": "alice", "token": "made up"})],
)
async def test_failed_logins_of_a_connection(
    kind: int, members: dict[str, Any], store: Store
) -> None:
    async with accounts_server(store, max_failed_logins=1) as running, wire(running) as client:
        await client.send_raw(ws_frame(encode("json", kind, members)) * 2)
        assert await client.until_close() == Code.AUTHENTICATION_FAILED + 3000
        assert running.node.limited["max_failed_logins"] == 1


async def test_rooms_and_subscriptions() -> None:
    limits = Limits(max_rooms_per_account=2, max_subscriptions=1)
    async with (
        running_server(limits) as running,
        tim_client(running.web_port, "alice") as client,
    ):
        rooms = [await client.register() for _ in range(2)]
        assert await error_of(client, ROOM, rtype=1) == ErrorCode.OVERLOAD
        await client.subscribe(rooms[0])
        assert await error_of(client, ROOM, rtype=5, node=rooms[1]) == ErrorCode.OVERLOAD
        assert running.node.limited == {"max_rooms_per_account": 1, "max_subscriptions": 1}


async def test_bytes_of_streams_a_second() -> None:
    limits = Limits(stream_bytes_per_s=100_000, max_slowed_s=0.2, close_timeout_s=0.2)
    async with running_server(limits) as running, wire(running) as client:
        await client.sign_in()
        await client.send_raw(ws_frame(encode("json", ROOM, {"rtype": 1})))
        _, ack = await client.next_packet()
        frame = ws_frame(encode("json", STREAM, {"VNode": ack["n"], "body": bytes(10_000)}))
        async with trio.open_nursery() as nursery:

            async def push() -> None:
                with contextlib.suppress(OSError):  # closed in the middle
                    while True:
                        await client.send_raw(frame)

            nursery.start_soon(push)
            assert await client.until_close() == Code.FLOODING + 3000
            nursery.cancel_scope.cancel()
        assert running.node.limited["stream_bytes_per_s"] > 1
        assert running.node.limited["max_slowed_s"] == 1


async def test_bytes_to_accounts_a_second() -> None:
    limits = Limits(account_stream_bytes_per_s=10_000, max_slowed_s=0.3)
    async with (
        running_server(limits) as running,
        tim_client(running.web_port, "alice") as client,
        tim_client(running.web_port, "bob") as bob,
    ):
        for _ in range(10):
            await client.send_raw(big(BIG_BINARY, "bob", b"\x83", bytes(6000)))
        _, ack = await client.receive()
        assert ack["error"]["code"] == ErrorCode.RATE
        assert await bob.receive()
        assert running.node.limited["account_stream_bytes_per_s"]
