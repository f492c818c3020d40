"""One track of a file: passed on where WebCodecs knows its codec, else encoded anew.

Needs PyAV, the extra ``tim_trio[media]``.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Final

import attrs
import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from tim_trio.media import aac, codecs, h264
from tim_trio.media.encoding import AudioEncoder, Encoded, VideoEncoder
from tim_trio.media.errors import MediaError
from tim_trio.media.profile import (
    AUDIO_TRACK,
    MAX_CODED_SIDE,
    VIDEO_TRACK,
    AudioInit,
    MediaInit,
    VideoInit,
)

_H264_PIXELS: Final = frozenset(("yuv420p", "yuvj420p", "nv12"))
_VP9_DEPTHS: Final = {"yuv420p": 8, "yuv420p10le": 10, "yuv420p12le": 12}
_AV1_DEPTHS: Final = {"yuv420p": 8, "gray": 8, "yuv420p10le": 10, "gray10le": 10}
#: Where the file does not say.
_DEFAULT_RATE: Final = Fraction(30)
_STREAMINFO_BYTES: Final = 34


@attrs.frozen
class TrackChunk:
    """One chunk, its track, and the INIT that it needs. Times are the file's."""

    track: int
    init: MediaInit
    encoded: Encoded


def tracks_of(container: InputContainer) -> list[Track]:
    """Return the best track of video, and the one of sound that goes with it.

    A picture of a song's cover is no video; a codec that this FFmpeg does not
    know has no context, and is left out.

    Raises:
        MediaError: a track is out of all bounds.
    """
    tracks: list[Track] = []
    for stream in (container.streams.best("video"), container.streams.best("audio")):
        context: object = stream.codec_context if stream is not None else None
        if context is None:
            continue
        if isinstance(stream, VideoStream) and not stream.disposition & Disposition.attached_pic:
            tracks.append(VideoTrack(stream))
        elif isinstance(stream, AudioStream):
            tracks.append(AudioTrack(stream))
    return tracks


@attrs.define(eq=False)
class Track(abc.ABC):
    """What both kinds have in common.

    Attributes:
        init: what a decoder needs; None until a chunk has said it.
        description: for people: ``video h264 640x360``.
    """

    number: int
    stream: VideoStream | AudioStream
    init: MediaInit | None = None
    description: str = ""
    _converter: codecs.Converter = attrs.Factory(lambda: codecs.NoConversion(None))
    _encoder: VideoEncoder | AudioEncoder | None = None
    _step_us: int = 0
    _next_dts_us: int = 0

    def take(self, packet: Packet[Any] | None) -> Iterator[TrackChunk]:
        """Yield the chunks that a packet brings; None: it was the last.

        Raises:
            av.FFmpegError: it cannot be decoded or encoded.
        """
        if packet is not None and packet.pts is None and packet.dts is None and not self._begun:
            # Raw H.264 and the like: only a decoder knows the pictures' order.
            self._encode()
        if self._encoder is not None:
            for encoded in self._encoder.encode(packet):
                yield TrackChunk(self.number, self._encoder.init, encoded)
        elif packet is not None:
            yield from self._copy(packet)

    @property
    def _begun(self) -> bool:
        return self._next_dts_us != 0 or self._encoder is not None

    @abc.abstractmethod
    def _encode(self) -> None:
        """From now on, encode."""

    @abc.abstractmethod
    def _make_init(self, description: bytes, key_picture: bytes) -> MediaInit:
        """Return the INIT of H.264 or AAC with that description."""

    def _set_encoder(self, encoder: VideoEncoder | AudioEncoder) -> None:
        self._encoder = encoder
        self.init = encoder.init
        self.description += f", encoded as {self.init.codec.partition('.')[0]}"

    def _copy(self, packet: Packet[Any]) -> Iterator[TrackChunk]:
        if packet.has_sidedata("new_extradata"):
            self._set_extradata(bytes(packet.get_sidedata("new_extradata")))
        payload = self._converter.convert(bytes(packet))
        if packet.is_keyframe:
            self._learn(payload)
        duration_us = self._us(packet.duration) if packet.duration else self._step_us
        if packet.dts is not None:
            dts_us = self._us(packet.dts)
        else:
            dts_us = self._next_dts_us if self._begun else self._us(packet.pts or 0)
        pts_us = self._us(packet.pts) if packet.pts is not None else dts_us
        self._next_dts_us = dts_us + duration_us
        if self.init is None or not payload:
            return
        encoded = Encoded(
            key=packet.is_keyframe or isinstance(self.init, AudioInit),
            pts_us=pts_us,
            dts_us=dts_us,
            duration_us=duration_us,
            payload=payload,
        )
        yield TrackChunk(self.number, self.init, encoded)

    def _us(self, time: int) -> int:
        return round(time * (self.stream.time_base or Fraction(1, 1_000_000)) * 1_000_000)

    @abc.abstractmethod
    def _set_extradata(self, extradata: bytes) -> None:
        """Take a decoder's configuration, in whatever form."""

    def _learn(self, key_picture: bytes = b"") -> None:
        """Make the INIT of what the converter knows, where that has changed."""
        description = self._converter.description
        if description is not None and (self.init is None or self.init.description != description):
            self.init = self._make_init(description, key_picture)


