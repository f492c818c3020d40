"""What whoever joins a live room is due of a track, said once for all tests.

Source: protocol.md, section 9.
"""

from __future__ import annotations

from collections.abc import Sequence

from tim_trio.protocol.layout import Flag
from tim_trio.protocol.messages import StartFrom, TrackState
from tim_trio.protocol.stream import StreamFrame


def newest(frames: Sequence[StreamFrame], flag: int) -> StreamFrame | None:
    """Return the last frame with a flag."""
    return next((each for each in reversed(frames) if each.flags & flag), None)


def due(
    frames: Sequence[StreamFrame], start: StartFrom, last_seq: int, state: int
) -> list[StreamFrame]:
    """Return what a joiner must get of a track, and check what the answer said of it.

    Args:
        frames: all that was ever pushed on the track, by seq.
        last_seq, state: where it stood, in the answer to SUBSCRIBE; -1 and 0
            for a track that it did not name.

    The group must fit into the cache, and nothing be lost from it.
    """
    before, after = frames[: last_seq + 1], frames[last_seq + 1 :]
    key, init = newest(before, Flag.KEY), newest(before, Flag.INIT)
    ended = bool(before) and before[-1].is_end
    assert bool(state & TrackState.KEYED) == (key is not None)
    assert bool(state & TrackState.INIT) == (init is not None)
    assert bool(state & TrackState.ENDED) == ended
    assert bool(state & TrackState.CACHED_GROUP) == (key is not None and start is StartFrom.GROUP)
    if key is None or start is StartFrom.LIVE:
        return [*([init] if init else []), *after]
    init = None if key.is_init else newest(before[: key.seq], Flag.INIT)
    return [*([init] if init else []), *frames[key.seq :]]
