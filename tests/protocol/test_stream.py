"""Stream frames one at a time."""

import struct

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.builders import ROOM, stream_bytes
from tim_trio.protocol.layout import Flag
from tim_trio.protocol.room_ids import END_ROOM_ID, FIRST_ROOM_ID
from tim_trio.protocol.stream import (
    StreamFrame,
    encode_stream_frame,
    encode_stream_header,
    iter_stream_frames,
)

FRAME = StreamFrame(
    room=ROOM, source=7, track=1, seq=0, timestamp_us=-1, flags=Flag.KEY, payload=b"hi"
)
WORKED_EXAMPLE = bytes.fromhex(
    "00000022 40 02 01 00 735b0a1c2d3e4f12 00000007 0000000000000000 ffffffffffffffff 6869"
)

stream_frames = st.builds(
    StreamFrame,
    room=st.integers(FIRST_ROOM_ID, END_ROOM_ID - 1),
    source=st.integers(0, 2**32 - 1),
    track=st.integers(0, 255),
    seq=st.integers(0, 2**64 - 1),
    timestamp_us=st.integers(-(2**63), 2**63 - 1),
    flags=st.integers(0, 255),
    payload=st.binary(max_size=100),
)


def test_worked_example() -> None:
    assert encode_stream_frame(FRAME) == WORKED_EXAMPLE
    assert list(iter_stream_frames(WORKED_EXAMPLE)) == [FRAME]


def test_header_and_payload_make_the_frame() -> None:
    header = encode_stream_header(
        room=ROOM, source=7, track=1, seq=0, timestamp_us=-1, flags=Flag.KEY, payload_bytes=2
    )
    assert len(header) == 36
    assert header + b"hi" == WORKED_EXAMPLE


@pytest.mark.parametrize(
    "frame",
    [
        attrs.evolve(FRAME, room=2**64),
        attrs.evolve(FRAME, source=2**32),
        attrs.evolve(FRAME, track=256),
        attrs.evolve(FRAME, seq=-1),
        attrs.evolve(FRAME, timestamp_us=2**63),
        attrs.evolve(FRAME, flags=256),
    ],
    ids=["room", "source", "track", "seq", "timestamp_us", "flags"],
)
def test_a_field_outside_its_range(frame: StreamFrame) -> None:
    with pytest.raises(struct.error):
        encode_stream_frame(frame)


@given(st.lists(stream_frames, max_size=5))
def test_round_trip(frames: list[StreamFrame]) -> None:
    data = b"".join(encode_stream_frame(frame) for frame in frames)
    assert list(iter_stream_frames(data)) == frames


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_is_read_and_payloads_are_copies(
    kind: type[bytes] | type[bytearray] | type[memoryview],
) -> None:
    (frame,) = iter_stream_frames(kind(WORKED_EXAMPLE))
    assert frame == FRAME
    assert type(frame.payload) is bytes


def test_ext_words_are_skipped() -> None:
    data = stream_bytes(5, ext=b"skipthis", payload=b"payload") + stream_bytes(6, ext=b"skip")
    assert [(frame.seq, frame.payload) for frame in iter_stream_frames(data)] == [
        (5, b"payload"),
        (6, b""),
    ]


@pytest.mark.parametrize("flags", range(16))
def test_flags_by_name(flags: int) -> None:
    frame = attrs.evolve(FRAME, flags=flags)
    assert frame.is_init is bool(flags & 1)
    assert frame.is_key is bool(flags & 2)
    assert frame.is_end is bool(flags & 4)
