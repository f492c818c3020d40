"""Bytes in; runs, control frames or a protocol error out."""

import itertools
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.builders import (
    END,
    INIT,
    KEY,
    OTHER_FLAG,
    ROOM,
    STREAM,
    byte_streams,
    control_bytes,
    cut_up,
    damaged_streams,
    feed_pieces,
    frames_of,
    frames_of_run,
    prelude,
    split,
    stream_bytes,
)
from tim_trio.errors import Code, RemoteProtocolError
from tim_trio.protocol import decoder as decoder_module
from tim_trio.protocol.decoder import ControlFrame, Decoder
from tim_trio.protocol.layout import STREAM_HEADER_BYTES
from tim_trio.protocol.runs import Run

MAX_FRAME_BYTES = 1024
MAX_INIT_BYTES = 128

PING = control_bytes(0x03, b"\0" * 8, request_id=9)
PING_FRAME = ControlFrame(0x03, 9, b"\0" * 8)


@pytest.fixture
def decoder() -> Decoder:
    return make_decoder()


def make_decoder() -> Decoder:
    return Decoder(max_frame_bytes=MAX_FRAME_BYTES, max_init_bytes=MAX_INIT_BYTES)


def runs_of(data: bytes) -> list[Run]:
    runs = []
    for item in make_decoder().feed(data):
        assert isinstance(item, Run)
        frames_of_run(item)
        runs.append(item)
    return runs


def seqs_of(data: bytes) -> list[tuple[int, int]]:
    return [(run.first_seq, run.last_seq) for run in runs_of(data)]


# Control frames


def test_control_frame(decoder: Decoder) -> None:
    assert decoder.feed(PING) == [PING_FRAME]
    assert decoder.buffered_bytes == 0


def test_control_frame_without_fields(decoder: Decoder) -> None:
    assert decoder.feed(control_bytes(0x91, request_id=2**32 - 1)) == [
        ControlFrame(0x91, 2**32 - 1, b"")
    ]


def test_control_frames_flags_and_ext_words_are_ignored(decoder: Decoder) -> None:
    data = control_bytes(0x7F, b"fields", request_id=0, ext=b"8 bytes!", flags=7)
    assert decoder.feed(data) == [ControlFrame(0x7F, 0, b"fields")]


def test_nothing_in_nothing_out(decoder: Decoder) -> None:
    assert decoder.feed(b"") == []
    assert decoder.feed(PING[:3]) == []
    assert decoder.feed(b"") == []
    assert decoder.feed(PING[3:]) == [PING_FRAME]


# Where a run ends


def test_one_run() -> None:
    data = b"".join(stream_bytes(seq, payload=b"x" * seq) for seq in range(10))
    (run,) = runs_of(data)
    assert (run.room, run.source, run.track) == (ROOM, 1, 0)
    assert (run.first_seq, run.last_seq, run.frames) == (0, 9, 10)
    assert run.data == data


@pytest.mark.parametrize(
    "other",
    [
        stream_bytes(2, room=ROOM + 1),
        stream_bytes(2, source=2),
        stream_bytes(2, track=1),
    ],
    ids=["room", "source", "track"],
)
def test_a_run_ends_where_its_track_does(other: bytes) -> None:
    data = stream_bytes(0) + stream_bytes(1) + other + stream_bytes(2)
    assert seqs_of(data) == [(0, 1), (2, 2), (2, 2)]


@pytest.mark.parametrize("seq", [0, 1, 3, 2**64 - 1])
def test_a_run_ends_where_seq_does_not_go_on(seq: int) -> None:
    assert seqs_of(stream_bytes(0) + stream_bytes(1) + stream_bytes(seq)) == [(0, 1), (seq, seq)]


def test_seq_does_not_wrap_within_a_run() -> None:
    data = stream_bytes(2**64 - 2) + stream_bytes(2**64 - 1) + stream_bytes(0)
    assert seqs_of(data) == [(2**64 - 2, 2**64 - 1), (0, 0)]


def test_a_run_ends_at_a_control_frame() -> None:
    items = make_decoder().feed(stream_bytes(0) + PING + stream_bytes(1))
    assert [type(item) for item in items] == [Run, ControlFrame, Run]


