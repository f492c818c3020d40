"""What a TIM client's WebSocket may look like, and what it must not."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.net.certificates import Certificates
from tests.net.rawclient import DEADLINE_S
from tests.net.running import Running, bystanders, running_server
from tests.net.tim.client import ACK, decode, encode
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
from tim_trio.net.tim.reader import MAX_BYTES_BEFORE, max_message_bytes

AUTH = b'\x90{"name":"alice"}'
REGISTER = b'\x96{"rtype":1}'


class Wire(WsClient):
    """Frames of a WebSocket as they come, with whatever is in them."""

    async def next_frame(self) -> tuple[int, bytes]:
        """Return opcode and payload; (0, b"") for the end."""
        while (frame := self._next_ws_frame()) is None:
            if not await self._read_more():
                return 0, b""
        return frame

    async def next_packet(self) -> tuple[int, Any]:
        opcode, payload = await self.next_frame()
        assert opcode == BINARY, (opcode, payload)
        return decode("json", payload)

    async def sign_in(self) -> None:
        await self.send_raw(ws_frame(AUTH))
        assert (await self.next_packet())[0] == ACK

    async def is_served(self) -> bool:
        await self.send_raw(ws_frame(b"\x0d"))
        return await self.next_frame() == (BINARY, b"\x0d")

    async def until_close(self) -> int | None:
        """Return the code of the server's close, after which nothing comes."""
        while True:
            opcode, payload = await self.next_frame()
            if opcode == CLOSE:
                assert await self.next_frame() == (0, b"")
                return struct.unpack_from(">H", payload)[0] if payload else None
            assert opcode in (BINARY, PONG), (opcode, payload)


@asynccontextmanager
async def wire(running: Running, **changed: str) -> AsyncIterator[Wire]:
    with trio.fail_after(DEADLINE_S):
        client = await Wire.connect(running.web_port)
        assert isinstance(client, Wire)
        try:
            leave_out = "" if "sec_websocket_protocol" in changed else "sec-websocket-protocol"
            request = handshake(path="/tim", leave_out=leave_out, **changed)
            status, headers, _ = await client.ask_upgrade(request)
            assert status == 101
            assert "sec-websocket-protocol" not in headers
            yield client
        finally:
            client.close()


async def test_text_and_binary_whole_and_in_fragments() -> None:
    async with running_server() as running, wire(running) as client:
        await client.sign_in()
        for opcode in (TEXT, BINARY):
            await client.send_raw(ws_frame(REGISTER, opcode))
            assert (await client.next_packet())[0] == ACK
            pieces = [ws_frame(REGISTER[:1], opcode, fin=False), ws_frame(b"", PING)]
            for byte in REGISTER[1:-1]:
                pieces.append(ws_frame(bytes((byte,)), CONTINUATION, fin=False))
            pieces.append(ws_frame(REGISTER[-1:], CONTINUATION))
            await client.send_raw(b"".join(pieces))
            assert await client.next_frame() == (PONG, b"")
            assert (await client.next_packet())[0] == ACK
        # As JavaScript would write it, as text: U+0096 and U+00DE are two bytes each.
        await client.send_raw(ws_frame(REGISTER.decode("latin-1").encode(), TEXT))
        kind, ack = await client.next_packet()
        push = encode("json", 94, {"VNode": ack["n"], "body": b"x"})
        subscribe = encode("json", 22, {"rtype": 5, "node": ack["n"]})
        await client.send_raw(ws_frame(subscribe.decode("latin-1").encode(), TEXT))
        assert (await client.next_packet())[0] == ACK
        await client.send_raw(ws_frame(push.decode("latin-1").encode(), TEXT))
        kind, frame = await client.next_packet()
        assert kind == 94 and frame["body"] == b"x"


async def test_byte_by_byte_and_all_at_once() -> None:
    async with running_server() as running, wire(running, sec_websocket_protocol="x") as client:
        for byte in ws_frame(AUTH):
            await client.send_raw(bytes((byte,)))
        assert (await client.next_packet())[0] == ACK
        await client.send_raw(ws_frame(b"\x0d") * 300)
        for _ in range(300):
            assert await client.next_frame() == (BINARY, b"\x0d")


@pytest.mark.parametrize(
    "sent",
    [
        ws_frame(b"x", CONTINUATION),
        ws_frame(b"x", fin=False) + ws_frame(b"x"),
        ws_frame(b"x", masked=False),
        ws_frame(b"x", bits=0x40),
        ws_frame(b"x", 0x3),
        ws_frame(b"x" * 126, PING),
        ws_frame(b"x", PING, fin=False),
        ws_frame(b"\x03\xed", CLOSE),
        ws_frame(b"\x00\x01", CLOSE),
        b"\x82\xff" + b"\xff" * 8,
    ],
    # The bytes would be other names in each process: masks are random.
    ids=[
        *("continues nothing", "begins anew", "not masked", "reserved bit", "reserved opcode"),
        *("long ping", "ping in parts", "reserved code", "no code", "endless"),
    ],
)
async def test_what_is_no_websocket(sent: bytes) -> None:
    async with running_server() as running, bystanders(running):
        async with wire(running) as client:
            await client.send_raw(ws_frame(b"\x0d") + sent)
            assert await client.next_frame() == (BINARY, b"\x0d"), "what stood before it"
            assert await client.until_close() == Code.PROTOCOL_ERROR + 3000
        await running.until_gone(2)  # the bystanders
        assert running.node.closes[Code.PROTOCOL_ERROR.label] == 1


