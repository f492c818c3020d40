"""Order and completeness at a rate that keeps the server busy. No speed is asserted."""

from __future__ import annotations

import hashlib
from typing import Final

import attrs
import pytest
import trio

from tests.net.rawclient import RawClient, bye, frame, to_bytes
from tests.net.running import running_server
from tim_trio.errors import Code
from tim_trio.limits import Limits
from tim_trio.protocol.decoder import ControlFrame
from tim_trio.protocol.layout import Flag
from tim_trio.protocol.messages import Ping, Pong, SourceJoined, decode

#: Nobody lags, however busy the machine: order and completeness are what counts.
_LIMITS: Final = Limits(
    backlog_bytes=64 * 2**20, connection_backlog_bytes=128 * 2**20, backlog_age_s=60
)
_BURST: Final = 500
_BURSTS_EVERY_S: Final = 0.01


@attrs.define(eq=False)
class Pushed:
    """What one source has sent, per track: its bytes' hash and the next seq."""

    room: int
    source: int
    hashes: dict[int, hashlib._Hash] = attrs.Factory(dict)
    next_seq: dict[int, int] = attrs.Factory(dict)

    def frames(self, track: int, count: int, payload_bytes: int, *, end: bool = False) -> bytes:
        first = self.next_seq.get(track, 0)
        self.next_seq[track] = first + count
        data = to_bytes(
            *(
                frame(
                    self.room,
                    seq,
                    seq.to_bytes(8, "big") * (payload_bytes // 8),
                    source=self.source,
                    track=track,
                    flags=(Flag.KEY if seq % 60 == 0 else 0)
                    | (Flag.END if end and seq == first + count - 1 else 0),
                )
                for seq in range(first, first + count)
            )
        )
        self.hashes.setdefault(track, hashlib.sha256()).update(data)
        return data


async def _push_bursts(client: RawClient, pushed: Pushed, bursts: int) -> None:
    start = trio.current_time()
    for number in range(bursts):
        await client.send(pushed.frames(0, _BURST, 24, end=number == bursts - 1))
        await trio.sleep_until(start + (number + 1) * _BURSTS_EVERY_S)


async def _push_two_tracks(client: RawClient, pushed: Pushed, bursts: int) -> None:
    """Tracks in turn, a few frames each, and now and then a large one."""
    for number in range(bursts):
        last = number == bursts - 1
        await client.send(
            pushed.frames(0, 3, 800, end=last),
            pushed.frames(1, 2, 40),
            pushed.frames(1, 1, 60_000 if number % 20 == 0 else 8, end=last),
        )
        await trio.sleep(_BURSTS_EVERY_S)


async def test_requests_and_runs_that_come_together() -> None:
    """More of both than are looked at in one go: all are carried out, and in order."""
    limits = attrs.evolve(_LIMITS, command_burst=5_000, commands_per_s_per_address=1e6)
    async with running_server(limits) as running:
        client, room = await running.published_room()
        subscriber = await running.connect("bob")
        await subscriber.subscribe(room)
        pings = [Ping(stamp=stamp) for stamp in range(2_000)]
        runs = [frame(room, seq, flags=Flag.INIT) for seq in range(300)]
        await client.send(*pings, *runs, Ping(stamp=2_000), bye())
        for stamp in range(2_001):
            assert (await client.expect(Pong)).stamp == stamp
        await client.expect_close(Code.BYE)
        await subscriber.expect_frames(room, 0, 299)


async def _read(client: RawClient, sources: int) -> dict[tuple[int, int], tuple[str, int]]:
    """Read until as many tracks have ended; return each one's hash and number of frames."""
    hashes: dict[tuple[int, int], hashlib._Hash] = {}
    next_seq: dict[tuple[int, int], int] = {}
    tracks_open = 1 + 2 * (sources - 1)
    while tracks_open:
        item = await client.next_item()
        assert item is not None
        if isinstance(item, ControlFrame):
            assert isinstance(decode(item.type, item.fields), SourceJoined)
            continue
        key = (item.source, item.track)
        # Within a run the decoder has compared each seq with the one before.
        assert item.first_seq == next_seq.get(key, 0)
        next_seq[key] = item.last_seq + 1
        hashes.setdefault(key, hashlib.sha256()).update(item.data)
        tracks_open -= item.end_offset >= 0
    return {key: (value.hexdigest(), next_seq[key]) for key, value in hashes.items()}


@pytest.mark.parametrize(
    "bursts", [pytest.param(30, id="short"), pytest.param(250, id="long", marks=pytest.mark.slow)]
)
async def test_bursts_of_one_source_among_others(bursts: int) -> None:
    async with running_server(_LIMITS) as running:
        creator = await running.connect("alice")
        room = await creator.register()
        results: list[dict[tuple[int, int], tuple[str, int]]] = []
        subscribers = [await running.connect(f"reader{number}") for number in range(3)]
        for subscriber in subscribers:
            await subscriber.subscribe(room)
        publishers: list[tuple[RawClient, Pushed]] = []
        for number in range(3):
            client = await running.connect("alice")
            source = await client.publish(room, bytes([number] * 16))
            publishers.append((client, Pushed(room, source)))

        async def read(client: RawClient) -> None:
            results.append(await _read(client, len(publishers)))

        async with trio.open_nursery() as nursery:
            for subscriber in subscribers:
                nursery.start_soon(read, subscriber)
            nursery.start_soon(_push_bursts, *publishers[0], bursts)
            nursery.start_soon(_push_two_tracks, *publishers[1], bursts)
            nursery.start_soon(_push_two_tracks, *publishers[2], bursts)

        expected = {
            (pushed.source, track): (pushed.hashes[track].hexdigest(), pushed.next_seq[track])
            for _, pushed in publishers
            for track in pushed.hashes
        }
        assert expected[1, 0][1] == bursts * _BURST
        assert results == [expected] * len(subscribers)
        assert running.node.gaps == running.node.discarded == 0
