"""What waits for a connection from other accounts: bounds, and who pays."""

from __future__ import annotations

import attrs

from tests.core.builders import LIMITS, Peer, fill, make_peer
from tim_trio.core.node import Node
from tim_trio.limits import KIB, Limits

BOUNDS = attrs.evolve(LIMITS, account_backlog_bytes=8 * KIB)


def peer(limits: Limits = BOUNDS, *, budget: int | None = 0) -> Peer:
    return make_peer(Node(limits), budget=budget)


def put(to: Peer, size: int, sender: str = "bob", limits: Limits = BOUNDS) -> bool:
    return to.member.inbox.put(bytes(size), sender, to.outbox, limits, 0.0)


def test_straight_to_the_socket_costs_nothing() -> None:
    alice = peer(budget=None)
    assert put(alice, 100 * KIB)
    assert len(alice.wire.taken) == 100 * KIB
    assert alice.member.inbox.pending_bytes == 0
    assert not alice.member.inbox.shares


def test_a_sender_may_hold_half_and_all_of_them_the_whole() -> None:
    alice = peer()
    assert put(alice, 4 * KIB)
    assert not put(alice, 1)
    assert put(alice, 4 * KIB, "carol")
    assert not put(alice, 1, "dave")
    inbox = alice.member.inbox
    assert inbox.pending_bytes == 8 * KIB
    assert inbox.shares.keys() == {"bob", "carol"}


def test_an_empty_inbox_takes_any_one_message() -> None:
    alice = peer()
    assert put(alice, 7 * KIB)
    assert not put(alice, 1)
    assert put(alice, KIB, "carol")


def test_what_the_kernel_takes_makes_room() -> None:
    alice = peer()
    assert put(alice, 4 * KIB) and put(alice, 3 * KIB, "carol")
    alice.drain(2 * KIB)
    inbox = alice.member.inbox
    assert inbox.pending_bytes == 5 * KIB
    assert inbox.shares["bob"].pending_bytes == 2 * KIB
    assert put(alice, 2 * KIB)
    alice.drain()
    assert inbox.pending_bytes == 0
    assert not inbox.shares
    assert alice.node.backlog_bytes == 0
    assert put(alice, 4 * KIB)


def test_what_will_never_be_sent_is_forgotten() -> None:
    alice = peer()
    assert put(alice, KIB)
    alice.outbox.discard()
    assert alice.member.inbox.pending_bytes == 0
    assert not alice.member.inbox.shares
    assert not put(alice, 1)


def test_a_connection_that_turns_out_to_be_broken() -> None:
    alice = peer()
    alice.wire.broken = True
    assert not put(alice, 1)
    assert alice.aborts == 1


def test_the_connection_and_the_node_have_bounds_too() -> None:
    alice = peer()
    fill(alice, BOUNDS.connection_backlog_bytes)
    assert not put(alice, 1)
    full = attrs.evolve(BOUNDS, node_backlog_bytes=1024 * KIB)
    bob = peer(full)
    fill(bob, KIB)
    bob.node.backlog_bytes = full.node_backlog_bytes
    assert not put(bob, 1, limits=full)
    bob.node.backlog_bytes = KIB
    assert put(bob, 1, limits=full)
