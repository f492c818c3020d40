"""Runs a fuzz target under atheris for a bounded time.

A target takes bytes and raises on anything that is wrong. Its module imports
what it tests within ``instrumented()``, so that the fuzzer sees its branches.

::

    python -m tests.fuzz.decoder --seconds 20
    python -m tests.fuzz.decoder FILE           # run one input again
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path

try:
    import atheris
except ImportError:
    # Never an empty success: a run that did not fuzz must not look like one that did.
    sys.exit("atheris is missing; `make test` installs it (Linux on x86_64, Python before 3.14)")

Target = Callable[[bytes], None]

_MAX_MEMORY_MB = 1024
#: One input must not take longer than this, in seconds.
_MAX_INPUT_S = 10


def instrumented() -> AbstractContextManager[None]:
    """Within this context, modules of tim_trio are imported with coverage for the fuzzer."""
    context: AbstractContextManager[None] = atheris.instrument_imports(include=["tim_trio"])
    return context


def main(target: Target, seeds: Iterable[bytes], *, max_input_bytes: int) -> None:
    """Parse the command line and fuzz, or run one input again. Ends the process.

    Inputs longer than ``max_input_bytes`` would only slow the search down.
    """
    parser = argparse.ArgumentParser(description="Fuzz for a bounded time.")
    parser.add_argument("--seconds", type=int, default=20, help="how long (default: 20)")
    parser.add_argument("--corpus", type=Path, help="directory of inputs to go on from and add to")
    parser.add_argument("file", nargs="?", type=Path, help="run this one input and nothing else")
    options = parser.parse_args()
    if options.file is not None:
        target(options.file.read_bytes())
        print("nothing wrong with it")
        return
    if options.corpus is None:
        # libFuzzer ends its process without cleaning up, so it gets one of its own.
        with tempfile.TemporaryDirectory(prefix="fuzz-") as directory:
            sys.exit(_again_with("--seconds", str(options.seconds), "--corpus", directory))
    corpus: Path = options.corpus
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        target(seed)
        (corpus / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    flags = [
        f"-max_total_time={options.seconds}",
        f"-max_len={max_input_bytes}",
        f"-timeout={_MAX_INPUT_S}",
        f"-rss_limit_mb={_MAX_MEMORY_MB}",
        f"-artifact_prefix={tempfile.gettempdir()}/fuzz-",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], target)
    atheris.Fuzz()


def _again_with(*arguments: str) -> int:
    """Run this program again; return its exit code."""
    spec = sys.modules["__main__"].__spec__
    assert spec is not None, "run as python -m"
    return subprocess.run([sys.executable, "-m", spec.name, *arguments], check=False).returncode
