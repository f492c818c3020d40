"""What a person and a program get to see: a table per row, and JSON of everything."""

import json
import os
import platform
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs

from bench.experiments import RowResult
from bench.peers import SYSTEMS, version_of
from bench.rows import Kind

_HEADINGS = (
    *("", "deliveries/CPU s", "µs CPU each", "× best peer", "× nats", "CPU × floor"),
    *("deliveries/s", "p50 ms", "p99 ms", "server CPU", "load CPU"),
)


def _milliseconds(value_us: float) -> str:
    return f"{value_us / 1e3:.3f}" if value_us < 10e3 else f"{value_us / 1e3:.1f}"


def _ratio(value: float | None, *, turned: bool = False) -> str:
    if not value:
        return "-"
    return f"{1 / value if turned else value:.2f}"


def _table_rows(result: RowResult) -> Iterable[tuple[str, ...]]:
    best = result.best_peer()
    for name in dict.fromkeys(run.contender for run in result.runs):
        figures = result.medians(name)

        def against(other: str | None, name: str = name, turned: bool = True) -> str:
            return _ratio(
                result.ratio("us_per_delivery", name, other) if other else None, turned=turned
            )

        yield (
            name,
            f"{figures['deliveries_per_cpu_s']:,.0f}",
            f"{figures['us_per_delivery']:.3f}",
            against(best),
            against("nats"),
            against("floor", turned=False),
            f"{figures['deliveries_per_s']:,.0f}",
            _milliseconds(figures["p50_us"]),
            _milliseconds(figures["p99_us"]),
            f"{figures['server_cpu_share']:.0%}",
            f"{figures['load_cpu_share']:.0%}",
        )


def table(result: RowResult) -> str:
    """A row as text: medians of its runs, verdicts, notes and problems."""
    row = result.row
    lines = [f"\n{row.name}  {row.title}"]
    if result.runs and row.kind is not Kind.IDLE:
        cells = [_HEADINGS, *_table_rows(result)]
        widths = [max(len(line[at]) for line in cells) for at in range(len(_HEADINGS))]
        lines += [
            "  "
            + "  ".join(
                cell.ljust(width) if at == 0 else cell.rjust(width)
                for at, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in cells
        ]
    lines += [
        f"  {'pass' if verdict.passed else 'MISS'}  {verdict.text}" for verdict in result.verdicts
    ]
    lines += [f"  note  {note}" for note in result.notes]
    lines += [f"  FAIL  {problem}" for problem in result.problems]
    return "\n".join(lines)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def machine() -> dict[str, Any]:
    """Where and with what the figures were made."""
    memory_kib = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory_kib / 2**20, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_average_at_start": os.getloadavg()[0],
        "versions": {name: version_of(name) for name in SYSTEMS},
    }


def _row_json(result: RowResult) -> dict[str, Any]:
    names = list(dict.fromkeys(run.contender for run in result.runs))
    best = result.best_peer()
    return {
        "row": result.row.name,
        "title": result.row.title,
        "load": {
            contender.name: attrs.asdict(contender.load) for contender in result.row.contenders
        },
        "runs": [
            {
                "run": run.number,
                "contender": run.contender,
                **run.sample.figures(),
                "rss_samples": run.sample.rss_samples,
                "joined": run.sample.joined,
                "stalled": run.sample.stalled,
            }
            for run in result.runs
        ],
        "medians": {name: result.medians(name) for name in names},
        "best_peer": best,
        "efficiency_ratios": {
            other: 1 / ratio
            for other in names
            if other != "tim" and (ratio := result.ratio("us_per_delivery", "tim", other))
        },
        "verdicts": [attrs.asdict(verdict) for verdict in result.verdicts],
        "notes": result.notes,
        "problems": result.problems,
    }


def write_json(path: Path, about: dict[str, Any], results: Iterable[RowResult]) -> None:
    """Write all figures; called after every row, so that an interrupt loses one row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    value = {"machine": about, "rows": [_row_json(result) for result in results]}
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(value, indent=1) + "\n")
    fresh.replace(path)
