"""Running a row: the order of its runs, its special phases, and the verdicts."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

from attrs import Factory, define, evolve, frozen

from bench.clusters import started
from bench.file_transfer import run_file
from bench.load import Latency, Load, Sample, run_load
from bench.peers import Server, Setup
from bench.processes import BenchError
from bench.rows import BEST_PEER, BROKERS, R3_LOAD, Contender, Kind, Row, Target
from bench.rtmp import run_rtmp

# What the row R9 allows the others' p99 to move by, whichever is more.
_STALL_P99_SHARE = 0.10
_STALL_P99_US = 2000.0
# A stalled subscriber may cost its backlog (1 MiB) and some slack of the allocator.
_STALL_RSS_BYTES = 8 << 20
# Beyond this, a paced run says more about a busy machine than about the server.
_LATE_US = 5000.0
_LOG_TIMEOUT_S = 15.0
_JOIN_FIRST_FRAME_US = 1.5e6
_JOIN_P99_US = 50e3


@frozen
class Verdict:
    """One demand of a row, and whether it was met."""

    text: str
    passed: bool


@frozen
class Run:
    """One measured phase of one contender."""

    number: int
    contender: str
    sample: Sample


@define(eq=False)
class RowResult:
    """All that came out of a row. ``problems`` are failures, not slowness."""

    row: Row
    runs: list[Run] = Factory(list)
    verdicts: list[Verdict] = Factory(list)
    notes: list[str] = Factory(list)
    problems: list[str] = Factory(list)

    def samples(self, contender: str) -> list[Sample]:
        """The samples of a contender, in the order of the runs."""
        return [run.sample for run in self.runs if run.contender == contender]

    def medians(self, contender: str) -> dict[str, float]:
        """The median of each figure over a contender's runs; empty without runs."""
        figures = [sample.figures() for sample in self.samples(contender)]
        return {key: median(each[key] for each in figures) for key in figures[0]} if figures else {}

    def ratio(self, metric: str, contender: str, other: str) -> float | None:
        """The median over the runs of ``contender``'s metric divided by ``other``'s."""
        runs: dict[int, dict[str, float]] = {}
        for run in self.runs:
            runs.setdefault(run.number, {})[run.contender] = run.sample.figures()[metric]
        ratios = [
            values[contender] / values[other]
            for values in runs.values()
            if contender in values and values.get(other)
        ]
        return median(ratios) if ratios else None

    def best_peer(self, metric: str = "us_per_delivery") -> str | None:
        """The broker with the smallest median of ``metric``."""
        medians = {name: self.medians(name).get(metric) for name in BROKERS}
        known = {name: value for name, value in medians.items() if value}
        return min(known, key=lambda name: known[name]) if known else None


@frozen(kw_only=True)
class Plan:
    """How the rows are to be run."""

    setup: Setup
    load_core: int | None = None
    runs: int | None = None  # instead of each row's own number
    seconds: float | None = None  # instead of each row's own measured phase
    quick: bool = False
    spin: bool = False
    systems: tuple[str, ...] | None = None  # only these
    progress: Callable[[str], None] = print

    def load_of(self, contender: Contender) -> Load:
        """The contender's load, shortened where that was asked for."""
        load = evolve(contender.load, spin=self.spin)
        if self.seconds is not None:
            load = evolve(load, seconds=self.seconds)
        return load.shortened() if self.quick else load

    def runs_of(self, row: Row) -> int:
        """How often each contender of the row runs."""
        if self.runs is not None:
            return self.runs
        return 1 if self.quick else row.runs

    def contenders_of(self, row: Row) -> list[Contender]:
        """The row's contenders without those of systems that are left out."""
        return [
            contender
            for contender in row.contenders
            if self.systems is None or contender.system in self.systems
        ]

    def measure(self, target: Server, load: Load) -> Sample:
        """One run of the load generator against a running server."""
        return run_load(target, load, loadgen=self.setup.programs.loadgen, core=self.load_core)


