"""Nodes of one room in this process: all real but etcd and the sockets.

Members, the directory and links are simulated. What is sent over a link arrives in
order after the link's delay, by a clock that jumps (`trio.testing.MockClock`).
"""

from __future__ import annotations

import contextlib
import random
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, cast

import attrs
import trio

from tests.core.builders import Peer, TrackWriter, join, make_peer, parse
from tim_trio.cluster.cluster import Cluster
from tim_trio.cluster.directory import EtcdDirectory, SourceRecord
from tim_trio.cluster.link import NodeLink
from tim_trio.cluster.links import Links
from tim_trio.cluster.membership import Membership, NodeInfo
from tim_trio.cluster.placement import Placement
from tim_trio.cluster.room import SharedRoom
from tim_trio.core.directory import RoomRecord
from tim_trio.core.manager import RoomManager
from tim_trio.core.node import Node
from tim_trio.core.outbox import Buffer, Outbox
from tim_trio.core.sources import Source
from tim_trio.limits import MIB, Limits
from tim_trio.protocol.decoder import Decoder
from tim_trio.protocol.messages import Gap, RoomMode
from tim_trio.protocol.runs import Run
from tim_trio.protocol.stream import StreamFrame

ROOM: Final = 58**10 + 7
#: At most so long until a node hears of a change of the members.
_WORD_S: Final = 0.05


class _Log:
    """Whatever would be an operator's concern is a fault here."""

    def info(self, event: str, **fields: Any) -> None:
        pass

    def warning(self, event: str, **fields: Any) -> None:
        raise AssertionError((event, fields))

    error = warning


class _Directory:
    """The room is there, and its sources stay."""

    async def find_room(self, room: int) -> RoomRecord:
        await trio.sleep(0.001)
        return RoomRecord(
            room=room, creator="alice", mode=RoomMode.LIVE, gather_ms=0, idle_timeout_s=3600.0
        )

    async def release_source(self, room: int, source: int, epoch: int) -> bool:
        return True

    async def renew_room(self, room: int) -> bool:
        return True


@attrs.define(eq=False)
class _Members:
    me: NodeInfo
    nodes: dict[str, NodeInfo] = attrs.field(factory=dict)
    placement: Placement = attrs.field(factory=lambda: Placement({}))


@attrs.define(eq=False)
class _Links:
    """A node's ends of its links."""

    host: Cluster = attrs.field(init=False)
    established: dict[str, NodeLink] = attrs.field(factory=dict)

    def get(self, peer: str) -> NodeLink | None:
        return self.established.get(peer)

    def is_near(self, peer: str) -> bool:
        return peer in self.established

    def with_link(self, peer: str, use: Callable[[NodeLink | None], None]) -> None:
        use(self.established.get(peer))

    def tell_the_expelled(self, now: float) -> None:
        pass

    forgive = watch = tell_the_expelled

    # What links report (LinkHost)

    def link_up(self, link: NodeLink, now: float) -> None:
        self.established[link.peer] = link
        self.host.link_is_up(link, now)

    def link_lost(self, link: NodeLink, now: float) -> None:
        del self.established[link.peer]
        self.host.link_is_lost(link, now)

    def link_run(self, link: NodeLink, run: Run, now: float) -> int:
        return self.host.link_run(link, run, now)

    def link_message(self, link: NodeLink, message: object, request_id: int, now: float) -> None:
        self.host.link_message(link, message, request_id, now)


@attrs.define(eq=False)
class _Wire:
    """One direction of a link."""

    delay_s: float
    deliver: Callable[[list[Any], float], None] = attrs.field(init=False)
    _under_way: deque[tuple[float, bytes]] = attrs.field(factory=deque)
    _sent: trio.Event = attrs.field(factory=trio.Event)

    def transmit(self, data: Buffer) -> int:
        self._under_way.append((trio.current_time() + self.delay_s, bytes(data)))
        self._sent.set()
        return len(data)

    async def run(self) -> None:
        decoder = Decoder(max_frame_bytes=MIB, max_init_bytes=MIB)
        while True:
            await self._sent.wait()
            self._sent = trio.Event()
            while self._under_way:
                when, data = self._under_way[0]
                await trio.sleep_until(when)
                self._under_way.popleft()
                self.deliver(decoder.feed(data), trio.current_time())


@attrs.define(eq=False)
class SimulatedNode:
    name: str
    cluster: Cluster
    members: _Members
    links: _Links
    #: Ends all that runs here.
    scope: trio.CancelScope

    @property
    def room(self) -> SharedRoom:
        room = self.cluster.room(ROOM)
        assert room is not None
        return room


@attrs.define(eq=False)
class Viewer:
    """Who subscribed at a node, and what it must get."""

    name: str
    peer: Peer

    def check(self, sent: dict[int, int]) -> None:
        """Everything of every source, once, in order, and no GAP."""
        items = parse(bytes(self.peer.wire.taken))
        gaps = [item for item in items if isinstance(item, Gap)]
        assert not gaps, (self.name, gaps)
        seqs: dict[int, list[int]] = {source: [] for source in sent}
        for item in items:
            if isinstance(item, StreamFrame):
                seqs[item.source].append(item.seq)
        for source, count in sent.items():
            assert seqs[source] == list(range(count)), (self.name, source, seqs[source])


