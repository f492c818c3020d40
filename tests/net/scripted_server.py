"""The server's half of a connection, played by the test, line by line."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

import attrs
import trio
from trio.testing import memory_stream_pair

from tim_trio.net.client import Bounds, Client, open_client
from tim_trio.net.client.plain_nursery import open_plain_nursery
from tim_trio.protocol import messages
from tim_trio.protocol.decoder import ControlFrame, Decoder
from tim_trio.protocol.runs import Run
from tim_trio.protocol.stream import StreamFrame, encode_stream_frame, iter_stream_frames

M = TypeVar("M")

ROOM = 8312248653376802578
ROOM_TEXT = "LJ6TN2wdrZF"
WELCOME = messages.Welcome(
    version=1,
    capabilities=int(messages.Capability.RELIABLE),
    agent="scripted",
    node="n1",
    auth_mode=messages.AuthMode.OPEN,
    max_frame_bytes=1_048_576,
    max_init_bytes=65_536,
    backlog_bytes=1_048_576,
    backlog_age_ms=1000,
    stall_timeout_ms=10_000,
    ping_interval_ms=20_000,
    max_subscriptions=1000,
)


@attrs.define(eq=False)
class ScriptedServer:
    """Reads what the client sent, one frame at a time, and sends what the test says."""

    stream: trio.abc.Stream
    _decoder: Decoder = attrs.Factory(lambda: Decoder(max_frame_bytes=2**24, max_init_bytes=2**24))
    _items: deque[Run | ControlFrame] = attrs.Factory(deque)

    async def next_item(self) -> Run | ControlFrame | None:
        """Return the next run or control frame, None at the end."""
        while not self._items:
            data = await self.stream.receive_some(65_536)
            if not data:
                return None
            self._items.extend(self._decoder.feed(bytes(data)))
        return self._items.popleft()

    async def expect(self, kind: type[M]) -> tuple[M, int]:
        """Return the next frame, which must be of ``kind``, and its request_id."""
        item = await self.next_item()
        assert isinstance(item, ControlFrame), item
        message = messages.decode(item.type, item.fields)
        assert isinstance(message, kind), message
        return message, item.request_id

    async def expect_frames(self, count: int) -> list[StreamFrame]:
        """Return the next ``count`` stream frames; nothing else may come before."""
        frames: list[StreamFrame] = []
        while len(frames) < count:
            item = await self.next_item()
            assert isinstance(item, Run), item
            frames += iter_stream_frames(item.data)
        return frames

    async def send(self, *what: object, request_id: int = 0) -> None:
        """Send messages and stream frames, all in one write."""
        await self.stream.send_all(
            b"".join(
                encode_stream_frame(one)
                if isinstance(one, StreamFrame)
                else messages.encode(one, request_id)
                for one in what
            )
        )

    async def answer(self, request: type[M], *answers: object) -> M:
        """Expect a request, answer it with the first message; the rest follows at once."""
        message, number = await self.expect(request)
        first, *rest = answers
        await self.stream.send_all(messages.encode(first, number))
        if rest:
            await self.send(*rest)
        return message

    async def refuse(self, request: type[M], code: int, text: str = "") -> M:
        """Expect a request and answer it with ERROR."""
        message, number = await self.expect(request)
        await self.send(
            messages.Error(
                request_type=messages.type_of(request),
                code=code,
                retry=2000 <= code < 2100,
                retry_after_ms=0,
                text=text,
            ),
            request_id=number,
        )
        return message

    async def greet(self, welcome: messages.Welcome = WELCOME) -> messages.Hello:
        """Play the handshake."""
        hello = await self.answer(messages.Hello, welcome)
        who, number = await self.expect(messages.Authenticate)
        await self.send(
            messages.AuthenticateAnswer(
                account=who.account, rights=2, session_token=b"", expires_ms=0
            ),
            request_id=number,
        )
        return hello


@asynccontextmanager
async def client_and_server(
    *, welcome: messages.Welcome = WELCOME, bounds: Bounds | None = None
) -> AsyncIterator[tuple[Client, ScriptedServer]]:
    """A signed-in client and the server's half."""
    ours, theirs = memory_stream_pair()
    server = ScriptedServer(theirs)
    async with open_plain_nursery() as nursery:
        nursery.start_soon(server.greet, welcome)
        async with open_client(ours, account="alice", bounds=bounds) as client:
            yield client, server


def frame(
    seq: int,
    payload: bytes = b"x",
    *,
    track: int = 0,
    source: int = 7,
    flags: int = 0,
    room: int = ROOM,
) -> StreamFrame:
    return StreamFrame(room, source, track, seq, 1000 + seq, flags, payload)


def subscribed(
    *sources: messages.SourceInfo, mode: messages.RoomMode = messages.RoomMode.LIVE
) -> messages.SubscribeAnswer:
    return messages.SubscribeAnswer(
        room=ROOM, mode=mode, gather_ms=0, sources=list(sources), path=["n1"]
    )


def published(
    *tracks: messages.TrackInfo,
    mode: messages.RoomMode = messages.RoomMode.LIVE,
    received: int = 0,
    credit: int = 2**53 - 1,
) -> messages.PublishAnswer:
    return messages.PublishAnswer(
        room=ROOM, source=7, mode=mode, received=received, credit=credit, tracks=list(tracks)
    )