def test_a_control_frame_as_long_as_a_stream_frame_ends_a_run() -> None:
    # Everything where the walk looks is the next frame's, but not the type.
    imposter = bytearray(stream_bytes(1))
    imposter[4] = 0x03
    items = make_decoder().feed(stream_bytes(0) + bytes(imposter))
    assert [type(item) for item in items] == [Run, ControlFrame]


def test_the_number_of_ext_words_may_end_a_run() -> None:
    data = stream_bytes(0, ext=b"four") + stream_bytes(1, ext=b"five") + stream_bytes(2)
    assert sum(run.frames for run in runs_of(data)) == 3
    assert b"".join(run.data for run in runs_of(data)) == data


def test_a_run_begins_at_init() -> None:
    data = stream_bytes(0) + stream_bytes(1, flags=INIT, payload=b"abc") + stream_bytes(2)
    before, after = runs_of(data)
    assert before.init_bytes == 0
    assert after.init_bytes == 39
    assert (after.first_seq, after.last_seq) == (1, 2)


def test_two_inits_are_two_runs() -> None:
    assert seqs_of(stream_bytes(0, flags=INIT) + stream_bytes(1, flags=INIT)) == [(0, 0), (1, 1)]


def test_a_run_ends_after_end() -> None:
    first, second = runs_of(stream_bytes(0) + stream_bytes(1, flags=END) + stream_bytes(2))
    assert (first.last_seq, first.end_offset) == (1, 36)
    assert (second.first_seq, second.end_offset) == (2, -1)


def test_end_as_the_first_frame_of_a_run() -> None:
    first, second = runs_of(stream_bytes(0, flags=END) + stream_bytes(1))
    assert (first.last_seq, first.end_offset) == (0, 0)
    assert second.first_seq == 1


def test_one_frame_with_all_flags() -> None:
    (run,) = runs_of(stream_bytes(0, flags=INIT | KEY | END | OTHER_FLAG))
    assert (run.init_bytes, run.first_key, run.last_key, run.end_offset) == (36, 0, 0, 0)


def test_first_and_last_key() -> None:
    flags = [0, KEY, 0, KEY, KEY | OTHER_FLAG, 0]
    (run,) = runs_of(b"".join(stream_bytes(5 + i, flags=flag) for i, flag in enumerate(flags)))
    assert (run.first_key, run.first_key_seq) == (36, 6)
    assert (run.last_key, run.last_key_seq) == (144, 9)


def test_key_in_the_first_and_in_the_last_frame() -> None:
    (run,) = runs_of(
        stream_bytes(3, flags=INIT | KEY) + stream_bytes(4) + stream_bytes(5, flags=KEY | END)
    )
    assert (run.first_key, run.first_key_seq) == (0, 3)
    assert (run.last_key, run.last_key_seq, run.end_offset) == (72, 5, 72)


def test_other_flags_do_not_end_a_run() -> None:
    flags = [OTHER_FLAG, 0, 0x78, OTHER_FLAG]
    (run,) = runs_of(b"".join(stream_bytes(i, flags=flag) for i, flag in enumerate(flags)))
    assert (run.frames, run.first_key, run.end_offset) == (4, -1, -1)


# Half frames


def test_half_a_frame_is_kept_and_a_run_begins_with_it(decoder: Decoder) -> None:
    frames = [stream_bytes(seq) for seq in range(3)]
    (first,) = decoder.feed(frames[0] + frames[1][:20])
    assert isinstance(first, Run) and first.frames == 1
    assert decoder.buffered_bytes == 20
    (second,) = decoder.feed(frames[1][20:] + frames[2])
    assert isinstance(second, Run) and second.data == frames[1] + frames[2]
    assert decoder.buffered_bytes == 0


def test_half_a_frame_whose_header_is_whole(decoder: Decoder) -> None:
    frames = [stream_bytes(0), stream_bytes(1, payload=b"payload")]
    (first,) = decoder.feed(frames[0] + frames[1][:-1])
    assert isinstance(first, Run) and first.frames == 1
    (second,) = decoder.feed(frames[1][-1:])
    assert isinstance(second, Run) and second.data == frames[1]


def test_byte_by_byte() -> None:
    data = (
        stream_bytes(0, flags=INIT | KEY, payload=b"init")
        + PING
        + stream_bytes(1, ext=b"extended")
        + control_bytes(0x91)
    )
    items, code = feed_pieces(make_decoder(), (bytes([byte]) for byte in data))
    assert code is None
    assert (
        frames_of(items)
        == split(data, max_frame_bytes=MAX_FRAME_BYTES, max_init_bytes=MAX_INIT_BYTES).frames
    )


