"""The node's figures as Prometheus reads them.

Nothing is counted here: the figures are read when they are asked for. None
has a label per room, account or subscriber, whose number has no bound.

Source: docs/operations.md, "The web port".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Final

import attrs
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from tim_trio.core.node import Node
from tim_trio.errors import TimError
from tim_trio.net.collector_pauses import PASSES
from tim_trio.net.loop_delay import BUCKETS_S, LoopDelay

#: Fewer could be guessed.
_MIN_TOKEN_BYTES: Final = 16
_MAX_TOKEN_BYTES: Final = 4096

_GAUGES: Final = (
    ("rooms", "rooms", "Rooms that live on this node."),
    ("subscriptions", "subscriptions", "Subscriptions of all rooms."),
    ("lagging", "lagging_subscriptions", "Pairs of subscription and track that lag now."),
    ("backlog_bytes", "backlog_bytes", "Bytes queued for subscribers, not yet sent."),
    ("cache_bytes", "cache_bytes", "Bytes of cached groups, overhead included."),
    ("pinned_bytes", "pinned_bytes", "Bytes of groups on their way to newcomers."),
)
_COUNTERS: Final = (
    ("frames_in", "frames_received", "Stream frames accepted from publishers."),
    ("bytes_in", "received_bytes", "Bytes of stream frames accepted from publishers."),
    ("deliveries", "frames_sent", "Stream frames, times the subscribers they went to."),
    ("bytes_out", "sent_bytes", "Bytes of stream frames, times the subscribers they went to."),
    ("gaps", "gaps", "Gaps announced to subscribers."),
    ("lost", "frames_lost", "Stream frames that lagging subscribers did not get."),
    ("lost_bytes", "lost_bytes", "Bytes of stream frames that lagging subscribers did not get."),
    ("subscribed", "subscriptions_begun", "Subscriptions there have ever been."),
    ("discarded", "frames_discarded", "Frames of sources that had ended."),
    ("account_delivered", "account_streams_delivered", "Account messages, by connection."),
    ("account_bytes", "account_streams_sent_bytes", "Payload bytes of account messages sent."),
    ("account_refused", "account_streams_refused", "By a block or a policy, by receiver."),
    ("account_missed", "account_streams_missed", "For nobody there or no such account."),
    ("account_busy", "account_streams_busy", "For connections without room for them."),
    ("tim_unserved", "tim_packets_unserved", "Packets of TIM's clients beyond streaming."),
    ("room_bans", "rooms_banned", "Rooms that operators have closed."),
    ("account_bans", "accounts_banned", "Accounts that operators have banned."),
    ("slowed_ms", "slowed_milliseconds", "Time that connections were slowed down for a rate."),
)


class TokenFileError(TimError):
    """A token file cannot be used; ``str()`` is one line for a person."""


def read_token(path: Path) -> bytes:
    """Return the token in a file, without the white space around it. Blocks.

    Raises:
        TokenFileError: it cannot be read, or holds no such token.
    """
    try:
        with path.open("rb") as file:
            token = file.read(_MAX_TOKEN_BYTES + 1).strip()
    except OSError as error:
        raise TokenFileError(f"cannot read {path}: {error.strerror or error}") from None
    if not _MIN_TOKEN_BYTES <= len(token) <= _MAX_TOKEN_BYTES:
        raise TokenFileError(
            f"{path} holds {len(token)} bytes; a token has {_MIN_TOKEN_BYTES} to {_MAX_TOKEN_BYTES}"
        )
    return token


@attrs.define(eq=False)
class NodeCollector(Collector):
    """Reads the figures of one node.

    Attributes:
        connections: living ones by transport.
    """

    node: Node
    delay: LoopDelay
    connections: Callable[[], dict[str, int]]

    def collect(self) -> Iterator[Metric]:
        by_transport = GaugeMetricFamily(
            "tim_trio_connections", "Living connections.", labels=["transport"]
        )
        for transport, count in sorted(self.connections().items()):
            by_transport.add_metric([transport], count)
        yield by_transport
        for attribute, name, why in _GAUGES:
            yield GaugeMetricFamily(f"tim_trio_{name}", why, getattr(self.node, attribute))
        for attribute, name, why in _COUNTERS:
            yield CounterMetricFamily(f"tim_trio_{name}", why, getattr(self.node, attribute))
        closes = CounterMetricFamily(
            "tim_trio_connections_closed", "Connections that ended, by reason.", labels=["reason"]
        )
        for reason, count in sorted(self.node.closes.items()):
            closes.add_metric([reason], count)
        yield closes
        limited = CounterMetricFamily(
            "tim_trio_limits_reached",
            "Times that something was slowed down, refused or closed, by the limit's key.",
            labels=["limit"],
        )
        for limit, count in sorted(self.node.limited.items()):
            limited.add_metric([limit], count)
        yield limited
        collected = SummaryMetricFamily(
            "tim_trio_garbage_collection_seconds",
            "What the garbage collector took, by the oldest generation of the pass.",
            labels=["generation"],
        )
        longest = GaugeMetricFamily(
            "tim_trio_garbage_collection_longest_seconds",
            "The longest of these passes.",
            labels=["generation"],
        )
        for generation, passes in enumerate(PASSES):
            collected.add_metric([str(generation)], passes.count, passes.sum_s)
            longest.add_metric([str(generation)], passes.longest_s)
        yield from (collected, longest)
        bounds = [*map(str, BUCKETS_S), "+Inf"]
        yield HistogramMetricFamily(
            "tim_trio_event_loop_delay_seconds",
            "How much later than due a task woke up.",
            buckets=list(zip(bounds, accumulate(self.delay.counts), strict=True)),
            sum_value=self.delay.sum_s,
        )


def make_registry(collector: NodeCollector) -> CollectorRegistry:
    """Return the node's figures and the process's own: CPU, memory, open files."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry


def render(registry: CollectorRegistry) -> tuple[str, bytes]:
    """Return a content type and the text."""
    return CONTENT_TYPE_LATEST, generate_latest(registry)
