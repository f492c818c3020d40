"""A raw client: frames in and out of a real TCP connection, and nothing else.

It never answers by itself, so that tests say line by line what a peer does.
Every wait has a deadline.
"""

from __future__ import annotations

import errno
import itertools
import socket
import ssl
import struct
from collections import deque
from typing import Final, Self, TypeVar

import attrs
import trio

from tim_trio.errors import Code, is_retryable
from tim_trio.protocol import messages
from tim_trio.protocol.decoder import ControlFrame, Decoder
from tim_trio.protocol.layout import MAGIC, VERSION, Flag
from tim_trio.protocol.runs import Run
from tim_trio.protocol.stream import StreamFrame, encode_stream_frame, iter_stream_frames

M = TypeVar("M")

HOST: Final = "127.0.0.1"
DEADLINE_S: Final = 30.0
TOKEN: Final = bytes(range(16))
HELLO: Final = messages.Hello(
    magic=MAGIC, min_version=VERSION, max_version=VERSION, capabilities=0, agent="raw"
)


def authenticate(account: str = "alice") -> messages.Authenticate:
    return messages.Authenticate(
        method=messages.AuthMethod.NAME, account=account, secret=b"", device=""
    )


def register_room(idle_timeout_s: int = 0) -> messages.RegisterRoom:
    return messages.RegisterRoom(
        mode=messages.RoomMode.LIVE, gather_ms=0, idle_timeout_s=idle_timeout_s
    )


def subscribe(
    room: int, start: messages.StartFrom = messages.StartFrom.GROUP
) -> messages.Subscribe:
    return messages.Subscribe(room=room, start=start, credit=0)


def bye(code: int = Code.BYE) -> messages.Close:
    return messages.Close(code=code, retry=True, retry_after_ms=0, text="")


def frame(
    room: int,
    seq: int,
    payload: bytes = b"x",
    *,
    source: int = 1,
    track: int = 0,
    flags: int = Flag.NONE,
) -> StreamFrame:
    return StreamFrame(room, source, track, seq, seq % 2**53, flags, payload)


def to_bytes(*what: object, request_ids: itertools.count[int] | None = None) -> bytes:
    """Return the bytes of messages, stream frames and bytes, one after another.

    With ``request_ids`` each message takes the next of them; otherwise 0.
    """
    pieces = []
    for one in what:
        if isinstance(one, bytes):
            pieces.append(one)
        elif isinstance(one, StreamFrame):
            pieces.append(encode_stream_frame(one))
        else:
            one_way = isinstance(one, messages.Close | messages.Credit)
            number = 0 if one_way or request_ids is None else next(request_ids)
            pieces.append(messages.encode(one, number))
    return b"".join(pieces)


