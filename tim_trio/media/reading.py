"""A media file or URL as the frames of a source. Blocks: for a thread.

Needs PyAV, the extra ``tim_trio[media]``.

Source: protocol.md, Annex A.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Final

import attrs
import av
from av.container import InputContainer

from tim_trio.media.errors import MediaError
from tim_trio.media.ffmpeg import explain
from tim_trio.media.profile import MediaInit, encode_init
from tim_trio.media.timeline import Timeline
from tim_trio.media.tracks import TrackChunk, tracks_of

#: A URL's server has so long to answer, and to say something more.
_OPEN_TIMEOUT_S: Final = 15.0
_READ_TIMEOUT_S: Final = 30.0
#: What is read at the start until every track has shown what it is.
_MAX_PROBE_PACKETS: Final = 2_000
_MAX_PROBE_BYTES: Final = 16 * 1024 * 1024
#: Read at once: a thread's hop per frame is dear.
_BATCH_BYTES: Final = 256 * 1024
_BATCH_US: Final = 50_000
#: These come at their own pace.
_LIVE_SCHEMES: Final = frozenset("rtsp rtsps rtmp rtmps rtp srt udp mms mmsh whep".split())
#: Formats whose clock may jump, AVFMT_TS_DISCONT.
_TS_DISCONT: Final = 0x0200


@attrs.frozen(kw_only=True)
class Frame:
    """One frame to be sent; the frames of a track are numbered in this order.

    Attributes:
        due_us: when it is to be sent, on the source's clock.
    """

    track: int
    payload: bytes
    timestamp_us: int
    due_us: int
    key: bool = False
    init: bool = False
    end: bool = False


class MediaReader:
    """Opens a source, once or again and again, and yields its frames.

    One thread at a time may use it.

    Attributes:
        is_live: it comes at its own pace, and does not wait for us.
        tracks: what is read, by track, for people: ``video h264 640x360``.
    """

    def __init__(self, source: str, *, loop: bool = False) -> None:
        """Open the source.

        Raises:
            MediaError: it cannot be read, or there is nothing in it for us.
        """
        self._source = source
        self._loop = loop
        self._busy = threading.Lock()
        self._timeline = Timeline()
        self._inits: dict[int, MediaInit] = {}
        self._ends_us: dict[int, int] = {}
        self._due_us = 0
        self._ended = False
        self.is_live = source.partition(":")[0].lower() in _LIVE_SCHEMES
        self._pass = _Pass(source)
        self.tracks = {track.number: track.description for track in self._pass.tracks}
        self._begin_pass()

    def close(self) -> None:
        """Close the source, unless a thread that was abandoned still reads it. Idempotent."""
        if self._busy.acquire(blocking=False):
            try:
                self._pass.close()
            finally:
                self._busy.release()

    def read(self) -> list[Frame]:
        """Return the next frames, none at the end. Blocks until there are some.

        Raises:
            MediaError: the source can be read no further.
        """
        with self._busy:
            return self._read()

    def _read(self) -> list[Frame]:
        frames: list[Frame] = []
        size = 0
        while not self._ended:
            for frame in self._step():
                frames.append(frame)
                size += len(frame.payload)
            if frames and (
                self._pass.duration_us is None
                or size >= _BATCH_BYTES
                or frames[-1].due_us - frames[0].due_us >= _BATCH_US
            ):
                break
        return frames

    def skip_passes(self, sent: dict[int, int]) -> dict[int, int]:
        """Pass over whole passes of a loop; return how many frames of each track that is.

        To be called before the first `read`. Reads the source once.

        Args:
            sent: by track, the frames that are to be passed over.
        """
        if not self._loop or not sent:
            return {}
        counted: dict[int, int] = {}
        for chunk in self._pass.chunks():
            self._place(chunk)
            counted[chunk.track] = counted.get(chunk.track, 0) + 1
        passes = min((max(0, sent[t] - 1) // n for t, n in counted.items() if t in sent), default=0)
        pass_us = self._timeline.end_us
        self._timeline = Timeline()
        self._timeline.skip(passes, pass_us)
        self._ends_us.clear()
        self._again()
        return {track: passes * count for track, count in counted.items()}

    # -- one after another -------------------------------------------------------

    def _begin_pass(self) -> None:
        self._timeline.begin_pass(self._pass.first_us, may_jump=self._pass.may_jump)
        self._chunks = self._pass.chunks()

    def _again(self) -> None:
        self._pass.close()
        self._pass = _Pass(self._source)
        self._begin_pass()

    def _step(self) -> Iterator[Frame]:
        chunk = next(self._chunks, None)
        if chunk is not None:
            yield from self._frames(chunk)
        elif self._loop:
            self._again()
        else:
            self._ended = True
            yield from self._end()

    def _frames(self, chunk: TrackChunk) -> Iterator[Frame]:
        if not self._inits:
            # All of them before the first chunk of any.
            for track in self._pass.tracks:
                if track.init is not None:
                    yield self._init_frame(track.number, track.init)
        offset = self._place(chunk)
        if chunk.init != self._inits[chunk.track]:
            yield self._init_frame(chunk.track, chunk.init)
        encoded = chunk.encoded
        # Never back, so that what is due is in the order of what is sent.
        self._due_us = max(self._due_us, encoded.dts_us + offset)
        yield Frame(
            track=chunk.track,
            payload=encoded.payload,
            timestamp_us=encoded.pts_us + offset,
            due_us=self._due_us,
            key=encoded.key,
        )

    def _place(self, chunk: TrackChunk) -> int:
        one = chunk.encoded
        offset = self._timeline.place(chunk.track, one.dts_us, one.pts_us, one.duration_us)
        end_us = one.pts_us + offset + one.duration_us
        self._ends_us[chunk.track] = max(end_us, self._ends_us.get(chunk.track, end_us))
        return offset

    def _init_frame(self, track: int, init: MediaInit) -> Frame:
        self._inits[track] = init
        return Frame(
            track=track,
            payload=encode_init(init),
            timestamp_us=self._due_us,
            due_us=self._due_us,
            init=True,
        )

    def _end(self) -> Iterator[Frame]:
        for track in self._inits:
            end_us = self._ends_us.get(track, self._due_us)
            yield Frame(
                track=track, payload=b"", timestamp_us=end_us, due_us=self._due_us, end=True
            )


class _Pass:
    """One reading of the source from its beginning to its end."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._container = _open(source)
        try:
            self.tracks = tracks_of(self._container)
            if not self.tracks:
                raise MediaError(f"{source} has neither video nor sound that FFmpeg here can read")
            self._packets = self._demux()
            self._early = self._probe()
        except BaseException:
            self._container.close()
            raise
        self.duration_us = self._container.duration
        self.may_jump = bool(self._container.format.flags & _TS_DISCONT)
        self.first_us = min(chunk.encoded.pts_us for chunk in self._early)

    def close(self) -> None:
        self._container.close()

    def chunks(self) -> Iterator[TrackChunk]:
        """Yield the chunks of all tracks, in the order of the file. Once."""
        early, self._early = self._early, []
        yield from early
        yield from self._packets

    def _probe(self) -> list[TrackChunk]:
        """Read until each track has brought something, and return that."""
        early = []
        size = 0
        missing = {track.number for track in self.tracks}
        for chunk in self._packets:
            early.append(chunk)
            size += len(chunk.encoded.payload)
            missing.discard(chunk.track)
            if not missing or len(early) >= _MAX_PROBE_PACKETS or size >= _MAX_PROBE_BYTES:
                break
        if not early:
            raise MediaError(f"{self._source} has neither video nor sound")
        # A track that says nothing for so long cannot be announced.
        self.tracks = [track for track in self.tracks if track.number not in missing]
        return early

    def _demux(self) -> Iterator[TrackChunk]:
        by_index = {track.stream.index: track for track in self.tracks}
        try:
            for packet in self._container.demux([track.stream for track in self.tracks]):
                track = by_index[packet.stream_index]
                if packet.size and track in self.tracks:
                    yield from track.take(packet)
            for track in self.tracks:
                yield from track.take(None)
        except av.EOFError:
            return
        except (av.FFmpegError, OSError) as error:
            raise MediaError(f"cannot read {self._source}: {explain(error)}") from error


def _open(source: str) -> InputContainer:
    """Open a path, a URL, or - for standard input.

    Raises:
        MediaError: it cannot be opened, or is no media.
    """
    timeout: tuple[float | None, float | None] = (_OPEN_TIMEOUT_S, _READ_TIMEOUT_S)
    if source == "-":
        # A pipe may be silent as long as it likes.
        name, timeout = "pipe:0", (None, None)
    elif os.path.exists(source):
        name = f"file:{source}"  # else a:b.mp4 would be a URL
    else:
        name = source
    try:
        return av.open(
            name, "r", timeout=timeout, metadata_errors="replace", options={"fflags": "+genpts"}
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        raise MediaError(f"cannot read {source}: {explain(error)}") from error
