"""One subscriber of one room, and what happens when it is slow.

The whole slow-consumer story of live rooms: a track that does not fit is
*lagging* for this subscriber alone until a KEY fits; then one GAP, a changed
INIT, and the stream from the KEY. INIT, END and events are never lost.

Source: protocol.md, section 9; docs/backpressure.md.
"""

from __future__ import annotations

import attrs

from tim_trio.core.form import Buffer, Form
from tim_trio.core.node import Node
from tim_trio.core.outbox import Backlog, Ledger, Outbox
from tim_trio.core.sources import Source, Track
from tim_trio.protocol.messages import Gap, GapReason, encode
from tim_trio.protocol.runs import Run


@attrs.define(eq=False)
class Lag:
    """Why a track's frames are not delivered now.

    Attributes:
        lost_from: first ``seq`` not delivered; None for a newcomer that waits
            for its first KEY, who misses nothing.
        init: the INIT the subscriber has.
    """

    lost_from: int | None
    init: bytes | None


@attrs.define(eq=False)
class Tally:
    """What the subscriptions of one room have come to, in all.

    Attributes:
        lagging: pairs of subscription and track that lag now.
        gaps: announced, times the subscribers they were announced to.
        lost: frames that lagging subscribers did not get.
    """

    lagging: int = 0
    gaps: int = 0
    lost: int = 0


