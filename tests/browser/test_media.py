"""A media file that the command line pushes, watched in the browser while it is recorded."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.browser.conftest import Running, Visit
from tests.media.clips import H264, make, sound, tracks_of

COMMAND = [sys.executable, "-m", "tim_trio"]
DEADLINE_S = 50
#: Red for a second, then blue, and so on; all is one group, so that who joins late has it all.
SECONDS = 3
COLOURS = {"red": "0xc02020", "blue": "0x2020c0"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def start(stack: ExitStack, server: Running, *arguments: object) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments), "--server", server.tcp],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    stack.callback(process.communicate)
    stack.callback(process.kill)
    return process


def test_a_pushed_file_is_watched_and_recorded(
    server: Running, visit: Visit, ffmpeg: str, ffprobe: str, tmp_path: Path
) -> None:
    parts = [
        f"color={COLOURS['red' if second % 2 == 0 else 'blue']}:s=320x180:r=30:d=1[p{second}]"
        for second in range(SECONDS)
    ]
    joined = "".join(f"[p{second}]" for second in range(SECONDS)) + f"concat=n={SECONDS}[v]"
    clip = make(
        ffmpeg, tmp_path / "clip.mkv", sound(SECONDS),
        ["-filter_complex", ";".join([*parts, joined]), "-map", "[v]", "-map", "0:a"],
        H264, ["-g", "300", "-sc_threshold", "0", "-c:a", "libopus"],
    )  # fmt: skip
    with ExitStack() as stack:
        viewer = visit(server.page, name="vera")
        viewer.page.wait_for_selector("[data-kind=test]")
        push = start(
            stack, server, "push", "--media", clip, "--wait-subscribers", 2, "--account", "paula"
        )
        assert push.stdout is not None
        room = push.stdout.readline().strip()
        copy = tmp_path / "copy.mkv"
        watch = start(stack, server, "watch", "--media", room, "--out", copy)
        viewer.evaluate("room => { location.hash = `watch=${room}` }", room)
        viewer.wait_for_picture(10)
        viewer.wait_for_sound()
        assert viewer.evaluate("() => document.querySelector('.tile canvas').width") == 320
        # It changes as the file does, and shows nothing else.
        viewer.page.wait_for_function(_SEEN_BOTH, polling=30)
        _, said = watch.communicate(timeout=DEADLINE_S)
        assert watch.returncode == 0, said
        assert push.wait(DEADLINE_S) == 0
    before, after = tracks_of(ffprobe, clip), tracks_of(ffprobe, copy)
    for kind in ("video", "audio"):
        assert after[kind].packets == before[kind].packets
        assert abs(after[kind].duration - before[kind].duration) < 0.03
    assert after["video"].packets == SECONDS * 30


#: Whether both colours have been seen; throws at any other.
_SEEN_BOTH = """() => {
  const canvas = document.querySelector(".tile canvas");
  const { data } = canvas.getContext("2d").getImageData(160, 90, 1, 1);
  const [red, green, blue] = data;
  const is = (wanted) => wanted.every((value, at) => Math.abs(data[at] - value) < 24);
  globalThis.seen ??= new Set();
  if (is([192, 32, 32])) seen.add("red");
  else if (is([32, 32, 192])) seen.add("blue");
  else throw new Error(`another colour: ${red} ${green} ${blue}`);
  return seen.size === 2;
}"""
