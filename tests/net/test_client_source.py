"""Publishing with the client library."""

from __future__ import annotations

from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from tests.net.scripted_server import (
    ROOM,
    ROOM_TEXT,
    WELCOME,
    ScriptedServer,
    client_and_server,
    published,
)
from tim_trio.errors import Code, ConnectionClosed, LocalProtocolError, NoSuchRoom, RoomError
from tim_trio.net.client import (
    Bounds,
    Client,
    RoomClosed,
    Source,
    SourceReplaced,
    SourceRevoked,
    open_client,
)
from tim_trio.net.client.plain_nursery import open_plain_nursery
from tim_trio.protocol import messages
from tim_trio.protocol.decoder import Decoder
from tim_trio.protocol.layout import Flag
from tim_trio.protocol.runs import Run

UNPUBLISHED = messages.UnpublishAnswer(forwarded=1, discarded=0)


@asynccontextmanager
async def source_and_server(
    answer: messages.PublishAnswer | None = None,
    *,
    bounds: Bounds | None = None,
    unpublish: bool = True,
) -> AsyncIterator[tuple[Client, Source, ScriptedServer]]:
    """A running source; unless the test does, UNPUBLISH is answered at the end."""
    async with (
        client_and_server(bounds=bounds) as (client, server),
        open_plain_nursery() as nursery,
    ):
        nursery.start_soon(server.answer, messages.Publish, answer or published())
        async with client.publish(ROOM) as source:
            await wait_all_tasks_blocked()
            yield client, source, server
            if unpublish:
                nursery.start_soon(server.answer, messages.Unpublish, UNPUBLISHED)


async def test_each_track_counts_for_itself() -> None:
    async with source_and_server() as (_, source, server):
        assert source.room == ROOM_TEXT
        assert await source.send(b"a", key=True, timestamp_us=-5) == 0
        assert await source.send(bytearray(b"b"), track=3, init=True) == 0
        assert await source.send(memoryview(b"c"), end=True) == 1
        assert source.next_seq(3) == 1
        first, second, third = await server.expect_frames(3)
        assert (first.room, first.source, first.seq, first.timestamp_us) == (ROOM, 7, 0, -5)
        assert (first.flags, second.flags, third.flags) == (Flag.KEY, Flag.INIT, Flag.END)
        assert (second.track, second.seq, second.payload) == (3, 0, b"b")
        assert (third.track, third.seq, third.payload) == (0, 1, b"c")
        assert (source.sent_frames, source.sent_bytes) == (3, 3 * 37)


async def test_what_the_protocol_forbids_is_not_sent() -> None:
    async with source_and_server() as (_, source, server):
        with pytest.raises(LocalProtocolError, match="1048577 bytes"):
            await source.send(bytes(WELCOME.max_frame_bytes - 35))
        for init, end in ((True, False), (False, True)):
            with pytest.raises(LocalProtocolError, match="INIT or END"):
                source.send_nowait(bytes(WELCOME.max_init_bytes), init=init, end=end)
        with pytest.raises(LocalProtocolError, match="track 256"):
            await source.send(b"", track=256)
        with pytest.raises(LocalProtocolError, match="timestamp"):
            await source.send(b"", timestamp_us=2**63)
        await source.send(bytes(WELCOME.max_frame_bytes - 36), end=False)
        await source.send(b"", end=True)
        with pytest.raises(LocalProtocolError, match="track 0 has ended"):
            await source.send(b"")
        frames = await server.expect_frames(2)
        assert [frame.seq for frame in frames] == [0, 1]


@pytest.mark.parametrize(
    "payload", ["text", None, 5, [1], array("I", [1, 2]), array("I", [0]) * 9000]
)
async def test_a_payload_whose_size_is_not_in_bytes_is_none(payload: Any) -> None:
    async with source_and_server() as (_, source, server):
        with pytest.raises(TypeError, match="a payload is bytes, bytearray or memoryview"):
            await source.send(payload)
        with pytest.raises(TypeError, match="a payload is bytes, bytearray or memoryview"):
            source.send_nowait(payload)
        # Of what is shown of other bytes, the bytes are sent.
        await source.send(memoryview(array("H", [1, 2])))
        await source.send(memoryview(b"abcdef")[::2])
        first, second = await server.expect_frames(2)
        assert (len(first.payload), second.payload) == (4, b"ace")


async def test_a_payload_may_change_after_send() -> None:
    async with source_and_server() as (_, source, server):
        payload = bytearray(b"a" * 5000)
        source.send_nowait(payload)
        payload[:] = b"b" * 5000
        (frame,) = await server.expect_frames(1)
        assert frame.payload == b"a" * 5000


async def test_leaving_waits_for_the_answer_to_unpublish() -> None:
    async with source_and_server(unpublish=False) as (client, source, server):
        await source.send(b"x")
        await server.expect_frames(1)
        answer = await unpublish(source, server)
        assert answer == UNPUBLISHED
        assert source.result == UNPUBLISHED
        assert await source.unpublish() == UNPUBLISHED  # again, without asking
        with pytest.raises(LocalProtocolError, match="unpublished"):
            await source.send(b"y")
    assert not client._sources


