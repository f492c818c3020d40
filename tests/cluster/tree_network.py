"""Trees of one room on simulated nodes, links and frames, for tests and the simulator.

Links are pairs of queues, in order each; between links any order may happen.
A link that is cut loses what is under way, and both ends are told.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable

from tim_trio.cluster.tree import Tree
from tim_trio.cluster.tree_words import (
    Accept,
    Action,
    Ask,
    Invite,
    Leave,
    Overlap,
    Path,
    Redirect,
    Refuse,
    TellPath,
)

#: What goes over a link: a word of the tree, or a frame's (publisher, seq).
Message = Action | tuple[str, int]


class Peer:
    """One node: its tree, and what a room does with frames."""

    def __init__(self, network: Network, name: str, fanout: int) -> None:
        self.network = network
        self.name = name
        self.tree = Tree(name, 58**10, fanout)
        self.is_alive = True
        # Both ends keep a bond for themselves, as a subscription on a link.
        self.parents: set[str] = set()
        self.children: set[str] = set()
        self.last: dict[str, int] = {}
        self.log: list[tuple[str, int]] = []
        self.received = 0
        self.published = 0

    def act(self) -> None:
        """Carry out what the tree wants."""
        for action in self.tree.take_actions():
            match action:
                case Ask(peer) | Refuse(peer) | Redirect(peer) | TellPath(peer) | Invite(peer):
                    pass
                case Overlap(peer):
                    pass
                case Leave(peer):
                    self.parents.discard(peer)
                case Accept(peer):
                    self.children.add(peer)
            if not self.network.send(self.name, peer, action):
                self.tree.link_down(peer)
                self.act()

    def receive(self, sender: str, message: Message) -> None:
        match message:
            case (str(), int()):
                self.flood(message, sender)
                return
            case Ask(_, waiting):
                self.tree.asked(sender, waiting)
            case Leave():
                self.children.discard(sender)
                self.tree.child_left(sender)
            case Accept(_, path):
                self.tree.accepted(sender, path)
                if self.tree.parent == sender:
                    self.parents.add(sender)
                    self.send_held(sender)
            case Refuse():
                self.tree.refused(sender)
            case Redirect(_, to):
                self.tree.redirected(sender, to)
            case TellPath(_, path) | Overlap(_, path):
                self.tree.path_changed(sender, path)
            case Invite(_, warm):
                self.tree.invited(warm)
        for action in self.tree._actions:
            if isinstance(action, Accept):
                self.network.opening.append((self.name, action.peer))
        if self.tree.is_behind:
            # A new bond begins with all there was: nothing can be missing.
            self.tree.caught_up()
        self.act()
        self.network.open_all()

    def send_held(self, peer: str) -> None:
        """A new bond begins with what is cached: here, all there was."""
        for frame in self.log:
            self.network.send(self.name, peer, frame)

    def publish(self) -> None:
        self.flood((self.name, self.published), None)
        self.published += 1

    def flood(self, frame: tuple[str, int], sender: str | None) -> None:
        self.received += sender is not None
        source, seq = frame
        if seq <= self.last.get(source, -1):
            return
        self.last[source] = seq
        self.log.append(frame)
        for peer in self.parents | self.children:
            if peer != sender:
                self.network.send(self.name, peer, frame)

    def link_down(self, peer: str) -> None:
        self.parents.discard(peer)
        self.children.discard(peer)
        self.tree.link_down(peer)
        self.act()


class Network:
    """All nodes, and the links between them."""

    def __init__(self, names: Iterable[str], seed: int, fanout: int = 64) -> None:
        self.random = random.Random(seed)
        self.fanout = fanout
        self.nodes: dict[str, Peer] = {}
        self.cut: set[frozenset[str]] = set()
        self.queues: dict[tuple[str, str], deque[Message]] = {}
        # The pairs among which something is under way, each once.
        self.busy: list[tuple[str, str]] = []
        self.opening: list[tuple[str, str]] = []
        #: Who is in the ranking, first to last.
        self.ranking: Path = ()
        for name in names:
            self.nodes[name] = Peer(self, name, fanout)

    def rank(self, ranking: Iterable[str]) -> None:
        self.ranking = tuple(ranking)
        for node in self.nodes.values():
            if node.is_alive:
                node.tree.set_ranking(self.ranking)
                node.act()

    def is_linked(self, a: str, b: str) -> bool:
        return (
            b in self.nodes
            and self.nodes[a].is_alive
            and self.nodes[b].is_alive
            and frozenset((a, b)) not in self.cut
        )

    def send(self, sender: str, peer: str, message: Message) -> bool:
        if not self.is_linked(sender, peer):
            return False
        queue = self.queues.setdefault((sender, peer), deque())
        if not queue:
            self.busy.append((sender, peer))
        queue.append(message)
        return True

    def open_all(self) -> None:
        """Send what is held to who was just accepted, behind the acceptance."""
        while self.opening:
            name, peer = self.opening.pop()
            self.nodes[name].send_held(peer)

    def cut_link(self, a: str, b: str) -> None:
        """Cut two nodes off from each other; both notice."""
        self.cut.add(frozenset((a, b)))
        self._forget(a, b)

    def _forget(self, a: str, b: str) -> None:
        for pair in ((a, b), (b, a)):
            if self.queues.pop(pair, None):
                self.busy.remove(pair)
        for one, other in ((a, b), (b, a)):
            if one in self.nodes and self.nodes[one].is_alive:
                self.nodes[one].link_down(other)

    def mend_link(self, a: str, b: str) -> None:
        self.cut.discard(frozenset((a, b)))
        if self.is_linked(a, b):
            for one, other in ((a, b), (b, a)):
                self.nodes[one].tree.link_up(other)
                self.nodes[one].act()

    def kill(self, name: str) -> None:
        self.nodes[name].is_alive = False
        for other in self.nodes:
            if other != name:
                self._forget(other, name)

    def step(self) -> bool:
        """Deliver one message of some link; False when there is none."""
        if not self.busy:
            return False
        index = self.random.randrange(len(self.busy))
        sender, receiver = self.busy[index]
        queue = self.queues[sender, receiver]
        message = queue.popleft()
        if not queue:
            self.busy[index] = self.busy[-1]
            self.busy.pop()
        self.nodes[receiver].receive(sender, message)
        return True

    def settle(self, rounds: int = 12) -> int:
        """Deliver everything, and let who is not content look again; return the steps."""
        steps = 0
        for _ in range(rounds):
            while self.step():
                steps += 1
                assert steps < 100 * len(self.nodes) + 200_000, "it never comes to rest"
            restless = [
                node for node in self.nodes.values() if node.is_alive and not node.tree.is_settled
            ]
            parting = [node for node in self.nodes.values() if node.is_alive and node.tree.leaving]
            for node in parting:
                node.tree.part()
                node.act()
            for node in restless:
                node.tree.give_up()
                node.tree.look_again()
                node.act()
            if not self.busy:
                break
        return steps

    def component(self, name: str) -> set[str]:
        """Return all nodes that can be reached from one, over any others."""
        found = {name}
        frontier = [name]
        while frontier:
            here = frontier.pop()
            for other in self.nodes:
                if other not in found and self.is_linked(here, other):
                    found.add(other)
                    frontier.append(other)
        return found
