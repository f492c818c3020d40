"""What a subscription has seen of each track, so that a second connection repeats nothing.

Pure: no I/O. While nothing has been resumed it only takes notes, and all that
comes is passed on as it came: what the server sends is in order by itself.

Source: protocol.md, section 9, "What a receiver may rely on".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

import attrs

from tim_trio.net.client.notices import WHILE_AWAY, Notice
from tim_trio.protocol.layout import LENGTH_BYTES, STREAM_HEADER
from tim_trio.protocol.messages import Gap, SourceInfo, SourceJoined, SourceLeft, TrackState
from tim_trio.protocol.runs import Run

#: Sources that have left and are still recognised in what a second connection repeats.
_LEFT_KEPT: Final = 64
_SEQ_FIELD: Final = 7


@attrs.define(eq=False)
class _Track:
    """Attributes:
    next_seq: follows what was delivered or announced as missing.
    last_init: the newest INIT delivered, -1 for none.
    known_seq: the last one the server had when the subscription was resumed.
    """

    next_seq: int
    last_init: int = -1
    known_seq: int = -1


@attrs.define(eq=False)
class Seen:
    """Attributes:
    present: sources that have not left.
    """

    room: int
    present: set[int] = attrs.Factory(set)
    _tracks: dict[tuple[int, int], _Track] = attrs.Factory(dict)
    _left: list[int] = attrs.Factory(list)
    _resumed: bool = False

    def begin(self, sources: Iterable[SourceInfo]) -> None:
        """Note who is there at the start."""
        self.present.update(source.source for source in sources if not source.left)

    def resume(
        self, sources: Iterable[SourceInfo], known_then: Collection[int] | None = None
    ) -> list[Notice]:
        """Compare with what another connection's answer lists; return what to tell.

        Args:
            known_then: the sources known when the answer came; by default
                those known now.
        """
        self._resumed = True
        known = set(self.present if known_then is None else known_then)
        notices: list[Notice] = []
        for info in sources:
            tracks = {track.track: track for track in info.tracks}
            for (source, number), track in self._tracks.items():
                if source != info.source or number not in tracks:
                    continue
                found = tracks[number]
                track.known_seq = found.last_seq
                over = info.left or (found.ended and not found.state & TrackState.CACHED_GROUP)
                if over and track.next_seq <= found.last_seq:
                    notices.append(self._missed(source, number, track, found.last_seq))
            if info.left:
                if info.source in self.present:
                    notices.append(self._leaves(info.source))
            elif info.source not in self.present and info.source not in self._left:
                self.present.add(info.source)
                notices.append(
                    SourceJoined(room=self.room, source=info.source, account=info.account)
                )
            known.discard(info.source)
        notices += [self._leaves(source) for source in sorted(known & self.present)]
        return notices

    def take(self, item: Run | Notice) -> Iterable[Run | Notice]:
        """Return what to pass on for something that came."""
        if isinstance(item, Run):
            return self._take_run(item)
        match item:
            case Gap():
                return self._take_gap(item)
            case SourceJoined():
                if item.source in self.present and self._resumed:
                    return ()
                self.present.add(item.source)
            case SourceLeft():
                if item.source not in self.present and self._resumed:
                    return ()
                missed = self.close(item.source)
                self._leaves(item.source)
                return (*missed, item)
            case _:
                pass
        return (item,)

    def close(self, source: int | None = None) -> list[Notice]:
        """Return what is missing of a source, or of all, from which nothing more will come."""
        return [
            self._missed(number, track_number, track, track.known_seq)
            for (number, track_number), track in self._tracks.items()
            if source in (None, number) and track.next_seq <= track.known_seq
        ]

    def _take_run(self, run: Run) -> Iterable[Run | Notice]:
        key = run.source, run.track
        track = self._tracks.get(key)
        first = run.first_seq
        if track is None:
            track = self._tracks[key] = _Track(first)
        elif first != track.next_seq and self._resumed:
            return self._take_out_of_turn(run, track)
        if run.init_bytes:
            track.last_init = max(track.last_init, first)
        track.next_seq = max(track.next_seq, run.last_seq + 1)
        return (run,)

    def _take_out_of_turn(self, run: Run, track: _Track) -> Iterable[Run | Notice]:
        pieces: list[Run | Notice] = []
        first = run.first_seq
        if first > track.next_seq:
            pieces.append(self._missed(run.source, run.track, track, first - 1))
        is_new_init = bool(run.init_bytes) and first > track.last_init
        if is_new_init:
            track.last_init = first
            if first < track.next_seq:
                # Inside a gap that was announced: an INIT may come after it.
                pieces.append(_cut(run, first, first))
        if run.last_seq >= track.next_seq:
            start = max(first, track.next_seq)
            pieces.append(run if start == first else _cut(run, start, run.last_seq))
            track.next_seq = run.last_seq + 1
        return pieces

    def _take_gap(self, gap: Gap) -> Iterable[Notice]:
        track = self._tracks.get((gap.source, gap.track))
        if track is None:
            return (gap,)
        next_seq = track.next_seq
        track.next_seq = max(next_seq, gap.last_seq + 1)
        if not self._resumed or gap.first_seq == next_seq:
            return (gap,)
        if gap.last_seq < next_seq:
            return ()
        # One notice for all that is missing, whoever lost the first part.
        reason = gap.reason if gap.first_seq < next_seq else WHILE_AWAY
        return (attrs.evolve(gap, first_seq=next_seq, reason=reason),)

    def _missed(self, source: int, number: int, track: _Track, last_seq: int) -> Gap:
        gap = Gap(
            room=self.room,
            source=source,
            track=number,
            first_seq=track.next_seq,
            last_seq=last_seq,
            reason=WHILE_AWAY,
        )
        track.next_seq = last_seq + 1
        return gap

    def _leaves(self, source: int) -> SourceLeft:
        self.present.discard(source)
        self._left.append(source)
        if len(self._left) > _LEFT_KEPT:
            gone = self._left.pop(0)
            for key in [key for key in self._tracks if key[0] == gone]:
                del self._tracks[key]
        return SourceLeft(room=self.room, source=source, reason=WHILE_AWAY)


def _cut(run: Run, first_seq: int, last_seq: int) -> Run:
    """Return the part of a run between two of its numbers, both included.

    The offsets of KEY and END are not kept: a client does not look at them.
    """
    offset = start = 0
    while offset < len(run.data):
        fields = STREAM_HEADER.unpack_from(run.data, offset)
        if fields[_SEQ_FIELD] == first_seq:
            start = offset
        offset += LENGTH_BYTES + fields[0]
        if fields[_SEQ_FIELD] == last_seq:
            break
    return Run(
        run.room,
        run.source,
        run.track,
        first_seq,
        last_seq,
        -1,
        0,
        -1,
        0,
        run.init_bytes if first_seq == run.first_seq else 0,
        -1,
        run.data[start:offset],
    )
