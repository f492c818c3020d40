"""The etcd client against a real etcd."""

import json
import ssl
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import trio
import trustme

from tests.cluster.etcd_process import EtcdMember, free_ports, running_etcd
from tim_trio.cluster import etcd as module
from tim_trio.cluster.etcd import (
    EtcdClient,
    EtcdRefused,
    EtcdUnavailable,
    delete,
    delete_prefix,
    is_absent,
    is_present,
    is_unchanged,
    open_etcd,
    parse_endpoints,
    prefix_end,
    put,
)

Answer = Callable[[httpx.Request], httpx.Response]


async def test_a_key_is_put_read_and_deleted(client: EtcdClient, prefix: str) -> None:
    key = prefix + "ключ"
    assert await client.get(key) is None
    await client.put(key, b"\x00\xff value")
    kv = await client.get(key)
    assert kv is not None
    assert (kv.key, kv.value, kv.lease) == (key, b"\x00\xff value", 0)
    assert kv.create_revision == kv.mod_revision > 0
    await client.delete(key)
    assert await client.get(key) is None


async def test_only_the_first_creates(client: EtcdClient, prefix: str) -> None:
    won = []

    async def create(name: str) -> None:
        if await client.create(prefix + "key", name.encode()):
            won.append(name)

    async with trio.open_nursery() as nursery:
        for name in "abcdefgh":
            nursery.start_soon(create, name)
    kv = await client.get(prefix + "key")
    assert kv is not None
    assert [kv.value.decode()] == won


async def test_swap_takes_only_the_newest_revision(client: EtcdClient, prefix: str) -> None:
    key = prefix + "key"
    assert await client.swap(key, b"1", 0)  # 0: not there
    kv = await client.get(key)
    assert kv is not None
    assert await client.swap(key, b"2", kv.mod_revision)
    assert not await client.swap(key, b"3", kv.mod_revision)
    assert not await client.swap(key, b"3", 0)


async def test_a_transaction_is_all_or_nothing(client: EtcdClient, prefix: str) -> None:
    a, b = prefix + "a", prefix + "b"
    assert await client.transact([is_absent(a), is_absent(b)], [put(a, b"1"), put(b, b"1")])
    assert not await client.transact([is_present(a), is_absent(b)], [delete(a)])
    assert await client.count(prefix) == 2
    kv = await client.get(a)
    assert kv is not None
    assert await client.transact([is_unchanged(a, kv.mod_revision)], [delete_prefix(prefix)])
    assert await client.count(prefix) == 0


async def test_ranges_are_in_order_and_in_pages(
    client: EtcdClient, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "cabde":
        await client.put(prefix + name, name.encode())
    await client.put(prefix_end(prefix), b"outside")
    page = await client.range(prefix, limit=2)
    assert [kv.value for kv in page.kvs] == [b"a", b"b"] and page.more
    rest = await client.range(prefix, after=page.kvs[-1].key)
    assert [kv.value for kv in rest.kvs] == [b"c", b"d", b"e"] and not rest.more
    monkeypatch.setattr(module, "_PAGE", 2)
    whole = await client.snapshot(prefix)
    assert [kv.value for kv in whole.kvs] == [b"a", b"b", b"c", b"d", b"e"]
    assert whole.revision >= max(kv.mod_revision for kv in whole.kvs)


async def test_a_lease_takes_its_keys_with_it(client: EtcdClient, prefix: str) -> None:
    lease = await client.grant(60)
    await client.put(prefix + "key", b"", lease)
    kv = await client.get(prefix + "key")
    assert kv is not None and kv.lease == lease
    assert await client.keep_alive(lease) == 60
    await client.revoke(lease)
    assert await client.get(prefix + "key") is None
    assert await client.keep_alive(lease) == 0
    await client.revoke(lease)  # twice is once
    with pytest.raises(EtcdRefused, match="lease not found"):
        await client.put(prefix + "key", b"", lease)


@pytest.mark.slow
async def test_a_lease_ends_by_itself(client: EtcdClient, prefix: str) -> None:
    lease = await client.grant(1)
    await client.put(prefix + "key", b"", lease)
    with trio.fail_after(30):
        while await client.get(prefix + "key") is not None:  # noqa: ASYNC110 - etcd's clock
            await trio.sleep(0.1)


async def test_nobody_there_is_unavailable_within_the_deadline() -> None:
    port = free_ports(1)[0]
    async with open_etcd([f"http://127.0.0.1:{port}"], timeout_s=0.3) as client:
        with trio.fail_after(5), pytest.raises(EtcdUnavailable, match=f"127.0.0.1:{port}"):
            await client.get("key")


@pytest.mark.slow
async def test_a_silent_endpoint_leaves_time_for_the_next(etcd: EtcdMember, prefix: str) -> None:
    listener = await trio.open_tcp_listeners(0, host="127.0.0.1")
    silent = f"http://127.0.0.1:{listener[0].socket.getsockname()[1]}"
    async with open_etcd([silent, etcd.url], timeout_s=4) as client:
        await client.put(prefix + "key", b"1")
        assert client.endpoint == etcd.url
        with trio.fail_after(1):  # it stays with the one that answers
            await client.put(prefix + "key", b"2")
    await listener[0].aclose()


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, text="<html>"),
        httpx.Response(200, text="[]"),
        httpx.Response(503, json={"error": "etcdserver: no leader", "code": 14}),
        httpx.Response(500, json={"error": "etcdserver: leader changed", "code": 2}),
    ],
)
async def test_answers_of_something_else_and_of_a_leaderless_etcd_pass(
    answer: httpx.Response,
) -> None:
    async with fake(lambda request: answer) as client:
        with pytest.raises(EtcdUnavailable):
            await client.get("key")


