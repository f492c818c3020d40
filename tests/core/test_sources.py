"""Sources, their tracks and snapshots, and the check of a run's seq."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.builders import (
    END,
    INIT,
    KEY,
    TOKEN,
    Brackets,
    TrackWriter,
    limits,
    make_peer,
    parse,
    read_runs,
    seqs,
)
from tests.protocol.builders import frames_of_run
from tim_trio.core.cache import CacheBudget, GroupCache
from tim_trio.core.node import Node
from tim_trio.core.pace import Pace
from tim_trio.core.sources import Source, Track, check_sequence
from tim_trio.errors import Code, RemoteProtocolError
from tim_trio.limits import MIB
from tim_trio.protocol.messages import TrackInfo, TrackState
from tim_trio.protocol.runs import Run
from tim_trio.protocol.stream import StreamFrame


@pytest.fixture
def node() -> Node:
    return Node(limits())


@pytest.fixture
def budget(node: Node) -> CacheBudget:
    return CacheBudget(node)


@pytest.fixture
def source() -> Source:
    return Source(1, "alice", TOKEN, None)


def track_at(next_seq: int, *, expected: int | None = None, ended: bool = False) -> Track:
    cache = GroupCache(CacheBudget(Node(limits())))
    return Track(0, expected, cache, next_seq=next_seq, ended=ended)


def follow(source: Source, run: Run, budget: CacheBudget, arrival: int) -> None:
    """Note a run in its track as a room does."""
    track = source.tracks.get(run.track) or source.new_track(run.track, budget)
    track.next_seq = run.last_seq + 1
    if run.init_bytes:
        track.init = run.data[: run.init_bytes]
    track.keyed |= run.last_key >= 0
    track.cache.add(run, arrival, track.init)
    source.changed()


# check_sequence


def test_a_run_that_follows_is_taken_whole() -> None:
    track = track_at(5, expected=5)
    run = TrackWriter(next_seq=5).run(0, 0)
    assert check_sequence(track, run) is run
    assert track.expected == 7


@pytest.mark.parametrize("seq", [4, 6])
def test_on_one_connection_seq_neither_jumps_nor_falls(seq: int) -> None:
    track = track_at(5, expected=5)
    with pytest.raises(RemoteProtocolError, match=f"seq {seq} instead of 5") as caught:
        check_sequence(track, TrackWriter(next_seq=seq).run(0))
    assert caught.value.code is Code.BAD_SEQUENCE


def test_after_a_takeover_the_first_frame_may_be_ahead() -> None:
    track = track_at(5)
    run = TrackWriter(next_seq=9).run(0)
    assert check_sequence(track, run) is run
    assert track.expected == 10


def test_after_a_takeover_repeats_are_dropped_and_then_counted_on() -> None:
    track = track_at(5)
    writer = TrackWriter(next_seq=2)
    assert check_sequence(track, writer.run(0, 0)) is None
    assert track.expected == 4
    cut = check_sequence(track, writer.run(0, 0, 0))
    assert cut is not None
    assert (cut.first_seq, cut.last_seq, track.expected) == (5, 6, 7)


def test_among_repeats_seq_must_follow_too() -> None:
    track = track_at(5)
    assert check_sequence(track, TrackWriter(next_seq=1).run(0)) is None
    with pytest.raises(RemoteProtocolError):
        check_sequence(track, TrackWriter(next_seq=5).run(0))


def test_repeats_of_an_ended_track_are_dropped() -> None:
    track = track_at(5, ended=True)
    assert check_sequence(track, TrackWriter(next_seq=3).run(0, END)) is None


@pytest.mark.parametrize("first", [3, 5, 8])
def test_nothing_new_may_follow_an_end(first: int) -> None:
    track = track_at(5, ended=True)
    with pytest.raises(RemoteProtocolError, match="after END") as caught:
        check_sequence(track, TrackWriter(next_seq=first).run(0, 0, 0))
    assert caught.value.code is Code.BAD_SEQUENCE


_middle = st.lists(st.sampled_from([0, 0, KEY, 0x80, KEY | 0x80]), max_size=6)


@given(
    first=st.sampled_from([0, INIT, KEY, INIT | KEY]),
    middle=_middle,
    end=st.sampled_from([[], [END], [KEY | END]]),
    payload=st.binary(max_size=3),
    data=st.data(),
)
def test_what_is_cut_off_leaves_a_run_like_one_read_later(
    first: int, middle: list[int], end: list[int], payload: bytes, data: st.DataObject
) -> None:
    run = TrackWriter(next_seq=10).run(first, *middle, *end, payload=payload)
    next_seq = data.draw(st.integers(10, run.last_seq))
    cut = check_sequence(track_at(next_seq), run)
    assert cut is not None
    (fresh,) = read_runs(b"".join(frames_of_run(run)[next_seq - 10 :]))
    if cut.first_key != fresh.first_key:
        # The header walk would find an earlier KEY; the last one will do.
        assert (cut.first_key, cut.first_key_seq) == (fresh.last_key, fresh.last_key_seq)
    for name in (
        "room source track first_seq last_seq last_key last_key_seq init_bytes end_offset data"
    ).split():
        assert getattr(cut, name) == getattr(fresh, name), name
    assert (cut.first_key < 0) == (fresh.first_key < 0)


# Tracks


def test_tracks_are_made_at_their_first_frame(source: Source, budget: CacheBudget) -> None:
    track = source.new_track(3, budget)
    assert source.tracks == {3: track}
    assert (track.number, track.expected, track.next_seq) == (3, 0, 0)


def test_after_a_takeover_each_track_may_jump_once(source: Source, budget: CacheBudget) -> None:
    track = source.new_track(0, budget)
    track.expected = 8
    peer = make_peer()
    source.hand_over(peer.member)
    assert source.owner is peer.member
    assert [track.expected, source.new_track(1, budget).expected] == [None, None]


def test_the_state_of_a_track() -> None:
    track = track_at(5)
    assert track.info() == TrackInfo(track=0, state=TrackState(0), last_seq=4)
    track.keyed = True
    assert track.info().state == TrackState.KEYED
    track.init = b"init"
    assert track.info().state == TrackState.KEYED | TrackState.INIT
    track.ended = True
    assert track.info(offered=True).state == 0x0F


def test_a_source_tells_of_each_track(source: Source, budget: CacheBudget) -> None:
    follow(source, TrackWriter(track=1).run(KEY, 0), budget, 1)
    follow(source, TrackWriter(track=0).run(0), budget, 2)
    picture = TrackInfo(track=1, state=TrackState.KEYED, last_seq=1)
    sound = TrackInfo(track=0, state=TrackState(0), last_seq=0)
    assert source.infos() == [picture, sound]
    assert source.info(left=True).tracks == [picture, sound]
    assert source.info(left=True).left
    offered = source.info(offered=True)
    assert [track.state for track in offered.tracks] == [
        TrackState.KEYED | TrackState.CACHED_GROUP,
        TrackState(0),
    ]


def test_a_track_whose_first_frame_was_refused_is_not_told_of(
    source: Source, budget: CacheBudget
) -> None:
    track = source.new_track(0, budget)
    with pytest.raises(RemoteProtocolError):
        check_sequence(track, TrackWriter(next_seq=5).run(0))
    assert source.infos() == []
    assert source.info().tracks == []


# Snapshots


def received(source: Source, node: Node, *, with_groups: bool) -> list[object]:
    return parse(source.opening(node, with_groups=with_groups).data)


def test_a_snapshot_of_nothing_is_empty(source: Source, node: Node) -> None:
    assert source.opening(node, with_groups=True).data == b""
    assert source.opening(node, with_groups=False).data == b""


def test_a_snapshot_is_the_inits_then_the_groups_in_order_of_arrival(
    source: Source, node: Node, budget: CacheBudget
) -> None:
    picture, sound = TrackWriter(track=0), TrackWriter(track=1)
    arrivals = [
        picture.run(INIT),
        sound.run(INIT),
        picture.run(KEY, 0),
        sound.run(KEY),
        picture.run(0),
        sound.run(0),
        picture.run(INIT, 0, payload=b"within the group"),
    ]
    for arrival, run in enumerate(arrivals):
        follow(source, run, budget, arrival)
    frames = [
        (each.track, each.seq)
        for each in received(source, node, with_groups=True)
        if isinstance(each, StreamFrame)
    ]
    assert frames[:2] == [(0, 0), (1, 0)]
    assert frames[2:] == [(0, 1), (0, 2), (1, 1), (0, 3), (1, 2), (0, 4), (0, 5)]


def test_without_groups_a_snapshot_is_the_newest_inits(
    source: Source, node: Node, budget: CacheBudget
) -> None:
    picture = TrackWriter()
    for arrival, run in enumerate([picture.run(INIT), picture.run(KEY), picture.run(INIT, 0)]):
        follow(source, run, budget, arrival)
    assert seqs(received(source, node, with_groups=False)) == [2]


def test_a_track_without_a_group_gives_its_newest_init(
    source: Source, node: Node, budget: CacheBudget
) -> None:
    picture = TrackWriter()
    for arrival, run in enumerate([picture.run(INIT), picture.run(KEY), picture.run(INIT, 0)]):
        follow(source, run, budget, arrival)
    source.drop_caches()
    assert seqs(received(source, node, with_groups=True)) == [2]
    assert node.cache_bytes == 0


def test_what_is_kept_for_joiners_is_counted_until_it_changes(
    source: Source, node: Node, budget: CacheBudget
) -> None:
    picture = TrackWriter()
    follow(source, picture.run(INIT), budget, 1)
    follow(source, picture.run(KEY), budget, 2)
    with_group = source.opening(node, with_groups=True)
    inits = source.opening(node, with_groups=False)
    assert source.opening(node, with_groups=False) is inits
    assert node.pinned_bytes == len(with_group.data) + len(inits.data)
    # Somebody is still being sent one of them.
    inits.charge(len(inits.data), 0.0)
    source.changed()
    assert node.pinned_bytes == len(inits.data)
    inits.settle(len(inits.data), done=True)
    source.changed()
    assert node.pinned_bytes == 0


def test_joiners_share_one_piece_until_the_next_frame(
    source: Source, node: Node, budget: CacheBudget
) -> None:
    picture = TrackWriter()
    follow(source, picture.run(KEY), budget, 1)
    piece = source.opening(node, with_groups=True)
    assert source.opening(node, with_groups=True) is piece
    follow(source, picture.run(0), budget, 2)
    later = source.opening(node, with_groups=True)
    assert later is not piece
    assert seqs(parse(later.data)) == [0, 1]


def test_what_a_reliable_room_held_is_the_first_subscribers(
    source: Source, node: Node, budget: CacheBudget
) -> None:
    picture = TrackWriter()
    source.pace = Pace(10**6, 10**6, 4096, lambda limit: None)
    for arrival, run in enumerate([picture.run(INIT), picture.run(0), picture.run(KEY)]):
        assert source.pace.held is not None
        source.pace.held.append(run.data)
        follow(source, run, budget, arrival)
    for with_groups in (True, False):
        assert seqs(received(source, node, with_groups=with_groups)) == [0, 1, 2]
    source.pace.held = None
    assert seqs(received(source, node, with_groups=True)) == [0, 2]


# Openings for other wires


def test_an_opening_is_encoded_once_for_each_form_and_shared(
    source: Source, node: Node, budget: CacheBudget
) -> None:
    follow(source, TrackWriter().run(KEY, 0), budget, 1)
    one, other = Brackets(), Brackets()
    plain = source.opening(node, with_groups=True)
    piece = source.opening(node, with_groups=True, form=one)
    assert piece is source.opening(node, with_groups=True, form=one)
    assert piece is not source.opening(node, with_groups=True, form=other)
    assert piece.data == b"[" + plain.data + b"]"
    assert len(one.encoded) == 1
    # Each of them is held, and given up with the next frame.
    assert node.pinned_bytes == 3 * len(plain.data) + 4
    source.changed()
    assert node.pinned_bytes == 0


def test_a_large_opening_is_several_pieces_on_other_wires(source: Source) -> None:
    node = Node(limits(room_cache_bytes=MIB, node_cache_bytes=MIB))
    budget = CacheBudget(node)
    writer = TrackWriter()
    for arrival in range(40):
        follow(source, writer.run(0 if arrival else KEY, size=1000), budget, arrival)
    plain = source.opening(node, with_groups=True)
    form = Brackets()
    piece = source.opening(node, with_groups=True, form=form)
    assert piece.data == b"".join(b"[" + part + b"]" for part in form.encoded)
    assert b"".join(form.encoded) == plain.data
    # Whole frames, at least 16 KiB of them, and the rest.
    assert [len(part) for part in form.encoded] == [17_000, 17_000, 6_000]


def test_an_opening_that_is_empty_is_empty_on_every_wire(source: Source, node: Node) -> None:
    form = Brackets()
    assert source.opening(node, with_groups=True, form=form).data == b""
    assert form.encoded == []


def test_what_was_held_is_encoded_too(source: Source, node: Node) -> None:
    run = TrackWriter().run(KEY)
    source.pace = Pace(10**6, 10**6, 4096, lambda limit: None)
    assert source.pace.held is not None
    source.pace.held.append(run.data)
    piece = source.opening(node, with_groups=True, form=Brackets())
    assert piece.data == b"[" + run.data + b"]"
