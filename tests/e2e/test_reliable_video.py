"""A real video in a reliable room: a slow watcher, and a publisher that is killed."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.test_video import _command, _process, video

__all__ = ["video"]

_WATCHERS: Final = 20
#: Twenty programs start and stop on a machine that may be busy.
_DEADLINE_S: Final = 180
#: How long a killed publisher is waited for: as long as another may take to start.
_LINGER: Final = "limits.linger_s=60"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(_DEADLINE_S + 4)]

#: Reads standard input, never faster than so many bytes a second, into a file.
_SLOW_READER: Final = """
import sys, time
with open(sys.argv[1], "wb") as file:
    while data := sys.stdin.buffer.read1(16384):
        file.write(data)
        time.sleep(len(data) / float(sys.argv[2]))
"""


class Stage:
    """A server, a reliable room, and twenty watchers."""

    def __init__(self, stack: contextlib.ExitStack, tmp_path: Path) -> None:
        self.stack = stack
        self.tmp_path = tmp_path
        self.deadline = time.monotonic() + _DEADLINE_S
        server = stack.enter_context(
            _process("serve", "--tcp", "127.0.0.1:0", "--no-web", "--set", _LINGER)
        )
        assert server.stdout is not None
        self.at = ("--server", f"tim://{server.stdout.readline().split()[2]}", "--account", "a")
        self.room = self.run("room", "register", "--mode", "reliable").strip()
        self.watchers: list[subprocess.Popen[str]] = []

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            _command(*arguments, *self.at),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=self.left_s,
            check=True,
        )
        return done.stdout

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return self.stack.enter_context(_process(*arguments, *self.at))

    def watch(self, count: int) -> None:
        self.watchers = [
            self.start("watch", self.room, "--out", str(self.tmp_path / f"copy{number}"))
            for number in range(count)
        ]

    @property
    def left_s(self) -> float:
        return max(0.1, self.deadline - time.monotonic())

    def expect_success(self, process: subprocess.Popen[str]) -> str:
        _, errors = process.communicate(timeout=self.left_s)
        assert process.returncode == 0, errors
        assert "Traceback" not in errors
        return errors

    def expect_copies(self, original: Path, count: int) -> None:
        data = original.read_bytes()
        for process in self.watchers:
            assert "0 missing in" in self.expect_success(process)
        for number in range(count):
            assert (self.tmp_path / f"copy{number}").read_bytes() == data


def test_one_slow_watcher_slows_the_source_and_nobody_loses_anything(
    video: Path, tmp_path: Path
) -> None:
    rate = video.stat().st_size / 4
    with contextlib.ExitStack() as stack:
        stage = Stage(stack, tmp_path)
        began = time.monotonic()
        stage.watch(_WATCHERS - 1)
        slow = stack.enter_context(
            subprocess.Popen(
                _command("watch", stage.room, "--quiet", *stage.at),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
        stack.callback(slow.kill)
        slow_copy = tmp_path / "slow"
        reader = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", _SLOW_READER, str(slow_copy), str(rate)], stdin=slow.stdout
            )
        )
        stack.callback(reader.kill)
        pushing = stage.start(
            "push", stage.room, str(video), "--mode", "reliable", "--wait-subscribers", "20"
        )
        stage.expect_success(pushing)
        stage.expect_copies(video, _WATCHERS - 1)
        assert slow.wait(stage.left_s) == 0
        assert reader.wait(stage.left_s) == 0
        assert slow_copy.read_bytes() == video.read_bytes()
        assert time.monotonic() - began > 4


def test_a_publisher_that_is_killed_and_started_again_goes_on(video: Path, tmp_path: Path) -> None:
    token = tmp_path / "token"
    with contextlib.ExitStack() as stack:
        stage = Stage(stack, tmp_path)
        stage.watch(_WATCHERS)
        size = video.stat().st_size
        push = ("push", stage.room, str(video), "--token", str(token))
        first = stage.start(*push, "--wait-subscribers", "20", "--rate", str(size // 4))
        parts = [tmp_path / f"copy{number}.part" for number in range(_WATCHERS)]
        while min(part.stat().st_size if part.exists() else 0 for part in parts) < size // 2:
            assert stage.left_s > 0.1
            assert first.poll() is None
            time.sleep(0.05)
        first.kill()
        first.wait()
        # While the server still waits for it.
        errors = stage.expect_success(stage.start(*push))
        assert "going on behind" in errors
        stage.expect_copies(video, _WATCHERS)
    assert token.stat().st_mode & 0o077 == 0
