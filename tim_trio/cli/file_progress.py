"""Progress of file transfers: a bar on a terminal, else a line whenever something has changed."""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, TextIO, assert_never

import attrs
import trio

from tim_trio.cli.progress import format_bytes, tell_of_losses
from tim_trio.net.client import Client
from tim_trio.net.client.files import FileTransfer, TransferPhase
from tim_trio.net.client.files.names import safe_name
from tim_trio.net.client.plain_nursery import open_plain_nursery

_TERMINAL_PERIOD_S: Final = 0.2
_PLAIN_PERIOD_S: Final = 1.0
_CLEAR_LINE: Final = "\r\x1b[K"
_BAR_CELLS: Final = 24
_DEFAULT_COLUMNS: Final = 100
#: The rate shown is of the last second or so, and not of one tick.
_RATE_WINDOW_S: Final = 2.0

_MOVING: Final = (TransferPhase.RUNNING, TransferPhase.CHECKING)


@attrs.define(eq=False)
class FileProgress:
    """Shows transfers while they run.

    Attributes:
        verb: ``sending`` or ``receiving``.
        transfers: what to show, asked anew each time.
        paused: nothing is shown now: a person is being asked something.
    """

    verb: str
    transfers: Callable[[], Sequence[FileTransfer]]
    quiet: bool = False
    paused: bool = False
    _file: TextIO = attrs.Factory(lambda: sys.stderr)
    _shown: str = ""
    _samples: list[tuple[float, int]] = attrs.Factory(list)

    @asynccontextmanager
    async def shown(self, client: Client) -> AsyncIterator[None]:
        """Show progress while the block runs, and when the connection is lost and back."""
        async with open_plain_nursery() as nursery:
            if not self.quiet:
                nursery.start_soon(self._show)
                nursery.start_soon(tell_of_losses, client, self.say)
            try:
                yield
            finally:
                nursery.cancel_scope.cancel()
                if not self.quiet and self._is_live:
                    self._write("")

    @property
    def _is_live(self) -> bool:
        return self._file.isatty()

    def say(self, text: str) -> None:
        """Write a line of its own, unless quiet."""
        if not self.quiet:
            self._write(f"{text}\n")
            self._shown = ""

    def clear(self) -> None:
        """Take the live line away, for something else to be written."""
        if not self.quiet and self._is_live:
            self._write("")

    async def _show(self) -> None:
        live = self._is_live
        while True:
            await trio.sleep(_TERMINAL_PERIOD_S if live else _PLAIN_PERIOD_S)
            line = self._line(trio.current_time())
            if self.paused or (line == self._shown and not live):
                continue
            self._shown = line
            if live:
                self._write(line[: shutil.get_terminal_size().columns - 1])
            elif line:
                self._write(f"{line}\n")

    def _line(self, now: float) -> str:
        transfers = [each for each in self.transfers() if each.phase is not TransferPhase.OVER]
        if not transfers:
            self._samples.clear()
            return ""
        moving = [each for each in transfers if each.phase in _MOVING]
        if len(moving) > 1:
            done = sum(each.position for each in moving)
            return self._bar(f"{self.verb} {len(moving)} files", moving, done, now)
        first = (moving or transfers)[0]
        match first.phase:
            case TransferPhase.READING:
                return f"reading {shown_name(first)} {_percent(first.position, first.size)}"
            case TransferPhase.OFFERED:
                # The receiver's side is told by its question.
                waiting = f"waiting for {first.account} to answer"
                return waiting if self.verb == "sending" else ""
            case TransferPhase.AWAY:
                gone = "has stopped" if first.peer_is_stopping else "is away"
                return f"{shown_name(first)}: {first.account} {gone}, waiting"
            case TransferPhase.CHECKING if self.verb == "sending":
                return f"{shown_name(first)}: waiting for {first.account} to have all of it"
            case TransferPhase.RUNNING | TransferPhase.CHECKING | TransferPhase.OVER:
                what = f"{self.verb} {shown_name(first)}"
                return self._bar(what, [first], first.position, now)
        assert_never(first.phase)

    def _bar(self, what: str, transfers: Sequence[FileTransfer], done: int, now: float) -> str:
        size = sum(each.size for each in transfers)
        rate = self._rate(now, sum(each.moved_bytes for each in self.transfers()))
        line = f"{what} {_percent(done, size)}"
        if self._is_live:
            cells = _BAR_CELLS * done // max(size, 1)
            line += f" [{'#' * cells}{'.' * (_BAR_CELLS - cells)}]"
        line += f" {format_bytes(done)} of {format_bytes(size)}"
        if rate > 0:
            line += f", {format_bytes(rate)}/s, {_duration((size - done) / rate)} left"
        return line

    def _rate(self, now: float, moved: int) -> float:
        samples = self._samples
        if samples and moved < samples[-1][1]:
            samples.clear()  # another set of files
        samples.append((now, moved))
        while len(samples) > 2 and samples[0][0] < now - _RATE_WINDOW_S:
            samples.pop(0)
        (then, before), (_, after) = samples[0], samples[-1]
        return (after - before) / (now - then) if now > then else 0.0

    def _write(self, text: str) -> None:
        try:
            self._file.write((_CLEAR_LINE if self._is_live else "") + text)
            self._file.flush()
        except OSError:
            self.quiet = True  # nobody looks any more


def shown_name(transfer: FileTransfer) -> str:
    """Return a name that is safe to write on a terminal."""
    return safe_name(transfer.name)


def _percent(done: int, size: int) -> str:
    return f"{100 * done // size if size else 100} %"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02} h"
