"""The matrix: what each row does, with whom, and what it must reach."""

from enum import Enum

from attrs import evolve, frozen

from bench.load import Load


class Kind(Enum):
    """Which experiment a row is; experiments.py has one function for each."""

    COMPARE = "compare"
    STALL = "stall"
    IDLE = "idle"
    JOIN = "join"
    FILE = "file"


@frozen
class Contender:
    """One bar of a row: a system, and the load it gets."""

    name: str
    system: str
    load: Load


@frozen
class Target:
    """``contender``'s ``metric`` must be at most ``factor`` times that of ``against``.

    ``against`` may be "best peer": the best of the brokers, not of the floor. Where
    ``efficiency`` is set, the same bound is shown as deliveries per CPU second, that is
    turned over: at least 1 / ``factor``.
    """

    metric: str
    against: str
    factor: float
    efficiency: bool = False
    contender: str = "tim"


BEST_PEER = "best peer"
BROKERS = ("nats", "redis", "mosquitto", "websockets", "ws")


def at_least(factor: float, against: str) -> Target:
    """Deliveries per server CPU second: at least ``factor`` times those of ``against``."""
    return Target("us_per_delivery", against, 1 / factor, efficiency=True)


def cpu_within(factor: float, against: str, contender: str = "tim") -> Target:
    """Server CPU per delivery: at most ``factor`` times that of ``against``."""
    return Target("us_per_delivery", against, factor, contender=contender)


def p99_within(factor: float, against: str) -> Target:
    """99th percentile of latency: at most ``factor`` times that of ``against``."""
    return Target("p99_us", against, factor)


@frozen(kw_only=True)
class Row:
    """One line of the matrix."""

    name: str
    title: str
    contenders: tuple[Contender, ...]
    targets: tuple[Target, ...] = ()
    kind: Kind = Kind.COMPARE
    runs: int = 5
    idle_kib: int = 10  # of resident memory per subscriber, where idle ones are counted


def _same(load: Load, *systems: str) -> tuple[Contender, ...]:
    return tuple(Contender(system, system, load) for system in systems)


def _over_websocket(load: Load) -> tuple[Contender, ...]:
    """Subscribers over WebSocket, and beside them ours over TCP."""
    over_websocket = evolve(load, websocket=True)
    return (
        Contender("tim", "tim_web", over_websocket),
        Contender("tim, TCP", "tim", load),
        Contender("websockets", "websockets", over_websocket),
        Contender("ws", "ws", over_websocket),
    )


def _as_clients_of_tims(load: Load) -> tuple[Contender, ...]:
    """Subscribers as TIM's own clients, in both forms, and beside them ours over WebSocket."""
    over_websocket = evolve(load, websocket=True)
    in_json = evolve(over_websocket, subscribers_speak="client-json")
    in_big_binary = evolve(over_websocket, subscribers_speak="client-big")
    return (
        Contender("tim", "tim_web", over_websocket),
        Contender("TIM's, big binary", "tim_web", in_big_binary),
        Contender("TIM's, JSON", "tim_web", in_json),
    )


def _at_three_nodes(window: int) -> tuple[Contender, ...]:
    """One publisher, 300 subscribers; in ours the publisher's node is the relay, or another."""
    load = Load(subscribers=300, payload_bytes=1024, window=window)
    return (
        Contender("tim", "tim_cluster", load),
        Contender("tim, relay elsewhere", "tim_cluster_far", load),
        Contender("nats", "nats_cluster", load),
    )


_ALL = ("tim", "nats", "redis", "mosquitto", "floor")

R3_LOAD = Load(subscribers=100, payload_bytes=16384, window=4)

