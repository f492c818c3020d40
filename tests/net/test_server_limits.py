"""Every limit over the wire: what the client is told, and that it is counted."""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
import trio

from tests.accounts.cheap import cheap_hasher
from tests.net.rawclient import HELLO, RawClient, frame, register_room, subscribe
from tests.net.running import Running, eventually, running_server
from tim_trio.accounts.authenticator import StoreAuthenticator
from tim_trio.accounts.store import Store
from tim_trio.core.accounts import Authenticator
from tim_trio.errors import Code
from tim_trio.limits import Limits
from tim_trio.protocol import messages
from tim_trio.protocol.layout import STREAM, Flag

Scene = Callable[[Running], Awaitable[None]]


@attrs.frozen
class Case:
    """A limit, lowered, and what happens beyond it."""

    limit: str
    value: Any
    scene: Scene
    more: dict[str, Any] = attrs.Factory(dict)


CASES: Final[list[Case]] = []


def case(limit: str, value: float, **more: Any) -> Callable[[Scene], Scene]:
    def add(scene: Scene) -> Scene:
        CASES.append(Case(limit, value, scene, more))
        return scene

    return add


@case("max_connections", 1)
async def _connections(running: Running) -> None:
    await running.connect()
    await (await running.connect(None)).expect_close(Code.OVERLOADED)


@case("max_connections_per_address", 1)
async def _connections_of_an_address(running: Running) -> None:
    await running.connect()
    await (await running.connect(None)).expect_close(Code.TOO_MANY_CONNECTIONS)
    assert await (await running.connect(come_from="127.0.0.2")).is_served()


@case("connections_per_s_per_address", 0.1, max_connections_per_address=2)
async def _connections_a_second(running: Running) -> None:
    for _ in range(2):
        (await running.connect()).close()
        await running.until_gone()
    await (await running.connect(None)).expect_close(Code.TOO_MANY_CONNECTIONS)
    assert await (await running.connect(come_from="127.0.0.2")).is_served()


@case("max_unauthenticated", 2)
async def _unauthenticated(running: Running) -> None:
    for address in ("127.0.0.2", "127.0.0.3"):
        await running.connect(None, come_from=address)
    await running.until_connected(2)
    await (await running.connect(None)).expect_close(Code.OVERLOADED)


@case("handshake_timeout_s", 0.1)
async def _handshakes(running: Running) -> None:
    client = await running.connect(None)
    await client.send(HELLO)
    await client.expect(messages.Welcome)
    await client.expect_close(Code.HANDSHAKE_TIMEOUT)


@case("max_http_connections", 1)
async def _http(running: Running) -> None:
    await running.dial_web()
    await eventually(lambda: running.web.http_connections == 1, "it is let in")
    second = await running.dial_web()
    status, headers, _ = await second.read_response()
    assert (status, headers["retry-after"]) == (503, "5")


@case("max_frame_bytes", 8192, max_init_bytes=1024)
async def _frames(running: Running) -> None:
    publisher, room = await running.published_room()
    await publisher.send(frame(room, 0, bytes(8192)))
    await publisher.expect(messages.Viewers)
    await publisher.expect_close(Code.FRAME_TOO_LARGE)


@case("max_init_bytes", 1024)
async def _inits(running: Running) -> None:
    publisher, room = await running.published_room()
    await publisher.send(frame(room, 0, bytes(1024), flags=Flag.INIT))
    await publisher.expect(messages.Viewers)
    await publisher.expect_close(Code.FRAME_TOO_LARGE)


@case("commands_per_s", 100, command_burst=10, max_slowed_s=0.2, max_refused_commands=5)
async def _commands(running: Running) -> None:
    """Slowed down, then refused, then closed."""
    client = await running.connect()
    began = trio.current_time()
    await client.send(*[messages.Ping(stamp=stamp) for stamp in range(200)])
    answers = await client.expect_close(Code.FLOODING)
    pongs = [one for one in answers if isinstance(one, messages.Pong)]
    errors = [one for one in answers if isinstance(one, messages.Error)]
    assert [one.stamp for one in pongs] == [*range(len(pongs))]
    assert len(pongs) >= 9 + 20
    assert trio.current_time() - began >= 0.2
    assert len(errors) == 5
    assert {one.code for one in errors} == {Code.RATE_LIMITED}
    assert all(one.retry and one.retry_after_ms for one in errors)
    assert running.node.limited["max_refused_commands"] == 1


