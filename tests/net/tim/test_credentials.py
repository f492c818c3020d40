"""Passwords, tokens and registration: over `/tim` and `/tim2`, in every mode."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.accounts.cheap import CHEAP, cheap_hasher
from tests.core.builders import FakeAuthenticator
from tests.net.running import Running, running_server
from tests.net.tim.client import ACK, AUTH, REGISTER, ROOM, TOKEN, decode, encode, tim_client
from tests.net.tim.test_wire import wire
from tests.net.wsclient import WsClient, ws_frame
from tim_trio.accounts.authenticator import StoreAuthenticator
from tim_trio.accounts.store import Store, default_database_url
from tim_trio.core.addresses import network_of
from tim_trio.errors import Code, RoomError, room_error
from tim_trio.limits import Limits
from tim_trio.net.tim.credentials import Credentials, OneTimeTokens, tim_error
from tim_trio.protocol.messages import Authenticate, AuthMethod, AuthMode
from tim_trio.protocol.tim.structs import ErrorCode, TimAuth

PASSWORD = "correct horse"
FORMS = pytest.mark.parametrize("form", ["json", "thrift"])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(default_database_url(tmp_path))
    store.open()
    store.add_account("alice", CHEAP.hash(PASSWORD.encode()))
    yield store
    store.close()


@asynccontextmanager
async def accounts_server(store: Store, **limits: Any) -> AsyncIterator[Running]:
    authenticator = StoreAuthenticator(
        store, Limits(), registration="open", session_lifetime_s=3600, hasher=cheap_hasher()
    )
    async with running_server(
        Limits(**limits), authenticator=authenticator, close=store.close
    ) as running:
        yield running


async def post_raw(running: Running, body: bytes, **headers: str) -> tuple[int, bytes]:
    client = await WsClient.connect(running.web_port)
    assert isinstance(client, WsClient)
    headers = {"Host": "localhost", "Content-Length": str(len(body)), **headers}
    lines = ["POST /tim2 HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    status, _, answer = await client.ask_http("\r\n".join([*lines, "", ""]).encode() + body)
    client.close()
    return status, answer


async def post(running: Running, form: str, body: bytes) -> Any:
    """Return the ACK that answers a packet at `/tim2`."""
    status, answer = await post_raw(running, body)
    assert status == 200, answer
    kind, ack = decode(form, answer)
    assert kind == ACK
    return ack


@FORMS
async def test_by_password_by_token_and_by_registering_first(form: str, store: Store) -> None:
    async with accounts_server(store) as running:
        async with tim_client(running.web_port, None, form) as client:
            ack = await client.ask(AUTH, name="alice", pwd="wrong")
            assert (ack["ok"], ack["error"]["code"]) == (False, 4102)
            await client.sign_in("alice", pwd=PASSWORD, resource="phone")
            assert (await client.ask(ROOM, rtype=1))["ok"]
        ack = await post(running, form, encode(form, TOKEN, {"name": "alice", "pwd": PASSWORD}))
        assert (ack["ok"], ack["timType"]) == (True, TOKEN)
        async with tim_client(running.web_port, "alice", form, token=ack["n"]):
            pass
        async with tim_client(running.web_port, None, form) as client:
            again = await client.ask(AUTH, name="alice", token=ack["n"])
            assert again["error"]["code"] == 4115
        wrong = await post(running, form, encode(form, TOKEN, {"name": "alice", "pwd": "no"}))
        assert wrong["error"]["code"] == 4102

        new = {"name": "bob", "pwd": "battery staple"}
        ack = await post(running, form, encode(form, REGISTER, new))
        assert ack == {"ok": True, "timType": REGISTER, "n": "bob"}
        ack = await post(running, form, encode(form, REGISTER, new))
        assert ack["error"]["code"] == 4101
        weak = {"name": "carol", "pwd": "x"}
        assert (await post(running, form, encode(form, REGISTER, weak)))["error"]["code"] == 4104
        async with tim_client(running.web_port, "bob", form, pwd="battery staple"):
            pass


async def test_too_many_wrong_passwords(store: Store) -> None:
    async with accounts_server(store, max_failed_logins=2) as running, wire(running) as client:
        for _ in range(3):
            await client.send_raw(ws_frame(encode("json", AUTH, {"name": "alice", "pwd": "no"})))
        assert await client.until_close() == Code.AUTHENTICATION_FAILED + 3000


@FORMS
async def test_what_is_not_for_a_post(form: str) -> None:
    async with running_server() as running:
        for kind in (AUTH, ROOM):
            ack = await post(running, form, encode(form, kind, {}))
            assert (ack["ok"], ack["timType"], ack["error"]["code"]) == (False, kind, 4107)
        bit = b"\x8f" if form == "json" else b"\x0f"
        ack = await post(running, form, bit + b"\xff")
        assert (ack["timType"], ack["error"]["code"]) == (TOKEN, 4113)
        if form == "thrift":
            ack = await post(running, form, b"")
            assert ack["error"]["code"] == 4107


async def test_a_post_from_a_page_elsewhere() -> None:
    async with running_server() as running:
        body = encode("json", TOKEN, {"name": "alice"})
        status, _ = await post_raw(running, body, Origin="http://evil")
        assert status == 403


async def test_signed_tokens_come_from_elsewhere() -> None:
    fake = FakeAuthenticator()
    fake.mode = AuthMode.TOKEN
    credentials = Credentials(fake)
    request = credentials.to_authenticate(TimAuth(name="alice", token="a.b.c"))
    assert request == Authenticate(
        method=AuthMethod.SIGNED_TOKEN, account="alice", secret=b"a.b.c", device=""
    )
    assert credentials.to_authenticate(TimAuth(pwd="a.b.c")).secret == b"a.b.c"
    ack = json.loads((await credentials.serve_packet(b'\x8f{"name":"alice"}', ""))[1:])
    assert ack["error"]["code"] == 4107
    with pytest.raises(RoomError):
        credentials.to_authenticate(TimAuth(name="not a name", token="a.b.c"))
    with pytest.raises(RoomError, match="too long"):
        credentials.to_authenticate(TimAuth(name="alice", token="x" * 4097))


async def test_what_is_too_long() -> None:
    credentials = Credentials(FakeAuthenticator())
    assert credentials.to_authenticate(TimAuth(name="a", resource="x" * 1025)).device == ""
    packet = json.dumps({"name": "bob", "pwd": "x" * 4097}).encode()
    ack = json.loads((await credentials.serve_packet(b"\x8e" + packet, ""))[1:])
    assert ack["error"]["code"] == 4104


async def test_tokens_age_and_are_bounded(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setattr("tim_trio.net.tim.credentials._MAX_TOKENS", 3)
    request = Authenticate(method=AuthMethod.NAME, account="alice", secret=b"", device="")
    tokens = OneTimeTokens()
    issued = [tokens.issue(request, 0.0) for _ in range(4)]
    assert len(set(issued)) == 4
    with pytest.raises(RoomError):
        tokens.redeem(issued[0], "alice", 1.0)  # the oldest was forgotten
    assert tokens.redeem(issued[1], "", 1.0) is request
    with pytest.raises(RoomError):
        tokens.redeem(issued[2], "alice", 301.0)
    tokens.issue(request, 302.0)
    assert len(tokens._issued) == 1, "what is too old is forgotten"


def test_every_error_has_a_code_of_theirs() -> None:
    for code in Code:
        if code >= 2000:
            assert tim_error(room_error(code, "why")).info == "why"
    assert tim_error(room_error(Code.TOKEN_IN_USE)).code == ErrorCode.UNDEFINED


async def test_posts_count_as_requests_of_their_address() -> None:
    async with running_server(Limits(commands_per_s_per_address=10)) as running:
        rate = running.manager.address_rates.of(network_of("127.0.0.1"), trio.current_time())
        status, _ = await post_raw(running, b"\x0d")
        assert (status, running.node.limited["commands_per_s_per_address"]) == (200, 0)
        assert rate.charge(204, trio.current_time()) > 0  # as many requests would
        status, _ = await post_raw(running, b"\x0d")
        assert (status, running.node.limited["commands_per_s_per_address"]) == (200, 1)
