"""What one connection has to be sent: direct writes, the queue, its bounds, its end."""

import attrs
import pytest
import trio

from tests.core.builders import LIMITS, Brackets, Peer, Wire, limits, make_peer
from tim_trio.core import outbox as outbox_module
from tim_trio.core.node import Node
from tim_trio.core.outbox import Backlog, Buffer, Outbox, SharedPiece
from tim_trio.errors import Code

RESERVED = 32


def make(budget: int | None = 0, *, node: Node | None = None) -> tuple[Outbox, Wire]:
    peer = make_peer(node or Node(LIMITS), budget=budget)
    return peer.outbox, peer.wire


async def take(outbox: Outbox) -> list[bytes]:
    return [bytes(piece) for piece in await outbox.next_batch()]


async def warm_up(outbox: Outbox) -> None:
    """Let the outbox have had to wait once, so that it has a channel."""
    outbox.queue(b"x", Backlog(), 0.0)
    await take(outbox)
    outbox.settle(1, 0.0)


# The direct write


def test_nothing_waits_so_data_goes_straight_to_the_socket() -> None:
    outbox, wire = make(None)
    ledger = Backlog()
    outbox.put(b"one", ledger, 0.0)
    outbox.put(b"two", ledger, 0.0)
    assert bytes(wire.taken) == b"onetwo"
    assert wire.writes == [3, 3]
    assert outbox.pending_bytes == ledger.pending_bytes == 0


def test_while_something_waits_nothing_is_written_directly() -> None:
    outbox, wire = make(0)
    outbox.put(b"first", Backlog(), 0.0)
    wire.budget = None
    outbox.put(b"second", Backlog(), 0.0)
    assert wire.writes == []
    assert outbox.pending_bytes == 11


async def test_a_partial_write_keeps_the_order() -> None:
    outbox, wire = make(4)
    ledger = Backlog()
    outbox.put(b"abcdef", ledger, 0.0)
    outbox.put(b"ghi", ledger, 0.0)
    assert bytes(wire.taken) == b"abcd"
    assert outbox.pending_bytes == ledger.pending_bytes == 5
    assert await take(outbox) == [b"ef", b"ghi"]


async def test_the_rest_of_a_partial_write_is_a_view_of_the_same_bytes() -> None:
    outbox, _ = make(4)
    data = b"abcdef"
    outbox.put(data, Backlog(), 0.0)
    (rest,) = await outbox.next_batch()
    assert isinstance(rest, memoryview)
    assert rest.obj is data


def test_a_broken_socket_aborts_this_connection_alone() -> None:
    node = Node(LIMITS)
    broken, fine = make_peer(node), make_peer(node)
    broken.wire.broken = True
    for peer in (broken, fine):
        peer.outbox.put(b"data", Backlog(), 0.0)
    assert (broken.aborts, broken.outbox.closed, broken.outbox.close_code) == (1, True, None)
    assert (fine.aborts, fine.outbox.closed) == (0, False)
    assert node.backlog_bytes == 0


# The queue and its ledgers


async def test_pending_falls_only_when_the_kernel_has_accepted() -> None:
    node = Node(LIMITS)
    outbox, _ = make(0, node=node)
    ledger = Backlog()
    outbox.put(b"abcdef", ledger, 0.0)
    await take(outbox)
    assert outbox.pending_bytes == ledger.pending_bytes == node.backlog_bytes == 6
    outbox.settle(2, 0.0)
    assert outbox.pending_bytes == ledger.pending_bytes == node.backlog_bytes == 4
    assert outbox.live_bytes == 4
    assert await take(outbox) == [b"cdef"]
    outbox.settle(4, 0.0)
    assert outbox.pending_bytes == ledger.pending_bytes == node.backlog_bytes == 0


async def test_settling_crosses_pieces_and_ledgers() -> None:
    outbox, _ = make(0)
    mine, yours = Backlog(), Backlog()
    outbox.put(b"aaa", mine, 1.0)
    outbox.put(b"bbb", yours, 2.0)
    outbox.put(b"ccc", mine, 3.0)
    await take(outbox)
    outbox.settle(4, 5.0)
    assert (mine.pending_bytes, yours.pending_bytes) == (3, 2)
    assert (mine.oldest, yours.oldest) == (3.0, 2.0)
    assert await take(outbox) == [b"bb", b"ccc"]


