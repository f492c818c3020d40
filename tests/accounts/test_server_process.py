"""Accounts and tokens in a server process: other processes, SIGKILL, secrets."""

from __future__ import annotations

import random
import sqlite3
import sys
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from tests.net.rawclient import HELLO, RawClient, frame
from tests.net.running import eventually
from tests.test_app import Process, server_process
from tim_trio.accounts.relations import StoreRelations
from tim_trio.accounts.store import Store, default_database_url
from tim_trio.accounts.tokens import claims_for, make_token, read_key
from tim_trio.cli.account import _hash
from tim_trio.errors import Code
from tim_trio.protocol import messages
from tim_trio.protocol.messages import AuthMethod, ContactAction, ContactState

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


class Friend:
    """Goes on making, ending and blocking contacts, and knows what was acknowledged."""

    def __init__(self, name: str, token: bytes, seed: int) -> None:
        self.name = name
        self.token = token
        self.random = random.Random(seed)
        #: What the other side is to us: after the last answer, and after what is under way.
        self.acknowledged: dict[str, ContactState] = {}
        self.under_way: dict[str, ContactState] = {}
        self.answers = 0

    async def go_on(self, port: int) -> None:
        """Until the server dies."""
        client = await RawClient.connect(port)
        try:
            await client.request(HELLO, messages.Welcome)
            signed = sign_in("", self.token, AuthMethod.SESSION)
            await client.request(signed, messages.AuthenticateAnswer)
            while True:
                other = self.random.choice(["away-1", "away-2", "away-3"])
                was = self.acknowledged.get(other, ContactState.NONE)
                action, then = self.random.choice(STEPS[was])
                self.under_way[other] = then
                request = messages.Contact(action=action, account=other)
                answer = await client.request(request, messages.ContactAnswer)
                assert answer.state == then
                self.acknowledged[other] = then
                del self.under_way[other]
                self.answers += 1
        except (AssertionError, OSError, trio.BrokenResourceError) as end:
            # The server has died: there was no answer.
            if isinstance(end, AssertionError) and "the connection ended" not in str(end):
                raise
        finally:
            client.close()

    def check(self, relations: StoreRelations) -> None:
        """What was acknowledged is there; what was under way, wholly or not at all."""
        _, entries = relations.list_blocking(self.name, "", 0)
        there = {entry.account: ContactState(entry.state) for entry in entries}
        for other in {*self.acknowledged, *self.under_way}:
            state = there.pop(other, ContactState.NONE)
            was = self.acknowledged.get(other, ContactState.NONE)
            assert state in (was, self.under_way.get(other, was))
            # From the other side it looks accordingly: the write was one.
            _, theirs = relations.list_blocking(other, "", 0)
            link = {entry.account: entry.state for entry in theirs}.get(self.name, 0)
            asked = state is ContactState.ASKED_BY_ME
            assert link == (ContactState.ASKED_BY_THEM if asked else ContactState.NONE)
            self.acknowledged[other] = state
        assert not there
        self.under_way.clear()


ASKED, BLOCKED = ContactState.ASKED_BY_ME, ContactState.BLOCKED_BY_ME
#: What one side can do alone, and where it leads.
STEPS: Final = {
    ContactState.NONE: [(ContactAction.ASK, ASKED), (ContactAction.BLOCK, BLOCKED)],
    ASKED: [(ContactAction.REMOVE, ContactState.NONE), (ContactAction.BLOCK, BLOCKED)],
    BLOCKED: [(ContactAction.UNBLOCK, ContactState.NONE), (ContactAction.ASK, BLOCKED)],
}


async def test_sigkill_in_the_middle_of_writes_loses_nothing_that_was_answered(
    tmp_path: Path,
) -> None:
    url = default_database_url(tmp_path)
    store = Store(url)
    store.open()
    friends = []
    for number in range(4):
        store.add_account(f"friend-{number}", "no password fits")
        identity = store.open_session(f"friend-{number}", "", lifetime_s=3600, max_devices=9)
        friends.append(Friend(f"friend-{number}", identity.session_token, number))
    for number in (1, 2, 3):
        store.add_account(f"away-{number}", "no password fits")
    store.close()
    died_in_a_write = 0
    for round_ in range(4):
        async with server_process(auth="accounts", database_url=url) as server:
            port = await server.port()
            async with trio.open_nursery() as nursery:
                for friend in friends:
                    nursery.start_soon(friend.go_on, port)
                enough = sum(friend.answers for friend in friends) + 40 + 13 * round_
                await eventually(
                    lambda: sum(friend.answers for friend in friends) >= enough,  # noqa: B023
                    "there are answers",
                )
                server.process.kill()
        died_in_a_write += any(friend.under_way for friend in friends)
        store.open()
        relations = StoreRelations(store)
        for friend in friends:
            friend.check(relations)
        store.close()
        with sqlite3.connect(tmp_path / "accounts.db") as raw:
            assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        raw.close()
    assert died_in_a_write


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
