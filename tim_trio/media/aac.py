"""AAC frames with ADTS headers into frames beside an AudioSpecificConfig. Pure.

Source: ISO/IEC 14496-3, 1.6.2.1 and 1.A.3.
"""

from __future__ import annotations

from typing import Final

from tim_trio.media.bits import Bits

SAMPLE_RATES: Final = (
    *(96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000),
    *(22_050, 16_000, 12_000, 11_025, 8_000, 7_350),
)
_HEADER_BYTES: Final = 7
_CRC_BYTES: Final = 2
_ESCAPE: Final = 31


def codec_string(config: bytes) -> str:
    """Return ``mp4a.40.2`` and the like for an AudioSpecificConfig."""
    bits = Bits(config)
    kind = bits.take(5)
    if kind == _ESCAPE:
        kind = 32 + bits.take(6)
    return f"mp4a.40.{kind}"


class AdtsConverter:
    """Takes the headers off one track's frames.

    Attributes:
        description: the AudioSpecificConfig that the newest header gives, None before.
    """

    def __init__(self) -> None:
        self.description: bytes | None = None

    def convert(self, data: bytes) -> bytes:
        """Return a frame without its header, empty where it has none that we understand.

        The description may change.
        """
        if len(data) < _HEADER_BYTES:
            return b""
        bits = Bits(data[:_HEADER_BYTES])
        sync, _version, layer, unprotected = bits.take(12), bits.take(1), bits.take(2), bits.take(1)
        profile, rate, _private, channels = bits.take(2), bits.take(4), bits.take(1), bits.take(3)
        # Channels 0 are described inside the frame: rare, and nothing to put into a config.
        if sync != 0xFFF or layer or rate >= len(SAMPLE_RATES) or not channels:
            return b""
        kind = profile + 1
        self.description = (kind << 11 | rate << 7 | channels << 3).to_bytes(2, "big")
        return data[_HEADER_BYTES if unprotected else _HEADER_BYTES + _CRC_BYTES :]
