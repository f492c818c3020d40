"""The counters of a process."""

from tests.core.builders import LIMITS
from tim_trio.core.node import Node
from tim_trio.errors import Code


def test_a_new_node_holds_nothing_and_has_done_nothing() -> None:
    node = Node(LIMITS)
    counters = {name: getattr(node, name) for name in Node.__annotations__ if name != "limits"}
    assert not any(counters.values())
    assert node.limits is LIMITS


def test_closes_are_counted_by_label() -> None:
    node = Node(LIMITS)
    for code in (None, Code.SLOW_CONSUMER, 1005, 1234, None):
        node.count_close(code)
    assert node.closes == {"lost": 2, "slow_consumer": 2, "code 1234": 1}


def test_figures_are_the_numbers_by_name() -> None:
    node = Node(LIMITS)
    node.backlog_bytes = 3
    node.count_close(None)
    figures = node.figures()
    assert figures["backlog_bytes"] == 3
    node.count_limit("max_rooms")
    node.count_limit("max_rooms")
    figures = node.figures()
    assert figures["closed_lost"] == 1
    assert figures["limited_max_rooms"] == 2
    numbers = {
        name
        for name in Node.__annotations__
        if name not in ("limits", "started_at", "closes", "limited")
    }
    assert set(figures) == numbers | {"closed_lost", "limited_max_rooms"}
