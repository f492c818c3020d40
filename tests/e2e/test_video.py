"""A real video through a real server to twenty watchers, by the command line alone."""

from __future__ import annotations

import contextlib
import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

_ROOT: Final = Path(__file__).resolve().parent.parent.parent
_WATCHERS: Final = 20
_SECONDS: Final = 6
_DEADLINE_S: Final = 50


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tim_trio", *arguments]


@contextlib.contextmanager
def _process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command of ours; it is killed if the test leaves it behind."""
    with subprocess.Popen(
        _command(*arguments),
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="session")
def video(ffmpeg: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A moving picture with sound, a few megabytes of MPEG-TS."""
    path = tmp_path_factory.mktemp("video") / "video.ts"
    command = [ffmpeg, "-nostdin", "-v", "error"]
    command += ["-f", "lavfi", "-i", f"testsrc2=size=640x360:rate=30:duration={_SECONDS}"]
    command += ["-f", "lavfi", "-i", f"sine=frequency=440:sample_rate=48000:duration={_SECONDS}"]
    # Encoders that every build of ffmpeg has.
    command += ["-c:v", "mpeg2video", "-b:v", "4000k", "-g", "30", "-c:a", "mp2", "-b:a", "128k"]
    subprocess.run([*command, "-f", "mpegts", str(path)], check=True, timeout=_DEADLINE_S)
    assert 2_000_000 < path.stat().st_size < 8_000_000
    return path


def _frames(ffprobe: str, path: Path) -> dict[str, int]:
    """Return how many frames of picture and of sound ffprobe decodes from a file."""
    command = [ffprobe, "-v", "error", "-count_frames", "-of", "json", "-show_entries"]
    command += ["stream=codec_type,nb_read_frames", str(path)]
    done = subprocess.run(command, check=True, capture_output=True, timeout=_DEADLINE_S)
    assert not done.stderr, done.stderr
    # A transport stream lists its streams under its programs as well.
    streams = json.loads(done.stdout)["streams"]
    return {each["codec_type"]: int(each["nb_read_frames"]) for each in streams}


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        # A file has no clock of its own, and a live room waits for nobody.
        pytest.param(["--mode", "live", "--rate", "1M"], id="live"),
        pytest.param(["--mode", "reliable"], id="reliable"),
    ],
)
def test_twenty_watchers_get_the_identical_video(
    options: list[str], video: Path, ffprobe: str, tmp_path: Path
) -> None:
    expected = _frames(ffprobe, video)
    assert expected["video"] == 30 * _SECONDS
    assert expected["audio"] > 40 * _SECONDS
    copies = [tmp_path / f"copy{number}.ts" for number in range(_WATCHERS)]
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_process("serve", "--tcp", "127.0.0.1:0", "--no-web"))
        assert server.stdout is not None
        words = server.stdout.readline().split()
        assert words[:2] == ["listening", "tcp"]
        at = ("--server", f"tim://{words[2]}")
        pushing = stack.enter_context(
            _process("push", str(video), *options, "--wait-subscribers", str(_WATCHERS), *at)
        )
        assert pushing.stdout is not None
        room = pushing.stdout.readline().strip()
        assert len(room) == 11
        watching = [
            stack.enter_context(_process("watch", room, "--out", str(copy), *at)) for copy in copies
        ]
        for process in (pushing, *watching):
            _, errors = process.communicate(timeout=_DEADLINE_S)
            assert process.returncode == 0, errors
            assert "Traceback" not in errors
        server.send_signal(signal.SIGTERM)
        _, log = server.communicate(timeout=_DEADLINE_S)
        assert server.returncode == 0, log
        assert "frames dropped" not in log
    original = hashlib.sha256(video.read_bytes()).hexdigest()
    assert [hashlib.sha256(copy.read_bytes()).hexdigest() for copy in copies] == (
        [original] * _WATCHERS
    )
    # Identical bytes hold identical frames: what is left to show is that the
    # copies, and not only their bytes, can be read.
    for copy in copies:
        assert _frames(ffprobe, copy) == expected
