"""Accounts across nodes: what one node is told of an account holds at all of them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
import trio

import tim_trio
from tests.accounts.cheap import CHEAP, cheap_hasher
from tests.cluster.etcd_process import EtcdMember
from tests.cluster.nodes import Cloud, RunningNode, cloud, eventually
from tim_trio.accounts.authenticator import StoreAuthenticator
from tim_trio.accounts.relations import StoreRelations
from tim_trio.accounts.store import AccountState, Store
from tim_trio.accounts.tokens import (
    LEEWAY_S,
    KeyFile,
    TokenAuthenticator,
    claims_for,
    make_token,
    read_key,
)
from tim_trio.cluster.bans import lift_ban, list_bans
from tim_trio.cluster.etcd import EtcdClient, EtcdUnavailable
from tim_trio.core.accounts import Authenticator, OpenAuthenticator
from tim_trio.errors import Code, code_label
from tim_trio.limits import KIB, Limits
from tim_trio.net.client import Client
from tim_trio.net.client.events import AccountEvents
from tim_trio.net.server import Server
from tim_trio.protocol.messages import ContactState, DeliveryStatus, SourceLeftReason

PASSWORD: Final = b"correct horse battery"
#: Nothing here takes longer than a second; the rest is for a busy machine.
SOON_S: Final = 5.0


@pytest.fixture
def stores(postgresql_url: str) -> Iterator[Callable[[], Store]]:
    """Makes stores that share a database, as the nodes have them."""
    opened: list[Store] = []

    def new_store() -> Store:
        store = Store(postgresql_url)
        store.open()
        opened.append(store)
        return store

    first = new_store()
    for name in ("op", "alice", "bob", "carol", "dave"):
        first.add_account(name, CHEAP.hash(PASSWORD), operator=name == "op")
    yield new_store
    for store in opened:
        store.close()


@pytest.fixture
async def three(etcd: EtcdMember, prefix: str, stores: Callable[[], Store]) -> AsyncIterator[Cloud]:
    """Three nodes whose accounts are in one PostgreSQL."""

    def make_server(name: str) -> Server:
        store, limits = stores(), Limits()
        door = StoreAuthenticator(store, limits, hasher=cheap_hasher())
        return Server(limits, node_name=name, authenticator=door, relations=StoreRelations(store))

    async with cloud(etcd.url, prefix, "a", "b", "c", make_server=make_server) as made:
        yield made


async def enter(
    stack: contextlib.AsyncExitStack, node: RunningNode, account: str, **credentials: object
) -> Client:
    client = node.client(account, **(credentials or {"password": PASSWORD}))
    return await stack.enter_async_context(client)


@contextlib.asynccontextmanager
async def publishing(client: Client, room: str) -> AsyncIterator[tim_trio.Source]:
    """Publish, until the account is put out or the test is done."""
    with contextlib.suppress(tim_trio.ConnectionClosed):
        async with client.publish(room) as source:
            yield source


async def seen_at(nodes: Cloud, account: str, *names: str) -> None:
    """Wait until etcd has an account at these nodes."""
    directory = nodes["a"].cluster.directory
    with trio.fail_after(SOON_S):
        while sorted(await directory.nodes_of(account)) != sorted(names):  # noqa: ASYNC110
            await trio.sleep(0.01)


async def next_contact(events: AccountEvents) -> tuple[str, int]:
    with trio.fail_after(SOON_S):
        event = await anext(events)
    assert isinstance(event, tim_trio.ContactChanged)
    return event.account, event.state


async def closed_with(client: Client) -> str:
    with pytest.raises(tim_trio.ConnectionClosed) as caught, trio.fail_after(SOON_S):
        await anext(client.events())
    assert caught.value.code is not None
    return code_label(caught.value.code)


@pytest.mark.slow
async def test_contacts_blocks_and_policies_hold_at_every_node(three: Cloud) -> None:
    async with contextlib.AsyncExitStack() as stack:
        alice = await enter(stack, three["a"], "alice")
        bobs = [await enter(stack, three[name], "bob") for name in "bc"]
        events = [bob.events() for bob in bobs]
        hers = alice.events()
        await seen_at(three, "bob", "b", "c")
        await seen_at(three, "alice", "a")

        # What one asks at its node reaches the other's devices at theirs, and back.
        await alice.contacts.ask("bob")
        for each in events:
            assert await next_contact(each) == ("alice", ContactState.ASKED_BY_THEM)
        await bobs[0].contacts.accept("alice")
        assert await next_contact(hers) == ("bob", ContactState.CONTACT)

        # A policy and a block that were answered at one node hold at the others at once.
        carol = await enter(stack, three["c"], "carol")
        await bobs[0].contacts.set_policy("contacts")
        assert not (await carol.send_to("bob", b"x", kind=300))["bob"].is_delivered
        assert (await alice.send_to("bob", b"x", kind=300))["bob"].devices == 2
        await bobs[1].contacts.block("alice")
        assert await next_contact(hers) == ("bob", ContactState.NONE)
        said = (await alice.send_to("bob", b"x", kind=300))["bob"]
        assert (said.is_delivered, said.devices) == (False, 0)
        # A block hides itself at other nodes too.
        await alice.contacts.ask("bob")
        with trio.move_on_after(0.2):
            raise AssertionError(await anext(events[0]))


async def test_what_is_delivered_is_counted_for_each_receiver_over_all_nodes(three: Cloud) -> None:
    async with contextlib.AsyncExitStack() as stack:
        alice = await enter(stack, three["a"], "alice")
        bobs = [await enter(stack, three[name], "bob") for name in "abbc"]
        carol = await enter(stack, three["c"], "carol")
        inboxes = [client.account_streams() for client in (*bobs, carol)]
        await alice.contacts.block("dave")
        await seen_at(three, "bob", "a", "b", "c")
        await seen_at(three, "carol", "c")
        for i in range(3):
            said = await alice.send_to(
                ["bob", "carol", "op", "dave", "nobody"], bytes([i]), kind=300
            )
            statuses = {
                name: (DeliveryStatus(each.status).name, each.devices)
                for name, each in said.items()
            }
            assert statuses == {
                "bob": ("DELIVERED", 4),
                "carol": ("DELIVERED", 1),
                "op": ("OFFLINE", 0),
                "dave": ("REFUSED", 0),
                "nobody": ("UNKNOWN", 0),
            }
        for inbox in inboxes:
            with trio.fail_after(SOON_S):
                assert [(await anext(inbox)).payload for _ in range(3)] == [b"\0", b"\1", b"\2"]
        figures = [three[name].server.node for name in "abc"]
        assert [figure.account_delivered for figure in figures] == [3, 6, 6]


async def test_who_is_disabled_at_one_node_is_out_of_all(
    three: Cloud, stores: Callable[[], Store]
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        alice = await enter(stack, three["b"], "alice")
        bob = await enter(stack, three["c"], "bob")
        op = await enter(stack, three["a"], "op")
        room = await alice.register_room()
        source = await stack.enter_async_context(publishing(alice, room))
        stream = await stack.enter_async_context(bob.subscribe(room))
        await source.send(b"x", key=True)
        began = time.monotonic()
        await op.ban_account("alice")
        assert await closed_with(alice) == "banned"
        # Its code is what matters, and that no frame comes any more.
        with trio.fail_after(SOON_S):
            item = await anext(stream)
            while not isinstance(item, tim_trio.SourceLeft):
                item = await anext(stream)
        assert item.reason == SourceLeftReason.REVOKED
        assert time.monotonic() - began < SOON_S
        with pytest.raises(tim_trio.PermissionDenied, match="banned"):
            await enter(stack, three["c"], "alice")
        # And by the command line, on whatever machine.
        stores().set_state("bob", AccountState.DISABLED)
        assert await closed_with(bob) == "disabled"


# Where accounts are somebody else's


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_bytes(b"x" * 32)
    return path


@pytest.mark.parametrize("mode", ["open", "token"])
async def test_a_ban_holds_at_every_node_until_it_is_lifted(
    mode: str, etcd: EtcdMember, prefix: str, key: Path, client: EtcdClient
) -> None:
    def make_server(name: str) -> Server:
        door: Authenticator = OpenAuthenticator()
        if mode == "token":
            door = TokenAuthenticator(KeyFile(key), Limits())
        return Server(Limits(), node_name=name, authenticator=door)

    async with (
        cloud(etcd.url, prefix, "a", "b", "c", make_server=make_server) as nodes,
        contextlib.AsyncExitStack() as stack,
    ):

        async def sign_in(node: str, account: str, lifetime_s: float = 60) -> Client:
            credentials: dict[str, object] = {"reconnect": None}
            if mode == "token":
                claims = claims_for(account, lifetime_s=lifetime_s, operator=account == "op")
                credentials["token"] = make_token(read_key(key), claims)
            return await enter(stack, nodes[node], account, **credentials)

        op = await sign_in("a", "op")
        mallory = await sign_in("b", "mallory")
        bob = await sign_in("c", "bob")
        room = await mallory.register_room()
        source = await stack.enter_async_context(publishing(mallory, room))
        stream = await stack.enter_async_context(bob.subscribe(room))
        await source.send(b"x", key=True)
        await op.ban_account("mallory", "spam")
        assert await closed_with(mallory) == "banned"
        with trio.fail_after(SOON_S):
            item = await anext(stream)
            while not isinstance(item, tim_trio.SourceLeft):
                item = await anext(stream)
        assert item.reason == SourceLeftReason.REVOKED
        # Also at a node that comes later, before it serves.
        await nodes.add("d")
        for name in "abcd":
            with pytest.raises(tim_trio.PermissionDenied, match="banned"):
                await sign_in(name, "mallory")
        (record,) = await list_bans(client, prefix)
        assert (record.account, record.by, record.reason) == ("mallory", "op", "spam")
        assert await lift_ban(client, prefix, "mallory")
        assert not await lift_ban(client, prefix, "mallory")
        bans = [nodes[name].server.authenticator.bans for name in "abcd"]
        await eventually(
            lambda: not any(each._banned for each in bans if each is not None), "it is lifted"
        )
        await sign_in("d", "mallory")
        if mode == "token":
            # An end by the clock is one for those who watch elsewhere, too.
            brief = await sign_in("a", "brief", lifetime_s=3 - LEEWAY_S)
            room = await brief.register_room()
            await stack.enter_async_context(publishing(brief, room))
            stream = await stack.enter_async_context(bob.subscribe(room))
            assert await closed_with(brief) == "expired"
            with trio.fail_after(SOON_S):
                item = await anext(stream)
                while not isinstance(item, tim_trio.SourceLeft):
                    item = await anext(stream)
            assert item.reason == SourceLeftReason.REVOKED


async def test_a_ban_that_cannot_be_shared_holds_here_and_can_be_tried_again(
    etcd: EtcdMember, prefix: str, client: EtcdClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cloud(etcd.url, prefix, "a", "b") as nodes, nodes["a"].client("op") as op:

        async def fail(*_: object, **__: object) -> None:
            raise EtcdUnavailable("away")

        with monkeypatch.context() as patched:
            patched.setattr(EtcdClient, "put", fail)
            with pytest.raises(tim_trio.RoomError) as caught:
                await op.ban_account("mallory")
        assert caught.value.code == Code.DIRECTORY_UNAVAILABLE
        with pytest.raises(tim_trio.PermissionDenied):
            async with nodes["a"].client("mallory"):
                raise AssertionError("not reached")
        await op.ban_account("mallory")
        bans = nodes["b"].server.authenticator.bans
        assert bans is not None
        await eventually(lambda: "mallory" in bans._banned, "it holds elsewhere")


# Who is where


async def test_etcd_knows_who_is_here_however_fast_they_come_and_go(
    etcd: EtcdMember, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cloud(etcd.url, prefix, "a") as nodes:
        for i in range(10):
            async with nodes["a"].client("bob"):
                await trio.sleep(0.002 * i)
        await seen_at(nodes, "bob")
        async with nodes["a"].client("bob"):
            await seen_at(nodes, "bob", "a")
        # Not without etcd, and at once when it is back.
        put = EtcdClient.put

        async def fail(*_: object, **__: object) -> None:
            raise EtcdUnavailable("away")

        monkeypatch.setattr(EtcdClient, "put", fail)
        async with nodes["a"].client("carol"):
            await trio.sleep(0.1)
            monkeypatch.setattr(EtcdClient, "put", put)
            await seen_at(nodes, "carol", "a")
        await seen_at(nodes, "carol")


async def test_a_link_that_takes_no_more_is_not_broken_by_messages(
    etcd: EtcdMember, prefix: str
) -> None:
    async with (
        cloud(etcd.url, prefix, "a", "b", limits=Limits(control_backlog_bytes=64 * KIB)) as nodes,
        nodes["a"].client("alice") as alice,
        nodes["b"].client("bob") as bob,
    ):
        await seen_at(nodes, "bob", "b")
        inbox = bob.account_streams()
        assert (await alice.send_to("bob", b"1", kind=300))["bob"].is_delivered
        link = nodes["a"].cluster.links.get("b")
        assert link is not None
        link.outbox.control.pending_bytes += 32 * KIB  # as if it waited
        said = (await alice.send_to("bob", b"2", kind=300))["bob"]
        assert said.status == DeliveryStatus.BUSY
        link.outbox.control.pending_bytes -= 32 * KIB
        assert (await alice.send_to("bob", b"3", kind=300))["bob"].is_delivered
        with trio.fail_after(SOON_S):
            assert [(await anext(inbox)).payload for _ in range(2)] == [b"1", b"3"]
        assert nodes["a"].cluster.links.get("b") is link
