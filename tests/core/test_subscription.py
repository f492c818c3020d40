"""When a track lags for a subscriber, what it is told, and where it goes on.

The subscriber's wire takes nothing until a test says so; what is waiting is
bounded at 4 KiB for the subscription.
"""

import pytest

from tests.core.builders import (
    END,
    INIT,
    KEY,
    LIMITS,
    ROOM,
    TOKEN,
    Brackets,
    Peer,
    TrackWriter,
    fill,
    make_peer,
    of_kind,
    seqs,
)
from tim_trio.core.cache import CacheBudget
from tim_trio.core.form import Buffer
from tim_trio.core.node import Node
from tim_trio.core.sources import Source, Track
from tim_trio.core.subscription import Subscription
from tim_trio.protocol.messages import Gap, GapReason, encode, type_of
from tim_trio.protocol.runs import Run
from tim_trio.protocol.stream import StreamFrame

FRAME = 1000


class Listener:
    """A subscription and the tracks it hears, followed as a room does it."""

    def __init__(self, *, budget: int | None = 0) -> None:
        self.node = Node(LIMITS)
        self.peer: Peer = make_peer(self.node, budget=budget)
        self.source = Source(1, "alice", TOKEN, None)
        self.subscription = Subscription(ROOM, self.peer.outbox, self.node)
        self._budget = CacheBudget(self.node)

    def track(self, number: int = 0) -> Track:
        return self.source.tracks.get(number) or self.source.new_track(number, self._budget)

    def hear(self, run: Run, now: float = 0.0) -> None:
        """Offer a run, then note it in its track."""
        track = self.track(run.track)
        self.subscription.offer(run, track, now)
        track.next_seq = run.last_seq + 1
        if run.init_bytes:
            track.init = run.data[: run.init_bytes]
        track.keyed |= run.last_key >= 0

    def lags(self) -> bool:
        return self.track() in self.subscription.lagging

    def drain(self) -> list[object]:
        self.peer.drain()
        return self.peer.new()


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def writer() -> TrackWriter:
    return TrackWriter()


def lag(listener: Listener, writer: TrackWriter, *flags: int) -> None:
    """Send a KEY and then four large frames, of which the last does not fit; drain the rest."""
    listener.hear(writer.run(KEY, size=FRAME))
    for _ in range(4):
        listener.hear(writer.run(0, size=FRAME))
    assert listener.lags()
    assert seqs(listener.drain()) == [0, 1, 2, 3]


def gap(first_seq: int, last_seq: int, track: int = 0) -> Gap:
    return Gap(
        room=ROOM,
        source=1,
        track=track,
        first_seq=first_seq,
        last_seq=last_seq,
        reason=GapReason.LAGGED,
    )


def test_who_keeps_up_gets_everything(writer: TrackWriter) -> None:
    listener = Listener(budget=None)
    for flags in (INIT, KEY, 0, END):
        listener.hear(writer.run(flags))
    assert seqs(listener.peer.new()) == [0, 1, 2, 3]
    assert listener.node.lagging == listener.node.gaps == 0


def test_lag_begins_with_the_first_run_that_does_not_fit(
    listener: Listener, writer: TrackWriter
) -> None:
    listener.hear(writer.run(KEY, size=FRAME))
    for _ in range(3):
        listener.hear(writer.run(0, size=FRAME))
    assert not listener.lags()
    listener.hear(writer.run(0, size=FRAME))
    assert listener.lags()
    assert (listener.node.lagging, listener.node.gaps) == (1, 0)


def test_lag_begins_when_the_oldest_byte_is_too_old(
    listener: Listener, writer: TrackWriter
) -> None:
    listener.hear(writer.run(KEY), now=5.0)
    listener.hear(writer.run(0), now=6.0)
    assert not listener.lags()
    listener.hear(writer.run(0), now=6.01)
    assert listener.lags()


def test_frames_without_key_stay_out_even_when_all_is_drained(
    listener: Listener, writer: TrackWriter
) -> None:
    lag(listener, writer)
    listener.hear(writer.run(0, 0))
    assert listener.drain() == []
    assert listener.lags()


