"""The payload of an INIT frame of profile ``tim.media.1``. Pure.

Source: protocol.md, Annex A.
"""

from __future__ import annotations

import base64
import json
import math
import re
from typing import Final, NoReturn

import attrs

from tim_trio.errors import TimError

PROFILE: Final = "tim.media.1"
#: By custom; what a track is, its INIT says.
VIDEO_TRACK: Final = 0
AUDIO_TRACK: Final = 1
MAX_CODED_SIDE: Final = 16_384
MAX_FRAMERATE: Final = 1_000
MAX_SAMPLE_RATE: Final = 768_000
MAX_CHANNELS: Final = 255
MAX_DEPTH: Final = 16

_CODEC: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_BASE64: Final = re.compile(
    r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==)", re.ASCII
)
#: Never fails behind a quote, so that one pass over a text of quotes stays one pass.
_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"?', re.DOTALL)
#: Of a peer's text in a message of ours.
_SHOWN: Final = 40


class InvalidInit(TimError):
    """A payload is no INIT of this profile; says why, for our own log or user."""


@attrs.frozen(kw_only=True)
class VideoInit:
    """What a decoder of video needs.

    Attributes:
        codec: as WebCodecs writes it, ``avc1.64001f``.
        framerate: frames a second, None where unknown or variable.
        description: avcC and the like; None means that the chunks say it themselves.
    """

    codec: str
    coded_width: int
    coded_height: int
    framerate: float | None = None
    description: bytes | None = None


@attrs.frozen(kw_only=True)
class AudioInit:
    """What a decoder of sound needs.

    Attributes:
        codec: as WebCodecs writes it, ``opus``.
        sample_rate: samples a second, per channel.
        description: AudioSpecificConfig, OpusHead and the like, or None.
    """

    codec: str
    sample_rate: int
    number_of_channels: int
    description: bytes | None = None


MediaInit = VideoInit | AudioInit


def encode_init(init: MediaInit) -> bytes:
    """Return the payload of an INIT frame.

    Raises:
        InvalidInit: a value that the profile does not allow.
    """
    members: dict[str, object] = {"profile": PROFILE}
    if isinstance(init, VideoInit):
        members |= {"kind": "video", "codec": init.codec}
        members |= {"codedWidth": init.coded_width, "codedHeight": init.coded_height}
        if init.framerate is not None:
            whole = init.framerate.is_integer()
            members["framerate"] = int(init.framerate) if whole else init.framerate
    else:
        members |= {"kind": "audio", "codec": init.codec}
        members |= {"sampleRate": init.sample_rate, "numberOfChannels": init.number_of_channels}
    if init.description is not None:
        members["description"] = base64.b64encode(init.description).decode("ascii")
    payload = json.dumps(members, separators=(",", ":")).encode("utf-8")
    parse_init(payload)
    return payload


def parse_init(payload: bytes) -> MediaInit:
    """Read the payload of an INIT frame: any bytes give an INIT or the error.

    Linear in the payload, which the server's ``max_init_bytes`` bounds.

    Raises:
        InvalidInit: not this profile, or a member that it does not allow.
    """
    members = _Members(_parse_object(payload))
    if members.get("profile") != PROFILE:
        raise InvalidInit(f"profile is not {PROFILE}")
    kind = members.get("kind")
    codec = members.text("codec", _CODEC, "a codec")
    if kind == "video":
        return VideoInit(
            codec=codec,
            coded_width=members.whole("codedWidth", MAX_CODED_SIDE),
            coded_height=members.whole("codedHeight", MAX_CODED_SIDE),
            framerate=(
                members.number("framerate", MAX_FRAMERATE) if "framerate" in members else None
            ),
            description=members.description(),
        )
    if kind == "audio":
        return AudioInit(
            codec=codec,
            sample_rate=members.whole("sampleRate", MAX_SAMPLE_RATE),
            number_of_channels=members.whole("numberOfChannels", MAX_CHANNELS),
            description=members.description(),
        )
    raise InvalidInit(f"kind is neither video nor audio: {_shown(kind)}")


def _parse_object(payload: bytes) -> dict[str, object]:
    try:
        text = payload.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidInit("not UTF-8") from None
    if _depth(text) > MAX_DEPTH:
        raise InvalidInit(f"nested more than {MAX_DEPTH} deep")
    try:
        # Numbers as JavaScript has them, where 640.0 is 640; an int of
        # thousands of digits would be an error here and none there.
        parsed = json.loads(text, parse_int=float, parse_constant=_refuse_constant)
    except ValueError:
        raise InvalidInit("not JSON") from None
    if not isinstance(parsed, dict):
        raise InvalidInit("not a JSON object")
    return parsed


def _depth(text: str) -> int:
    """Return how deep brackets are nested, before a parser recurses into them."""
    depth = deepest = 0
    for character in _STRING.sub("", text):
        if character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    return deepest


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


class _Members(dict[str, object]):
    """An object's members, each read as the type it must have."""

    def number(self, name: str, maximum: int) -> float:
        value = self.get(name)
        # NaN is no JSON and infinity fails the comparison.
        if not isinstance(value, float) or not 0 < value <= maximum:
            raise InvalidInit(f"{name} is not a number above 0, at most {maximum}: {_shown(value)}")
        return value

    def whole(self, name: str, maximum: int) -> int:
        value = self.number(name, maximum)
        if not math.floor(value) == value:
            raise InvalidInit(f"{name} is not whole: {_shown(value)}")
        return int(value)

    def text(self, name: str, pattern: re.Pattern[str], what: str) -> str:
        value = self.get(name)
        if not isinstance(value, str) or pattern.fullmatch(value) is None:
            raise InvalidInit(f"{name} is not {what}: {_shown(value)}")
        return value

    def description(self) -> bytes | None:
        if "description" not in self:
            return None
        return base64.b64decode(self.text("description", _BASE64, "base64"))
