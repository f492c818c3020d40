"""Progress for a person: a live line on a terminal, else one line a second.

A library would bring a bar, and a live stream has no length to fill one.
"""

from __future__ import annotations

import os
import shutil
import sys
import unicodedata
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, TextIO

import attrs
import trio

from tim_trio.errors import ConnectionClosed
from tim_trio.net.client import Client, Reconnected, Reconnecting
from tim_trio.net.client.plain_nursery import open_plain_nursery

_TERMINAL_PERIOD_S: Final = 0.2
_PLAIN_PERIOD_S: Final = 1.0
_CLEAR_LINE: Final = "\r\x1b[K"


async def tell_of_losses(client: Client, say: Callable[[str], None]) -> None:
    """Say when the connection is lost and when it is back, until it is closed."""
    try:
        async for event in client.events():
            if isinstance(event, Reconnecting):
                say(f"{event.error}: reconnecting")
            elif isinstance(event, Reconnected):
                say(f"reconnected after {event.after_s:.1f} s")
    except ConnectionClosed:
        pass  # the command finds out by itself


def format_bytes(count: float) -> str:
    """Return a number of bytes with three digits or so: ``1.25 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"


def columns_of(file: TextIO) -> int:
    """Return how wide a terminal is; of the terminal that is written to, not of another."""
    try:
        columns = os.get_terminal_size(file.fileno()).columns
    except (OSError, ValueError):
        columns = 0
    return columns or shutil.get_terminal_size().columns


def cells(text: str) -> int:
    """Return how many columns a text takes: two for a Chinese character, none for an accent."""
    return sum(map(_cells_of, text))


def _cells_of(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def clip(text: str, most_cells: int) -> str:
    """Return a text in so many columns at most, with … for what was cut off."""
    if cells(text) <= most_cells:
        return text
    kept, left = "", most_cells - 1
    for character in text:
        left -= _cells_of(character)
        if left < 0:
            break
        kept += character
    return f"{kept}…" if most_cells > 0 else ""


@attrs.define(eq=False)
class Progress:
    """Counts, and shows them.

    Attributes:
        describe: what to show behind the counts.
    """

    verb: str
    describe: Callable[[], str]
    quiet: bool = False
    frames: int = 0
    bytes: int = 0
    _file: TextIO = attrs.Factory(lambda: sys.stderr)
    _started: float = 0.0
    _shown_bytes: int = 0
    _shown_at: float = 0.0

    @asynccontextmanager
    async def shown(self, client: Client | None = None) -> AsyncIterator[None]:
        """Show progress while the block runs, and the totals at its end.

        With ``client``, also say when its connection is lost and back.
        """
        self._started = self._shown_at = trio.current_time()
        async with open_plain_nursery() as nursery:
            if not self.quiet:
                nursery.start_soon(self._show)
                if client is not None:
                    nursery.start_soon(tell_of_losses, client, self.say)
            try:
                yield
            finally:
                nursery.cancel_scope.cancel()
                if not self.quiet:
                    self._write_total()

    def say(self, text: str) -> None:
        """Write a line of its own, also when quiet is off only for progress."""
        if not self.quiet:
            self._write(f"{text}\n")

    async def _show(self) -> None:
        live = self._file.isatty()
        while True:
            await trio.sleep(_TERMINAL_PERIOD_S if live else _PLAIN_PERIOD_S)
            now = trio.current_time()
            rate = (self.bytes - self._shown_bytes) / max(now - self._shown_at, 1e-9)
            self._shown_bytes, self._shown_at = self.bytes, now
            line = self._line(rate)
            # A line that the terminal breaks could not be taken back.
            self._write(clip(line, columns_of(self._file) - 1) if live else f"{line}\n")

    def _write_total(self) -> None:
        elapsed = trio.current_time() - self._started
        self._write(f"{self._line(self.bytes / max(elapsed, 1e-3))} in {elapsed:.1f} s\n")

    def _line(self, rate: float) -> str:
        return (
            f"{self.verb} {format_bytes(self.bytes)}, {format_bytes(rate)}/s, "
            f"{self.frames} frames, {self.describe()}"
        )

    def _write(self, text: str) -> None:
        try:
            self._file.write((_CLEAR_LINE if self._file.isatty() else "") + text)
            self._file.flush()
        except OSError:
            self.quiet = True  # nobody looks any more
