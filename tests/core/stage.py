"""A room with everyone in it, for the tests of rooms."""

from tests.core.builders import (
    LIMITS,
    ROOM,
    TOKEN,
    Peer,
    TrackWriter,
    join,
    make_peer,
    make_room,
    open_source,
)
from tim_trio.core.node import Node
from tim_trio.core.room import Room
from tim_trio.core.sources import Source
from tim_trio.limits import Limits
from tim_trio.protocol.messages import (
    Gap,
    GapReason,
    RoomMode,
    StartFrom,
)
from tim_trio.protocol.runs import Run

OTHER_TOKEN = bytes(16)
#: What a reliable source may have under way to one subscriber.
WINDOW = LIMITS.backlog_bytes + LIMITS.max_frame_bytes
#: So much credit may wait for more of it, that one CREDIT tells all.
UNTOLD = WINDOW // 4


class Stage:
    """A room with a publisher, its source, and whoever joins."""

    def __init__(
        self, *, mode: RoomMode = RoomMode.LIVE, gather_ms: int = 0, bounds: Limits = LIMITS
    ) -> None:
        self.node = Node(bounds)
        self.flushes: list[float] = []
        self.room: Room = make_room(
            self.node,
            mode=mode,
            gather_ms=gather_ms,
            flush_at=lambda room, when: self.flushes.append(when),
        )
        self.alice: Peer = make_peer(self.node)
        self.source: Source = open_source(self.room, self.alice)
        self.writer = TrackWriter()

    def peer(self, account: str = "viewer", budget: int | None = None) -> Peer:
        return make_peer(self.node, account=account, budget=budget)

    def viewer(self, start: StartFrom = StartFrom.GROUP, budget: int | None = None) -> Peer:
        """Return a subscriber that has read everything up to now."""
        peer = self.peer()
        join(self.room, peer, start)
        peer.new()
        peer.wire.budget = budget
        return peer

    def push(self, run: Run, now: float = 0.0) -> int:
        return self.room.push(self.source, run, now)

    def send(self, *flags: int, payload: bytes = b"x", size: int = 0) -> int:
        return self.push(self.writer.run(*flags, payload=payload, size=size))

    def take_over(self, token: bytes = TOKEN) -> Peer:
        peer = self.peer("alice")
        self.room.publish(peer.member, token, 1, 0.0)
        return peer


def gap(first_seq: int, last_seq: int, reason: GapReason = GapReason.SKIPPED) -> Gap:
    return Gap(room=ROOM, source=1, track=0, first_seq=first_seq, last_seq=last_seq, reason=reason)


def is_idle_but_room(node: Node) -> bool:
    """Say whether nothing is queued, cached or subscribed."""
    return not any((node.backlog_bytes, node.pinned_bytes, node.lagging, node.subscriptions))
