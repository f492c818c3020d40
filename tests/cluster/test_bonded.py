"""What comes over the bonds of a room while it moves: held, in order, once, or said to be lost."""

from __future__ import annotations

import attrs
import pytest

from tests.core.builders import (
    INIT,
    KEY,
    LIMITS,
    ROOM,
    Peer,
    TrackWriter,
    join,
    make_peer,
    of_kind,
    seqs,
)
from tim_trio.cluster.ahead import WAIT_S
from tim_trio.cluster.bond import Bond, RoomHost
from tim_trio.cluster.bonded import MOVE_S, BondedRoom
from tim_trio.cluster.room import SharedRoom
from tim_trio.cluster.tree import Tree
from tim_trio.core.node import Node
from tim_trio.core.sources import Track
from tim_trio.protocol.messages import (
    Gap,
    GapReason,
    LinkSource,
    RoomMode,
    SourceLeft,
    SourceLeftReason,
    TrackInfo,
    TrackState,
)
from tim_trio.protocol.runs import Run


class Host(RoomHost):
    def __init__(self) -> None:
        self.caught_up_times = 0

    def caught_up(self, room: BondedRoom, now: float) -> None:
        self.caught_up_times += 1
        room.tree.caught_up()


@attrs.define(eq=False)
class Moving:
    """A node with a viewer that has an old parent, a, and a new one, n; a source's first
    frames, 0 to 3, have come from a."""

    mode: RoomMode = RoomMode.LIVE
    node: Node = attrs.field(factory=lambda: Node(LIMITS))
    host: Host = attrs.field(factory=Host)
    room: SharedRoom = attrs.field(init=False)
    viewer: Peer = attrs.field(init=False)
    peers: dict[str, Peer] = attrs.field(factory=dict)
    writer: TrackWriter = attrs.field(factory=TrackWriter)

    def __attrs_post_init__(self) -> None:
        tree = Tree("x", ROOM, 64)
        tree.set_ranking(("a", "x"))
        self.room = SharedRoom(
            ROOM,
            "alice",
            self.mode,
            0,
            300.0,
            0.0,
            self.node,
            "x",
            flush_at=lambda room, when: None,
            me="x",
            host=self.host,
            tree=tree,
        )
        self.viewer = make_peer(self.node)
        join(self.room, self.viewer)
        tree.want(True)
        tree.accepted("a", ("a",))
        self.add("a").as_parent = True
        word = LinkSource(room=ROOM, source=1, account="alice", node="a", epoch=0, tracks=[])
        self.room.hear_of(word, "a", 0.0)
        self.come("a", self.frames(KEY, 0, 0, 0))
        tree.set_ranking(("n", "a", "x"))
        tree.accepted("n", ("n",))
        self.add("n").as_parent = True
        self.room.begin_move(0.0)
        tree.take_actions()

    def add(self, name: str) -> Bond:
        self.peers[name] = make_peer(self.node, account=f"node:{name}")
        return self.room.bond(name, self.peers[name].member, 0, 0.0)

    def frames(self, *flags: int, payload: bytes = b"x") -> Run:
        return self.writer.run(*flags, payload=payload)

    def come(self, name: str, run: Run, now: float = 0.0) -> None:
        self.room.relay(run, self.room.bonds[name], now)

    def is_behind(self) -> bool:
        return self.room.tree.is_behind

    @property
    def track(self) -> Track:
        return self.room.sources[1].tracks[0]

    def got(self, peer: Peer | None = None) -> list[int]:
        """Return all frames' numbers so far, and check that they are in order, once."""
        found = seqs((peer or self.viewer).new())
        assert found == sorted(set(found))
        return found


def seen(items: list[object]) -> list[object]:
    """Return frames' numbers, and of a GAP the first and last it speaks of."""
    return [
        (item.first_seq, item.last_seq) if isinstance(item, Gap) else getattr(item, "seq", None)
        for item in items
        if isinstance(item, Gap) or hasattr(item, "payload")
    ]


@pytest.fixture
def moving() -> Moving:
    made = Moving()
    assert made.got() == [0, 1, 2, 3]
    return made


