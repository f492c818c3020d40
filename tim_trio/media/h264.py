"""H.264 from Annex B form into the form that MP4, Matroska and WebCodecs prefer. Pure.

In Annex B each unit stands behind a start code and the parameter sets come
among the pictures; in the other each unit stands behind its length, and the
parameter sets are in a record of their own, the AVCDecoderConfigurationRecord
("avcC").

Source: ISO/IEC 14496-10, 7.3.2.1.1 and Annex B; ISO/IEC 14496-15, 5.3.3.1.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from tim_trio.media.bits import Bits

_SPS: Final = 7
_PPS: Final = 8
#: Access unit delimiter and filler: of no use where each picture is a chunk.
_LEFT_OUT: Final = frozenset((9, 12))
_VCL: Final = range(1, 6)
#: Profiles whose SPS says how the colours are sampled.
_HIGH_PROFILES: Final = frozenset((100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135))
#: Those whose avcC says it again.
_HIGH_RECORDS: Final = frozenset((100, 110, 122, 144, 244, 44))
_START: Final = b"\0\0\1"
_MAX_SETS: Final = 31


def is_avcc(extradata: bytes) -> bool:
    """Say whether a decoder's configuration is an avcC, and not in Annex B form."""
    return len(extradata) >= 7 and extradata[0] == 1


def codec_string(avcc: bytes) -> str:
    """Return ``avc1.64001f`` and the like."""
    return f"avc1.{avcc[1:4].hex()}"


def split_annexb(data: bytes) -> Iterator[bytes]:
    """Yield the units of a piece in Annex B form, without start codes. Linear."""
    start = data.find(_START)
    while start >= 0:
        end = data.find(_START, start + 3)
        unit = data[start + 3 : end if end >= 0 else len(data)].rstrip(b"\0")
        if unit:
            yield unit
        start = end


class AnnexBConverter:
    """Turns one track's pictures from Annex B into length-prefixed form.

    Attributes:
        description: the avcC of the parameter sets seen so far, None before.
    """

    def __init__(self, extradata: bytes = b"") -> None:
        self.description: bytes | None = None
        self._sps: dict[int, bytes] = {}
        self._pps: dict[int, bytes] = {}
        self.convert(extradata)

    def convert(self, data: bytes) -> bytes:
        """Return one picture converted, empty where there is none in it.

        Parameter sets in it may change `description`.
        """
        units = []
        changed = has_picture = False
        for unit in split_annexb(data):
            kind = unit[0] & 0x1F
            if kind == _SPS and len(unit) >= 4:
                changed |= _keep(self._sps, Bits(_plain(unit)[4:]).exp_golomb(), unit)
            elif kind == _PPS:
                changed |= _keep(self._pps, Bits(unit[1:9]).exp_golomb(), unit)
            elif kind not in _LEFT_OUT:
                units.append(struct.pack(">I", len(unit)) + unit)
                has_picture |= kind in _VCL
        if changed and self._sps and self._pps:
            self.description = _avcc(list(self._sps.values()), list(self._pps.values()))
        return b"".join(units) if has_picture else b""


def _keep(sets: dict[int, bytes], number: int, unit: bytes) -> bool:
    """Keep a parameter set under its number; say whether it is another than before."""
    if sets.get(number) == unit or (number not in sets and len(sets) >= _MAX_SETS):
        return False
    sets[number] = unit
    return True


def _plain(unit: bytes) -> bytes:
    """Return the beginning of a unit without what keeps start codes out of it."""
    return unit[:64].replace(b"\0\0\3", b"\0\0")


def _avcc(sps: list[bytes], pps: list[bytes]) -> bytes:
    first = sps[0]
    record = bytearray(b"\1" + first[1:4] + b"\xff")
    record.append(0xE0 | len(sps))
    for unit in sps:
        record += struct.pack(">H", len(unit) & 0xFFFF) + unit
    record.append(len(pps))
    for unit in pps:
        record += struct.pack(">H", len(unit) & 0xFFFF) + unit
    if first[1] in _HIGH_RECORDS:
        chroma, luma_depth, chroma_depth = _sampling(first)
        record += bytes((0xFC | chroma, 0xF8 | luma_depth, 0xF8 | chroma_depth, 0))
    return bytes(record)


def _sampling(sps: bytes) -> tuple[int, int, int]:
    """Return chroma_format_idc and the two bit depths less 8, as an SPS says them."""
    if sps[1] not in _HIGH_PROFILES:
        return 1, 0, 0
    bits = Bits(_plain(sps)[4:])
    bits.exp_golomb()  # seq_parameter_set_id
    chroma = bits.exp_golomb()
    if chroma == 3:
        bits.take(1)  # separate_colour_plane_flag
    return chroma & 3, bits.exp_golomb() & 7, bits.exp_golomb() & 7
