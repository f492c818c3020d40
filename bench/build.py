"""Compiling the load generator and the floor on the spot."""

import json
import subprocess
from pathlib import Path

from attrs import frozen

from bench.processes import BenchError

_HERE = Path(__file__).parent
_LOADGEN = ("loadgen.c", "traffic.c", "dialect.c", "websocket.c", "options.c")
_FLAGS = ("-O2", "-Wall", "-Wextra", "-Werror")


@frozen
class Programs:
    """Where the compiled programs are."""

    loadgen: Path
    floor: Path
    pipe: Path


def build_programs() -> Programs:
    """Compile what is older than its sources.

    Raises:
        BenchError: no C compiler, or the sources do not compile.
    """
    folder = _HERE / "build"
    folder.mkdir(exist_ok=True)
    return Programs(
        loadgen=_compile(folder / "loadgen", *_LOADGEN),
        floor=_compile(folder / "floor", "floor.c"),
        pipe=_compile(folder / "pipe", "pipe.c"),
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


def node_program(source: Path, package: str) -> Path:
    """Return a copy of a program for Node that finds ``package``, as ``name@version``, beside it.

    Raises:
        BenchError: no npm, or it cannot get the package.
    """
    folder = _HERE / "build" / "node"
    name, _, version = package.rpartition("@")
    manifest = folder / "node_modules" / name / "package.json"
    if not manifest.exists() or json.loads(manifest.read_text())["version"] != version:
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), package]
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=180)
        except FileNotFoundError:
            raise BenchError("npm is not installed; on Debian: apt-get install npm") from None
        if result.returncode != 0:
            raise BenchError(f"npm could not install {package}:\n{result.stderr}")
    program = folder / source.name
    program.write_bytes(source.read_bytes())
    return program
