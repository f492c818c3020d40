"""What a person sees of a transfer, and may do to it. The same on both sides."""

from __future__ import annotations

import enum

import attrs
import trio


class TransferPhase(enum.Enum):
    """Where a transfer stands."""

    READING = "reading"  # the sender reads its file, the receiver an older part
    OFFERED = "offered"  # nobody has said yes yet
    RUNNING = "running"
    AWAY = "away"  # interrupted; it goes on when the other side is back
    CHECKING = "checking"  # all of it is there, or on its way
    OVER = "over"


@attrs.define(eq=False, kw_only=True)
class FileTransfer:
    """One transfer, as it stands now. All numbers only ever describe.

    Attributes:
        account: the other side.
        name: as it was offered; made safe before a file is called so.
        size: bytes of the file.
        position: how far it is, in bytes from the start.
        moved_bytes: sent or received in all, repeats included.
        attempts: how often it was begun or gone on with.
        peer_is_stopping: the other side has said that its program is ending.
        path: of the file, once it has its name (receiver).
    """

    account: str = ""
    name: str = ""
    size: int = 0
    sha256: str = ""
    media_type: str = ""
    phase: TransferPhase = TransferPhase.READING
    position: int = 0
    moved_bytes: int = 0
    attempts: int = 0
    peer_is_stopping: bool = False
    path: str = ""
    _cancelled: trio.Event = attrs.Factory(trio.Event)

    def cancel(self) -> None:
        """End it, on both sides.

        A receiver that cancels throws its part away; one whose sender has cancelled keeps
        it, for the same file to go on with. To stop for now, cancel the task instead.
        """
        self._cancelled.set()

    @property
    def is_cancelled(self) -> bool:
        return self._cancelled.is_set()

    async def wait_cancelled(self) -> None:
        """Wait until somebody here has cancelled it."""
        await self._cancelled.wait()
