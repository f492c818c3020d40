"""Clients of TIM's, in both encodings, and ours, over TCP and WebSocket, in one room."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Final

import pytest
import trio

from tests.net.rawclient import RawClient, frame, subscribe, to_bytes
from tests.net.running import running_server
from tests.net.tim.client import BIG_STREAM, STREAM, TimClient, tim_client
from tim_trio.limits import Limits
from tim_trio.protocol.messages import Publish, PublishAnswer, SubscribeAnswer
from tim_trio.protocol.room_ids import parse_room_id
from tim_trio.protocol.stream import StreamFrame

#: Nobody lags, however busy the machine: order and completeness are what counts.
_LIMITS: Final = Limits(
    backlog_bytes=64 * 2**20, connection_backlog_bytes=128 * 2**20, backlog_age_s=60
)
_BURST: Final = 50
_BURST_EVERY_S: Final = 0.05  # 1,000 frames/s of each publisher
_BURSTS: Final = 10

#: Sends frames with these payloads in one go, as far as its wire can.
SendBurst = Callable[[list[bytes]], Awaitable[None]]


def of_json(client: TimClient, room: str) -> SendBurst:
    async def send(payloads: list[bytes]) -> None:
        for payload in payloads:
            await client.push(room, payload)

    return send


def in_big_binary(client: TimClient, room: str) -> SendBurst:
    async def send(payloads: list[bytes]) -> None:
        for payload in payloads:
            await client.push_big(room, payload)

    return send


async def of_ours(client: RawClient, room: int, token: bytes) -> SendBurst:
    await client.send(Publish(room=room, token=token))
    source = (await client.expect(PublishAnswer)).source
    seq = 0

    async def send(payloads: list[bytes]) -> None:
        nonlocal seq
        frames = [
            frame(room, seq + number, payload, source=source)
            for number, payload in enumerate(payloads)
        ]
        seq += len(payloads)
        await client.send_raw(client.wrap(to_bytes(*frames)))

    return send


async def read_tim(client: TimClient, frames: int) -> list[bytes]:
    got = []
    for _ in range(frames):
        kind, content = await client.receive()
        if kind == BIG_STREAM:
            got.append(content[12:])
        else:
            assert kind == STREAM
            name, _, _ = content["body"].partition(b" ")
            assert content["fromNode"] == name.decode()
            got.append(content["body"])
    return got


async def read_ours(client: RawClient, frames: int) -> list[bytes]:
    got: list[bytes] = []
    while len(got) < frames:
        item = await client.next()
        if isinstance(item, StreamFrame):
            got.append(item.payload)
    return got


@pytest.mark.slow
async def test_everyone_publishes_to_everyone_in_bursts_and_order_is_kept() -> None:
    async with (
        running_server(_LIMITS) as running,
        tim_client(running.web_port, "json") as json,
        tim_client(running.web_port, "thrift", "thrift") as thrift,
        tim_client(running.web_port, "big") as big,
        tim_client(running.web_port, "v1") as json_viewer,
        tim_client(running.web_port, "v2", "thrift") as thrift_viewer,
        tim_client(running.web_port, "v3") as big_viewer,
    ):
        room_text = await json.register()
        room = parse_room_id(room_text)
        for name in ("thrift", "big", "tcp", "web"):
            assert (await json.ask(22, rtype=3, node=room_text, node2=name))["ok"]
        await json_viewer.subscribe(room_text)
        await thrift_viewer.subscribe(room_text)
        await big_viewer.subscribe(room_text, in_big_binary=True)
        tcp_viewer, web_viewer = await running.connect("v4"), await running.connect_web("v5")
        for viewer in (tcp_viewer, web_viewer):
            await viewer.send(subscribe(room))
            await viewer.expect(SubscribeAnswer)
        tcp, web = await running.connect("tcp"), await running.connect_web("web")
        publishers: dict[str, SendBurst] = {
            "json": of_json(json, room_text),
            "thrift": of_json(thrift, room_text),
            "big": in_big_binary(big, room_text),
            "tcp": await of_ours(tcp, room, bytes(16)),
            "web": await of_ours(web, room, bytes(15) + b"1"),
        }
        total = len(publishers) * _BURSTS * _BURST
        seen: dict[str, list[bytes]] = {}

        async def push(name: str, send: SendBurst) -> None:
            start = trio.current_time()
            for burst in range(_BURSTS):
                first = burst * _BURST
                await send([b"%s %d" % (name.encode(), first + one) for one in range(_BURST)])
                await trio.sleep_until(start + (burst + 1) * _BURST_EVERY_S)

        async def read(name: str, got: Awaitable[list[bytes]]) -> None:
            seen[name] = await got

        async with trio.open_nursery() as nursery:
            for name, theirs in (("json", json_viewer), ("thrift", thrift_viewer)):
                nursery.start_soon(read, name, read_tim(theirs, total))
            nursery.start_soon(read, "big", read_tim(big_viewer, total))
            nursery.start_soon(read, "tcp", read_ours(tcp_viewer, total))
            nursery.start_soon(read, "web", read_ours(web_viewer, total))
            for name, send in publishers.items():
                nursery.start_soon(push, name, send)

    assert len(seen) == 5
    for viewer_name, payloads in seen.items():
        numbers = defaultdict(list)
        for payload in payloads:
            name, _, number = payload.decode().partition(" ")
            numbers[name].append(int(number))
        assert numbers.keys() == publishers.keys()
        for name, sequence in numbers.items():
            assert sequence == list(range(_BURSTS * _BURST)), (viewer_name, name)
