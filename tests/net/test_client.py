"""The client library against the real server, over real sockets."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import open_stream_to_socket_listener

import tim_trio
from tests.net.running import Running, running_server
from tests.net.scripted_server import ROOM
from tim_trio.net.client import Client
from tim_trio.net.client.address import Address, parse_address
from tim_trio.net.client.client import room_number
from tim_trio.net.client.credentials import checked_account, secret_bytes
from tim_trio.protocol.messages import RoomMode
from tim_trio.protocol.room_ids import format_room_id, parse_room_id


def client(
    running: Running, account: str = "alice", *, reconnect: bool = True
) -> AbstractAsyncContextManager[Client]:
    address = f"tim://127.0.0.1:{running.port}"
    return tim_trio.connect(address, account=account, reconnect=reconnect)


async def test_a_stream_from_one_account_to_another() -> None:
    async with (
        running_server() as running,
        client(running) as alice,
        client(running, "bob") as bob,
    ):
        room = await alice.register_room()
        async with bob.subscribe(room) as stream:
            async with alice.publish(room) as source:
                assert await source.wait_viewers(1) == 1
                await source.send(b"codec", init=True)
                await source.send(b"picture", key=True)
                await source.send(b"sound", track=1)
                await source.send(b"", end=True)
            assert source.result is not None
            assert (source.result.forwarded, source.result.discarded) == (4, 0)
            joined = await anext(stream)
            frames = [await anext(stream) for _ in range(4)]
            left = await anext(stream)
            assert isinstance(joined, tim_trio.SourceJoined)
            assert joined.account == "alice"
            assert isinstance(left, tim_trio.SourceLeft)
            seen = []
            for frame in frames:
                assert isinstance(frame, tim_trio.StreamFrame)
                seen.append((frame.track, frame.seq, frame.payload))
            assert seen == [(0, 0, b"codec"), (0, 1, b"picture"), (1, 0, b"sound"), (0, 2, b"")]
            await alice.remove_room(room)
            with pytest.raises(StopAsyncIteration):
                await anext(stream)


async def test_rights() -> None:
    async with (
        running_server() as running,
        client(running) as alice,
        client(running, "bob") as bob,
    ):
        room = await alice.register_room()
        with pytest.raises(tim_trio.PermissionDenied):
            async with bob.publish(room):
                raise AssertionError("not reached")
        assert await bob.ask_to_push(room, "please") == 1
        asked = await anext(alice.events())
        assert isinstance(asked, tim_trio.PushAsked)
        assert (format_room_id(asked.room), asked.account, asked.message) == (room, "bob", "please")
        await alice.grant(asked.room, asked.account)
        granted = await anext(bob.events())
        assert isinstance(granted, tim_trio.PushGranted)
        other = await alice.register_room()
        await bob.ask_to_push(other)
        with pytest.raises(tim_trio.RateLimited) as caught:
            await bob.ask_to_push(other)
        assert caught.value.retry_after_ms > 0
        async with bob.publish(room) as source:
            await source.send(b"x")
            await alice.revoke(room, "bob")
            with pytest.raises(tim_trio.SourceRevoked):
                await source.wait_viewers(1)


async def test_information_and_lists() -> None:
    async with running_server() as running, client(running) as alice:
        rooms = [await alice.register_room(idle_timeout_s=60, gather_ms=5) for _ in range(3)]
        await alice.grant(rooms[0], "bob")
        info = await alice.room_info(rooms[0])
        assert (info.room, info.mode, info.creator) == (
            parse_room_id(rooms[0]),
            RoomMode.LIVE,
            "alice",
        )
        assert (info.idle_timeout_s, info.gather_ms, info.granted) == (60, 5, ["bob"])
        listed = await alice.list_rooms()
        assert [format_room_id(entry.room) for entry in listed] == sorted(rooms)
        assert listed == await alice.list_rooms(all_rooms=True)  # an operator, in open mode
        assert alice.account == "alice"
        assert alice.server.version == 1
        with pytest.raises(ValueError, match="'live', 'reliable'"):
            await alice.register_room(mode="fast")  # type: ignore[arg-type]


async def test_a_takeover_replaces_the_older_connection() -> None:
    token = bytes(range(16))
    async with (
        running_server() as running,
        client(running) as first,
        client(running) as second,
    ):
        room = await first.register_room()
        async with first.publish(room, token=token) as source:
            await source.send(b"a")
            await source.send(b"b")
            # Answered behind the frames: they have been accepted.
            await first.room_info(room)
            async with second.publish(room, token=token) as again:
                assert again.number == source.number
                assert await again.send(b"c") == 2
                await second.room_info(room)
                await first.room_info(room)
                with pytest.raises(tim_trio.SourceReplaced):
                    await source.send(b"d")


async def test_a_graceful_stop_says_go_away_and_why() -> None:
    async with (
        running_server(drain_timeout_s=0.2) as running,
        client(running, reconnect=False) as alice,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(running.server.drain)
        assert isinstance(await anext(alice.events()), tim_trio.GoAway)
        with pytest.raises(tim_trio.ConnectionClosed) as caught:
            await anext(alice.events())
        assert caught.value.code == 1001
        assert caught.value.retryable


async def test_nobody_listens() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    await listeners[0].aclose()
    address = f"tim://127.0.0.1:{port}"
    with pytest.raises(tim_trio.ConnectFailed, match=f"no server at {address}: connection refused"):
        async with tim_trio.connect(address, account="alice"):
            raise AssertionError("not reached")


async def test_a_host_without_address() -> None:
    with pytest.raises(tim_trio.ConnectFailed, match="name is not known"):
        async with tim_trio.connect("tim://nobody.invalid:1", account="alice"):
            raise AssertionError("not reached")


async def test_someone_else_listens() -> None:
    @asynccontextmanager
    async def web_server():  # type: ignore[no-untyped-def]
        async def answer(stream: trio.SocketStream) -> None:
            await stream.receive_some()
            await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await stream.aclose()

        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, answer, 0)
            yield listeners[0].socket.getsockname()[1]
            nursery.cancel_scope.cancel()

    async with web_server() as port:
        with pytest.raises(tim_trio.NotATimServer, match=f"127.0.0.1:{port} is not a tim_trio"):
            async with tim_trio.connect(f"tim://127.0.0.1:{port}", account="alice"):
                raise AssertionError("not reached")


async def test_a_server_that_never_greets() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    probe = await open_stream_to_socket_listener(listeners[0])
    address = f"tim://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
    with pytest.raises(tim_trio.ConnectFailed, match=rf"{address} took .* within 0\.05 s"):
        async with tim_trio.connect(address, account="alice", connect_timeout_s=0.05):
            raise AssertionError("not reached")
    await probe.aclose()
    await listeners[0].aclose()


async def test_a_bad_name_is_refused_before_connecting() -> None:
    with pytest.raises(ValueError, match="account name"):
        async with tim_trio.connect("tim://127.0.0.1:1", account="a/b"):
            raise AssertionError("not reached")


async def test_a_room_that_does_not_exist() -> None:
    async with running_server() as running, client(running) as alice:
        with pytest.raises(tim_trio.NoSuchRoom):
            await alice.room_info(ROOM)


@pytest.mark.parametrize(
    "text, address",
    [
        ("tim://example.org:7601", Address("example.org", 7601)),
        ("tim://example.org", Address("example.org", 7600)),
        ("tim://[::1]:5/", Address("::1", 5)),
        ("tim://127.0.0.1:65535", Address("127.0.0.1", 65535)),
        ("tims://example.org", Address("example.org", 7600, tls=True)),
        ("tims://[::1]:5", Address("::1", 5, tls=True)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1:7600",
        "tim://",
        "tim://:7600",
        "timss://host:1",
        "http://host:1",
        "tim://host:70000",
        "tim://host:x",
        "tim://host:0",
        "tim://host:1/path",
        "tim://host:1?a=b",
        "tim://user@host:1",
        "tim://[::1:5",
    ],
)
def test_what_is_no_address_says_how_to_write_one(text: str) -> None:
    with pytest.raises(ValueError, match="tim://HOST:PORT"):
        parse_address(text)


def any_value(value: Any) -> Any:
    """A value as who does not check types might give it."""
    return value


@pytest.mark.parametrize(
    "call, error, why",
    [
        (lambda: parse_address(any_value(None)), TypeError, "text, not NoneType: write it as tim"),
        (lambda: checked_account(any_value(5)), TypeError, "a text, not int"),
        (lambda: checked_account("a b"), ValueError, "'a b' is not an account name: 1 to 64"),
        (lambda: room_number(any_value(None)), TypeError, "as text or as a number, not NoneType"),
        (lambda: room_number(any_value(b"NGhMpCbk2wQ")), TypeError, "not bytes"),
        (lambda: room_number(5), ValueError, "5 is not a room id"),
        # Of a number bytes() would make so many zeros.
        (lambda: secret_bytes(any_value(12345678), "a password"), TypeError, "not int"),
        (lambda: secret_bytes("", "a password"), ValueError, "a password must have 1 to 4096"),
    ],
)
def test_what_is_given_wrong_says_what_is_right(
    call: Callable[[], object], error: type[Exception], why: str
) -> None:
    with pytest.raises(error, match=re.escape(why)) as caught:
        call()
    assert "12345678" not in str(caught.value)


async def test_requests_with_what_does_not_fit_are_not_sent() -> None:
    async with running_server() as running, client(running) as alice:
        for wrong, why in (
            (alice.register_room(gather_ms=-1), "gather_ms: -1 does not fit u16"),
            (alice.register_room(idle_timeout_s=2**32), "idle_timeout_s: 4294967296 does not fit"),
            (alice.grant(ROOM, any_value(None)), "account: NoneType where a text is due"),
            (alice.send_to("bob", b"", kind=70_000), "kind: 70000 does not fit u16"),
            (alice.ask_to_push(ROOM, any_value(b"me")), "message: bytes where a text is due"),
        ):
            with pytest.raises(tim_trio.LocalProtocolError, match=why):
                await wrong
        for payload in ("text", 5, [1]):
            with pytest.raises(TypeError, match="a payload is bytes, not"):
                await alice.send_to("bob", any_value(payload))
        assert await alice.list_rooms() == []


def test_every_public_name_is_there() -> None:
    for name in tim_trio.__all__:
        assert getattr(tim_trio, name) is not None
    with pytest.raises(AttributeError, match="conect"):
        getattr(tim_trio, "conect")  # noqa: B009


def test_the_protocol_core_does_without_trio() -> None:
    program = (
        "import sys, tim_trio.protocol.decoder, tim_trio.protocol.messages\n"
        "sys.exit('trio' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
