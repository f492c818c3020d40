"""Every limit over the wire: what the client is told, and that it is counted."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
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
from tim_trio.core.relations import MemoryRelations
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
    stamps = [one.stamp for one in pongs]
    # Some may pass between two refusals, where the machine takes its time.
    assert stamps == sorted(set(stamps))
    assert stamps[:29] == [*range(29)]
    assert trio.current_time() - began >= 0.2
    assert len(errors) == 5
    assert {one.code for one in errors} == {Code.RATE_LIMITED}
    assert all(one.retry and one.retry_after_ms for one in errors)
    assert running.node.limited["max_refused_commands"] == 1


case("max_refused_commands", 5, commands_per_s=100, command_burst=10, max_slowed_s=0.2)(_commands)


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


@case("max_receivers", 64)
async def _receivers(running: Running) -> None:
    client = await running.connect()
    names = [f"a{number}" for number in range(65)]
    message = messages.AccountSend(receivers=names, kind=1000, payload=b"")
    await client.refused(message, Code.BAD_REQUEST)


@case("max_account_stream_bytes", 1024)
async def _payloads(running: Running) -> None:
    client = await running.connect()
    message = messages.AccountSend(receivers=["bob"], kind=1000, payload=bytes(1025))
    await client.refused(message, Code.BAD_REQUEST)


@case("account_backlog_bytes", 1024)
async def _unread_messages(running: Running) -> None:
    await running.connect("bob")  # and reads nothing
    alice = await running.connect("alice")
    message = messages.AccountSend(receivers=["bob"], kind=1000, payload=bytes(1000))
    async with trio.open_nursery() as nursery:
        stop = trio.CancelScope()

        async def fill_its_socket() -> None:
            # As many as the kernel takes on the way to bob, at the pace that is allowed.
            with stop:
                while True:
                    await alice.request(message, messages.AccountSendAnswer)

        nursery.start_soon(fill_its_socket)
        await eventually(lambda: running.node.account_busy > 0, "there is no room any more")
        stop.cancel()


@case("max_contacts_per_account", 1)
async def _contacts(running: Running) -> None:
    client = await running.connect()
    ask = partial(messages.Contact, action=messages.ContactAction.ASK)
    await client.request(ask(account="bob"), messages.ContactAnswer)
    await client.refused(ask(account="eve"), Code.TOO_MANY_CONTACTS)


@case("max_contacts_in_memory", 2)
async def _contacts_in_all(running: Running) -> None:
    client = await running.connect()
    ask = partial(messages.Contact, action=messages.ContactAction.ASK)
    await client.request(ask(account="bob"), messages.ContactAnswer)
    await client.refused(ask(account="eve"), Code.UNAVAILABLE)


@case("ping_interval_s", 0.4)
async def _silence(running: Running) -> None:
    client = await running.connect()
    await client.expect(messages.Ping)
    await client.expect_close(Code.IDLE_TIMEOUT)


@case("stall_timeout_s", 0.1)
async def _subscriber_that_does_not_read(running: Running) -> None:
    publisher, room = await running.published_room()
    await (await running.connect("bob", receive_buffer=4096)).subscribe(room)
    closes = running.node.closes
    for seq in itertools.count():
        if closes["slow_consumer"]:
            return
        await publisher.send(frame(room, seq, bytes(30_000), flags=Flag.KEY))


@case("control_backlog_bytes", 64 * 1024)
async def _unread_answers(running: Running) -> None:
    client = await running.connect(receive_buffer=4096)
    for number in range(64):
        ask = messages.Contact(
            action=messages.ContactAction.ASK, account=f"{number}".rjust(64, "€")
        )
        await client.request(ask, messages.ContactAnswer)
    for _ in range(900):
        if running.node.closes["slow_consumer"]:
            return
        with contextlib.suppress(OSError):  # it may be closed by now
            await client.send(messages.ListContacts(after="", limit=0))
    await eventually(lambda: running.node.closes["slow_consumer"] == 1, "it is closed")


@case("min_reliable_rate", 1e9, reliable_patience_s=0.1)
async def _slow_subscribers(running: Running) -> None:
    publisher, _ = await running.published_room()
    request = attrs.evolve(register_room(), mode=messages.RoomMode.RELIABLE)
    room = (await publisher.request(request, messages.RegisterRoomAnswer)).room
    await publisher.publish(room, os.urandom(16))
    await (await running.connect("bob")).subscribe(room)  # and grants nothing
    for seq in range(2):
        await publisher.send(frame(room, seq, bytes(1_000_000)))
    await eventually(lambda: running.node.closes["slow_consumer"] == 1, "it is closed")


@case("node_reliable_bytes", 64 * 1024)
async def _what_reliable_rooms_hold(running: Running) -> None:
    publisher, _ = await running.published_room()
    request = attrs.evolve(register_room(), mode=messages.RoomMode.RELIABLE)
    room = (await publisher.request(request, messages.RegisterRoomAnswer)).room
    await publisher.publish(room, os.urandom(16))
    await (await running.connect("bob", receive_buffer=4096)).subscribe(room)  # and does not read
    for seq in range(2):
        await publisher.send(frame(room, seq, bytes(1_000_000)))
    await eventually(lambda: running.node.closes["slow_consumer"] == 1, "it is closed")


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


#: Those that what reads and writes a connection has a part in.
_OVER_WEBSOCKET: Final = {
    *("max_connections", "max_unauthenticated", "handshake_timeout_s", "ping_interval_s"),
    *("max_frame_bytes", "max_init_bytes", "stream_bytes_per_s", "stall_timeout_s"),
    *("commands_per_s", "commands_per_s_per_address", "account_stream_bytes_per_s"),
    *("logins_per_minute_per_address", "max_failed_logins", "control_backlog_bytes"),
}


class OverWeb(Running):
    """The same server, whose clients come over WebSocket."""

    async def connect(self, *args: Any, **more: Any) -> RawClient:
        return await self.connect_web(*args, **more)


@pytest.mark.parametrize(
    "case, wire",
    [
        pytest.param(case, wire, id=f"{case.limit}-{wire}")
        for case in CASES
        for wire in ("tcp", "websocket")
        if wire == "tcp" or case.limit in _OVER_WEBSOCKET
    ],
)
async def test_a_limit(case: Case, wire: str, store: Store) -> None:
    limits = Limits(**{case.limit: case.value}, **case.more)
    authenticator: Authenticator | None = None
    if "login" in case.limit:
        authenticator = StoreAuthenticator(store, limits, hasher=cheap_hasher())
    async with running_server(
        limits,
        authenticator=authenticator,
        relations=MemoryRelations(limits.max_contacts_per_account, limits.max_contacts_in_memory),
        close=store.close,
    ) as running:
        if wire == "websocket":
            await case.scene(OverWeb(*attrs.astuple(running, recurse=False)))
        else:
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


_UNITS: Final = {"seconds": " s", "milliseconds": " ms"}


def _as_operators_read_it(value: float, unit: str) -> str:
    if unit.startswith("bytes"):
        for name, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
            if value % size == 0:
                return f"{value // size:g} {name}"
    return f"{value:,g}{_UNITS.get(unit, '')}" if value < 1e5 else f"{int(value):,}"


def _described() -> dict[str, tuple[str, str]]:
    """Default and consequence of each key in the table for operators."""
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    rows = re.findall(r"^\| [^|]+ \| `(\w+)` \| ([^|]+) \| (.+) \|$", text, re.MULTILINE)
    found = {key: (default, beyond) for key, default, beyond in rows}
    assert len(found) == len(rows), "one row each"
    return found


def test_the_table_for_operators_is_the_configuration() -> None:
    described = _described()
    fields = {field.name: field for field in attrs.fields(Limits)}
    assert described.keys() == fields.keys()
    for key, (default, _) in described.items():
        value, unit = fields[key].default, fields[key].metadata["unit"]
        assert value is not None
        assert default == _as_operators_read_it(value, unit), key


def test_each_limit_that_refuses_something_is_reached_here() -> None:
    tested = {case.limit for case in CASES}
    #: Where those are tested that have counters of their own (closes, events), or none.
    elsewhere = {
        "http_timeout_s": "net/test_websocket_hostile.py",
        "max_waiting_logins": "accounts/test_authenticator.py",
        "max_devices_per_account": "accounts/test_authenticator.py",
        "idle_timeout_s": "core/test_manager.py",
        "linger_s": "core/test_manager.py",
        "outbox_items": "core/test_outbox.py",
    }
    for key, (_, beyond) in _described().items():
        assert (key in tested) != (
            beyond == "–" or beyond.startswith("lags") or key in elsewhere
        ), key
    for key, name in elsewhere.items():
        assert key in (Path(__file__).parents[1] / name).read_text(), key
