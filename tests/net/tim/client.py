"""A scripted client of TIM's, one per encoding, written from docs/tim.md alone.

The WebSocket is trio-websocket's, JSON is Python's, Thrift is thriftpy2's: nothing
that is tested here is used here.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio
import trio_websocket

from tests.net.rawclient import DEADLINE_S
from tests.protocol.tim import thrift_reference
from tim_trio.protocol.tim import structs

ACK, PING, REGISTER, TOKEN, AUTH, ROOM = 12, 13, 14, 15, 16, 22
MESSAGE, STREAM, BIG_STRING, BIG_BINARY, BIG_STREAM = 90, 94, 95, 96, 97
_STRUCTS: dict[int, type[Any]] = {
    ACK: structs.TimAck,
    REGISTER: structs.TimAuth,
    TOKEN: structs.TimAuth,
    AUTH: structs.TimAuth,
    ROOM: structs.TimReq,
    MESSAGE: structs.TimMessage,
    STREAM: structs.TimStream,
}
#: JSON's names to those of the structs given to thriftpy2.
_NAMES = {field.json_name: field.name for fields in structs.FIELDS.values() for field in fields}
_BINARY = ("body", "dataBinary")


def encode(form: str, kind: int, members: dict[str, Any]) -> bytes:
    """Return a packet to the server; bytes are given as bytes."""
    if form == "json":
        plain = {
            name: base64.b64encode(value).decode() if isinstance(value, bytes) else value
            for name, value in members.items()
        }
        return bytes((kind | 0x80,)) + json.dumps(plain).encode()
    return bytes((kind,)) + _to_thrift(_STRUCTS[kind], members)


def _to_thrift(kind: type[Any], members: dict[str, Any]) -> bytes:
    payload = thrift_reference.CLASSES[kind]()
    if kind is structs.TimStream:  # what Thrift requires, ignored there
        members = {"id": 0, "fromNode": "", **members}
    for name, value in members.items():
        if name in ("toTid", "roomTid"):
            tid = thrift_reference.CLASSES[structs.Tid]()
            tid.node = value["node"]
            value = tid
        setattr(payload, _NAMES[name], value)
    buffer = thrift_reference.TMemoryBuffer()
    thrift_reference.TCompactProtocol(buffer).write_struct(payload)
    data: bytes = buffer.getvalue()
    return data


def decode(form: str, message: bytes) -> tuple[int, Any]:
    """Return a packet from the server: its type, and its members or its bytes."""
    kind, body = message[0], message[1:]
    if kind not in _STRUCTS:
        return kind, body
    if form == "json":
        members = json.loads(body)
        for name in _BINARY:
            if name in members:
                members[name] = base64.b64decode(members[name])
        return kind, members
    fields = thrift_reference.read(_STRUCTS[kind], body)
    json_names = {name: json_name for json_name, name in _NAMES.items()}
    return kind, {json_names[name]: value for name, value in fields.items()}


def big(kind: int, node: str, separator: bytes, content: bytes) -> bytes:
    rest = node.encode() + separator + content
    return bytes((kind,)) + (5 + len(rest)).to_bytes(4, "big") + rest


@attrs.define(eq=False)
class TimClient:
    """One connection; everything it waits for has a deadline."""

    form: str
    socket: trio_websocket.WebSocketConnection

    async def send(self, kind: int, **members: Any) -> None:
        await self.send_raw(encode(self.form, kind, members))

    async def send_raw(self, message: bytes | str) -> None:
        with trio.fail_after(DEADLINE_S):
            await self.socket.send_message(message)

    async def receive(self) -> tuple[int, Any]:
        with trio.fail_after(DEADLINE_S):
            message = await self.socket.get_message()
        assert isinstance(message, bytes), "the server sends binary messages"
        return decode(self.form, message)

    async def ask(self, kind: int, **members: Any) -> Any:
        """Send a packet and return the ACK that answers it."""
        await self.send(kind, **members)
        answer, ack = await self.receive()
        assert answer == ACK, (answer, ack)
        return ack

    async def sign_in(self, name: str, **members: Any) -> None:
        ack = await self.ask(AUTH, name=name, **members)
        assert ack["ok"] and ack["timType"] == AUTH and ack["n"] == name, ack

    async def register(self) -> str:
        ack = await self.ask(ROOM, rtype=1)
        assert (ack["ok"], ack["timType"], ack["t"]) == (True, ROOM, 1)
        room: str = ack["n"]
        return room

    async def subscribe(self, room: str, *, in_big_binary: bool = False) -> None:
        extra = {"reqInt": 1} if in_big_binary else {}
        ack = await self.ask(ROOM, rtype=5, node=room, **extra)
        assert ack == {"ok": True, "timType": ROOM, "t": 5, "n": room}

    async def push(self, room: str, body: bytes, dtype: int = 0) -> None:
        extra = {"dtype": dtype} if dtype else {}
        await self.send(STREAM, VNode=room, body=body, **extra)

    async def push_big(self, room: str, body: bytes) -> None:
        await self.send_raw(big(BIG_STREAM, room, b"\x83", body))

    async def next_frame(self) -> Any:
        kind, members = await self.receive()
        assert kind == STREAM, (kind, members)
        return members

    async def ping(self) -> None:
        """Wait until everything sent before has been carried out."""
        await self.send_raw(b"\x8d" if self.form == "json" else b"\x0d")
        assert await self.receive() == (PING, b"")


@asynccontextmanager
async def tim_client(
    port: int, name: str | None, form: str = "json", **members: Any
) -> AsyncIterator[TimClient]:
    """Connect, and sign in unless ``name`` is None."""
    url = f"ws://127.0.0.1:{port}/tim"
    origin = [(b"Origin", b"https://github.com/donnie4w/tim")]  # theirs send it
    async with trio_websocket.open_websocket_url(url, extra_headers=origin) as socket:
        client = TimClient(form, socket)
        if name is not None:
            await client.sign_in(name, **members)
        yield client
