"""WebSocket connections of a server: the same conversation as over TCP, in messages."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

import pytest
import trio
import trio_websocket

from tests.net.rawclient import HELLO, authenticate, bye, frame, subscribe, to_bytes
from tests.net.running import eventually, running_server
from tests.net.wsclient import BINARY, CLOSE, CONTINUATION, PING, PONG, handshake, ws_frame
from tim_trio.core.form import Buffer
from tim_trio.errors import Code
from tim_trio.limits import Limits
from tim_trio.net.http import Request, Unservable
from tim_trio.net.websocket import WEBSOCKET, WebSocketForm, open_websocket
from tim_trio.protocol import messages
from tim_trio.protocol.layout import Flag

_HEADERS: Final = {
    "host": "localhost",
    "upgrade": "websocket",
    "connection": "keep-alive, Upgrade",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    "sec-websocket-protocol": "tim.1",
}


# The handshake


def test_a_handshake() -> None:
    """The key and its answer are RFC 6455's example."""
    opening = open_websocket(Request("GET", "localhost", "/ws", _HEADERS))
    lines = opening.answer.decode().split("\r\n")
    assert lines[0].startswith("HTTP/1.1 101 ")
    assert "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in lines
    assert "Sec-WebSocket-Protocol: tim.1" in lines
    assert lines[-2:] == ["", ""]


@pytest.mark.parametrize(
    "changed",
    [
        {"upgrade": "WebSocket", "connection": "upgrade"},
        {"sec-websocket-protocol": "tim.9, tim.1"},
        {"sec-websocket-extensions": "permessage-deflate; client_max_window_bits"},
        {"user-agent": "b\u00fccher"},
    ],
)
def test_handshakes_that_are_fine(changed: dict[str, str]) -> None:
    opening = open_websocket(Request("GET", "localhost", "/ws", {**_HEADERS, **changed}))
    assert b"xtensions" not in opening.answer


@pytest.mark.parametrize(
    "changed, status",
    [
        ({"upgrade": ""}, HTTPStatus.UPGRADE_REQUIRED),
        ({"upgrade": "h2c"}, HTTPStatus.UPGRADE_REQUIRED),
        ({"sec-websocket-version": "8"}, HTTPStatus.UPGRADE_REQUIRED),
        ({"sec-websocket-version": ""}, HTTPStatus.UPGRADE_REQUIRED),
        ({"upgrade": "websocket, h2c"}, HTTPStatus.BAD_REQUEST),
        ({"connection": "keep-alive"}, HTTPStatus.BAD_REQUEST),
        ({"connection": "\u00fcpgrade"}, HTTPStatus.BAD_REQUEST),
        ({"sec-websocket-key": ""}, HTTPStatus.BAD_REQUEST),
        ({"sec-websocket-key": "short=="}, HTTPStatus.BAD_REQUEST),
        ({"sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==, x"}, HTTPStatus.BAD_REQUEST),
        ({"sec-websocket-protocol": ""}, HTTPStatus.BAD_REQUEST),
        ({"sec-websocket-protocol": "tim.2"}, HTTPStatus.BAD_REQUEST),
        ({"sec-websocket-protocol": "\u00e9"}, HTTPStatus.BAD_REQUEST),
        ({"host": "b\u00fccher\u00ff"}, HTTPStatus.BAD_REQUEST),
    ],
)
def test_handshakes_that_are_refused(changed: dict[str, str], status: HTTPStatus) -> None:
    with pytest.raises(Unservable) as refused:
        open_websocket(Request("GET", "localhost", "/ws", {**_HEADERS, **changed}))
    assert refused.value.response.status is status


async def test_a_client_that_does_not_wait_for_the_handshake() -> None:
    async with running_server() as running:
        client = await running.dial_web()
        first = ws_frame(messages.encode(HELLO, 1))
        await client.send_raw(handshake() + first)
        status, _, _ = await client.read_response()
        assert status == 101
        welcome = await client.expect(messages.Welcome)
        assert welcome.version == 1


