"""Media files made with ffmpeg, and what ffprobe says of a file."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Final

import attrs

DEADLINE_S: Final = 50
_QUIET: Final = ("-nostdin", "-v", "error", "-y")


def picture(seconds: float = 2, *, rate: str = "30", size: str = "160x90") -> list[str]:
    """Arguments of ffmpeg for a moving picture."""
    return ["-f", "lavfi", "-i", f"testsrc2=size={size}:rate={rate}:duration={seconds}"]


def sound(seconds: float = 2, *, rate: int = 48_000) -> list[str]:
    """Arguments of ffmpeg for a tone."""
    return ["-f", "lavfi", "-i", f"sine=frequency=440:sample_rate={rate}:duration={seconds}"]


#: H.264 with B-frames, three groups in 2 s.
H264: Final = "-c:v libx264 -preset veryfast -bf 3 -g 20 -pix_fmt yuv420p".split()
VP8: Final = "-c:v libvpx -deadline realtime -cpu-used 8 -b:v 300k -g 20".split()
VP9: Final = "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -b:v 300k -g 20".split()
AV1: Final = "-c:v libsvtav1 -preset 12 -crf 50 -g 20".split()


def make(ffmpeg: str, path: Path, *arguments: str | list[str]) -> Path:
    """Make a file, and return its path."""
    flat: list[str] = []
    for each in arguments:
        flat += [each] if isinstance(each, str) else each
    subprocess.run([ffmpeg, *_QUIET, *flat, str(path)], check=True, timeout=DEADLINE_S)
    return path


@attrs.frozen
class Track:
    """A track of a file, as ffprobe reads its packets.

    Times are seconds, in the order of presentation, the first one 0.
    """

    codec: str
    times: tuple[float, ...]
    duration: float
    begins_with_key: bool
    start: float

    @property
    def packets(self) -> int:
        return len(self.times)


def tracks_of(ffprobe: str, path: Path | str, **run: bytes) -> dict[str, Track]:
    """Return the tracks of a file, by kind."""
    command = [ffprobe, "-v", "error", "-of", "json", "-show_packets", "-show_streams", str(path)]
    done = subprocess.run(
        command, check=True, capture_output=True, timeout=DEADLINE_S, input=run.get("input")
    )
    assert not done.stderr, done.stderr
    parsed = json.loads(done.stdout)
    tracks = {}
    for stream in parsed["streams"]:
        packets = [p for p in parsed["packets"] if p["stream_index"] == stream["index"]]
        times = sorted(float(packet["pts_time"]) for packet in packets)
        ends = [float(p["pts_time"]) + float(p.get("duration_time", 0)) for p in packets]
        if len(times) > 1 and str(path).endswith(".mp4") and stream["codec_type"] == "video":
            # ffprobe cuts the last picture where an edit list ends, and puts
            # the list's beginning into that.
            ends.append(times[0] + float(stream["duration"]))
        tracks[stream["codec_type"]] = Track(
            codec=stream["codec_name"],
            times=tuple(round(time - times[0], 6) for time in times),
            duration=max(ends) - times[0],
            begins_with_key="K" in packets[0]["flags"],
            start=times[0],
        )
    return tracks


def duration_of(ffprobe: str, path: Path) -> float:
    """Return what ffprobe says a file's length is, in seconds."""
    command = [ffprobe, "-v", "error", "-of", "json", "-show_format", str(path)]
    done = subprocess.run(command, check=True, capture_output=True, timeout=DEADLINE_S)
    return float(json.loads(done.stdout)["format"]["duration"])


def digest_of(ffmpeg: str, path: Path, kind: str) -> str:
    """Return a digest of all decoded pictures (``v``), or of the sound (``a``)."""
    command = [ffmpeg, *_QUIET, "-i", str(path), "-map", f"0:{kind}:0", "-vsync", "0"]
    done = subprocess.run(
        [*command, "-f", "md5", "-"], check=True, capture_output=True, timeout=DEADLINE_S
    )
    assert not done.stderr, done.stderr
    return done.stdout.decode().strip()
