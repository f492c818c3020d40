"""Frames that go from socket to socket through a pipe, over real ones."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.net.running import open_descriptors
from tests.net.test_connection import tcp_pair
from tim_trio.net import passage
from tim_trio.net.passage import FrameInKernel, Pipe, readable_bytes
from tim_trio.protocol.layout import STREAM_HEADER_BYTES

BODY = os.urandom(300_000)


@attrs.frozen
class Way:
    """A publisher's socket, ours for it and for a subscriber, and the subscriber's."""

    publisher: socket.socket
    source: socket.socket
    sink: socket.socket
    subscriber: socket.socket
    pipe: Pipe

    def offer(self, data: bytes) -> FrameInKernel:
        """Send bytes, and wait until all have come."""
        self.publisher.sendall(data)
        while readable_bytes(self.source) < len(data):
            pass
        return FrameInKernel(self.pipe, self.source, data[:STREAM_HEADER_BYTES], len(data))

    def received(self, size: int) -> bytes:
        pieces = []
        while size:
            pieces.append(self.subscriber.recv(size))
            size -= len(pieces[-1])
        return b"".join(pieces)

    def assert_pipe_is_empty(self) -> None:
        with pytest.raises(BlockingIOError):
            os.read(self.pipe.reader, 1)


@contextmanager
def open_way(*, send_buffer: int | None = None, receive_buffer: int | None = None) -> Iterator[Way]:
    """Without bounds for a frame on its way in; with those given on its way out."""
    source, publisher = tcp_pair(receive_buffer=None)
    sink, subscriber = tcp_pair(send_buffer=send_buffer, receive_buffer=receive_buffer)
    source.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 2 * len(BODY))
    pipe = Pipe()
    pipe.open()
    try:
        with source, publisher, sink, subscriber:
            source.setblocking(False)
            sink.setblocking(False)
            publisher.settimeout(10)
            subscriber.settimeout(10)
            yield Way(publisher, source, sink, subscriber, pipe)
    finally:
        pipe.close()


def test_a_frame_is_moved_whole_and_nothing_behind_it() -> None:
    with open_way() as way:
        frame = way.offer(BODY)
        way.publisher.sendall(b"behind")
        rest = frame.move(way.sink)
        assert way.received(len(BODY) - len(rest)) + rest == BODY
        way.assert_pipe_is_empty()
        assert way.source.recv(100) == b"behind"


def test_what_the_sink_does_not_take_is_returned() -> None:
    with open_way(send_buffer=4096, receive_buffer=4096) as way:
        rest = way.offer(BODY).move(way.sink)
        assert 0 < len(rest) < len(BODY)
        assert way.received(len(BODY) - len(rest)) + rest == BODY
        way.assert_pipe_is_empty()


def test_a_sink_that_takes_nothing() -> None:
    with open_way(send_buffer=4096, receive_buffer=4096) as way:
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                sent += way.sink.send(bytes(1000))
        assert way.offer(BODY).move(way.sink) == BODY
        assert way.received(sent) == bytes(sent)
        way.assert_pipe_is_empty()


def test_a_sink_that_is_gone_takes_the_frame_with_it() -> None:
    with open_way() as way:
        way.sink.shutdown(socket.SHUT_WR)
        with pytest.raises(BrokenPipeError):
            way.offer(BODY).move(way.sink)
        way.assert_pipe_is_empty()
        # The next one goes its way.
        way.publisher.sendall(b"next")
        assert _recv(way.source, 4) == b"next"


def _recv(sock: socket.socket, size: int) -> bytes:
    while readable_bytes(sock) < size:
        pass
    return sock.recv(size)


def test_a_pipe_that_holds_little_is_filled_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(passage, "_PIPE_BYTES", 4096)
    with open_way() as way:
        rest = way.offer(BODY).move(way.sink)
        assert way.received(len(BODY) - len(rest)) + rest == BODY
    with open_way(send_buffer=4096, receive_buffer=4096) as way:
        rest = way.offer(BODY).move(way.sink)
        assert rest and way.received(len(BODY) - len(rest)) + rest == BODY
        way.assert_pipe_is_empty()


def test_the_header_is_the_one_that_was_looked_at() -> None:
    """What is in the socket may have changed since then."""
    header = bytes(STREAM_HEADER_BYTES)
    with open_way() as way:
        way.offer(BODY)
        rest = FrameInKernel(way.pipe, way.source, header, len(BODY)).move(way.sink)
        whole = header + BODY[STREAM_HEADER_BYTES:]
        assert way.received(len(BODY) - len(rest)) + rest == whole


@pytest.mark.parametrize("size", [3, STREAM_HEADER_BYTES + 3, 10_000])
@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("buffer", [None, 4096])
def test_a_frame_that_was_not_whole_is_a_fault_of_ours(
    size: int, ends: bool, buffer: int | None
) -> None:
    with open_way(send_buffer=buffer, receive_buffer=buffer) as way:
        way.offer(BODY[:size])
        if ends:
            way.publisher.shutdown(socket.SHUT_WR)
        frame = FrameInKernel(way.pipe, way.source, BODY[:STREAM_HEADER_BYTES], size + 40)
        with pytest.raises(RuntimeError, match="early" if ends else "gone"):
            frame.move(way.sink)
        assert way.pipe.reader == -1, "what it held has gone with it"


def test_a_fault_in_between_leaves_nothing_to_the_next_frame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> int:
        raise MemoryError

    with open_way(send_buffer=4096, receive_buffer=4096) as way:
        with monkeypatch.context() as patch:
            patch.setattr(os, "read", fail)
            with pytest.raises(MemoryError):
                way.offer(BODY).move(way.sink)
        way.pipe.open()
        way.assert_pipe_is_empty()


def test_a_kernel_short_of_memory_has_the_frame_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> int:
        raise BlockingIOError

    with open_way() as way, monkeypatch.context() as patch:
        frame = way.offer(BODY)
        patch.setattr(os, "splice", fail)
        rest = frame.move(way.sink)
        assert way.received(STREAM_HEADER_BYTES) + rest == BODY


def test_a_pipe_is_opened_once_and_closed_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_descriptors()
    pipe = Pipe()
    pipe.close()
    pipe.open()
    reader = pipe.reader
    pipe.open()
    assert pipe.reader == reader
    assert open_descriptors() == before + 2
    pipe.close()
    pipe.close()
    assert open_descriptors() == before
    # More than an ordinary user may have: a small one does.
    monkeypatch.setattr(passage, "_PIPE_BYTES", 2**31)
    pipe.open()
    os.write(pipe.writer, b"x")
    assert os.read(pipe.reader, 10) == b"x"
    pipe.close()


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(STREAM_HEADER_BYTES, len(BODY)), min_size=1, max_size=6),
    st.sampled_from([None, 4096, 100_000]),
)
def test_bytes_come_out_as_they_went_in(sizes: list[int], buffer: int | None) -> None:
    with open_way(send_buffer=buffer, receive_buffer=buffer) as way:
        for size in sizes:
            frame = way.offer(BODY[:size])
            rest = frame.move(way.sink)
            assert way.received(size - len(rest)) + rest == BODY[:size]
            way.assert_pipe_is_empty()