def run_row(row: Row, plan: Plan, known: dict[str, RowResult]) -> RowResult:
    """Run a row; ``known`` are the rows already run. Never raises BenchError."""
    result = RowResult(row)
    if row.kind is Kind.STALL:
        try:
            _run_stall(result, plan, known.get("R3"))
        except BenchError as error:
            result.problems.append(str(error))
        return result
    _run_interleaved(result, plan)
    if row.kind in (Kind.COMPARE, Kind.FILE):
        _note_hops(result)
        result.verdicts.extend(
            verdict for target in row.targets if (verdict := _judge(result, target)) is not None
        )
        if row.kind is Kind.FILE:
            _note_wall_time(result)
    elif row.kind is Kind.IDLE:
        _judge_idle(result)
    else:
        _judge_join(result)
    return result


def _run_interleaved(result: RowResult, plan: Plan) -> None:
    """Run 1 of every contender, then run 2, and so on, so that all see the same weather."""
    failed: set[str] = set()
    contenders = plan.contenders_of(result.row)
    if not contenders:
        result.notes.append("none of the row's systems was asked for")
    for number in range(1, plan.runs_of(result.row) + 1):
        for contender in contenders:
            if contender.name in failed:
                continue
            try:
                with started(contender.system, plan.setup) as target:
                    load = plan.load_of(contender)
                    if result.row.kind is Kind.FILE:
                        sample = run_file(target, load, plan.setup)
                    elif target.dialect == "rtmp":
                        sample = run_rtmp(target, load)
                    else:
                        sample = plan.measure(target, load)
                    if contender.name == "tim" and len(target.pids) == 1:
                        _note_pauses(result, number, target)
            except BenchError as error:
                failed.add(contender.name)
                result.problems.append(f"run {number}: {contender.name}: {error}")
                plan.progress(f"{result.row.name} run {number} {contender.name}: {error}")
                continue
            result.runs.append(Run(number, contender.name, sample))
            _note_trouble(result, f"run {number}: {contender.name}", sample)
            if not plan.quick and contender.load.window and sample.server_cpu_s < 1.0:
                result.notes.append(
                    f"run {number}: {contender.name} used only {sample.server_cpu_s:.2f} s of CPU"
                )
            plan.progress(f"{result.row.name} run {number} {contender.name}: {_brief(sample)}")


def _note_trouble(result: RowResult, who: str, sample: Sample) -> None:
    """Losses are failures; a load generator that was late makes the run doubtful."""
    late_us = sample.late.quantile_us(0.99)
    if sample.lost:
        total = sample.lost + sample.deliveries
        result.problems.append(f"{who} lost {sample.lost:,} of {total:,} deliveries")
    if late_us > _LATE_US:
        result.notes.append(
            f"{who}: the load generator itself was late by {late_us / 1e3:.1f} ms at p99"
        )


def _note_pauses(result: RowResult, number: int, target: Server) -> None:
    """Say how long the collector stopped the server, in the rows with thousands of connections."""
    if max(each.load.subscribers + each.load.joiners for each in result.row.contenders) < 1000:
        return
    figures = _logged_figures(target)
    told = [
        f"{figures[f'gc{generation}_passes']:.0f} of generation {generation}, "
        f"longest {figures[f'gc{generation}_longest_ms']:.1f} ms"
        for generation in range(3)
    ]
    result.notes.append(f"run {number}: passes of the server's collector: {'; '.join(told)}")


def _brief(sample: Sample) -> str:
    figures = sample.figures()
    if not sample.deliveries:
        return f"{(sample.rss_end - sample.rss_start) / 2**20:.1f} MiB more resident memory"
    return (
        f"{figures['us_per_delivery']:.3f} µs of CPU, {figures['deliveries_per_s']:,.0f} "
        f"deliveries/s, p99 {figures['p99_us'] / 1e3:.2f} ms"
    )


