"""``push --media`` and ``watch --media``: real files through a real server, read by ffprobe."""

from __future__ import annotations

import http.server
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from tests.media import clips
from tests.media.clips import AV1, H264, VP8, VP9, make, picture, sound, tracks_of

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

    def copy(self, source: object, out: Path, *options: object) -> str:
        """Push a file to its end, record it, and return what the recorder said."""
        push, room = self.push(source, *WHOLE, *options)
        watch = self.start("watch", "--media", room, "--out", out)
        code, said = finish(watch)
        assert code == 0, said
        code, pushed = finish(push)
        assert code == 0, pushed
        assert "Traceback" not in said + pushed
        return said


def finish(process: Process) -> tuple[int, str]:
    _, err = process.communicate(timeout=DEADLINE_S)
    return process.returncode, err.decode()


@contextmanager
def serving() -> Iterator[Scene]:
    command = [*COMMAND, "--tcp", "127.0.0.1:0"]
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


AAC = ["-c:a", "aac"]
OPUS = ["-c:a", "libopus"]
VORBIS = ["-ac", "2", "-c:a", "libvorbis"]
MPEG2 = ["-c:v", "mpeg2video", "-bf", "2", "-c:a", "mp2"]

# name, arguments of ffmpeg, ending of the copy, whether pictures and sound stay as they are
CASES = [
    ("b_frames.mp4", [*picture(), *sound(rate=44_100), *H264, *AAC], ".mkv", "va"),
    ("b_frames.mp4", [*picture(), *sound(rate=44_100), *H264, *AAC], ".mp4", "va"),
    ("vp9_opus.webm", [*picture(), *sound(), *VP9, *OPUS], ".webm", "va"),
    ("annex_b.ts", [*picture(), *sound(rate=44_100), *H264, *AAC], ".mkv", "va"),
    ("ntsc.mp4", [*picture(rate="30000/1001"), *sound(), *H264, *AAC], ".mp4", "va"),
    ("video_only.webm", [*picture(), *VP8], ".mkv", "v"),
    ("av1_vorbis.mkv", [*picture(1), *sound(1), *AV1, *VORBIS], ".mkv", "va"),
    ("audio_only.mp3", [*sound(rate=44_100), "-c:a", "libmp3lame"], ".mkv", "a"),
    ("lossless.flac", [*sound(rate=44_100), "-c:a", "flac"], ".mkv", "a"),
    ("other_codecs.ts", [*picture(rate="25"), *sound(), *MPEG2], ".mp4", ""),
    ("other_codecs.avi", [*picture(), *sound(), "-c:v", "mpeg4", "-c:a", "pcm_s16le"], ".mkv", ""),
]  # fmt: skip


@pytest.mark.parametrize(
    "name, arguments, ending, same", [pytest.param(*one, id=f"{one[0]}-{one[2]}") for one in CASES]
)
def test_a_file_is_recorded_with_all_its_frames(
    name: str,
    arguments: list[str],
    ending: str,
    same: str,
    scene: Scene,
    ffmpeg: str,
    ffprobe: str,
    tmp_path: Path,
) -> None:
    original = make(ffmpeg, tmp_path / name, arguments)
    copy = tmp_path / f"copy{ending}"
    scene.copy(original, copy)
    before, after = tracks_of(ffprobe, original), tracks_of(ffprobe, copy)
    assert set(after) == set(before)
    if "video" in before:
        was, now = before["video"], after["video"]
        assert now.packets == was.packets
        assert now.begins_with_key
        assert now.duration == pytest.approx(was.duration, abs=0.002)
        assert now.times == pytest.approx(was.times, abs=0.002)
        if "v" in same:
            assert now.codec == was.codec
            assert clips.digest_of(ffmpeg, copy, "v") == clips.digest_of(ffmpeg, original, "v")
        else:
            assert now.codec == "h264"
    if "audio" in before:
        was, now = before["audio"], after["audio"]
        if "a" in same:
            assert (now.codec, now.packets) == (was.codec, was.packets)
            assert now.times == pytest.approx(was.times, abs=0.002)
        else:
            assert now.codec == "opus"
        # The last chunk may be padded to its full length.
        assert now.duration == pytest.approx(was.duration, abs=0.03)
        if "video" in before:
            lag_before = before["video"].start - was.start
            assert after["video"].start - now.start == pytest.approx(lag_before, abs=0.01)
    # A chunk of sound before the beginning (AAC, Opus) is part of the copy's length.
    assert clips.duration_of(ffprobe, copy) == pytest.approx(
        max(track.duration for track in before.values()), abs=0.05
    )
    assert [path.name for path in tmp_path.glob("copy*")] == [copy.name]