def test_what_is_ahead_waits_for_what_is_on_the_old_way(moving: Moving) -> None:
    missing, early, more = moving.frames(0, 0), moving.frames(KEY, 0), moving.frames(0)
    moving.come("n", early)
    moving.come("n", more)
    assert seen(moving.viewer.new()) == []
    moving.come("a", missing)
    assert seen(moving.viewer.new()) == [4, 5, 6, 7, 8]
    # Each is sent what it did not bring.
    assert moving.got(moving.peers["n"]) == [4, 5]
    assert moving.got(moving.peers["a"]) == [6, 7, 8]
    cached = moving.track.cache
    assert moving.node.cache_bytes == cached._size
    moving.come("a", early)
    moving.come("a", more)
    assert seen(moving.viewer.new()) == []


def test_what_overlaps_is_cut(moving: Moving) -> None:
    old = moving.frames(0)
    moving.writer.next_seq = 6
    early = moving.frames(KEY, 0, 0)
    moving.writer.next_seq = 5
    old_too = moving.frames(0, KEY, 0)
    moving.come("n", early)
    moving.come("a", old)
    assert seen(moving.viewer.new()) == [4]
    moving.come("a", old_too)
    assert seen(moving.viewer.new()) == [5, 6, 7, 8]
    assert moving.got(moving.peers["a"]) == [8]


def test_the_wait_is_over_when_nothing_comes(moving: Moving) -> None:
    first, _, early = moving.frames(0), moving.frames(0), moving.frames(KEY, 0)
    moving.come("n", early, 1.0)
    moving.come("a", first, 1.0 + WAIT_S / 2)
    moving.room.mind_move(1.0 + WAIT_S)
    assert seen(moving.viewer.new()) == [4]
    moving.room.mind_move(1.0 + WAIT_S * 1.5)
    assert seen(moving.viewer.new()) == [(5, 5), 6, 7]
    assert moving.track not in moving.room._ahead


def test_the_wait_is_over_when_the_old_way_is(moving: Moving) -> None:
    _, early = moving.frames(0), moving.frames(KEY)
    moving.come("n", early)
    moving.room.unbond("a", 0.0)
    assert seen(moving.viewer.new()) == [(4, 4), 5]


def test_the_wait_is_over_when_both_are_ahead(moving: Moving) -> None:
    _, early, later = moving.frames(0), moving.frames(KEY), moving.frames(KEY)
    moving.come("n", later)
    moving.come("a", early)
    assert seen(moving.viewer.new()) == [(4, 4), 5, 6]


def test_what_does_not_fit_the_cache_is_not_held(moving: Moving) -> None:
    _, large = moving.frames(0), moving.frames(KEY, 0, 0, payload=bytes(3000))
    small = moving.frames(KEY)
    moving.come("n", large)
    assert seen(moving.viewer.new()) == [(4, 4), 5, 6, 7]
    assert moving.node.cache_bytes == moving.track.cache._size
    _, some, rest = moving.frames(0), moving.frames(KEY), moving.frames(0, 0, payload=bytes(4000))
    moving.come("n", small)
    moving.come("n", some)
    moving.come("n", rest)
    assert seen(moving.viewer.new()) == [8, (9, 9), 10, 11, 12]


def test_a_gap_is_not_believed_while_another_may_know_better(moving: Moving) -> None:
    missing, early = moving.frames(0), moving.frames(KEY)
    word = Gap(room=ROOM, source=1, track=0, first_seq=4, last_seq=4, reason=GapReason.SKIPPED)
    moving.room.hear_of_gap(word, moving.room.bonds["n"], 0.0)
    moving.come("n", early)
    assert seen(moving.viewer.new()) == []
    moving.come("a", missing)
    assert seen(moving.viewer.new()) == [4, 5]


def test_a_gap_that_both_speak_of_is_one(moving: Moving) -> None:
    _, early = moving.frames(0), moving.frames(KEY)
    word = Gap(room=ROOM, source=1, track=0, first_seq=4, last_seq=4, reason=GapReason.SKIPPED)
    moving.room.hear_of_gap(word, moving.room.bonds["n"], 0.0)
    moving.come("n", early)
    moving.room.hear_of_gap(word, moving.room.bonds["a"], 0.0)
    items = moving.viewer.new()
    assert seen(items) == [(4, 4), 5]
    assert of_kind(Gap, items)[0].reason == GapReason.SKIPPED