async def test_a_page_and_then_a_websocket_on_one_connection() -> None:
    async with running_server(files={"index.html": b"page"}) as running:
        client = await running.dial_web()
        _, _, body = await client.ask_http(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert body == b"page"
        await client.open()
        await client.greet()
        assert running.web.http_connections == 0


async def test_another_library_is_served() -> None:
    async with running_server() as running:
        publisher, room = await running.published_room()
        stream = await trio.open_tcp_stream("127.0.0.1", running.web_port)
        async with stream, trio.open_nursery() as nursery:
            client = await trio_websocket.wrap_client_stream(
                nursery, stream, "localhost", "/ws", subprotocols=["tim.1"]
            )
            opening = (HELLO, authenticate("bob"), subscribe(room))
            for number, request in enumerate(opening, 1):
                await client.send_message(messages.encode(request, number))
            for request in opening:
                answer = await client.get_message()
                assert isinstance(answer, bytes)
                assert answer[4] == messages.type_of(type(request)) + 0x80
            await publisher.send(frame(room, 0, b"hello"))
            assert await client.get_message() == to_bytes(frame(room, 0, b"hello"))
            await client.ping(b"are you there")
            await client.send_message(to_bytes(bye()))
            close = await client.get_message()
            assert isinstance(close, bytes) and close[4] == messages.type_of(messages.Close)
            with pytest.raises(trio_websocket.ConnectionClosed) as closed:
                await client.get_message()
            assert closed.value.reason is not None
            assert (closed.value.reason.code, closed.value.reason.reason) == (4000, "bye")


# Frames


async def test_members_of_both_kinds_get_the_same_frames() -> None:
    async with running_server() as running:
        publisher, room = await running.published_room()
        web = await running.connect_web("bob")
        tcp = await running.connect("carol")
        for member in (web, tcp):
            await member.subscribe(room)
        for seq in range(20):
            flags = Flag.KEY if seq % 10 == 0 else Flag.NONE
            await publisher.send(frame(room, seq, b"x" * (seq * 3000), flags=flags))
        assert await web.expect_frames(room, 0, 19) == await tcp.expect_frames(room, 0, 19)
        # Who comes later gets the group, in several messages.
        late = await running.connect_web("dave")
        before = late.messages
        await late.subscribe(room)
        await late.expect_frames(room, 10, 19)
        assert late.messages - before > 3


async def test_publishers_of_both_kinds_in_one_room() -> None:
    async with running_server() as running:
        publisher, room = await running.published_room()
        watcher = await running.connect_web("carol")
        await watcher.subscribe(room)
        for account, connect in (("bob", running.connect_web), ("dora", running.connect)):
            other = await connect(account)
            await publisher.request(
                messages.Grant(room=room, account=account), messages.GrantAnswer
            )
            source = await other.publish(room, token=account.encode().ljust(16))
            await other.send(*(frame(room, seq, account.encode(), source=source) for seq in (0, 1)))
            joined = await watcher.expect(messages.SourceJoined)
            assert (joined.source, joined.account) == (source, account)
            got = await watcher.expect_frames(room, 0, 1)
            assert {each.payload for each in got} == {account.encode()}


async def test_messages_that_are_read_together_are_one_run() -> None:
    async with running_server() as running:
        publisher = await running.connect_web("alice")
        room = await publisher.register()
        await publisher.publish(room)
        web = await running.connect_web("bob")
        await web.subscribe(room)
        before = web.messages
        wire = b"".join(ws_frame(to_bytes(frame(room, seq))) for seq in range(50))
        await publisher.send_raw(wire)
        await web.expect_frames(room, 0, 49)
        assert web.messages - before == 1


async def test_more_messages_in_a_read_than_are_taken_at_once() -> None:
    async with running_server() as running:
        publisher = await running.connect_web("alice")
        room = await publisher.register()
        await publisher.publish(room)
        web = await running.connect_web("bob")
        await web.subscribe(room)
        wire = b"".join(ws_frame(to_bytes(frame(room, seq, b""))) for seq in range(1000))
        wire += ws_frame(messages.encode(messages.Ping(stamp=3), 77))
        await publisher.send_raw(wire)
        await publisher.expect(messages.Viewers)
        assert await publisher.expect(messages.Pong) == messages.Pong(stamp=3)
        await web.expect_frames(room, 0, 999)


async def test_frames_and_fragments_in_all_shapes() -> None:
    async with running_server() as running:
        client = await running.connect_web("alice")
        room = await client.register()
        await client.publish(room)
        await client.expect(messages.Viewers)
        await client.subscribe(room)
        one, two, three = (to_bytes(frame(room, seq, bytes(300))) for seq in range(3))
        # Two frames in one message; then one in fragments, empty ones among
        # them, with a ping and a pong between.
        await client.send_raw(ws_frame(one + two))
        await client.expect_frames(room, 0, 1)
        await client.send_raw(ws_frame(three[:1], BINARY, fin=False))
        await client.send_raw(ws_frame(b"", CONTINUATION, fin=False))
        await client.send_raw(ws_frame(b"between", PING))
        await client.send_raw(ws_frame(b"unasked", PONG))
        await client.send_raw(ws_frame(three[1:], CONTINUATION, fin=False))
        # The frame is whole, and so it goes on, though its message is not.
        await client.expect_frames(room, 2, 2)
        assert client.pongs == [b"between"]
        await client.send_raw(ws_frame(b"", CONTINUATION))
        assert await client.is_served()


async def test_a_message_may_be_longer_than_any_frame() -> None:
    limits = Limits(max_frame_bytes=8192, max_init_bytes=4096, backlog_bytes=2**20)
    async with running_server(limits) as running:
        client = await running.connect_web("alice")
        room = await client.register()
        await client.publish(room)
        await client.expect(messages.Viewers)
        await client.subscribe(room)
        whole = b"".join(to_bytes(frame(room, seq, bytes(4000))) for seq in range(100))
        await client.send_raw(ws_frame(whole))
        await client.expect_frames(room, 0, 99)


# How it ends


async def test_a_close_in_our_words() -> None:
    async with running_server() as running:
        client = await running.connect_web()
        await client.send(bye())
        await client.expect_close(Code.BYE)
        assert client.close_code == 4000


@pytest.mark.parametrize("payload", [b"", b"\x03\xe8", b"\x03\xe9going away", b"\x0f\xa0bye"])
async def test_a_close_in_websockets_words_is_answered_and_a_loss(payload: bytes) -> None:
    """A page that was closed does not say CLOSE; its source waits for a takeover."""
    async with running_server() as running:
        client = await running.connect_web("alice")
        room = await client.register()
        await client.publish(room)
        await client.expect(messages.Viewers)
        await client.send_raw(ws_frame(payload, CLOSE) + ws_frame(b"ignored", PING))
        assert await client.next() is None
        assert client.closed
        assert client.close_code == (int.from_bytes(payload[:2], "big") if payload else None)
        assert client.pongs == []
        await running.until_gone()
        assert running.node.closes == {"lost": 1}
        assert len(running.manager.rooms[room].sources) == 1


async def test_drain_tells_and_then_closes() -> None:
    async with running_server(drain_timeout_s=0.2) as running:
        client = await running.connect_web()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(running.server.drain)
            (away,) = await client.expect_close(Code.SHUTTING_DOWN)
        assert isinstance(away, messages.GoAway)
        assert client.close_code == 4001


async def test_silence_is_pinged_and_then_closed() -> None:
    async with running_server(Limits(ping_interval_s=0.1)) as running:
        client = await running.connect_web()
        before = await client.expect_close(Code.IDLE_TIMEOUT)
        assert [type(item) for item in before] == [messages.Ping]
        assert client.close_code == 4002


async def test_a_websocket_ping_counts_as_heard() -> None:
    async with running_server(Limits(ping_interval_s=0.3)) as running:
        client = await running.connect_web()
        for _ in range(10):
            await trio.sleep(0.1)
            await client.send_raw(ws_frame(b"", PING))
        await client.send(bye())
        await client.expect_close(Code.BYE)


# Bounds


async def test_who_says_nothing_after_the_handshake_is_closed() -> None:
    async with running_server(Limits(handshake_timeout_s=0.1)) as running:
        client = await running.connect_web(None)
        assert await client.expect_close(Code.HANDSHAKE_TIMEOUT) == []
        assert client.close_code == 4006


@pytest.mark.parametrize(
    "limits, code",
    [
        (Limits(max_connections=1), Code.OVERLOADED),
        (Limits(max_connections_per_address=1), Code.TOO_MANY_CONNECTIONS),
    ],
)
async def test_one_connection_more_is_told_why(limits: Limits, code: Code) -> None:
    async with running_server(limits) as running:
        first = await running.connect()
        refused = await running.connect_web(None)
        assert await refused.expect_close(code) == []
        assert refused.close_code == code + 3000
        first.close()
        await running.until_gone()
        assert await (await running.connect_web()).is_served()


async def test_newcomers_of_both_kinds_are_counted_together() -> None:
    async with running_server(Limits(max_unauthenticated=2)) as running:
        await running.connect(None)
        await running.connect_web(None)
        await running.until_connected(2)
        await (await running.connect_web(None)).expect_close(Code.OVERLOADED)


async def test_while_draining_a_handshake_is_accepted_to_say_so() -> None:
    async with running_server() as running:
        stays = await running.connect()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(running.server.drain)
            await stays.expect(messages.GoAway)
            await (await running.connect_web(None)).expect_close(Code.SHUTTING_DOWN)
            await stays.send(bye())


# The form


def test_the_same_run_is_encoded_once() -> None:
    form = WebSocketForm()
    data: Buffer = bytes(1000)
    first = form.encode(data)
    assert form.encode(data) is first
    other = form.encode(bytes(bytearray(1000)))
    assert other == first and other is not first


def test_farewells() -> None:
    assert WEBSOCKET.farewell(None) == b""
    assert WEBSOCKET.farewell(Code.BYE)[:4] == bytes.fromhex("88050fa0")


async def test_ids_of_living_connections_are_counted_by_kind() -> None:
    async with running_server() as running:
        await running.connect()
        client = await running.connect_web()
        _, _, text = await (await running.dial_web()).ask_http(
            b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
        )
        for line in (
            'tim_trio_connections{transport="tcp"} 1.0',
            'tim_trio_connections{transport="websocket"} 1.0',
            'tim_trio_connections{transport="http"} 1.0',
        ):
            assert line in text.decode().splitlines()
        client.close()
        await eventually(lambda: len(running.server.connections) == 1, "it is gone")
