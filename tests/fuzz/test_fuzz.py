"""The fuzzers for a bounded time, each in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tim_trio.protocol import messages

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
    harnesses = ["decoder", "file_messages", "session", "tim_packets", "tim_port", "web"]
    assert harnesses == HARNESSES


@pytest.mark.slow
def test_the_session_s_seeds_reach_every_request() -> None:
    """Carried out, not only refused: the fuzzer goes on from there."""
    result = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.session", "--reached"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    got = {int(number) for number in json.loads(result.stdout)}
    of_all = {messages.type_of(kind) for kind in messages._types}
    from_clients = {number for number in of_all if number < 0x40}
    to_nodes = {number for number in of_all if 0xB0 <= number < 0xC0}
    wanted = of_all - from_clients - to_nodes
    wanted |= {messages.type_of(messages.Ping)}
    # What a server in open mode never says, one alone, and one that stops.
    wanted -= {
        messages.type_of(kind)
        for kind in (
            messages.RegisterAccountAnswer,
            messages.ChangePasswordAnswer,
            messages.GoAway,
            messages.OtherNodes,
        )
    }
    assert wanted - got == set()


@pytest.mark.slow
@pytest.mark.parametrize("harness", HARNESSES)
def test_for_a_moment(harness: str) -> None:
    fuzz(harness, 4)


@pytest.mark.soak
@pytest.mark.parametrize("harness", HARNESSES)
def test_for_long(harness: str) -> None:
    fuzz(harness, 300)
