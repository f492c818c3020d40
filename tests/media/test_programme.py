"""Which chunks a recording gets, and where another file begins."""

from __future__ import annotations

from typing import Any

import pytest

from tests.media.test_codecs import audio, video
from tests.media.test_h264 import AVCC, IDR, PPS, SPS
from tests.net.scripted_server import ROOM
from tim_trio.errors import ConnectionClosed
from tim_trio.media.codecs import Family
from tim_trio.media.profile import AudioInit, MediaInit, VideoInit, encode_init
from tim_trio.media.programme import (
    MAX_HELD_BYTES,
    Chunk,
    Note,
    Outcome,
    Output,
    Programme,
    Segment,
    TrackEnd,
)
from tim_trio.net.client import Item, Reconnected, Reconnecting
from tim_trio.protocol.layout import Flag
from tim_trio.protocol.messages import (
    Gap,
    SourceInfo,
    SourceJoined,
    SourceLeft,
    TrackInfo,
    TrackState,
)
from tim_trio.protocol.stream import StreamFrame

VP8 = video("vp8")
OPUS = audio("opus")
ENDED = int(TrackState.ENDED)
CACHED = int(TrackState.CACHED_GROUP)


class Feed:
    """Numbers frames as a publisher does, and keeps what a programme makes of them."""

    def __init__(self, programme: Programme | None = None, source: int = 7) -> None:
        self.programme = programme or Programme()
        self.source = source
        self.outputs: list[Output] = []
        self.seqs: dict[int, int] = {}

    def take(self, *items: Item) -> Feed:
        for item in items:
            self.outputs += self.programme.take(item)
        return self

    def frame(self, track: int, payload: bytes, flags: int, time: int = 0) -> Feed:
        seq = self.seqs.get(track, 0)
        self.seqs[track] = seq + 1
        return self.take(StreamFrame(ROOM, self.source, track, seq, time, flags, payload))

    def init(self, track: int, init: MediaInit) -> Feed:
        return self.frame(track, encode_init(init), Flag.INIT)

    def chunk(self, track: int, time: int, payload: bytes = b"x", *, key: bool = False) -> Feed:
        return self.frame(track, payload, Flag.KEY if key else 0, time)

    def end(self, track: int, time: int = 0) -> Feed:
        return self.frame(track, b"", Flag.END, time)

    def lose(self, track: int, count: int) -> Feed:
        first = self.seqs.get(track, 0)
        self.seqs[track] = first + count
        return self.take(
            Gap(
                room=ROOM,
                source=self.source,
                track=track,
                first_seq=first,
                last_seq=first + count - 1,
                reason=1,
            )
        )

    def open(self) -> Feed:
        self.outputs += self.programme.open()
        return self

    def outcome(self) -> Outcome | None:
        return self.programme.outcome

    def is_holding(self) -> bool:
        return self.programme.is_holding

    def new(self) -> list[Any]:
        """Return what has come since the last time, chunks as (track, time)."""
        outputs, self.outputs = self.outputs, []
        return [(one.track, one.timestamp_us) if isinstance(one, Chunk) else one for one in outputs]


def running() -> Feed:
    """A feed of picture and sound whose first segment has begun."""
    feed = Feed().init(0, VP8).init(1, OPUS).chunk(0, 100, key=True).chunk(1, 90, key=True)
    feed.new()
    return feed


def info(*tracks: TrackInfo, source: int = 7, left: bool = False) -> SourceInfo:
    return SourceInfo(source=source, account="bob", left=left, tracks=list(tracks))


def back(*sources: SourceInfo) -> Reconnected:
    return Reconnected(after_s=1.0, attempts=1, sources=sources)


def test_a_segment_waits_for_picture_and_sound() -> None:
    feed = Feed().init(0, VP8).init(1, OPUS)
    feed.chunk(0, 100, key=True).chunk(0, 133)
    assert feed.new() == []
    assert feed.is_holding()
    feed.chunk(1, 90, key=True)
    assert feed.new() == [Segment({0: VP8, 1: OPUS}, 90), (0, 100), (0, 133), (1, 90)]
    assert not feed.is_holding()
    assert feed.chunk(0, 166).chunk(1, 110, key=True).new() == [(0, 166), (1, 110)]
    assert feed.end(0, 199).end(1, 130).new() == [TrackEnd(0, 199), TrackEnd(1, 130)]
    assert feed.outcome() is Outcome.ENDED


