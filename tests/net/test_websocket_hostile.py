"""Whatever comes to the web port: a typed close or an HTTP error, nothing left, nobody hurt.

As in test_server_hostile: `running_server` looks for what is left, and the
`bystanders` must not notice anything.
"""

from __future__ import annotations

import contextlib
import itertools
from typing import Final

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.net.rawclient import HELLO, TOKEN, authenticate, bye, frame, register_room, subscribe
from tests.net.rawclient import to_bytes as frames_of
from tests.net.running import Running, bystanders, eventually, running_server
from tests.net.wsclient import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    WsClient,
    handshake,
    ws_frame,
)
from tim_trio.errors import Code
from tim_trio.limits import Limits
from tim_trio.net.origin import OriginPolicy
from tim_trio.protocol import messages
from tim_trio.protocol.layout import Flag
from tim_trio.protocol.room_ids import FIRST_ROOM_ID

_QUICK: Final = Limits(
    max_frame_bytes=64 * 1024,
    max_init_bytes=2048,
    linger_s=0,
    close_timeout_s=0.5,
    http_timeout_s=5,
)
_PING: Final = messages.encode(messages.Ping(stamp=2), 9)
_LARGE: Final = (64 * 1024).to_bytes(4, "big")


# Pages elsewhere


@pytest.mark.parametrize(
    "request_bytes, status",
    [
        (handshake(origin="https://evil.example"), 403),
        (handshake(origin="null"), 403),
        (handshake(origin="http://localhost.evil.example"), 403),
        (handshake(origin="http://localhost:1"), 403),
        (handshake(host="evil.example"), 421),
        (handshake(host="evil.example", origin="http://evil.example"), 421),
        (handshake(host="evil.example:7680", origin="http://localhost"), 421),
        (handshake(host="<script>alert(1)</script>"), 421),
        (handshake(leave_out="host"), 400),
        (handshake(path="/ws/"), 404),
        (handshake(path="/<script>alert(1)</script>"), 404),
        (handshake(path="/ws/../../etc/passwd"), 404),
        (handshake(leave_out="sec-websocket-key"), 400),
        (handshake(leave_out="upgrade"), 426),
        (handshake(leave_out="connection"), 400),
        (handshake(leave_out="sec-websocket-version"), 426),
        (handshake(leave_out="sec-websocket-protocol"), 400),
        (handshake(x="y" * 40_000), 431),
        (handshake().replace(b"GET", b"POST"), 405),
        (handshake().replace(b"HTTP/1.1", b"HTTP/1.0"), 426),
        (handshake(content_length="5") + b"12345", 413),
        (messages.encode(HELLO, 1), 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n", 400),
    ],
)
async def test_who_does_not_get_in(request_bytes: bytes, status: int) -> None:
    async with running_server(_QUICK) as running, bystanders(running):
        client = await running.dial_web()
        if status == 400 and request_bytes[:4] == bytes(4):
            request_bytes += b"\r\n\r\n"
        answered, headers, body = await client.ask_http(request_bytes)
        assert answered == status
        # What was asked for is not repeated to a browser, which might take it for a page.
        assert b"<script" not in body
        assert headers["content-type"] == "text/plain; charset=utf-8"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert running.node.connections == 2


async def test_who_gets_in_by_the_lists() -> None:
    policy = OriginPolicy(
        hosts=frozenset({"stream.example"}), origins=frozenset({"https://friend.example"})
    )
    async with running_server(_QUICK, policy=policy) as running:
        for request in (
            handshake(host="stream.example", origin="https://stream.example"),
            handshake(host="stream.example", origin="https://friend.example"),
            handshake(host=f"localhost:{running.web_port}", origin="https://friend.example"),
            handshake(origin="http://localhost"),
        ):
            client = await running.dial_web()
            await client.open(request)
            await client.greet()
        for request in (
            handshake(host="stream.example", origin="https://other.example"),
            handshake(host="friend.example", origin="https://friend.example"),
        ):
            client = await running.dial_web()
            assert (await client.ask_http(request))[0] in (403, 421)


async def test_who_comes_through_a_proxy_is_not_on_this_machine() -> None:
    """In open mode a client of this machine is an operator."""
    every_room = messages.ListRooms(scope=messages.ListScope.ALL, after=0, limit=0)
    async with running_server(_QUICK) as running:
        here = await running.connect_web()
        await here.request(every_room, messages.ListRoomsAnswer)
        client = await running.dial_web()
        await client.open(handshake(x_forwarded_for="192.0.2.1"))
        await client.greet()
        await client.refused(every_room, Code.PERMISSION_DENIED)


async def test_names_that_are_scripts_are_names() -> None:
    name = "<script>alert(1)</script>".replace("/", "")
    async with running_server(_QUICK) as running:
        client = await running.connect_web(name)
        room = await client.register()
        await client.publish(room)
        watcher = await running.connect_web("bob")
        answer = await watcher.subscribe(room)
        assert answer.sources[0].account == name
        _, headers, figures = await (await running.dial_web()).ask_http(
            b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
        )
        assert b"<script" not in figures
        assert headers["content-type"].startswith("text/plain")


# One offence each, after a proper greeting

_OFFENCES: Final[dict[str, tuple[bytes, Code]]] = {
    "text": (ws_frame(_PING, TEXT), Code.PROTOCOL_ERROR),
    "empty text": (ws_frame(b"", TEXT), Code.PROTOCOL_ERROR),
    "text that is no UTF-8": (ws_frame(b"\xff\xfe", TEXT), Code.PROTOCOL_ERROR),
    "a fragment of text": (ws_frame(b"x", TEXT, fin=False), Code.PROTOCOL_ERROR),
    "an empty message": (ws_frame(b""), Code.PROTOCOL_ERROR),
    "an empty message in fragments": (
        ws_frame(b"", fin=False) + ws_frame(b"", CONTINUATION),
        Code.PROTOCOL_ERROR,
    ),
    "half a prelude": (ws_frame(_PING[:6]), Code.PROTOCOL_ERROR),
    "half a frame": (ws_frame(_PING[:-1]), Code.PROTOCOL_ERROR),
    "a frame and a half": (ws_frame(_PING + _PING[:9]), Code.PROTOCOL_ERROR),
    "a frame in two messages": (ws_frame(_PING[:9]) + ws_frame(_PING[9:]), Code.PROTOCOL_ERROR),
    "half a frame in fragments": (
        ws_frame(_PING[:5], fin=False) + ws_frame(_PING[5:9], CONTINUATION),
        Code.PROTOCOL_ERROR,
    ),
    "half a prelude too large": (ws_frame(_LARGE), Code.PROTOCOL_ERROR),
    "a frame too large": (ws_frame(_LARGE + bytes([0x40, 0, 0, 0])), Code.FRAME_TOO_LARGE),
    "a message of 2^63 bytes": (bytes.fromhex("82 ff 8000000000000000"), Code.PROTOCOL_ERROR),
    "not masked": (ws_frame(_PING, masked=False), Code.PROTOCOL_ERROR),
    "a close that is not masked": (ws_frame(b"\x03\xe8", CLOSE, masked=False), Code.PROTOCOL_ERROR),
    "reserved bit 1": (ws_frame(_PING, bits=0x40), Code.PROTOCOL_ERROR),
    "reserved bit 3": (ws_frame(_PING, bits=0x10), Code.PROTOCOL_ERROR),
    "opcode 3": (ws_frame(_PING, 0x3), Code.PROTOCOL_ERROR),
    "opcode 15": (ws_frame(_PING, 0xF), Code.PROTOCOL_ERROR),
    "a continuation of nothing": (ws_frame(_PING, CONTINUATION), Code.PROTOCOL_ERROR),
    "a message within a message": (
        ws_frame(_PING, fin=False) + ws_frame(_PING),
        Code.PROTOCOL_ERROR,
    ),
    "a ping in fragments": (ws_frame(b"x", PING, fin=False), Code.PROTOCOL_ERROR),
    "a ping of 126 bytes": (ws_frame(bytes(126), PING), Code.PROTOCOL_ERROR),
    "a length in too many bytes": (
        bytes.fromhex("82 fe 0010 00000000") + _PING,
        Code.PROTOCOL_ERROR,
    ),
    "a close of one byte": (ws_frame(b"\x03", CLOSE), Code.PROTOCOL_ERROR),
    "a close with a reserved code": (ws_frame(b"\x03\xed", CLOSE), Code.PROTOCOL_ERROR),
    "a close whose reason is no UTF-8": (ws_frame(b"\x03\xe8\xff", CLOSE), Code.PROTOCOL_ERROR),
    "TCP's frames": (_PING, Code.PROTOCOL_ERROR),
    "HTTP": (handshake(), Code.PROTOCOL_ERROR),
    "an offence within": (
        ws_frame(messages.encode(HELLO, 9)),
        Code.PROTOCOL_ERROR,
    ),
}


@pytest.mark.parametrize("offence", _OFFENCES)
async def test_an_offence(offence: str) -> None:
    data, code = _OFFENCES[offence]
    async with running_server(_QUICK) as running, bystanders(running):
        client = await running.connect_web()
        # What stands before it is carried out, and nothing behind it.
        await client.send_raw(client.wrap(messages.encode(messages.Ping(stamp=1), 7)) + data)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            await client.send(messages.Ping(stamp=3))
        before = await client.expect_close(code)
        assert before[0] == messages.Pong(stamp=1)
        # A frame that was whole when its message went wrong may count.
        assert before[1:] in ([], [messages.Pong(stamp=2)])
        assert client.close_code == code + 3000
        await running.until_gone(2)
        assert running.node.closes == {code.label: 1}


async def test_a_message_that_claims_to_be_huge_holds_nothing_back() -> None:
    """Only a frame is ever held, and that is bounded."""
    async with running_server(_QUICK) as running, bystanders(running):
        client = await running.connect_web()
        room = await client.register()
        await client.publish(room)
        await client.expect(messages.Viewers)
        await client.subscribe(room)
        whole = frames_of(*(frame(room, seq, bytes(1000)) for seq in range(50)))
        # A terabyte is announced.
        await client.send_raw(bytes.fromhex("82 ff 000000ff00000000 00000000") + whole)
        await client.expect_frames(room, 0, 49)
        await client.send_raw(_LARGE + bytes([0x40, 0, 0, 0]))
        await client.expect_close(Code.FRAME_TOO_LARGE)


@pytest.mark.parametrize("kind", [PING, PONG])
async def test_a_flood_of_control_frames(kind: int) -> None:
    limits = attrs.evolve(_QUICK, command_burst=50, commands_per_s=1, max_refused_commands=100)
    async with running_server(limits) as running, bystanders(running):
        client = await running.connect_web()
        await client.send_raw(ws_frame(b"x", kind) * 40)
        await client.send(messages.Ping(stamp=1))
        assert await client.expect(messages.Pong) == messages.Pong(stamp=1)
        assert len(client.pongs) == (40 if kind == PING else 0)
        await client.send_raw(ws_frame(b"x", kind) * 200)
        await client.expect_close(Code.FLOODING)
        assert len(client.pongs) in ((50, 51) if kind == PING else (0,))


async def test_a_flood_of_tiny_fragments_lets_others_in() -> None:
    """Six bytes each: a hundred kilobytes of them are 16,000, in one read."""
    async with running_server(_QUICK) as running, bystanders(running):
        client = await running.connect_web()
        await client.send_raw(
            ws_frame(_PING[:1], fin=False) + ws_frame(b"", CONTINUATION, fin=False) * 16_000
        )
        await client.send_raw(ws_frame(_PING[1:], CONTINUATION))
        assert await client.expect(messages.Pong) == messages.Pong(stamp=2)


async def test_pings_while_the_backlog_is_full() -> None:
    """They are answered when it has been read, behind what stands before them."""
    limits = Limits(backlog_age_s=30, stall_timeout_s=30, command_burst=10_000)
    async with running_server(limits, send_buffer=4096) as running, bystanders(running):
        publisher, room = await running.published_room()
        stalled = await running.connect_web("stalled", receive_buffer=4096)
        await stalled.subscribe(room)
        sent = 0
        while not running.node.lagging:
            flags = Flag.KEY if sent % 10 == 0 else Flag.NONE
            await publisher.send(frame(room, sent, bytes(30_000), flags=flags))
            assert await publisher.is_served()
            sent += 1
        for number in range(50):
            await stalled.send_raw(ws_frame(b"%d" % number, PING))
        await stalled.send(messages.Ping(stamp=5))
        items = []
        while not isinstance(item := await stalled.next(), messages.Pong):
            items.append(item)
        assert len(items) < sent
        assert stalled.pongs == [b"%d" % number for number in range(50)]


async def test_pings_of_who_reads_nothing_end_it() -> None:
    limits = Limits(
        control_backlog_bytes=16 * 1024,
        close_timeout_s=0.2,
        command_burst=1_000_000,
        stall_timeout_s=30,
    )
    async with running_server(limits, send_buffer=4096) as running, bystanders(running):
        deaf = await running.connect_web("deaf", receive_buffer=4096)
        ask = ws_frame(bytes(125), PING) * 20
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while not running.node.closes:
                await deaf.send_raw(ask)
        await eventually(lambda: bool(running.node.closes), "it is to be closed")
        assert running.node.closes == {"slow_consumer": 1}


# HTTP that never ends


async def test_slow_requests_are_given_up_and_others_served() -> None:
    limits = attrs.evolve(_QUICK, http_timeout_s=0.3, max_http_connections=20)
    async with running_server(limits, files={"index.html": b"page"}) as running:
        slow = [await running.dial_web() for _ in range(19)]
        for client in slow:
            await client.send_raw(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")
        quick = await running.dial_web()
        get = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
        assert (await quick.ask_http(get))[2] == b"page"
        # One more finds no room, and says so.
        refused = await running.dial_web()
        assert (await refused.read_response())[0] == 503
        for client in slow:
            assert (await client.read_response())[0] == 408
        await eventually(lambda: not running.web.http_connections, "they are gone")
        assert running.node.limited["http_timeout_s"] == 19
        assert (await (await running.dial_web()).ask_http(get))[0] == 200


async def test_http_connections_of_one_address() -> None:
    limits = attrs.evolve(_QUICK, max_connections_per_address=2)
    async with running_server(limits) as running:
        for _ in range(2):
            await (await running.dial_web()).ask_http(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        refused = await running.dial_web()
        assert (await refused.read_response())[0] == 503
        other = await WsClient.connect(running.web_port, come_from="127.0.0.2")
        assert (await other.ask_http(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"))[0] == 404
        other.close()


async def test_http_requests_count_as_requests_of_their_address() -> None:
    limits = attrs.evolve(_QUICK, commands_per_s_per_address=10)
    async with running_server(limits, files={"index.html": b"page"}) as running:
        get = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
        client = await running.dial_web()
        assert (await client.ask_http(get))[2] == b"page"
        assert running.node.limited["commands_per_s_per_address"] == 0
        rate = running.manager.address_rates.of("127.0.0.1", trio.current_time())
        assert rate.charge(202, trio.current_time()) > 0
        assert (await client.ask_http(get))[2] == b"page"
        assert running.node.limited["commands_per_s_per_address"] == 1


# Cut anywhere


def _conversation(room: int) -> bytes:
    """Return all that a client says, alone in a room that will get this number."""
    numbers = itertools.count(1)

    def say(*what: object) -> bytes:
        return frames_of(*what, request_ids=numbers)

    fragmented = say(frame(room, 2, b"delta"), subscribe(room))
    return b"".join(
        (
            handshake(),
            ws_frame(say(HELLO, authenticate("alice"), register_room())),
            ws_frame(say(messages.Publish(room=room, token=TOKEN))),
            ws_frame(say(frame(room, 0, b"codec", flags=Flag.INIT))),
            ws_frame(say(frame(room, 1, b"key" * 50, flags=Flag.KEY))),
            ws_frame(fragmented[:20], fin=False),
            ws_frame(b"ping", PING),
            ws_frame(fragmented[20:], CONTINUATION),
            ws_frame(say(messages.Ping(stamp=1), frame(room, 3, b"", flags=Flag.END))),
            ws_frame(say(messages.RemoveRoom(room=room), bye())),
            ws_frame(b"\x0f\xa0", CLOSE),
        )
    )


async def test_the_whole_conversation() -> None:
    """What is cut up below works when it is not."""
    async with running_server(_QUICK) as running, bystanders(running):
        running.manager.draw = lambda: FIRST_ROOM_ID
        client = await running.dial_web()
        await client.send_raw(_conversation(FIRST_ROOM_ID))
        assert (await client.read_response())[0] == 101
        items = await client.expect_close(Code.BYE)
        assert not [item for item in items if isinstance(item, messages.Error)]
        assert [item.seq for item in items if type(item) is type(frame(0, 0))] == [0, 1, 2, 3]
        assert client.pongs == [b"ping"]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["fin", "reset", "half-closed"])
async def test_disconnects_at_every_byte(how: str) -> None:
    size = len(_conversation(FIRST_ROOM_ID))
    async with running_server(_QUICK) as running, bystanders(running):
        await _disconnect_at(running, how, range(size + 1))


@pytest.mark.parametrize("how", ["fin", "reset", "half-closed"])
async def test_disconnects_at_some_bytes(how: str) -> None:
    size = len(_conversation(FIRST_ROOM_ID))
    async with running_server(_QUICK) as running, bystanders(running):
        await _disconnect_at(running, how, range(0, size + 1, 17))


async def _disconnect_at(running: Running, how: str, cuts: range) -> None:
    rooms = itertools.count(FIRST_ROOM_ID)
    room = FIRST_ROOM_ID
    running.manager.draw = lambda: room
    for cut in cuts:
        room = next(rooms)
        client = await WsClient.connect(running.web_port)
        await client.send_raw(_conversation(room)[:cut])
        if how == "reset":
            client.reset()
        elif how == "fin":
            client.close()
        else:
            await client.finish()
            status, _, _ = await client.read_response()
            # Half a request is a bad one.
            expected = 101 if cut >= len(handshake()) else 400 if cut else 0
            assert status == expected
            if status == 101:
                items = await client.rest()
                assert not [item for item in items if isinstance(item, messages.Error)]
            client.close()
    await running.until_gone(2)
    await eventually(lambda: not running.web.http_connections, "HTTP connections are to end")
    node = running.node
    assert node.subscriptions == 1  # the bystander's
    assert node.backlog_bytes == node.pinned_bytes == node.lagging == 0


async def test_every_byte_on_its_own() -> None:
    async with running_server(_QUICK) as running, bystanders(running):
        running.manager.draw = lambda: FIRST_ROOM_ID
        client = await running.dial_web()
        for byte in _conversation(FIRST_ROOM_ID):
            await client.send_raw(bytes([byte]))
            await trio.testing.wait_all_tasks_blocked()
        assert (await client.read_response())[0] == 101
        items = await client.expect_close(Code.BYE)
        assert not [item for item in items if isinstance(item, messages.Error)]


# Anything at all

_CHUNKS: Final = st.one_of(
    st.binary(max_size=30),
    st.builds(
        ws_frame,
        st.one_of(st.binary(max_size=20), st.just(_PING), st.just(frames_of(frame(1, 0)))),
        st.sampled_from([BINARY, BINARY, CONTINUATION, TEXT, PING, PONG, CLOSE, 5]),
        fin=st.booleans(),
        masked=st.sampled_from([True, True, True, False]),
        bits=st.sampled_from([0, 0, 0, 0x40]),
    ),
)


async def _survives(chunks: list[bytes], greeted: bool) -> None:
    async with running_server(_QUICK) as running, bystanders(running):
        client = await running.dial_web()
        if greeted:
            await client.open()
            await client.greet()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for chunk in chunks:
                await client.send_raw(chunk)
            await client.finish()
        if greeted:
            # What comes back is well formed, and a CLOSE says one of our codes.
            items = await client.rest()
            for close in (item for item in items if isinstance(item, messages.Close)):
                assert Code(close.code) in {
                    Code.PROTOCOL_ERROR,
                    Code.FRAME_TOO_LARGE,
                    Code.FOREIGN_SOURCE,
                    Code.BYE,
                }
                assert client.close_code in (None, close.code + 3000)
        else:
            while (await client.read_response())[0]:
                pass
        client.close()
        await running.until_gone(2)
        assert "internal_error" not in running.node.closes


@given(chunks=st.lists(_CHUNKS, max_size=8), greeted=st.booleans())
async def test_any_bytes(chunks: list[bytes], greeted: bool) -> None:
    await _survives(chunks, greeted)


@pytest.mark.slow
@settings(max_examples=200)
@given(chunks=st.lists(_CHUNKS, max_size=12), greeted=st.booleans())
async def test_many_more_bytes(chunks: list[bytes], greeted: bool) -> None:
    await _survives(chunks, greeted)