def test_raw_pictures_without_times_are_encoded(
    scene: Scene, ffmpeg: str, ffprobe: str, tmp_path: Path
) -> None:
    original = make(ffmpeg, tmp_path / "raw.h264", picture(rate="25"), H264)
    scene.copy(original, tmp_path / "copy.mkv")
    copied = tracks_of(ffprobe, tmp_path / "copy.mkv")["video"]
    assert copied.times == pytest.approx([number / 25 for number in range(50)], abs=0.002)


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
    # Over the seams too: a frame each 1/30 s, and sound that does not stop.
    steps = [after - before for before, after in zip(video.times, video.times[1:], strict=False)]
    assert max(steps) < 0.06
    assert min(steps) > 0.01
    gaps = [after - before for before, after in zip(audio.times, audio.times[1:], strict=False)]
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


def test_standard_input_and_a_url(scene: Scene, ffmpeg: str, ffprobe: str, tmp_path: Path) -> None:
    original = make(ffmpeg, tmp_path / "film.ts", picture(), sound(), H264, AAC)
    handler = partial(_QuietHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{web.server_port}/film.ts"
        scene.copy(url, tmp_path / "by_url.mkv")
        code, said = scene.run("push", "--media", url.replace("film", "no"))
        web.shutdown()
    assert code == 1
    assert (
        said == f"error: cannot read {url.replace('film', 'no')}: Server returned 404 Not Found\n"
    )

    push = scene.start("push", "--media", "-", *WHOLE)
    assert push.stdin is not None and push.stdout is not None
    push.stdin.write(original.read_bytes())
    push.stdin.close()
    push.stdin = None
    room = push.stdout.readline().decode().strip()
    code, said = scene.run("watch", "--media", room, "--out", tmp_path / "by_pipe.mkv")
    assert (code, finish(push)[0]) == (0, 0), said
    expected = {kind: one.packets for kind, one in tracks_of(ffprobe, original).items()}
    for name in ("by_url.mkv", "by_pipe.mkv"):
        copied = {kind: one.packets for kind, one in tracks_of(ffprobe, tmp_path / name).items()}
        assert copied == expected


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def test_other_parameters_are_another_file(
    scene: Scene, ffmpeg: str, ffprobe: str, tmp_path: Path
) -> None:
    # As a broadcast does it: another size in the middle, and a clock that begins anew.
    film = tmp_path / "film.ts"
    parts = [
        make(ffmpeg, tmp_path / f"{size}.ts", picture(1, size=size), sound(1), H264, AAC)
        for size in ("160x90", "320x180")
    ]
    film.write_bytes(b"".join(part.read_bytes() for part in parts))
    said = scene.copy(film, tmp_path / "copy.mp4")
    assert "the stream's parameters change: going on in another file" in said
    for part, name in zip(parts, ("copy.mp4", "copy-2.mp4"), strict=True):
        before, after = tracks_of(ffprobe, part), tracks_of(ffprobe, tmp_path / name)
        assert after["video"].packets == before["video"].packets
        assert clips.digest_of(ffmpeg, tmp_path / name, "v") == clips.digest_of(ffmpeg, part, "v")
    # Sound is not cut at the same place as the picture: a few chunks go either way.
    sounds = sum(tracks_of(ffprobe, part)["audio"].packets for part in parts)
    recorded = sum(
        tracks_of(ffprobe, tmp_path / name)["audio"].packets for name in ("copy.mp4", "copy-2.mp4")
    )
    assert sounds - 30 <= recorded <= sounds


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


def test_mistakes_get_one_line(scene: Scene, ffmpeg: str, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("this is no film\n" * 1000)
    (tmp_path / "empty.mkv").touch()
    only_text = tmp_path / "titles.srt"
    only_text.write_text("1\n00:00:00,000 --> 00:00:01,000\nHello\n")
    room = "LJ6TN2wdrZF"
    for arguments, complaint in [
        (("push", "--media", tmp_path / "no.mp4"), "cannot read .*no.mp4: No such file"),
        (("push", "--media", tmp_path), "cannot read .*: Is a directory"),
        (("push", "--media", tmp_path / "text.mp4"), "cannot read .*no media that FFmpeg knows"),
        (("push", "--media", tmp_path / "empty.mkv"), "cannot read .*empty.mkv: "),
        (("push", "--media", only_text), "titles.srt has neither video nor sound"),
        (("push", "--media", "nope://x/y"), "cannot read nope://x/y: Protocol not found"),
        (("push", "--media", "http://127.0.0.1:1/x"), "cannot read .*: Connection refused"),
        (("push", "--media", "--rate", "2M", "x"), "goes by its timestamps"),
        (("push", "--media", "--loop", "-"), "standard input cannot begin again"),
        (("push", "--loop", "x"), "--loop needs --media"),
        (("watch", "--media", room, "--out", "x.avi"), r"must end in \.mkv, \.webm, \.mp4"),
        (("watch", "--media", room, "--track", "1", "--out", "x.mkv"), "leave out --track"),
        (("watch", "--media", room, "--out", tmp_path / "no" / "x.mkv"), "no such directory"),
        (("watch", "--media", room, "--out", tmp_path / "x.mkv"), "does not exist, or has ended"),
    ]:
        code, said = scene.run(*arguments)
        assert code in (1, 2), arguments
        assert re.fullmatch(rf"error: .*{complaint}.*\n", said), said
    assert not list(tmp_path.glob("x*"))
