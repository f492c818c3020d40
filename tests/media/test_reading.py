"""Files as frames: what is passed on, what is encoded, and the clock over many passes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import av
import pytest

from tests.media.clips import H264, make, picture, sound
from tim_trio.media import tracks
from tim_trio.media.errors import MediaError
from tim_trio.media.profile import AudioInit, MediaInit, VideoInit, parse_init
from tim_trio.media.reading import Frame, MediaReader

pytestmark = pytest.mark.slow

AAC: Final = ["-c:a", "aac"]


@contextmanager
def reading(source: Path, *, loop: bool = False) -> Iterator[MediaReader]:
    reader = MediaReader(str(source), loop=loop)
    try:
        yield reader
    finally:
        reader.close()


def frames_of(source: Path, *, loop: bool = False, count: int = 10**9) -> list[Frame]:
    """Return the first frames, and no fewer than ``count`` of them if it loops."""
    frames: list[Frame] = []
    with reading(source, loop=loop) as reader:
        while len(frames) < count and (more := reader.read()):
            frames += more
    return frames


def inits_of(frames: list[Frame]) -> dict[int, MediaInit]:
    return {frame.track: parse_init(frame.payload) for frame in frames if frame.init}


def _read_on(reader: MediaReader) -> None:
    while reader.read():
        pass


@pytest.fixture(scope="module")
def film(ffmpeg: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    return make(ffmpeg, path, picture(1), sound(1, rate=44_100), H264, AAC)


def test_inits_come_first_and_ends_last(film: Path) -> None:
    frames = frames_of(film)
    assert [(frame.track, frame.init) for frame in frames[:3]] == [(0, True), (1, True), (0, False)]
    assert [(frame.track, frame.end, frame.payload) for frame in frames[-2:]] == [
        (0, True, b""),
        (1, True, b""),
    ]
    assert sum(frame.init for frame in frames) == sum(frame.end for frame in frames) == 2
    inits = inits_of(frames)
    video, audio = inits[0], inits[1]
    assert isinstance(video, VideoInit) and isinstance(audio, AudioInit)
    assert (video.coded_width, video.coded_height, video.framerate) == (160, 90, 30)
    assert video.codec.startswith("avc1.64")
    assert (audio.codec, audio.sample_rate, audio.number_of_channels) == ("mp4a.40.2", 44_100, 1)
    chunks = [frame for frame in frames if not frame.init and not frame.end]
    assert all(frame.key for frame in chunks if frame.track == 1)
    assert [frame.key for frame in chunks if frame.track == 0].count(True) == 2
    # One clock, which begins with the earliest chunk; the sound's is before the picture's.
    assert min(frame.timestamp_us for frame in chunks) == 0
    assert frames[-2].timestamp_us == pytest.approx(1_023_220, abs=2)
    assert [frame.due_us for frame in frames] == sorted(frame.due_us for frame in frames)


def test_a_loop_goes_on_without_another_init(film: Path) -> None:
    once = frames_of(film)
    chunks = {track: sum(frame.track == track for frame in once) - 2 for track in (0, 1)}
    frames = frames_of(film, loop=True, count=3 * len(once))
    assert sum(frame.init for frame in frames) == 2
    for track in (0, 1):
        times = [f.timestamp_us for f in frames if f.track == track and not f.init]
        count = chunks[track]
        length = times[count] - times[0]
        assert length == pytest.approx(1_023_220, abs=2)
        assert times[count : 2 * count] == [time + length for time in times[:count]]
    dues = [frame.due_us for frame in frames]
    assert dues == sorted(dues)


def test_whole_passes_of_a_loop_can_be_skipped(film: Path) -> None:
    frames = frames_of(film, loop=True, count=1000)
    sent = 700
    begun = {track: sum(frame.track == track for frame in frames[:sent]) for track in (0, 1)}
    with reading(film, loop=True) as reader:
        skipped = reader.skip_passes(begun)
        assert min(skipped.values()) > 100
        rest: list[Frame] = []
        while len(rest) < 400:
            rest += reader.read()
    for track in (0, 1):
        ours = [f for f in rest if f.track == track][begun[track] - skipped[track] :]
        theirs = [f for f in frames[sent:] if f.track == track][: len(ours)]
        assert [(f.payload, f.timestamp_us, f.key) for f in ours[: len(theirs)]] == [
            (f.payload, f.timestamp_us, f.key) for f in theirs
        ]


def test_without_a_loop_nothing_is_skipped(film: Path) -> None:
    with reading(film) as reader:
        assert reader.skip_passes({0: 10}) == {}
    with reading(film, loop=True) as reader:
        assert reader.skip_passes({}) == {}
        assert reader.skip_passes({0: 1, 1: 1}) == {0: 0, 1: 0}


def test_what_browsers_do_not_decode_is_encoded(ffmpeg: str, tmp_path: Path) -> None:
    ten_bits = [each if each != "yuv420p" else "yuv420p10le" for each in H264]
    for name, options in (("deep.mp4", ten_bits), ("xvid.avi", ["-c:v", "mpeg4", "-bf", "2"])):
        frames = frames_of(make(ffmpeg, tmp_path / name, picture(3), options))
        video = inits_of(frames)[0]
        assert isinstance(video, VideoInit)
        assert video.codec.startswith("avc1.4d"), "Main profile"
        assert video.description is not None
        keys = [f.timestamp_us for f in frames if f.key]
        assert keys == pytest.approx([keys[0], keys[0] + 2_000_000], abs=40_000)
        assert sum(not f.init and not f.end for f in frames) == 90
        # Without B-frames the order of decoding is that of the pictures.
        times = [f.timestamp_us for f in frames if not f.init and not f.end]
        assert times == sorted(times)


def test_surround_is_mixed_down(ffmpeg: str, tmp_path: Path) -> None:
    source = make(ffmpeg, tmp_path / "six.wav", sound(), "-ac", "6")
    audio = inits_of(frames_of(source))[1]
    assert isinstance(audio, AudioInit)
    assert (audio.codec, audio.sample_rate, audio.number_of_channels) == ("opus", 48_000, 2)
    assert audio.description is not None and audio.description.startswith(b"OpusHead")


def test_interlaced_and_anamorphic_pictures_become_whole_and_square(
    ffmpeg: str, tmp_path: Path
) -> None:
    # As a DVD has it: 720x576 in 16:9, fields.
    dvd = "-vf setsar=64/45 -c:v mpeg2video -flags +ildct+ilme -top 1 -f mpegts".split()
    source = make(ffmpeg, tmp_path / "dvd.ts", picture(1, rate="25", size="720x576"), dvd)
    frames = frames_of(source)
    video = inits_of(frames)[0]
    assert isinstance(video, VideoInit)
    assert (video.coded_width, video.coded_height, video.framerate) == (1024, 576, 25)
    assert sum(not f.init and not f.end for f in frames) == 25


def test_odd_sizes_are_made_even(ffmpeg: str, tmp_path: Path) -> None:
    source = make(ffmpeg, tmp_path / "odd.mkv", picture(0.5, size="161x91"), "-c:v", "ffv1")
    video = inits_of(frames_of(source))[0]
    assert isinstance(video, VideoInit)
    assert (video.coded_width, video.coded_height) == (160, 90)


def test_where_there_is_no_encoder_for_h264_there_is_vp8(
    ffmpeg: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make(ffmpeg, tmp_path / "old.avi", picture(1), "-c:v", "mpeg4")
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
    frames = frames_of(source)
    video = inits_of(frames)[0]
    assert video.codec == "vp8" and video.description is None
    assert sum(not f.init and not f.end for f in frames) == 30
    monkeypatch.setattr(av, "codecs_available", frozenset({"mpeg4"}))
    with pytest.raises(MediaError, match="encodes neither"):
        MediaReader(str(source))
    with pytest.raises(MediaError, match="does not encode Opus"):
        MediaReader(str(make(ffmpeg, tmp_path / "sound.wav", sound(0.1))))


def test_a_cover_is_no_video(ffmpeg: str, tmp_path: Path) -> None:
    cover = make(ffmpeg, tmp_path / "cover.png", picture(0.04), "-frames:v", "1")
    song = make(
        ffmpeg,
        tmp_path / "song.mp3",
        *(sound(1, rate=44_100), "-i", str(cover), "-map", "0", "-map", "1"),
        *("-c:v", "copy", "-disposition:v", "attached_pic"),
    )
    assert set(inits_of(frames_of(song))) == {1}


def test_a_variable_frame_rate_is_not_told(ffmpeg: str, tmp_path: Path) -> None:
    uneven = ["-vf", "select='not(mod(n,7))+not(mod(n,5))'", "-vsync", "vfr"]
    source = make(ffmpeg, tmp_path / "uneven.mp4", picture(), uneven, H264)
    video = inits_of(frames_of(source))[0]
    assert isinstance(video, VideoInit) and video.framerate is None


def test_fields_are_not_twice_the_frames(ffmpeg: str, tmp_path: Path) -> None:
    fields = "-flags +ildct+ilme -top 1".split()
    source = make(
        ffmpeg, tmp_path / "i.ts", picture(1, rate="25", size="160x96"), "-c:v", "libx264", fields
    )
    with av.open(str(source)) as container:
        assert tracks.frame_rate(container.streams.video[0]) == 25


def test_damage_is_passed_over(ffmpeg: str, tmp_path: Path) -> None:
    source = make(ffmpeg, tmp_path / "film.ts", picture(2), sound(2), "-c:v", "mpeg2video")
    data = bytearray(source.read_bytes())
    for place in range(50_000, len(data), 20_000):
        data[place : place + 100] = bytes(100)
    (tmp_path / "damaged.ts").write_bytes(data)
    frames = frames_of(tmp_path / "damaged.ts")
    assert sum(f.track == 0 for f in frames) > 40


def test_a_source_that_vanishes_between_two_passes(film: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(film.read_bytes())
    with reading(copy, loop=True) as reader:
        reader.read()
        copy.unlink()
        reader.read()
        with pytest.raises(MediaError, match=r"cannot read .*copy\.mp4: No such file"):
            _read_on(reader)


def test_urls_that_come_at_their_own_pace(film: Path, ffmpeg: str) -> None:
    with reading(film) as reader:
        assert not reader.is_live
    sending = [ffmpeg, "-nostdin", "-v", "error", "-re", "-stream_loop", "-1", "-i", str(film)]
    port = 42_421
    with subprocess.Popen(
        [*sending, "-c", "copy", "-f", "mpegts", f"udp://127.0.0.1:{port}"]
    ) as sender:
        try:
            reader = MediaReader(f"udp://127.0.0.1:{port}")
            assert reader.is_live
            frames = reader.read()
            reader.close()
        finally:
            sender.kill()
    assert set(inits_of(frames)) == {0, 1}