# 68 frames of 1,100 bytes a second are 600 kbit/s.
_SMALL_FRAMES = Load(
    subscribers=2000, payload_bytes=1100, rate=68, seconds=15, warmup_s=1.0, key_every=136
)
# 4 Mbit/s as 25 frames a second of 20,000 bytes, a KEY every 2 s.
_JOIN_LOAD = Load(
    subscribers=100,
    payload_bytes=20000,
    rate=25,
    key_every=50,
    warmup_s=2.0,
    seconds=8.0,
    joiners=2000,
    join_at_s=5.0,
    join_over_s=1.0,
)
# 2 GB pushed, delivered ten times. 16 frames in flight are the default backlog.
_BULK = Load(subscribers=10, payload_bytes=65536, window=16, seconds=90, frames=30518)
# A file's "delivery" is a megabyte of it.
_FILE = Load(subscribers=1, payload_bytes=1_000_000, frames=2000)

ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        Row(
            name="R1",
            title="100 subscribers, 128 B, 2,000 frames in flight",
            contenders=_same(Load(subscribers=100, window=2000), *_ALL),
            targets=(at_least(3.0, BEST_PEER),),
        ),
        Row(
            name="R2",
            title="100 subscribers, 128 B, 1 frame in flight",
            contenders=_same(Load(subscribers=100, window=1), *_ALL),
            targets=(
                at_least(0.85, BEST_PEER),
                at_least(1.6, "nats"),
                cpu_within(1.5, "floor"),
            ),
        ),
        Row(
            name="R3",
            title="100 subscribers, 16 KiB, 4 frames in flight",
            contenders=_same(R3_LOAD, *_ALL),
            targets=(at_least(1.8, BEST_PEER), cpu_within(1.35, "floor")),
        ),
        Row(
            name="R4",
            title="1,000 subscribers, 1 KiB, 50 frames in flight",
            contenders=_same(Load(subscribers=1000, payload_bytes=1024, window=50), *_ALL),
            targets=(at_least(2.0, BEST_PEER), cpu_within(1.35, "floor")),
        ),
        Row(
            name="R5",
            title="1 subscriber, 128 B, 2,000 frames in flight",
            contenders=_same(Load(subscribers=1, window=2000), *_ALL),
            targets=(at_least(1.2, BEST_PEER),),
        ),
        Row(
            name="R6",
            title="100 rooms of 10 subscribers, 1 KiB, 30 frames/s",
            contenders=_same(
                Load(
                    rooms=100, subscribers=10, payload_bytes=1024, rate=30, seconds=10, warmup_s=1.0
                ),
                *_ALL,
            ),
            targets=(cpu_within(0.5, "nats"), p99_within(1.0, "nats")),
        ),
        Row(
            name="R7",
            title="4,000 players of 600 kbit/s, 20 frames/s",
            contenders=_same(
                Load(
                    subscribers=4000,
                    payload_bytes=3750,
                    rate=20,
                    seconds=30,
                    warmup_s=2.0,
                    key_every=40,
                ),
                *("tim", "nats", "redis", "floor"),
            ),
            targets=(cpu_within(0.45, "nats"), cpu_within(1.3, "floor"), p99_within(0.6, "nats")),
            runs=3,
        ),
        Row(
            name="R7b",
            title="2,000 players of 600 kbit/s, 68 frames/s",
            contenders=(
                Contender("tim", "tim", _SMALL_FRAMES),
                Contender("tim, gathered", "tim", evolve(_SMALL_FRAMES, gather_ms=50)),
                Contender("nats", "nats", _SMALL_FRAMES),
                Contender("nginx-rtmp", "nginx_rtmp", _SMALL_FRAMES),
                Contender("floor", "floor", _SMALL_FRAMES),
            ),
            targets=(cpu_within(0.45, "tim", contender="tim, gathered"),),
            runs=3,
        ),
        Row(
            name="R8",
            title="8,000 idle subscribers",
            contenders=_same(
                Load(subscribers=8000, seconds=3.0, warmup_s=1.0), "tim", "nats", "redis"
            ),
            kind=Kind.IDLE,
            runs=3,
        ),
        Row(
            name="R9",
            title="R3 at half its speed, beside a subscriber that stops reading",
            contenders=(Contender("tim", "tim", R3_LOAD),),
            kind=Kind.STALL,
            runs=3,
        ),
        Row(
            name="R10",
            title="reliable room, 10 subscribers, 64 KiB, 2 GB",
            contenders=(
                Contender("tim", "tim", evolve(_BULK, reliable=True)),
                Contender("floor", "floor", _BULK),
            ),
            targets=(cpu_within(1.5, "floor"),),
        ),
        Row(
            name="F1",
            title="a file of 2 GB over send and receive; each delivery is 1 MB",
            contenders=(Contender("tim", "tim", _FILE), Contender("floor", "pipe", _FILE)),
            targets=(cpu_within(1.5, "floor"),),
            kind=Kind.FILE,
        ),
        Row(
            name="R11",
            title="2,000 subscribers join a 4 Mbit/s stream in 1 s",
            contenders=(Contender("tim", "tim", _JOIN_LOAD),),
            kind=Kind.JOIN,
            runs=3,
        ),
        Row(
            name="W1",
            title="100 WebSocket subscribers, 128 B, 2,000 frames in flight",
            contenders=_over_websocket(Load(subscribers=100, window=2000)),
            targets=(at_least(4.0, BEST_PEER),),
        ),
        Row(
            name="W2",
            title="100 WebSocket subscribers, 128 B, 1 frame in flight",
            contenders=_over_websocket(Load(subscribers=100, window=1)),
            targets=(at_least(1.1, BEST_PEER),),
        ),
        Row(
            name="W3",
            title="100 WebSocket subscribers, 16 KiB, 4 frames in flight",
            contenders=_over_websocket(R3_LOAD),
            targets=(at_least(1.5, BEST_PEER),),
        ),
        Row(
            name="W4",
            title="100 WebSocket subscribers, 16 KiB, 1 frame in flight",
            contenders=_over_websocket(evolve(R3_LOAD, window=1)),
            targets=(at_least(1.1, BEST_PEER),),
        ),
        Row(
            name="W5",
            title="8,000 idle WebSocket subscribers",
            contenders=tuple(
                each
                for each in _over_websocket(Load(subscribers=8000, seconds=3.0, warmup_s=1.0))
                if each.name != "tim, TCP"
            ),
            kind=Kind.IDLE,
            runs=3,
            idle_kib=28,
        ),
        Row(
            name="T1",
            title="100 subscribers as TIM's own clients, 128 B, 2,000 frames in flight",
            contenders=_as_clients_of_tims(Load(subscribers=100, window=2000)),
            targets=(cpu_within(1.2, "tim", contender="TIM's, big binary"),),
            runs=3,
        ),
        Row(
            name="T2",
            title="100 subscribers as TIM's own clients, 16 KiB, 4 frames in flight",
            contenders=_as_clients_of_tims(R3_LOAD),
            targets=(cpu_within(1.2, "tim", contender="TIM's, big binary"),),
            runs=3,
        ),
        Row(
            name="C1",
            title="3 nodes, 100 subscribers at each, 1 KiB, 1 frame in flight",
            contenders=_at_three_nodes(window=1),
            targets=(cpu_within(1.0, "nats"),),
            runs=3,
        ),
        Row(
            name="C2",
            title="3 nodes, 100 subscribers at each, 1 KiB, 50 frames in flight",
            contenders=_at_three_nodes(window=50),
            targets=(cpu_within(1.0, "nats"),),
            runs=3,
        ),
    )
}

# The rest joins when the server can do what they ask for.
DEFAULT_ROWS = (
    *("R1", "R2", "R3", "R4", "R5", "R9", "W1", "W2", "W3", "W4", "T1", "T2", "C1", "C2"),
)