@case("commands_per_s_per_address", 200)
async def _commands_of_an_address(running: Running) -> None:
    """Slowed down and nothing else; another address notices nothing."""
    crowd = [await running.connect(f"a{number}") for number in range(4)]
    other = await running.connect("other", come_from="127.0.0.2")
    for client in crowd:
        await client.send(*[messages.Ping(stamp=stamp) for stamp in range(80)])
    assert await other.is_served()
    for client in crowd:
        for stamp in range(80):
            assert (await client.expect(messages.Pong)).stamp == stamp


@case("max_slowed_s", 0, stream_bytes_per_s=10_000)
async def _slowed(running: Running) -> None:
    publisher, room = await running.published_room()
    await publisher.send(*(frame(room, seq, bytes(5000)) for seq in range(10)))
    await publisher.expect(messages.Viewers)
    await publisher.expect_close(Code.FLOODING)


async def _overdo(running: Running) -> None:
    publisher, room = await running.published_room()
    watcher = await running.connect("bob", come_from="127.0.0.2")
    await watcher.subscribe(room)
    await publisher.expect(messages.Viewers)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        # 100,000 bytes at once, and as many a second.
        nursery.start_soon(publisher.send, *(frame(room, seq, bytes(10_000)) for seq in range(25)))
        await watcher.expect_frames(room, 0, 24)
    # Of what was read together all is handed on before the pause.
    assert trio.current_time() - began >= 0.5
    error = await publisher.expect(messages.Error)
    assert error.request_type == STREAM
    assert error.code == Code.RATE_LIMITED
    assert error.retry_after_ms
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_push_until_cut, publisher, room, 25)
        *_, close = await publisher.rest()
    assert isinstance(close, messages.Close)
    assert close.code == Code.FLOODING


async def _push_until_cut(publisher: RawClient, room: int, seq: int) -> None:
    try:
        while True:
            await publisher.send(frame(room, seq, bytes(10_000)))
            seq += 1
    except OSError:
        pass


_LOW: Final = {"max_slowed_s": 1.0, "close_timeout_s": 0.2}
case("stream_bytes_per_s", 100_000, **_LOW)(_overdo)
case("stream_bytes_per_s_per_account", 100_000, **_LOW)(_overdo)


async def _send_too_much(running: Running) -> None:
    alice, bob = await running.connect("alice"), await running.connect("bob")
    message = messages.AccountSend(receivers=["bob"], kind=1000, payload=bytes(6000))
    for _ in range(2):
        await alice.request(message, messages.AccountSendAnswer)
    error = await alice.refused(message, Code.RATE_LIMITED)
    assert error.retry_after_ms
    for _ in range(2):
        assert len((await bob.expect(messages.AccountStream)).payload) == 6000
    assert await bob.is_served()


case("account_stream_bytes_per_s", 10_000, max_slowed_s=0.3)(_send_too_much)
case("account_stream_bytes_per_s_per_account", 10_000, max_slowed_s=0.3)(_send_too_much)


@case("max_rooms_per_account", 1)
async def _rooms_of_an_account(running: Running) -> None:
    client = await running.connect()
    await client.register()
    await client.refused(register_room(), Code.TOO_MANY_ROOMS)
    assert await (await running.connect("bob")).register()


@case("max_rooms", 1)
async def _rooms(running: Running) -> None:
    client = await running.connect()
    await client.register()
    await client.refused(register_room(), Code.TOO_MANY_ROOMS)


@case("max_subscriptions", 1)
async def _subscriptions(running: Running) -> None:
    client = await running.connect()
    await client.subscribe(await client.register())
    await client.refused(subscribe(await client.register()), Code.TOO_MANY_SUBSCRIPTIONS)


@case("max_grants_per_room", 1)
async def _grants(running: Running) -> None:
    client = await running.connect()
    room = await client.register()
    await client.request(messages.Grant(room=room, account="bob"), messages.GrantAnswer)
    await client.refused(messages.Grant(room=room, account="eve"), Code.TOO_MANY_GRANTS)


@case("max_sources_per_room", 1)
async def _sources(running: Running) -> None:
    publisher, room = await running.published_room()
    another = messages.Publish(room=room, token=os.urandom(16))
    await publisher.refused(another, Code.TOO_MANY_SOURCES)


@case("max_sources_per_connection", 1)
async def _sources_of_a_connection(running: Running) -> None:
    publisher, _ = await running.published_room()
    another = messages.Publish(room=await publisher.register(), token=os.urandom(16))
    await publisher.refused(another, Code.TOO_MANY_SOURCES)


