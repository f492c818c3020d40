"""``python -m bench``: run rows of the matrix, print, write JSON and plot."""

import argparse
import shlex
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import NoReturn

from bench.build import build_programs
from bench.clusters import CLUSTERS
from bench.experiments import Plan, RowResult, run_row
from bench.peers import SYSTEMS, Setup
from bench.processes import BenchError, raise_open_files
from bench.report import machine, table, write_json
from bench.rows import DEFAULT_ROWS, ROWS

_OPEN_FILES = 20000
_HERE = Path(__file__).parent


def _chosen(text: str, known: Mapping[str, object], what: str) -> tuple[str, ...]:
    names = tuple(name for name in text.replace(",", " ").split() if name)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise BenchError(f"no {what} '{', '.join(unknown)}'; there are: {', '.join(known)}")
    return names


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rows", default=",".join(DEFAULT_ROWS), help="as in R1,R2; or all")
    parser.add_argument("--runs", type=int, help="runs of each contender (default: the row's)")
    parser.add_argument("--seconds", type=float, help="measured phase (default: the row's)")
    parser.add_argument("--systems", help=f"only some of {', '.join([*SYSTEMS, *CLUSTERS])}")
    parser.add_argument("--quick", action="store_true", help="a smoke run: figures mean nothing")
    parser.add_argument("--pin", action="store_true", help="server on core 0, load on core 1")
    parser.add_argument("--spin", action="store_true", help="the load generator never sleeps")
    parser.add_argument("--tim", help="another command to start tim (default: this checkout's)")
    parser.add_argument("--json", type=Path, help="default: bench/out/DATE.json")
    parser.add_argument("--plot", type=Path, help="PATH without suffix: PATH.svg")
    parser.add_argument("--strict", action="store_true", help="a missed target is a failure too")
    parser.add_argument("--list", action="store_true", help="say what the rows are")
    return parser.parse_args()


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _run(options: argparse.Namespace) -> int:
    if options.list:
        for row in ROWS.values():
            print(f"{row.name:4} {row.title}")
        return 0
    wanted = ",".join(ROWS) if options.rows == "all" else options.rows
    rows = _chosen(wanted, ROWS, "row")
    systems = (
        _chosen(options.systems, {**SYSTEMS, **CLUSTERS}, "system") if options.systems else None
    )
    raise_open_files(_OPEN_FILES)
    setup = Setup(programs=build_programs(), core=0 if options.pin else None)
    if options.tim:
        setup = Setup(
            programs=setup.programs, core=setup.core, tim_command=tuple(shlex.split(options.tim))
        )
    plan = Plan(
        setup=setup,
        load_core=1 if options.pin else None,
        runs=options.runs,
        seconds=options.seconds,
        quick=options.quick,
        spin=options.spin,
        systems=systems,
        progress=lambda text: print(text, file=sys.stderr, flush=True),
    )
    about = {**machine(), "pinned": options.pin, "spin": options.spin, "quick": options.quick}
    path = options.json or _HERE / "out" / time.strftime("%Y%m%d-%H%M%S.json")
    results: dict[str, RowResult] = {}
    for name in rows:
        results[name] = run_row(ROWS[name], plan, results)
        print(table(results[name]), flush=True)
        write_json(path, about, results.values())
    print(f"\nfigures of all runs: {path}")
    if options.plot:
        from bench.plot import plot  # matplotlib takes a second that most runs need not pay

        for drawn in plot(path, options.plot):
            print(f"plot: {drawn}")
    failed = [result.row.name for result in results.values() if result.problems]
    missed = [
        result.row.name
        for result in results.values()
        if any(not verdict.passed for verdict in result.verdicts)
    ]
    for word, names in (("failed", failed), ("missed a target", missed)):
        if names:
            print(f"{word}: {', '.join(names)}")
    return 1 if failed or (options.strict and missed) else 0


def main() -> int:
    """Run what the command line asks for; the exit code is 0 unless a row failed."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        return _run(_options())
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
