"""Large frames of reliable rooms, which a server lets through unread where it can.

What subscribers get must not depend on that. Each test says what passed by the
calls of `FrameInKernel.move`.
"""

from __future__ import annotations

import errno
import os
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import attrs
import pytest
import trio

from tests.net.certificates import Certificates
from tests.net.rawclient import RawClient, frame, to_bytes
from tests.net.running import Running, eventually, running_server
from tim_trio.core.outbox import Sink
from tim_trio.errors import Code
from tim_trio.limits import Limits
from tim_trio.net import connection as connection_module
from tim_trio.net.passage import FrameInKernel, Pipe
from tim_trio.protocol import messages
from tim_trio.protocol.layout import STREAM_HEADER_BYTES, Flag
from tim_trio.protocol.stream import StreamFrame

LARGE = 512 * 1024
BODY = random.Random(7).randbytes(LARGE - STREAM_HEADER_BYTES)
RELIABLE = messages.RegisterRoom(mode=messages.RoomMode.RELIABLE, gather_ms=0, idle_timeout_s=0)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What of each frame that has passed the kernel did not take at once."""
    rests: list[int] = []
    move = FrameInKernel.move

    def noted(self: FrameInKernel, sink: Sink) -> bytes:
        rest = move(self, sink)
        rests.append(len(rest))
        return rest

    monkeypatch.setattr(FrameInKernel, "move", noted)
    return rests


@attrs.define(eq=False)
class Stream:
    """A publisher of a reliable room, which heeds its credit, and one subscriber."""

    publisher: RawClient
    subscriber: RawClient
    room: int
    credit: int
    sent: int = 0
    seq: int = 0

    def next_frame(self, size: int, flags: int = 0) -> StreamFrame:
        made = frame(self.room, self.seq, BODY[: size - STREAM_HEADER_BYTES], flags=flags)
        self.seq += 1
        return made

    async def send(self, *sizes: int, flags: int = 0) -> None:
        for size in sizes:
            await self.admission(size)
            await self.publisher.send(self.next_frame(size, flags))

    async def admission(self, size: int) -> None:
        self.sent += size
        while self.sent > self.credit:
            self.credit = (await self.publisher.expect(messages.Credit)).limit

    async def expect(self, *sizes: int, first_seq: int = 0) -> None:
        """The frames of these sizes come next, and nothing in between."""
        for seq, size in enumerate(sizes, first_seq):
            got = await self.subscriber.expect(StreamFrame)
            assert (got.room, got.seq) == (self.room, seq)
            assert got.payload == BODY[: size - STREAM_HEADER_BYTES]

    async def carry(self, *sizes: int, flags: int = 0) -> None:
        """Send frames, each when the one before has arrived."""
        for size in sizes:
            await self.send(size, flags=flags)
            await self.expect(size, first_seq=self.seq - 1)


@asynccontextmanager
async def streaming(
    running: Running, *, tls: bool = False, receive_buffer: int | None = None
) -> AsyncIterator[Stream]:
    publisher = await (running.connect_tls if tls else running.connect)("alice")
    room = (await publisher.request(RELIABLE, messages.RegisterRoomAnswer)).room
    subscriber = await running.connect("bob", receive_buffer=receive_buffer)
    await subscriber.request(
        messages.Subscribe(room=room, start=messages.StartFrom.LIVE, credit=2**40),
        messages.SubscribeAnswer,
    )
    request = messages.Publish(room=room, token=bytes(16))
    answer = await publisher.request(request, messages.PublishAnswer)
    await subscriber.expect(messages.SourceJoined)
    yield Stream(publisher, subscriber, room, answer.credit)


async def test_what_is_let_through_comes_out_as_it_went_in(moves: list[int]) -> None:
    """Small frames among large ones, and requests among both."""
    random_ = random.Random(3)
    sizes = [
        random_.choice([LARGE, LARGE, LARGE, LARGE - 36, 300_000, 200_000, 50]) for _ in range(200)
    ]
    async with running_server() as running, streaming(running) as stream:
        await stream.carry(*sizes)
        await stream.carry(50, flags=Flag.END)
        assert await stream.publisher.is_served()
        figures = running.server.node
        assert figures.frames_in == 201 and figures.bytes_in == stream.sent
    assert len(moves) > 20


async def test_a_subscriber_that_stops_for_a_while_misses_nothing(moves: list[int]) -> None:
    sizes = [LARGE] * 60
    async with (
        running_server(send_buffer=16_384) as running,
        streaming(running, receive_buffer=16_384) as stream,
        trio.open_nursery() as nursery,
    ):
        await stream.carry(*sizes[:4])
        nursery.start_soon(partial(stream.send, *sizes[4:]))
        await trio.sleep(0.2)
        node = running.server.node
        assert 0 < node.backlog_bytes <= 2 * 2**20
        await stream.expect(*sizes[4:], first_seq=4)
    assert any(moves), "some was left of a frame that passed"


async def test_a_publisher_that_sends_by_halves_is_not_waited_for(moves: list[int]) -> None:
    """Each frame is whole a good while after its header is."""
    async with running_server() as running, streaming(running) as stream:
        await stream.carry(LARGE, LARGE)
        for seq in range(2, 6):
            await stream.admission(LARGE)
            data = to_bytes(stream.next_frame(LARGE))
            await stream.publisher.send_raw(data[:200_000])
            await trio.sleep(0.05)
            await stream.publisher.send_raw(data[200_000:])
            await stream.expect(LARGE, first_seq=seq)


async def test_nothing_is_kept_waiting_for_what_might_come(moves: list[int]) -> None:
    """Requests behind large frames are answered at once, and the last frame comes."""
    async with running_server() as running, streaming(running) as stream:
        for turn in range(10):
            await stream.send(LARGE, LARGE)
            with trio.fail_after(1):
                await stream.expect(LARGE, LARGE, first_seq=2 * turn)
                assert await stream.publisher.is_served()
    assert moves


async def test_a_publisher_that_is_lost_in_mid_frame_leaves_no_half_of_it(
    moves: list[int],
) -> None:
    async with running_server() as running, streaming(running) as stream:
        await stream.carry(*[LARGE] * 8)
        await stream.admission(LARGE)
        await stream.publisher.send_raw(to_bytes(stream.next_frame(LARGE))[:-1])
        await trio.sleep(0.02)
        stream.publisher.reset()
        assert await stream.subscriber.is_served()
        assert stream.subscriber.set_aside() == []
    assert moves


async def test_a_subscriber_that_is_lost_harms_nobody(moves: list[int]) -> None:
    async with running_server() as running, streaming(running) as stream:
        await stream.carry(*[LARGE] * 8)
        stream.subscriber.reset()
        await stream.send(LARGE)
        await eventually(lambda: len(running.server.connections) == 1, "it has gone")
        assert await stream.publisher.is_served()
        another = await running.connect("carol")
        await another.subscribe(stream.room, messages.StartFrom.LIVE)
        await stream.send(LARGE, LARGE)
        stream.subscriber = another
        await stream.expect(LARGE, LARGE, first_seq=9)
    assert moves


async def test_two_subscribers_each_get_their_own(moves: list[int]) -> None:
    async with running_server() as running, streaming(running) as stream:
        await stream.carry(LARGE, LARGE, LARGE)
        passed = len(moves)
        another = await running.connect("carol")
        await another.subscribe(stream.room, messages.StartFrom.LIVE)
        await stream.carry(LARGE, LARGE)
        stream.subscriber = another
        await stream.expect(LARGE, LARGE, first_seq=3)
        assert len(moves) == passed


async def test_with_tls_every_frame_is_read(moves: list[int], certificates: Certificates) -> None:
    sizes = [LARGE] * 30
    async with (
        running_server(certificates=certificates) as running,
        streaming(running, tls=True) as stream,
    ):
        await stream.carry(*sizes)
    assert not moves


async def test_a_rate_slows_what_passes(moves: list[int]) -> None:
    limits = Limits(stream_bytes_per_s=2**23)
    async with running_server(limits) as running, streaming(running) as stream:
        began = trio.current_time()
        await stream.carry(*[LARGE] * 32)
        # A second's worth at once, and another.
        assert 0.8 < trio.current_time() - began < 5
    assert moves


async def test_without_descriptors_frames_are_read(
    moves: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Pipe) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(Pipe, "open", refuse)
    async with running_server() as running, streaming(running) as stream:
        await stream.carry(*[LARGE] * 8)
    assert not moves


async def test_a_fault_in_passing_ends_both_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: FrameInKernel, sink: Sink) -> bytes:
        raise RuntimeError("a frame has gone that was whole")

    monkeypatch.setattr(FrameInKernel, "move", fail)
    async with running_server() as running, streaming(running) as stream:
        with pytest.raises(AssertionError, match="None"):  # it has lost its connection
            await stream.carry(*[LARGE] * 8)
        await stream.publisher.expect_close(Code.INTERNAL_ERROR)


async def test_where_credit_is_not_what_is_waited_for_there_is_no_rest(
    moves: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A publisher that waits for its subscriber's word is slowed down now and then alone."""
    marks: list[int] = []
    setsockopt = socket.socket.setsockopt

    def noted(self: socket.socket, level: int, option: int, *value: int) -> None:
        if (level, option) == (socket.SOL_SOCKET, socket.SO_RCVLOWAT):
            marks.append(value[0])
        setsockopt(self, level, option, *value)

    monkeypatch.setattr(socket.socket, "setsockopt", noted)
    async with running_server() as running, streaming(running) as stream:
        await stream.carry(*[LARGE] * 100)
    rests = [mark for mark in marks if mark > LARGE]
    assert len(rests) <= 100 // connection_module._HURRIED_LOOKS + 3
    assert moves


async def test_what_is_read_in_several_turns_does_not_leave_it_deaf() -> None:
    """So many runs at once that the connection's task looks for the rest of them itself."""
    async with running_server() as running, streaming(running) as stream:
        await stream.carry(*[LARGE] * 4)
        first = stream.seq
        small = [frame(stream.room, first + seq) for seq in range(65)]
        others = [frame(stream.room, seq, track=1) for seq in range(65)]
        mixed = [each for pair in zip(small, others, strict=True) for each in pair]
        stream.seq += 65
        large = [stream.next_frame(60_000) for _ in range(9)]
        data = to_bytes(*mixed, *large)
        await stream.admission(len(data))
        # At once, so that all is there when the server looks.
        sent = stream.publisher.raw.send(data)
        await stream.publisher.send_raw(data[sent:])
        for _ in (*mixed, *large):
            await stream.subscriber.expect(StreamFrame)
        with trio.fail_after(2):
            assert await stream.publisher.is_served()
