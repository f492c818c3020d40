"""The walk over a room's subscribers; what a slow one gets is in test_subscription."""

import pytest

from tests.core.builders import (
    KEY,
    LIMITS,
    ROOM,
    TOKEN,
    Brackets,
    Peer,
    TrackWriter,
    make_peer,
    seqs,
)
from tim_trio.core.audience import Audience
from tim_trio.core.cache import CacheBudget
from tim_trio.core.node import Node
from tim_trio.core.pace import Pace
from tim_trio.core.sources import Source, Track
from tim_trio.core.subscription import Subscription


class Hall:
    """An audience of connections on one node."""

    def __init__(self) -> None:
        self.node = Node(LIMITS)
        self.audience = Audience()
        source = Source(1, "alice", TOKEN, None)
        self.track: Track = source.new_track(0, CacheBudget(self.node))
        self.writer = TrackWriter()

    def join(self, budget: int | None = None, form: Brackets | None = None) -> Peer:
        peer = make_peer(self.node, budget=budget, form=form)
        self.audience.join(peer.member, Subscription(ROOM, peer.outbox, self.node))
        return peer

    def subscription(self, peer: Peer) -> Subscription:
        (found,) = [each for each in self.audience if each.outbox is peer.outbox]
        return found

    def send(self, *sizes: int) -> None:
        """Send one run per size together."""
        runs = [self.writer.run(KEY, size=size) for size in sizes]
        parts = tuple((run, self.track) for run in runs)
        self.audience.send(b"".join(run.data for run in runs), parts, 0.0)


@pytest.fixture
def hall() -> Hall:
    return Hall()


def test_who_is_let_ahead_is_first_in_line(hall: Hall) -> None:
    behind = hall.join()
    ahead = make_peer(hall.node)
    hall.audience.join(ahead.member, Subscription(ROOM, ahead.outbox, hall.node), ahead=True)
    last = hall.join()
    assert [each.outbox for each in hall.audience] == [ahead.outbox, behind.outbox, last.outbox]


def test_nobody_is_an_audience_too(hall: Hall) -> None:
    hall.send(100)
    hall.audience.tell(b"event", 0.0)
    assert len(hall.audience) == 0
    assert (list(hall.audience), hall.audience.members()) == ([], ())


def test_who_joins_and_leaves_is_walked_from_then_on_and_no_more(hall: Hall) -> None:
    first = hall.join()
    hall.send(100)
    second = hall.join()
    hall.send(100)
    subscription = hall.subscription(first)
    assert hall.audience.leave(first.member) is subscription
    hall.send(100)
    assert (seqs(first.new()), seqs(second.new())) == ([0, 1], [1, 2])
    assert hall.audience.members() == (second.member,)


def test_who_is_left_out_gets_nothing_for_that_while(hall: Hall) -> None:
    link, other = hall.join(), hall.join()
    for _ in range(2):
        with hall.audience.leaving_out(link.member):
            hall.send(100)
    hall.send(100)
    assert (seqs(link.new()), seqs(other.new())) == ([2], [0, 1, 2])


def test_who_leaves_while_another_is_left_out_is_gone(hall: Hall) -> None:
    link, other, third = hall.join(), hall.join(), hall.join()
    with hall.audience.leaving_out(link.member):
        hall.audience.leave(other.member)
        hall.send(100)
    hall.send(100)
    assert (seqs(link.new()), seqs(other.new()), seqs(third.new())) == ([0, 1], [], [0, 1])


def test_leaving_out_who_is_not_there_leaves_nobody_out(hall: Hall) -> None:
    link, other = hall.join(), hall.join()
    hall.audience.leave(link.member)
    with hall.audience.leaving_out(link.member):
        hall.send(100)
    assert seqs(other.new()) == [0]


def test_who_leaves_during_a_look_round_disturbs_nobody(hall: Hall) -> None:
    peers = [hall.join() for _ in range(3)]
    seen = 0
    for _ in hall.audience:
        hall.audience.leave(peers[seen].member)
        seen += 1
    assert (seen, len(hall.audience)) == (3, 0)


def test_runs_sent_together_are_one_write_for_who_keeps_up(hall: Hall) -> None:
    quick, slow = hall.join(), hall.join(budget=150)
    hall.send(100, 100, 100)
    assert quick.wire.writes == [300]
    assert slow.wire.writes == [150]
    assert hall.subscription(slow).backlog.pending_bytes == 150
    slow.drain()
    assert seqs(quick.new()) == seqs(slow.new()) == [0, 1, 2]


def test_runs_sent_together_are_offered_one_by_one_to_who_does_not(hall: Hall) -> None:
    slow = hall.join(budget=0)
    hall.send(2000)
    hall.send(1500, 1500, 400)
    slow.drain()
    assert seqs(slow.new()) == [0, 1]
    assert hall.node.lagging == 1
    # Nothing is pending, but the track still lags: no direct write past it.
    hall.send(100, 100)
    assert seqs(slow.new()) == [4, 5]
    assert hall.node.lagging == 0


