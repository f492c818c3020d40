"""The tree of one room as one node sees it: who is its parent, who its children.

Sans-IO: events come in as method calls, actions go out of `take_actions`.
Frames flood along the edges that this makes (and `seq` drops repeats), so a
moment of disagreement costs a copy, never order.

The rules:

* The first of the ranking is the root. Everyone else has one parent: whoever
  offers the best path, by the root's rank, then hops, then the parent's rank.
  Candidates are asked one after another in order of rank, so the relay first.
* An offer is a path from the offerer to the root. A path that contains the
  asker is refused, and one that comes to contain us ends the bond, so a loop
  cannot last.
* Where all better-ranked nodes are out of reach a node is the root at once,
  and then asks the worse-ranked ones for a way around.
* A new parent is taken before the old one is left, and in a live room we stay the
  old one's child until frames need that way no more: until we have what the new
  parent had when it took us, and the old one is in the same tree, as its path
  tells, which it has joined with all it had by then.
* A node with `fanout` children sends further ones on to one of them.

Source: protocol.md, section 12; docs/cluster.md, "The tree".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Final

import attrs

from tim_trio.cluster.placement import RANKED, node_seed, score
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

#: A path this long is a mistake: a tree of 64 children each is three deep.
MAX_HOPS: Final = 16
_MAX_REDIRECTS: Final = 8


#: How good a place in the tree is: the root's rank, hops to it, the parent's rank.
_Value = tuple[tuple[int, str], int, tuple[int, str]]


@attrs.define(eq=False)
class Tree:
    """One room at one node.

    Attributes:
        ranking: the room's nodes, the relay first.
        keeps_warm: the room's second is to be invited (live rooms only).
        wanted: somebody here publishes or subscribes.
        warm: we are the second, and were invited.
        parent: None for a root, and for who is still looking.
        is_root: also of an island, where nobody better can be reached.
        overlaps: an old parent is left only when it is not needed (live rooms only).
        children: each with its path where that leads elsewhere by now.
        leaving: old parents whose child we still are, and their paths.
        is_behind: until `caught_up`, after a new parent has taken us.
    """

    me: str
    room: int
    fanout: int
    keeps_warm: bool = True
    ranking: Path = ()
    wanted: bool = False
    warm: bool = False
    parent: str | None = None
    is_root: bool = False
    overlaps: bool = True
    children: dict[str, Path] = attrs.field(factory=dict)
    leaving: dict[str, Path] = attrs.field(factory=dict)
    is_behind: bool = False
    _parent_path: Path = ()
    # Who asked us, and who waits for that, until we know what to answer.
    _askers: dict[str, Path] = attrs.field(factory=dict)
    # The one we have asked and not heard of; and from whom so many answers
    # will come that we have given up waiting for.
    _asked: str | None = None
    _stale: Counter[str] = attrs.field(factory=Counter)
    _tried: set[str] = attrs.field(factory=set)
    _sent_on: list[str] = attrs.field(factory=list)
    _redirects: int = 0
    # Our parent was named by a redirect: nobody nearer to the root has a place.
    _was_sent_on: bool = False
    # Peers that have too many children to take us.
    _full: set[str] = attrs.field(factory=set)
    _down: set[str] = attrs.field(factory=set)
    _invited: str | None = None
    # What each child knows of our path.
    _told: dict[str, Path] = attrs.field(factory=dict)
    _ranks: dict[str, int] = attrs.field(factory=dict)
    _actions: list[Action] = attrs.field(factory=list)

    def take_actions(self) -> list[Action]:
        """Return what is to be done since the last call, in order."""
        actions, self._actions = self._actions, []
        return actions

    @property
    def path(self) -> Path:
        """The way to the root, from us; empty while we are looking."""
        if self.is_root:
            return (self.me,)
        return (self.me, *self._parent_path) if self.parent is not None else ()

    @property
    def is_active(self) -> bool:
        """Whether this node has any business in the room's tree."""
        return (
            self.wanted
            or self.warm
            or bool(self._askers)
            # We are the bridge between an old parent and the new one.
            or bool(self.leaving)
            or any(child != self._invited for child in self.children)
        )

    @property
    def is_settled(self) -> bool:
        """Whether there is nothing better to look for."""
        return not self.is_active or (bool(self.path) and not self._candidates())

    @property
    def is_looking(self) -> bool:
        """Whether an answer is awaited."""
        return self._asked is not None

    # What happens here

    def set_ranking(self, ranking: Sequence[str], returned: Collection[str] = ()) -> None:
        """The live nodes have changed. ``returned``: those that have started anew,
        and may be in reach again though nobody has tried."""
        were_down = self._down.intersection(returned)
        self._down -= were_down
        self._tried -= were_down
        if tuple(ranking) == self.ranking and not were_down:
            return
        self.ranking = tuple(ranking)
        self._ranks = {name: rank for rank, name in enumerate(ranking)}
        self._full.clear()
        if self.ranking[1:2] != (self.me,):
            self.warm = False
        self._look()

    def want(self, wanted: bool) -> None:
        """Somebody here publishes or subscribes, or nobody does any more."""
        self.wanted = wanted
        self._look()

    def invited(self, warm: bool) -> None:
        """The root wants us to hold the room warm, or not."""
        self.warm = warm and self.ranking[1:2] == (self.me,)
        self._look()

    def link_up(self, peer: str) -> None:
        """A node can be reached again."""
        if peer in self._down:
            self._down.discard(peer)
            self._tried.discard(peer)
            self._look()

    def link_down(self, peer: str) -> None:
        """A node is out of reach: its link broke, or could not be made."""
        self._down.add(peer)
        self._full.discard(peer)
        self._stale.pop(peer, None)
        self._askers.pop(peer, None)
        self.children.pop(peer, None)
        self._told.pop(peer, None)
        self.leaving.pop(peer, None)
        if self._invited == peer:
            self._invited = None
        if self.parent == peer:
            self._lose_parent()
        if self._asked == peer:
            self._asked = None
        self._look()

    def look_again(self) -> None:
        """Try anew what was refused. To be called now and then while not settled."""
        if self._asked is None:
            self._tried.clear()
            self._full.clear()
            self._look()

    # What other nodes say

    def asked(self, peer: str, waiting: Path) -> None:
        """A node wants to be our child."""
        was_active = self.is_active
        elsewhere = self.children.get(peer)
        self._forget_child(peer)
        if elsewhere:
            # It stays with us until it leaves, whatever we answer.
            self.children[peer] = elsewhere
        if self.me in waiting or self._asked in waiting[1:]:
            self._actions.append(Refuse(peer))
            return
        if not self.path and was_active and self._rank(peer) < self._rank(self.me):
            # Both are looking, and who looks for the better-ranked waits.
            self._actions.append(Refuse(peer))
            return
        self._askers[peer] = waiting
        self._look()

    def child_left(self, peer: str) -> None:
        self._forget_child(peer)
        if self._invited == peer:
            self._invited = None
        self._look()

    def _forget_child(self, peer: str) -> None:
        self.children.pop(peer, None)
        self._told.pop(peer, None)
        if self._askers.pop(peer, None) is not None:
            # Every question has one answer, in order: so both sides know
            # which answer is to which.
            self._actions.append(Refuse(peer))

    def accepted(self, peer: str, path: Path) -> None:
        """A node we asked takes us as its child. We are, if it then is our `parent`."""
        if not self._answered(peer):
            return  # it has been told already that we left
        usable = self.me not in path and len(path) < MAX_HOPS
        if usable and self.is_active and self._value(path) < self._current():
            before, before_path = self.parent, self._parent_path
            self.leaving.pop(peer, None)
            self.parent = peer
            self._parent_path = path
            self._was_sent_on = peer in self._sent_on
            self.is_root = False
            self.is_behind = True
            if before is not None and before != peer:
                self._outgrow(before, before_path)
        elif peer in self.leaving:
            self.leaving[peer] = path
        elif peer != self.parent:
            self._leave(peer)
        self._look()

    def _outgrow(self, peer: str, path: Path) -> None:
        """We have a better place than with our parent, which is one no longer."""
        if self.overlaps:
            self.leaving[peer] = path
            self._actions.append(Overlap(peer, self.path))
        else:
            self._leave(peer)

    def _leave(self, peer: str) -> None:
        self.leaving.pop(peer, None)
        self._actions.append(Leave(peer))

    def caught_up(self) -> None:
        """What the new parent had when it took us has come, by it or by an old one."""
        self.is_behind = False
        self._look()

    def part(self) -> None:
        """Wait for old parents no longer."""
        for peer in list(self.leaving):
            if peer == self._asked:
                # It may accept us before it hears that we leave.
                self._abandon()
            self._leave(peer)
        self._look()

    def refused(self, peer: str) -> None:
        """A node we asked has no path for us."""
        if self._answered(peer):
            self._look()

    def give_up(self) -> None:
        """The node we asked has not answered in time."""
        if self._asked is not None:
            self._abandon()
            self._look()

    def _abandon(self) -> None:
        if self._asked is not None:
            self._stale[self._asked] += 1
            if self._asked not in self.leaving:
                self._leave(self._asked)
            self._asked = None

    def redirected(self, peer: str, to: str) -> None:
        """A node we asked has children enough and names another."""
        if not self._answered(peer):
            return
        self._full.add(peer)
        if to != self.me and self._redirects < _MAX_REDIRECTS:
            self._redirects += 1
            self._tried.discard(to)
            self._sent_on.append(to)
        self._look()

    def path_changed(self, peer: str, path: Path) -> None:
        """Our parent has another path to the root; or an old one has, or a child that leaves."""
        if peer in self.leaving:
            self.leaving[peer] = path
        elif peer in self.children and peer != self.parent:
            # It is not below us any more, and may lead to a better root.
            self.children[peer] = () if self.me in path else path
            self._tried.difference_update(path)
        if peer != self.parent:
            self._look()
            return
        if not path or self.me in path or len(path) >= MAX_HOPS:
            self._leave(peer)
            self._lose_parent()
        else:
            self._parent_path = path
            self._tried.clear()
        self._look()

    # The search

    def _rank(self, name: str) -> tuple[int, str]:
        # Those beyond the ranking are all the same, but for their names.
        return (self._ranks.get(name, len(self.ranking)), name)

    def _value(self, path: Path) -> _Value:
        return (self._rank(path[-1]), len(path), self._rank(path[0]))

    def _current(self) -> _Value:
        """How good our place is; a root's is its own rank, and none is the worst."""
        if self.parent is not None:
            return self._value(self._parent_path)
        if self.is_root:
            return (self._rank(self.me), 0, self._rank(self.me))
        return ((len(self.ranking) + 1, ""), 0, (0, ""))

    def _candidates(self) -> list[str]:
        """Return whom to ask, in order: all that might have a better place for us."""
        # The parent's own rank decides between offers; it is not worth a question.
        root, hops_now, _ = self._current()
        best_root = self._rank(self.ranking[0]) if self.ranking else (0, "")
        if self._was_sent_on and self.parent is not None:
            hops_now = 0
        waiting = {name for chain in self._askers.values() for name in chain}
        found = []
        # Who has a parent leaves a way around to the root of its tree, which
        # has one to find; thousands would ask at once.
        among = self.ranking if self.parent is None else self.ranking[:RANKED]
        for name in (*self._sent_on, *among):
            if name in (self.me, self.parent) or name in self._down or name in self._full:
                continue
            if name in waiting or self._is_below(name):
                continue
            hops = 1 if self._ranks.get(name) == 0 else 2
            if (best_root, hops) < (root, hops_now) and name not in found:
                found.append(name)
        return found

    def _look(self) -> None:
        """Go on until an answer is needed, or nothing is left to do."""
        if not self.is_active:
            self._dissolve()
            return
        if self.ranking[:1] == (self.me,) or (
            self.parent is not None and self._value(self._parent_path)[0] > self._rank(self.me)
        ):
            self._be_root()
        if self._asked is None:
            self._ask_next()
        self._answer()
        self._tell_children()
        self._keep_warm()
        self._finish_moves()

    def _finish_moves(self) -> None:
        path = self.path
        if path and not self.is_behind:
            for peer, theirs in list(self.leaving.items()):
                if theirs and theirs[-1] == path[-1] and peer != self._asked:
                    self._leave(peer)

    def _is_below(self, name: str) -> bool:
        """Whether a node's path leads over us, as far as we know."""
        return self.children.get(name) == ()

    def _ask_next(self) -> None:
        better_left = False
        for name in self._candidates():
            if name in self._tried:
                continue
            if self._rank(name) < self._rank(self.me) or name in self._sent_on:
                better_left = True
            if not better_left and not self.path:
                # Nobody better can be had: be the root first, then look around.
                self._be_root()
                if name not in self._candidates():
                    continue
            self._tried.add(name)
            self._asked = name
            chains = [name for chain in self._askers.values() for name in chain]
            self._actions.append(Ask(name, (self.me, *dict.fromkeys(chains))))
            return
        self._sent_on.clear()
        self._redirects = 0
        if not self.path:
            self._be_root()

    def _be_root(self) -> None:
        before, before_path = self.parent, self._parent_path
        self.parent = None
        self._parent_path = ()
        self.is_root = True
        if before is not None:
            self.is_behind = True
            self._outgrow(before, before_path)
        if self.ranking[:1] == (self.me,):
            self._abandon()

    def _lose_parent(self) -> None:
        self.parent = None
        self._parent_path = ()
        self._tried.clear()
        self._full.clear()

    def _answered(self, peer: str) -> bool:
        """Take note of an answer; False when nobody waits for it any more."""
        if self._stale[peer]:
            self._stale[peer] -= 1
            return False
        if self._asked != peer:
            return False
        self._asked = None
        return True

    def _answer(self) -> None:
        path = self.path
        if not path:
            return
        root = self._rank(path[-1])
        for peer, waiting in list(self._askers.items()):
            if peer in path:
                self._actions.append(Refuse(peer))
            elif self._asked is not None and root > min(map(self._rank, waiting)):
                continue  # of no use to somebody who waits; we may find a better root yet
            elif root > self._rank(peer):
                self._actions.append(Refuse(peer))
            elif len(below := self._below()) >= self.fanout and peer not in self._ranks:
                # By hash, so that all are used.
                key = score(self.room, node_seed(peer))
                to = max(below, key=lambda child: score(key, node_seed(child)))
                self._actions.append(Redirect(peer, to))
            else:
                self.children[peer] = ()
                self._told[peer] = path
                self._actions.append(Accept(peer, path))
            del self._askers[peer]
        if not self.is_active:
            self._dissolve()

    def _below(self) -> list[str]:
        return [child for child, path in self.children.items() if not path]

    def _tell_children(self) -> None:
        path = self.path
        for child, elsewhere in self.children.items() if path else ():
            # To one that leaves it says that all we had can come another way.
            if self._told.get(child) != path and not (elsewhere and self.is_behind):
                self._told[child] = path
                self._actions.append(TellPath(child, path))

    def _keep_warm(self) -> None:
        second = self.ranking[1] if len(self.ranking) > 1 else None
        if not (self.keeps_warm and self.is_root and self.ranking[:1] == (self.me,)):
            second = None
        if self._invited not in (None, second):
            assert self._invited is not None
            self._actions.append(Invite(self._invited, False))
            self._invited = None
        if second is not None and self._invited is None and second not in self._down:
            self._invited = second
            self._actions.append(Invite(second, True))

    def _dissolve(self) -> None:
        """Nobody needs us: leave the tree."""
        if self._invited is not None:
            self._actions.append(Invite(self._invited, False))
            self._invited = None
        if self.parent is not None:
            self._leave(self.parent)
        self._abandon()
        self.parent = None
        self._parent_path = ()
        self._told.clear()
        self.is_root = False
        self._tried.clear()
        self._full.clear()
        self._sent_on.clear()