def test_a_picture_alone_begins_when_nothing_else_shows_up() -> None:
    feed = Feed().init(0, VP8).chunk(0, 100, key=True).open()
    assert feed.new() == [Segment({0: VP8}, 100), (0, 100)]
    feed.open()
    assert feed.chunk(0, 133).new() == [(0, 133)]


def test_a_track_without_a_chunk_yet_is_announced_all_the_same() -> None:
    feed = Feed().init(0, VP8).init(1, OPUS).chunk(0, 100, key=True).open()
    assert feed.new() == [Segment({0: VP8, 1: OPUS}, 100), (0, 100)]


def test_an_end_opens_what_is_held() -> None:
    feed = Feed().init(0, VP8).chunk(0, 100, key=True).end(0, 133)
    assert feed.new() == [Segment({0: VP8}, 100), (0, 100), TrackEnd(0, 133)]
    assert feed.outcome() is Outcome.ENDED


def test_too_much_to_hold_opens_too() -> None:
    feed = Feed().init(0, VP8).chunk(0, 0, bytes(MAX_HELD_BYTES), key=True)
    assert feed.new() == []
    assert len(feed.chunk(0, 33).new()) == 3


def test_who_joins_late_starts_at_a_key_and_misses_nothing() -> None:
    feed = Feed().init(0, VP8).chunk(0, 0).chunk(0, 33).chunk(0, 66, key=True).open()
    assert feed.new() == [Segment({0: VP8}, 66), (0, 66)]
    assert feed.programme.missing_frames == 0


def test_after_a_gap_it_goes_on_at_a_key() -> None:
    feed = running().lose(0, 2).chunk(0, 200).chunk(0, 233).chunk(0, 266, key=True)
    note, chunk = feed.new()
    assert note == Note("2 frames of video (track 0) did not come: going on at a keyframe")
    assert chunk == (0, 266)
    assert feed.programme.missing_frames == 4
    feed.end(0).end(1)
    assert feed.outcome() is Outcome.GAP


def test_gaps_of_others_and_of_what_has_come_do_not_count() -> None:
    feed = running()
    gap = Gap(room=ROOM, source=7, track=0, first_seq=0, last_seq=1, reason=1)
    feed.take(gap)
    for source, track in ((6, 0), (7, 9)):
        feed.take(Gap(room=ROOM, source=source, track=track, first_seq=5, last_seq=9, reason=1))
    assert feed.new() == []
    assert feed.programme.missing_frames == 0


def test_the_first_that_sends_media_is_followed() -> None:
    feed = Feed()
    feed.take(SourceJoined(room=ROOM, source=3, account="eve"))
    other = Feed(feed.programme, source=3)
    other.chunk(0, 0, b"bytes").chunk(0, 0, b"more").init(1, OPUS)
    assert other.new() == [Note("source 3 does not begin with an INIT")]
    assert feed.programme.source == 3, "another track of it is media"
    other.chunk(1, 5, key=True).open()
    assert other.new() == [Segment({1: OPUS}, 5), (1, 5)]
    assert feed.init(0, VP8).chunk(0, 100, key=True).open().new() == []


def test_an_init_that_is_none() -> None:
    feed = Feed().frame(0, b"GIF89a", Flag.INIT).frame(0, b"x", 0)
    assert feed.new() == [Note("source 7 is not media: not JSON")]
    assert feed.programme.source is None
    feed.init(1, OPUS).frame(2, b"{}", Flag.INIT).frame(2, b"{}", Flag.INIT)
    assert feed.new() == [Note("track 2 is left out: it is not media: profile is not tim.media.1")]
    feed.frame(3, b"x", 0).frame(3, b"x", 0)
    assert feed.new() == [Note("track 3 is left out: it does not begin with an INIT")]
    feed.chunk(1, 0, key=True).end(1, 20)
    assert feed.outcome() is Outcome.ENDED, "what is left out is not waited for"