def fake(answer: Answer) -> "_Fake":
    return _Fake(answer)


class _Fake:
    """A client whose requests are answered by a function."""

    def __init__(self, answer: Answer) -> None:
        self._http = httpx.AsyncClient(transport=httpx.MockTransport(answer))

    async def __aenter__(self) -> EtcdClient:
        return EtcdClient(["http://etcd:2379"], 0.2, self._http, "user", "secret")

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()


async def test_a_token_that_is_over_is_renewed_once() -> None:
    tokens = iter(["old", "new"])
    seen = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v3/auth/authenticate":
            assert json.loads(request.content) == {"name": "user", "password": "secret"}
            return httpx.Response(200, json={"token": next(tokens)})
        token = request.headers["Authorization"]
        seen.append(token)
        if token == "old":
            return httpx.Response(401, json={"error": "invalid auth token", "code": 16})
        return httpx.Response(200, json={"header": {"revision": "1"}})

    async with fake(answer) as client:
        assert await client.get("key") is None
        assert await client.get("key") is None
    assert seen == ["old", "new", "new"]


async def test_a_password_and_a_user_without_rights() -> None:
    with running_etcd() as (member,):
        for path, body in (
            ("user/add", {"name": "root", "password": "rootpw"}),
            ("role/add", {"name": "root"}),
            ("user/grant", {"user": "root", "role": "root"}),
            ("user/add", {"name": "tim", "password": "timpw"}),
            ("enable", {}),
        ):
            async with open_etcd([member.url]) as client:
                await client._call(f"/v3/auth/{path}", body)
        async with open_etcd([member.url], user="root", password="rootpw") as client:
            await client.put("key", b"1")
            assert "rootpw" not in repr(client)
        async with open_etcd([member.url], user="tim", password="timpw") as client:
            with pytest.raises(EtcdRefused, match="permission denied"):
                await client.put("key", b"1")
        async with open_etcd([member.url], user="tim", password="wrong") as client:
            with pytest.raises(EtcdRefused, match="authentication failed"):
                await client.put("key", b"1")
        async with open_etcd([member.url]) as client:
            with pytest.raises(EtcdRefused):
                await client.put("key", b"1")


@pytest.mark.slow
async def test_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    names = [str(tmp_path / name) for name in ("ca.pem", "cert.pem", "key.pem")]
    authority.cert_pem.write_to_path(names[0])
    certificate.cert_chain_pems[0].write_to_path(names[1])
    certificate.private_key_pem.write_to_path(names[2])
    trusting = ssl.create_default_context(cafile=names[0])
    trusting.load_cert_chain(names[1], names[2])  # etcd with an authority wants one of ours
    with running_etcd(tls=(names[0], names[1], names[2])) as (member,):
        async with open_etcd([member.url], tls=trusting, timeout_s=20) as client:
            await client.put("key", b"1")
        async with open_etcd([member.url], timeout_s=1) as client:
            with pytest.raises(EtcdUnavailable, match="certificate"):
                await client.get("key")


@pytest.mark.slow
async def test_the_leader_of_three_is_killed() -> None:
    with running_etcd(3) as members:
        async with open_etcd([member.url for member in members], timeout_s=10) as client:
            lease = await client.grant(60)
            leader = next(member for member in members if member.is_leader())
            leader.kill()
            for i in range(20):
                await client.put("key", str(i).encode(), lease)
            assert await client.keep_alive(lease) == 60
            members[members.index(leader) - 1].kill()
            # One of three is not a majority.
            client.timeout_s = 1.0
            with pytest.raises(EtcdUnavailable):
                await client.put("key", b"lost")


@pytest.mark.parametrize(
    "text, endpoints",
    [
        ("etcd://a:2379", ["http://a:2379"]),
        ("etcds://a:1,[::1]:2/", ["https://a:1", "https://[::1]:2"]),
    ],
)
def test_addresses_of_etcd(text: str, endpoints: list[str]) -> None:
    assert parse_endpoints(text) == tuple(endpoints)


@pytest.mark.parametrize(
    "text", ["", "a:2379", "http://a:2379", "etcd://", "etcd://a", "etcd://a:x", "etcd://a:1/p"]
)
def test_what_is_no_address_of_etcd(text: str) -> None:
    with pytest.raises(ValueError, match="is not"):
        parse_endpoints(text)


def test_a_password_in_the_address_is_refused_without_repeating_it() -> None:
    with pytest.raises(ValueError, match="do not belong") as caught:
        parse_endpoints("etcd://root:secret@a:2379")
    assert "secret" not in str(caught.value)
