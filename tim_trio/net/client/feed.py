"""One connection's share of a subscription: what it holds, and how far it may go.

Source: protocol.md, sections 9 and 10; docs/client.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

import attrs

from tim_trio.errors import ConnectionClosed
from tim_trio.net.client.connection import Connection
from tim_trio.net.client.notices import Notice
from tim_trio.protocol import messages
from tim_trio.protocol.layout import LENGTH_BYTES, STREAM_HEADER
from tim_trio.protocol.messages import RoomMode
from tim_trio.protocol.runs import Run

#: What a queued piece costs beside its bytes; keeps many tiny ones bounded.
_ITEM_COST: Final = 256
_SEQ_FIELD: Final = 7


class Taker(Protocol):
    """The subscription behind a feed."""

    def deliver(self, feed: Feed, item: Run | Notice) -> None: ...

    def close(self, feed: Feed, event: messages.RoomClosed) -> None: ...

    def lose(self, feed: Feed, error: ConnectionClosed) -> None: ...


def credit_window(connection: Connection) -> int:
    """Return how far ahead of the user a reliable source may be.

    At least what the server takes for it anyhow (protocol.md, section 10).
    """
    limits = connection.limits
    return max(
        connection.bounds.receive_buffer_bytes, limits.backlog_bytes + limits.max_frame_bytes
    )


@attrs.define(eq=False)
class Feed:
    """What comes over one connection for one subscription.

    In live rooms, what is queued counts in the budget that stops the reader.
    In reliable rooms, what the user has taken is granted anew.
    """

    connection: Connection
    taker: Taker
    room: int
    mode: RoomMode
    _window: int
    _max_frame_bytes: int
    #: Frames up to these were there before the subscription: no credit is for them.
    _before: dict[tuple[int, int], int]
    _taken: dict[int, int] = attrs.Factory(dict)
    _granted: dict[int, int] = attrs.Factory(dict)

    @classmethod
    def opened(cls, connection: Connection, taker: Taker, answer: messages.SubscribeAnswer) -> Feed:
        return cls(
            connection,
            taker,
            answer.room,
            answer.mode,
            credit_window(connection),
            connection.limits.max_frame_bytes,
            {
                (source.source, track.track): track.last_seq
                for source in answer.sources
                for track in source.tracks
            },
        )

    def charge(self, item: Run | Notice) -> None:
        """An item waits for the user."""
        if self.mode is RoomMode.LIVE:
            self.connection.budget.add(_cost(item))

    def release(self, item: Run | Notice) -> None:
        """The user has taken an item."""
        if self.mode is RoomMode.LIVE:
            self.connection.budget.release(_cost(item))
        elif isinstance(item, Run):
            self._grant(item.source, self._credited_bytes(item))

    def drop(self, items: Iterable[Run | Notice]) -> None:
        """Nobody will take these items."""
        if self.mode is RoomMode.LIVE:
            self.connection.budget.release(sum(map(_cost, items)))

    def skip(self, run: Run, kept: Iterable[Run | Notice]) -> None:
        """What is not handed to the user of a run (repeats) is as good as taken."""
        if self.mode is RoomMode.RELIABLE:
            size = self._credited_bytes(run)
            for piece in kept:
                if isinstance(piece, Run):
                    size -= self._credited_bytes(piece)
            self._grant(run.source, size)

    def _credited_bytes(self, run: Run) -> int:
        before = self._before.get((run.source, run.track), -1)
        if run.first_seq > before:
            return len(run.data)
        if run.last_seq <= before:
            return 0
        offset = 0
        while True:
            fields = STREAM_HEADER.unpack_from(run.data, offset)
            if fields[_SEQ_FIELD] > before:
                return len(run.data) - offset
            offset += LENGTH_BYTES + fields[0]

    def _grant(self, source: int, size: int) -> None:
        """Grant as much as was taken: in halves of the window, not a CREDIT per
        run, but never so late that the largest frame would not fit."""
        taken = self._taken[source] = self._taken.get(source, 0) + size
        left = self._granted.get(source, self._window) - taken
        if left <= self._window // 2 or left < self._max_frame_bytes:
            limit = self._granted[source] = taken + self._window
            self.connection.send_nowait(messages.Credit(room=self.room, source=source, limit=limit))


def _cost(item: Run | Notice) -> int:
    return _ITEM_COST + (len(item.data) if isinstance(item, Run) else 0)
