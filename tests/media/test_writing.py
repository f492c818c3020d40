"""What strangers send becomes a file or an error, and neither hangs nor crashes."""

from __future__ import annotations

import os
import random
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.media.clips import H264, VP9, make, picture
from tests.media.test_codecs import audio, video
from tests.media.test_h264 import AVCC
from tim_trio.media.codecs import FileKind
from tim_trio.media.errors import MediaError
from tim_trio.media.matroska import MatroskaStream
from tim_trio.media.profile import MediaInit, parse_init
from tim_trio.media.reading import MediaReader
from tim_trio.media.sink import FileSink

pytestmark = pytest.mark.slow


async def written(path: Path, kind: FileKind, data: bytes) -> None:
    async with trio.open_nursery() as nursery:
        sink = FileSink(path, kind)
        sink.start(nursery)
        try:
            await sink.write(data)
        finally:
            await sink.finish()


async def result_of(path: Path, kind: FileKind, data: bytes) -> str:
    """Return what became of the data: a file, or an error."""
    result = "file"
    try:
        await written(path, kind, data)
    except* MediaError:
        result = "error"
    return result


@pytest.mark.parametrize(
    "init",
    [
        video("avc1.42c01e", AVCC),
        video("avc1.42c01e", b"\1"),
        video("hvc1.1.6.L93.B0", b"\1" * 30),
        video("vp8"),
        video("vp09.00.10.08"),
        video("av01.0.04M.08"),
        audio("opus"),
        audio("opus", b"OpusHead"),
        audio("mp4a.40.2", b"\x12\x10"),
        audio("mp4a.40.2", b"\xff" * 9),
        audio("mp3"),
        audio("flac", b"fLaC"),
        audio("vorbis", b"\2\xff\xff\xff"),
    ],
    ids=lambda init: f"{init.codec}-{(init.description or b'').hex()[:8]}",
)
@pytest.mark.parametrize("kind", [FileKind.MATROSKA, FileKind.MP4])
async def test_rubbish(init: MediaInit, kind: FileKind, tmp_path: Path) -> None:
    source = random.Random(5)
    stream = MatroskaStream({0: init}, 0)
    chunks = [
        stream.block(
            0,
            source.choice([number * 20_000, source.randrange(-(2**62), 2**62)]),
            source.randbytes(source.randrange(300)),
            key=source.random() < 0.3,
        )
        for number in range(200)
    ]
    path = tmp_path / "file"
    result = await result_of(path, kind, stream.header + b"".join(chunks))
    assert path.exists() == (result == "file")
    assert (tmp_path / "file.part").exists() == (result == "error")


@pytest.mark.parametrize("codec", [H264, VP9], ids=["h264", "vp9"])
async def test_real_pictures_damaged_on_their_way(
    codec: list[str], ffmpeg: str, tmp_path: Path
) -> None:
    film = make(ffmpeg, tmp_path / "film.mkv", picture(1), codec)
    reader = await trio.to_thread.run_sync(partial(MediaReader, str(film)))
    first, *frames = reader.read()
    init = parse_init(first.payload)
    reader.close()
    source = random.Random(6)
    for number in range(5):
        stream = MatroskaStream({0: init}, 0)
        data = stream.header
        for frame in frames:
            payload = bytearray(frame.payload)
            for _ in range(number):
                if payload:
                    payload[source.randrange(len(payload))] ^= 1 << source.randrange(8)
            data += stream.block(0, frame.timestamp_us, bytes(payload), key=frame.key)
        assert await result_of(tmp_path / "copy", FileKind.MATROSKA, data) in ("file", "error")


async def test_a_disk_that_is_full() -> None:
    stream = MatroskaStream({0: audio("mp3")}, 0)
    data = stream.header + b"".join(
        stream.block(0, number * 26_000, bytes(5_000), key=True) for number in range(2_000)
    )
    full = Path("/dev/full")
    sink = FileSink(full, FileKind.MATROSKA)
    sink.part = full
    with pytest.RaisesGroup(
        pytest.RaisesExc(MediaError, match="cannot write /dev/full: No space left on device")
    ):
        async with trio.open_nursery() as nursery:
            sink.start(nursery)
            try:
                await sink.write(data)
            finally:
                await sink.finish()


async def test_cancelled_in_the_middle_it_is_finished_all_the_same(tmp_path: Path) -> None:
    stream = MatroskaStream({0: audio("mp3")}, 0)
    path = tmp_path / "sound.mkv"
    before = set(os.listdir("/proc/self/fd"))
    with trio.move_on_after(0.05) as scope:
        async with trio.open_nursery() as nursery:
            sink = FileSink(path, FileKind.MATROSKA)
            sink.start(nursery)
            try:
                await sink.write(stream.header)
                for number in range(100):
                    await sink.write(stream.block(0, number * 26_000, b"\xff\xfb\x90", key=True))
                await trio.sleep_forever()
            finally:
                await sink.finish()
    assert scope.cancelled_caught
    assert os.listdir(tmp_path) == ["sound.mkv"]
    assert set(os.listdir("/proc/self/fd")) == before
