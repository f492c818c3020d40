"""TLS in the shape of a non-blocking socket: the connection reads and writes as without it.

`recv` and `send` never wait, so that the fan-out can write straight to the
socket here too, and a read brings every record that has arrived at once;
``trio.SSLStream`` waits in each call, and brings one record of 16 KiB.

Source: docs/operations.md, "TLS".
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable
from typing import Final

from tim_trio.core.form import Buffer

#: Encrypted at once. A peer that does not read holds this much of its own
#: ciphertext, beside what all subscribers share.
_CHUNK_BYTES: Final = 64 * 1024
#: How a peer's first record begins.
_TLS_HANDSHAKE: Final = b"\x16"
#: A record's most.
RECORD_BYTES: Final = 16 * 1024
#: TLS's own messages (key updates, alerts) that a peer may leave unread.
_MAX_UNSENT_BYTES: Final = 2 * _CHUNK_BYTES


class TlsSocket:
    """One end of TLS over a connected non-blocking socket, which it owns: the server's,
    or the client's where there is a ``server_hostname``.

    A `ByteSocket` once `shake_hands` has returned True. Waiting is the
    owner's: for readable after BlockingIOError of ``recv``, for writable after
    that of ``send``.

    A peer that ends TCP without the end of TLS is an error, never an end.

    Attributes:
        is_ready: the handshake is done.
        first_byte: of what the peer sent: it tells TLS from what is not.
    """

    __slots__ = (
        "_ended",
        "_held",
        "_incoming",
        "_is_server",
        "_object",
        "_outgoing",
        "_owed",
        "_raw",
        "_unsent",
        "first_byte",
        "is_ready",
    )

    def __init__(
        self, raw: socket.socket, context: ssl.SSLContext, *, server_hostname: str | None = None
    ) -> None:
        self._raw = raw
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._is_server = server_hostname is None
        self._object = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=self._is_server,
            server_hostname=server_hostname,
        )
        self.is_ready = False
        self._ended = False
        #: Ciphertext for the first `send`: tickets for a next time, which a
        #: client that only sends and closes would answer by a reset.
        self._held = b""
        #: Ciphertext that the kernel has not taken.
        self._unsent: Buffer = b""
        #: Plaintext bytes in it that no `send` has reported as taken.
        self._owed = 0
        self.first_byte = b""

    def fileno(self) -> int:
        return self._raw.fileno()

    def close(self) -> None:
        self._raw.close()

    def setsockopt(self, level: int, option: int, value: int, /) -> None:
        self._raw.setsockopt(level, option, value)

    @property
    def must_write(self) -> bool:
        """The handshake waits for the socket to be writable, and else for bytes."""
        return bool(self._unsent)

    def shake_hands(self) -> bool:
        """Go on with the handshake as far as the socket allows; say whether it is done.

        Where it is not, wait for the socket and call again.

        Raises:
            ssl.SSLError: the peer speaks something else, or broke off.
            OSError: the connection is lost.
        """
        while True:
            if self._unsent and not self._flush():
                return False
            try:
                self._object.do_handshake()
            except ssl.SSLWantReadError:
                self._collect()
                if self._unsent and not self._flush():
                    return False
                try:
                    self._feed(RECORD_BYTES)
                except BlockingIOError:
                    return False
            except ssl.SSLError:
                if self.first_byte == _TLS_HANDSHAKE:
                    self._send_alert()  # to whom would understand it
                raise
            else:
                if self._is_server and self._object.version() == "TLSv1.3":
                    self._held = self._outgoing.read()
                self._collect()
                self.is_ready = self._flush()
                return self.is_ready

    def send_plain(self, data: bytes) -> None:
        """Tell a peer that does not speak TLS; as much as can leave at once."""
        try:
            self._raw.send(data)
        except OSError:
            pass

    def recv(self, size: int, /) -> bytes:
        """Read ``size`` bytes of ciphertext at most, and return all that is in them.

        Returns ``b""`` at the end of TLS, and after `shutdown` whatever comes.

        Raises:
            BlockingIOError: nothing, or no whole record.
            OSError: lost, cut off, or not what the peer's key has sealed.
        """
        if self._ended:
            return b""
        if not self.is_ready:
            return self._raw.recv(size)
        try:
            self._feed(size)
        except BlockingIOError:
            # The handshake's last read may have brought the first records.
            if not self._incoming.pending:
                raise
        pieces: list[bytes] = []
        try:
            while piece := self._object.read(RECORD_BYTES):
                pieces.append(piece)
            self._end()
            return b"".join(pieces)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            self._send_alert()
            raise
        self._answer()
        if not pieces:
            raise BlockingIOError
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def send(self, data: Buffer, /) -> int:
        """Encrypt and send; return how many bytes of ``data`` have left.

        What is encrypted and could not leave counts as not taken, and is
        remembered: the next call begins with the same bytes.

        Raises:
            BlockingIOError: none have left.
            OSError: lost.
        """
        if not self.is_ready:
            raise BlockingIOError
        if self._unsent and not self._flush():
            raise BlockingIOError
        taken = self._owed
        self._owed = 0
        view = memoryview(data)
        while taken < len(view):
            chunk = view[taken : taken + _CHUNK_BYTES]
            self._object.write(chunk)
            self._collect()
            if not self._flush():
                self._owed = len(chunk)
                break
            taken += len(chunk)
        if not taken and self._owed:
            raise BlockingIOError
        return taken

    def sendmsg(self, pieces: Iterable[Buffer], /) -> int:
        return self.send(b"".join(pieces))

    def shutdown(self, how: int, /) -> None:
        """Say that nothing more comes: the end of TLS, then that of TCP.

        The former only if it can leave at once. What is read from then on is
        ciphertext, to be dropped.
        """
        if self.is_ready:
            self.is_ready = False
            try:
                self._object.unwrap()
            except ssl.SSLError:
                pass  # it does not wait for the peer's
            self._collect()
            self._flush()
        self._raw.shutdown(how)

    def _end(self) -> None:
        """The peer has ended TLS; it may leave TCP open, and wait for us."""
        self._ended = True
        try:
            # So that it is readable, and the owner comes to see the end.
            self._raw.shutdown(socket.SHUT_RD)
        except OSError:
            pass

    def _feed(self, size: int) -> None:
        data = self._raw.recv(size)
        if not data:
            self._incoming.write_eof()
            return
        if not self.first_byte:
            self.first_byte = data[:1]
        self._incoming.write(data)

    def _collect(self) -> None:
        if self._outgoing.pending:
            made = self._outgoing.read()
            if self._held or self._unsent:
                made = b"".join((self._unsent, self._held, made))
                self._held = b""
            self._unsent = made

    def _answer(self) -> None:
        """Send what reading has made TLS say."""
        if self._outgoing.pending:
            self._collect()
            self._flush()
            if len(self._unsent) > _MAX_UNSENT_BYTES:
                raise ConnectionAbortedError("makes TLS answer, and reads no answer")

    def _send_alert(self) -> None:
        """Let OpenSSL tell the peer what is wrong, if that can leave at once."""
        self._collect()
        try:
            self._flush()
        except OSError:
            pass

    def _flush(self) -> bool:
        """Send ciphertext; say whether all of it has left."""
        if self._unsent:
            try:
                sent = self._raw.send(self._unsent)
            except BlockingIOError:
                return False
            if sent < len(self._unsent):
                self._unsent = memoryview(self._unsent)[sent:]
                return False
            self._unsent = b""
        return True
