"""A run: consecutive frames of one source and track that were read together.

The relay's unit of work. Its bytes are forwarded as they came.

Source: protocol.md, section 4; docs/architecture.md, "The data path".
"""

from __future__ import annotations

import attrs


@attrs.define(eq=False)
class Run:
    """Whole stream frames with consecutive ``seq``, as one immutable piece.

    Not frozen, only because attrs builds a frozen instance several times
    slower; nobody changes one.

    Attributes:
        first_seq, last_seq: of the first and the last frame, both included.
        first_key, last_key: offset in ``data`` of the first and last frame
            with KEY, -1 where there is none.
        last_key_seq: seq of the frame at ``last_key``; likewise ``first_key_seq``.
        init_bytes: length of the INIT frame at the start of ``data``, or 0.
        end_offset: offset of the END frame, which is the last one, or -1.
    """

    room: int
    source: int
    track: int
    first_seq: int
    last_seq: int
    first_key: int
    first_key_seq: int
    last_key: int
    last_key_seq: int
    init_bytes: int
    end_offset: int
    data: bytes

    @property
    def frames(self) -> int:
        return self.last_seq - self.first_seq + 1
