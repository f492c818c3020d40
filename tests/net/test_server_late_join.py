"""Joining a room over TCP while several publishers push as fast as the server takes it.

Whoever joins gets, of each track, the INIT, the running group from its KEY, and
from then on everything, each frame once. The answer to SUBSCRIBE says where each
track stood at that moment, so what is due is known to the frame.
"""

from __future__ import annotations

import random
from typing import Final

import attrs
import pytest
import trio

from tests.due import due
from tests.net.rawclient import RawClient, frame, to_bytes
from tests.net.running import Running, eventually, running_server
from tim_trio.limits import MIB, Limits
from tim_trio.protocol.layout import Flag
from tim_trio.protocol.messages import SourceJoined, StartFrom, SubscribeAnswer, TrackState, Viewers
from tim_trio.protocol.stream import StreamFrame

#: Nobody lags and every group fits, however busy the machine: joining is what counts.
_LIMITS: Final = Limits(
    backlog_bytes=64 * MIB,
    connection_backlog_bytes=256 * MIB,
    backlog_age_s=60,
    room_cache_bytes=64 * MIB,
)
_INIT, _KEY, _END = int(Flag.INIT), int(Flag.KEY), int(Flag.END)
#: How often a track has an INIT and a KEY; 0 for never.
_VIDEO, _SOUND, _POSES, _RARE = (200, 50), (1000, 1), (0, 0), (700, 400)
_SOURCES: Final = ((_VIDEO, _SOUND), (_VIDEO, _SOUND, _POSES), (_RARE, _POSES), (_RARE,))

Place = tuple[int, int]


@attrs.define(eq=False)
class Publisher:
    """One source that pushes without a pause, and remembers what.

    Attributes:
        tracks: of each track, how often it has an INIT and a KEY.
        pushed: frames in the order in which they were pushed, all tracks together.
    """

    client: RawClient
    room: int
    source: int
    tracks: tuple[tuple[int, int], ...]
    pushed: list[StreamFrame] = attrs.Factory(list)
    _next_seq: dict[int, int] = attrs.Factory(dict)
    _random: random.Random = attrs.Factory(lambda: random.Random(7))

    async def push(self, until: trio.Event) -> None:
        while not until.is_set():
            await self.client.send(to_bytes(*self._some()))
        await self.client.send(*(self._frame(track, _END) for track in range(len(self.tracks))))

    def _some(self) -> list[StreamFrame]:
        """Make what one write holds: a few runs on tracks in any order."""
        draw = self._random
        frames: list[StreamFrame] = []
        for _ in range(draw.randint(1, 6)):
            track = draw.randrange(len(self.tracks))
            frames += [self._frame(track) for _ in range(draw.choice((1, 2, 3, 30)))]
        return frames

    def _frame(self, track: int, flags: int = 0) -> StreamFrame:
        every_init, every_key = self.tracks[track]
        seq = self._next_seq.get(track, 0)
        self._next_seq[track] = seq + 1
        if every_init and self._random.random() * every_init < 1:
            flags |= _INIT
        # KEYs stand anywhere, not at a round number, and sometimes close together.
        # An INIT is often a KEY as well.
        if every_key and self._random.random() * (2 if flags else every_key) < 1:
            flags |= _KEY
        payload = b"%d.%d.%d" % (self.source, track, seq) * self._random.choice((1, 1, 20))
        made = frame(self.room, seq, payload, source=self.source, track=track, flags=flags)
        self.pushed.append(made)
        return made

    def of(self, track: int) -> list[StreamFrame]:
        return [each for each in self.pushed if each.track == track]


async def join(
    client: RawClient, room: int, start: StartFrom, tracks: int, joined: list[RawClient]
) -> list[object]:
    """Subscribe, and return the answer and everything up to the last END."""
    received: list[object] = [await client.subscribe(room, start)]
    joined.append(client)
    while tracks:
        item = await client.next()
        received.append(item)
        tracks -= isinstance(item, StreamFrame) and item.is_end
    return received


def check(received: list[object], start: StartFrom, publishers: list[Publisher]) -> int:
    """Check what a joiner got against what was pushed; return how many joined in mid-group."""
    answer, *items = received
    assert isinstance(answer, SubscribeAnswer)
    stood = {
        (source.source, track.track): (track.last_seq, track.state)
        for source in answer.sources
        for track in source.tracks
    }
    by_track: dict[Place, list[StreamFrame]] = {}
    for item in items:
        if isinstance(item, StreamFrame):
            by_track.setdefault((item.source, item.track), []).append(item)
        else:
            assert isinstance(item, SourceJoined | Viewers), item
    mid_group = 0
    for publisher in publishers:
        for track in range(len(publisher.tracks)):
            place = publisher.source, track
            frames = publisher.of(track)
            last_seq, state = stood.get(place, (-1, 0))
            assert by_track[place] == due(frames, start, last_seq, state)
            mid_group += bool(state & TrackState.CACHED_GROUP) and not frames[last_seq].is_key
        check_order(publisher, items)
    return mid_group


def check_order(publisher: Publisher, items: list[object]) -> None:
    """Behind the INITs, a source's tracks come interleaved as they were pushed."""
    position = {(each.track, each.seq): at for at, each in enumerate(publisher.pushed)}
    came = [
        position[item.track, item.seq]
        for item in items
        if isinstance(item, StreamFrame) and item.source == publisher.source
    ]
    inits = 0
    while inits < len(publisher.tracks) and publisher.pushed[came[inits]].is_init:
        inits += 1
    assert came[inits:] == sorted(came[inits:])


async def publishers_of(running: Running, room: int) -> list[Publisher]:
    publishers = []
    for number, tracks in enumerate(_SOURCES):
        client = await running.connect("alice")
        source = await client.publish(room, bytes([number] * 16))
        publishers.append(Publisher(client, room, source, tracks))
    return publishers


@pytest.mark.parametrize(
    "joiners", [pytest.param(4, id="few"), pytest.param(40, id="many", marks=pytest.mark.slow)]
)
async def test_joining_at_full_speed(joiners: int) -> None:
    async with running_server(_LIMITS) as running:
        creator = await running.connect("alice")
        room = await creator.register()
        publishers = await publishers_of(running, room)
        stop = trio.Event()
        joined: list[RawClient] = []
        results: list[tuple[StartFrom, list[object]]] = []

        async def join_one(client: RawClient, start: StartFrom) -> None:
            tracks = sum(map(len, _SOURCES))
            results.append((start, await join(client, room, start, tracks, joined)))

        clients = [await running.connect(f"joiner{number}") for number in range(joiners)]
        async with trio.open_nursery() as nursery:
            for publisher in publishers:
                nursery.start_soon(publisher.push, stop)
            for number, client in enumerate(clients):
                await trio.sleep(0.01)
                start = StartFrom.LIVE if number % 4 == 3 else StartFrom.GROUP
                nursery.start_soon(join_one, client, start)
            await eventually(lambda: len(joined) == joiners, "all are to have joined")
            stop.set()

        assert len(results) == joiners
        mid_group = sum(check(received, start, publishers) for start, received in results)
        assert mid_group, "nobody joined in the middle of a group"
        assert running.node.gaps == running.node.discarded == 0
