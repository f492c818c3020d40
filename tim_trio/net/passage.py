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
from typing import Final

import attrs

from tim_trio.core.outbox import Sink

#: What an ordinary user may ask for. It counts pages, which on a fast network hold
#: less than they could; a frame that does not fit goes through in several turns.
_PIPE_BYTES: Final = 1024 * 1024
_INT: Final = Struct("i")
# Never wait, neither for the sockets nor for the pipe.
_FLAGS: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


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
    """The next frame of a socket, all of which has come. To be moved once.

    Its header is sent from ``header``, which somebody has looked at. What is still in
    the socket may be pages of a publisher on this machine, who can change them after
    that: its payload, but nothing that says whose it is or where it ends.

    Source: `core.outbox.Passage`.
    """

    _pipe: Pipe
    _source: socket.socket
    _header: bytes
    _left: int = attrs.field(alias="size")

    def move(self, sink: Sink) -> bytes:
        """Move the frame to a socket as far as the kernel takes it; return the rest.

        Whatever happens, it is gone from where it was, and the pipe is empty.

        Raises:
            OSError: the sink is broken.
            RuntimeError: the frame had not all come.
        """
        try:
            return self._move(sink)
        except OSError:
            raise
        except BaseException:  # an interrupt too
            self._pipe.close()  # Nobody knows what is in it.
            raise

    def _move(self, sink: Sink) -> bytes:
        self._drop_header()
        source, reader, writer = self._source.fileno(), self._pipe.reader, self._pipe.writer
        target = sink.fileno()
        header = self._header
        held = 0
        try:
            # With what follows in one segment, which is why it does not go by itself.
            header = header[sink.send(header, socket.MSG_MORE) :]
            while self._left and not header:
                try:
                    held = os.splice(source, writer, self._left, flags=_FLAGS)
                except BlockingIOError:
                    break  # It is short of memory, perhaps.
                if not held:
                    raise RuntimeError("a frame has ended early that was whole")
                self._left -= held
                while held:
                    held -= os.splice(reader, target, held, flags=_FLAGS)
        except BlockingIOError:
            pass
        except OSError:
            self._take(held)
            raise
        return header + self._take(held) if header or held or self._left else b""

    def _drop_header(self) -> None:
        self._left -= len(self._header)
        size = len(self._header)
        while size:
            size -= len(self._read(size))

    def _take(self, held: int) -> bytes:
        """Read what is left, in the pipe and behind it."""
        pieces = []
        while held:
            pieces.append(os.read(self._pipe.reader, held))
            held -= len(pieces[-1])
        while self._left:
            pieces.append(self._read(self._left))
            self._left -= len(pieces[-1])
        return b"".join(pieces)

    def _read(self, size: int) -> bytes:
        try:
            data = self._source.recv(size)
        except OSError as error:
            raise RuntimeError("a frame has gone that was whole") from error
        if not data:
            raise RuntimeError("a frame has ended early that was whole")
        return data
