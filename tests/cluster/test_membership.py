"""Membership: who is there, who leaves, and what a node may believe of itself."""

import contextlib
from collections.abc import AsyncIterator, Callable

import attrs
import pytest
import trio

from tests.cluster.etcd_process import running_etcd
from tests.cluster.logs import Log
from tim_trio.cluster.etcd import EtcdClient, open_etcd
from tim_trio.cluster.membership import Membership, NameInUse, NodeInfo, new_incarnation


class Member:
    """One node's membership, whose changes can be waited for."""

    def __init__(self, client: EtcdClient, prefix: str, name: str, weight: int = 1) -> None:
        self.changed = trio.Event()
        self.log = Log()
        info = NodeInfo(
            name=name, address=f"{name}:7600", incarnation=new_incarnation(), weight=weight
        )
        self.membership = Membership(client, prefix, info, self.log, self._on_change, lease_s=2)

    def _on_change(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    async def until(self, condition: Callable[[Membership], bool]) -> None:
        with trio.fail_after(20):
            while not condition(self.membership):
                await self.changed.wait()


@contextlib.asynccontextmanager
async def joined(
    client: EtcdClient, prefix: str, name: str, weight: int = 1
) -> AsyncIterator[Member]:
    member = Member(client, prefix, name, weight)
    async with trio.open_nursery() as nursery:
        await nursery.start(member.membership.run)
        yield member
        nursery.cancel_scope.cancel()


def sees(*names: str) -> Callable[[Membership], bool]:
    return lambda membership: list(membership.nodes) == list(names)


async def test_nodes_see_each_other_come_drain_and_leave(client: EtcdClient, prefix: str) -> None:
    async with joined(client, prefix, "a") as a, joined(client, prefix, "b", weight=3) as b:
        await a.until(sees("a", "b"))
        await b.until(sees("a", "b"))
        assert a.membership.placement.weights == {"a": 1, "b": 3}
        assert a.membership.is_certain(trio.current_time())
        await b.membership.withdraw()
        await a.until(lambda membership: membership.nodes["b"].draining)
        assert a.membership.placement.weights == {"a": 1}
        await b.membership.leave()
        await a.until(sees("a"))
        await b.until(lambda membership: membership.expelled.is_set())
        assert "node left" in a.log.names
        assert not b.membership.is_certain(trio.current_time())
        assert list(b.membership.nodes) == ["a"]


@pytest.mark.slow
async def test_a_node_that_stops_keeping_alive_is_gone_after_its_lease(
    client: EtcdClient, prefix: str
) -> None:
    async with joined(client, prefix, "a") as a:
        async with joined(client, prefix, "b"):
            await a.until(sees("a", "b"))
        await a.until(sees("a"))
        await trio.sleep(2.5)
        assert a.membership.is_certain(trio.current_time())  # its own has been kept


@pytest.mark.slow
async def test_a_node_whose_lease_is_over_knows_it(client: EtcdClient, prefix: str) -> None:
    async with joined(client, prefix, "a") as a:
        await client.revoke(a.membership.lease)
        await a.until(lambda membership: membership.expelled.is_set())
        assert a.log.names.count("expelled from the cluster") == 1


@pytest.mark.slow
async def test_a_name_belongs_to_one_node(client: EtcdClient, prefix: str) -> None:
    async with joined(client, prefix, "a"):
        other = Member(client, prefix, "a")
        other.membership.me = NodeInfo(name="a", address="elsewhere:1", incarnation=1)
        with trio.fail_after(20), pytest.raises(NameInUse, match="a:7600 is named a"):
            await other.membership.run()


@pytest.mark.slow
async def test_an_address_belongs_to_one_node(client: EtcdClient, prefix: str) -> None:
    async with joined(client, prefix, "a"):
        other = Member(client, prefix, "b")
        other.membership.me = NodeInfo(name="b", address="a:7600", incarnation=1)
        with trio.fail_after(20), pytest.raises(NameInUse, match="reach a at a:7600 already"):
            await other.membership.run()


@pytest.mark.slow
async def test_a_node_that_comes_back_under_another_name(client: EtcdClient, prefix: str) -> None:
    async with joined(client, prefix, "a"):
        pass  # as if killed: its record stays for its lease
    other = Member(client, prefix, "b")
    other.membership.me = attrs.evolve(other.membership.me, address="a:7600")
    async with trio.open_nursery() as nursery:
        with trio.fail_after(20):
            await nursery.start(other.membership.run)
        assert list(other.membership.nodes) == ["b"]
        nursery.cancel_scope.cancel()


async def test_a_node_that_leaves_makes_no_fuss_about_it(client: EtcdClient, prefix: str) -> None:
    async with joined(client, prefix, "a") as a:
        await a.membership.leave()
        await a.until(lambda membership: membership.expelled.is_set())
        assert "expelled from the cluster" not in a.log.names


async def test_who_is_out_looks_once_more_who_is_not(client: EtcdClient, prefix: str) -> None:
    async with joined(client, prefix, "a") as a, joined(client, prefix, "b") as b:
        await a.until(sees("a", "b"))
        # It has been away, and knows no better.
        stale = NodeInfo(name="gone", address="gone:1")
        a.membership.nodes["gone"] = stale
        a.membership.expel("a test says so")
        await a.membership.look_again()
        assert list(a.membership.nodes) == ["b"]
        assert sees("a", "b")(b.membership)


async def test_a_restarted_node_takes_its_name_back_at_once(
    client: EtcdClient, prefix: str
) -> None:
    async with joined(client, prefix, "w") as witness, joined(client, prefix, "a") as old:
        await witness.until(sees("a", "w"))
        before = witness.membership.nodes["a"].incarnation
        async with joined(client, prefix, "a") as new:
            await witness.until(lambda membership: membership.nodes["a"].incarnation > before)
            await old.until(lambda membership: membership.expelled.is_set())
            assert new.membership.is_certain(trio.current_time())


@pytest.mark.slow
async def test_the_last_view_stays_while_etcd_is_away() -> None:
    with running_etcd() as (member,):
        async with (
            open_etcd([member.url], timeout_s=1) as client,
            joined(client, "p/", "a") as a,
            joined(client, "p/", "b"),
        ):
            await a.until(sees("a", "b"))
            member.kill()
            await trio.sleep(4)
            assert list(a.membership.nodes) == ["a", "b"]
            assert not a.membership.is_certain(trio.current_time())
            assert a.log.names.count("etcd is away") == 1
            member.start()
            await trio.to_thread.run_sync(member.wait_ready)
            with trio.fail_after(30):
                while not a.membership.is_certain(trio.current_time()):  # noqa: ASYNC110
                    await trio.sleep(0.05)
            assert list(a.membership.nodes) == ["a", "b"]
            assert not a.membership.expelled.is_set()


async def test_an_unreadable_record_is_left_out(client: EtcdClient, prefix: str) -> None:
    await client.put(prefix + "nodes/x", b"{}")
    async with joined(client, prefix, "a") as a:
        assert list(a.membership.nodes) == ["a"]
        assert "unreadable record of a node" in a.log.names


async def test_what_changed_unseen_is_told_as_if_it_had_been_seen(
    client: EtcdClient, prefix: str
) -> None:
    async with joined(client, prefix, "a") as a, joined(client, prefix, "b") as b:
        await a.until(sees("a", "b"))
        a.log.events.clear()
        page = await client.range(f"{prefix}nodes/")
        kvs = [kv for kv in page.kvs if kv.key != b.membership.key]
        a.membership._on_snapshot(attrs.evolve(page, kvs=kvs))
        assert a.log.events == [("node left", {"node": "b"})]
        a.membership._on_snapshot(page)
        assert a.log.names == ["node left", "node joined"]
        assert sees("a", "b")(a.membership)
