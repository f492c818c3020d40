"""Fuzzes the decoder and the messages: any bytes give frames or a protocol error.

An input is two bytes of choices (bounds, how the rest is cut up) and the bytes
a peer sends. See `tests.fuzz.engine` for how to run it.
"""

import sys
from collections.abc import Iterator

from tests.fuzz import engine

with engine.instrumented():
    from tests.protocol.builders import (
        END,
        VALID_FILES,
        feed_pieces,
        frames_of,
        load_vectors,
        split,
        stream_bytes,
        vector_bytes,
    )
    from tim_trio.protocol.decoder import Decoder
    from tim_trio.protocol.messages import UnreadableFields, decode, encode, is_known_type
    from tim_trio.protocol.stream import encode_stream_frame, iter_stream_frames

# (max_frame_bytes, max_init_bytes): the greeting's, the default's, and tight ones.
_BOUNDS = [(4096, 65_536), (1_048_576, 65_536), (64, 40), (8, 0)]


def _pieces(data: bytes, size: int) -> Iterator[bytes]:
    """Cut into pieces of ``size`` bytes, or not at all for 0."""
    step = size or max(1, len(data))
    return (data[at : at + step] for at in range(0, len(data), step))


def _check_message(number: int, fields: bytes) -> None:
    try:
        message = decode(number, fields)
    except UnreadableFields:
        return
    assert is_known_type(number)
    again = encode(message)[12:]
    assert fields.startswith(again), "each value has one spelling"
    assert decode(number, again) == message


def run_one(data: bytes) -> None:
    """Feed one input and check all that the decoder promises."""
    if len(data) < 2:
        return
    max_frame_bytes, max_init_bytes = _BOUNDS[data[0] % len(_BOUNDS)]
    received = data[2:]
    expected = split(received, max_frame_bytes=max_frame_bytes, max_init_bytes=max_init_bytes)
    decoder = Decoder(
        max_frame_bytes=max_frame_bytes,
        max_init_bytes=max_init_bytes,
        most_items=2 if data[0] & 0x80 else sys.maxsize,
    )
    items, code = feed_pieces(decoder, _pieces(received, data[1]))
    frames = frames_of(items)
    assert frames == expected.frames
    assert code == expected.code
    assert code is not None or decoder.buffered_bytes == expected.rest
    for frame in frames:
        if isinstance(frame, bytes):
            (stream_frame,) = iter_stream_frames(frame)
            if not frame[7]:
                assert encode_stream_frame(stream_frame) == frame
        else:
            number, _, fields = frame
            _check_message(number, fields)


def seeds() -> Iterator[bytes]:
    """The golden vectors one by one, and those of each file as one stream."""
    for stem in (*VALID_FILES, "invalid", "limits"):
        vectors = [vector_bytes(vector) for vector in load_vectors(stem)["vectors"]]
        for vector in vectors:
            yield b"\x01\x00" + vector
        yield b"\x01\x07" + b"".join(vectors)[:4000]
    # Long runs, which the vectors do not have: each kind of frame in the midst of one.
    usual = [stream_bytes(seq, payload=b"usual") for seq in range(3)]
    control = bytearray(stream_bytes(3))
    control[4] = 0x20
    for other in (
        *(stream_bytes(3, flags=flags) for flags in range(9)),
        stream_bytes(3, flags=END, payload=bytes(20)),
        stream_bytes(3, payload=bytes(60)),
        stream_bytes(3, track=1),
        stream_bytes(3, source=2),
        stream_bytes(3, ext=b"four"),
        stream_bytes(4),
        bytes(control),
    ):
        for choices in (b"\x01\x00", b"\x02\x00", b"\x02\x05", b"\x81\x00"):
            yield choices + b"".join([*usual, other, stream_bytes(4, payload=b"x")])


if __name__ == "__main__":
    engine.main(run_one, seeds(), max_input_bytes=4096)