async def test_small_pieces_share_an_item_of_the_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "_ITEM_BYTES", 3)
    monkeypatch.setattr(outbox_module, "BATCH_BYTES", 4)
    outbox, _ = make(0)
    for letter in (b"a", b"b", b"c", b"d", b"e", b"f", b"g"):
        outbox.put(letter, Backlog(), 0.0)
    # Two items of three; the third is only looked at when there is room.
    assert await take(outbox) == [b"a", b"b", b"c", b"d", b"e", b"f"]
    # What was taken and not sent comes first again.
    outbox.settle(4, 0.0)
    assert await take(outbox) == [b"e", b"f", b"g"]


async def test_an_item_grows_until_it_is_taken_and_not_after() -> None:
    outbox, _ = make(0)
    outbox.put(b"a", Backlog(), 0.0)
    outbox.put(b"b", Backlog(), 0.0)
    first = await take(outbox)
    outbox.put(b"c", Backlog(), 0.0)
    assert first == [b"a", b"b"]
    outbox.settle(2, 0.0)
    assert await take(outbox) == [b"c"]


def test_the_writer_starts_when_something_has_to_wait_and_once() -> None:
    peer = make_peer(budget=3)
    peer.outbox.put(b"abc", Backlog(), 0.0)
    assert peer.writers == 0
    peer.outbox.put(b"abc", Backlog(), 0.0)
    peer.outbox.put(b"abc", Backlog(), 0.0)
    assert peer.writers == 1
    peer.drain()
    peer.wire.budget = 0
    peer.outbox.put(b"abc", Backlog(), 0.0)
    assert peer.writers == 1


async def test_a_batch_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "_ITEM_BYTES", 6)
    monkeypatch.setattr(outbox_module, "BATCH_BYTES", 10)
    outbox, _ = make(0)
    for _ in range(4):
        outbox.put(b"sixsix", Backlog(), 0.0)
    assert await take(outbox) == [b"sixsix"] * 2


async def test_a_parked_writer_is_woken_and_does_not_let_a_direct_write_overtake(
    nursery: trio.Nursery,
) -> None:
    outbox, wire = make(0)
    batches: list[list[bytes]] = []
    await warm_up(outbox)

    async def writer() -> None:
        batches.append(await take(outbox))

    nursery.start_soon(writer)
    await trio.testing.wait_all_tasks_blocked()
    outbox.put(b"first", Backlog(), 0.0)
    wire.budget = None
    outbox.put(b"second", Backlog(), 0.0)
    assert wire.writes == []
    await trio.testing.wait_all_tasks_blocked()
    assert batches == [[b"first", b"second"]]


async def test_a_cancelled_wait_loses_nothing() -> None:
    outbox, _ = make(0)
    await warm_up(outbox)
    with trio.CancelScope() as scope:
        scope.cancel()
        await outbox.next_batch()
    assert scope.cancelled_caught
    outbox.put(b"kept", Backlog(), 0.0)
    with trio.CancelScope() as scope:
        scope.cancel()
        await outbox.next_batch()
    assert await take(outbox) == [b"kept"]


def test_the_age_of_a_backlog_is_that_of_its_oldest_piece() -> None:
    ledger = Backlog()
    assert ledger.oldest == float("inf")
    ledger.charge(5, 1.0)
    ledger.charge(5, 2.0)
    ledger.settle(3, done=False)
    assert (ledger.pending_bytes, ledger.oldest) == (7, 1.0)
    ledger.settle(2, done=True)
    assert ledger.oldest == 2.0
    ledger.settle(5, done=True)
    assert (ledger.pending_bytes, ledger.oldest) == (0, float("inf"))


# Room for live data


def test_an_empty_outbox_admits_any_one_piece() -> None:
    outbox, _ = make(0)
    assert outbox.has_room(10**9, Backlog(), 0.0)


def test_a_subscription_is_bounded_in_bytes() -> None:
    outbox, _ = make(0)
    ledger = Backlog()
    bound = LIMITS.backlog_bytes
    outbox.queue(bytes(bound - 10), ledger, 0.0)
    assert outbox.has_room(10, ledger, 0.0)
    assert not outbox.has_room(11, ledger, 0.0)


def test_a_subscription_with_nothing_queued_has_its_whole_bound() -> None:
    outbox, _ = make(0)
    outbox.queue(bytes(10), Backlog(), 0.0)
    bound = LIMITS.backlog_bytes
    assert outbox.has_room(bound, Backlog(), 0.0)
    assert not outbox.has_room(bound + 1, Backlog(), 0.0)


