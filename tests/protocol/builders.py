"""Frames for tests, built and read without tim_trio's own codec.

`split` is protocol.md's framing once more, frame by frame and as plainly as
possible: what the decoder says is compared with it.
"""

import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs
from hypothesis import strategies as st

from tim_trio.errors import Code, RemoteProtocolError
from tim_trio.protocol.decoder import ControlFrame, Decoder
from tim_trio.protocol.runs import Run

VECTORS = Path(__file__).resolve().parent.parent / "vectors"
VALID_FILES = ("stream", "connection", "rooms", "accounts", "links", "events")

ROOM = 8312248653376802578
STREAM = 0x40
INIT, KEY, END = 0x01, 0x02, 0x04
OTHER_FLAG = 0x80

#: A control frame as tests compare it, or a stream frame's bytes.
Frame = tuple[int, int, bytes] | bytes


def stream_bytes(
    seq: int,
    *,
    room: int = ROOM,
    source: int = 1,
    track: int = 0,
    flags: int = 0,
    timestamp_us: int = 0,
    ext: bytes = b"",
    payload: bytes = b"",
) -> bytes:
    """Return one stream frame."""
    body = struct.pack(">QIQq", room, source, seq, timestamp_us) + ext + payload
    return struct.pack(">IBBBB", 4 + len(body), STREAM, flags, track, len(ext) // 4) + body


def control_bytes(
    kind: int, fields: bytes = b"", *, request_id: int = 1, ext: bytes = b"", flags: int = 0
) -> bytes:
    """Return one control frame; ``flags`` also stands for the ignored track."""
    body = struct.pack(">I", request_id) + ext + fields
    return struct.pack(">IBBBB", 4 + len(body), kind, flags, flags, len(ext) // 4) + body


def prelude(length: int, kind: int, *, flags: int = 0, ext_words: int = 0) -> bytes:
    """Return a prelude whose length may be a lie."""
    return struct.pack(">IBBBB", length, kind, flags, 0, ext_words)


@attrs.frozen
class Split:
    """What a receiver makes of some bytes: frames, and perhaps a close code."""

    frames: list[Frame]
    code: Code | None
    rest: int


def split(data: bytes, *, max_frame_bytes: int, max_init_bytes: int) -> Split:
    """Cut bytes into frames, following protocol.md section 2 word by word."""
    frames: list[Frame] = []
    code: Code | None = None
    at = 0
    while code is None and len(data) - at >= 8:
        length = int.from_bytes(data[at : at + 4], "big")
        kind, flags, _, ext_words = data[at + 4 : at + 8]
        whole = 4 + length
        is_stream = kind == STREAM
        if whole > max_frame_bytes:
            code = Code.FRAME_TOO_LARGE
        elif length < (32 if is_stream else 8) + 4 * ext_words:
            code = Code.PROTOCOL_ERROR
        elif is_stream and flags & (INIT | END) and whole > max_init_bytes:
            code = Code.FRAME_TOO_LARGE
        elif at + whole > len(data):
            break
        else:
            frame = data[at : at + whole]
            if is_stream:
                frames.append(frame)
            else:
                request_id = int.from_bytes(frame[8:12], "big")
                frames.append((kind, request_id, frame[12 + 4 * ext_words :]))
            at += whole
    return Split(frames, code, len(data) - at)


def frames_of_run(run: Run) -> list[bytes]:
    """Return the run's frames, after checking that it keeps every promise it makes."""
    cut = split(run.data, max_frame_bytes=2**32, max_init_bytes=2**32)
    assert cut.code is None and cut.rest == 0
    frames = [frame for frame in cut.frames if isinstance(frame, bytes)]
    assert len(frames) == len(cut.frames) == run.frames > 0
    key_offsets: list[int] = []
    key_seqs: list[int] = []
    end_offset = -1
    offset = 0
    for index, frame in enumerate(frames):
        flags, track = frame[5:7]
        room, source, seq = struct.unpack_from(">QIQ", frame, 8)
        assert (room, source, track) == (run.room, run.source, run.track)
        assert seq == run.first_seq + index
        if index:
            assert not flags & INIT, "an INIT begins a run"
        if flags & KEY:
            key_offsets.append(offset)
            key_seqs.append(seq)
        if flags & END:
            assert index == len(frames) - 1, "nothing follows END in a run"
            end_offset = offset
        offset += len(frame)
    assert run.last_seq == run.first_seq + len(frames) - 1
    assert run.init_bytes == (len(frames[0]) if frames[0][5] & INIT else 0)
    assert run.end_offset == end_offset
    if key_offsets:
        assert (run.first_key, run.last_key) == (key_offsets[0], key_offsets[-1])
        assert (run.first_key_seq, run.last_key_seq) == (key_seqs[0], key_seqs[-1])
    else:
        assert run.first_key == run.last_key == -1
    return frames


def frames_of(items: Iterable[Run | ControlFrame]) -> list[Frame]:
    """Return single frames of what a decoder gave, checking each run."""
    frames: list[Frame] = []
    for item in items:
        if isinstance(item, Run):
            frames.extend(frames_of_run(item))
        else:
            frames.append((item.type, item.request_id, item.fields))
    return frames


def feed_pieces(
    decoder: Decoder, pieces: Iterable[bytes]
) -> tuple[list[Run | ControlFrame], Code | None]:
    """Feed pieces up to the first error; check what is held back all the while."""
    items: list[Run | ControlFrame] = []
    for piece in pieces:
        error = decoder.feed_into(piece, items)
        while decoder.has_more:
            error = decoder.feed_into(b"", items)
        if error is not None:
            assert type(error) is RemoteProtocolError
            return items, error.code
        assert decoder.buffered_bytes < decoder.max_frame_bytes + 4
    return items, None


def load_vectors(stem: str) -> dict[str, Any]:
    loaded = json.loads((VECTORS / f"{stem}.json").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def vector_bytes(vector: dict[str, Any]) -> bytes:
    return bytes.fromhex("".join(digits for digits, _ in vector["hex"]))


@attrs.frozen
class _Step:
    """Some frames of one track, as `byte_streams` strings them together."""

    source: int
    track: int
    flags: list[int]
    jump: int
    ext: bytes
    payload: bytes


_flags = st.sampled_from([0, 0, 0, 0, KEY, KEY, INIT, END, INIT | KEY, END | KEY, 7, OTHER_FLAG])
_steps = st.builds(
    _Step,
    source=st.sampled_from([1, 1, 2]),
    track=st.sampled_from([0, 0, 1]),
    flags=st.lists(_flags, min_size=1, max_size=6),
    jump=st.sampled_from([0, 0, 0, 0, 0, 1, -1]),
    ext=st.sampled_from([b"", b"", b"", b"exts", b"eightext"]),
    payload=st.binary(max_size=12),
)
_controls = st.builds(
    control_bytes,
    kind=st.integers(0, 255).filter(lambda kind: kind != STREAM),
    fields=st.binary(max_size=40),
    request_id=st.integers(0, 2**32 - 1),
    ext=st.sampled_from([b"", b"", b"exts"]),
    flags=st.sampled_from([0, 0, 255]),
)


def _join(steps: list[_Step | bytes]) -> bytes:
    next_seq: dict[tuple[int, int], int] = {}
    pieces: list[bytes] = []
    for step in steps:
        if isinstance(step, bytes):
            pieces.append(step)
            continue
        key = (step.source, step.track)
        seq = max(0, next_seq.get(key, 0) + step.jump)
        for flags in step.flags:
            pieces.append(
                stream_bytes(
                    seq,
                    source=step.source,
                    track=step.track,
                    flags=flags,
                    ext=step.ext,
                    payload=step.payload,
                )
            )
            seq += 1
        next_seq[key] = seq
    return b"".join(pieces)


#: Well-formed frames of a few tracks, mostly in sequence, with control frames between.
byte_streams = st.lists(_steps | _controls, max_size=20).map(_join)


@st.composite
def damaged_streams(draw: st.DrawFn) -> bytes:
    """Frames with a few bytes overwritten, removed or added, and perhaps without their end."""
    data = bytearray(draw(byte_streams))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(data[: len(data) - draw(st.integers(0, min(40, len(data))))])


@st.composite
def cut_up(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> list[bytes]:
    """The same bytes in pieces, some perhaps empty."""
    data = draw(whole)
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
