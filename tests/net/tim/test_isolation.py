"""One TIM client that stops reading changes nothing for the others."""

from __future__ import annotations

import pytest
import trio

import tim_trio
from tests.net.running import eventually, running_server
from tests.net.tim.client import tim_client
from tests.net.tim.test_wire import wire
from tests.net.wsclient import ws_frame
from tim_trio import StreamFrame
from tim_trio.limits import Limits

LIMITS = Limits(
    max_frame_bytes=16 * 1024,
    max_init_bytes=4096,
    backlog_bytes=64 * 1024,
    backlog_age_s=30,
    stall_timeout_s=30,
)
FRAME = bytes(8_000)


@pytest.mark.slow
@pytest.mark.parametrize("extra", [b"", b',"reqInt":1'], ids=["json", "big"])
async def test_it_holds_no_more_than_its_bound(extra: bytes) -> None:
    async with (
        running_server(LIMITS, send_buffer=16 * 1024) as running,
        tim_client(running.web_port, "alice") as alice,
        tim_client(running.web_port, "bob") as bob,
        tim_trio.connect(f"tim://127.0.0.1:{running.port}", account="carol") as carol,
        wire(running) as stalled,
    ):
        room = await alice.register()
        await bob.subscribe(room, in_big_binary=True)
        await stalled.sign_in()
        subscribe = b'\x96{"rtype":5,"node":"%s"%s}' % (room.encode(), extra)
        await stalled.send_raw(ws_frame(subscribe))
        await stalled.next_packet()
        async with carol.subscribe(room) as stream:
            lagging = 0
            for number in range(400):
                await alice.push_big(room, b"%04d" % number + FRAME)
                _, body = await bob.receive()
                assert body[12:16] == b"%04d" % number
                item = await anext(stream)
                while not isinstance(item, StreamFrame):
                    item = await anext(stream)
                assert item.payload[:4] == b"%04d" % number
                assert running.node.backlog_bytes <= LIMITS.backlog_bytes
                lagging = max(lagging, running.node.lagging)
            assert lagging == 1
        # It reads again, and goes on with whole frames of now.
        seen: list[bytes] = []
        with trio.fail_after(30):
            while not seen or seen[-1] != b"last":
                if len(seen) % 4 == 0:
                    await alice.push_big(room, b"last")
                    await bob.receive()
                _, packet = await stalled.next_packet()
                seen.append(packet["body"] if isinstance(packet, dict) else packet[12:])
        assert all(body == b"last" or len(body) == 8_004 for body in seen)
        assert len(seen) < 300
        await eventually(lambda: running.node.lagging == 0, "it catches up")
