"""TLS in the shape of a non-blocking socket, against the standard library's own."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import attrs
import pytest

from tests.net.certificates import Certificates
from tests.net.old_tls import OLD_HELLO
from tests.net.rawclient import HOST
from tim_trio.net.tls import server_context
from tim_trio.net.tls_ends import is_cut
from tim_trio.net.tls_socket import TlsSocket

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@attrs.define(eq=False)
class Pair:
    """A `TlsSocket`, and its peer over memory, so that the test moves each byte."""

    server: TlsSocket
    wire: socket.socket
    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO
    peer: ssl.SSLObject

    def to_server(self, limit: int | None = None) -> None:
        data = self.outgoing.read() if limit is None else self.outgoing.read(limit)
        self.wire.sendall(data)

    def to_peer(self) -> int:
        """Hand the peer what the server has sent; return how many bytes it was."""
        try:
            data = self.wire.recv(2**20)
        except BlockingIOError:
            return 0
        if data:
            self.incoming.write(data)
        else:
            self.incoming.write_eof()
        return len(data)

    def shake_hands(self) -> None:
        done = False
        for _ in range(10):
            try:
                self.peer.do_handshake()
            except ssl.SSLWantReadError:
                pass
            else:
                done = True
            self.to_server()
            if (self.server.is_ready or self.server.shake_hands()) and done:
                return
            self.to_peer()
        raise AssertionError("the handshake does not end")

    def peer_reads(self) -> bytes:
        """Return what has arrived and is whole."""
        got = b""
        while True:
            try:
                piece = self.peer.read(2**20)
            except ssl.SSLWantReadError:
                return got
            if not piece:
                return got
            got += piece


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


@contextmanager
def open_pair(
    certificates: Certificates, version: ssl.TLSVersion, *, buffer: int | None = None
) -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    if buffer is not None:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    ours.setblocking(False)
    theirs.setblocking(False)
    context = certificates.client_context()
    context.maximum_version = version
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with ours, theirs:
        yield Pair(
            TlsSocket(ours, server_context(certificates.certificate, certificates.key)),
            theirs,
            incoming,
            outgoing,
            context.wrap_bio(incoming, outgoing, server_hostname=HOST),
        )


@pytest.fixture(params=VERSIONS, ids=lambda version: str(version.name))
def pair(certificates: Certificates, request: pytest.FixtureRequest) -> Iterator[Pair]:
    with open_pair(certificates, request.param) as made:
        yield made


@pytest.fixture
def ready(pair: Pair) -> Pair:
    pair.shake_hands()
    return pair


def fill(way: TlsSocket | socket.socket) -> int:
    """Send until nothing more is taken; return how many bytes were."""
    size = 0
    try:
        while True:
            size += way.send(bytes(65536))
    except BlockingIOError:
        return size


def waits_to_write(pair: Pair) -> bool:
    return pair.server.must_write


def push(pair: Pair, data: bytes) -> None:
    pair.peer.write(data)
    pair.to_server()


# The handshake


def test_both_ways(ready: Pair) -> None:
    push(ready, b"hello")
    assert ready.server.recv(65536) == b"hello"
    assert ready.server.send(b"welcome") == 7
    ready.to_peer()
    assert ready.peer_reads() == b"welcome"


def test_a_handshake_byte_by_byte(pair: Pair) -> None:
    is_done = False
    for _ in range(5):
        try:
            pair.peer.do_handshake()
        except ssl.SSLWantReadError:
            pass
        while pair.outgoing.pending:
            assert not is_done
            pair.to_server(1)
            is_done = pair.server.shake_hands()
        pair.to_peer()
        if is_done:
            break
    pair.peer.do_handshake()
    push(pair, b"hello")
    assert pair.server.recv(65536) == b"hello"


def test_nothing_is_sent_before_the_handshake(pair: Pair) -> None:
    with pytest.raises(BlockingIOError):
        pair.server.send(b"secret")
    assert pair.to_peer() == 0
    assert not pair.server.shake_hands()
    assert not waits_to_write(pair)


def test_what_comes_along_with_the_handshake_is_read(certificates: Certificates) -> None:
    with open_pair(certificates, ssl.TLSVersion.TLSv1_3) as pair:
        with pytest.raises(ssl.SSLWantReadError):
            pair.peer.do_handshake()
        pair.to_server()
        assert not pair.server.shake_hands()
        pair.to_peer()
        pair.peer.do_handshake()
        pair.peer.write(b"hello")
        pair.to_server()
        assert pair.server.shake_hands()
        assert pair.server.recv(65536) == b"hello"
        with pytest.raises(BlockingIOError):
            pair.server.recv(65536)


def test_tickets_wait_for_the_first_data(ready: Pair) -> None:
    """A client that only sends, and closes, would answer them by a reset."""
    ready.to_peer()
    push(ready, b"all I have to say")
    assert ready.server.recv(65536)
    assert ready.to_peer() == 0
    ready.server.send(b"x")
    assert ready.to_peer() > 0
    assert ready.peer_reads() == b"x"


def test_a_peer_without_tls(pair: Pair) -> None:
    pair.wire.sendall(b"\0\0\0\x16\x01\0\0\0" + bytes(18))
    with pytest.raises(ssl.SSLError) as caught:
        pair.server.shake_hands()
    assert caught.value.reason
    assert pair.server.first_byte == b"\0"
    assert pair.to_peer() == 0  # no alert: it would not be understood
    pair.server.send_plain(b"in plain words")
    assert pair.wire.recv(100) == b"in plain words"


def test_a_peer_without_tls_that_is_gone(pair: Pair) -> None:
    pair.wire.close()
    pair.server.send_plain(b"in plain words")


def test_a_peer_with_an_old_version_is_told_why(certificates: Certificates) -> None:
    with open_pair(certificates, ssl.TLSVersion.TLSv1_2) as made:
        made.wire.sendall(OLD_HELLO)
        with pytest.raises(ssl.SSLError, match="UNSUPPORTED_PROTOCOL"):
            made.server.shake_hands()
        alert = made.wire.recv(100)
        assert alert[:1] == b"\x15"
        assert alert[-2:] == bytes([2, 70])  # fatal, protocol_version


def test_an_end_within_the_handshake(pair: Pair) -> None:
    with pytest.raises(ssl.SSLWantReadError):
        pair.peer.do_handshake()
    pair.to_server(50)
    assert not pair.server.shake_hands()
    pair.wire.close()
    with pytest.raises(ssl.SSLError) as caught:
        pair.server.shake_hands()
    assert is_cut(caught.value)


def test_a_server_flight_that_does_not_fit(certificates: Certificates) -> None:
    with open_pair(certificates, ssl.TLSVersion.TLSv1_3) as made:
        # Fill the way out, as if something had been sent.
        filler = fill(made.server._raw)
        with pytest.raises(ssl.SSLWantReadError):
            made.peer.do_handshake()
        made.to_server()
        assert not made.server.shake_hands()
        assert waits_to_write(made)
        while filler:
            filler -= len(made.wire.recv(min(filler, 65536)))
        made.shake_hands()
        assert not waits_to_write(made)


# Reading


def test_all_records_that_came_are_one_read(ready: Pair) -> None:
    data = os.urandom(100_000)
    push(ready, data)
    assert ready.server.recv(256 * 1024) == data
    with pytest.raises(BlockingIOError):
        ready.server.recv(256 * 1024)


def test_a_record_in_parts(ready: Pair) -> None:
    ready.peer.write(b"all of it")
    while ready.outgoing.pending > 1:
        ready.to_server(1)
        with pytest.raises(BlockingIOError):
            ready.server.recv(65536)
    ready.to_server()
    assert ready.server.recv(65536) == b"all of it"


def test_the_end_of_tls_is_the_end(ready: Pair) -> None:
    ready.peer.write(b"last")
    with pytest.raises(ssl.SSLWantReadError):
        ready.peer.unwrap()
    ready.to_server()
    assert ready.server.recv(65536) == b"last"
    # Without the peer's FIN: what waits for the socket is woken all the same.
    assert ready.server._raw.recv(1) == b""
    assert ready.server.recv(65536) == b""
    assert ready.server.recv(65536) == b""


def test_the_end_of_tcp_alone_is_not(ready: Pair) -> None:
    push(ready, b"first")
    ready.wire.close()
    assert ready.server.recv(65536) == b"first"
    with pytest.raises(ssl.SSLError) as caught:
        ready.server.recv(65536)
    assert is_cut(caught.value)


def test_a_forged_record(ready: Pair) -> None:
    ready.peer.write(b"genuine")
    record = bytearray(ready.outgoing.read())
    record[-1] ^= 1
    ready.wire.sendall(record)
    with pytest.raises(ssl.SSLError):
        ready.server.recv(65536)


# Writing


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("size", [1, 16_384, 16_385, 65_536, 65_537, 1_000_000])
def test_every_byte_leaves_once_however_little_is_taken(
    certificates: Certificates, version: ssl.TLSVersion, size: int
) -> None:
    with open_pair(certificates, version, buffer=4096) as made:
        made.shake_hands()
        data = os.urandom(size)
        left = data
        got = b""
        blocked = 0
        while left:
            try:
                sent = made.server.send(left)
                assert sent > 0
                left = left[sent:]
            except BlockingIOError:
                blocked += 1
            if not made.to_peer():
                assert blocked < 1000
            got += made.peer_reads()
        while made.to_peer():
            got += made.peer_reads()
        assert got == data
        if size > 100_000:
            assert blocked  # else it tests nothing


def test_pieces_are_joined(ready: Pair) -> None:
    assert ready.server.sendmsg([b"one", memoryview(b"two")]) == 6
    ready.to_peer()
    assert ready.peer_reads() == b"onetwo"


def test_nothing_to_send(ready: Pair) -> None:
    assert ready.server.send(b"") == 0


def test_the_peer_is_gone(ready: Pair) -> None:
    ready.wire.close()
    with pytest.raises(BrokenPipeError):
        ready.server.send(b"x")


# The end


def test_shutdown_says_both_ends(ready: Pair) -> None:
    ready.server.send(b"bye")
    ready.server.shutdown(socket.SHUT_WR)
    while ready.to_peer():
        pass
    assert ready.peer_reads() == b"bye"
    assert ready.peer.read(10) == b""  # a clean end
    # What still comes is dropped, not looked at.
    push(ready, b"too late")
    assert ready.server.recv(65536)
    ready.wire.close()
    assert ready.server.recv(65536) == b""


def test_shutdown_does_not_wait(certificates: Certificates) -> None:
    with open_pair(certificates, ssl.TLSVersion.TLSv1_3, buffer=4096) as made:
        made.shake_hands()
        fill(made.server)
        made.server.shutdown(socket.SHUT_WR)
        while made.to_peer():
            pass
        with pytest.raises(ssl.SSLError) as caught:
            made.peer_reads()
        assert is_cut(caught.value)


def test_shutdown_before_the_handshake(pair: Pair) -> None:
    pair.server.shutdown(socket.SHUT_WR)
    assert pair.wire.recv(10) == b""


def test_a_peer_that_makes_tls_answer_and_does_not_read(
    ready: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Key updates, for example, of which the standard library cannot ask for one."""
    monkeypatch.setattr("tim_trio.net.tls_socket._MAX_UNSENT_BYTES", 0)
    fill(ready.server._raw)
    with pytest.raises(ssl.SSLWantReadError):
        ready.server._object.unwrap()  # makes an answer, as a key update would
    with pytest.raises(ConnectionAbortedError):
        push_and_read(ready)


def push_and_read(pair: Pair) -> None:
    push(pair, b"x")
    pair.server.recv(65536)
