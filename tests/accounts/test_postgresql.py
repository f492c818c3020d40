"""Accounts in PostgreSQL, where several nodes share them and the server may fail."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

import pytest
import trio
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from tests.accounts.cheap import CHEAP, cheap_hasher
from tests.net.rawclient import HELLO, RawClient
from tests.net.running import running_server
from tests.postgresql_process import PASSWORD, QUOTED, PostgresqlServer, running_postgresql
from tim_trio.accounts import postgresql as postgresql_module
from tim_trio.accounts.authenticator import StoreAuthenticator, StoreThreads
from tim_trio.accounts.database import OutcomeUnknown, retried
from tim_trio.accounts.postgresql import Overdue
from tim_trio.accounts.relations import StoreRelations
from tim_trio.accounts.schema import StoreError
from tim_trio.accounts.store import AccountState, Store
from tim_trio.core.revocation import Revocation
from tim_trio.errors import Code, RoomError
from tim_trio.limits import Limits
from tim_trio.protocol import messages
from tim_trio.protocol.messages import AuthMethod, ContactAction, ContactState

DAY_S: Final = 86400.0


@pytest.fixture
def nodes(postgresql_url: str) -> Iterator[list[Store]]:
    """The stores of three nodes that share a database."""
    stores = [Store(postgresql_url) for _ in range(3)]
    for store in stores:
        store.open()
    yield stores
    for store in stores:
        store.close()


def at_once(*works: Callable[[], object]) -> None:
    """Call all in threads that begin together; raise what any raises."""
    barrier = threading.Barrier(len(works))

    def work(each: Callable[[], object]) -> None:
        barrier.wait()
        each()

    with ThreadPoolExecutor(len(works)) as pool:
        for future in [pool.submit(work, each) for each in works]:
            future.result()


@contextlib.contextmanager
def allowed(*codes: Code) -> Iterator[None]:
    try:
        yield
    except RoomError as error:
        if error.code not in codes:
            raise


# Several nodes at once


def test_logins_at_several_nodes_keep_to_the_bound_of_devices(nodes: list[Store]) -> None:
    nodes[0].add_account("alice", "hash")

    def log_in(store: Store) -> None:
        for _ in range(6):
            identity = store.open_session("alice", "", lifetime_s=DAY_S, max_devices=3)
            with allowed(Code.BAD_CREDENTIALS):  # newer ones have come meanwhile
                store.use_session(identity.session_token, lifetime_s=DAY_S)

    at_once(*(partial(log_in, store) for store in nodes))
    (account,) = nodes[0].list_accounts()
    assert account.devices == 3
    assert len(nodes[0].revocations_after(0)) == 3 * 6 - 3


def test_a_name_and_an_invitation_are_taken_once(nodes: list[Store]) -> None:
    codes: list[int] = []

    def register(store: Store, name: str, invitation: bytes | None) -> None:
        try:
            store.add_account(name, "hash", invitation=invitation)
        except RoomError as error:
            codes.append(error.code)

    for i in range(10):
        at_once(*(partial(register, store, f"account-{i}", None) for store in nodes))
        assert codes == [Code.ACCOUNT_EXISTS] * 2
        codes.clear()
        invitation = nodes[0].add_invitation(DAY_S)
        names = (f"guest-{i}-{n}" for n in range(3))
        at_once(*(partial(register, store, next(names), invitation) for store in nodes))
        assert codes == [Code.REGISTRATION_CLOSED] * 2
        codes.clear()


def test_contacts_that_both_sides_change_at_once_stay_each_others_mirror(
    nodes: list[Store],
) -> None:
    names = ("alice", "bob", "carol")
    for name in names:
        nodes[0].add_account(name, "hash")

    def act(store: Store, seed: int) -> None:
        dice = random.Random(seed)
        relations = StoreRelations(store, max_contacts=1)
        for _ in range(25):
            account, other = dice.sample(names, 2)
            with allowed(Code.TOO_MANY_CONTACTS):
                relations.contact_blocking(account, dice.choice(list(ContactAction)), other)

    at_once(*(partial(act, store, seed) for seed, store in enumerate(nodes)))
    mirrored = {
        ContactState.ASKED_BY_ME: ContactState.ASKED_BY_THEM,
        ContactState.ASKED_BY_THEM: ContactState.ASKED_BY_ME,
        ContactState.CONTACT: ContactState.CONTACT,
    }
    with nodes[0].read() as connection:
        links = {
            (row.account, row.other): ContactState(row.state)
            for row in connection.execute(text("SELECT account, other, state FROM links"))
        }
    for (account, other), state in links.items():
        assert links[other, account] is mirrored[state]
    for name in names:
        assert sum(account == name for account, _ in links) <= 1


def test_no_revocation_is_overlooked_by_who_has_seen_a_later_one(nodes: list[Store]) -> None:
    reader, *writers = nodes
    names = [f"account-{i}" for i in range(6)]
    for name in names:
        reader.add_account(name, "hash")
    seen: list[Revocation] = []
    over = threading.Event()

    def look() -> None:
        while True:
            is_last = over.is_set()
            last = seen[-1].number if seen else 0
            seen.extend(reader.revocations_after(last))
            if is_last:
                return

    looking = threading.Thread(target=look)
    looking.start()

    def write(store: Store, mine: list[str]) -> None:
        for _ in range(25):
            for name in mine:
                store.set_password(name, "hash")

    at_once(*(partial(write, store, names[i::4]) for i, store in enumerate(writers * 2)))
    over.set()
    looking.join()
    assert len(seen) == 25 * len(names)


def test_who_signs_in_while_it_is_disabled_is_signed_out_or_not_let_in(nodes: list[Store]) -> None:
    store, other, _ = nodes
    for i in range(25):
        name = f"account-{i}"
        store.add_account(name, "hash")
        token = store.open_session(name, "", lifetime_s=DAY_S, max_devices=3).session_token
        with store.write() as connection:
            connection.execute(text("UPDATE sessions SET used_ms = 0"))  # so that using it writes
        identities = []

        def come_back() -> None:
            with allowed(Code.BAD_CREDENTIALS, Code.PERMISSION_DENIED):
                identities.append(store.use_session(token, lifetime_s=DAY_S))  # noqa: B023

        at_once(come_back, lambda: other.set_state(name, AccountState.DISABLED))  # noqa: B023
        revocation = store.revocations_after(0)[-1]
        assert all(revocation.concerns(identity) for identity in identities)


@pytest.mark.slow
def test_what_was_undone_for_anothers_sake_is_done_again(nodes: list[Store]) -> None:
    for name in ("alice", "bob"):
        nodes[0].add_account(name, "hash")
    meeting = threading.Barrier(2)
    tries = 0

    @retried
    def cross(store: Store, first: str, second: str) -> None:
        nonlocal tries
        tries += 1
        with store.write(first) as connection:
            if tries <= 2:
                meeting.wait()  # both hold their first lock now
            postgresql_module.lock(connection, second)

    at_once(lambda: cross(nodes[0], "alice", "bob"), lambda: cross(nodes[1], "bob", "alice"))
    assert tries == 3


# When the server fails


def test_a_connection_that_was_lost_is_not_noticed(
    nodes: list[Store], postgresql: PostgresqlServer
) -> None:
    store = nodes[0]
    store.add_account("alice", "hash")
    for _ in range(3):
        postgresql.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'tim_trio'"
        )
        assert store.find_account("alice") is not None
        store.set_password("alice", "hash")
    assert len(store.revocations_after(0)) == 3


@pytest.mark.slow
def test_what_was_acknowledged_survives_sigkill_of_the_server() -> None:
    acknowledged: list[str] = []
    with running_postgresql(fsync=True) as server:
        store = Store(server.url())
        store.open()
        relations = StoreRelations(store, knows_accounts=False)
        over = threading.Event()

        def write(number: int) -> None:
            n = 0
            while not over.is_set():
                name = f"account-{number}-{n}"
                n += 1
                try:
                    store.add_account(name, "hash")
                    relations.contact_blocking(name, ContactAction.BLOCK, "mallory")
                except SQLAlchemyError:
                    time.sleep(0.02)
                else:
                    acknowledged.append(name)

        writers = [threading.Thread(target=write, args=(number,)) for number in range(3)]
        for writer in writers:
            writer.start()
        for _ in range(2):
            so_far = len(acknowledged)
            while len(acknowledged) < so_far + 30:
                time.sleep(0.01)
            server.kill()
            server.start()
        over.set()
        for writer in writers:
            writer.join()
        there = {account.name for account in store.list_accounts()}
        assert there >= set(acknowledged)
        for name in acknowledged:
            _, entries = relations.list_blocking(name, "", 0)
            assert [entry.account for entry in entries] == ["mallory"]
        store.close()


def test_a_commit_whose_answer_was_lost_is_told_from_one_that_failed(
    nodes: list[Store], postgresql: PostgresqlServer
) -> None:
    store = nodes[0]
    with pytest.raises(OutcomeUnknown), store.write() as connection:  # noqa: PT012
        connection.execute(text("SELECT 1"))
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        postgresql.execute(f"SELECT pg_terminate_backend({pid}, 5000)")


@pytest.mark.slow
def test_a_server_that_hangs_takes_nobodys_thread(
    postgresql: PostgresqlServer, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql_module.Watchdog.__init__, "__defaults__", (0.3,))
    monkeypatch.setattr(postgresql_module, "_CONNECT_S", 2)
    store = Store(postgresql_url)
    store.open()
    store.add_account("alice", "hash")
    postgresql.signal(signal.SIGSTOP)
    try:
        with pytest.raises(Overdue):
            store.find_account("alice")
        with pytest.raises(SQLAlchemyError):
            store.set_password("alice", "other")
    finally:
        postgresql.signal(signal.SIGCONT)
    account = store.find_account("alice")
    assert account is not None and account.password_hash == "hash"
    store.close()


@pytest.mark.slow
async def test_while_the_server_hangs_clients_are_told_and_streams_go_on(
    postgresql: PostgresqlServer, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql_module.Watchdog.__init__, "__defaults__", (3.0,))
    monkeypatch.setattr(postgresql_module, "_CONNECT_S", 2)
    store = Store(postgresql_url)
    store.open()
    for name in ("alice", "bob"):
        store.add_account(name, CHEAP.hash(b"correct horse"))
    with contextlib.ExitStack() as all_connections:  # so that their number stays the same
        for _ in range(5):
            all_connections.enter_context(store.read()).execute(text("SELECT 1"))
    threads = StoreThreads(longest_wait_s=0.5)
    door = StoreAuthenticator(
        store,
        Limits(logins_per_minute_per_account=1000),
        hasher=cheap_hasher(max_waiting=1000),
        threads=threads,
    )

    def sign_in(account: str) -> messages.Authenticate:
        return messages.Authenticate(
            method=AuthMethod.PASSWORD, account=account, secret=b"correct horse", device="\0x"
        )

    refusals: list[messages.Error] = []
    relations = StoreRelations(store, threads=threads)
    async with running_server(authenticator=door, relations=relations) as server:

        async def new_client() -> RawClient:
            client = await RawClient.connect(server.port)
            await client.request(HELLO, messages.Welcome)
            return client

        async def try_to_enter() -> None:
            client = await new_client()
            refusals.append(await client.refused(sign_in("bob"), Code.UNAVAILABLE))
            client.close()

        alice = await new_client()
        await alice.request(sign_in("alice"), messages.AuthenticateAnswer)
        before = threading.active_count()
        postgresql.signal(signal.SIGSTOP)
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(30):
                    nursery.start_soon(try_to_enter)
                while len(refusals) < 30:
                    # Whoever is there goes on as ever.
                    with trio.fail_after(30):
                        await alice.request(messages.Ping(stamp=1), messages.Pong)
                    assert threading.active_count() <= before + 6
                    await trio.sleep(0.02)
            request = messages.Contact(action=ContactAction.ASK, account="bob")
            await alice.refused(request, Code.UNAVAILABLE)
        finally:
            postgresql.signal(signal.SIGCONT)
        assert all(error.retry and error.retry_after_ms for error in refusals)
        bob = await new_client()
        await bob.request(sign_in("bob"), messages.AuthenticateAnswer)
        bob.close()
        alice.close()
    store.close()


# Opening


def test_each_session_has_what_it_needs_whatever_the_servers_defaults(
    postgresql: PostgresqlServer, postgresql_url: str
) -> None:
    postgresql.execute("ALTER ROLE tim SET synchronous_commit = off")
    try:
        store = Store(postgresql_url)
        store.open()
        with store.write() as connection:
            for name, value in (
                ("synchronous_commit", "on"),
                ("statement_timeout", "5s"),
                ("idle_in_transaction_session_timeout", "10s"),
                ("transaction_isolation", "read committed"),
            ):
                assert connection.execute(text(f"SHOW {name}")).scalar() == value
        with store.read() as connection:
            assert connection.execute(text("SHOW transaction_isolation")).scalar() == (
                "repeatable read"
            )
            assert connection.execute(text("SHOW transaction_read_only")).scalar() == "on"
        store.close()
    finally:
        postgresql.execute("ALTER ROLE tim RESET synchronous_commit")


def test_a_database_that_cannot_be_used_is_one_line_without_the_password(
    postgresql: PostgresqlServer,
) -> None:
    postgresql.execute("CREATE DATABASE old ENCODING 'SQL_ASCII' TEMPLATE template0 LOCALE 'C'")
    good = postgresql.url()
    for url, complaint in (
        (good.replace(QUOTED, "wrong-hunter2"), "password authentication failed"),
        (good.replace("/postgres", "/nowhere"), 'database "nowhere" does not exist'),
        (postgresql.url("old"), "its encoding is SQL_ASCII: make the database with UTF8"),
        (good + "?options=-csearch_path%3Dnowhere", "no schema has been selected to create in"),
        (good + "?sslmode=require", "server does not support SSL"),
        (good + f"?sslmode=nonsense&password={QUOTED}", "sslmode"),
    ):
        with pytest.raises(StoreError) as caught:
            Store(url).open()
        said = str(caught.value)
        assert complaint in said and "\n" not in said
        assert said.startswith("cannot use postgresql+psycopg://tim:***@127.0.0.1:")
        assert "hunter2" not in said and PASSWORD not in said


def test_postgresql_alone_means_the_driver_that_we_use(postgresql_url: str) -> None:
    store = Store(postgresql_url.replace("postgresql+psycopg://", "postgresql://"))
    store.open()
    store.close()