@attrs.define(eq=False)
class Publisher:
    node: SimulatedNode
    source: Source
    writer: TrackWriter

    def send(self, *flags: int) -> None:
        run = self.writer.run(*flags, payload=b"x" * 20)
        self.node.room.push(self.source, run, trio.current_time())


@attrs.define(eq=False)
class Simulation:
    """Attributes:
    nodes: those that run.
    longest_s: the longest delay of a link.
    """

    random: random.Random
    nursery: trio.Nursery
    longest_s: float
    nodes: dict[str, SimulatedNode] = attrs.field(factory=dict)
    _members: dict[str, NodeInfo] = attrs.field(factory=dict)
    _started: int = 0

    def start(self, name: str) -> None:
        """Start a node; the others hear of it in their own time."""
        self._started += 1
        me = NodeInfo(name=name, address=name, incarnation=self._started)
        node, members, links = Node(Limits()), _Members(me), _Links()
        log = _Log()
        manager = RoomManager(node, log, name)
        made = SimulatedNode(
            name,
            Cluster(
                manager,
                cast(Membership, members),
                cast(EtcdDirectory, _Directory()),
                log,
                self.nursery,
                cast(Links, links),
                fanout=3,
            ),
            members,
            links,
            trio.CancelScope(),
        )
        self.nursery.start_soon(self._run, made)
        for other in self.nodes.values():
            self._link(made, other)
        self.nodes[name] = made
        self._members[name] = me
        self._spread()

    async def _run(self, node: SimulatedNode) -> None:
        with node.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(node.cluster.follow_members)
                nursery.start_soon(node.cluster.run)

    def _link(self, one: SimulatedNode, other: SimulatedNode) -> None:
        ends = []
        wires = [_Wire(self.random.uniform(0, self.longest_s)) for _ in range(2)]
        for here, there, wire in ((one, other, wires[0]), (other, one, wires[1])):
            outbox = Outbox(
                wire.transmit,
                here.cluster.manager.node,
                start_writer=lambda: None,
                on_abort=lambda: None,
            )
            ends.append(NodeLink(there.name, 1, True, outbox, here.links))
        for link, wire in zip(ends, reversed(wires), strict=True):
            wire.deliver = _receiver(link)
            self.nursery.start_soon(wire.run)
        for link in ends:
            link.begin(trio.current_time())

    def _spread(self) -> None:
        for node in self.nodes.values():
            self.nursery.start_soon(self._tell, node, self.random.uniform(0, _WORD_S))

    async def _tell(self, node: SimulatedNode, after_s: float) -> None:
        await trio.sleep(after_s)
        node.members.nodes = dict(self._members)
        node.members.placement = Placement(
            {name: 1 for name, info in self._members.items() if not info.draining}
        )
        node.cluster.members_changed()

    async def stop(self, name: str) -> None:
        """Stop a node as SIGTERM does: it withdraws, hands over, and is gone."""
        self._members[name] = attrs.evolve(self._members[name], draining=True)
        self._spread()
        await trio.sleep(_WORD_S)
        with trio.move_on_after(10):
            while self.nodes[name].cluster.is_bridge:  # noqa: ASYNC110 - as a node does
                await trio.sleep(0.02)
        # What it has sent arrives, as a socket that is closed sees to.
        await trio.sleep(self.longest_s)
        node = self.nodes.pop(name)
        node.scope.cancel()
        now = trio.current_time()
        for other in self.nodes.values():
            other.links.established[name].end(now)
        del self._members[name]
        self._spread()

    async def subscribe(self, name: str) -> Viewer:
        peer = make_peer(self.nodes[name].cluster.manager.node, account=f"viewer-{name}")
        room = await self.nodes[name].cluster.open_room(ROOM)
        assert room is not None
        join(room, peer)
        return Viewer(name, peer)

    async def publish(self, name: str, number: int) -> Publisher:
        peer = make_peer(self.nodes[name].cluster.manager.node)
        room = await self.nodes[name].cluster.open_room(ROOM)
        assert room is not None
        room.claim = SourceRecord(number=number, account="alice", node=name, epoch=0)
        source = room.publish(peer.member, bytes([number]) * 16, 1, trio.current_time())
        return Publisher(self.nodes[name], source, TrackWriter(ROOM, source.number))


def _receiver(link: NodeLink) -> Callable[[list[Any], float], None]:
    def receive(items: list[Any], now: float) -> None:
        for item in items:
            if link.is_over:
                return
            if isinstance(item, Run):
                link.receive_run(item, now)
            else:
                link.receive_control(item, now)

    return receive


@contextlib.asynccontextmanager
async def simulated(seed: int, longest_s: float) -> AsyncIterator[Simulation]:
    async with trio.open_nursery() as nursery:
        yield Simulation(random.Random(seed), nursery, longest_s)
        nursery.cancel_scope.cancel()
