"""Which frames `watch` writes, and what its end means. Pure: no I/O.

Source: protocol.md, sections 9 and 13.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

import attrs

from tim_trio.net.client import Item, Reconnected, Reconnecting
from tim_trio.protocol.messages import (
    Gap,
    RoomMode,
    SourceInfo,
    SourceJoined,
    SourceLeft,
    TrackInfo,
    TrackState,
)
from tim_trio.protocol.stream import StreamFrame


class Outcome(enum.IntEnum):
    """How a watch ended; the exit code of `watch`."""

    ENDED = 0
    CUT_OFF = 3  # the room or the source went before END
    GAP = 4  # END came, but frames before it did not
    MISSED_START = 5  # a reliable stream did not begin with its first frame


@attrs.define(eq=False)
class Selection:
    """Follows one source and one track: those asked for, or the first that send.

    Attributes:
        source, track: what is followed, None until a frame decides.
        missing_frames: that gaps on this track announced.
        outcome: set once the watch is over.
        source_left: the followed source has, before its END.
    """

    mode: RoomMode
    source: int | None = None
    track: int | None = None
    missing_frames: int = 0
    outcome: Outcome | None = None
    source_left: bool = False
    _begun: bool = False
    #: END came while the connection was away; the Gap that says so is next.
    _end_missed: bool = False

    @property
    def over(self) -> bool:
        return self.outcome is not None

    def begin(self, sources: Iterable[SourceInfo]) -> None:
        """Look at what SUBSCRIBE answered: is there anything left to wait for?

        Over at once when what is asked for has sent its END already and
        nothing else that matches can still send.
        """
        candidates = [one for one in sources if self.source in (None, one.source)]
        if any(self._may_send(one) for one in candidates):
            return
        if any(track.ended for one in candidates for track in self._tracks(one)):
            self.outcome = Outcome.ENDED
        elif candidates and self.source is not None:
            self.source_left = True
            self.outcome = Outcome.CUT_OFF

    def take(self, item: Item) -> bytes | None:
        """Return the payload to write, None for none; may set `outcome`."""
        match item:
            case StreamFrame():
                return self._take_frame(item)
            case Gap():
                if (item.source, item.track) == (self.source, self.track):
                    self.missing_frames += item.last_seq - item.first_seq + 1
                    if self._end_missed:
                        self.outcome = Outcome.GAP
            case Reconnected():
                self._look_again(item.sources)
            case Reconnecting():
                pass
            case SourceLeft():
                if item.source == self.source:
                    self.source_left = True
                    self.outcome = Outcome.CUT_OFF
            case SourceJoined():
                pass  # whoever sends first is followed, not whoever came first
        return None

    def _look_again(self, sources: Iterable[SourceInfo]) -> None:
        """After a reconnect: has what is followed ended meanwhile?"""
        if not self._begun:
            self.begin(sources)
            if self.outcome is Outcome.ENDED:  # not before we came: while we were away
                self.outcome = Outcome.GAP
                self.missing_frames = sum(
                    track.last_seq + 1
                    for one in sources
                    if self.source in (None, one.source)
                    for track in self._tracks(one)
                )
            return
        self._end_missed = any(
            track.ended and not track.state & TrackState.CACHED_GROUP
            for one in sources
            if one.source == self.source
            for track in self._tracks(one)
        )

    def _take_frame(self, frame: StreamFrame) -> bytes | None:
        if self.source not in (None, frame.source) or self.track not in (None, frame.track):
            return None
        self.source, self.track = frame.source, frame.track
        if not self._begun and self.mode is RoomMode.RELIABLE and frame.seq != 0:
            self.outcome = Outcome.MISSED_START
            return None
        self._begun = True
        if frame.is_end:
            self.outcome = Outcome.GAP if self.missing_frames else Outcome.ENDED
        return frame.payload

    def _may_send(self, source: SourceInfo) -> bool:
        if source.left:
            return False
        tracks = self._tracks(source)
        return not tracks or any(
            not track.ended or track.state & TrackState.CACHED_GROUP for track in tracks
        )

    def _tracks(self, source: SourceInfo) -> list[TrackInfo]:
        return [track for track in source.tracks if self.track in (None, track.track)]
