"""Rooms with something going on in them, for a dashboard to show.

A thread of its own, since the browser's tests block.
"""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import attrs
import trio

from tests.net.rawclient import HELLO, authenticate, subscribe, to_bytes
from tim_trio.net.client import Client, connect
from tim_trio.protocol.room_ids import parse_room_id

FRAME_BYTES: Final = 40_000
FRAMES_PER_S: Final = 25
GROUP: Final = 50
#: As fast as somebody reads who is too slow for all of it.
SLOW_BYTES_PER_S: Final = 60_000


@attrs.define
class Busy:
    """What goes on; ``room`` is the busiest.

    Attributes:
        others: rooms with less in them, of other creators.
    """

    room: str
    others: list[str]
    _remove: trio.Event
    _token: trio.lowlevel.TrioToken

    def remove(self) -> None:
        """Have the busiest room removed by its creator."""
        self._token.run_sync_soon(self._remove.set)


async def _publish(client: Client, room: str, size: int) -> None:
    async with client.publish(room) as source:
        for number in range(1_000_000):
            await source.send(bytes(size), key=number % GROUP == 0)
            await trio.sleep(1 / FRAMES_PER_S)


async def _watch(client: Client, room: str) -> None:
    async with client.subscribe(room) as stream:
        async for _ in stream:
            pass


async def _watch_slowly(port: int, room: str) -> None:
    """Read what a thin line would let through."""
    sock = trio.socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with sock:
        await sock.connect(("127.0.0.1", port))
        await sock.send(
            to_bytes(
                HELLO,
                authenticate("slow"),
                subscribe(parse_room_id(room)),
                request_ids=itertools.count(1),
            )
        )
        while await sock.recv(SLOW_BYTES_PER_S // 50):  # noqa: ASYNC110 - it dawdles
            await trio.sleep(1 / 50)


async def _run(
    port: int,
    elsewhere: Sequence[int],
    accept: Callable[[str], bool],
    started: list[Busy],
    ready: threading.Event,
    stop: trio.Event,
) -> None:
    url = f"tim://127.0.0.1:{port}"
    # Some of those that watch, at other nodes of the cluster.
    others_at = [f"tim://127.0.0.1:{each}" for each in (*elsewhere, port, port, port)]
    async with trio.open_nursery() as nursery, connect(url, account="alice") as alice:
        room = await alice.register_room()
        while not accept(room):
            await alice.remove_room(room)
            room = await alice.register_room()
        nursery.start_soon(_publish, alice, room, FRAME_BYTES)
        clients = []
        others = []
        for name, size, at in zip(
            ("bob", "carol", "dora"), (9000, 2500, 600), others_at, strict=False
        ):
            client = await nursery.start(_stay, at, name)
            clients.append(client)
            others.append(await client.register_room())
            nursery.start_soon(_publish, client, others[-1], size)
        for client in clients:
            nursery.start_soon(_watch, client, room)
        for client, other in zip(clients, others[1:], strict=False):
            nursery.start_soon(_watch, client, other)
        nursery.start_soon(_watch_slowly, port, room)
        remove = trio.Event()
        started.append(Busy(room, others, remove, trio.lowlevel.current_trio_token()))
        ready.set()

        async def remove_when_told() -> None:
            await remove.wait()
            await alice.remove_room(room)

        nursery.start_soon(remove_when_told)
        await stop.wait()
        nursery.cancel_scope.cancel()


async def _stay(
    url: str, name: str, task_status: trio.TaskStatus[Client] = trio.TASK_STATUS_IGNORED
) -> None:
    async with connect(url, account=name) as client:
        task_status.started(client)
        await trio.sleep_forever()


@contextmanager
def busy_rooms(
    port: int, elsewhere: Sequence[int] = (), accept: Callable[[str], bool] = bool
) -> Iterator[Busy]:
    """Publish and watch at a server until the block ends; its room removed ends nothing.

    Args:
        elsewhere: TCP ports of other nodes, for some of those that watch.
        accept: says whether the busiest room may have this id.
    """
    ready = threading.Event()
    started: list[Busy] = []
    stops: list[tuple[trio.Event, trio.lowlevel.TrioToken]] = []
    failed: list[BaseException] = []

    async def main() -> None:
        stop = trio.Event()
        stops.append((stop, trio.lowlevel.current_trio_token()))
        await _run(port, elsewhere, accept, started, ready, stop)

    def run() -> None:
        try:
            trio.run(main)
        except BaseException as error:
            failed.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert ready.wait(20) and started, failed
        yield started[0]
    finally:
        for stop, token in stops:
            if thread.is_alive():
                token.run_sync_soon(stop.set)
        thread.join(20)