@attrs.define(eq=False)
class RawClient:
    """One connection.

    Attributes:
        raw: the stdlib socket below, for what must happen without a checkpoint.
        was_reset: the connection ended by RST and not by FIN.
        was_cut: TCP ended without the end of TLS.
        tls: once `start_tls` has been called.
    """

    raw: socket.socket
    was_reset: bool = False
    was_cut: bool = False
    tls: trio.SSLStream[trio.SocketStream] | None = None
    _socket: trio.socket.SocketType = attrs.field(init=False)
    _decoder: Decoder = attrs.Factory(lambda: Decoder(max_frame_bytes=2**26, max_init_bytes=2**26))
    _items: deque[Run | ControlFrame] = attrs.Factory(deque)
    _frames: deque[StreamFrame] = attrs.Factory(deque)
    # What came while an answer was awaited, to be read afterwards.
    _set_aside: deque[object] = attrs.Factory(deque)
    _request_ids: itertools.count[int] = attrs.Factory(lambda: itertools.count(1))
    _answer_to: int = 0

    def __attrs_post_init__(self) -> None:
        self._socket = trio.socket.from_stdlib_socket(self.raw)

    @classmethod
    async def connect(
        cls, port: int, *, come_from: str = "127.0.0.1", receive_buffer: int | None = None
    ) -> Self:
        """Connect to a port on loopback; ``receive_buffer`` is SO_RCVBUF."""
        raw = socket.socket()
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_buffer is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        raw.bind((come_from, 0))
        client = cls(raw)
        with trio.fail_after(DEADLINE_S):
            await client._socket.connect(("127.0.0.1", port))
        return client

    # Out

    async def send(self, *what: object) -> None:
        """Send messages, stream frames and bytes in one write; messages are numbered."""
        await self.send_raw(self.wrap(to_bytes(*what, request_ids=self._request_ids)))

    def wrap(self, data: bytes) -> bytes:
        """Return what goes on the wire for some frames."""
        return data

    def unwrap(self, data: bytes) -> bytes:
        """Return the frames in what came; it may be cut anywhere."""
        return data

    async def send_raw(self, data: bytes) -> None:
        """Send bytes as they are."""
        view = memoryview(data)
        with trio.fail_after(DEADLINE_S):
            await self._write(view)

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """Do the handshake; everything from then on goes through TLS."""
        self.tls = trio.SSLStream(trio.SocketStream(self._socket), context, server_hostname=HOST)
        with trio.fail_after(DEADLINE_S):
            await self.tls.do_handshake()

    async def _write(self, view: memoryview) -> None:
        if self.tls is not None:
            await self.tls.send_all(view)
            return
        while view:
            view = view[await self._socket.send(view) :]

    async def finish(self) -> None:
        """Send FIN, unless the server has reset the connection already, and go on reading."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise
        await trio.lowlevel.checkpoint()

    def reset(self) -> None:
        """End with RST, as a crashed machine's peer sees it."""
        self.raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def close(self) -> None:
        """Close without a word. Idempotent."""
        self._socket.close()

    # In

    async def next_item(self) -> Run | ControlFrame | None:
        """Return the next run or control frame as it came; None at the end."""
        assert not self._frames
        while not self._items:
            with trio.fail_after(DEADLINE_S):
                try:
                    data = await self.read_some()
                except ConnectionError:
                    self.was_reset = True
                    return None
            if not data:
                return None
            self._items.extend(self._decoder.feed(self.unwrap(data)))
        return self._items.popleft()

    async def read_some(self) -> bytes:
        """Return the next bytes, none at the end."""
        if self.tls is None:
            return await self._socket.recv(65536)
        try:
            return bytes(await self.tls.receive_some(65536))
        except trio.BrokenResourceError:
            self.was_cut = True
            return b""

    async def next(self) -> object | None:
        """Return the next stream frame or message, None at the end."""
        if self._set_aside:
            return self._set_aside.popleft()
        return await self._next_from_wire()

    async def _next_from_wire(self) -> object | None:
        if self._frames:
            return self._frames.popleft()
        item = await self.next_item()
        if item is None:
            return None
        if isinstance(item, Run):
            self._frames.extend(iter_stream_frames(item.data))
            return self._frames.popleft()
        self._answer_to = item.request_id
        return messages.decode(item.type, item.fields)

    async def expect(self, kind: type[M]) -> M:
        """Return the next message, which must be of ``kind``; VIEWERS are passed over."""
        item = await self.next()
        while isinstance(item, messages.Viewers) and kind is not messages.Viewers:
            item = await self.next()
        assert isinstance(item, kind), item
        return item

    async def expect_frames(self, room: int, first_seq: int, last_seq: int) -> list[StreamFrame]:
        """Return the frames of a range, which must come next and in order."""
        frames = []
        for seq in range(first_seq, last_seq + 1):
            got = await self.expect(StreamFrame)
            assert (got.room, got.seq) == (room, seq)
            frames.append(got)
        return frames

    async def rest(self) -> list[object]:
        """Return everything up to the end of the connection."""
        items = []
        while (item := await self.next()) is not None:
            items.append(item)
        return items

    async def rest_raw(self) -> bytes:
        """Return all bytes up to the end, however TCP ends."""
        got = b""
        with trio.fail_after(DEADLINE_S):
            try:
                while data := await self._socket.recv(65536):
                    got += data
            except ConnectionError:
                self.was_reset = True
        return got

    async def expect_close(self, code: Code) -> list[object]:
        """Read to the end: a CLOSE with this code must be the last frame.

        Returns what came before it, and closes as a receiver of CLOSE must.
        """
        *before, close = await self.rest() or [None]
        assert isinstance(close, messages.Close), f"no CLOSE but {close}"
        assert Code(close.code) is code
        assert close.retry is is_retryable(code)
        assert not self.was_reset
        self.close()
        return before

    # Conversations

    async def ask(self, request: object) -> object:
        """Send a request and return its answer, an ERROR too.

        What comes in between is kept for `next`.
        """
        number = next(self._request_ids)
        await self.send(messages.encode(request, number))
        while True:
            item = await self._next_from_wire()
            assert item is not None, f"the connection ended instead of answering {request}"
            is_event = isinstance(item, StreamFrame | messages.Ping) or not self._answer_to
            if not is_event and self._answer_to == number:
                return item
            self._set_aside.append(item)

    def set_aside(self) -> list[object]:
        """Return what came while answers were awaited, which `next` will give."""
        return list(self._set_aside)

    async def request(self, request: object, answer: type[M]) -> M:
        """Send a request, whose answer must be of this kind."""
        got = await self.ask(request)
        assert isinstance(got, answer), got
        return got

    async def refused(self, request: object, code: Code) -> messages.Error:
        """Send a request, which must be answered by ERROR with this code."""
        error = await self.request(request, messages.Error)
        assert Code(error.code) is code
        assert error.retry is is_retryable(code)
        assert error.request_type == messages.type_of(type(request))
        return error

    async def greet(self, account: str = "alice") -> messages.Welcome:
        welcome = await self.request(HELLO, messages.Welcome)
        await self.request(authenticate(account), messages.AuthenticateAnswer)
        return welcome

    async def is_served(self) -> bool:
        """Say whether the server still answers."""
        pong = await self.request(messages.Ping(stamp=7), messages.Pong)
        return pong.stamp == 7

    async def register(self) -> int:
        return (await self.request(register_room(), messages.RegisterRoomAnswer)).room

    async def publish(self, room: int, token: bytes = TOKEN) -> int:
        """Publish and return the source's number."""
        request = messages.Publish(room=room, token=token)
        return (await self.request(request, messages.PublishAnswer)).source

    async def subscribe(
        self, room: int, start: messages.StartFrom = messages.StartFrom.GROUP
    ) -> messages.SubscribeAnswer:
        return await self.request(subscribe(room, start), messages.SubscribeAnswer)