@case("max_tracks_per_room", 1)
async def _tracks(running: Running) -> None:
    publisher, room = await running.published_room()
    await publisher.send(frame(room, 0), frame(room, 0, track=1))
    await publisher.expect(messages.Viewers)
    await publisher.expect_close(Code.FLOODING)


@case("max_room_init_bytes", 64 * 1024)
async def _init_bytes(running: Running) -> None:
    publisher, room = await running.published_room()
    for track in range(2):
        await publisher.send(frame(room, 0, bytes(40_000), flags=Flag.INIT, track=track))
    await publisher.expect(messages.Viewers)
    await publisher.expect_close(Code.FLOODING)


async def _ask(running: Running) -> None:
    creator = await running.connect("alice")
    room = await creator.register()
    ask = messages.AskToPush(room=room, message="")
    bob = await running.connect("bob")
    await bob.request(ask, messages.AskToPushAnswer)
    asker = bob if running.server.limits.ask_interval_s else await running.connect("eve")
    assert (await asker.refused(ask, Code.RATE_LIMITED)).retry_after_ms


case("ask_interval_s", 60)(_ask)
case("asks_per_minute_per_room", 1, ask_interval_s=0)(_ask)


def log_in(account: str, password: bytes = b"wrong") -> messages.Authenticate:
    return messages.Authenticate(
        method=messages.AuthMethod.PASSWORD, account=account, secret=password, device=""
    )


@case("logins_per_minute_per_address", 2)
async def _logins_of_an_address(running: Running) -> None:
    for account in ("alice", "bob"):
        client = await running.connect(None)
        await client.request(HELLO, messages.Welcome)
        await client.refused(log_in(account), Code.BAD_CREDENTIALS)
    error = await client.refused(log_in("carol"), Code.RATE_LIMITED)
    assert error.retry_after_ms > 1000
    elsewhere = await running.connect(None, come_from="127.0.0.2")
    await elsewhere.request(HELLO, messages.Welcome)
    await elsewhere.request(log_in("alice", b"correct horse"), messages.AuthenticateAnswer)


@case("logins_per_minute_per_account", 2)
async def _logins_of_an_account(running: Running) -> None:
    codes = (Code.BAD_CREDENTIALS, Code.BAD_CREDENTIALS, Code.RATE_LIMITED)
    for number, code in enumerate(codes):
        client = await running.connect(None, come_from=f"127.0.0.{number + 2}")
        await client.request(HELLO, messages.Welcome)
        await client.refused(log_in("alice"), code)


@case("max_failed_logins", 1)
async def _failed_logins(running: Running) -> None:
    client = await running.connect(None)
    await client.request(HELLO, messages.Welcome)
    await client.refused(log_in("alice"), Code.BAD_CREDENTIALS)
    await client.send(messages.encode(log_in("alice"), 9))
    await client.expect_close(Code.AUTHENTICATION_FAILED)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{tmp_path / 'accounts.db'}")
    store.open()
    store.add_account("alice", cheap_hasher().hash_blocking(b"correct horse"))
    yield store
    store.close()


@pytest.mark.parametrize("case", CASES, ids=[case.limit for case in CASES])
async def test_a_limit(case: Case, store: Store) -> None:
    limits = Limits(**{case.limit: case.value}, **case.more)
    authenticator: Authenticator | None = None
    if "login" in case.limit:
        authenticator = StoreAuthenticator(store, limits, hasher=cheap_hasher())
    async with running_server(limits, authenticator=authenticator, close=store.close) as running:
        await case.scene(running)
        assert running.node.limited[case.limit] >= 1
        assert running.node.figures()[f"limited_{case.limit}"] >= 1
        # All of it is there for a scraper, too.
        assert await _scraped(running, case.limit) >= 1


async def _scraped(running: Running, limit: str) -> float:
    if limit == "max_http_connections":
        running.close_clients()
        await eventually(lambda: not running.web.http_connections, "there is room again")
    scraper = await running.dial_web(come_from="127.0.0.9")
    await scraper.send_raw(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
    status, _, body = await scraper.read_response()
    assert status == 200
    found = re.search(rf'tim_trio_limits_reached_total{{limit="{limit}"}} ([0-9.]+)', body.decode())
    assert found is not None
    return float(found[1])


def test_each_is_described_to_operators() -> None:
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    missing = [case.limit for case in CASES if f"`{case.limit}`" not in text]
    assert not missing