def _judge(result: RowResult, target: Target) -> Verdict | None:
    other = result.best_peer(target.metric) if target.against == BEST_PEER else target.against
    ratio = result.ratio(target.metric, target.contender, other) if other else None
    if ratio is None:
        return None
    against = f"{target.against} ({other})" if target.against == BEST_PEER else target.against
    subject = "" if target.contender == "tim" else f"{target.contender}: "
    what = "p99 of latency" if target.metric == "p99_us" else "CPU per delivery"
    if target.efficiency:
        text = (
            f"{subject}deliveries per CPU second {1 / ratio:.2f} × {against}, "
            f"wanted at least {1 / target.factor:.2f}"
        )
    else:
        text = f"{subject}{what} {ratio:.2f} × {against}, wanted at most {target.factor:.2f}"
    return Verdict(text, ratio <= target.factor)


def _note_hops(result: RowResult) -> None:
    """Say what other nodes of a cluster add to the latency at the publisher's."""
    for name in dict.fromkeys(run.contender for run in result.runs):
        medians = result.medians(name)
        if medians["far_p50_us"]:
            result.notes.append(
                f"{name}: p50 {medians['near_p50_us'] / 1e3:.2f} ms at the publisher's node and "
                f"{medians['far_p50_us'] / 1e3:.2f} ms at the others, p99 "
                f"{medians['near_p99_us'] / 1e3:.2f} and {medians['far_p99_us'] / 1e3:.2f} ms"
            )


def _note_wall_time(result: RowResult) -> None:
    for name in dict.fromkeys(run.contender for run in result.runs):
        figures = result.medians(name)
        megabytes = sum(run.sample.bytes for run in result.runs[:1]) / 1e6
        result.notes.append(
            f"{name}: {figures['wall_s']:.1f} s for {megabytes:,.0f} MB, of the server's CPU "
            f"{figures['us_per_delivery'] / 1e3:.3f} ns a byte"
        )


def _judge_idle(result: RowResult) -> None:
    for name in dict.fromkeys(run.contender for run in result.runs):
        load = next(each.load for each in result.row.contenders if each.name == name)
        per_subscriber = median(
            (sample.rss_end - sample.rss_start) / load.subscribers
            for sample in result.samples(name)
        )
        text = f"{name}: {per_subscriber / 1024:.1f} KiB of resident memory per subscriber"
        if name == "tim":
            bound = result.row.idle_kib
            verdict = Verdict(f"{text}, wanted at most {bound}", per_subscriber <= bound << 10)
            result.verdicts.append(verdict)
        else:
            result.notes.append(text)


def _judge_join(result: RowResult) -> None:
    samples = result.samples("tim")
    if not samples:
        return
    load = result.row.contenders[0].load
    joined = min(sample.joined for sample in samples)
    slowest_us = median(sample.first_frame.largest_us for sample in samples)
    before_us = median(sample.latency.quantile_us(0.99) for sample in samples)
    during_us = median(sample.latency_join.quantile_us(0.99) for sample in samples)
    result.verdicts += [
        Verdict(f"{joined:,} of {load.joiners:,} joined", joined == load.joiners),
        Verdict(
            f"the slowest saw its first frame after {slowest_us / 1e3:,.0f} ms, "
            f"wanted at most {_JOIN_FIRST_FRAME_US / 1e3:,.0f}",
            slowest_us <= _JOIN_FIRST_FRAME_US,
        ),
        Verdict(
            f"p99 of the earlier ones {before_us / 1e3:.1f} ms before, "
            f"{during_us / 1e3:.1f} ms from then on, wanted at most "
            f"{_JOIN_P99_US / 1e3:.0f} ms more",
            during_us <= before_us + _JOIN_P99_US,
        ),
    ]


# -- R9: one subscriber that stops reading ---------------------------------------------


