"""One run of the load generator against one server, and what came out of it."""

import json
import os
import select
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from attrs import Factory, define, evolve, frozen

from bench.peers import Server
from bench.processes import BenchError, cpu_seconds, rss_bytes, running

_SETUP_TIMEOUT_S = 90.0
_DRAIN_TIMEOUT_S = 30.0
_RSS_EVERY_S = 0.25
_SETTLE_S = 1.0


@frozen(kw_only=True)
class Load:
    """What the load generator does. Either a window or a rate; neither means idle."""

    rooms: int = 1
    subscribers: int  # per room
    payload_bytes: int = 128
    window: int = 0  # frames in flight
    rate: float = 0.0  # frames per second and room
    warmup_s: float = 0.5
    seconds: float = 4.0
    frames: int = 0  # ends the measured phase early; 0: never
    key_every: int = 60
    reliable: bool = False
    gather_ms: int = 0
    stalled: int = 0
    hold_ms: int = 0
    joiners: int = 0
    join_at_s: float = 0.0
    join_over_s: float = 0.0
    websocket: bool = False  # how subscribers connect; publishers speak TCP
    subscribers_speak: str = ""  # a dialect; empty: that of the publishers
    spin: bool = False  # the load generator never sleeps

    def shortened(self) -> "Load":
        """The same work for a smoke run, whose figures mean nothing."""
        return evolve(
            self,
            warmup_s=0.2,
            seconds=min(self.seconds, 1.0 if not self.joiners else self.seconds),
            frames=min(self.frames, 500),
        )

    def arguments(self) -> list[str]:
        """The command line for loadgen, without dialect and port."""
        values = {
            "rooms": self.rooms,
            "subscribers": self.subscribers,
            "payload": self.payload_bytes,
            "window": self.window,
            "rate": self.rate,
            "warmup": self.warmup_s,
            "seconds": self.seconds,
            "frames": self.frames,
            "key-every": self.key_every,
            "reliable": int(self.reliable),
            "gather-ms": self.gather_ms,
            "stalled": self.stalled,
            "hold-ms": self.hold_ms,
            "joiners": self.joiners,
            "join-at": self.join_at_s,
            "join-over": self.join_over_s,
            "spin": int(self.spin),
        }
        return [f"--{name}={value}" for name, value in values.items()]


@frozen
class Latency:
    """A distribution of times, as (microseconds, count) pairs in rising order."""

    buckets: tuple[tuple[float, int], ...] = ()
    largest_us: float = 0.0

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Latency":
        """Read what loadgen printed; its buckets are in nanoseconds."""
        return cls(tuple((ns / 1e3, count) for ns, count in value["buckets"]), value["max_us"])

    @classmethod
    def merged(cls, parts: Iterable["Latency"]) -> "Latency":
        """All the parts as one distribution."""
        counts: dict[float, int] = {}
        largest_us = 0.0
        for part in parts:
            largest_us = max(largest_us, part.largest_us)
            for value, count in part.buckets:
                counts[value] = counts.get(value, 0) + count
        return cls(tuple(sorted(counts.items())), largest_us)

    def quantile_us(self, quantile: float) -> float:
        """The value below which that share of the times lies, in microseconds."""
        rank = int(quantile * sum(count for _, count in self.buckets))
        seen = 0
        for value, count in self.buckets:
            seen += count
            if seen > rank:
                return value
        return self.largest_us


@frozen(kw_only=True)
class Sample:
    """The figures of one measured phase; no latency where none is measured."""

    frames: int
    deliveries: int
    bytes: int
    lost: int
    wall_s: float
    server_cpu_s: float
    load_cpu_s: float
    rss_start: int  # of the server, before the first connection
    rss_end: int  # at the end of the measured phase, all still connected
    rss_samples: tuple[int, ...]
    latency: Latency = Latency()
    late: Latency = Latency()  # paced: how late the load generator itself was
    latency_near: Latency = Latency()  # of a cluster: at the node that the publisher is at
    latency_far: Latency = Latency()  # and at the others
    latency_join: Latency = Latency()
    first_frame: Latency = Latency()
    joined: int = 0
    stalled: tuple[dict[str, Any], ...] = ()

    @property
    def us_per_delivery(self) -> float:
        """Server CPU per delivered frame, in microseconds."""
        return self.server_cpu_s / self.deliveries * 1e6 if self.deliveries else 0.0

    def figures(self) -> dict[str, float]:
        """What is printed, plotted and compared."""
        wall_s = self.wall_s or 1e-9
        return {
            "deliveries": self.deliveries,
            "lost": self.lost,
            "wall_s": self.wall_s,
            "server_cpu_s": self.server_cpu_s,
            "us_per_delivery": self.us_per_delivery,
            "deliveries_per_cpu_s": self.deliveries / self.server_cpu_s
            if self.server_cpu_s
            else 0.0,
            "deliveries_per_s": self.deliveries / wall_s,
            "megabytes_per_s": self.bytes / wall_s / 1e6,
            "p50_us": self.latency.quantile_us(0.5),
            "p99_us": self.latency.quantile_us(0.99),
            "max_us": self.latency.largest_us,
            "near_p50_us": self.latency_near.quantile_us(0.5),
            "near_p99_us": self.latency_near.quantile_us(0.99),
            "far_p50_us": self.latency_far.quantile_us(0.5),
            "far_p99_us": self.latency_far.quantile_us(0.99),
            "server_cpu_share": self.server_cpu_s / wall_s,
            "load_cpu_share": self.load_cpu_s / wall_s,
            "late_p99_us": self.late.quantile_us(0.99),
            "rss_start": self.rss_start,
            "rss_end": self.rss_end,
        }


