"""Codecs that browsers lack, into those they have: H.264 (or VP8) and Opus. Blocks: for a thread.

Needs PyAV, the extra ``tim_trio[media]``.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Final

import attrs
import av
from av.audio.codeccontext import AudioCodecContext
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.codec.context import Flags
from av.filter import Graph
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from tim_trio.media import h264
from tim_trio.media.errors import MediaError
from tim_trio.media.profile import AudioInit, VideoInit

KEY_INTERVAL_S: Final = 2
_US: Final = Fraction(1, 1_000_000)
#: What a group of 2 s of a fair picture takes, per pixel and frame.
_BITS_PER_PIXEL: Final = 0.12
#: A picture at most fills the decoder's buffer, so this bounds the largest frame.
_MAX_BITS: Final = 4_000_000
_OPUS_RATE: Final = 48_000
_OPUS_BITS_PER_CHANNEL: Final = 64_000


@attrs.frozen(kw_only=True)
class Encoded:
    """One chunk as a decoder takes it; times are the input's, in microseconds."""

    key: bool
    pts_us: int
    dts_us: int
    duration_us: int
    payload: bytes


class VideoEncoder:
    """Decodes one track of video and encodes it again, with a KEY every 2 s.

    Attributes:
        init: what a decoder of the outcome needs; known at once.
    """

    def __init__(self, stream: VideoStream, rate: Fraction) -> None:
        self._stream = stream
        self._graph: Graph | None = None
        self._graph_for: tuple[int, int, str] | None = None
        self._next_key_us: int | None = None
        self._frame_us = round(1_000_000 / rate)
        self._next_us = 0
        aspect = stream.sample_aspect_ratio or Fraction(1)
        source = stream.codec_context
        # The profile knows square pixels only, and the encoders even sizes.
        self._width = max(2, round(source.width * aspect / 2) * 2)
        self._height = max(2, source.height // 2 * 2)
        self._codec = self._open(rate)
        description = self._codec.extradata if self._codec.name == "libx264" else None
        codec = "vp8"
        self._annexb: h264.AnnexBConverter | None = None
        if description is not None:
            self._annexb = h264.AnnexBConverter(description)
            description = self._annexb.description
            assert description is not None
            codec = h264.codec_string(description)
        self.init = VideoInit(
            codec=codec,
            coded_width=self._width,
            coded_height=self._height,
            framerate=float(rate),
            description=description,
        )

    def _open(self, rate: Fraction) -> VideoCodecContext:
        bits = min(_MAX_BITS, int(self._width * self._height * float(rate) * _BITS_PER_PIXEL))
        h264_options = {
            "preset": "veryfast",
            "tune": "zerolatency",
            "profile": "main",
            "crf": "23",
            "maxrate": str(bits),
            "bufsize": str(bits),
            "forced-idr": "1",
        }
        vp8_options = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"}
        for name, options in (("libx264", h264_options), ("libvpx", vp8_options)):
            if name not in av.codecs_available:
                continue
            codec = VideoCodecContext.create(name, "w")
            assert isinstance(codec, VideoCodecContext)
            codec.width, codec.height, codec.pix_fmt = self._width, self._height, "yuv420p"
            codec.time_base, codec.framerate = _US, rate
            codec.gop_size = max(1, round(rate * KEY_INTERVAL_S))
            codec.bit_rate = bits if name == "libvpx" else 0
            codec.flags |= Flags.global_header
            codec.options = options
            codec.open()
            return codec
        raise MediaError("this PyAV encodes neither H.264 nor VP8")

    def encode(self, packet: Packet[Any] | None) -> Iterator[Encoded]:
        """Yield what a packet brings; None: it was the last."""
        try:
            frames = self._stream.decode(packet)
        except av.InvalidDataError:
            frames = []  # damaged on its way: the next may be whole
        for frame in frames:
            self._give_time(frame)
            yield from self._encode(self._filter(frame))
        if packet is None:
            yield from self._encode(self._filter(None))
            yield from self._chunks(self._codec.encode(None))

    def _give_time(self, frame: VideoFrame) -> None:
        """Put a frame on the clock of microseconds, in a file without times behind the last."""
        # The last ones, that a decoder kept until the end, come without a base.
        base = frame.time_base or self._stream.time_base
        if frame.pts is None or base is None:
            frame.pts = self._next_us
        else:
            frame.pts = round(frame.pts * base / _US)
        frame.time_base = _US
        self._next_us = frame.pts + self._frame_us

    def _filter(self, frame: VideoFrame | None) -> Iterator[VideoFrame]:
        """Yield the frame as the encoder wants it: size, colours, whole pictures."""
        if frame is not None:
            shape = (frame.width, frame.height, frame.format.name)
            if shape != self._graph_for:
                yield from self._drain()
                self._graph, self._graph_for = self._make_graph(frame), shape
        if self._graph is not None:
            self._graph.vpush(frame)
            yield from self._pull()

    def _drain(self) -> Iterator[VideoFrame]:
        if self._graph is not None:
            self._graph.vpush(None)
            yield from self._pull()

    def _pull(self) -> Iterator[VideoFrame]:
        assert self._graph is not None
        while True:
            try:
                yield self._graph.vpull()
            except (av.BlockingIOError, av.EOFError):
                return

    def _make_graph(self, frame: VideoFrame) -> Graph:
        graph = Graph()
        nodes = [
            graph.add_buffer(
                width=frame.width,
                height=frame.height,
                format=frame.format,
                time_base=_US,
            )
        ]
        if frame.interlaced_frame:
            nodes.append(graph.add("yadif", "deint=interlaced"))
        nodes.append(graph.add("scale", f"{self._width}:{self._height}"))
        nodes.append(graph.add("format", "yuv420p"))
        nodes.append(graph.add("buffersink"))
        graph.link_nodes(*nodes).configure()
        return graph

    def _encode(self, frames: Iterator[VideoFrame]) -> Iterator[Encoded]:
        for frame in frames:
            if frame.pts is None or frame.time_base is None:
                continue
            us = round(frame.pts * frame.time_base / _US)
            frame.pts, frame.time_base = us, _US
            frame.pict_type = PictureType.NONE
            if self._next_key_us is None or us >= self._next_key_us:
                frame.pict_type = PictureType.I
                self._next_key_us = us + KEY_INTERVAL_S * 1_000_000
            yield from self._chunks(self._codec.encode(frame))

    def _chunks(self, packets: list[Packet[Any]]) -> Iterator[Encoded]:
        for packet in packets:
            payload = bytes(packet)
            if self._annexb is not None:
                payload = self._annexb.convert(payload)
            if packet.pts is None or not payload:
                continue
            yield Encoded(
                key=packet.is_keyframe,
                pts_us=packet.pts,
                dts_us=packet.pts,
                duration_us=self._frame_us,
                payload=payload,
            )


class AudioEncoder:
    """Decodes one track of sound and encodes it as Opus, in one or two channels."""

    def __init__(self, stream: AudioStream) -> None:
        self._stream = stream
        if "libopus" not in av.codecs_available:
            raise MediaError("this PyAV does not encode Opus")
        codec = AudioCodecContext.create("libopus", "w")
        assert isinstance(codec, AudioCodecContext)
        channels = min(2, max(1, stream.codec_context.channels))
        layout = "mono" if channels == 1 else "stereo"
        codec.sample_rate, codec.time_base = _OPUS_RATE, Fraction(1, _OPUS_RATE)
        codec.layout, codec.format = layout, "flt"
        codec.bit_rate = _OPUS_BITS_PER_CHANNEL * channels
        codec.open()
        self._codec = codec
        self._resampler = AudioResampler("flt", layout, _OPUS_RATE, codec.frame_size)
        self.init = AudioInit(
            codec="opus",
            sample_rate=_OPUS_RATE,
            number_of_channels=channels,
            description=codec.extradata,
        )

    def encode(self, packet: Packet[Any] | None) -> Iterator[Encoded]:
        """Yield what a packet brings; None: it was the last."""
        try:
            frames = self._stream.decode(packet)
        except av.InvalidDataError:
            frames = []
        for frame in frames:
            yield from self._encode(self._resampler.resample(frame))
        if packet is None:
            yield from self._encode(self._resampler.resample(None))
            yield from self._chunks(self._codec.encode(None))

    def _encode(self, frames: list[AudioFrame]) -> Iterator[Encoded]:
        for frame in frames:
            yield from self._chunks(self._codec.encode(frame))

    def _chunks(self, packets: list[Packet[Any]]) -> Iterator[Encoded]:
        for packet in packets:
            if packet.pts is None:
                continue
            us = round(packet.pts * packet.time_base / _US)
            yield Encoded(
                key=True,
                pts_us=us,
                dts_us=us,
                duration_us=round((packet.duration or 0) * packet.time_base / _US),
                payload=bytes(packet),
            )
