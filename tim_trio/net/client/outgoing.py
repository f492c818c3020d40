"""What waits to be written: whole frames in order, bounded in bytes, sent in few calls.

Frames are queued synchronously and whole, and one task alone writes. So a
sender that is cancelled has sent a frame or has not, never half of one; and
many small frames that are queued while the socket is busy leave together.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import attrs
import trio

#: Joined for one send. Larger gains nothing, and the send deadline is for one batch.
BATCH_BYTES: Final = 256 * 1024
#: A sender lets other tasks run after about this much; the bookkeeping of a
#: frame counts as some bytes, so that tiny ones do not hold the loop for long.
_YIELD_BYTES: Final = 128 * 1024
_FRAME_COST: Final = 128


@attrs.define(eq=False)
class Outgoing:
    """Frames on their way to the socket.

    Attributes:
        bound_bytes: from here on senders wait; one frame may stand above it.
        pending_bytes: queued or being written, not yet taken by the kernel.
        queued_total, sent_total: bytes ever queued, and ever taken by the kernel.
        closed: nothing is written any more.
    """

    bound_bytes: int
    pending_bytes: int = 0
    queued_total: int = 0
    sent_total: int = 0
    closed: bool = False
    _pieces: deque[bytes] = attrs.Factory(deque)
    _senders: trio.lowlevel.ParkingLot = attrs.Factory(trio.lowlevel.ParkingLot)
    _writer: trio.lowlevel.ParkingLot = attrs.Factory(trio.lowlevel.ParkingLot)
    _since_yield: int = 0

    @property
    def full(self) -> bool:
        return self.pending_bytes >= self.bound_bytes

    def push_nowait(self, *pieces: bytes) -> None:
        """Queue one whole frame, in order; the bound is the caller's to look at first.

        After the close it goes nowhere, without a word: the caller's next wait says so.
        """
        if self.closed:
            return
        self._pieces.extend(pieces)
        size = sum(map(len, pieces))
        self.pending_bytes += size
        self.queued_total += size
        self._since_yield += size + _FRAME_COST
        if self._writer:
            self._writer.unpark()

    async def yield_now_and_then(self) -> None:
        """Let other tasks run, but only once enough was queued to be worth a switch.

        A full checkpoint per frame would make a send of every frame.
        """
        if self._since_yield >= _YIELD_BYTES:
            self._since_yield = 0
            await trio.lowlevel.checkpoint()
        else:
            await trio.lowlevel.checkpoint_if_cancelled()

    async def wait_room(self) -> None:
        """Wait until less than the bound is pending, or the close."""
        while self.full and not self.closed:
            await self._senders.park()

    async def wait_sent(self) -> None:
        """Wait until the kernel has taken everything queued, or the close."""
        while self.pending_bytes and not self.closed:
            await self._senders.park()

    def close(self) -> None:
        """Drop what is pending and wake everyone who waits. May be repeated."""
        self.closed = True
        self._pieces.clear()
        self.pending_bytes = 0
        self._senders.unpark_all()
        self._writer.unpark_all()

    async def take(self) -> bytes:
        """Wait for bytes and return the next batch of whole frames, empty after the close.

        The writer alone calls it, and `sent` once the batch has left.
        """
        while not self._pieces and not self.closed:
            await self._writer.park()
        batch = []
        size = 0
        while self._pieces and size < BATCH_BYTES:
            piece = self._pieces.popleft()
            batch.append(piece)
            size += len(piece)
        return batch[0] if len(batch) == 1 else b"".join(batch)

    def sent(self, size: int) -> None:
        """Note that the kernel has taken a batch of ``size`` bytes."""
        self.sent_total += size
        if not self.closed:
            self.pending_bytes -= size
        self._senders.unpark_all()