async def unpublish(source: Source, server: ScriptedServer) -> messages.UnpublishAnswer:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.answer, messages.Unpublish, UNPUBLISHED)
        return await source.unpublish()


async def test_an_exception_unpublishes_without_waiting() -> None:
    async with client_and_server() as (client, server):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.answer, messages.Publish, published())
            with pytest.raises(KeyError):
                async with client.publish(ROOM):
                    raise KeyError
        request, number = await server.expect(messages.Unpublish)
        assert (request.source, number > 0) == (7, True)


@pytest.mark.parametrize(
    "event, error",
    [
        (messages.PushRevoked(room=ROOM, source=7, reason=1), SourceRevoked),
        (messages.PushRevoked(room=ROOM, source=7, reason=99), SourceRevoked),
        (messages.Replaced(room=ROOM, source=7), SourceReplaced),
        (messages.RoomClosed(room=ROOM, reason=2, text=""), RoomClosed),
    ],
)
async def test_an_event_ends_the_source_at_the_next_send(
    event: object, error: type[Exception]
) -> None:
    async with source_and_server(unpublish=False) as (_, source, server):
        await server.send(event)
        await wait_all_tasks_blocked()
        with pytest.raises(error, match=ROOM_TEXT):
            await source.send(b"x")
        with pytest.raises(error):
            source.send_nowait(b"x")
        with pytest.raises(error):
            await source.wait_viewers(1)
        # Told once, leaving the block is no second error; and nothing was sent.


async def test_an_end_nobody_heard_of_is_told_at_the_blocks_end() -> None:
    async def publish() -> None:
        async with source_and_server(unpublish=False) as (_, source, server):
            await source.send(b"x")
            await server.send(messages.RoomClosed(room=ROOM, reason=1, text=""))
            await wait_all_tasks_blocked()

    with pytest.raises(RoomClosed, match="removed"):
        await publish()


async def test_an_end_that_crosses_unpublish() -> None:
    async with source_and_server(unpublish=False) as (_, source, server):

        async def serve() -> None:
            _, number = await server.expect(messages.Unpublish)
            await server.send(messages.PushRevoked(room=ROOM, source=7, reason=1))
            await server.send(
                messages.Error(
                    request_type=0x17, code=2112, retry=False, retry_after_ms=0, text="none"
                ),
                request_id=number,
            )

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            with pytest.raises(SourceRevoked):
                await source.unpublish()


async def test_other_sources_go_on() -> None:
    async with source_and_server() as (_, source, server):
        await server.send(
            messages.PushRevoked(room=ROOM, source=8, reason=1),
            messages.RoomClosed(room=ROOM + 1, reason=1, text=""),
        )
        await wait_all_tasks_blocked()
        await source.send(b"x")
        await server.expect_frames(1)


async def test_viewers() -> None:
    async with source_and_server() as (_, source, server), trio.open_nursery() as nursery:
        assert source.viewers is None
        nursery.start_soon(source.wait_viewers, 2)
        for viewers in (0, 1, 3):
            assert len(nursery.child_tasks) == 1
            await server.send(messages.Viewers(room=ROOM, viewers=viewers))
            await wait_all_tasks_blocked()
        assert not nursery.child_tasks
        assert source.viewers == 3


async def test_a_takeover_goes_on_where_the_source_stood() -> None:
    answer = published(
        messages.TrackInfo(track=0, state=0, last_seq=41),
        messages.TrackInfo(track=1, state=int(messages.TrackState.ENDED), last_seq=3),
    )
    async with source_and_server(answer) as (client, source, server):
        assert await source.send(b"x") == 42
        with pytest.raises(LocalProtocolError, match="track 1 has ended"):
            await source.send(b"x", track=1)
        with pytest.raises(LocalProtocolError, match="token"):
            async with client.publish(ROOM, token=source.token):
                raise AssertionError("not reached")
        await server.expect_frames(1)


async def test_a_refused_token_may_be_tried_again() -> None:
    token = b"0123456789abcdef"
    async with client_and_server() as (client, server), trio.open_nursery() as nursery:

        async def serve() -> None:
            for code in (Code.NO_SUCH_ROOM, Code.TOKEN_IN_USE):
                request = await server.refuse(messages.Publish, code)
                assert request.token == token

        nursery.start_soon(serve)
        for kind in (NoSuchRoom, RoomError):
            with pytest.raises(kind):
                async with client.publish(ROOM, token=token):
                    raise AssertionError("not reached")