async def test_before_signing_in_little_is_taken() -> None:
    async with running_server() as running, wire(running) as client:
        padded = b'\x90{"name":"alice","pwd":"%s"}' % (b"x" * 4000)
        # AUTH and what is large behind it may come together.
        large = b"\x96" + bytes(100_000)
        await client.send_raw(ws_frame(padded) + ws_frame(large))
        assert (await client.next_packet())[1]["ok"]
        assert (await client.next_packet())[1]["error"]["code"] == 4113
    async with running_server() as running, wire(running) as client:
        await client.send_raw(ws_frame(b"\x90" + bytes(MAX_BYTES_BEFORE - 1)))
        assert (await client.next_packet())[1]["error"]["code"] == 4113
        await client.send_raw(ws_frame(b"\x90" + bytes(MAX_BYTES_BEFORE)))
        assert await client.until_close() == Code.FRAME_TOO_LARGE + 3000
        assert running.node.limited["max_frame_bytes"] == 1


async def test_pushes_and_requests_read_together_keep_their_order() -> None:
    async with running_server() as running, wire(running) as client, wire(running) as viewer:
        await client.sign_in()
        await client.send_raw(ws_frame(REGISTER))
        room = (await client.next_packet())[1]["n"]
        await viewer.send_raw(ws_frame(b'\x90{"name":"bob"}'))
        await viewer.next_packet()
        await viewer.send_raw(ws_frame(encode("json", 22, {"rtype": 5, "node": room})))
        await viewer.next_packet()
        pushes = [ws_frame(encode("json", 94, {"VNode": room, "body": b"%d" % n})) for n in (1, 2)]
        await client.send_raw(pushes[0])  # publishes: the next ones need no task
        assert (await viewer.next_packet())[1]["body"] == b"1"
        remove = ws_frame(encode("json", 22, {"rtype": 2, "node": room}))
        await client.send_raw(pushes[1] + remove)
        assert (await viewer.next_packet())[1]["body"] == b"2"
        assert (await viewer.next_packet())[1]["error"]["code"] == 4109


async def test_a_name_without_end_is_not_kept_nor_answered_with() -> None:
    async with running_server() as running, wire(running) as client:
        await client.sign_in()
        name = "x" * 1_000_000
        for kind, members in (
            (94, {"VNode": name, "body": b"x"}),
            (22, {"rtype": 5, "node": name}),
            (22, {"rtype": 3, "node": "y", "node2": name}),
            (90, {"msType": 2, "odType": 5, "toTid": {"node": name}}),
        ):
            await client.send_raw(ws_frame(encode("json", kind, members)))
            answer, ack = await client.next_packet()
            assert answer == ACK and not ack["ok"]
            assert len(ack.get("n", "")) <= 100


