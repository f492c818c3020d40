"""WebSocket connections of a server: the same conversation as over TCP."""

from __future__ import annotations

from tests.net.rawclient import bye, frame
from tests.net.running import running_server
from tests.net.wsclient import CLOSE, PING, TEXT, ws_frame
from tim_trio.errors import Code
from tim_trio.protocol.layout import Flag


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
        late = await running.connect_web("dave")
        await late.subscribe(room)
        await late.expect_frames(room, 10, 19)


async def test_a_publisher_whose_messages_are_read_together() -> None:
    async with running_server() as running:
        publisher = await running.connect_web("alice")
        room = await publisher.register()
        await publisher.publish(room)
        web = await running.connect_web("bob")
        await web.subscribe(room)
        before = web.messages
        wire = b"".join(publisher.wrap(_bytes(room, seq)) for seq in range(50))
        await publisher.send_raw(wire)
        await web.expect_frames(room, 0, 49)
        assert web.messages - before == 1


def _bytes(room: int, seq: int) -> bytes:
    from tests.net.rawclient import to_bytes

    return to_bytes(frame(room, seq))


async def test_the_close() -> None:
    async with running_server() as running:
        client = await running.connect_web()
        await client.send(bye())
        await client.expect_close(Code.BYE)
        assert client.close_code == 4000


async def test_text_ping_and_close() -> None:
    async with running_server() as running:
        client = await running.connect_web()
        await client.send_raw(ws_frame(b"hello", PING))
        assert await client.is_served()
        assert client.pongs == [b"hello"]
        await client.send_raw(ws_frame(b"hello", TEXT))
        await client.expect_close(Code.PROTOCOL_ERROR)
        assert client.close_code == 4100
        other = await running.connect_web()
        await other.send_raw(ws_frame(b"\x03\xe9", CLOSE))
        assert await other.next() is None
        assert other.close_code == 1001