def test_a_socket_that_takes_nothing_gets_all_of_it_later(hall: Hall) -> None:
    stuck = hall.join(budget=0)
    hall.send(100)
    assert hall.subscription(stuck).backlog.pending_bytes == 100
    stuck.drain()
    assert seqs(stuck.new()) == [0]


def test_a_broken_socket_is_aborted_alone(hall: Hall) -> None:
    broken, fine = hall.join(), hall.join()
    broken.wire.broken = True
    hall.send(100)
    hall.send(100)
    assert (broken.aborts, fine.aborts) == (1, 0)
    assert seqs(fine.new()) == [0, 1]


def test_reliable_bytes_are_queued_past_every_bound(hall: Hall) -> None:
    slow, quick = hall.join(budget=0), hall.join()
    pace = Pace(10**6, 10**6, 4096, lambda limit: None)
    for peer in (slow, quick):
        pace.join(hall.subscription(peer))
    runs = [hall.writer.run(0, size=4000) for _ in range(5)]
    for run in runs:
        hall.audience.send_reliably(run, hall.track, pace, 0.0)
    assert pace.flow(hall.subscription(slow)).pending_bytes == 20_000
    assert pace.flow(hall.subscription(quick)).pending_bytes == 0
    slow.drain()
    assert seqs(slow.new()) == seqs(quick.new()) == [0, 1, 2, 3, 4]


def test_before_its_first_key_a_newcomer_pays_for_nothing(hall: Hall) -> None:
    pace = Pace(10**6, 10**6, 4096, lambda limit: None)
    waiting, other = hall.join(), hall.join()
    for peer in (waiting, other):
        pace.join(hall.subscription(peer))
    hall.subscription(waiting).wait_for_key(hall.track)
    flows = [pace.flow(hall.subscription(peer)) for peer in (waiting, other)]
    granted = flows[0].granted
    for run in (hall.writer.run(0, 0, size=100), hall.writer.run(0, KEY, 0, size=100)):
        hall.audience.send_reliably(run, hall.track, pace, 0.0)
        pace.handed_on(len(run.data))
    assert (seqs(waiting.new()), seqs(other.new())) == ([3, 4], [0, 1, 2, 3, 4])
    assert [(flow.base, flow.granted - granted) for flow in flows] == [(300, 300), (0, 0)]


def test_events_reach_everyone_in_order_with_the_data(hall: Hall) -> None:
    slow, quick = hall.join(budget=0), hall.join()
    hall.send(100)
    hall.audience.tell(hall.writer.data(0), 0.0)
    slow.drain()
    assert seqs(slow.new()) == seqs(quick.new()) == [0, 1]
    assert slow.outbox.control.pending_bytes == 0


# Other wires


def test_each_form_encodes_a_run_once_for_all_its_subscribers(hall: Hall) -> None:
    one, other = Brackets(), Brackets()
    plain = hall.join()
    ones = [hall.join(form=one) for _ in range(3)]
    another = hall.join(form=other)
    run = hall.writer.run(KEY)
    hall.audience.send(run.data, ((run, hall.track),), 0.0)
    assert (len(one.encoded), len(other.encoded)) == (1, 1)
    assert bytes(plain.wire.taken) == run.data
    for peer in (*ones, another):
        assert bytes(peer.wire.taken) == b"[" + run.data + b"]"


def test_who_is_behind_gets_the_rest_of_the_encoded_bytes(hall: Hall) -> None:
    slow, full = hall.join(budget=5, form=Brackets()), hall.join(budget=0, form=Brackets())
    hall.send(100)
    hall.send(50)
    for peer in (slow, full):
        assert hall.subscription(peer).backlog.pending_bytes == 154 - len(peer.wire.taken)
        peer.drain()
        taken = bytes(peer.wire.taken)
        assert (taken[:1], taken[101:103], taken[153:]) == (b"[", b"][", b"]")
    assert hall.node.backlog_bytes == 0


def test_a_form_that_has_nothing_to_say_for_a_run_costs_no_write(hall: Hall) -> None:
    peer = hall.join(form=Brackets())
    hall.audience.send(b"unsayable", (), 0.0)
    assert peer.wire.writes == []


def test_events_go_to_all_wires(hall: Hall) -> None:
    plain, other = hall.join(), hall.join(form=Brackets())
    hall.audience.tell(b"event", 0.0)
    assert bytes(plain.wire.taken) == b"event"
    assert bytes(other.wire.taken) == b"[event]"


def test_reliable_data_goes_to_all_wires_and_is_paid_for_as_it_is_there(hall: Hall) -> None:
    pace = Pace(8192, 0, 4096, lambda _: None)
    plain, other = hall.join(budget=0), hall.join(budget=0, form=Brackets())
    for peer in (plain, other):
        pace.join(hall.subscription(peer))
    run = hall.writer.run(0, size=100)
    hall.audience.send_reliably(run, hall.track, pace, 0.0)
    pending = [pace.flow(hall.subscription(peer)).pending_bytes for peer in (plain, other)]
    assert pending == [100, 102]
    other.drain()
    assert bytes(other.wire.taken) == b"[" + run.data + b"]"
    assert pace.flow(hall.subscription(other)).pending_bytes == 0
