"""Credit: how far a source of a reliable room may go, on bare numbers."""

import gc
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.builders import LIMITS, ROOM, make_peer
from tim_trio.core.node import Node
from tim_trio.core.pace import Flow, Pace
from tim_trio.core.subscription import Subscription

WINDOW = 800
HOLD = 800
FRAME = 100
QUARTER = WINDOW // 4


class Course:
    """A pace and what its publisher was told."""

    def __init__(self) -> None:
        self.told: list[int] = []
        self.pace = Pace(WINDOW, HOLD, FRAME, self.told.append)

    def subscriber(self, credit: int = 0) -> Subscription:
        node = Node(LIMITS)
        return Subscription(ROOM, make_peer(node).outbox, node, credit)

    def join(self, credit: int = 0) -> Flow:
        subscription = self.subscriber(credit)
        self.pace.join(subscription)
        return self.pace.flow(subscription)

    def send(self, size: int, *queued: Flow) -> None:
        """Hand on bytes of which some flows' kernels take none."""
        self.pace.received += size
        for flow in queued:
            flow.charge(size, 0.0)
        self.pace.handed_on(size)

    def left(self) -> int:
        return self.pace.told - self.pace.received


@pytest.fixture
def course() -> Course:
    return Course()


def test_a_source_may_send_a_window_before_anyone_has_come(course: Course) -> None:
    assert (course.pace.told, course.pace.held) == (WINDOW, [])
    for _ in range(8):
        course.send(FRAME)
    assert (course.left(), course.told) == (0, [])
    assert not course.pace.overdrawn
    course.pace.received += 1
    assert course.pace.overdrawn


def test_where_nothing_is_held_the_source_waits_for_the_first_subscriber() -> None:
    told: list[int] = []
    pace = Pace(WINDOW, 0, FRAME, told.append)
    assert pace.told == 0
    pace.join(Course().subscriber())
    assert told == [WINDOW]


def test_the_first_subscriber_lets_it_go_on(course: Course) -> None:
    course.send(WINDOW)
    course.join()
    assert course.pace.held is None
    assert course.told == [2 * WINDOW]


def test_credit_follows_the_slowest(course: Course) -> None:
    quick, slow = course.join(credit=10**9), course.join(credit=10**9)
    course.told.clear()
    course.send(QUARTER, slow)
    course.send(QUARTER, slow)
    # The slow one holds 400 bytes: the window is what is left of it.
    assert course.pace.told == WINDOW
    slow.settle(QUARTER, done=True)
    assert course.told == [WINDOW + QUARTER]
    quick.charge(10, 0.0)
    quick.settle(10, done=True)
    assert course.told == [WINDOW + QUARTER]
    slow.settle(QUARTER, done=True)
    assert course.told == [WINDOW + QUARTER, WINDOW + 2 * QUARTER]