def _run_stall(result: RowResult, plan: Plan, r3: RowResult | None) -> None:
    """Alternate phases without and with a stalled subscriber, on one server.

    A phase lasts 10 s (3 of each kind make 30 s), with a warm-up of 3 s during which
    the stalled one has already stopped. So its backlog fills, it lags, and the server
    closes it (10 s after the last byte it took) all within the measured phase.
    """
    phases = 1 if plan.quick else plan.runs_of(result.row)
    with started("tim", plan.setup) as target:
        speed = _frames_per_s(r3) or _calibrate(plan, target)
        paced = evolve(
            R3_LOAD,
            window=0,
            rate=round(speed / 2, 1),
            seconds=2.0 if plan.quick else plan.seconds or 10.0,
            warmup_s=3.0,
        )
        stalled = evolve(paced, stalled=1, hold_ms=12000 if plan.quick else 4000)
        result.notes.append(f"paced at {paced.rate:,.0f} frames/s, half of {speed:,.0f}")
        for number in range(1, phases + 1):
            for name, load in (("alone", paced), ("beside a stalled one", stalled)):
                sample = plan.measure(target, load)
                result.runs.append(Run(number, name, sample))
                plan.progress(f"{result.row.name} phase {number} {name}: {_brief(sample)}")
                _note_trouble(result, f"phase {number}: {name}", sample)
        closes = _slow_consumer_closes(target)
    _judge_stall(result, phases, closes)


def _frames_per_s(r3: RowResult | None) -> float | None:
    medians = r3.medians("tim") if r3 else {}
    return medians["deliveries_per_s"] / R3_LOAD.subscribers if medians else None


def _calibrate(plan: Plan, target: Server) -> float:
    sample = plan.measure(target, evolve(R3_LOAD, seconds=0.5 if plan.quick else 3.0))
    return sample.frames / sample.wall_s


def _logged_figures(target: Server) -> dict[str, float]:
    """What tim_trio logs of itself when it is asked. Raises BenchError if it says nothing."""
    os.kill(target.pids[0], signal.SIGUSR1)
    deadline = time.monotonic() + _LOG_TIMEOUT_S
    while time.monotonic() < deadline:
        for event in _logged(target):
            if event.get("event") == "figures":
                return event
        time.sleep(0.05)
    raise BenchError("the server does not tell its figures")


def _slow_consumer_closes(target: Server) -> int:
    """How many of the server's log lines carry the code slow_consumer."""
    return sum(event.get("code") == "slow_consumer" for event in _logged(target))


def _logged(target: Server) -> Iterator[dict[str, Any]]:
    for line in target.log.read_text(errors="replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            yield event


def _judge_stall(result: RowResult, phases: int, closes: int) -> None:
    alone = result.samples("alone")
    beside = result.samples("beside a stalled one")
    alone_us = Latency.merged(sample.latency for sample in alone).quantile_us(0.99)
    beside_us = Latency.merged(sample.latency for sample in beside).quantile_us(0.99)
    allowed_us = alone_us + max(_STALL_P99_SHARE * alone_us, _STALL_P99_US)
    base = median(alone[0].rss_samples)
    peak = max(rss for sample in beside for rss in sample.rss_samples)
    ends = [each for sample in beside for each in sample.stalled]
    closed = sum(each["ended"] in ("eof", "reset") for each in ends)
    got = ", ".join(
        f"{each['frames']} frames, then {each['ended']}"
        + (f" (CLOSE {each['close_code']})" if each["close_code"] else "")
        for each in ends
    )
    result.notes.append(f"what the stalled ones found when they read again: {got}")
    result.verdicts += [
        Verdict(
            f"p99 of the others {alone_us / 1e3:.2f} ms alone, {beside_us / 1e3:.2f} ms beside "
            f"a stalled one, wanted at most {allowed_us / 1e3:.2f}",
            beside_us <= allowed_us,
        ),
        Verdict(
            f"server memory {base / 2**20:.1f} MiB alone, at most {peak / 2**20:.1f} MiB beside, "
            f"wanted at most {_STALL_RSS_BYTES / 2**20:.0f} MiB more",
            peak - base <= _STALL_RSS_BYTES,
        ),
        Verdict(f"{closed} of {phases} stalled connections were ended", closed == phases),
        Verdict(f"{closes} closes as slow_consumer in the server's log", closes >= phases),
    ]
