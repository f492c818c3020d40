"""A file pushed and recorded, in this process, through a real server: compared by ffprobe."""

from __future__ import annotations

import http.server
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import pytest
import trio

import tim_trio
from tests.media import clips
from tests.media.clips import AV1, H264, VP8, VP9, make, picture, sound, tracks_of
from tests.net.running import running_server
from tests.net.test_client_reliable import client, proxy
from tim_trio.cli.push_media import open_media, push_media
from tim_trio.cli.watch_media import kind_of_file, watch_media
from tim_trio.media.errors import MediaError
from tim_trio.net.client import Client
from tim_trio.net.client.client import Mode

pytestmark = pytest.mark.slow


async def copied(source: Path | str, out: Path) -> None:
    """Push a file through a reliable room, as fast as it goes, and record it."""
    async with running_server() as running:
        address = f"tim://127.0.0.1:{running.port}"
        async with (
            tim_trio.connect(address, account="alice") as alice,
            tim_trio.connect(address, account="bob") as bob,
        ):
            room = await alice.register_room(mode="reliable")
            async with bob.subscribe(room) as stream, trio.open_nursery() as nursery:
                push = partial(
                    push_media,
                    *(alice, room, await open_media(str(source), loop=False)),
                    mode="reliable",
                    wait_subscribers=1,
                    paced=False,
                    token=None,
                    quiet=True,
                )
                nursery.start_soon(push)
                code = await watch_media(
                    bob, stream, out=out, kind=kind_of_file(out), source=None, quiet=False
                )
    assert code == 0


AAC: Final = ["-c:a", "aac"]
OPUS: Final = ["-c:a", "libopus"]
VORBIS: Final = ["-ac", "2", "-c:a", "libvorbis"]
MPEG2: Final = ["-c:v", "mpeg2video", "-bf", "2", "-c:a", "mp2"]

# name, arguments of ffmpeg, ending of the copy, whether pictures and sound stay as they are
CASES: Final = [
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
async def test_a_file_is_recorded_with_all_its_frames(
    name: str,
    arguments: list[str],
    ending: str,
    same: str,
    ffmpeg: str,
    ffprobe: str,
    tmp_path: Path,
) -> None:
    original = make(ffmpeg, tmp_path / name, arguments)
    copy = tmp_path / f"copy{ending}"
    await copied(original, copy)
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
        # The last chunk may be padded to its full length, and Opus has a beginning.
        assert now.duration == pytest.approx(was.duration, abs=0.03 if "a" in same else 0.05)
        if "video" in before:
            lag_before = before["video"].start - was.start
            assert after["video"].start - now.start == pytest.approx(lag_before, abs=0.01)
    # A chunk of sound before the beginning (AAC, Opus) is part of the copy's length.
    assert clips.duration_of(ffprobe, copy) == pytest.approx(
        max(track.duration for track in before.values()), abs=0.05
    )
    assert sorted(os.listdir(tmp_path)) == sorted([name, copy.name])


async def test_raw_pictures_without_times_are_encoded(
    ffmpeg: str, ffprobe: str, tmp_path: Path
) -> None:
    original = make(ffmpeg, tmp_path / "raw.h264", picture(rate="25"), H264)
    await copied(original, tmp_path / "copy.mkv")
    video = tracks_of(ffprobe, tmp_path / "copy.mkv")["video"]
    assert video.times == pytest.approx([number / 25 for number in range(50)], abs=0.002)


async def test_other_parameters_are_another_file(
    ffmpeg: str, ffprobe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # As a broadcast does it: another size in the middle, and a clock that begins anew.
    film = tmp_path / "film.ts"
    parts = [
        make(ffmpeg, tmp_path / f"{size}.ts", picture(1, size=size), sound(1), H264, AAC)
        for size in ("160x90", "320x180")
    ]
    film.write_bytes(b"".join(part.read_bytes() for part in parts))
    await copied(film, tmp_path / "copy.mp4")
    assert "the stream's parameters change: going on in another file" in capsys.readouterr().err
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


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


async def test_a_url(ffmpeg: str, ffprobe: str, tmp_path: Path) -> None:
    original = make(ffmpeg, tmp_path / "film.mp4", picture(), sound(), H264, AAC)
    handler = partial(_QuietHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{web.server_port}/film.mp4"
        try:
            await copied(url, tmp_path / "copy.mp4")
            with pytest.raises(MediaError, match=r"cannot read .*: Server returned 404 Not Found"):
                await open_media(url.replace("film", "no"), loop=False)
        finally:
            web.shutdown()
    assert clips.digest_of(ffmpeg, tmp_path / "copy.mp4", "v") == (
        clips.digest_of(ffmpeg, original, "v")
    )


async def test_cut_connections(ffmpeg: str, ffprobe: str, tmp_path: Path) -> None:
    original = make(ffmpeg, tmp_path / "film.mp4", picture(3), sound(3), H264, AAC)
    codes: dict[str, int] = {}

    async def watch(client: Client, room: str, name: str, ready: trio.Event) -> None:
        out = tmp_path / name
        async with client.subscribe(room) as stream:
            ready.set()
            codes[name] = await watch_media(
                client, stream, out=out, kind=kind_of_file(out), source=None, quiet=True
            )

    async def push(client: Client, room: str, mode: Mode, cut: Callable[[], None]) -> None:
        reader = await open_media(str(original), loop=False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                partial(
                    push_media,
                    *(client, room, reader),
                    mode=mode,
                    wait_subscribers=1,
                    paced=True,
                    token=None,
                    quiet=True,
                )
            )
            await trio.sleep(1.2)
            cut()

    async with (
        running_server() as running,
        proxy(running) as cable,
        client(running.port) as near,
        client(cable.port, "bob") as far,
    ):
        reliable = await near.register_room(mode="reliable")
        await near.grant(reliable, "bob")
        live = await near.register_room()
        async with trio.open_nursery() as nursery:
            for who, room, name in ((near, reliable, "pushed.mkv"), (far, live, "watched.mkv")):
                ready = trio.Event()
                nursery.start_soon(watch, who, room, name, ready)
                await ready.wait()
            # One cut, and it is the publisher's here and the subscriber's there.
            nursery.start_soon(push, far, reliable, "reliable", lambda: None)
            nursery.start_soon(push, near, live, "live", cable.cut)
    before = tracks_of(ffprobe, original)
    pushed = tracks_of(ffprobe, tmp_path / "pushed.mkv")
    assert codes["pushed.mkv"] == 0
    for kind in ("video", "audio"):
        assert pushed[kind].times == pytest.approx(before[kind].times, abs=0.002)
    # What the running group covered did not even miss.
    watched = tracks_of(ffprobe, tmp_path / "watched.mkv")
    missing = before["video"].packets - watched["video"].packets
    lost_sound = before["audio"].packets - watched["audio"].packets
    assert codes["watched.mkv"] == (4 if missing or lost_sound else 0)
    assert watched["video"].duration == pytest.approx(before["video"].duration, abs=0.002)
    clips.digest_of(ffmpeg, tmp_path / "watched.mkv", "v")  # decodes without a complaint
