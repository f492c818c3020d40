"""Following keys through lost connections, compaction and etcd's restarts."""

import base64
import contextlib
import json
import signal
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
import trio

from tests.cluster.etcd_process import running_etcd
from tim_trio.cluster.etcd import EtcdClient, EtcdRefused, Page, open_etcd
from tim_trio.cluster.follow import Change, Follower


class Mirror:
    """The followed keys and values, kept from what the follower says."""

    def __init__(self) -> None:
        self.state: dict[str, bytes] = {}
        self.snapshots = 0
        self.steps: list[tuple[str, bytes | None]] = []
        self.troubles: list[str] = []
        self._moved = trio.Event()

    def _move(self) -> None:
        self._moved.set()
        self._moved = trio.Event()

    def on_trouble(self, text: str) -> None:
        self.troubles.append(text)
        self._move()

    async def until(self, condition: Callable[[], bool]) -> None:
        with trio.fail_after(20):
            while not condition():
                await self._moved.wait()

    def on_snapshot(self, page: Page) -> None:
        self.snapshots += 1
        self.state = {kv.key: kv.value for kv in page.kvs}
        self._move()

    def on_changes(self, changes: list[Change]) -> None:
        for change in changes:
            self.steps.append((change.key, change.kv.value if change.kv else None))
            if change.kv is None:
                self.state.pop(change.key, None)
            else:
                self.state[change.key] = change.kv.value
        self._move()

    async def shows(self, state: dict[str, bytes]) -> None:
        await self.until(lambda: self.state == state)


@contextlib.asynccontextmanager
async def following(
    client: EtcdClient, prefix: str, *, silence_s: float = 15
) -> AsyncIterator[tuple[Mirror, Follower]]:
    mirror = Mirror()
    follower = Follower(
        client,
        prefix,
        mirror.on_snapshot,
        mirror.on_changes,
        mirror.on_trouble,
        silence_s=silence_s,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follower.run)
        await mirror.until(lambda: mirror.snapshots > 0)
        yield mirror, follower
        nursery.cancel_scope.cancel()


async def test_a_snapshot_and_every_change_in_order(client: EtcdClient, prefix: str) -> None:
    await client.put(prefix + "a", b"1")
    async with following(client, prefix) as (mirror, _):
        assert mirror.state == {prefix + "a": b"1"}
        await client.put(prefix + "b", b"2")
        await client.put("elsewhere" + prefix, b"")
        await client.delete(prefix + "a")
        await client.put(prefix + "b", b"3")
        await mirror.shows({prefix + "b": b"3"})
        assert mirror.steps == [(prefix + "b", b"2"), (prefix + "a", None), (prefix + "b", b"3")]
        assert mirror.snapshots == 1 and not mirror.troubles


async def test_a_silent_stream_is_opened_anew_and_misses_nothing(
    client: EtcdClient, prefix: str
) -> None:
    async with following(client, prefix, silence_s=0.05) as (mirror, _):
        for i in range(10):
            await client.put(prefix + str(i), b"")
            await trio.sleep(0.04)
        await mirror.shows({prefix + str(i): b"" for i in range(10)})
        assert mirror.snapshots == 1
        assert len(mirror.steps) == 10


async def test_compaction_in_a_gap_gives_a_new_snapshot(client: EtcdClient, prefix: str) -> None:
    await client.put(prefix + "a", b"1")
    async with following(client, prefix) as (mirror, follower):
        revision = follower.revision
    await client.put(prefix + "b", b"2")
    await client.delete(prefix + "a")
    page = await client.range(prefix)
    await client._call("/v3/kv/compaction", {"revision": str(page.revision)})
    follower.revision = revision
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follower.run)
        await mirror.shows({prefix + "b": b"2"})
        assert mirror.snapshots == 2 and mirror.steps == []
        await client.put(prefix + "c", b"3")
        await mirror.shows({prefix + "b": b"2", prefix + "c": b"3"})
        nursery.cancel_scope.cancel()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_etcd_is_stopped_and_comes_back(number: int) -> None:
    with running_etcd() as (member,):
        async with (
            open_etcd([member.url], timeout_s=1) as client,
            following(client, "p/") as (mirror, _),
        ):
            await client.put("p/a", b"1")
            await mirror.shows({"p/a": b"1"})
            member.signal(number)
            await mirror.until(lambda: bool(mirror.troubles))
            await trio.to_thread.run_sync(member.kill)
            assert mirror.state == {"p/a": b"1"}
            member.start()
            await trio.to_thread.run_sync(member.wait_ready)
            await client.put("p/b", b"2")
            await mirror.shows({"p/a": b"1", "p/b": b"2"})
            assert mirror.snapshots == 1


@pytest.mark.slow
async def test_the_next_member_is_followed_when_one_is_killed() -> None:
    with running_etcd(3) as members:
        async with (
            open_etcd([member.url for member in members]) as client,
            following(client, "p/") as (mirror, _),
        ):
            members[0].kill()
            for i in range(5):
                await client.put(f"p/{i}", b"")
            await mirror.shows({f"p/{i}": b"" for i in range(5)})
            assert [key for key, _ in mirror.steps] == [f"p/{i}" for i in range(5)]


def _lines(*lines: object) -> httpx.Response:
    return httpx.Response(200, text="".join(json.dumps(line) + "\n" for line in lines))


async def follow_lines(*answers: httpx.Response) -> Mirror:
    """Follow an etcd that gives these answers to watches, then refuses."""
    watches = iter(answers)

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v3/kv/range":
            return httpx.Response(200, json={"header": {"revision": "7"}})
        return next(watches, _lines({"error": {"code": 7, "message": "permission denied"}}))

    mirror = Mirror()
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        client = EtcdClient(["http://a", "http://b"], 1.0, http)
        follower = Follower(client, "p/", mirror.on_snapshot, mirror.on_changes, mirror.on_trouble)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follower.run)
            await mirror.until(lambda: "permission denied" in "".join(mirror.troubles[-1:]))
            nursery.cancel_scope.cancel()
    return mirror


async def test_who_may_not_follow_from_the_start_hears_so() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(403, json={"code": 7, "message": "permission denied"})

    mirror = Mirror()
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        client = EtcdClient(["http://a"], 1.0, http)
        follower = Follower(client, "p/", mirror.on_snapshot, mirror.on_changes, mirror.on_trouble)
        with trio.fail_after(30), pytest.raises(EtcdRefused, match="permission denied"):
            await follower.run()


async def test_a_watch_that_etcd_cancels_is_made_anew() -> None:
    canceled = {"result": {"canceled": True, "cancel_reason": "too slow"}}
    mirror = await follow_lines(_lines({"result": {"created": True}}, canceled))
    assert "too slow" in mirror.troubles[0]


async def test_an_expired_token_and_nonsense_are_passing_troubles() -> None:
    event = {"type": "PUT", "kv": {"key": base64.b64encode(b"p/k").decode(), "mod_revision": "8"}}
    mirror = await follow_lines(
        _lines({"error": {"code": 16, "message": "invalid auth token"}}),
        _lines({"something": "else"}),
        httpx.Response(200, text="<html>\n"),
        _lines({"result": {"events": [event]}}),
    )
    assert mirror.state == {"p/k": b""}
    assert len(mirror.troubles) == 5
