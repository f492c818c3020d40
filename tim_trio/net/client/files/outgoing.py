"""The file that is sent: read in threads, its digest known up to any offset.

Every function here blocks on the disk; Trio calls them in a thread.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs

from tim_trio.net.client.files.errors import FileUnusable
from tim_trio.net.client.files.threads import Stopped

READ_BYTES: Final = 1024 * 1024
#: The digest is kept at so many places at most, so that what a receiver says
#: of its part is checked by reading a little, not all.
_MARKS: Final = 1024


@attrs.define(eq=False)
class OutgoingFile:
    """An open file, which must not change while it is sent.

    It is held open: that its name is given to another file does not matter.

    Attributes:
        sha256: in hex, once `digest` has run.
        stopped: the methods that read much are to raise Stopped soon.
    """

    path: Path
    size: int
    sha256: str = ""
    stopped: bool = False
    _fd: int = -1
    _identity: tuple[int, int] = (0, 0)
    _marks: dict[int, hashlib._Hash] = attrs.Factory(dict)

    @classmethod
    def open(cls, path: Path) -> OutgoingFile:
        """Open a file to send.

        Raises:
            FileUnusable: it cannot be read, or is no ordinary file.
        """
        try:
            # Not blocking, or opening a pipe without a writer would wait.
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise FileUnusable(f"cannot read {path}: {error.strerror}") from error
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            what = "a directory" if stat.S_ISDIR(status.st_mode) else "not an ordinary file"
            raise FileUnusable(f"cannot send {path}: it is {what}")
        return cls(path, status.st_size, fd=fd, identity=_identity(status))

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def digest(self, show: Callable[[int], object]) -> str:
        """Read all of it and return its SHA-256 in hex.

        Args:
            show: called now and then with the bytes read so far; what it
                raises comes out.

        Raises:
            FileUnusable: it cannot be read, or changes meanwhile.
            Stopped: `stopped` was set.
        """
        sha = hashlib.sha256()
        step = max(self.size // _MARKS, 4 * READ_BYTES)
        offset = next_mark = 0
        while data := self._read(offset, READ_BYTES):
            if self.stopped:
                raise Stopped
            sha.update(data)
            offset += len(data)
            show(offset)
            if offset >= next_mark + step:
                next_mark = offset
                self._marks[offset] = sha.copy()
        if offset != self.size or not self.is_unchanged():
            raise FileUnusable(f"{self.path} changes while it is read")
        self.sha256 = sha.hexdigest()
        return self.sha256

    def prefix_digest(self, length: int) -> str:
        """Return the SHA-256 of the first ``length`` bytes, at most `size`, in hex.

        Raises:
            FileUnusable: they cannot be read.
            Stopped: `stopped` was set.
        """
        if length == self.size and self.sha256:
            return self.sha256
        mark = max((mark for mark in self._marks if mark <= length), default=0)
        sha = self._marks[mark].copy() if mark else hashlib.sha256()
        while mark < length:
            data = self._read(mark, min(READ_BYTES, length - mark))
            if self.stopped:
                raise Stopped
            if not data:
                raise FileUnusable(f"{self.path} is shorter than it was")
            sha.update(data)
            mark += len(data)
        return sha.hexdigest()

    def read(self, offset: int, most: int) -> bytes:
        """Return the next bytes from ``offset`` on, ``most`` where there are as many.

        Raises:
            FileUnusable: they cannot be read, or are no longer there.
        """
        wanted = min(most, self.size - offset)
        data = self._read(offset, wanted)
        if len(data) < wanted:
            data += self._read(offset + len(data), wanted - len(data))
        if len(data) < wanted:
            raise FileUnusable(f"{self.path} is shorter than it was")
        return data

    def is_unchanged(self) -> bool:
        """Say whether size and time of change are those of when it was opened."""
        status = os.fstat(self._fd)
        return status.st_size == self.size and _identity(status) == self._identity

    def _read(self, offset: int, count: int) -> bytes:
        try:
            return os.pread(self._fd, count, offset)
        except OSError as error:
            raise FileUnusable(f"cannot read {self.path}: {error.strerror}") from error


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_mtime_ns, status.st_ino
