"""The fuzzers for a bounded time, each in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
HARNESSES = sorted(
    path.stem
    for path in Path(__file__).parent.glob("*.py")
    if "\n    engine.main(" in path.read_text(encoding="utf-8")
)


def fuzz(harness: str, seconds: int) -> None:
    result = subprocess.run(
        [sys.executable, "-m", f"tests.fuzz.{harness}", "--seconds", str(seconds)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if result.returncode:
        pytest.fail(f"{harness} ended with {result.returncode}:\n{result.stdout[-8000:]}")
    assert "Done " in result.stdout, result.stdout[-8000:]


def test_harnesses_were_found() -> None:
    assert HARNESSES == ["decoder", "session", "tim_packets", "tim_port", "web"]


@pytest.mark.slow
@pytest.mark.parametrize("harness", HARNESSES)
def test_for_a_moment(harness: str) -> None:
    fuzz(harness, 10)


@pytest.mark.soak
@pytest.mark.parametrize("harness", HARNESSES)
def test_for_long(harness: str) -> None:
    fuzz(harness, 300)
