"""Progress of file transfers: a bar on a terminal, else a line whenever something has changed."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, TextIO, assert_never

import attrs
import trio

from tim_trio.cli.progress import cells, clip, columns_of, format_bytes, tell_of_losses
from tim_trio.net.client import Client
from tim_trio.net.client.files import FileTransfer, TransferPhase
from tim_trio.net.client.files.names import safe_name
from tim_trio.net.client.plain_nursery import open_plain_nursery

_TERMINAL_PERIOD_S: Final = 0.2
_PLAIN_PERIOD_S: Final = 1.0
_CLEAR_LINE: Final = "\r\x1b[K"
_BAR_CELLS: Final = 24
_LEAST_BAR_CELLS: Final = 5
#: A name is cut to so much before anything else is left out.
_LEAST_NAME_CELLS: Final = 12
#: Of a line that is not for a terminal.
_ANY_COLUMNS: Final = 10_000
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
            columns = columns_of(self._file) - 1 if live else _ANY_COLUMNS
            line = self._line(trio.current_time(), columns)
            if self.paused or (line == self._shown and not live):
                continue
            self._shown = line
            if live:
                # A line that the terminal breaks could not be taken back.
                self._write(clip(line, columns))
            elif line:
                self._write(f"{line}\n")

    def _line(self, now: float, columns: int = _ANY_COLUMNS) -> str:
        transfers = [each for each in self.transfers() if each.phase is not TransferPhase.OVER]
        if not transfers:
            self._samples.clear()
            return ""
        moving = [each for each in transfers if each.phase in _MOVING]
        if len(moving) > 1:
            done = sum(each.position for each in moving)
            return self._bar(f"{len(moving)} files", moving, done, now, columns)
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
                return self._bar(shown_name(first), [first], first.position, now, columns)
        assert_never(first.phase)

    def _bar(
        self, what: str, transfers: Sequence[FileTransfer], done: int, now: float, columns: int
    ) -> str:
        """Return percentage, sizes, rate and time left, as far as ``columns`` admit them."""
        size = sum(each.size for each in transfers)
        rate = self._rate(now, sum(each.moved_bytes for each in self.transfers()))
        percent = _percent(done, size)
        sizes = f" {format_bytes(done)} of {format_bytes(size)}"
        speed = ""
        if rate > 0:
            speed = f", {format_bytes(rate)}/s, {_duration((size - done) / rate)} left"
        whole = f"{self.verb} {what} {percent}{sizes}{speed}"
        spare = columns - cells(whole) - len(" []")
        if self._is_live and spare >= _LEAST_BAR_CELLS:
            width = min(_BAR_CELLS, spare)
            full = width * done // max(size, 1)
            return (
                f"{self.verb} {what} {percent} [{'#' * full}{'.' * (width - full)}]{sizes}{speed}"
            )
        if cells(whole) <= columns:
            return whole
        # Too narrow for all of it. The time left is worth more than the sizes.
        for head, tail in (
            (f"{self.verb} ", f" {percent}{sizes}{speed}"),
            (f"{self.verb} ", f" {percent}{speed}"),
            ("", f" {percent}{speed}"),
        ):
            room = columns - cells(head + tail)
            if room >= min(cells(what), _LEAST_NAME_CELLS):
                break
        return f"{head}{clip(what, room)}{tail}"

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