async def test_a_subscription_is_bounded_in_age() -> None:
    outbox, _ = make(0)
    ledger = Backlog()
    outbox.queue(b"old", ledger, 10.0)
    outbox.queue(b"new", ledger, 10.5)
    assert outbox.has_room(1, ledger, 11.0)
    assert not outbox.has_room(1, ledger, 11.1)
    # Another subscription's age is its own.
    assert outbox.has_room(1, Backlog(), 11.1)
    await take(outbox)
    outbox.settle(3, 11.1)
    assert outbox.has_room(1, ledger, 11.1)


def test_a_connection_is_bounded_over_its_subscriptions() -> None:
    outbox, _ = make(0)
    bound = LIMITS.connection_backlog_bytes
    for _ in range(2):
        outbox.queue(bytes(bound // 2 - 5), Backlog(), 0.0)
    assert outbox.live_bytes == bound - 10
    assert outbox.has_room(10, Backlog(), 0.0)
    assert not outbox.has_room(11, Backlog(), 0.0)


def hold(node: Node, size: int) -> None:
    """Let another connection of the node have ``size`` bytes queued."""
    node.backlog_bytes += size


@pytest.mark.parametrize(
    "taken, share", [(0.5, 1.0), (0.75, 0.5), (0.9, 0.2), (1.0, 0.0), (1.5, 0.0)]
)
def test_past_half_of_the_nodes_bound_everyones_shrinks(taken: float, share: float) -> None:
    node = Node(attrs.evolve(LIMITS, node_backlog_bytes=2**20))
    outbox, _ = make(0, node=node)
    ledger = Backlog()
    outbox.queue(bytes(100), ledger, 0.0)
    hold(node, int(taken * 2**20) - 100)
    bound = int(LIMITS.backlog_bytes * share)
    assert outbox.has_room(max(1, bound - 100), ledger, 0.0) == (bound > 0)
    assert not outbox.has_room(bound - 90, ledger, 0.0)
    assert outbox.has_room(bound, Backlog(), 0.0)
    assert not outbox.has_room(bound + 10, Backlog(), 0.0)


def test_who_keeps_up_notices_nothing_of_a_full_node() -> None:
    node = Node(LIMITS)
    outbox, _ = make(0, node=node)
    hold(node, 2 * LIMITS.node_backlog_bytes)
    assert outbox.has_room(LIMITS.backlog_bytes, Backlog(), 0.0)


def test_live_data_leaves_items_free_for_control_data() -> None:
    outbox, _ = make(0)
    ledger = Backlog()
    for _ in range(LIMITS.outbox_items - RESERVED):
        assert outbox.has_room(1, ledger, 0.0)
        outbox.put(b"x", ledger, 0.0)
    assert not outbox.has_room(1, ledger, 0.0)
    for _ in range(RESERVED):
        outbox.put_control(b"c", 0.0)
    assert not outbox.closed


# Control data


async def test_control_data_goes_in_line_with_live_data() -> None:
    outbox, _ = make(0)
    ledger = Backlog()
    outbox.put(b"live", ledger, 0.0)
    outbox.put_control(b"event", 0.0)
    outbox.put(b"more", ledger, 0.0)
    assert outbox.control.pending_bytes == 5
    assert await take(outbox) == [b"live", b"event", b"more"]


def test_control_data_is_taken_where_live_data_is_refused() -> None:
    peer = make_peer(budget=0)
    ledger = Backlog()
    peer.outbox.queue(bytes(LIMITS.connection_backlog_bytes), ledger, 0.0)
    assert not peer.outbox.has_room(1, ledger, 0.0)
    peer.outbox.put_control(bytes(LIMITS.control_backlog_bytes), 0.0)
    assert not peer.outbox.closed
    peer.outbox.put_control(b"x", 0.0)
    assert (peer.outbox.closed, peer.outbox.close_code) == (True, Code.SLOW_CONSUMER)
    assert peer.aborts == 1


def test_running_out_of_items_aborts_a_slow_consumer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "_ITEM_BYTES", 1)
    peer = make_peer(budget=0)
    for _ in range(LIMITS.outbox_items):
        peer.outbox.put_control(b"e", 0.0)
    assert not peer.outbox.closed
    peer.outbox.put_control(b"e", 0.0)
    assert (peer.aborts, peer.outbox.close_code) == (1, Code.SLOW_CONSUMER)
    # The piece that did not fit is charged to nobody.
    assert peer.outbox.control.pending_bytes == LIMITS.outbox_items
    peer.outbox.discard()
    assert peer.node.backlog_bytes == 0


# Shared pieces


async def test_a_shared_piece_is_counted_once_for_all_readers() -> None:
    node = Node(LIMITS)
    piece = SharedPiece(bytes(1000), node)
    joiners = [make_peer(node, budget=budget) for budget in (0, 0, 400, None)]
    for peer in joiners:
        peer.outbox.put(piece.data, piece, 0.0)
    assert node.pinned_bytes == 1000
    assert node.backlog_bytes == 0
    assert [peer.outbox.live_bytes for peer in joiners] == [0, 0, 0, 0]
    assert [peer.outbox.pending_bytes for peer in joiners] == [1000, 1000, 600, 0]
    for peer in joiners[:3]:
        assert node.pinned_bytes == 1000
        await peer.write()
    assert node.pinned_bytes == 0
    assert all(len(peer.wire.taken) == 1000 for peer in joiners)


async def test_live_data_behind_a_shared_piece_does_not_age_until_that_is_sent() -> None:
    outbox, _ = make(0)
    piece = SharedPiece(bytes(100), Node(LIMITS))
    ledger = Backlog()
    outbox.put(piece.data, piece, 0.0)
    outbox.put(b"live", ledger, 0.0)
    assert outbox.has_room(1, ledger, 50.0)
    await take(outbox)
    outbox.settle(99, 50.0)
    assert outbox.has_room(1, ledger, 60.0)
    outbox.settle(1, 60.0)
    assert outbox.has_room(1, ledger, 61.0)
    assert not outbox.has_room(1, ledger, 61.1)


# The end


async def test_a_closed_outbox_accepts_nothing_and_sends_what_is_queued() -> None:
    outbox, wire = make(0)
    outbox.put(b"before", Backlog(), 0.0)
    outbox.close(b"close", Code.BYE, 0.0)
    wire.budget = None
    outbox.put(b"after", Backlog(), 0.0)
    outbox.put_control(b"after", 0.0)
    assert (outbox.closed, outbox.close_code) == (True, Code.BYE)
    assert await take(outbox) == [b"before", b"close"]
    outbox.settle(11, 0.0)
    with pytest.raises(trio.EndOfChannel):
        await outbox.next_batch()
    assert wire.writes == []


def test_pending_is_never_zero_again_after_the_end() -> None:
    outbox, wire = make(None)
    outbox.close(b"close", Code.BYE, 0.0)
    assert bytes(wire.taken) == b"close"
    assert outbox.pending_bytes
    outbox.discard()
    assert outbox.pending_bytes


def test_only_the_first_close_counts() -> None:
    peer = make_peer()
    peer.outbox.close(b"first", Code.BYE, 0.0)
    peer.outbox.close(b"second", Code.IDLE_TIMEOUT, 0.0)
    peer.outbox.abort(Code.SLOW_CONSUMER)
    assert bytes(peer.wire.taken) == b"first"
    assert peer.outbox.close_code == Code.BYE
    assert peer.aborts == 0


def test_a_close_without_a_frame_sends_none() -> None:
    outbox, wire = make(None)
    outbox.close(None, None, 0.0)
    assert (outbox.closed, outbox.close_code, wire.writes) == (True, None, [])


def test_a_close_that_finds_the_connection_broken_is_a_loss() -> None:
    peer = make_peer()
    peer.wire.broken = True
    peer.outbox.close(b"close", Code.BYE, 0.0)
    assert (peer.outbox.closed, peer.outbox.close_code, peer.aborts) == (True, None, 1)


async def test_a_close_wakes_a_parked_writer(nursery: trio.Nursery) -> None:
    outbox, _ = make(0)
    ended = trio.Event()
    await warm_up(outbox)

    async def writer() -> None:
        with pytest.raises(trio.EndOfChannel):
            await outbox.next_batch()
        ended.set()

    nursery.start_soon(writer)
    await trio.testing.wait_all_tasks_blocked()
    outbox.close(None, None, 0.0)
    await ended.wait()


async def test_discard_settles_every_ledger() -> None:
    node = Node(LIMITS)
    peer = make_peer(node, budget=0)
    ledger, piece = Backlog(), SharedPiece(bytes(50), node)
    pieces: list[tuple[Buffer, Backlog | SharedPiece]] = [
        (b"abcd", ledger),
        (piece.data, piece),
        (b"efgh", ledger),
    ]
    for data, payer in pieces:
        peer.outbox.put(data, payer, 0.0)
    peer.outbox.put_control(b"event", 0.0)
    # Some of it has been taken by the writer, a part of that by the kernel.
    await take(peer.outbox)
    peer.outbox.settle(3, 0.0)
    peer.outbox.put(b"still in the channel", ledger, 0.0)
    peer.outbox.discard()
    assert (ledger.pending_bytes, ledger.oldest) == (0, float("inf"))
    assert peer.outbox.control.pending_bytes == peer.outbox.live_bytes == 0
    assert node.backlog_bytes == node.pinned_bytes == 0
    assert (peer.aborts, peer.outbox.close_code) == (1, None)


def test_discard_may_be_repeated() -> None:
    peer: Peer = make_peer(Node(limits(outbox_items=64)), budget=0)
    peer.outbox.put(b"data", Backlog(), 0.0)
    peer.outbox.discard()
    peer.outbox.discard()
    assert peer.node.backlog_bytes == 0
    assert peer.aborts == 1


def test_discard_of_an_outbox_that_never_waited() -> None:
    peer = make_peer()
    peer.outbox.put(b"data", Backlog(), 0.0)
    peer.outbox.discard()
    assert (peer.aborts, peer.writers, peer.outbox.closed) == (1, 0, True)


def test_discard_keeps_the_reason_of_an_earlier_close() -> None:
    peer = make_peer(budget=0)
    peer.outbox.close(b"close", Code.IDLE_TIMEOUT, 0.0)
    peer.outbox.discard()
    assert (peer.outbox.close_code, peer.aborts) == (Code.IDLE_TIMEOUT, 0)
    assert peer.node.backlog_bytes == 0


# A form


def test_what_is_put_is_encoded_and_what_is_encoded_is_not() -> None:
    peer = make_peer(form=Brackets())
    peer.outbox.put(b"data", Backlog(), 0.0)
    peer.outbox.put_control(b"answer", 0.0)
    peer.outbox.put_encoded(b"opening", Backlog(), 0.0)
    peer.outbox.put_control_encoded(b"pong", 0.0)
    assert bytes(peer.wire.taken) == b"[data][answer]openingpong"


def test_bytes_of_the_wire_stand_in_line_and_count() -> None:
    peer = make_peer(budget=0, form=Brackets())
    ledger = Backlog()
    peer.outbox.put(b"data", ledger, 0.0)
    peer.outbox.put_control_encoded(b"pong", 0.0)
    assert (ledger.pending_bytes, peer.outbox.control.pending_bytes) == (6, 4)
    assert peer.outbox.pending_bytes == 10
    peer.drain()
    assert bytes(peer.wire.taken) == b"[data]pong"


def test_a_flood_of_bytes_of_the_wire_is_a_slow_consumer() -> None:
    peer = make_peer(budget=0, form=Brackets())
    for _ in range(LIMITS.control_backlog_bytes // 1000):
        peer.outbox.put_control_encoded(bytes(1000), 0.0)
    assert not peer.outbox.closed
    peer.outbox.put_control_encoded(bytes(1000), 0.0)
    assert peer.outbox.close_code == Code.SLOW_CONSUMER


def test_nothing_to_say_is_neither_written_nor_queued() -> None:
    peer = make_peer(form=Brackets())
    peer.outbox.put(b"unsayable", Backlog(), 0.0)
    assert peer.wire.writes == []
    peer.wire.budget = 0
    peer.outbox.put(b"unsayable", Backlog(), 0.0)
    assert peer.outbox.pending_bytes == 0


@pytest.mark.parametrize(
    "frame, code, expected",
    [(b"CLOSE", 1000, b"[CLOSE]bye 1000"), (b"CLOSE", None, b"[CLOSE]"), (None, 1000, b"")],
)
def test_the_farewell_stands_behind_the_close(
    frame: bytes | None, code: int | None, expected: bytes
) -> None:
    peer = make_peer(form=Brackets())
    peer.outbox.close(frame, code, 0.0)
    peer.outbox.put(b"late", Backlog(), 0.0)
    peer.outbox.put_control_encoded(b"late", 0.0)
    assert bytes(peer.wire.taken) == expected
