"""The walk over a room's subscribers; what a slow one gets is in test_subscription."""

import pytest

from tests.core.builders import KEY, LIMITS, ROOM, TOKEN, Peer, TrackWriter, make_peer, seqs
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

    def join(self, budget: int | None = None) -> Peer:
        peer = make_peer(self.node, budget=budget)
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
        hall.audience.send_reliably(run.data, pace, 0.0)
    assert pace.flow(hall.subscription(slow)).pending_bytes == 20_000
    assert pace.flow(hall.subscription(quick)).pending_bytes == 0
    slow.drain()
    assert seqs(slow.new()) == seqs(quick.new()) == [0, 1, 2, 3, 4]


def test_events_reach_everyone_in_order_with_the_data(hall: Hall) -> None:
    slow, quick = hall.join(budget=0), hall.join()
    hall.send(100)
    hall.audience.tell(hall.writer.data(0), 0.0)
    slow.drain()
    assert seqs(slow.new()) == seqs(quick.new()) == [0, 1]
    assert slow.outbox.control.pending_bytes == 0
