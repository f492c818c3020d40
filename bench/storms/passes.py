"""``python -m bench.storms.passes SCENE…``: how long streams wait for the server itself.

A stream's frame waits at most until the pass of the event loop that runs has
ended. So this counts the CPU time of each pass of a server with 200 watchers
while it is attacked. CPU time does not depend on what else the machine does,
as the latencies of `bench.storms` do where attacker and server share cores.
"""

import atexit
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import trio

from bench.processes import raise_open_files, running
from bench.storms.__main__ import OPEN_FILES, ROOT, SCENES, Scene, attack, line_of, serving
from bench.storms.stream import Plan

_LONG_S = 0.005


class _Passes(trio.abc.Instrument):
    """CPU seconds of each pass."""

    def __init__(self) -> None:
        self.took: list[float] = []
        self._began: float | None = None

    def after_io_wait(self, timeout: float) -> None:
        self._began = time.thread_time()

    def before_io_wait(self, timeout: float) -> None:
        if self._began is not None:
            self.took.append(time.thread_time() - self._began)

    def figures(self) -> dict[str, float]:
        took = sorted(self.took)
        return {
            "passes": len(took),
            "p99_ms": round(1000 * took[int(0.99 * len(took))], 2),
            "share_in_long": round(sum(each for each in took if each > _LONG_S) / sum(took), 3),
        }


def serve(file: Path, arguments: list[str]) -> None:
    """Run the command line with every pass timed; write the figures when it ends."""
    passes = _Passes()
    run = trio.run

    def timed(*args: Any, **options: Any) -> Any:
        return run(*args, **{**options, "instruments": [passes]})

    trio.run = timed  # type: ignore[assignment]
    atexit.register(lambda: file.write_text(json.dumps(passes.figures())))
    from tim_trio.cli import main

    sys.argv = ["tim_trio", *arguments]
    main()


def measure(scene: Scene, seconds: float = 5.0) -> dict[str, float]:
    """Return the figures of a server in a scene."""
    with tempfile.TemporaryDirectory(prefix="tim-passes-") as name:
        file = Path(name) / "passes.json"
        program = ("bench.storms.passes", "--serve", str(file))
        with serving(scene, Path(name), program) as server:
            plan = Plan(port=server.port)
            with running(
                (sys.executable, "-m", "bench.storms.stream", plan.to_json()),
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            ) as bystanders:
                line_of(bystanders)
                attack(scene, server.storm_port, seconds)
        figures: dict[str, float] = json.loads(file.read_text())
    return figures


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(Path(sys.argv[2]), sys.argv[3:])
    else:
        raise_open_files(OPEN_FILES)
        for each in sys.argv[1:] or [name for name in SCENES if not SCENES[name].accounts]:
            print(each, measure(SCENES[each]), flush=True)
