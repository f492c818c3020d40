"""From a live Matroska stream to a file with its index and its length. Blocks: for a thread.

Needs PyAV, the extra ``tim_trio[media]``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import attrs
import av
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from tim_trio.media.codecs import FileKind
from tim_trio.media.errors import MediaError
from tim_trio.media.ffmpeg import explain

#: How far FFmpeg reads ahead to find out how a codec reorders, at most, and how
#: large a picture may be that it decodes for that: 8K, or what a stranger's header
#: says would be memory.
_PROBE: Final = {
    "probesize": str(4 * 1024 * 1024),
    "analyzeduration": "1000000",
    "max_pixels": str(8192 * 8192),
}
#: How long a track that has nothing to say may keep the others waiting in memory.
_INTERLEAVE: Final = {"max_interleave_delta": "2000000"}
#: No codec reorders by more.
_MAX_WITHOUT_DTS: Final = 32


def write_file(fd: int, path: Path, kind: FileKind) -> int:
    """Read a live Matroska stream until its end, and write it as a file of a kind.

    Blocks until then. Memory is bounded by what FFmpeg reads ahead, a few MiB.

    Args:
        fd: to read from; stays open.

    Returns:
        the number of packets written.

    Raises:
        MediaError: it cannot be written.
    """
    try:
        return _write_file(fd, path, kind)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise MediaError(f"cannot write {path}: {explain(error)}") from error


def _write_file(fd: int, path: Path, kind: FileKind) -> int:
    count = 0
    with (
        av.open(f"pipe:{fd}", "r", format="matroska", options=dict(_PROBE)) as source,
        av.open(str(path), "w", format=kind.value, options=dict(_INTERLEAVE)) as target,
    ):
        tracks = {stream.index: _Track(_add(target, stream)) for stream in source.streams}
        for packet in source.demux():
            if packet.size:
                for one in tracks[packet.stream_index].take(packet):
                    target.mux(one)
                    count += 1
        for track in tracks.values():
            for one in track.flush():
                target.mux(one)
                count += 1
    return count


def _add(target: OutputContainer, stream: Stream) -> Stream:
    added = target.add_stream_from_template(stream, opaque=True)
    if isinstance(stream, VideoStream) and isinstance(added, VideoStream) and stream.average_rate:
        # The template leaves it out, and then nothing says how long a frame lasts.
        added.codec_context.framerate = stream.average_rate
    return added


@attrs.define(eq=False)
class _Track:
    """Gives every packet a decoding time.

    A live stream says when a picture is shown, not when it is decoded.
    FFmpeg finds that from the order, except of the first few pictures: those
    wait for the first that it knows, and count back from there.
    """

    stream: Stream
    _waiting: list[Packet[Stream]] = attrs.Factory(list)
    _last: int | None = None

    def take(self, packet: Packet[Stream]) -> list[Packet[Stream]]:
        """Return the packets that can be written now."""
        if packet.dts is None and self._last is None and len(self._waiting) < _MAX_WITHOUT_DTS:
            self._waiting.append(packet)
            return []
        return [*self.flush(packet.dts), self._timed(packet, packet.dts)]

    def flush(self, next_dts: int | None = None) -> list[Packet[Stream]]:
        """Return what waits; ``next_dts`` is the decoding time of what follows."""
        waiting, self._waiting = self._waiting, []
        if next_dts is None:
            next_dts = min((p.pts for p in waiting if p.pts is not None), default=0)
        step = max([1, *(packet.duration or 0 for packet in waiting)])
        return [
            self._timed(packet, next_dts - step * (len(waiting) - place))
            for place, packet in enumerate(waiting)
        ]

    def _timed(self, packet: Packet[Stream], dts: int | None) -> Packet[Stream]:
        if dts is None:
            dts = packet.pts
        if self._last is not None and (dts is None or dts <= self._last):
            dts = self._last + 1
        packet.dts = self._last = dts
        if packet.pts is None or (dts is not None and packet.pts < dts):
            packet.pts = dts
        packet.stream = self.stream
        return packet
