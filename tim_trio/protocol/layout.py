"""The numbers of the wire layout: offsets, types, flags.

Source: protocol.md, sections 2 and 4.
"""

from __future__ import annotations

import enum
from struct import Struct
from typing import Final

VERSION: Final = 1
MAGIC: Final = 0x54494D54  # "TIMT"

# length, type, flags, track, ext_words
PRELUDE: Final = Struct(">IBBBB")
PRELUDE_BYTES: Final = PRELUDE.size

# prelude, request_id
CONTROL_HEADER: Final = Struct(">IBBBBI")
CONTROL_HEADER_BYTES: Final = CONTROL_HEADER.size

# prelude, room, source, seq, timestamp_us
STREAM_HEADER: Final = Struct(">IBBBBQIQq")
STREAM_HEADER_BYTES: Final = STREAM_HEADER.size

LENGTH_BYTES: Final = 4
EXT_WORD_BYTES: Final = 4

STREAM: Final = 0x40
ANSWER_BIT: Final = 0x80

#: Bound of a frame before WELCOME.
MAX_GREETING_BYTES: Final = 4096
#: Credit that never runs out: the largest integer every language holds exactly.
UNLIMITED_CREDIT: Final = 2**53 - 1


class Flag(enum.IntFlag):
    """What a stream frame means to a relay and a decoder."""

    NONE = 0x00
    INIT = 0x01
    KEY = 0x02
    END = 0x04
