"""Where `watch` writes: standard output, or a file that appears when it is whole."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import click
import trio


class OutputClosed(Exception):
    """Whoever read standard output has gone."""


class Output:
    """Writes in threads, since a full pipe or a slow disk must not stop the pings.

    A file is written as ``FILE.part`` and renamed by `keep`: what is called
    FILE is never half a stream, and an older FILE stays until then. Devices
    and pipes are written directly.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.part: Path | None = None
        self.written = 0
        if path is None:
            self._fd = sys.stdout.fileno()
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        try:
            if path.exists() and not stat.S_ISREG(path.stat().st_mode):
                target = path
            else:
                target = self.part = path.with_name(path.name + ".part")
                flags |= os.O_TRUNC
            self._fd = os.open(target, flags, 0o666)
        except OSError as error:
            raise click.ClickException(f"cannot write {path}: {error.strerror}") from error

    async def write(self, data: bytes) -> None:
        """Write all of ``data``. Cancelled, some of it may have been written.

        Raises:
            OutputClosed: the reader of standard output has gone.
            click.ClickException: the disk is full, or the like.
        """
        try:
            await trio.to_thread.run_sync(self._write_all, data, abandon_on_cancel=True)
        except BrokenPipeError as error:
            raise OutputClosed from error
        except OSError as error:
            name = self.path or "standard output"
            raise click.ClickException(f"cannot write {name}: {error.strerror}") from error
        self.written += len(data)

    def _write_all(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def keep(self) -> None:
        """The stream has ended: give the file its name. Blocks on the disk."""
        if self.path is None:
            return
        try:
            os.close(self._fd)
            if self.part is not None:
                os.replace(self.part, self.path)
        except OSError as error:
            raise click.ClickException(f"cannot write {self.path}: {error.strerror}") from error
        self.part = None
