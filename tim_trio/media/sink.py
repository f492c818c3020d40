"""A file that is being written in a thread, fed through a pipe.

The pipe is the bound: what the thread has not taken, the writer waits with.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import trio

from tim_trio.media.codecs import FileKind
from tim_trio.media.errors import MediaError

#: To write a file's index, on a slow disk too.
_FINISH_S: Final = 60.0


class FileSink:
    """Writes FILE.part, and gives it its name when it is whole.

    One that ends early is whole as well: it has its index and plays.

    Raises:
        MediaError: the file cannot be written.
    """

    def __init__(self, path: Path, kind: FileKind) -> None:
        self.path = path
        self.part = path.with_name(path.name + ".part")
        self._kind = kind
        self._done = trio.Event()
        self._error: MediaError | None = None
        self._pipe: trio.lowlevel.FdStream | None = None
        try:
            self.part.touch()
        except OSError as error:
            raise MediaError(f"cannot write {path}: {error.strerror}") from error

    def start(self, nursery: trio.Nursery) -> None:
        """Start the thread; it ends with `finish`, whatever happens to the nursery."""
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
        self._pipe = trio.lowlevel.FdStream(write_fd)
        nursery.start_soon(self._run, read_fd)

    async def _run(self, fd: int) -> None:
        from tim_trio.media.writing import write_file

        with trio.CancelScope(shield=True):
            try:
                await trio.to_thread.run_sync(write_file, fd, self.part, self._kind)
            except MediaError as error:
                self._error = error
            finally:
                os.close(fd)
                self._done.set()

    async def write(self, data: bytes) -> None:
        """Write bytes of a live Matroska stream.

        Cancelled, some of it may have been written: the file ends there.

        Raises:
            MediaError: the file cannot be written.
        """
        assert self._pipe is not None
        try:
            await self._pipe.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await self._done.wait()
            raise self._error or MediaError(f"cannot write {self.path}") from None

    async def finish(self) -> None:
        """Write the index, and give the file its name.

        Raises:
            MediaError: the file could not be written to its end; what there
                is of it stays FILE.part.
        """
        assert self._pipe is not None
        with trio.move_on_after(_FINISH_S, shield=True) as scope:
            await self._pipe.aclose()
            await self._done.wait()
        if scope.cancelled_caught:
            raise MediaError(f"cannot write {self.path}: the disk is too slow")
        if self._error is not None:
            raise self._error
        try:
            os.replace(self.part, self.path)
        except OSError as error:
            raise MediaError(f"cannot write {self.path}: {error.strerror}") from error
