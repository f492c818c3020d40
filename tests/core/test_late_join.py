"""Joining in the middle of anything: INIT, the running group from its KEY, then live.

Arrivals are arbitrary: several sources with several tracks, KEYs and INITs
anywhere in a run, joins between any two reads. Each joiner is compared with
what it is due, frame by frame.
"""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.builders import (
    END,
    INIT,
    KEY,
    Peer,
    TrackWriter,
    limits,
    make_peer,
    make_room,
    of_kind,
    open_source,
    read_runs,
)
from tests.due import due
from tim_trio.core.node import Node
from tim_trio.limits import MIB
from tim_trio.protocol.messages import StartFrom, SubscribeAnswer
from tim_trio.protocol.stream import StreamFrame, encode_stream_frame

SOURCES, TRACKS = 2, 3
#: Nobody lags, and every group fits.
ROOMY = limits(
    backlog_bytes=64 * MIB,
    connection_backlog_bytes=64 * MIB,
    control_backlog_bytes=64 * MIB,
    outbox_items=8192,
    room_cache_bytes=64 * MIB,
    node_cache_bytes=64 * MIB,
    max_room_init_bytes=64 * MIB,
)


@attrs.frozen
class Read:
    """What one read of a publisher's socket holds: frames by track and flags."""

    source: int
    frames: list[tuple[int, int]]


@attrs.frozen
class Join:
    start: StartFrom
    is_slow: bool


_flags = st.sampled_from([0, 0, 0, 0, KEY, KEY, INIT, INIT | KEY, 0x80, 0x80 | KEY, END])
_reads = st.builds(
    Read,
    source=st.integers(0, SOURCES - 1),
    frames=st.lists(st.tuples(st.integers(0, TRACKS - 1), _flags), min_size=1, max_size=12),
)
_joins = st.builds(Join, start=st.sampled_from(StartFrom), is_slow=st.booleans())


@attrs.define(eq=False)
class Joiner:
    peer: Peer
    start: StartFrom

    def received(self) -> tuple[SubscribeAnswer, list[StreamFrame]]:
        self.peer.drain()
        items = self.peer.new()
        (answer,) = of_kind(SubscribeAnswer, items)
        assert items[0] is answer
        frames = of_kind(StreamFrame, items)
        assert len(items) == 1 + len(frames)
        return answer, frames


@pytest.mark.parametrize("gather_ms", [0, 50])
@given(arrivals=st.lists(_reads | _joins, max_size=40))
def test_whatever_came_before_each_gets_what_it_is_due(
    gather_ms: int, arrivals: list[Read | Join]
) -> None:
    node = Node(ROOMY)
    room = make_room(node, gather_ms=gather_ms)
    publisher = make_peer(node)
    sources = [open_source(room, publisher, bytes([n] * 16)) for n in range(SOURCES)]
    writers = [[TrackWriter(source=s.number, track=t) for t in range(TRACKS)] for s in sources]
    pushed: list[StreamFrame] = []
    ended = set[tuple[int, int]]()
    joiners: list[Joiner] = []
    for arrival in [*arrivals, Join(StartFrom.GROUP, True), Join(StartFrom.LIVE, False)]:
        if isinstance(arrival, Join):
            joiner = Joiner(make_peer(node, budget=0 if arrival.is_slow else None), arrival.start)
            joiners.append(joiner)
            room.subscribe(joiner.peer.member, arrival.start, 0, 1, 0.0)
            continue
        frames = []
        for track, flags in arrival.frames:
            if (arrival.source, track) not in ended:
                payload = b"%d" % len(pushed)
                frames.append(writers[arrival.source][track].frame(flags, payload))
                pushed.append(frames[-1])
            if flags & END:
                ended.add((arrival.source, track))
        for run in read_runs(b"".join(map(encode_stream_frame, frames))):
            room.push(sources[arrival.source], run, 0.0)
    room.flush(0.0)
    for joiner in joiners:
        check(joiner, pushed)


def check(joiner: Joiner, pushed: list[StreamFrame]) -> None:
    answer, received = joiner.received()
    stood = {
        (source.source, track.track): (track.last_seq, track.state)
        for source in answer.sources
        for track in source.tracks
    }
    inits = set[bytes]()
    for source in answer.sources:
        for number in range(TRACKS):
            place = source.source, number
            frames = [each for each in pushed if (each.source, each.track) == place]
            last_seq, state = stood.get(place, (-1, 0))
            expected = due(frames, joiner.start, last_seq, state)
            assert [each for each in received if (each.source, each.track) == place] == expected
            if expected and expected[0].is_init and expected[0].seq <= last_seq:
                inits.add(expected[0].payload)
        # Payloads count all that was pushed: behind the INITs the tracks of a
        # source are interleaved as they came.
        order = [
            int(each.payload)
            for each in received
            if each.source == source.source and each.payload not in inits
        ]
        assert order == sorted(order)