def test_an_init_that_becomes_none() -> None:
    feed = running().frame(0, b"{", Flag.INIT).chunk(0, 300)
    assert feed.new() == [(0, 300)]


def test_codecs_that_the_file_cannot_hold_are_left_out() -> None:
    feed = Feed(Programme(wanted=lambda family: family is not Family.VP8))
    feed.init(0, VP8).init(1, OPUS).init(2, audio("ulaw")).init(3, audio("flac"))
    assert feed.new() == [
        Note("video (track 0) is left out: the file cannot hold vp8"),
        Note("audio (track 2) is left out: the file cannot hold ulaw"),
        Note("audio (track 3) is left out: flac without a description"),
    ]
    feed.chunk(0, 0, key=True).chunk(1, 0, key=True).lose(0, 3).open()
    assert feed.new() == [Segment({1: OPUS}, 0), (1, 0)]
    feed.end(1, 20)
    assert feed.new() == [TrackEnd(1, 20)]
    assert feed.outcome() is Outcome.ENDED


def test_when_nothing_can_be_held_it_ends_with_all_of_it() -> None:
    feed = Feed().init(0, video("what")).chunk(0, 0, key=True).end(0)
    assert feed.outcome() is Outcome.ENDED
    assert not any(isinstance(one, Segment) for one in feed.new())


def test_only_so_many_notes() -> None:
    feed = running()
    for _ in range(30):
        feed.lose(0, 1)
    assert len(feed.new()) == 8
    assert feed.programme.missing_frames == 30


def test_the_same_init_again_changes_nothing() -> None:
    feed = running().init(0, VP8).init(1, OPUS).chunk(0, 300)
    assert feed.new() == [(0, 300)]


def test_other_parameters_of_the_picture_begin_another_segment() -> None:
    feed = running()
    larger = VideoInit(codec="vp8", coded_width=1280, coded_height=720)
    feed.init(0, larger).chunk(1, 300, key=True).chunk(0, 310, key=True)
    assert feed.new() == [
        (1, 300),
        Note("the stream's parameters change: going on in another file"),
    ]
    feed.chunk(1, 305, key=True)
    assert feed.new() == [Segment({0: larger, 1: OPUS}, 305), (0, 310), (1, 305)]


def test_other_parameters_of_the_sound_wait_for_a_key_of_the_picture() -> None:
    feed = running()
    mono = AudioInit(codec="opus", sample_rate=48_000, number_of_channels=1)
    feed.init(1, mono).chunk(1, 300, key=True).chunk(0, 310).chunk(0, 400, key=True)
    note = Note("the stream's parameters change: going on in another file")
    assert feed.new() == [(0, 310), note]
    feed.chunk(1, 405, key=True)
    assert feed.new() == [Segment({0: VP8, 1: mono}, 400), (0, 400), (1, 405)]
    # Where the picture has ended there is none to wait for.
    feed.end(0, 440).init(1, OPUS).chunk(1, 500, key=True).open()
    assert feed.new() == [TrackEnd(0, 440), note, Segment({1: OPUS}, 500), (1, 500)]


def test_a_track_that_begins_later_is_in_the_next_segment() -> None:
    feed = Feed().init(0, VP8).chunk(0, 0, key=True).open()
    feed.new()
    feed.init(1, OPUS).chunk(1, 10, key=True).chunk(0, 33).end(1).chunk(0, 66, key=True)
    assert feed.new() == [(0, 33), (0, 66)], "and not at all where it has ended before"
    feed = Feed().init(0, VP8).chunk(0, 0, key=True).open().init(1, OPUS).chunk(1, 10, key=True)
    feed.new()
    feed.chunk(0, 66, key=True).chunk(1, 70, key=True)
    assert feed.new()[1:] == [Segment({0: VP8, 1: OPUS}, 66), (0, 66), (1, 70)]


