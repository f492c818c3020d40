"""Which frames `watch` writes, and how it says that it ended."""

from __future__ import annotations

import pytest

from tests.net.scripted_server import ROOM, frame
from tim_trio.cli.selection import Outcome, Selection
from tim_trio.errors import ConnectionClosed
from tim_trio.net.client import Item, Reconnected, Reconnecting
from tim_trio.protocol.layout import Flag
from tim_trio.protocol.messages import (
    Gap,
    RoomMode,
    SourceInfo,
    SourceJoined,
    SourceLeft,
    TrackInfo,
    TrackState,
)

END = int(Flag.END)


def source(number: int, *tracks: TrackInfo, left: bool = False) -> SourceInfo:
    return SourceInfo(source=number, account="bob", left=left, tracks=list(tracks))


def track(number: int, state: int = 0) -> TrackInfo:
    return TrackInfo(track=number, state=state, last_seq=9)


def ended(number: int) -> TrackInfo:
    return track(number, int(TrackState.ENDED))


def gap(first: int, last: int, *, track: int = 0, source: int = 7) -> Gap:
    return Gap(room=ROOM, source=source, track=track, first_seq=first, last_seq=last, reason=1)


def feed(selection: Selection, *items: Item) -> list[bytes]:
    payloads = [selection.take(item) for item in items]
    return [payload for payload in payloads if payload is not None]


def test_the_first_that_sends_is_followed_to_its_end() -> None:
    selection = Selection(RoomMode.LIVE)
    selection.begin([source(6), source(7)])
    assert not selection.over
    assert feed(
        selection,
        SourceJoined(room=ROOM, source=5, account="eve"),
        frame(0, b"a", track=2),
        frame(0, b"other track"),
        frame(0, b"other source", source=6),
        SourceLeft(room=ROOM, source=6, reason=1),
        frame(1, b"b", track=2),
        frame(2, b"c", track=2, flags=END),
    ) == [b"a", b"b", b"c"]
    assert (selection.source, selection.track) == (7, 2)
    assert selection.outcome is Outcome.ENDED


def test_source_and_track_as_asked() -> None:
    selection = Selection(RoomMode.LIVE, source=7, track=1)
    selection.begin([source(6, track(1)), source(7, ended(0), track(1))])
    assert feed(selection, frame(0, b"no"), frame(0, b"yes", track=1)) == [b"yes"]
    assert feed(selection, frame(1, b"no", flags=END), frame(1, b"no", track=1, source=6)) == []
    assert not selection.over


def test_gaps_are_counted_on_its_own_track_and_told_at_the_end() -> None:
    selection = Selection(RoomMode.LIVE)
    feed(selection, gap(0, 3), frame(4), gap(5, 9), gap(0, 1, track=1), gap(0, 1, source=6))
    assert selection.missing_frames == 5
    assert feed(selection, frame(10, b"last", flags=END)) == [b"last"]
    assert selection.outcome is Outcome.GAP


def test_a_source_that_leaves_before_its_end() -> None:
    selection = Selection(RoomMode.LIVE)
    feed(selection, frame(0), SourceLeft(room=ROOM, source=7, reason=2))
    assert selection.outcome is Outcome.CUT_OFF


def test_a_live_stream_may_be_joined_late() -> None:
    selection = Selection(RoomMode.LIVE)
    assert feed(selection, frame(100, b"a")) == [b"a"]
    assert not selection.over


def test_a_reliable_one_may_not() -> None:
    selection = Selection(RoomMode.RELIABLE)
    assert feed(selection, frame(1, b"a")) == []
    assert selection.outcome is Outcome.MISSED_START

    selection = Selection(RoomMode.RELIABLE)
    assert feed(selection, frame(0, b"a"), frame(1, b"b", flags=END)) == [b"a", b"b"]
    assert selection.outcome is Outcome.ENDED


@pytest.mark.parametrize(
    "wanted_source, wanted_track, sources, outcome",
    [
        (None, None, [], None),
        (None, None, [source(1, ended(0), left=True)], Outcome.ENDED),
        (None, None, [source(1, ended(0))], Outcome.ENDED),
        (None, None, [source(1, ended(0), track(1))], None),
        (None, 0, [source(1, ended(0), track(1))], Outcome.ENDED),
        (None, 2, [source(1, ended(0))], None),  # track 2 may still begin
        (None, 2, [source(1, ended(0), left=True)], None),
        (None, None, [source(1, ended(0), left=True), source(2)], None),
        (None, None, [source(1, track(0), left=True)], None),  # another may come
        (1, None, [source(1, track(0), left=True)], Outcome.CUT_OFF),
        (1, None, [source(1, ended(0), left=True), source(2)], Outcome.ENDED),
        (3, None, [source(1, ended(0), left=True), source(2)], None),
        (None, None, [source(1, track(0, TrackState.ENDED | TrackState.CACHED_GROUP))], None),
    ],
)
def test_what_is_left_to_wait_for(
    wanted_source: int | None,
    wanted_track: int | None,
    sources: list[SourceInfo],
    outcome: Outcome | None,
) -> None:
    selection = Selection(RoomMode.LIVE, wanted_source, wanted_track)
    selection.begin(sources)
    assert selection.outcome is outcome


def test_a_reconnect_goes_on_and_counts_what_is_missing() -> None:
    selection = Selection(RoomMode.LIVE)
    back = Reconnected(after_s=1.0, attempts=2, sources=(source(7, track(0)),))
    lost = Reconnecting(ConnectionClosed())
    assert feed(selection, frame(0, b"a"), lost, back, gap(1, 3), frame(4, b"b", flags=END)) == [
        b"a",
        b"b",
    ]
    assert (selection.missing_frames, selection.outcome) == (3, Outcome.GAP)


def test_an_end_that_came_while_away() -> None:
    selection = Selection(RoomMode.LIVE)
    back = Reconnected(after_s=1.0, attempts=2, sources=(source(7, ended(0), left=True),))
    feed(selection, frame(0, b"a"), back)
    assert not selection.over
    feed(selection, gap(1, 9))
    assert (selection.missing_frames, selection.outcome) == (9, Outcome.GAP)


def test_a_whole_stream_that_came_while_away() -> None:
    selection = Selection(RoomMode.LIVE)
    feed(selection, Reconnected(after_s=1.0, attempts=2, sources=(source(7, ended(0)),)))
    assert (selection.missing_frames, selection.outcome) == (10, Outcome.GAP)