def test_a_half_frame_in_many_small_pieces_costs_its_size(decoder: Decoder) -> None:
    data = stream_bytes(0, payload=bytes(range(256)) * 3) + PING
    pieces = [data[at : at + 2] for at in range(0, len(data), 2)]
    *before, last = pieces[: len(data) // 2 - len(PING) // 2]
    assert len(before) > 256, "more than are kept apart"
    for piece in before:
        assert decoder.feed(piece) == []
    assert decoder.buffered_bytes == 2 * len(before)
    (run,) = decoder.feed(last)
    assert isinstance(run, Run) and run.data + PING == data
    assert decoder.buffered_bytes == 0
    assert decoder.feed(PING) == [PING_FRAME]


def test_many_frames_behind_a_half_one(decoder: Decoder) -> None:
    assert decoder.feed(PING[:5]) == []
    assert decoder.feed(PING[5:] + PING + PING[:7]) == [PING_FRAME, PING_FRAME]
    assert decoder.buffered_bytes == 7


# Bounds


def test_a_frame_of_exactly_the_bound(decoder: Decoder) -> None:
    data = stream_bytes(0, payload=bytes(MAX_FRAME_BYTES - 36))
    assert len(data) == MAX_FRAME_BYTES
    (run,) = decoder.feed(data)
    assert isinstance(run, Run) and run.data == data


@pytest.mark.parametrize("kind", [STREAM, 0x03])
def test_a_frame_one_byte_above_the_bound_is_refused_at_its_prelude(
    decoder: Decoder, kind: int
) -> None:
    with pytest.raises(RemoteProtocolError, match="1025 bytes, 1024 allowed") as caught:
        decoder.feed(prelude(MAX_FRAME_BYTES - 3, kind))
    assert caught.value.code is Code.FRAME_TOO_LARGE


def test_a_frame_above_the_bound_within_a_run(decoder: Decoder) -> None:
    items: list[Run | ControlFrame] = []
    data = stream_bytes(0) + stream_bytes(1) + stream_bytes(2, payload=bytes(MAX_FRAME_BYTES))
    error = decoder.feed_into(data, items)
    assert error is not None and error.code is Code.FRAME_TOO_LARGE
    assert len(frames_of(items)) == 2


def test_the_bound_may_be_raised_between_calls(decoder: Decoder) -> None:
    data = control_bytes(0x20, bytes(5000))
    decoder.max_frame_bytes = len(data)
    assert decoder.feed(data) == [ControlFrame(0x20, 1, bytes(5000))]


@pytest.mark.parametrize("flag", [INIT, END, INIT | KEY, INIT | END, END | OTHER_FLAG])
def test_init_and_end_of_exactly_their_bound(flag: int) -> None:
    (run,) = runs_of(stream_bytes(0, flags=flag, payload=bytes(MAX_INIT_BYTES - 36)))
    assert len(run.data) == MAX_INIT_BYTES


@pytest.mark.parametrize("flag", [INIT, END, INIT | KEY, INIT | END, END | OTHER_FLAG])
@pytest.mark.parametrize("before", [0, 2])
def test_init_and_end_one_byte_above_their_bound(flag: int, before: int) -> None:
    data = b"".join(stream_bytes(seq) for seq in range(before))
    data += stream_bytes(before, flags=flag, payload=bytes(MAX_INIT_BYTES - 35))
    items: list[Run | ControlFrame] = []
    error = make_decoder().feed_into(data, items)
    assert error is not None and error.code is Code.FRAME_TOO_LARGE
    assert len(frames_of(items)) == before


@pytest.mark.parametrize("flag", [INIT, END])
def test_too_large_an_init_or_end_is_refused_at_its_prelude(decoder: Decoder, flag: int) -> None:
    with pytest.raises(RemoteProtocolError, match="129 bytes, 128 allowed") as caught:
        decoder.feed(prelude(MAX_INIT_BYTES - 3, STREAM, flags=flag))
    assert caught.value.code is Code.FRAME_TOO_LARGE


def test_flags_of_a_control_frame_have_no_bound(decoder: Decoder) -> None:
    data = control_bytes(0x20, bytes(MAX_INIT_BYTES), flags=INIT | END)
    assert decoder.feed(data[:100]) == []
    assert decoder.feed(data[100:]) == [ControlFrame(0x20, 1, bytes(MAX_INIT_BYTES))]


def test_key_is_not_bound_by_max_init_bytes() -> None:
    (run,) = runs_of(stream_bytes(0, flags=KEY, payload=bytes(MAX_INIT_BYTES)))
    assert run.frames == 1


@pytest.mark.parametrize(
    "length, kind, ext_words",
    [
        (0, 0x03, 0),
        (3, 0x03, 0),
        (7, 0x03, 0),
        (7, 0xFF, 0),
        (11, 0x03, 1),
        (8, 0x03, 255),
        (0, STREAM, 0),
        (31, STREAM, 0),
        (35, STREAM, 1),
    ],
)
def test_too_short_a_length_is_refused_at_its_prelude(
    decoder: Decoder, length: int, kind: int, ext_words: int
) -> None:
    with pytest.raises(RemoteProtocolError, match=f"length {length} is too short") as caught:
        decoder.feed(prelude(length, kind, ext_words=ext_words))
    assert caught.value.code is Code.PROTOCOL_ERROR


def test_too_short_a_length_within_a_run(decoder: Decoder) -> None:
    # The same identity and the next seq, so that only the length speaks against it.
    short = bytearray(stream_bytes(1))
    short[3] = 31
    items: list[Run | ControlFrame] = []
    error = decoder.feed_into(stream_bytes(0) + bytes(short), items)
    assert error is not None and error.code is Code.PROTOCOL_ERROR
    assert len(frames_of(items)) == 1


def test_ext_words_count_in_the_shortest_length_within_a_run(decoder: Decoder) -> None:
    short = bytearray(stream_bytes(1, ext=b"word"))
    short[3] = 35
    items: list[Run | ControlFrame] = []
    error = decoder.feed_into(stream_bytes(0, ext=b"word") + bytes(short), items)
    assert error is not None and error.code is Code.PROTOCOL_ERROR
    assert len(frames_of(items)) == 1


def test_frames_before_the_bad_one_are_returned(decoder: Decoder) -> None:
    items: list[Run | ControlFrame] = [PING_FRAME]
    error = decoder.feed_into(PING + stream_bytes(0) + prelude(0, 0x03) + PING, items)
    assert error is not None and error.code is Code.PROTOCOL_ERROR
    assert items[:2] == [PING_FRAME, PING_FRAME]
    assert frames_of(items[2:]) == [stream_bytes(0)]


# Anything at all


MOST = 257 * 1024


def test_reads_end_where_large_frames_do() -> None:
    frames = [stream_bytes(seq, payload=bytes(100_000)) for seq in range(3)]
    size = len(frames[0])
    decoder = Decoder(max_frame_bytes=MOST, max_init_bytes=MAX_INIT_BYTES)
    assert decoder.suggest_read(MOST) == MOST  # nothing is known yet
    decoder.feed(frames[0])
    assert decoder.suggest_read(MOST) == 2 * size
    assert decoder.suggest_read(size - 1) == size - 1
    # Of a frame that has begun, its rest.
    decoder.feed(frames[1][:60_000])
    assert decoder.suggest_read(MOST) == size - 60_000
    assert decoder.suggest_read(1000) == 1000
    decoder.feed(frames[1][60_000:])
    assert decoder.suggest_read(MOST) == 2 * size
    # Of one whose size is not known, whatever comes.
    decoder.feed(frames[2][:5])
    assert decoder.suggest_read(MOST) == MOST
    decoder.feed(frames[2][5:])
    decoder.feed(stream_bytes(3))
    assert decoder.suggest_read(MOST) == MOST


def test_a_header_says_what_a_frame_is_that_is_not_read() -> None:
    decoder = Decoder(max_frame_bytes=MOST, max_init_bytes=MAX_INIT_BYTES)
    assert decoder.is_between_frames
    data = stream_bytes(7, payload=bytes(100_000))
    header = decoder.look_at(data[:STREAM_HEADER_BYTES])
    assert header is not None
    (run,) = decoder.feed(stream_bytes(7, payload=bytes(100_000)))
    assert isinstance(run, Run)
    assert (header.room, header.source, header.track) == (run.room, run.source, run.track)
    assert (header.seq, header.size) == (7, len(data))
    # It goes as any frame does into the sizes of reads.
    other = Decoder(max_frame_bytes=MOST, max_init_bytes=MAX_INIT_BYTES)
    other.look_at(data)
    assert other.frame_bytes == len(data)
    decoder.feed(data[:50])
    assert not decoder.is_between_frames


@pytest.mark.parametrize(
    "data",
    [
        stream_bytes(0, payload=bytes(1000))[: STREAM_HEADER_BYTES - 1],
        stream_bytes(0, flags=KEY),
        stream_bytes(0, flags=END),
        stream_bytes(0, payload=bytes(MOST)),
        # An extension that is longer than its frame.
        (lambda data: data[:7] + b"\x09" + data[8:])(stream_bytes(0)),
        PING + PING,
    ],
)
def test_what_must_be_read_has_no_header_for_anyone_else(data: bytes) -> None:
    decoder = Decoder(max_frame_bytes=MOST, max_init_bytes=MAX_INIT_BYTES)
    assert decoder.look_at(data) is None
    assert decoder.frame_bytes == 0


def test_whole_large_frames_are_not_copied() -> None:
    data = b"".join(stream_bytes(seq, payload=bytes(100_000)) for seq in range(2))
    (run,) = Decoder(max_frame_bytes=MOST, max_init_bytes=MAX_INIT_BYTES).feed(data)
    assert isinstance(run, Run) and run.data is data


@given(byte_streams)
def test_well_formed_frames_all_come_out(data: bytes) -> None:
    expected = split(data, max_frame_bytes=MAX_FRAME_BYTES, max_init_bytes=MAX_INIT_BYTES)
    assert expected.code is None and expected.rest == 0
    items = make_decoder().feed(data)
    assert frames_of(items) == expected.frames
    stream_data = b"".join(frame for frame in expected.frames if isinstance(frame, bytes))
    assert b"".join(item.data for item in items if isinstance(item, Run)) == stream_data


def test_a_large_frame_in_pieces_is_a_run_by_itself() -> None:
    large = decoder_module.LARGE_FRAME_BYTES
    frames = [stream_bytes(seq, payload=bytes(large)) for seq in range(3)]
    data = b"".join(frames)
    decoder = Decoder(max_frame_bytes=2 * large, max_init_bytes=MAX_INIT_BYTES)
    assert decoder.feed(data[:100]) == []
    items = decoder.feed(data[100:-1])
    assert [item.data for item in items if isinstance(item, Run)] == frames[:2]
    assert decoder.buffered_bytes == len(frames[2]) - 1
    (last,) = decoder.feed(data[-1:])
    assert isinstance(last, Run) and last.data == frames[2]
    assert decoder.buffered_bytes == 0


@given(byte_streams)
def test_runs_are_as_long_as_they_can_be(data: bytes) -> None:
    items = make_decoder().feed(data)
    for item, following in itertools.pairwise(items):
        if isinstance(item, Run) and isinstance(following, Run):
            goes_on = (
                (item.room, item.source, item.track)
                == (following.room, following.source, following.track)
                and following.first_seq == item.last_seq + 1
                and item.end_offset < 0
                and not following.init_bytes
            )
            # Only another number of ext words may still part them.
            assert not goes_on or item.data[7] != following.data[7]


@given(
    cut_up(byte_streams | damaged_streams() | st.binary(max_size=200)),
    st.sampled_from([9, 60, decoder_module.LARGE_FRAME_BYTES]),
)
def test_any_split_is_no_split(pieces: list[bytes], large: int) -> None:
    data = b"".join(pieces)
    expected = split(data, max_frame_bytes=MAX_FRAME_BYTES, max_init_bytes=MAX_INIT_BYTES)
    decoder = make_decoder()
    with mock.patch.object(decoder_module, "LARGE_FRAME_BYTES", large):
        items, code = feed_pieces(decoder, pieces)
    assert (frames_of(items), code) == (expected.frames, expected.code)
    if code is None:
        assert decoder.buffered_bytes == expected.rest


@given(st.binary(max_size=300) | damaged_streams())
def test_any_bytes_give_frames_or_a_protocol_error(data: bytes) -> None:
    items, code = feed_pieces(make_decoder(), [data])
    frames_of(items)
    assert code in (None, Code.PROTOCOL_ERROR, Code.FRAME_TOO_LARGE)
    if code is not None:
        with pytest.raises(RemoteProtocolError) as caught:
            make_decoder().feed(data)
        assert caught.value.code is code


@given(cut_up(byte_streams | damaged_streams()), st.integers(8, 100), st.integers(0, 100))
def test_tight_bounds(pieces: list[bytes], max_frame_bytes: int, max_init_bytes: int) -> None:
    expected = split(
        b"".join(pieces), max_frame_bytes=max_frame_bytes, max_init_bytes=max_init_bytes
    )
    decoder = Decoder(max_frame_bytes=max_frame_bytes, max_init_bytes=max_init_bytes)
    items, code = feed_pieces(decoder, pieces)
    assert (frames_of(items), code) == (expected.frames, expected.code)


# So many at a time


def feed_in_turns(decoder: Decoder, data: bytes) -> list[list[Run | ControlFrame]]:
    """Feed it, and go on with nothing as long as there is more."""
    turns: list[list[Run | ControlFrame]] = []
    while True:
        items: list[Run | ControlFrame] = []
        assert decoder.feed_into(data, items) is None
        turns.append(items)
        if not decoder.has_more:
            return turns
        data = b""


def few_at_a_time(most_items: int) -> Decoder:
    return Decoder(
        max_frame_bytes=MAX_FRAME_BYTES, max_init_bytes=MAX_INIT_BYTES, most_items=most_items
    )


def test_so_many_items_at_a_time() -> None:
    decoder = few_at_a_time(2)
    stream = [stream_bytes(seq) for seq in range(3)]
    data = b"".join([PING, PING, PING, *stream, PING[:-1]])
    first, second, third = feed_in_turns(decoder, data)
    assert first == [PING_FRAME, PING_FRAME]
    assert third == []  # it stopped before it saw that the last one is not whole
    assert frames_of(second) == frames_of([PING_FRAME, *runs_of(b"".join(stream))])
    assert decoder.buffered_bytes == len(PING) - 1
    assert feed_in_turns(decoder, PING[-1:]) == [[PING_FRAME]]
    assert feed_in_turns(decoder, PING * 2) == [[PING_FRAME] * 2]  # none is left
    assert decoder.buffered_bytes == 0


def test_what_comes_while_there_is_more_goes_behind_it() -> None:
    decoder = few_at_a_time(2)
    items: list[Run | ControlFrame] = []
    decoder.feed_into(PING * 3 + PING[:5], items)
    assert bool(decoder.has_more)
    assert decoder.buffered_bytes == len(PING) + 5
    decoder.feed_into(PING[5:] + PING, items)
    assert bool(decoder.has_more)
    assert decoder.feed(b"") == [PING_FRAME]
    assert items == [PING_FRAME] * 4


def test_what_came_before_a_bad_frame_comes_first() -> None:
    decoder = few_at_a_time(2)
    items: list[Run | ControlFrame] = []
    assert decoder.feed_into(PING * 2 + prelude(MAX_FRAME_BYTES, 3), items) is None
    assert bool(decoder.has_more)
    error = decoder.feed_into(b"", items)
    assert error is not None and error.code is Code.FRAME_TOO_LARGE
    assert not decoder.has_more
    assert items == [PING_FRAME] * 2


@given(
    cut_up(byte_streams),
    st.integers(2, 5),
    st.sampled_from([9, 60, decoder_module.LARGE_FRAME_BYTES]),
)
def test_a_few_at_a_time_are_all(pieces: list[bytes], most_items: int, large: int) -> None:
    decoder = few_at_a_time(most_items)
    with mock.patch.object(decoder_module, "LARGE_FRAME_BYTES", large):
        turns = [turn for piece in pieces for turn in feed_in_turns(decoder, piece)]
    # A large frame that came in pieces is put together beside them.
    assert all(len(turn) <= most_items + 1 for turn in turns)
    items = list(itertools.chain(*turns))
    assert frames_of(items) == frames_of(few_at_a_time(10**9).feed(b"".join(pieces)))


def test_feed_returns_all_however_few_are_cut_at_a_time() -> None:
    assert few_at_a_time(2).feed(PING * 5) == [PING_FRAME] * 5
