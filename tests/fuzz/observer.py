"""What a client may rely on, checked against what a server has sent it.

Source: protocol.md, sections 8, 9 and 15.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping

import attrs

from tests.protocol.builders import END, INIT, KEY, frames_of_run
from tim_trio.limits import KIB, MIB
from tim_trio.protocol import messages
from tim_trio.protocol.decoder import ControlFrame, Decoder
from tim_trio.protocol.layout import ANSWER_BIT
from tim_trio.protocol.messages import decode
from tim_trio.protocol.runs import Run


@attrs.define
class SeenTrack:
    """What a subscriber has seen of one track.

    Attributes:
        account_for: the next seq that must come or be announced lost, once
            ``started``; before that, the least that may come.
        must_be_key: no frame but a KEY (or END, or INIT) may come next.
        init: seq of the newest INIT, -1 for none.
        ended: END has come.
        over: END had come before, and only INITs may be sent.
    """

    last: int = -1
    account_for: int = 0
    started: bool = False
    keyed: bool = False
    must_be_key: bool = False
    init: int = -1
    ended: bool = False
    over: bool = False


@attrs.define
class TrueTrack:
    """What the relay accepted of one track, to compare with what subscribers saw."""

    next_seq: int = 0
    inits: set[int] = attrs.field(factory=set)
    ended: bool = False


class Observer:
    """Reads what one peer was sent, as a client that trusts nothing."""

    def __init__(
        self, pushed: set[bytes], tracks: Mapping[tuple[int, int], dict[int, TrueTrack]]
    ) -> None:
        self._pushed = pushed
        self._tracks = tracks
        self.answers: Counter[tuple[int, int]] = Counter()
        #: For requests whose answers do not say what they are about.
        self.subscribes: deque[messages.Subscribe | None] = deque()
        self.unsubscribes: deque[messages.Unsubscribe | None] = deque()
        self._rooms: dict[int, dict[int, dict[int, SeenTrack]]] = {}
        self._reliable: set[int] = set()
        self._closed = False

    def read(self, data: bytes) -> int:
        """Check everything; return how many bytes of half a frame are left."""
        decoder = Decoder(max_frame_bytes=MIB, max_init_bytes=KIB)
        for item in decoder.feed(data):
            assert not self._closed, "nothing follows CLOSE"
            if isinstance(item, Run):
                self._run(item)
            else:
                self._control(item)
        return decoder.buffered_bytes

    def _run(self, run: Run) -> None:
        sources = self._rooms[run.room]
        track = sources[run.source].setdefault(run.track, SeenTrack())
        true = self._tracks[run.room, run.source][run.track]
        for seq, frame in enumerate(frames_of_run(run), run.first_seq):
            assert frame in self._pushed, "frames arrive as they were pushed"
            flags = frame[5]
            assert seq > track.last, "seq rises and never repeats"
            assert not track.ended, "nothing follows END"
            assert flags & INIT or not track.over, "nothing but an INIT follows an old END"
            if flags & INIT and seq < track.account_for:
                pass  # an INIT may come from within a gap
            else:
                assert seq == track.account_for or (not track.started and seq > track.account_for)
                track.account_for = seq + 1
            if flags & INIT:
                track.init = seq
            elif flags & KEY:
                before = [init for init in true.inits if init < seq]
                assert track.init == max(before, default=-1), "a KEY stands behind its INIT"
            if not flags & INIT:
                assert not track.must_be_key or flags & (KEY | END)
                track.started = True
            track.keyed = track.keyed or bool(flags & KEY)
            if flags & KEY or not flags & INIT:
                track.must_be_key = False
            track.last = seq
            track.ended = bool(flags & END)

    def _control(self, frame: ControlFrame) -> None:
        message = decode(frame.type, frame.fields)
        if frame.type & ANSWER_BIT:
            number = frame.type ^ ANSWER_BIT
            if isinstance(message, messages.Error):
                number = message.request_type
            self.answers[number, frame.request_id] += 1
        match message:
            case messages.SubscribeAnswer():
                request = self.subscribes.popleft()
                assert request is not None and request.room == message.room
                assert message.room not in self._rooms
                self._subscribed(message, request.start)
            case messages.UnsubscribeAnswer():
                unsubscribe = self.unsubscribes.popleft()
                assert unsubscribe is not None
                del self._rooms[unsubscribe.room]
            case messages.Error(request_type=0x14):
                self.subscribes.popleft()
            case messages.Error(request_type=0x15):
                self.unsubscribes.popleft()
            case messages.RoomClosed():
                for source in self._rooms.pop(message.room, {}).items():
                    self._source_over(message.room, *source)
            case messages.SourceJoined():
                sources = self._rooms[message.room]
                assert message.source not in sources
                sources[message.source] = {}
            case messages.SourceLeft():
                tracks = self._rooms[message.room].pop(message.source)
                self._source_over(message.room, message.source, tracks)
            case messages.Gap():
                self._gap(message)
            case messages.Close():
                self._closed = True

    def _subscribed(self, answer: messages.SubscribeAnswer, start: messages.StartFrom) -> None:
        state = messages.TrackState
        is_live = answer.mode is messages.RoomMode.LIVE
        waits = is_live and start is messages.StartFrom.GROUP
        self._rooms[answer.room] = {
            source.source: {
                info.track: SeenTrack(
                    keyed=bool(info.state & state.KEYED),
                    must_be_key=waits and bool(info.state & state.KEYED),
                    over=is_live and info.ended and not info.state & state.CACHED_GROUP,
                )
                for info in source.tracks
            }
            for source in answer.sources
            if not source.left
        }
        if not is_live:
            self._reliable.add(answer.room)

    def _source_over(self, room: int, source: int, tracks: dict[int, SeenTrack]) -> None:
        for number, true in self._tracks[room, source].items():
            seen = tracks.get(number, SeenTrack())
            assert not seen.started or seen.account_for == true.next_seq, "losses are announced"
            if room not in self._reliable:
                assert seen.ended or seen.over or not true.ended, "END reaches everyone"

    def _gap(self, gap: messages.Gap) -> None:
        sources = self._rooms[gap.room]
        track = sources[gap.source].setdefault(gap.track, SeenTrack())
        assert gap.first_seq <= gap.last_seq
        if gap.room in self._reliable:
            assert gap.reason != messages.GapReason.LAGGED, "a reliable room drops nothing"
        if track.started:
            assert gap.first_seq == track.account_for, "a lost seq is in exactly one GAP"
        track.account_for = max(track.account_for, gap.last_seq + 1)
        if gap.reason == messages.GapReason.LAGGED and track.keyed:
            track.must_be_key = True
