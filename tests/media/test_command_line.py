"""``push --media`` and ``watch --media``: real files through a real server, read by ffprobe."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Final

import pytest

from tests.media.clips import H264, make, picture, sound, tracks_of

COMMAND: Final = [sys.executable, "-m", "tim_trio"]
ROOT: Final = Path(__file__).resolve().parent.parent.parent
DEADLINE_S: Final = 40
#: As fast as it goes, with nothing lost.
WHOLE: Final = ("--mode", "reliable", "--rate", "0", "--wait-subscribers", "1")

pytestmark = pytest.mark.slow

Process = subprocess.Popen[bytes]


class Scene:
    """A server, and commands that talk to it."""

    def __init__(self, address: str) -> None:
        self.env = {name: value for name, value in os.environ.items() if "TIM_TRIO" not in name}
        self.env |= {"TIM_TRIO_SERVER": address, "TIM_TRIO_ACCOUNT": "alice"}
        self.left: list[Process] = []

    def start(self, *arguments: object) -> Process:
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            cwd=ROOT,
            env=self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.left.append(process)
        return process

    def push(self, *arguments: object) -> tuple[Process, str]:
        """Start a push into a new room; return it with the room."""
        process = self.start("push", "--media", *arguments)
        assert process.stdout is not None
        room = process.stdout.readline().decode().strip()
        assert len(room) == 11, finish(process)
        return process, room

    def run(self, *arguments: object) -> tuple[int, str]:
        return finish(self.start(*arguments))


def finish(process: Process) -> tuple[int, str]:
    _, err = process.communicate(timeout=DEADLINE_S)
    return process.returncode, err.decode()


@contextmanager
def serving() -> Iterator[Scene]:
    command = [*COMMAND, "--tcp", "127.0.0.1:0", "--no-web"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as server:
        assert server.stdout is not None
        scene = Scene(f"tim://{server.stdout.readline().decode().split()[2]}")
        try:
            yield scene
        finally:
            for process in (*scene.left, server):
                process.kill()
            for process in scene.left:
                process.communicate()


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with serving() as one:
        yield one


AAC: Final = ["-c:a", "aac"]


def test_live_and_paced_it_takes_as_long_as_the_file(
    scene: Scene, ffmpeg: str, ffprobe: str, tmp_path: Path
) -> None:
    original = make(ffmpeg, tmp_path / "film.mp4", picture(), sound(), H264, AAC)
    started = time.monotonic()
    push, room = scene.push(original, "--wait-subscribers", 1)
    code, said = scene.run("watch", "--media", room, "--out", tmp_path / "copy.mkv")
    assert (code, finish(push)[0]) == (0, 0), said
    assert time.monotonic() - started > 1.9
    before, after = tracks_of(ffprobe, original), tracks_of(ffprobe, tmp_path / "copy.mkv")
    assert {kind: one.packets for kind, one in after.items()} == (
        {kind: one.packets for kind, one in before.items()}
    )


def test_a_loop_is_joined_late_at_a_keyframe_and_recorded_until_interrupted(
    scene: Scene, ffmpeg: str, ffprobe: str, tmp_path: Path
) -> None:
    clip = make(ffmpeg, tmp_path / "clip.mp4", picture(1), sound(1), H264, AAC)
    _, room = scene.push(clip, "--loop", "--quiet")
    time.sleep(1.5)
    out = tmp_path / "copy.mkv"
    watch = scene.start("watch", "--media", room, "--out", out)
    assert watch.stderr is not None
    said = b""
    while int((re.findall(rb"(\d+) frames", said) or [b"0"])[-1]) < 230:  # some 3 s
        said += watch.stderr.readline()
    watch.send_signal(signal.SIGINT)
    code, rest = finish(watch)
    assert code == 130, rest
    tracks = tracks_of(ffprobe, out)
    video, audio = tracks["video"], tracks["audio"]
    assert video.begins_with_key
    assert video.duration > 2
    # Over the seams too: a frame each 1/30 s, and sound that does not stop. Cut
    # off between a picture and the three B-frames before it, the end has a hole.
    times = video.times[:-4]
    steps = [after - before for before, after in pairwise(times)]
    assert max(steps) < 0.08  # where the sound is longer than the picture
    assert min(steps) > 0.01
    gaps = [after - before for before, after in pairwise(audio.times)]
    assert max(gaps) < 0.08
    assert not list(tmp_path.glob("copy-2*")), "the parameters did not change"
    assert not list(tmp_path.glob("*.part"))


def test_standard_output_is_matroska(
    scene: Scene, ffmpeg: str, ffprobe: str, tmp_path: Path
) -> None:
    original = make(ffmpeg, tmp_path / "film.mp4", picture(), sound(), H264, AAC)
    push, room = scene.push(original, *WHOLE)
    watch = scene.start("watch", "--media", room)
    stdout, err = watch.communicate(timeout=DEADLINE_S)
    assert (watch.returncode, finish(push)[0]) == (0, 0), err
    (tmp_path / "piped").write_bytes(stdout)
    before, after = tracks_of(ffprobe, original), tracks_of(ffprobe, tmp_path / "piped")
    assert after["video"].packets == before["video"].packets
    assert after["audio"].packets == before["audio"].packets


def test_standard_input(scene: Scene, ffmpeg: str, ffprobe: str, tmp_path: Path) -> None:
    original = make(ffmpeg, tmp_path / "film.ts", picture(), sound(), H264, AAC)
    push = scene.start("push", "--media", "-", *WHOLE)
    assert push.stdin is not None and push.stdout is not None
    push.stdin.write(original.read_bytes())
    push.stdin.close()
    push.stdin = None
    room = push.stdout.readline().decode().strip()
    code, said = scene.run("watch", "--media", room, "--out", tmp_path / "copy.mkv")
    assert (code, finish(push)[0]) == (0, 0), said
    before, after = tracks_of(ffprobe, original), tracks_of(ffprobe, tmp_path / "copy.mkv")
    assert {kind: one.packets for kind, one in after.items()} == (
        {kind: one.packets for kind, one in before.items()}
    )


def test_a_killed_push_goes_on_by_its_token(
    scene: Scene, ffmpeg: str, ffprobe: str, tmp_path: Path
) -> None:
    original = make(ffmpeg, tmp_path / "film.mp4", picture(4), sound(4), H264, AAC)
    options = ["--token", tmp_path / "token", "--mode", "reliable"]
    push, room = scene.push(original, *options, "--wait-subscribers", 1)
    watch = scene.start("watch", "--media", room, "--out", tmp_path / "copy.mkv")
    assert watch.stderr is not None
    while not re.search(rb"\d{2,} frames", watch.stderr.readline()):
        pass  # a report comes every second
    push.kill()
    push.communicate()
    code, said = scene.run("push", "--media", room, original, *options, "--rate", "0")
    assert code == 0, said
    assert re.search(r"going on behind \d{2,} frames pushed before", said)
    code, said = finish(watch)
    assert code == 0, said
    before, after = tracks_of(ffprobe, original), tracks_of(ffprobe, tmp_path / "copy.mkv")
    assert after["video"].times == pytest.approx(before["video"].times, abs=0.002)
    assert after["audio"].packets == before["audio"].packets
    code, said = scene.run("push", "--media", room, original, *options)
    assert code == 0, said
