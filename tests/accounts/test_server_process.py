"""Accounts and tokens in a server process: other processes, SIGKILL, secrets."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from tests.net.rawclient import HELLO, RawClient, frame
from tests.test_app import Process, server_process
from tim_trio.accounts.store import Store, default_database_url
from tim_trio.accounts.tokens import claims_for, make_token, read_key
from tim_trio.cli.account import _hash
from tim_trio.errors import Code
from tim_trio.protocol import messages
from tim_trio.protocol.messages import AuthMethod

_ROOT: Final = Path(__file__).resolve().parent.parent.parent
PASSWORD: Final = b"correct horse battery"

pytestmark = pytest.mark.slow


async def greet(server: Process) -> tuple[RawClient, messages.Welcome]:
    client = await RawClient.connect(await server.port())
    return client, await client.request(HELLO, messages.Welcome)


def sign_in(account: str, secret: bytes, method: AuthMethod) -> messages.Authenticate:
    return messages.Authenticate(method=method, account=account, secret=secret, device="")


def register(account: str) -> messages.RegisterAccount:
    return messages.RegisterAccount(account=account, password=PASSWORD, invitation=b"")


async def test_what_was_answered_survives_sigkill_of_the_server(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "auth": "accounts",
        "registration": "open",
        "database_url": default_database_url(tmp_path),
    }
    async with server_process(**options) as server:
        client, welcome = await greet(server)
        assert welcome.auth_mode is messages.AuthMode.ACCOUNTS
        assert welcome.capabilities & messages.Capability.ACCOUNTS
        await client.request(register("alice"), messages.RegisterAccountAnswer)
        answer = await client.request(
            sign_in("alice", PASSWORD, AuthMethod.PASSWORD), messages.AuthenticateAnswer
        )
        change = messages.ChangePassword(old=PASSWORD, new=PASSWORD[::-1])
        await client.request(change, messages.ChangePasswordAnswer)
        server.process.kill()
        await server.wait()
        client.close()
    assert b"horse" not in server.errors
    assert answer.session_token not in server.errors
    async with server_process(**options) as server:
        for secret, method in (
            (answer.session_token, AuthMethod.SESSION),
            (PASSWORD[::-1], AuthMethod.PASSWORD),
        ):
            client, _ = await greet(server)
            await client.request(sign_in("alice", secret, method), messages.AuthenticateAnswer)
            client.close()
        client, _ = await greet(server)
        old = sign_in("alice", PASSWORD, AuthMethod.PASSWORD)
        await client.refused(old, Code.BAD_CREDENTIALS)
        client.close()


async def test_the_command_line_ends_a_running_stream(tmp_path: Path) -> None:
    url = default_database_url(tmp_path)
    store = Store(url)
    store.open()
    for name in ("alice", "bob"):
        store.add_account(name, _hash(PASSWORD, name))
    store.close()
    async with server_process(auth="accounts", database_url=url) as server:
        clients = []
        for name in ("alice", "bob"):
            client, _ = await greet(server)
            await client.request(
                sign_in(name, PASSWORD, AuthMethod.PASSWORD), messages.AuthenticateAnswer
            )
            clients.append(client)
        alice, bob = clients
        room = await alice.register()
        await alice.publish(room)
        await bob.subscribe(room)
        await alice.send(frame(room, 0))
        await bob.expect_frames(room, 0, 0)
        await trio.run_process(
            [sys.executable, "-m", "tim_trio", "account", "disable", "alice"],
            cwd=_ROOT,
            env={"TIM_TRIO_DATABASE_URL": url},
        )
        before = await alice.expect_close(Code.DISABLED)
        assert all(isinstance(item, messages.Viewers) for item in before)
        left = await bob.expect(messages.SourceLeft)
        assert left.reason == messages.SourceLeftReason.REVOKED
        assert await bob.is_served()
        bob.close()


async def test_a_signed_token_from_a_process_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"0123456789abcdef0123456789abcdef")
    made = make_token(read_key(path), claims_for("alice", lifetime_s=3600)).encode()
    async with server_process(auth="token", token_key_file=str(path)) as server:
        client, welcome = await greet(server)
        assert welcome.auth_mode is messages.AuthMode.TOKEN
        answer = await client.request(
            sign_in("", made, AuthMethod.SIGNED_TOKEN), messages.AuthenticateAnswer
        )
        assert answer.account == "alice"
        client.close()
        assert made not in server.errors


@pytest.mark.parametrize(
    "options, text",
    [
        ({"auth": "token", "token_key_file": "/no/such/key"}, b"cannot read /no/such/key"),
        ({"auth": "accounts", "database_url": "sqlite://"}, b"must name a file"),
    ],
)
async def test_what_cannot_be_opened_is_one_line_and_exit_code_1(
    options: dict[str, Any], text: bytes
) -> None:
    async with server_process(**options) as server:
        assert await server.wait() == 1
    assert text in server.errors
    assert server.errors.count(b"\n") == 1