@define(eq=False)
class _Lines:
    """Lines from a pipe, with a deadline; samples the server's memory while waiting."""

    fd: int
    server: Server
    buffer: bytes = b""
    rss: list[int] = Factory(list)

    def next(self, timeout_s: float) -> str:
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self.buffer:
            left = deadline - time.monotonic()
            if left <= 0:
                raise BenchError(f"the load generator said nothing for {timeout_s:.0f} s")
            if select.select([self.fd], [], [], min(left, _RSS_EVERY_S))[0]:
                chunk = os.read(self.fd, 1 << 16)
                if not chunk:
                    raise BenchError("the load generator ended before its work was done")
                self.buffer += chunk
            else:
                self.rss.append(_rss_or_gone(self.server))
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line.decode()


def _rss_or_gone(server: Server) -> int:
    try:
        return sum(map(rss_bytes, server.pids))
    except FileNotFoundError:
        raise BenchError(f"{server.system} is gone: {server.last_words()}") from None


def _cpu_seconds(server: Server) -> float:
    return sum(map(cpu_seconds, server.pids))


def run_load(server: Server, load: Load, *, loadgen: Path, core: int | None = None) -> Sample:
    """Run the load generator once; the server's CPU is read while nothing is in flight.

    Raises:
        BenchError: wrong data, a closed connection, no progress, or a server that died.
    """
    rss_start = _rss_or_gone(server)
    command = [
        str(loadgen),
        f"--dialect={server.dialect}",
        f"--port={','.join(map(str, server.ports))}",
        f"--web-port={server.web_port if load.websocket else 0}",
        f"--subscriber-dialect={load.subscribers_speak or server.dialect}",
        *load.arguments(),
    ]
    with running(
        command, core=core, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        lines = _Lines(process.stdout.fileno(), server)

        def expect(word: str, timeout_s: float) -> None:
            line = lines.next(timeout_s)
            if line != word:
                reason = json.loads(line).get("error", line) if line.startswith("{") else line
                raise BenchError(f"{server.system}: {reason}; {server.last_words()}")

        def go() -> None:
            assert process.stdin is not None
            process.stdin.write(b"go\n")
            process.stdin.flush()

        expect("ready", _SETUP_TIMEOUT_S)
        if len(server.ports) > 1:
            # Nodes tell each other of subscribers in their own time.
            time.sleep(_SETTLE_S)
        go()
        expect("measure-start", load.warmup_s + _DRAIN_TIMEOUT_S)
        lines.rss.clear()
        cpu_before = _cpu_seconds(server)
        go()
        expect("measure-end", load.seconds + _DRAIN_TIMEOUT_S)
        server_cpu_s = _cpu_seconds(server) - cpu_before
        rss_end = _rss_or_gone(server)
        rss_samples = (*lines.rss, rss_end)
        go()
        result = json.loads(lines.next(load.hold_ms / 1e3 + _DRAIN_TIMEOUT_S))
    if "error" in result:
        raise BenchError(f"{server.system}: {result['error']}; {server.last_words()}")
    empty = {"buckets": [], "max_us": 0.0}
    return Sample(
        frames=result["frames"],
        deliveries=result["deliveries"],
        bytes=result["bytes"],
        lost=result["lost"],
        wall_s=result["wall_s"],
        server_cpu_s=server_cpu_s,
        load_cpu_s=result["cpu_s"],
        rss_start=rss_start,
        rss_end=rss_end,
        rss_samples=rss_samples,
        latency=Latency.from_json(result["latency"]),
        late=Latency.from_json(result.get("late", empty)),
        latency_near=Latency.from_json(result.get("latency_near", empty)),
        latency_far=Latency.from_json(result.get("latency_far", empty)),
        latency_join=Latency.from_json(result.get("latency_join", empty)),
        first_frame=Latency.from_json(result.get("first_frame", empty)),
        joined=result["joined"],
        stalled=tuple(result.get("stalled", ())),
    )