def test_a_bond_that_is_old_brings_all_in_order(moving: Moving) -> None:
    _, early = moving.frames(0), moving.frames(KEY)
    moving.come("n", early, MOVE_S)
    assert seen(moving.viewer.new()) == [(4, 4), 5]


def test_children_know_nothing_of_what_a_broken_link_carried(moving: Moving) -> None:
    moving.add("c").as_child = True
    _, early = moving.frames(0), moving.frames(KEY)
    moving.come("n", early)
    moving.room.unbond("a", 0.0)
    assert seen(moving.viewer.new()) == []  # no link is broken: it may
    moving.room.broken_at = 0.0
    moving.room.unbond("z", 0.0)
    moving.room.mind_move(WAIT_S)
    assert seen(moving.viewer.new()) == [(4, 4), 5]
    _, early = moving.frames(0), moving.frames(KEY)
    moving.come("n", early)
    assert seen(moving.viewer.new()) == [(6, 6), 7]


def test_an_init_in_what_is_missing_comes_in_its_place(moving: Moving) -> None:
    first, init, last, early = (moving.frames(flags) for flags in (0, INIT, 0, KEY))
    moving.come("n", init)  # the pinned one, ahead of a new bond's group
    moving.come("n", early)
    moving.come("a", first)
    assert seen(moving.viewer.new()) == [4, 5]
    moving.come("a", init)
    moving.come("a", last)
    assert seen(moving.viewer.new()) == [6, 7]


def test_a_source_ends_behind_its_last_frame(moving: Moving) -> None:
    missing, early = moving.frames(0), moving.frames(KEY)
    moving.come("n", early)
    moving.room.end_far_source(1, SourceLeftReason.UNPUBLISHED, "n", 0.0)
    assert moving.viewer.new() == []
    moving.come("a", missing)
    items = moving.viewer.new()
    assert seen(items) == [4, 5] and isinstance(items[-1], SourceLeft)
    assert not moving.room.sources and not moving.node.cache_bytes


def test_a_room_that_ends_holds_nothing_any_more(moving: Moving) -> None:
    _, early = moving.frames(0), moving.frames(KEY)
    moving.come("n", early)
    moving.room.end_for_all(moving.room.sources[1], SourceLeftReason.REVOKED, 0.0)
    assert not moving.node.cache_bytes and not moving.room._ahead.waiting


def info(last_seq: int) -> list[TrackInfo]:
    return [TrackInfo(track=0, state=TrackState.KEYED, last_seq=last_seq)]


def test_we_have_caught_up_when_all_is_here_and_the_new_way_goes_on(moving: Moving) -> None:
    moving.room.catch_up(1, info(5))
    first, second, third = (moving.frames(0) for _ in range(3))
    moving.come("a", first)
    moving.come("n", first)
    assert moving.is_behind()  # it has had two more
    before = moving.host.caught_up_times
    moving.come("a", second)
    assert not moving.is_behind()
    moving.come("n", third)
    assert moving.host.caught_up_times == before + 1
    assert seen(moving.viewer.new()) == [4, 5, 6]


def test_what_the_new_way_has_not_brought_is_not_waited_for_forever(moving: Moving) -> None:
    moving.room.catch_up(1, info(9))
    moving.come("a", moving.frames(0))
    moving.room.mind_move(moving.room.part_by)
    assert moving.is_behind()
    moving.room.mind_move(moving.room.part_by + 0.1)
    assert not moving.is_behind()


def test_who_comes_back_to_the_tree_alone_begins_anew(moving: Moving) -> None:
    moving.room.unbond("a", 0.0)
    moving.room.unbond("n", 0.0)
    moving.room.unsubscribe(moving.viewer.member)
    moving.add("n").as_parent = True
    assert moving.room._init_bytes == 0 and not moving.room.sources[1].tracks
    moving.frames(0)
    child = moving.add("c")
    child.as_child = True
    moving.come("n", moving.frames(KEY))
    assert seen(moving.peers["c"].new()) == [5]  # it has missed nothing that it was owed


def test_what_a_break_has_left_here_is_kept_for_who_comes(moving: Moving) -> None:
    moving.room.unsubscribe(moving.viewer.member)
    moving.room.broken_at = 0.0
    for name in "an":
        moving.room.unbond(name, 0.0)
    child = moving.add("c")
    moving.room.open_bond(child, (), 0.0)
    assert moving.got(moving.peers["c"]) == [0, 1, 2, 3]