def test_credit_is_told_a_quarter_of_the_window_at_a_time(course: Course) -> None:
    course.join(credit=10**9)
    course.told.clear()
    for _ in range(QUARTER // 10):
        course.send(10)
    assert course.told == [WINDOW + QUARTER]


def test_a_subscribers_grant_bounds_it_and_never_falls(course: Course) -> None:
    flow = course.join()
    course.told.clear()
    for _ in range(WINDOW // FRAME):
        course.send(FRAME)
    assert (course.left(), course.told) == (0, [])
    course.pace.grant(flow.subscription, WINDOW - 1)
    course.pace.grant(flow.subscription, WINDOW)
    assert course.told == []
    course.pace.grant(flow.subscription, WINDOW + 5)
    assert course.told == [WINDOW + 5]


def test_a_grant_counts_from_when_the_subscriber_came(course: Course) -> None:
    course.send(500)
    flow = course.join()
    course.told.clear()
    course.pace.grant(flow.subscription, 2000)
    course.send(WINDOW)
    assert course.pace.told == 500 + 2 * WINDOW
    course.send(WINDOW)
    assert course.pace.told == 500 + 2000


def test_a_grant_of_one_who_is_not_the_slowest_changes_nothing(course: Course) -> None:
    slow, quick = course.join(), course.join(credit=10**6)
    course.send(QUARTER)
    course.told.clear()
    course.pace.grant(quick.subscription, 10**9)
    assert course.told == []
    course.pace.grant(slow.subscription, 10**9)
    assert course.told == [QUARTER + WINDOW]


def test_who_leaves_no_longer_holds_it_up(course: Course) -> None:
    slow, _ = course.join(), course.join(credit=10**9)
    course.send(WINDOW, slow)
    course.told.clear()
    course.pace.leave(slow.subscription)
    assert course.told == [2 * WINDOW]
    course.pace.leave(slow.subscription)
    # What it had queued is given up later.
    slow.settle(WINDOW, done=True)
    assert course.told == [2 * WINDOW]


def test_when_everyone_has_left_the_source_waits(course: Course) -> None:
    flow = course.join(credit=10**9)
    course.send(WINDOW, flow)
    told = course.pace.told
    course.pace.leave(flow.subscription)
    flow.settle(WINDOW, done=True)
    course.pace.handed_on(0)
    assert course.pace.told == told
    course.join()
    assert course.left() == WINDOW


def test_what_is_queued_of_a_source_that_is_over_is_nobodys_wait(course: Course) -> None:
    flow = course.join()
    course.send(WINDOW, flow)
    subscription, pace = weakref.ref(flow.subscription), weakref.ref(course.pace)
    course.pace.close()
    flow.settle(WINDOW, done=True)
    assert (flow.pending_bytes, course.told) == (0, [])
    # No cycle keeps either.
    gc.disable()
    try:
        del course.pace, flow
        assert (pace(), subscription()) == (None, None)
    finally:
        gc.enable()


def test_repeats_cost_no_ones_room(course: Course) -> None:
    course.join(credit=10**9)
    course.told.clear()
    course.pace.received += 300
    course.pace.handed_on(0)
    assert course.told == [WINDOW + 300]


def test_who_takes_too_little_while_the_source_waits_is_slow(course: Course) -> None:
    slow, quick = course.join(credit=10**9), course.join(credit=10**9)

    def find(now: float) -> list[Subscription]:
        return course.pace.find_slow(now, 10.0, 10.0)

    course.send(WINDOW, slow)
    assert find(0.0) == []
    slow.settle(50, done=False)
    assert find(9.0) == []
    assert find(10.0) == [slow.subscription]
    # Looked at afresh: it has another patience's time.
    assert find(11.0) == []
    slow.settle(120, done=False)
    assert find(20.0) == []
    assert [slow.blocking_since, quick.blocking_since] == [20.0, None]
    slow.settle(400, done=False)
    assert find(21.0) == []
    assert [slow.blocking_since, quick.blocking_since] == [None, None]


def test_who_grants_no_credit_is_slow_too(course: Course) -> None:
    flow = course.join()
    course.send(WINDOW)
    assert course.pace.find_slow(0.0, 10.0, 10.0) == []
    assert course.pace.find_slow(10.0, 10.0, 10.0) == [flow.subscription]


_events = st.lists(
    st.tuples(st.sampled_from("send settle grant join leave".split()), st.integers(1, FRAME)),
    max_size=80,
)


@given(_events)
def test_the_source_never_stops_for_good_and_nobody_is_sent_too_much(
    events: list[tuple[str, int]],
) -> None:
    """Whatever happens, once all is taken and granted a whole frame may be sent."""
    course = Course()
    flows: list[Flow] = []
    for event, size in events:
        if event == "join":
            flows.append(course.join())
        elif event == "leave" and flows:
            course.pace.leave(flows.pop(size % len(flows)).subscription)
        elif event == "grant" and flows:
            flow = flows[size % len(flows)]
            course.pace.grant(flow.subscription, course.pace.passed - flow.base + WINDOW + size)
        elif event == "settle" and flows:
            flow = flows[size % len(flows)]
            if flow.pending_bytes:
                flow.settle(min(size, flow.pending_bytes), done=True)
        elif event == "send" and course.left() >= size:
            course.send(size, *flows)
        assert course.told == sorted(set(course.told))
        for flow in flows:
            assert flow.pending_bytes <= WINDOW
            assert course.pace.passed <= flow.granted
    if course.pace.held is None and not flows:
        flows.append(course.join())
    for flow in flows:
        if flow.pending_bytes:
            flow.settle(flow.pending_bytes, done=True)
        course.pace.grant(flow.subscription, course.pace.passed - flow.base + WINDOW)
    if flows:
        assert course.left() >= FRAME


def test_who_holds_a_source_up(course: Course) -> None:
    slow, quick = course.join(), course.join()
    course.send(4 * FRAME, slow)
    pace = course.pace
    assert [pace.pending_bytes(each.subscription) for each in (slow, quick)] == [400, 0]
    assert not pace.is_held_up_by(slow.subscription)
    course.send(FRAME, slow)
    assert pace.is_held_up_by(slow.subscription)
    # Less than half of the window is left to it, and it has granted no more.
    assert pace.is_held_up_by(quick.subscription)
    pace.grant(quick.subscription, 10 * WINDOW)
    assert not pace.is_held_up_by(quick.subscription)


def test_a_subscriber_that_gets_nothing_of_a_source_holds_it_up_no_more(course: Course) -> None:
    flow = course.join()
    course.send(8 * FRAME, flow)
    assert course.pace.is_held_up_by(flow.subscription)
    course.pace.leave(flow.subscription)
    assert course.pace.pending_bytes(flow.subscription) == 0
    assert not course.pace.is_held_up_by(flow.subscription)