def test_annex_b_is_described_by_its_first_key() -> None:
    feed = Feed().init(0, video("avc1.42c01e")).chunk(0, 0, b"\0\0\1" + IDR, key=True)
    assert feed.open().new() == [], "no parameter sets yet"
    key = b"".join(b"\0\0\1" + unit for unit in (SPS, PPS, IDR))
    feed.chunk(0, 33, key, key=True).open()
    assert feed.new() == [Segment({0: video("avc1.42c01e", AVCC)}, 33), (0, 33)]
    assert feed.chunk(0, 66, b"\0\0\1" + IDR).new() == [(0, 66)]
    other = b"".join(b"\0\0\1" + unit for unit in (SPS, PPS[:-1] + b"\x21", IDR))
    feed.chunk(0, 99, other, key=True).open()
    _, segment, chunk = feed.new()
    assert segment == Segment({0: video("avc1.42c01e", AVCC[:-1] + b"\x21")}, 99)
    assert chunk == (0, 99)


def test_a_source_that_leaves_before_its_end() -> None:
    feed = Feed().init(0, VP8).chunk(0, 0, key=True)
    feed.take(SourceLeft(room=ROOM, source=6, reason=2))
    assert feed.outcome() is None
    feed.take(SourceLeft(room=ROOM, source=7, reason=2))
    assert feed.new() == [Segment({0: VP8}, 0), (0, 0)]
    assert feed.outcome() is Outcome.CUT_OFF
    assert feed.programme.source_left
    assert feed.chunk(0, 33).new() == []


def test_a_room_that_ends() -> None:
    feed = Feed().init(0, VP8).chunk(0, 0, key=True)
    assert len(feed.programme.cut_off()) == 2
    assert feed.outcome() is Outcome.CUT_OFF
    feed = running().end(0).end(1)
    assert feed.programme.cut_off() == []
    assert feed.outcome() is Outcome.ENDED


def test_a_reconnect() -> None:
    feed = running().take(Reconnecting(ConnectionClosed()))
    feed.take(back(info(TrackInfo(track=0, state=0, last_seq=9))))
    assert feed.outcome() is None
    # Its last frames will come from the cache.
    feed.take(back(info(TrackInfo(track=0, state=ENDED | CACHED, last_seq=9))))
    assert feed.outcome() is None
    feed.take(
        back(
            info(TrackInfo(track=0, state=ENDED, last_seq=9), source=6),
            info(
                TrackInfo(track=0, state=ENDED, last_seq=9),
                TrackInfo(track=1, state=ENDED, last_seq=2),
                TrackInfo(track=9, state=ENDED, last_seq=2),
            ),
        )
    )
    # Of each track INIT and one chunk have come, and one of the rest is its END.
    assert feed.programme.missing_frames == 7
    assert feed.outcome() is Outcome.GAP
    feed = running().end(0).take(back(info(TrackInfo(track=0, state=ENDED, last_seq=2))))
    assert feed.programme.missing_frames == 0
    assert feed.take(back()).outcome() is None


@pytest.mark.parametrize(
    "source, sources, outcome",
    [
        (None, [], None),
        (None, [info()], None),
        (None, [info(TrackInfo(track=0, state=ENDED, last_seq=9))], Outcome.ENDED),
        (None, [info(TrackInfo(track=0, state=ENDED | CACHED, last_seq=9))], None),
        (
            None,
            [
                info(
                    TrackInfo(track=0, state=ENDED, last_seq=9),
                    TrackInfo(track=1, state=0, last_seq=9),
                )
            ],
            None,
        ),
        (None, [info(TrackInfo(track=0, state=0, last_seq=9), left=True)], None),
        (7, [info(TrackInfo(track=0, state=0, last_seq=9), left=True)], Outcome.CUT_OFF),
        (7, [info(source=6, left=True)], None),
    ],
)
def test_what_is_left_to_wait_for(
    source: int | None, sources: list[SourceInfo], outcome: Outcome | None
) -> None:
    programme = Programme(source)
    programme.begin(sources)
    assert programme.outcome is outcome
