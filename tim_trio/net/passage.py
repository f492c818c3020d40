"""From socket to socket without a copy: a large frame's bytes stay in the kernel.

Reading a frame and writing it again copies each byte twice, and pushes all else out
of the processor's caches meanwhile. Where one subscriber takes a large frame just as
it has come, its pages can change hands instead: ``splice`` moves them from one
socket to a pipe, and from the pipe to the other socket. A file from one account to
another is such a stream.

Source: splice(2); docs/architecture.md, "Large frames".
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import termios
from struct import Struct
from typing import Final, Protocol

import attrs

#: What an ordinary user may ask for. It counts pages, which on a fast network hold
#: less than they could; a frame that does not fit goes through in several turns.
_PIPE_BYTES: Final = 1024 * 1024
_INT: Final = Struct("i")
# Never wait, neither for the sockets nor for the pipe.
_FLAGS: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


class _HasDescriptor(Protocol):
    def fileno(self) -> int: ...


def readable_bytes(sock: socket.socket) -> int:
    """Return how much can be read of a socket at once."""
    answer = fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(_INT.size))
    size: int = _INT.unpack(answer)[0]
    return size


class Pipe:
    """What frames go through. Empty between any two of them, so one serves a whole process.

    Opened when it is needed first. No method blocks.
    """

    def __init__(self) -> None:
        self.reader = self.writer = -1

    def open(self) -> None:
        """Idempotent.

        Raises:
            OSError: there are no descriptors left.
        """
        if self.reader < 0:
            self.reader, self.writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            # The user may have used up what all pipes together may hold; a small one does.
            with contextlib.suppress(OSError):
                fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def close(self) -> None:
        """Idempotent. Opened again, it is a new one."""
        if self.reader >= 0:
            os.close(self.reader)
            os.close(self.writer)
            self.reader = self.writer = -1


@attrs.define(eq=False)
class FrameInKernel:
    """The next ``size`` bytes of a socket, all of which have come. To be moved once.

    Source: `core.outbox.Passage`.
    """

    _pipe: Pipe
    _source: socket.socket
    _left: int

    def move(self, sink: _HasDescriptor) -> bytes:
        """Move the bytes to a socket as far as the kernel takes them; return the rest.

        Whatever happens, they are gone from where they were.

        Raises:
            OSError: the sink is broken.
            RuntimeError: the bytes had not all come.
        """
        reader, writer = self._pipe.reader, self._pipe.writer
        source, target = self._source.fileno(), sink.fileno()
        held = 0
        try:
            while self._left:
                held = os.splice(source, writer, self._left, flags=_FLAGS)
                if not held:
                    raise RuntimeError("a frame has ended early that was whole")
                self._left -= held
                while held:
                    held -= os.splice(reader, target, held, flags=_FLAGS)
        except BlockingIOError:
            if not held:
                raise RuntimeError("a frame has gone that was whole") from None
            return self._take(held)
        except OSError:
            self._take(held)
            raise
        return b""

    def _take(self, held: int) -> bytes:
        """Read what is left, in the pipe and behind it."""
        pieces = []
        while held:
            pieces.append(os.read(self._pipe.reader, held))
            held -= len(pieces[-1])
        while self._left:
            pieces.append(self._source.recv(self._left))
            if not pieces[-1]:
                raise RuntimeError("a frame has ended early that was whole")
            self._left -= len(pieces[-1])
        return b"".join(pieces)