_MANY = 1_000_000
_COUNT = b"\xc0\x84\x3d"  # as a varint


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(b'\x96{"x":[' + b"[]," * (_MANY // 3) + b"[]]}", id="lists"),
        pytest.param(b'\xde{"x":' + b'{"x":' * (_MANY // 5), id="depth"),
        pytest.param(b'\xde{"VNode":"x","y":[' + b"0," * 100 + b"0]}", id="a frame of many parts"),
        pytest.param(b'\xda{"ToList":[' + b'"",' * (_MANY // 3) + b'""]}', id="texts"),
        pytest.param(b"\xde" + b'"' * _MANY, id="quotes"),
        pytest.param(b'\xda{"udtype":' + b"9" * _MANY + b"}", id="digits"),
        pytest.param(b'\x96{"rtype":NaN}', id="no number"),
        pytest.param(b'\x96{"rtype":1e400}', id="infinity"),
        pytest.param(b'\x96{"rtype":true}', id="another type"),
        pytest.param(b"\x16\x99\xf1" + _COUNT + b"\x01" * _MANY, id="booleans that are skipped"),
        pytest.param(b"\x5a\x09\x22\xf8" + _COUNT + bytes(_MANY), id="receivers"),
        pytest.param(b"\x16" + b"\x11" * _MANY, id="fields"),
        pytest.param(b"\x16" + b"\x9c" + b"\x1c" * _MANY, id="depth of structs"),
        pytest.param(b"\x16\x28" + b"\xff" * 9 + b"\x01", id="a text without end"),
        pytest.param(b"\x5e\x16\x00\x18\x00\x00", id="what is required is missing"),
    ],
)
async def test_what_would_take_long_to_read_is_refused_and_others_notice_nothing(
    packet: bytes,
) -> None:
    async with running_server() as running, bystanders(running), wire(running) as client:
        await client.sign_in()
        for _ in range(3):
            await client.send_raw(ws_frame(packet))
            kind, ack = await client.next_packet()
            assert (kind, ack["error"]["code"], ack["timType"]) == (ACK, 4113, packet[0] & 0x7F)
        assert await client.is_served()


async def test_over_tls(tmp_path: Path) -> None:
    async with running_server(certificates=Certificates(tmp_path)) as running:
        client = await Wire.connect(running.web_tls_port)
        assert isinstance(client, Wire)
        assert running.certificates is not None
        await client.start_tls(running.certificates.client_context())
        request = handshake(path="/tim", leave_out="sec-websocket-protocol")
        assert (await client.ask_upgrade(request))[0] == 101
        await client.sign_in()
        await client.send_raw(ws_frame(REGISTER))
        _, ack = await client.next_packet()
        room = ack["n"].encode()
        await client.send_raw(ws_frame(b'\x96{"rtype":5,"node":"%s","reqInt":1}' % room))
        await client.next_packet()
        body = bytes(range(256)) * 400
        packet = room + b"\x83" + body
        await client.send_raw(ws_frame(b"\x61" + (5 + len(packet)).to_bytes(4, "big") + packet))
        assert await client.next_packet() == (97, packet)
        client.close()


async def test_a_message_of_any_size_is_bounded() -> None:
    limits = Limits(max_frame_bytes=8192, max_init_bytes=4096, backlog_bytes=8192)
    async with running_server(limits) as running, wire(running) as client:
        await client.sign_in()
        largest = max_message_bytes(limits)
        await client.send_raw(ws_frame(b"\x90" + bytes(largest - 1)))
        assert (await client.next_packet())[0] == ACK, "no JSON"
        for _ in range(largest // 1000 + 1):
            await client.send_raw(ws_frame(bytes(1000), CONTINUATION if _ else BINARY, fin=False))
        assert await client.until_close() == Code.FRAME_TOO_LARGE + 3000


@pytest.mark.parametrize("payload, answer", [(b"", None), (b"\x03\xe8bye", 1000)])
async def test_a_client_that_says_goodbye(payload: bytes, answer: int | None) -> None:
    async with running_server() as running, wire(running) as client:
        await client.sign_in()
        await client.send_raw(ws_frame(payload, CLOSE))
        assert await client.until_close() == answer


async def test_a_server_that_stops_says_so() -> None:
    async with running_server(drain_timeout_s=0.05) as running, wire(running) as client:
        await client.sign_in()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(running.server.drain)
            assert await client.until_close() == Code.SHUTTING_DOWN + 3000
            client.close()


async def test_who_does_not_sign_in() -> None:
    limits = Limits(handshake_timeout_s=0.2)
    async with running_server(limits) as running, wire(running) as client:
        assert await client.is_served()
        assert await client.until_close() == Code.HANDSHAKE_TIMEOUT + 3000


async def test_the_silent_are_pinged_in_the_websocket_s_own_way() -> None:
    limits = Limits(ping_interval_s=0.2)
    async with running_server(limits) as running, wire(running) as client:
        await client.sign_in()
        assert await client.next_frame() == (PING, b"")
        await client.send_raw(ws_frame(b"", PONG))
        assert await client.next_frame() == (PING, b"")
        assert await client.until_close() == Code.IDLE_TIMEOUT + 3000


@pytest.mark.parametrize("opcode", [PING, PONG, BINARY])
async def test_flooding(opcode: int) -> None:
    limits = Limits(commands_per_s=1, command_burst=5, max_slowed_s=0, max_refused_commands=5)
    async with running_server(limits) as running, wire(running) as client:
        payload = b"\x0d" if opcode == BINARY else b""
        await client.send_raw(ws_frame(payload, opcode) * 50)
        assert await client.until_close() == Code.FLOODING + 3000


async def test_unreadable_packets_are_counted_as_requests() -> None:
    limits = Limits(commands_per_s=1, command_burst=2, max_slowed_s=0, max_refused_commands=2)
    async with running_server(limits) as running, wire(running) as client:
        await client.send_raw(ws_frame(b"\x96{") * 50)
        codes = []
        for _ in range(4):
            _, ack = await client.next_packet()
            codes.append(ack["error"]["code"])
        assert codes == [4113, 4113, 5105, 5105]
        assert await client.until_close() == Code.FLOODING + 3000


async def test_no_more_connections_than_allowed() -> None:
    limits = Limits(max_connections=1)
    async with running_server(limits) as running:
        await running.connect("alice")
        client = await Wire.connect(running.web_port)
        assert isinstance(client, Wire)
        request = handshake(path="/tim", leave_out="sec-websocket-protocol")
        assert (await client.ask_upgrade(request))[0] == 101
        assert await client.until_close() == Code.OVERLOADED + 3000
        client.close()


async def test_figures_tell_tim_clients_apart() -> None:
    async with running_server() as running, wire(running) as client:
        await client.sign_in()
        await client.send_raw(ws_frame(b"\x91"))
        await client.next_packet()
        page = await Wire.connect(running.web_port)
        assert isinstance(page, Wire)
        request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
        _, _, body = await page.ask_http(request)
        page.close()
        assert b'tim_trio_connections{transport="tim"} 1.0' in body
        assert b"tim_trio_tim_packets_unserved_total 1.0" in body
