"""What is repeated, and what is missing, after another connection took over."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.net.scripted_server import ROOM, frame
from tim_trio.net.client.notices import WHILE_AWAY
from tim_trio.net.client.seen import Seen
from tim_trio.protocol.decoder import Decoder
from tim_trio.protocol.layout import Flag
from tim_trio.protocol.messages import Gap, SourceInfo, SourceJoined, SourceLeft, TrackInfo
from tim_trio.protocol.runs import Run
from tim_trio.protocol.stream import StreamFrame, encode_stream_frame, iter_stream_frames


def runs(*frames: StreamFrame) -> list[Run]:
    decoder = Decoder(max_frame_bytes=10_000, max_init_bytes=10_000)
    items = decoder.feed(b"".join(map(encode_stream_frame, frames)))
    return [item for item in items if isinstance(item, Run)]


def info(*tracks: TrackInfo, source: int = 7, left: bool = False) -> SourceInfo:
    return SourceInfo(source=source, account="bob", left=left, tracks=list(tracks))


def track(last_seq: int, *, state: int = 0, number: int = 0) -> TrackInfo:
    return TrackInfo(track=number, state=state, last_seq=last_seq)


def take(seen: Seen, *items: Run | StreamFrame | Gap | SourceJoined | SourceLeft) -> list[object]:
    """Return seqs for frames, (first, last, reason) for gaps, else the item."""
    out: list[object] = []
    for item in items:
        wire = runs(item) if isinstance(item, StreamFrame) else [item]
        for one in wire:
            for piece in seen.take(one):
                if isinstance(piece, Run):
                    out += [each.seq for each in iter_stream_frames(piece.data)]
                elif isinstance(piece, Gap):
                    out.append((piece.first_seq, piece.last_seq, piece.reason))
                else:
                    out.append(piece)
    return out


def gap(first: int, last: int, reason: int = 1) -> Gap:
    return Gap(room=ROOM, source=7, track=0, first_seq=first, last_seq=last, reason=reason)


def begun(*seqs: int) -> Seen:
    seen = Seen(ROOM)
    seen.begin([info()])
    take(seen, *(frame(seq) for seq in seqs))
    return seen


def test_without_a_reconnect_all_is_passed_on_as_it_is() -> None:
    seen = begun()
    (run,) = runs(frame(3), frame(4))
    assert seen.take(run) == (run,)
    assert take(seen, gap(5, 9), frame(7, flags=Flag.INIT), frame(10)) == [(5, 9, 1), 7, 10]


def test_repeats_are_dropped_also_in_the_middle_of_a_run() -> None:
    seen = begun(0, 1, 2, 3)
    seen.resume([info(track(5))])
    assert take(seen, *runs(*(frame(seq) for seq in range(2, 7)))) == [4, 5, 6]


def test_a_hole_is_one_gap() -> None:
    seen = begun(0, 1)
    seen.resume([info(track(5))])
    assert take(seen, frame(6), frame(7)) == [(2, 5, WHILE_AWAY), 6, 7]


def test_an_init_inside_the_hole_is_not_called_missing() -> None:
    seen = begun(0, 1)
    seen.resume([info(track(9))])
    assert take(seen, frame(4, flags=Flag.INIT), frame(8, flags=Flag.KEY), frame(9)) == [
        (2, 3, WHILE_AWAY),
        4,
        (5, 7, WHILE_AWAY),
        8,
        9,
    ]


@pytest.mark.parametrize("init_seq, expected", [(0, [4]), (3, [3, 4])])
def test_an_init_comes_again_only_if_it_is_new(init_seq: int, expected: list[int]) -> None:
    seen = Seen(ROOM)
    seen.begin([info()])
    take(seen, frame(0, flags=Flag.INIT), frame(1), gap(2, 3))
    seen.resume([info(track(4))])
    assert take(seen, frame(init_seq, flags=Flag.INIT), frame(4)) == expected


def test_an_init_and_what_follows_it_in_one_run() -> None:
    seen = begun(0)
    take(seen, gap(1, 3))
    seen.resume([info(track(6))])
    wire = (frame(2, flags=Flag.INIT), *(frame(seq) for seq in range(3, 7)))
    assert take(seen, *runs(*wire)) == [2, 4, 5, 6]


def test_the_servers_gaps_are_merged_with_the_hole() -> None:
    seen = begun(0, 1)
    seen.resume([info(track(5))])
    assert take(seen, gap(4, 6), frame(7)) == [(2, 6, WHILE_AWAY), 7]
    assert take(seen, gap(5, 6), gap(7, 9), gap(10, 12)) == [(8, 9, 1), (10, 12, 1)]


def test_an_end_that_was_missed_is_announced_at_once() -> None:
    seen = begun(0, 1)
    (missed,) = seen.resume([info(track(5, state=0x01))])
    assert missed == gap(2, 5, WHILE_AWAY)
    assert seen.resume([info(track(5, state=0x01))]) == []


def test_sources_that_came_and_went() -> None:
    seen = begun(0, 1)
    seen.begin([info(source=8)])
    notices = seen.resume([info(track(3), left=True), info(source=9), info(source=1, left=True)])
    assert notices == [
        gap(2, 3, WHILE_AWAY),
        SourceLeft(room=ROOM, source=7, reason=WHILE_AWAY),
        SourceJoined(room=ROOM, source=9, account="bob"),
        SourceLeft(room=ROOM, source=8, reason=WHILE_AWAY),
    ]
    # Said once.
    again = SourceJoined(room=ROOM, source=9, account="bob")
    assert take(seen, again, SourceLeft(room=ROOM, source=7, reason=1)) == []


def test_what_never_came_is_announced_when_the_source_leaves() -> None:
    seen = begun(0, 1)
    seen.resume([info(track(5, state=0x02))])  # it waits for a KEY
    left = SourceLeft(room=ROOM, source=7, reason=1)
    assert take(seen, left) == [(2, 5, WHILE_AWAY), left]


def test_sources_that_left_long_ago_are_forgotten() -> None:
    seen = Seen(ROOM)
    for number in range(1, 200):
        take(seen, SourceJoined(room=ROOM, source=number, account="bob"))
        take(seen, frame(0, source=number))
        take(seen, SourceLeft(room=ROOM, source=number, reason=1))
    assert len(seen._tracks) <= 64


@given(
    flags=st.lists(st.sampled_from([0, 0, 0, Flag.KEY, Flag.INIT]), min_size=1, max_size=40),
    cuts=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=5),
    size=st.integers(1, 5),
)
def test_whatever_is_lost_or_repeated_every_number_comes_once_or_is_in_one_gap(
    flags: list[int], cuts: list[tuple[int, int]], size: int
) -> None:
    """Connections deliver stretches, each with the newest INIT in front, as joiners get them."""
    frames = [frame(seq, flags=int(flag)) for seq, flag in enumerate(flags)]
    seen = Seen(ROOM)
    seen.begin([info()])
    delivered: list[int] = []
    missing: list[int] = []
    begins = True
    for start, stop in [(0, 3), *sorted(cuts, key=max)]:
        stretch = frames[min(start, stop) : max(start, stop)]
        if not stretch:
            continue
        if not begins:
            seen.resume([info(track(len(frames) - 1))])
        begins = False
        inits = [one for one in frames[: stretch[0].seq] if one.is_init]
        wire = [*inits[-1:], *stretch]
        for position in range(0, len(wire), size):
            for item in take(seen, *runs(*wire[position : position + size])):
                if isinstance(item, int):
                    delivered.append(item)
                else:
                    assert isinstance(item, tuple)
                    assert item[0] <= item[1]
                    missing += range(item[0], item[1] + 1)
    last = max(delivered)
    assert len(set(delivered)) == len(delivered)
    assert len(set(missing)) == len(missing)
    assert {*delivered, *missing} == set(range(last + 1))
    both = set(delivered) & set(missing)
    assert all(frames[seq].is_init for seq in both)
    assert [seq for seq in delivered if seq not in both] == sorted(set(delivered) - both)