def test_lag_ends_at_a_key_with_one_gap(listener: Listener, writer: TrackWriter) -> None:
    lag(listener, writer)
    listener.hear(writer.run(0))
    listener.hear(writer.run(0, KEY, 0))
    received = listener.drain()
    assert received[0] == gap(4, 6)
    assert seqs(received[1:]) == [7, 8]
    assert (listener.node.lagging, listener.node.gaps) == (0, 1)
    listener.hear(writer.run(0))
    assert seqs(listener.drain()) == [9]


def test_a_key_that_does_not_fit_leaves_it_lagging(listener: Listener, writer: TrackWriter) -> None:
    lag(listener, writer)
    fill(listener.peer, LIMITS.connection_backlog_bytes)
    listener.hear(writer.run(KEY, 0))
    assert listener.lags()
    listener.drain()
    listener.hear(writer.run(KEY))
    received = listener.drain()
    assert received[0] == gap(4, 6)
    assert seqs(received) == [7]


def test_half_the_bound_must_be_free_to_come_back(listener: Listener, writer: TrackWriter) -> None:
    lag(listener, writer)
    listener.peer.outbox.queue(
        TrackWriter(source=0).run(0, size=LIMITS.backlog_bytes // 2 - FRAME + 1).data,
        listener.subscription.backlog,
        0.0,
    )
    listener.hear(writer.run(KEY, size=FRAME))
    assert listener.lags()
    listener.hear(writer.run(KEY, size=FRAME - 1))
    assert not listener.lags()


def test_of_several_keys_the_first_that_fits(listener: Listener, writer: TrackWriter) -> None:
    lag(listener, writer)
    fill(listener.peer, 100)
    listener.hear(writer.run(KEY, 0, KEY, 0, KEY, size=200))
    received = listener.drain()
    assert received[0] == gap(4, 4)
    assert seqs(received) == [5, 6, 7, 8, 9]


def test_the_last_key_where_the_first_is_too_much(listener: Listener, writer: TrackWriter) -> None:
    lag(listener, writer)
    fill(listener.peer, 100)
    listener.hear(writer.run(KEY, 0, KEY, 0, KEY, size=FRAME))
    received = listener.drain()
    assert received[0] == gap(4, 8)
    assert seqs(received) == [9]


def test_neither_first_nor_last_key_fits(listener: Listener, writer: TrackWriter) -> None:
    lag(listener, writer)
    fill(listener.peer, LIMITS.connection_backlog_bytes)
    listener.hear(writer.run(KEY, 0, KEY))
    assert listener.lags()


def test_lag_may_begin_and_end_within_one_run(listener: Listener, writer: TrackWriter) -> None:
    listener.hear(writer.run(KEY, size=100))
    listener.hear(writer.run(0, 0, 0, 0, KEY, size=900))
    received = listener.drain()
    assert seqs(received) == [0, 5]
    assert received[1] == gap(1, 4)
    assert listener.node.lagging == 0


def test_a_key_at_the_start_is_no_way_back_for_its_own_run(
    listener: Listener, writer: TrackWriter
) -> None:
    listener.hear(writer.run(KEY, 0, 0, 0, size=FRAME))
    listener.hear(writer.run(KEY, 0, size=FRAME))
    assert listener.lags()
    assert seqs(listener.drain()) == [0, 1, 2, 3]


def test_a_track_without_keys_goes_on_with_the_next_run_that_fits(
    listener: Listener, writer: TrackWriter
) -> None:
    for _ in range(6):
        listener.hear(writer.run(0, size=FRAME))
    assert listener.lags()
    listener.drain()
    listener.hear(writer.run(0, 0))
    received = listener.drain()
    assert received[0] == gap(4, 5)
    assert seqs(received) == [6, 7]


def test_a_track_that_begins_to_use_keys_waits_for_them_from_then_on(
    listener: Listener, writer: TrackWriter
) -> None:
    for _ in range(5):
        listener.hear(writer.run(0, size=FRAME))
    listener.hear(writer.run(KEY, 0, 0, size=FRAME))
    listener.drain()
    listener.hear(writer.run(0))
    assert listener.lags()


# INIT


def test_an_init_that_changed_meanwhile_comes_between_gap_and_key(
    listener: Listener, writer: TrackWriter
) -> None:
    listener.hear(writer.run(INIT))
    for _ in range(5):
        listener.hear(writer.run(KEY, size=FRAME))
    assert listener.lags()
    listener.drain()
    listener.hear(writer.run(INIT, 0, payload=b"second"))
    listener.hear(writer.run(INIT, 0, payload=b"third"))
    listener.hear(writer.run(KEY, 0))
    received = listener.drain()
    assert received[0] == gap(5, 9)
    frames = of_kind(StreamFrame, received)
    assert [(each.seq, each.payload) for each in frames] == [(8, b"third"), (10, b"x"), (11, b"x")]


def test_an_unchanged_init_is_not_repeated(listener: Listener, writer: TrackWriter) -> None:
    listener.hear(writer.run(INIT))
    for _ in range(5):
        listener.hear(writer.run(KEY, size=FRAME))
    listener.drain()
    listener.hear(writer.run(KEY))
    assert seqs(listener.drain()) == [6]


def test_an_init_in_the_run_of_the_key_is_the_one_that_counts(
    listener: Listener, writer: TrackWriter
) -> None:
    lag(listener, writer)
    listener.hear(writer.run(INIT, payload=b"stale"))
    listener.hear(writer.run(INIT, 0, KEY, payload=b"fresh"))
    received = listener.drain()
    assert received[0] == gap(4, 7)
    assert [each.payload for each in of_kind(StreamFrame, received)] == [b"fresh", b"fresh"]
    assert seqs(received) == [6, 8]


def test_an_init_that_is_the_key_is_not_sent_twice(listener: Listener, writer: TrackWriter) -> None:
    lag(listener, writer)
    listener.hear(writer.run(INIT, payload=b"stale"))
    listener.hear(writer.run(INIT | KEY, 0))
    received = listener.drain()
    assert received[0] == gap(4, 5)
    assert seqs(received) == [6, 7]


# END


def test_an_end_is_delivered_while_lagging_behind_its_gap(
    listener: Listener, writer: TrackWriter
) -> None:
    lag(listener, writer)
    listener.hear(writer.run(INIT, 0, END))
    received = listener.drain()
    assert received[0] == gap(4, 6)
    assert seqs(received) == [5, 7]
    assert not listener.lags()


def test_an_end_that_does_not_fit_is_delivered_from_the_reserved_room(
    listener: Listener, writer: TrackWriter
) -> None:
    fill(listener.peer, LIMITS.connection_backlog_bytes)
    listener.hear(writer.run(0, 0, END))
    received = listener.drain()
    assert received[0] == gap(0, 1)
    assert seqs(received) == [2]
    assert listener.node.lagging == 0


def test_a_key_that_is_the_end_is_delivered_without_a_gap(
    listener: Listener, writer: TrackWriter
) -> None:
    fill(listener.peer, LIMITS.connection_backlog_bytes)
    listener.hear(writer.run(INIT | KEY | END))
    assert seqs(listener.drain()) == [0]
    assert (listener.node.lagging, listener.node.gaps) == (0, 0)


def test_an_end_behind_a_key_too_large_is_delivered_alone(
    listener: Listener, writer: TrackWriter
) -> None:
    lag(listener, writer)
    fill(listener.peer, LIMITS.connection_backlog_bytes)
    listener.hear(writer.run(KEY, END))
    received = listener.drain()
    assert received[0] == gap(4, 5)
    assert seqs(received) == [6]


# Newcomers


def test_a_newcomer_waits_for_a_key_and_misses_nothing(
    listener: Listener, writer: TrackWriter
) -> None:
    track = listener.track()
    track.keyed = True
    listener.subscription.wait_for_key(track)
    listener.hear(writer.run(0, 0))
    listener.hear(writer.run(0, KEY))
    assert seqs(listener.drain()) == [3]
    assert (listener.node.lagging, listener.node.gaps) == (0, 0)


def test_a_waiting_newcomer_gets_an_init_that_changed(
    listener: Listener, writer: TrackWriter
) -> None:
    listener.hear(writer.run(INIT, payload=b"old"))
    track = listener.track()
    track.keyed = True
    listener.drain()
    listener.subscription.wait_for_key(track)
    listener.hear(writer.run(INIT, payload=b"new"))
    assert listener.drain() == []
    listener.hear(writer.run(KEY))
    assert seqs(listener.drain()) == [1, 2]


def test_a_waiting_newcomer_gets_the_end_at_once(listener: Listener, writer: TrackWriter) -> None:
    track = listener.track()
    track.keyed = True
    listener.subscription.wait_for_key(track)
    listener.hear(writer.run(0, END))
    assert seqs(listener.drain()) == [1]
    assert not listener.lags()


@pytest.mark.parametrize(
    "flags, delivered, is_over",
    [
        ((0, 0), [], False),
        ((KEY, 0), [0, 1], True),
        ((0, KEY, 0, KEY), [1, 2, 3], True),
        ((INIT, 0), [0], False),
        ((INIT, 0, 0, KEY, 0), [0, 3, 4], True),
        ((INIT, KEY), [0, 1], True),
        ((INIT | KEY, 0), [0, 1], True),
        ((0, 0, END), [2], True),
        ((INIT, 0, END), [0, 2], True),
        ((INIT | END,), [0], True),
        ((0, KEY | END), [1], True),
    ],
)
def test_what_a_newcomer_to_a_reliable_room_gets_while_it_waits(
    writer: TrackWriter, flags: tuple[int, ...], delivered: list[int], is_over: bool
) -> None:
    listener = Listener(budget=None)
    subscription, track = listener.subscription, listener.track()
    subscription.wait_for_key(track)
    run = writer.run(*flags, size=100)
    left_out = subscription.offer_first_key(run, track, subscription.backlog, 0.0)
    assert seqs(listener.peer.new()) == delivered
    assert left_out == subscription.left_out_bytes == 100 * (len(flags) - len(delivered))
    assert subscription.left_out_frames == len(flags) - len(delivered)
    assert listener.lags() is not is_over
    assert (subscription.lost, listener.node.lagging) == (0, 0)


# Several tracks, and the end


def test_one_track_lags_and_the_other_goes_on(listener: Listener, writer: TrackWriter) -> None:
    sound = TrackWriter(track=1)
    listener.hear(sound.run(KEY))
    listener.hear(writer.run(KEY, 0, 0, 0, 0, size=700))
    listener.hear(writer.run(0, size=700))
    listener.hear(sound.run(KEY))
    assert list(listener.subscription.lagging) == [listener.track(0)]
    frames = of_kind(StreamFrame, listener.drain())
    assert [each.seq for each in frames if each.track == 1] == [0, 1]


def test_the_end_of_a_source_announces_what_was_lost(
    listener: Listener, writer: TrackWriter
) -> None:
    lag(listener, writer)
    listener.hear(writer.run(0, 0))
    listener.hear(TrackWriter(track=1).run(KEY))
    listener.drain()
    listener.subscription.source_ends(listener.source, 0.0)
    assert listener.drain() == [gap(4, 6)]
    assert (listener.node.lagging, listener.subscription.lagging) == (0, {})


def test_the_end_of_a_source_tells_a_waiting_newcomer_nothing(listener: Listener) -> None:
    listener.subscription.wait_for_key(listener.track())
    listener.subscription.source_ends(listener.source, 0.0)
    assert listener.drain() == []
    assert listener.subscription.lagging == {}


def test_discard_forgets_lags_without_a_word(listener: Listener, writer: TrackWriter) -> None:
    lag(listener, writer)
    listener.subscription.wait_for_key(listener.track(7))
    listener.subscription.discard()
    assert listener.drain() == []
    assert (listener.node.lagging, listener.subscription.lagging) == (0, {})


# A form of its own


def test_a_subscription_has_the_connection_s_form_or_its_own() -> None:
    form, own = Brackets(), Brackets()
    peer = make_peer(form=form)
    assert Subscription(ROOM, peer.outbox, peer.node).form is form
    assert Subscription(ROOM, peer.outbox, peer.node, form=own).form is own


def test_all_that_a_subscription_gets_is_in_its_form(writer: TrackWriter) -> None:
    listener = Listener(budget=0)
    own = Brackets()
    listener.subscription.form = own
    init, key = writer.run(INIT), writer.run(KEY, size=FRAME)
    listener.hear(init)
    listener.hear(key)
    for _ in range(4):
        listener.hear(writer.run(0, size=FRAME))
    assert listener.lags()
    listener.peer.drain()
    end = writer.run(KEY | END)
    listener.hear(end)
    taken = bytes(listener.peer.wire.taken)
    assert taken.startswith(b"[" + init.data + b"][" + key.data + b"]")
    assert taken.endswith(b"[" + end.data + b"]")
    # The GAP among it: all that is outside of brackets would be another form.
    assert encode(gap(5, 5)) in own.encoded
    assert sum(len(each) + 2 for each in own.encoded if each in taken) == len(taken)


def test_what_a_form_has_nothing_to_say_for_is_neither_sent_nor_queued(
    writer: TrackWriter,
) -> None:
    class Silent(Brackets):
        def encode(self, data: Buffer) -> bytes:
            return b""

    listener = Listener(budget=0)
    listener.subscription.form = Silent()
    lagging = Listener(budget=0)
    lag(lagging, writer)
    lagging.subscription.form = Silent()
    for one in (listener, lagging):
        one.hear(TrackWriter().run(KEY, size=FRAME))
        one.hear(TrackWriter().run(END, size=FRAME))
        assert one.peer.outbox.pending_bytes == 0
    assert listener.peer.new() == []
    subscription = listener.subscription
    subscription.put(b"frames", subscription.backlog, 0.0)
    # A track that lags, whose END is all that there would be room for.
    behind = Listener(budget=0)
    again = TrackWriter()
    lag(behind, again)
    assert behind.lags()
    before = behind.peer.outbox.pending_bytes
    behind.subscription.form = Silent()
    behind.hear(again.run(END, size=FRAME))
    assert not behind.lags() and behind.peer.outbox.pending_bytes == before
    assert listener.peer.new() == []


def test_what_was_left_out_is_counted_for_it_its_room_and_the_node(
    listener: Listener, writer: TrackWriter
) -> None:
    lag(listener, writer)
    listener.hear(writer.run(0, size=FRAME))
    subscription, node = listener.subscription, listener.node
    assert (subscription.lost, subscription.gaps, node.lost, node.lost_bytes) == (
        2,
        0,
        2,
        2 * FRAME,
    )
    assert (subscription.tally.lagging, subscription.tally.lost) == (1, 2)
    # The run that brings it back: what is before its KEY is lost as well.
    listener.hear(writer.run(0, KEY, 0, size=FRAME))
    assert (subscription.lost, subscription.gaps, node.lost) == (3, 1, 3)
    assert (subscription.left_out_frames, subscription.left_out_bytes) == (3, 3 * FRAME)
    assert (subscription.tally.lagging, subscription.tally.gaps, subscription.tally.lost) == (
        0,
        1,
        3,
    )


def test_a_newcomer_loses_nothing_and_gets_nothing(listener: Listener, writer: TrackWriter) -> None:
    listener.hear(writer.run(KEY, size=FRAME))
    listener.subscription.wait_for_key(listener.track())
    listener.hear(writer.run(0, 0, size=FRAME))
    subscription = listener.subscription
    assert (subscription.lost, subscription.tally.lagging, listener.node.lost) == (0, 0, 0)
    assert (subscription.left_out_frames, subscription.left_out_bytes) == (2, 2 * FRAME)


def test_an_end_is_not_left_out(listener: Listener, writer: TrackWriter) -> None:
    lag(listener, writer)
    fill(listener.peer, LIMITS.backlog_bytes)
    listener.hear(writer.run(0, END, size=FRAME))
    assert (listener.subscription.lost, listener.subscription.gaps) == (2, 1)


def test_subscriptions_are_numbered() -> None:
    node = Node(LIMITS)
    outbox = make_peer(node).outbox
    assert [Subscription(ROOM, outbox, node).number for _ in range(3)] == [1, 2, 3]
    assert node.subscribed == 3


class _NoGaps:
    """A form that can say everything but a GAP."""

    def encode(self, data: Buffer) -> bytes:
        return b"" if data[4] == type_of(Gap) else bytes(data)

    def farewell(self, code: int | None) -> bytes:
        return b""


def test_a_form_that_cannot_say_an_event_leaves_it_out(
    listener: Listener, writer: TrackWriter
) -> None:
    listener.subscription.form = _NoGaps()
    lag(listener, writer)
    listener.hear(writer.run(KEY, size=FRAME))
    items = listener.drain()
    assert seqs(items) == [5]
    assert of_kind(Gap, items) == []
    assert listener.subscription.gaps == 1
