"""The tree: whoever can be reached gets every frame once, and there is no loop."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.cluster.tree_network import Network
from tim_trio.cluster.tree import MAX_HOPS, Tree
from tim_trio.cluster.tree_words import (
    Accept,
    Ask,
    Invite,
    Leave,
    Overlap,
    Redirect,
    Refuse,
    TellPath,
)

ROOM = 58**10


def tree(me: str, *ranking: str, fanout: int = 64) -> Tree:
    made = Tree(me, ROOM, fanout)
    made.set_ranking(ranking)
    made.take_actions()
    return made


def test_the_relay_is_the_root_and_invites_its_second() -> None:
    relay = tree("a", "a", "b", "c")
    assert not relay.is_active and relay.is_settled
    relay.want(True)
    assert relay.take_actions() == [Invite("b", True)]
    assert relay.path[:9] == ("a",)
    relay.want(False)
    assert relay.take_actions() == [Invite("b", False)]
    assert relay.path == ()


def test_the_last_node_that_withdraws_has_no_ranking_and_goes_on() -> None:
    last = tree("a", "a", "b")
    last.want(True)
    last.take_actions()
    last.set_ranking(())
    assert last.take_actions() == [Invite("b", False)]
    assert last.path[:9] == ("a",)


def test_a_reliable_room_keeps_nobody_warm() -> None:
    relay = tree("a", "a", "b")
    relay.keeps_warm = False
    relay.want(True)
    assert relay.take_actions() == []


def test_an_edge_asks_the_relay_and_leaves_it_when_nobody_is_there() -> None:
    edge = tree("x", "a", "b", "c")
    edge.want(True)
    assert edge.take_actions() == [Ask("a", ("x",))]
    assert edge.is_looking
    edge.accepted("a", ("a",))
    assert edge.take_actions() == []
    assert edge.parent == "a" and edge.path[:9] == ("x", "a") and edge.is_settled
    edge.want(False)
    assert edge.take_actions() == [Leave("a")]
    assert edge.path == ()


def test_the_second_is_the_root_at_once_when_the_relay_breaks_away() -> None:
    second = tree("b", "a", "b", "c")
    second.invited(True)
    second.accepted("a", ("a",))
    second.asked("x", ("x",))
    second.take_actions()
    second.link_down("a")
    assert second.is_root and second.path == ("b",)
    assert second.take_actions() == [Ask("c", ("b",)), TellPath("x", ("b",))]


def test_an_edge_goes_on_to_the_second_and_comes_back_to_the_relay() -> None:
    edge = tree("x", "a", "b", "c")
    edge.want(True)
    edge.accepted("a", ("a",))
    edge.take_actions()
    edge.link_down("a")
    assert edge.take_actions() == [Ask("b", ("x",))]
    edge.accepted("b", ("b", "a"))
    assert edge.is_settled and edge.path == ("x", "b", "a")
    edge.link_up("a")
    assert edge.take_actions() == [Ask("a", ("x",))]
    edge.accepted("a", ("a",))
    assert edge.take_actions() == [Overlap("b", ("x", "a"))]
    edge.caught_up()  # and "b" is in the same tree
    assert edge.take_actions() == [Leave("b")]


def test_a_new_relay_is_joined_before_the_old_one_is_left() -> None:
    edge = tree("x", "a", "b")
    edge.want(True)
    edge.accepted("a", ("a",))
    edge.take_actions()
    edge.set_ranking(("n", "a", "b"))
    assert edge.parent == "a"
    assert edge.take_actions() == [Ask("n", ("x",))]
    edge.accepted("n", ("n",))
    assert edge.take_actions() == [Overlap("a", ("x", "n"))]


def leaving() -> Tree:
    """Return an edge that has a new parent, n, and an old one, a."""
    edge = tree("x", "a", "b")
    edge.want(True)
    edge.accepted("a", ("a",))
    edge.set_ranking(("n", "a", "b"))
    edge.accepted("n", ("n",))
    assert edge.take_actions()[-1] == Overlap("a", ("x", "n"))
    return edge


def test_an_old_parent_is_left_when_it_is_in_the_tree_and_all_it_had_is_here() -> None:
    edge = leaving()
    edge.caught_up()
    assert edge.take_actions() == []
    edge.path_changed("a", ("a", "n"))
    assert edge.take_actions() == [Leave("a")]
    assert edge.parent == "n" and not edge.leaving
    edge = leaving()
    edge.path_changed("a", ("a", "n"))
    assert edge.take_actions() == []
    edge.caught_up()
    assert edge.take_actions() == [Leave("a")]


def test_an_old_parent_is_waited_for_only_so_long() -> None:
    edge = leaving()
    edge.part()
    assert edge.take_actions() == [Leave("a")]
    edge = leaving()
    edge.link_down("a")
    edge.caught_up()
    assert edge.take_actions() == [] and not edge.leaving
    edge = leaving()
    # The way from one to the other may be over us, also when we need neither.
    edge.want(False)
    assert edge.take_actions() == []
    edge.part()
    assert edge.take_actions() == [Leave("a"), Leave("n")]


def test_an_old_parent_may_be_the_parent_again() -> None:
    edge = leaving()
    edge.link_down("n")
    assert edge.take_actions() == [Ask("a", ("x",))]
    edge.accepted("a", ("a",))
    edge.caught_up()
    assert Leave("a") not in edge.take_actions() and edge.parent == "a" and not edge.leaving


def test_a_reliable_room_leaves_an_old_parent_at_once() -> None:
    edge = tree("x", "a", "b")
    edge.overlaps = False
    edge.want(True)
    edge.accepted("a", ("a",))
    edge.set_ranking(("n", "a", "b"))
    edge.accepted("n", ("n",))
    assert edge.take_actions()[-1] == Leave("a")


def test_a_child_that_has_a_better_root_is_followed() -> None:
    old = tree("a", "a", "b", "c")
    old.want(True)
    old.asked("b", ("b",))
    old.asked("c", ("c",))
    old.take_actions()
    old.set_ranking(("b", "c"))
    # It is below us, as far as we know.
    assert old.take_actions() == [Invite("b", False)]
    old.path_changed("b", ("b",))
    assert old.take_actions() == [Ask("b", ("a",))]
    old.accepted("b", ("b",))
    assert old.take_actions() == [TellPath("c", ("a", "b"))]
    # Now nothing more comes this way alone.
    old.caught_up()
    assert old.take_actions() == [TellPath("b", ("a", "b"))]


def test_a_child_that_leaves_is_one_until_then_though_it_asks_anew() -> None:
    old = tree("a", "a", "b", "c")
    old.asked("c", ("c",))
    old.path_changed("c", ("c", "n"))
    old.set_ranking(("n", "c", "a"))
    old.take_actions()
    old.accepted("n", ("n",))
    old.caught_up()
    old.take_actions()
    old.asked("c", ("c", "a"))
    assert old.take_actions() == [Refuse("c")]
    assert old.children == {"c": ("c", "n")}
    old.child_left("c")
    assert old.take_actions() == [Leave("n")]


def test_who_becomes_the_root_stays_with_its_parent_until_that_has_joined() -> None:
    second = tree("b", "a", "b", "c")
    second.want(True)
    second.accepted("a", ("a",))
    second.take_actions()
    second.set_ranking(("b", "c"))
    assert second.is_root
    assert Overlap("a", ("b",)) in second.take_actions()
    second.asked("a", ("a",))
    assert second.take_actions() == [Accept("a", ("b",))]
    second.path_changed("a", ("a", "b"))
    second.caught_up()
    assert second.take_actions() == [Leave("a")]
    # It is below us, and not asked for anything.
    second.set_ranking(("a", "b", "c"))
    assert second.take_actions() == [Ask("c", ("b",)), Invite("c", False)]


def test_a_path_that_comes_to_contain_us_ends_the_bond() -> None:
    edge = tree("x", "a", "b")
    edge.want(True)
    edge.accepted("a", ("a",))
    edge.take_actions()
    edge.path_changed("z", ("z",))  # not our parent's
    assert edge.parent == "a"
    edge.path_changed("a", ("a", "b", "x"))
    assert edge.take_actions()[:2] == [Leave("a"), Ask("a", ("x",))]


def test_who_is_on_our_own_path_is_refused() -> None:
    edge = tree("x", "a", "b")
    edge.want(True)
    edge.accepted("a", ("a",))
    edge.take_actions()
    edge.asked("a", ("a",))
    assert edge.take_actions() == [Refuse("a")]
    edge.asked("y", ("y", "x"))  # it waits for us
    assert edge.take_actions() == [Refuse("y")]


def test_an_endless_path_is_not_taken() -> None:
    edge = tree("x", "a")
    edge.want(True)
    edge.take_actions()
    edge.accepted("a", tuple(f"n{i}" for i in range(MAX_HOPS)))
    assert Leave("a") in edge.take_actions()


def test_an_answer_that_nobody_waits_for_is_given_back() -> None:
    edge = tree("x", "a", "b")
    edge.want(True)
    edge.want(False)
    assert edge.take_actions() == [Ask("a", ("x",)), Leave("a")]
    edge.want(True)
    edge.accepted("a", ("a",))  # the first question's
    assert not edge.path and edge.is_looking
    edge.accepted("a", ("a",))
    assert edge.parent == "a"
    edge.refused("a")
    edge.redirected("a", "b")
    edge.accepted("b", ("b",))
    assert edge.take_actions() == [Ask("a", ("x",))]


def test_a_silent_node_is_given_up_for_the_next() -> None:
    edge = tree("x", "a", "b")
    edge.want(True)
    edge.take_actions()
    edge.give_up()
    assert edge.take_actions() == [Leave("a"), Ask("b", ("x",))]


def test_who_asks_twice_gets_two_answers() -> None:
    second = tree("b", "a", "b")
    second.asked("x", ("x",))
    second.asked("x", ("x",))
    second.child_left("x")
    assert second.take_actions() == [
        Ask("a", ("b", "x")),
        Refuse("x"),
        Refuse("x"),
        Leave("a"),
    ]


def test_a_full_node_sends_further_ones_on_to_its_children() -> None:
    relay = tree("a", "a", "b", fanout=2)
    relay.want(True)
    for child in ("x", "y"):
        relay.asked(child, (child,))
    relay.take_actions()
    sent_on = set()
    for i in range(50):
        relay.asked(f"e{i}", (f"e{i}",))
        (action,) = relay.take_actions()
        assert isinstance(action, Redirect)
        sent_on.add(action.to)
    assert sent_on == {"x", "y"}
    relay.asked("b", ("b",))  # its backup always has a place
    assert relay.take_actions() == [Accept("b", ("a",))]


def test_who_is_sent_on_asks_there_and_does_not_come_back() -> None:
    edge = tree("x", "a", "b")
    edge.want(True)
    edge.take_actions()
    edge.redirected("a", "y")
    assert edge.take_actions() == [Ask("y", ("x",))]
    edge.accepted("y", ("y", "a"))
    assert edge.path == ("x", "y", "a")
    assert edge.take_actions() == [] and edge.is_settled


def test_a_dead_end_of_redirects_leads_to_the_next_in_rank() -> None:
    edge = tree("x", "a", "b")
    edge.want(True)
    edge.take_actions()
    edge.redirected("a", "y")
    edge.refused("y")
    assert edge.take_actions() == [Ask("y", ("x",)), Ask("b", ("x",))]


def test_the_second_waits_warm_only_as_long_as_it_is_the_second() -> None:
    third = tree("c", "a", "b", "c")
    third.invited(True)
    third.set_ranking(("a", "c"))
    assert not third.is_active
    third.invited(True)
    assert third.take_actions() == [Ask("a", ("c",))]
    third.set_ranking(("a", "b", "c"))
    assert not third.is_active


def test_a_node_that_has_started_anew_is_asked_again() -> None:
    root = tree("b", "a", "b")
    root.want(True)
    root.link_down("a")
    assert root.is_root
    root.set_ranking(("b",))
    root.take_actions()
    # Nobody has tried to reach it meanwhile; its record says that it is back.
    root.set_ranking(("a", "b"), ["a"])
    assert root.take_actions() == [Ask("a", ("b",))]
    root.link_down("a")
    root.take_actions()
    root.set_ranking(("a", "b"), ["a"])
    assert root.take_actions() == [Ask("a", ("b",))]


# Networks


@pytest.mark.parametrize("seed", range(10))
def test_a_line_of_nodes_is_gone_round(seed: int) -> None:
    names = ["a", "b", "c", "d", "e"]
    network = Network(names, seed)
    for i, one in enumerate(names):
        for other in names[i + 2 :]:
            network.cut_link(one, other)
    network.rank(["a", "e", "c", "b", "d"])
    for name in ("a", "e"):
        network.nodes[name].tree.want(True)
        network.nodes[name].act()
    network.settle()
    assert network.nodes["e"].tree.path == ("e", "d", "c", "b", "a")
    network.nodes["a"].publish()
    network.nodes["e"].publish()
    network.settle()
    assert ("a", 0) in network.nodes["e"].log and ("e", 0) in network.nodes["a"].log


def test_a_thousand_edges_make_a_flat_tree() -> None:
    names = [f"n{i}" for i in range(1000)]
    network = Network(names, 1, fanout=8)
    network.rank(names[:16])
    for name in names:
        network.nodes[name].tree.want(True)
        network.nodes[name].act()
    network.settle()
    depth = max(len(node.tree.path) for node in network.nodes.values())
    assert depth <= 7
    network.nodes["n500"].publish()
    network.settle()
    for node in network.nodes.values():
        assert node.last == {"n500": 0}
        # Once, over one edge.
        assert node.received == (node.name != "n500")


NAMES = list("abcdefg")
names = st.sampled_from(NAMES)


class Walk(RuleBasedStateMachine):
    """Joins, leaves, cut links, deaths and frames at random, and then the truth."""

    @initialize(
        seed=st.integers(0, 2**16), ranking=st.permutations(NAMES), fanout=st.integers(2, 9)
    )
    def start(self, seed: int, ranking: list[str], fanout: int) -> None:
        self.network = Network(NAMES, seed, fanout)
        self.network.rank(ranking)

    @rule(name=names)
    def join(self, name: str) -> None:
        self._want(name, True)

    @rule(name=names)
    def leave(self, name: str) -> None:
        self._want(name, False)

    def _want(self, name: str, wanted: bool) -> None:
        node = self.network.nodes[name]
        if node.is_alive:
            node.tree.want(wanted)
            node.act()

    @rule(a=names, b=names)
    def cut(self, a: str, b: str) -> None:
        if a != b:
            self.network.cut_link(a, b)

    @rule(a=names, b=names)
    def mend(self, a: str, b: str) -> None:
        if a != b:
            self.network.mend_link(a, b)

    @rule(name=names)
    def kill(self, name: str) -> None:
        if sum(node.is_alive for node in self.network.nodes.values()) > 3:
            self.network.kill(name)

    @rule(ranking=st.permutations(NAMES), left_out=st.sets(names, max_size=2))
    def rank(self, ranking: list[str], left_out: set[str]) -> None:
        self.network.rank(name for name in ranking if name not in left_out)

    @rule(name=names)
    def publish(self, name: str) -> None:
        if self.network.nodes[name].tree.wanted:
            self.network.nodes[name].publish()

    @rule(steps=st.integers(1, 30))
    def let_some_arrive(self, steps: int) -> None:
        for _ in range(steps):
            self.network.step()

    @invariant()
    def every_frame_once_and_in_order(self) -> None:
        if hasattr(self, "network"):
            for node in self.network.nodes.values():
                assert len(set(node.log)) == len(node.log)

    @rule()
    def come_to_rest(self) -> None:
        network = self.network
        network.settle()
        living = [node for node in network.nodes.values() if node.is_alive]
        wanting = [node for node in living if node.tree.wanted]
        for node in wanting:
            # No loop, and the path is true.
            assert node.tree.path, node.name
            here = node
            for step in node.tree.path[1:]:
                assert here.tree.parent == step
                here = network.nodes[step]
            assert here.tree.is_root
        for node in wanting:
            node.publish()
        network.settle()
        ranked = set(network.ranking)
        for node in wanting:
            for other in wanting:
                component = network.component(node.name)
                if other.name in component and ranked & component and self._is_spanned(node.name):
                    assert other.last.get(node.name) == node.published - 1, (
                        f"{other.name} misses {node.name}'s"
                    )

    def _is_spanned(self, name: str) -> bool:
        """Whether ranked nodes alone connect the component: others carry nothing through."""
        component = self.network.component(name)
        ranked = component & set(self.network.ranking)
        found = {min(ranked)}
        frontier = list(found)
        while frontier:
            here = frontier.pop()
            for other in ranked - found:
                if self.network.is_linked(here, other):
                    found.add(other)
                    frontier.append(other)
        return found == ranked and all(
            any(self.network.is_linked(each, other) for other in ranked)
            for each in component - ranked
        )


TestWalk = Walk.TestCase
TestWalk.settings = settings(max_examples=60, stateful_step_count=40)
