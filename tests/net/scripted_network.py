"""Where a client under test dials: one scripted server after another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import attrs
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from tests.net.scripted_server import (
    ROOM,
    ScriptedServer,
)
from tim_trio.net.client import (
    Bounds,
    Client,
    ConnectFailed,
    open_client,
)
from tim_trio.net.client.address import Address
from tim_trio.net.client.plain_nursery import open_plain_nursery
from tim_trio.protocol import messages
from tim_trio.protocol.messages import RoomMode, TrackInfo

UNPUBLISHED = messages.UnpublishAnswer(forwarded=3, discarded=0)


@attrs.define(eq=False)
class Network:
    """Where the client dials: each connection is one more scripted server."""

    refuses: int = 0
    #: Where nobody says yes or no.
    silent: set[Address | None] = attrs.Factory(set)
    dialled: list[tuple[float, Address | None]] = attrs.Factory(list)
    servers: list[ScriptedServer] = attrs.Factory(list)
    _next: trio.MemorySendChannel[ScriptedServer] = attrs.field(init=False)
    _got: trio.MemoryReceiveChannel[ScriptedServer] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._next, self._got = trio.open_memory_channel[ScriptedServer](100)

    async def dial(self, where: Address | None) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        self.dialled.append((trio.current_time(), where))
        if where in self.silent:
            await trio.sleep_forever()
        if self.refuses:
            self.refuses -= 1
            raise ConnectFailed("nobody there")
        ours, theirs = memory_stream_pair()
        server = ScriptedServer(theirs)
        self.servers.append(server)
        self._next.send_nowait(server)
        return ours

    async def accept(self) -> ScriptedServer:
        """Return the next connection's server, greeted."""
        server = await self._got.receive()
        await server.greet()
        return server


@asynccontextmanager
async def connected(
    *, bounds: Bounds | None = None
) -> AsyncIterator[tuple[Client, ScriptedServer, Network]]:
    network = Network()
    async with open_plain_nursery() as nursery:
        stream = await network.dial(None)
        nursery.start_soon(network.accept)
        async with open_client(stream, account="alice", bounds=bounds, dial=network.dial) as client:
            yield client, network.servers[0], network


async def lose(server: ScriptedServer) -> None:
    await wait_all_tasks_blocked()
    await server.stream.aclose()


def close(code: int, retry_after_ms: int = 0) -> messages.Close:
    return messages.Close(
        code=code, retry=code < 1100, retry_after_ms=retry_after_ms, text="because"
    )


def info(last_seq: int, *, state: int = 0, left: bool = False) -> messages.SourceInfo:
    tracks = [TrackInfo(track=0, state=state, last_seq=last_seq)]
    return messages.SourceInfo(source=7, account="bob", left=left, tracks=tracks)


def room_info(
    mode: RoomMode = RoomMode.LIVE, *, sources: Iterable[messages.SourceInfo] = ()
) -> messages.RoomInfo:
    """Return what a server tells of a room in which alice has sent two frames."""
    return messages.RoomInfo(
        room=ROOM,
        mode=mode,
        gather_ms=0,
        idle_timeout_s=1,
        creator="alice",
        age_ms=0,
        viewers=0,
        frames=2,
        bytes=2,
        sources=[*sources],
        granted=[],
    )