@attrs.define(eq=False)
class Subscription:
    """What is counted here is what did *not* go by the fan-out's direct way,
    which counts nothing: what a subscriber has got is the room's figures less
    those at its beginning and what was left out (`core/figures.py`).

    Attributes:
        credit: bytes the subscriber takes per source at first, in a reliable room.
        lagging: tracks that are left out now. A source's tracks are its own
            objects, so the track alone is the key.
        form: how its frames look on the wire; the connection's own, as a rule.
        tally: the room's.
        number: of this node's subscriptions so far.
        base_frames, base_bytes: what had come to the room before.
        left_out_frames, left_out_bytes: not delivered, to a newcomer that waits
            for a KEY as well.
        lost: of those, the frames of tracks that lagged.
    """

    room: int
    outbox: Outbox
    _node: Node
    credit: int = 0
    tally: Tally = attrs.field(factory=Tally, kw_only=True)
    began_at: float = attrs.field(default=0.0, kw_only=True)
    base_frames: int = attrs.field(default=0, kw_only=True)
    base_bytes: int = attrs.field(default=0, kw_only=True)
    number: int = attrs.field(init=False)
    left_out_frames: int = 0
    left_out_bytes: int = 0
    lost: int = 0
    gaps: int = 0
    backlog: Backlog = attrs.field(factory=Backlog)
    lagging: dict[Track, Lag] = attrs.field(factory=dict)
    form: Form | None = attrs.field(
        kw_only=True,
        default=attrs.Factory(lambda self: self.outbox.form, takes_self=True),
    )

    def __attrs_post_init__(self) -> None:
        self._node.subscribed += 1
        self.number = self._node.subscribed

    def takes_unseen(self, track: Track) -> bool:
        """Say whether a frame may be moved to it now that is still in the kernel."""
        outbox = self.outbox
        return (
            outbox.sink is not None
            and self.form is None
            and not outbox.pending_bytes
            and track not in self.lagging
        )

    def put(self, data: Buffer, ledger: Ledger, now: float) -> None:
        """Send frames, in this subscription's form, as `Outbox.put` does."""
        data = self._encode(data)
        if data:
            self.outbox.put_encoded(data, ledger, now)

    def _put_control(self, data: Buffer, now: float) -> None:
        data = self._encode(data)
        if data:
            self.outbox.put_control_encoded(data, now)

    def _encode(self, data: Buffer) -> Buffer:
        return data if self.form is None else self.form.encode(data)

    def wait_for_key(self, track: Track) -> None:
        """Start a newcomer, who has the track's newest INIT, at its next KEY.

        In a reliable room nothing else ever lags.
        """
        self.lagging[track] = Lag(None, track.init)

    def offer(self, run: Run, track: Track, now: float) -> None:
        """Deliver a run as far as the subscriber keeps up. Never blocks.

        For everyone the direct write of the fan-out is not for: something is
        pending, or a track lags. ``track`` is as it was before ``run``.
        """
        lag = self.lagging.get(track)
        if lag is None:
            data = self._encode(run.data)
            if not data:
                return
            if self.outbox.has_room(len(data), self.backlog, now):
                self.outbox.put_encoded(data, self.backlog, now)
                return
            lag = self.lagging[track] = Lag(run.first_seq, track.init)
            self._node.lagging += 1
            self.tally.lagging += 1
            if run.first_key == 0 and run.last_key == 0:
                # Its only KEY is where the lag begins: no way back in this run.
                self._force_end(run, track, lag, now)
                return
        if run.last_key >= 0:
            if self._resume(run, track, lag, run.first_key, run.first_key_seq, now):
                return
            if run.last_key > run.first_key and self._resume(
                run, track, lag, run.last_key, run.last_key_seq, now
            ):
                return
        elif not track.keyed and self._resume(run, track, lag, 0, run.first_seq, now):
            return
        self._force_end(run, track, lag, now)

    def offer_first_key(self, run: Run, track: Track, ledger: Ledger, now: float) -> int:
        """Deliver what a newcomer to a reliable room, who waits for a KEY, gets of a run.

        That is an INIT at once, and all from the first KEY on, or END. Returns
        the bytes left out.
        """
        if run.last_key >= 0:
            start, before = run.first_key, run.first_key_seq - run.first_seq
        elif run.end_offset >= 0:
            start, before = run.end_offset, run.frames - 1
        else:
            start, before = len(run.data), run.frames
        lag = self.lagging[track]
        left_out = start
        if start and run.init_bytes:
            self.put(run.data[: run.init_bytes], ledger, now)
            left_out -= run.init_bytes
            before -= 1
        self._leave_out(lag, before, left_out)
        if start < len(run.data):
            self._forget(track, lag)
            self.put(run.data[start:], ledger, now)
        return left_out

    def _resume(self, run: Run, track: Track, lag: Lag, offset: int, seq: int, now: float) -> bool:
        """Continue with the run's bytes from ``offset`` on, if there is room.

        Half the bound must be free: whoever comes back with no more than the
        bytes of one run would fall out again at the next.
        """
        data = run.data[offset:]
        outbox = self.outbox
        if outbox.pending_bytes:
            half = self._node.limits.backlog_bytes // 2
            if self.backlog.pending_bytes and self.backlog.pending_bytes + len(data) > half:
                return False
        encoded = self._encode(data)
        if outbox.pending_bytes and not outbox.has_room(len(encoded), self.backlog, now):
            return False
        self._leave_out(lag, seq - run.first_seq, offset)
        self._end_lag(run, track, lag, offset, seq, now)
        if encoded:
            outbox.put_encoded(encoded, self.backlog, now)
        return True

    def _force_end(self, run: Run, track: Track, lag: Lag, now: float) -> None:
        """Deliver a run's END, if it has one, from the reserved room."""
        if run.end_offset < 0:
            self._leave_out(lag, run.frames, len(run.data))
        else:
            self._leave_out(lag, run.frames - 1, run.end_offset)
            self._end_lag(run, track, lag, run.end_offset, run.last_seq, now)
            self._put_control(run.data[run.end_offset :], now)

    def _leave_out(self, lag: Lag, frames: int, size: int) -> None:
        self.left_out_frames += frames
        self.left_out_bytes += size
        if lag.lost_from is not None:
            self.lost += frames
            self.tally.lost += frames
            self._node.lost += frames
            self._node.lost_bytes += size

    def _end_lag(self, run: Run, track: Track, lag: Lag, offset: int, seq: int, now: float) -> None:
        """Announce what was lost before ``seq`` and renew the INIT if it changed."""
        self._announce(run.room, run.source, track, lag, seq - 1, now)
        if offset == 0 and run.init_bytes:
            pass  # the INIT is the first frame of what follows
        elif run.init_bytes:
            self._put_control(run.data[: run.init_bytes], now)
        elif track.init is not None and track.init is not lag.init:
            self._put_control(track.init, now)
        self._forget(track, lag)

    def _announce(
        self, room: int, source: int, track: Track, lag: Lag, last_seq: int, now: float
    ) -> None:
        if lag.lost_from is None or lag.lost_from > last_seq:
            return
        self.count_gap()
        gap = Gap(
            room=room,
            source=source,
            track=track.number,
            first_seq=lag.lost_from,
            last_seq=last_seq,
            reason=GapReason.LAGGED,
        )
        self._put_control(encode(gap), now)

    def _forget(self, track: Track, lag: Lag) -> None:
        del self.lagging[track]
        if lag.lost_from is not None:
            self._node.lagging -= 1
            self.tally.lagging -= 1

    def count_gap(self) -> None:
        """A GAP is on its way to the subscriber."""
        self.gaps += 1
        self.tally.gaps += 1
        self._node.gaps += 1

    def source_ends(self, source: Source, now: float) -> None:
        """Announce what was lost of a source from which nothing more will come."""
        for track in source.tracks.values():
            lag = self.lagging.get(track)
            if lag is not None:
                self._announce(self.room, source.number, track, lag, track.next_seq - 1, now)
                self._forget(track, lag)

    def discard(self) -> None:
        """The subscription is over; nothing is announced."""
        for track, lag in list(self.lagging.items()):
            self._forget(track, lag)
