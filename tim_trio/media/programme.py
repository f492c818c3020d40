"""From a room's frames and notices to what a file can hold. Pure: no I/O, no clock.

A file says at its beginning which tracks it has. So a programme follows one
source, holds what comes until it knows them, and begins another *segment*
where the tracks or their parameters change.

Source: protocol.md, sections 9 and 13, Annex A.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from typing import Final

import attrs

from tim_trio.media.codecs import (
    Converter,
    Family,
    NoConversion,
    converter_of,
    family_of,
    kind_of,
)
from tim_trio.media.matroska import can_hold
from tim_trio.media.profile import InvalidInit, MediaInit, VideoInit, parse_init
from tim_trio.net.client import Item, Reconnected, Reconnecting
from tim_trio.protocol.messages import (
    Gap,
    SourceInfo,
    SourceJoined,
    SourceLeft,
    TrackState,
)
from tim_trio.protocol.stream import StreamFrame

#: Held while a segment's tracks are not all known; past it, what is known must do.
MAX_HELD_BYTES: Final = 4 * 1024 * 1024
#: Told about one source, however many tracks of it are of no use.
_MAX_NOTES: Final = 8


class Outcome(enum.IntEnum):
    """How a watch of media ended; the exit code of `watch --media`."""

    ENDED = 0
    CUT_OFF = 3  # the room or the source went before END
    GAP = 4  # END came, but frames before it did not


@attrs.frozen
class Segment:
    """Tracks whose parameters stay as they are; the chunks follow.

    Attributes:
        tracks: by number.
        start_us: the earliest timestamp of what is known of it.
    """

    tracks: dict[int, MediaInit]
    start_us: int


@attrs.frozen(kw_only=True)
class Chunk:
    """One encoded chunk of a track of the running segment."""

    track: int
    key: bool
    timestamp_us: int
    payload: bytes


@attrs.frozen
class TrackEnd:
    """A track of the running segment has ended; its last chunk lasts until then."""

    track: int
    timestamp_us: int


@attrs.frozen
class Note:
    """Something to tell a person, in one line."""

    text: str


Output = Segment | Chunk | TrackEnd | Note


@attrs.define(eq=False)
class _Track:
    """What is known of one track of the followed source."""

    number: int
    init: MediaInit | None = None
    converter: Converter = attrs.Factory(lambda: NoConversion(None))
    #: As the segment has it, or will have it.
    known: MediaInit | None = None
    waits_for_key: bool = True
    begun: bool = False
    ended: bool = False
    #: No media, or none that the file can hold.
    left_out: bool = False
    last_seq: int = -1
    #: Its parameters differ from the running segment's.
    changed: bool = False

    @property
    def is_video(self) -> bool:
        return isinstance(self.init, VideoInit)

    @property
    def name(self) -> str:
        what = kind_of(self.init) if self.init is not None else "data"
        return f"{what} (track {self.number})"


@attrs.define(eq=False)
class Programme:
    """Follows one source: the one asked for, or the first that sends media.

    Args:
        source: what is followed; None until an INIT decides.
        wanted: which families the file can hold; None for all that we can write.

    Attributes:
        outcome: set once there will be no more.
        missing_frames: that gaps announced, or that were of no use behind one.
    """

    source: int | None = None
    wanted: Callable[[Family], bool] = lambda _family: True
    outcome: Outcome | None = None
    source_left: bool = False
    missing_frames: int = 0
    _tracks: dict[int, _Track] = attrs.Factory(dict)
    _segment: Segment | None = None
    _held: list[Chunk | TrackEnd] = attrs.Factory(list)
    _held_bytes: int = 0
    _not_media: set[int] = attrs.Factory(set)
    _notes_left: int = _MAX_NOTES

    @property
    def is_holding(self) -> bool:
        """Whether something has come that waits for the tracks to be known."""
        return bool(self._held)

    # -- what comes ------------------------------------------------------------

    def begin(self, sources: Iterable[SourceInfo]) -> None:
        """Look at what SUBSCRIBE answered: is there anything left to wait for?

        Over at once when what is asked for has ended already and nothing else
        that matches can still send.
        """
        candidates = [one for one in sources if self.source in (None, one.source)]
        if any(not one.left and _may_send(one) for one in candidates):
            return
        if any(track.ended for one in candidates for track in one.tracks):
            self.outcome = Outcome.ENDED
        elif candidates and self.source is not None:
            self.source_left = True
            self.outcome = Outcome.CUT_OFF

    def take(self, item: Item) -> list[Output]:
        """Return what an item of the subscription brings; may set `outcome`."""
        match item:
            case StreamFrame():
                return self._take_frame(item)
            case Gap():
                return self._take_gap(item)
            case Reconnected():
                return self._look_again(item.sources)
            case SourceLeft():
                if item.source == self.source and self.outcome is None:
                    self.source_left = True
                    return self.cut_off()
            case SourceJoined() | Reconnecting():
                pass
        return []

    def cut_off(self) -> list[Output]:
        """There will be no more, and no END came: return what is held."""
        if self.outcome is None:
            self.outcome = Outcome.CUT_OFF
        return self.open()

    # -- frames ----------------------------------------------------------------

    def _take_frame(self, frame: StreamFrame) -> list[Output]:
        if self.source not in (None, frame.source) or self.outcome is not None:
            return []
        outputs: list[Output] = []
        if frame.is_init:
            outputs = self._take_init(frame)
        elif frame.track not in self._tracks:
            outputs = self._leave_alone(frame, "does not begin with an INIT")
        track = self._tracks.get(frame.track)
        if track is None:
            return outputs
        track.last_seq = frame.seq
        if frame.payload and not frame.is_init:
            outputs += self._take_chunk(track, frame)
        if frame.is_end:
            outputs += self._end(track, frame.timestamp_us)
        return outputs

    def _take_init(self, frame: StreamFrame) -> list[Output]:
        try:
            init = parse_init(bytes(frame.payload))
        except InvalidInit as error:
            return self._leave_alone(frame, f"is not media: {error}")
        self.source = frame.source
        track = self._tracks.setdefault(frame.track, _Track(frame.track))
        if init == track.init:
            return []
        track.init = init
        track.waits_for_key = True
        track.left_out = False
        family = family_of(init)
        if family is None or not self.wanted(family):
            return self._leave_out(track, f"the file cannot hold {init.codec}")
        track.converter = converter_of(init)
        if isinstance(track.converter, NoConversion):
            return self._know(track, init)
        track.known = None  # until its first KEY says the rest
        return []

    def _know(self, track: _Track, init: MediaInit) -> list[Output]:
        if not can_hold(init):
            return self._leave_out(track, f"{init.codec} without a description")
        track.known = init
        running = self._segment.tracks if self._segment is not None else None
        track.changed = running is not None and running.get(track.number) != init
        return []

    def _leave_out(self, track: _Track, why: str) -> list[Output]:
        track.known = None
        track.left_out = True
        return self._note(f"{track.name} is left out: {why}")

    def _take_chunk(self, track: _Track, frame: StreamFrame) -> list[Output]:
        key = frame.is_key
        if track.waits_for_key and not key:
            # What comes before the first KEY of all is not ours to miss.
            self.missing_frames += track.begun
            return []
        payload = track.converter.convert(bytes(frame.payload))
        description = track.converter.description
        outputs: list[Output] = []
        if track.init is not None and not isinstance(track.converter, NoConversion):
            full = attrs.evolve(track.init, description=description)
            if description is not None and full != track.known:
                outputs = self._know(track, full)
        if track.known is None or not payload:
            return outputs
        track.waits_for_key = False
        track.begun = True
        chunk = Chunk(track=track.number, key=key, timestamp_us=frame.timestamp_us, payload=payload)
        if self._segment is not None:
            if not self._is_boundary(track, key):
                return [*outputs, *([] if track.changed else [chunk])]
            outputs += self._note("the stream's parameters change: going on in another file")
            self._segment = None
        self._held.append(chunk)
        self._held_bytes += len(payload)
        if self._is_complete() or self._held_bytes > MAX_HELD_BYTES:
            outputs += self.open()
        return outputs

    def _end(self, track: _Track, timestamp_us: int) -> list[Output]:
        track.ended = True
        end = TrackEnd(track.number, timestamp_us)
        if self._segment is None:
            if track.begun:
                self._held.append(end)
            return self._when_ended()
        return [*([] if track.changed or not track.begun else [end]), *self._when_ended()]

    def _is_boundary(self, track: _Track, key: bool) -> bool:
        """Say whether another segment begins here: at a KEY of the picture, if there is one."""
        if not key or not any(one.changed for one in self._live()):
            return False
        return track.is_video or not any(one.is_video for one in self._live())

    def _live(self) -> list[_Track]:
        return [one for one in self._tracks.values() if one.known is not None and not one.ended]

    def _is_complete(self) -> bool:
        """Say whether nothing is missing for a segment: picture and sound, and of each a chunk."""
        begun = {one.track for one in self._held}
        live = self._live()
        return {one.is_video for one in live} == {True, False} and all(
            one.number in begun for one in live
        )

    def open(self) -> list[Output]:
        """Begin the segment with what is known, and return it with what is held."""
        if not self._held:
            return []
        held, self._held, self._held_bytes = self._held, [], 0
        begun = {one.track for one in held}
        tracks = {
            one.number: one.known
            for one in self._tracks.values()
            if one.known is not None and (one.number in begun or not one.ended)
        }
        for one in self._tracks.values():
            one.changed = False
        start_us = min(one.timestamp_us for one in held if isinstance(one, Chunk))
        self._segment = Segment(tracks, start_us)
        return [self._segment, *held]

    # -- what did not come -------------------------------------------------------

    def _take_gap(self, gap: Gap) -> list[Output]:
        track = self._tracks.get(gap.track)
        if gap.source != self.source or track is None or track.known is None:
            return []
        first = max(gap.first_seq, track.last_seq + 1)
        count = gap.last_seq - first + 1
        if count <= 0:
            return []
        track.last_seq = gap.last_seq
        track.waits_for_key = True
        self.missing_frames += count
        return self._note(f"{count} frames of {track.name} did not come: going on at a keyframe")

    def _look_again(self, sources: Iterable[SourceInfo]) -> list[Output]:
        """After a reconnect: which of the followed tracks have ended meanwhile?"""
        ours = [one for one in sources if one.source == self.source]
        for info in (track for one in ours for track in one.tracks):
            track = self._tracks.get(info.track)
            if track is None or track.ended or not info.ended:
                continue
            if not info.state & TrackState.CACHED_GROUP:
                # Of what is missing END is one, and that is no picture.
                self.missing_frames += max(0, info.last_seq - track.last_seq - 1)
                track.last_seq = max(track.last_seq, info.last_seq)
                track.ended = True
        return self._when_ended()

    def _when_ended(self) -> list[Output]:
        ours = [one for one in self._tracks.values() if not one.left_out]
        if not all(one.ended for one in ours or self._tracks.values()):
            return []
        self.outcome = Outcome.GAP if self.missing_frames else Outcome.ENDED
        return self.open()

    def _leave_alone(self, frame: StreamFrame, why: str) -> list[Output]:
        if not self._tracks:
            if frame.source in self._not_media:
                return []
            self._not_media.add(frame.source)
            return self._note(f"source {frame.source} {why}")
        if frame.track not in self._tracks:
            # Known, and of no use: not to be told of again.
            self._tracks[frame.track] = _Track(frame.track, left_out=True)
            return self._note(f"track {frame.track} is left out: it {why}")
        return []

    def _note(self, text: str) -> list[Output]:
        if not self._notes_left:
            return []
        self._notes_left -= 1
        return [Note(text)]


def _may_send(source: SourceInfo) -> bool:
    return not source.tracks or any(
        not track.ended or track.state & TrackState.CACHED_GROUP for track in source.tracks
    )
