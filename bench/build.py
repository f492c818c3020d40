"""Compiling the load generator and the floor on the spot."""

import subprocess
from pathlib import Path

from attrs import frozen

from bench.processes import BenchError

_HERE = Path(__file__).parent
_FLAGS = ("-O2", "-Wall", "-Wextra", "-Werror")


@frozen
class Programs:
    """Where the compiled programs are."""

    loadgen: Path
    floor: Path


def build_programs() -> Programs:
    """Compile what is older than its sources.

    Raises:
        BenchError: no C compiler, or the sources do not compile.
    """
    folder = _HERE / "build"
    folder.mkdir(exist_ok=True)
    return Programs(
        loadgen=_compile(folder / "loadgen", "loadgen.c", "traffic.c", "dialect.c", "options.c"),
        floor=_compile(folder / "floor", "floor.c"),
    )


def _compile(program: Path, *names: str) -> Path:
    sources = [_HERE / name for name in names]
    newest = max(path.stat().st_mtime for path in (*sources, *_HERE.glob("*.h")))
    if program.exists() and program.stat().st_mtime > newest:
        return program
    # Into another name first: a benchmark that is running keeps its program.
    fresh = program.with_suffix(".new")
    try:
        result = subprocess.run(
            ["cc", *_FLAGS, "-o", fresh, *sources], capture_output=True, text=True, timeout=120
        )
    except FileNotFoundError:
        raise BenchError("cc is not installed; on Debian: apt-get install gcc libc6-dev") from None
    if result.returncode != 0:
        raise BenchError(f"cc failed on {program.name}:\n{result.stderr}")
    fresh.replace(program)
    return program