async def test_a_reliable_source_waits_for_credit() -> None:
    answer = published(mode=messages.RoomMode.RELIABLE, received=1000, credit=1000 + 2 * 46)
    async with source_and_server(answer) as (_, source, server):
        await source.send(b"x" * 10)
        source.send_nowait(b"x" * 10)
        with pytest.raises(trio.WouldBlock):
            source.send_nowait(b"")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(source.send, b"x" * 10)
            for limit in (1, 1000, 1000 + 3 * 46 - 1):
                await server.send(messages.Credit(room=ROOM, source=7, limit=limit))
                await wait_all_tasks_blocked()
                assert source.sent_frames == 2
            await server.send(messages.Credit(room=ROOM, source=7, limit=1000 + 3 * 46))
        assert source.sent_frames == 3
        await server.expect_frames(3)
        for limit in (2000, 1):  # a total never falls
            await server.send(messages.Credit(room=ROOM, source=7, limit=limit))
        await wait_all_tasks_blocked()
        assert source.send_nowait(b"x" * 10) == 3
        await server.expect_frames(1)


async def test_what_a_reliable_source_has_not_sent_again_survives_another_loss() -> None:
    mode = messages.RoomMode.RELIABLE
    async with source_and_server(published(mode=mode, credit=10_000)) as (client, source, server):
        client._line.reconnects = True  # so that it keeps what the server may not have
        for _ in range(3):
            await source.send(b"x" * 10)
        await server.expect_frames(3)
        session = source._session
        assert session is not None
        for _ in range(2):  # nothing has arrived, and there is credit for one frame
            source._resume(session, published(mode=mode, credit=46))
        await server.send(messages.Credit(room=ROOM, source=7, limit=10_000))
        assert [frame.seq for frame in await server.expect_frames(4)] == [0, 0, 1, 2]


async def test_a_live_source_ignores_credit() -> None:
    async with source_and_server(published(credit=0)) as (_, source, server):
        await source.send(b"x")
        await server.expect_frames(1)


class SlowStream(trio.abc.Stream):
    """Takes nothing while ``slow``."""

    def __init__(self, inner: trio.abc.Stream) -> None:
        self.inner = inner
        self.slow = False
        self.calls = 0
        self.go = trio.Event()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.slow:
            await self.go.wait()
        self.calls += 1
        await self.inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.inner.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self.inner.aclose()


@asynccontextmanager
async def slow_source(bounds: Bounds) -> AsyncIterator[tuple[Source, SlowStream, ScriptedServer]]:
    ours, theirs = memory_stream_pair()
    server, stream = ScriptedServer(theirs), SlowStream(ours)
    async with open_plain_nursery() as nursery:
        nursery.start_soon(server.greet)
        async with open_client(stream, account="alice", bounds=bounds) as client:
            nursery.start_soon(server.answer, messages.Publish, published())
            async with client.publish(ROOM) as source:
                await wait_all_tasks_blocked()
                stream.slow = True
                yield source, stream, server
                nursery.start_soon(server.answer, messages.Unpublish, UNPUBLISHED)


async def test_senders_wait_when_the_buffer_is_full_and_cancelling_sends_whole_frames() -> None:
    async with slow_source(Bounds(send_buffer_bytes=10_000)) as (source, stream, server):
        cancelled = 0
        for _ in range(30):
            with trio.move_on_after(0.001) as scope:
                await source.send(b"x" * 964)
            cancelled += scope.cancelled_caught
        assert source.sent_frames == 10
        assert cancelled == 20
        with pytest.raises(trio.WouldBlock):
            source.send_nowait(b"")
        stream.go.set()
        frames = await server.expect_frames(10)
        assert [frame.seq for frame in frames] == list(range(10))


async def test_small_frames_leave_together() -> None:
    async with slow_source(Bounds()) as (source, stream, server):
        stream.slow = False
        before = stream.calls
        for _ in range(5000):
            await source.send(b"x" * 64)
        await wait_all_tasks_blocked()
        assert stream.calls - before <= 20
        assert len(await server.expect_frames(5000)) == 5000


async def test_a_network_that_takes_nothing_ends_the_connection(autojump_clock: MockClock) -> None:
    async def publish() -> None:
        async with slow_source(Bounds(write_timeout_s=5)) as (source, _, _):
            while True:
                await source.send(b"x" * 100_000)

    with pytest.raises(ConnectionClosed) as caught:
        await publish()
    assert caught.value.retryable
    assert 5 <= trio.current_time() <= 7


@pytest.mark.parametrize("ours_first", [True, False])
async def test_cancelled_anywhere_the_wire_has_whole_frames(ours_first: bool) -> None:
    """The connection may be cut inside a frame only where it ends."""
    ours, theirs = memory_stream_pair()
    server = ScriptedServer(theirs)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.greet)
        async with open_client(ours, account="alice") as client:
            nursery.start_soon(server.answer, messages.Publish, published())
            with trio.move_on_after(0.02):
                async with client.publish(ROOM) as source:
                    while True:
                        await source.send(b"x" * 3000, key=ours_first)
    data = b""
    while more := await theirs.receive_some():
        data += more
    decoder = Decoder(max_frame_bytes=2**20, max_init_bytes=2**16)
    items = decoder.feed(bytes(data))
    assert decoder.buffered_bytes == 0
    assert not isinstance(items[-1], Run)  # CLOSE
