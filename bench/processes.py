"""Starting child processes so that none survives, and reading what they cost."""

import ctypes
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_PR_SET_PDEATHSIG = 1
_STOP_TIMEOUT_S = 5.0
_libc = ctypes.CDLL(None)


class BenchError(Exception):
    """Something that a person has to hear about, in one line."""


def raise_open_files(wanted: int) -> None:
    """Let this process and its children open ``wanted`` files.

    Raises:
        BenchError: the system does not allow that many.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
    except (ValueError, OSError):
        raise BenchError(
            f"{wanted} open files are needed and {hard} are allowed; try: ulimit -n {wanted}"
        ) from None


def _child_setup(core: int | None) -> Callable[[], None]:
    def setup() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if core is not None:
            os.sched_setaffinity(0, {core})

    return setup


@contextmanager
def running(
    command: Sequence[str],
    *,
    core: int | None = None,
    cwd: Path | None = None,
    stdin: int | None = subprocess.DEVNULL,
    stdout: int | IO[bytes] | None = subprocess.DEVNULL,
    stderr: int | IO[bytes] | None = subprocess.DEVNULL,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``command`` until the block is left; it is then gone, whatever happened.

    The kernel ends it as well when this process dies without a word.
    """
    try:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            preexec_fn=_child_setup(core),  # safe: one thread, no locks held
        )
    except FileNotFoundError:
        raise BenchError(f"{command[0]} is not installed") from None
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def _family(pid: int) -> list[int]:
    """``pid`` and its descendants: a server may not hide work in children."""
    found = [pid]
    for member in found:
        for children in Path(f"/proc/{member}/task").glob("*/children"):
            found.extend(int(child) for child in children.read_text().split())
    return found


def cpu_seconds(pid: int) -> float:
    """CPU time spent so far by all threads of a process and its children, in seconds.

    Source: proc_pid_stat(5), fields utime (14) and stime (15), counted in clock ticks.
    """
    ticks = 0
    for member in _family(pid):
        fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def rss_bytes(pid: int) -> int:
    """Resident memory of a process and its children, in bytes."""
    pages = sum(
        int(Path(f"/proc/{member}/statm").read_text().split()[1]) for member in _family(pid)
    )
    return pages * os.sysconf("SC_PAGE_SIZE")