class VideoTrack(Track):
    """Video: H.264, VP8, VP9 and AV1 in 4:2:0 are passed on."""

    stream: VideoStream

    def __init__(self, stream: VideoStream) -> None:
        context = stream.codec_context
        super().__init__(VIDEO_TRACK, stream)
        self.description = f"video {context.name} {context.width}x{context.height}"
        sides = (context.width, context.height)
        if not all(0 < side <= MAX_CODED_SIDE for side in sides):
            raise MediaError(f"pictures of {context.width}x{context.height} are out of bounds")
        self._rate = frame_rate(stream)
        self._step_us = round(1_000_000 / (self._rate or _DEFAULT_RATE))
        if not self._prepare_copy(context):
            self._encode()

    def _encode(self) -> None:
        self._set_encoder(VideoEncoder(self.stream, self._rate or _DEFAULT_RATE))

    def _prepare_copy(self, context: VideoCodecContext) -> bool:
        extradata = context.extradata or b""
        rate = float(self._rate or _DEFAULT_RATE)
        width, height = context.width, context.height
        pixels = context.pix_fmt or "yuv420p"
        # The decoder's name: what decodes AV1 depends on how FFmpeg was built.
        match context.codec.canonical_name:
            case "h264" if pixels in _H264_PIXELS:
                self._set_extradata(extradata)
            case "vp8":
                self.init = self._init("vp8", width, height)
            case "vp9" if pixels in _VP9_DEPTHS:
                depth = _VP9_DEPTHS[pixels]
                profile = 0 if depth == 8 else 2
                codec = codecs.vp9_string(
                    profile=profile, width=width, height=height, rate=rate, depth=depth
                )
                self.init = self._init(codec, width, height)
            case "av1" if pixels in _AV1_DEPTHS:
                depth = _AV1_DEPTHS[pixels]
                codec = codecs.av1_string(
                    extradata, profile=0, width=width, height=height, rate=rate, depth=depth
                )
                self.init = self._init(codec, width, height)
            case _:
                return False
        return True

    def _set_extradata(self, extradata: bytes) -> None:
        if h264.is_avcc(extradata):
            self._converter = codecs.NoConversion(extradata)
        else:
            self._converter = h264.AnnexBConverter(extradata)
        self._learn()

    def _make_init(self, description: bytes, key_picture: bytes) -> VideoInit:
        context = self.stream.codec_context
        width, height = context.width, context.height
        if self.init is not None and key_picture:
            # The container's size is that of the beginning: ask a decoder.
            width, height = _decoded_size(description, key_picture) or (width, height)
        return self._init(h264.codec_string(description), width, height, description)

    def _init(
        self, codec: str, width: int, height: int, description: bytes | None = None
    ) -> VideoInit:
        return VideoInit(
            codec=codec,
            coded_width=width,
            coded_height=height,
            framerate=float(self._rate) if self._rate is not None else None,
            description=description,
        )


class AudioTrack(Track):
    """Sound: Opus, AAC, MP3, FLAC and Vorbis are passed on."""

    stream: AudioStream

    def __init__(self, stream: AudioStream) -> None:
        context = stream.codec_context
        super().__init__(AUDIO_TRACK, stream)
        self.description = f"audio {context.name} {context.sample_rate} Hz"
        extradata = context.extradata or b""
        match context.codec.canonical_name:
            case "opus":
                self.init = self._init("opus", extradata or None)
            case "aac":
                self._set_extradata(extradata)
            case "mp3":
                self.init = self._init("mp3", None)
            case "flac" if len(extradata) >= _STREAMINFO_BYTES:
                # FFmpeg keeps the block without its header.
                block = b"fLaC\x80\x00\x00\x22" + extradata[:_STREAMINFO_BYTES]
                self.init = self._init("flac", block)
            case "vorbis" if extradata:
                self.init = self._init("vorbis", extradata)
            case _:
                self._encode()

    def _encode(self) -> None:
        self._set_encoder(AudioEncoder(self.stream))

    def _set_extradata(self, extradata: bytes) -> None:
        self._converter = codecs.NoConversion(extradata) if extradata else aac.AdtsConverter()
        self._learn()

    def _make_init(self, description: bytes, key_picture: bytes) -> AudioInit:
        return self._init(aac.codec_string(description), description)

    def _init(self, codec: str, description: bytes | None) -> AudioInit:
        context = self.stream.codec_context
        return AudioInit(
            codec=codec,
            sample_rate=context.sample_rate,
            number_of_channels=context.channels,
            description=description,
        )


def frame_rate(stream: VideoStream) -> Fraction | None:
    """Return the frames a second, None where they come as they like."""
    average, base = stream.average_rate, stream.base_rate
    if not average or not 0 < average <= 1_000:
        return None
    # 25 in one place and 50 in another: fields, not frames.
    if base and min(abs(average - base), abs(2 * average - base)) > base / 50:
        return None
    return average


def _decoded_size(avcc: bytes, picture: bytes) -> tuple[int, int] | None:
    decoder = VideoCodecContext.create("h264", "r")
    assert isinstance(decoder, VideoCodecContext)
    decoder.extradata = avcc
    try:
        frames = [*decoder.decode(Packet(picture)), *decoder.decode(None)]
    except av.FFmpegError:
        return None
    return (frames[0].width, frames[0].height) if frames else None
