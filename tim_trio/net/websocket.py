"""WebSocket: what differs from TCP, which is how frames are wrapped and read.

Everything else, the direct write, the backlog, the writer, the deadlines, is
the connection's that it inherits from. The opening handshake and the reading
are wsproto's, the library below trio-websocket, without the latter's own
task, channel and lock per connection. That has three reasons. Requests for
pages and for ``/ws`` come in on one port, so that HTTP has been read when the
handshake begins. What was read together must become one run, which a channel
with a task switch per message does not give (19 µs a message, against 9). And
an idle browser costs as much as an idle TCP client.

Source: protocol.md, section 3.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from http import HTTPStatus
from typing import Final, Protocol

import attrs
import trio
from wsproto import ConnectionType, WSConnection
from wsproto.connection import Connection, ConnectionState
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Event, Ping, Pong
from wsproto.events import Request as AskedFor
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import RemoteProtocolError as BadHandshake

from tim_trio.core.accounts import Gate
from tim_trio.core.form import Buffer, Form
from tim_trio.core.manager import RoomManager
from tim_trio.core.session import Session
from tim_trio.errors import Code, RemoteProtocolError
from tim_trio.limits import Limits
from tim_trio.net.byte_socket import ByteSocket
from tim_trio.net.connection import (
    CONTROL_WORK,
    DELIVERIES_IN_A_ROW,
    ENDED,
    FIRST_READ_BYTES,
    Arrival,
    TcpConnection,
)
from tim_trio.net.control_rate import ControlFrameRate
from tim_trio.net.http import Request, Unservable, Upgrade
from tim_trio.net.readiness import ReadinessLoop
from tim_trio.protocol.decoder import ControlFrame, Decoder
from tim_trio.protocol.runs import Run
from tim_trio.protocol.websocket import (
    SUBPROTOCOL,
    encode_close,
    encode_close_answer,
    encode_message,
    encode_pong,
    holds_whole_frames,
)

#: Messages and fragments in a row before other tasks get a turn: a few milliseconds.
_EVENTS_IN_A_ROW: Final = 256
_READ_BYTES: Final = 96 * 1024
#: What a key looks like: 16 bytes in base64.
_KEY: Final = re.compile(r"[A-Za-z0-9+/]{22}==")
_UPGRADE: Final = (("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"))


class WebSocketForm:
    """Frames as one binary message.

    Remembers the last one it made: those that cannot be written to at once
    come one by one with the same run, which they are to share.
    """

    __slots__ = ("_data", "_message")

    def __init__(self) -> None:
        self._data: Buffer = b""
        self._message = b""

    def encode(self, data: Buffer) -> bytes:
        if data is not self._data:
            self._message = encode_message(data)
            self._data = data
        return self._message

    def farewell(self, code: int | None) -> bytes:
        return b"" if code is None else encode_close(code)


#: The form of all WebSocket connections of the process.
WEBSOCKET: Final = WebSocketForm()


@attrs.frozen
class Opening(Upgrade):
    """A handshake that is fine: ``answer`` is the response that accepts it."""

    request: Request
    frames: Connection


def open_websocket(request: Request, subprotocol: str | None = SUBPROTOCOL) -> Opening:
    """Check an opening handshake.

    Args:
        subprotocol: must be asked for; None: whatever is asked for, none is chosen.

    Raises:
        Unservable: it is none, or not for a protocol of ours.
    """
    headers = request.headers
    if "websocket" not in headers.get("upgrade", "").lower():
        raise Unservable(HTTPStatus.UPGRADE_REQUIRED, "this is for WebSocket", _UPGRADE)
    if headers.get("sec-websocket-version") != "13":
        raise Unservable(HTTPStatus.UPGRADE_REQUIRED, "version 13 is needed", _UPGRADE)
    if not _KEY.fullmatch(headers.get("sec-websocket-key", "")):
        raise Unservable(HTTPStatus.BAD_REQUEST, "Sec-WebSocket-Key is missing or no key")
    handshake = WSConnection(ConnectionType.SERVER)
    try:
        handshake.initiate_upgrade_connection(
            [(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
            request.path,
        )
        (asked,) = handshake.events()
    except (BadHandshake, UnicodeError):
        raise Unservable(HTTPStatus.BAD_REQUEST, "not a WebSocket handshake") from None
    assert isinstance(asked, AskedFor)
    if subprotocol is not None and subprotocol not in asked.subprotocols:
        raise Unservable(HTTPStatus.BAD_REQUEST, f"ask for the subprotocol {subprotocol}")
    answer = handshake.send(AcceptConnection(subprotocol=subprotocol))
    # The rest of the handshake, HTTP parsers among it, is let go.
    assert handshake.connection is not None
    return Opening(answer, request, handshake.connection)


class MessageReader:
    """Bytes of a WebSocket in, frames out. Answers pings.

    What was read together is handed to the decoder at once, so that frames
    that come one in a message become one run. A message's bytes go on before
    it is whole: the decoder holds no more than a frame, however long the
    message.

    Args:
        reply: sends what is to go out, in order with everything else.

    Attributes:
        close_answer: for a peer that has sent its close; to be sent when what
            came before that has been carried out, as the last of all.
    """

    __slots__ = (
        "_control_rate",
        "_decoder",
        "_frames",
        "_in_message",
        "_limits",
        "_message_bytes",
        "_reply",
        "close_answer",
    )

    def __init__(
        self,
        frames: Connection,
        decoder: Decoder,
        limits: Limits,
        reply: Callable[[bytes, float], None],
    ) -> None:
        self._frames = frames
        self._decoder = decoder
        self._limits = limits
        self._reply = reply
        self._in_message = False
        #: Of the message that has begun, handed to the decoder already.
        self._message_bytes = 0
        self._control_rate = ControlFrameRate(limits)
        self.close_answer = b""

    def feed(self, data: bytes) -> None:
        """Take what was read. To be followed by `take` until it has no more."""
        self._frames.receive_data(data)

    def take(self, items: list[Run | ControlFrame], now: float) -> bool:
        """Append what has come; say whether there may be more.

        So many messages at a time that it takes a few milliseconds at most.

        Raises:
            RemoteProtocolError: what stood before it is in ``items``.
        """
        gathered: list[bytes] = []
        count = 0
        for event in self._frames.events():
            count += 1
            if isinstance(event, BytesMessage):
                data = bytes(event.data)
                gathered.append(data)
                if not event.message_finished:
                    self._in_message = True
                    self._message_bytes += len(data)
                elif self._in_message or not holds_whole_frames(data):
                    self._end_message(gathered, items, len(data))
            else:
                self._decode(gathered, items)
                self._receive_other(event, now)
            if count == _EVENTS_IN_A_ROW or self.close_answer:
                break
        self._decode(gathered, items)
        return count == _EVENTS_IN_A_ROW and not self.close_answer

    def _end_message(
        self, gathered: list[bytes], items: list[Run | ControlFrame], size: int
    ) -> None:
        self._decode(gathered, items)
        is_empty = not self._message_bytes + size
        self._in_message = False
        self._message_bytes = 0
        if is_empty or self._decoder.buffered_bytes:
            raise RemoteProtocolError("a message that does not hold whole frames")

    def _decode(self, gathered: list[bytes], items: list[Run | ControlFrame]) -> None:
        if gathered:
            data = gathered[0] if len(gathered) == 1 else b"".join(gathered)
            gathered.clear()
            error = self._decoder.feed_into(data, items)
            if error is not None:
                raise error

    def _receive_other(self, event: Event, now: float) -> None:
        match event:
            case Ping():
                if self._control_rate.admit(now):
                    self._reply(encode_pong(bytes(event.payload)), now)
            case Pong():
                self._control_rate.admit(now)
            case CloseConnection() if self._frames.state is ConnectionState.REMOTE_CLOSING:
                has_code = event.code != CloseReason.NO_STATUS_RCVD
                self.close_answer = encode_close_answer(event.code if has_code else None)
            case CloseConnection():
                raise RemoteProtocolError("a malformed WebSocket frame")
            case _:
                raise RemoteProtocolError("a text message")


class Reader(Protocol):
    """What a WebSocket's bytes are made into items by, as `MessageReader` does."""

    close_answer: bytes

    def feed(self, data: bytes) -> None: ...

    def take(self, items: list[Run | ControlFrame], now: float) -> bool: ...


class WebSocketConnection(TcpConnection):
    """One browser, from the end of its handshake to the close.

    Args:
        opening: its handshake; the answer has been sent.
        early: what came behind the request.
        form: how frames look on this wire, each a message or several.
    """

    __slots__ = ("_has_more", "_reader")

    def __init__(
        self,
        sock: ByteSocket,
        address: str,
        manager: RoomManager,
        readiness: ReadinessLoop[Arrival],
        gate: Gate[Session] | None = None,
        *,
        opening: Opening,
        early: bytes = b"",
        is_loopback: bool = False,
        form: Form = WEBSOCKET,
        make_session: Callable[..., Session] = Session,
    ) -> None:
        super().__init__(
            sock,
            address,
            manager,
            readiness,
            gate,
            is_loopback=is_loopback,
            form=form,
            make_session=make_session,
        )
        self.scheme = "wss" if self.scheme == "tims" else "ws"
        # A message is looked at as a whole; what is read together is kept small instead.
        self._decoder.most_items = sys.maxsize
        self._reader = self._make_reader(opening)
        self._reader.feed(early)
        #: The reader holds what it has not been asked for.
        self._has_more = True

    def _make_reader(self, opening: Opening) -> Reader:
        # The outbox's own method: ours would hold us, as we hold the reader.
        reply = self._outbox.put_control_encoded
        return MessageReader(opening.frames, self._decoder, self._limits, reply)

    async def _read(self) -> Code | None:
        code = await super()._read()
        if code is None and self._reader.close_answer:
            self._outbox.put_control_encoded(self._reader.close_answer, trio.current_time())
        return code

    def _receive(self, now: float) -> Arrival | None:
        """As over TCP: read, relay, and leave to the task what only a task can do.

        A small part of a read at a time where it is many messages: a page may
        send each byte in a message of its own.
        """
        reader = self._reader
        if not self._has_more:
            try:
                data = self._socket.recv(self._read_bytes)
            except BlockingIOError:
                return None
            except OSError:
                return ENDED
            if not data:
                return ENDED
            self.session.last_received = now
            reader.feed(data)
        items: list[Run | ControlFrame] = []
        offence: Exception | None = None
        self._has_more = False
        try:
            self._has_more = reader.take(items, now)
        except RemoteProtocolError as broken:
            # Frames on its traceback have it as a variable: a cycle.
            offence = broken.with_traceback(None)
        has_ended = bool(reader.close_answer)
        if items:  # a publisher's data, or requests
            is_stream = isinstance(items[-1], Run)
            self._read_bytes = _READ_BYTES if is_stream else FIRST_READ_BYTES
        work = 0
        for done, item in enumerate(items):
            if work > DELIVERIES_IN_A_ROW:
                return Arrival(items[done:], offence, has_ended, self._has_more)
            try:
                if isinstance(item, Run):
                    work += self.session.receive_run(item, now)
                elif self.session.receive_at_once(item, now):
                    work += CONTROL_WORK
                else:
                    return Arrival(items[done:], offence, has_ended, self._has_more)
            except Exception as failure:
                return Arrival(error=failure)
            if self._outbox.closed:
                return ENDED
            if self.session.pause_s:
                return Arrival(items[done + 1 :], offence, has_ended, self._has_more)
        if offence is None and not has_ended and not self._has_more:
            return None
        return Arrival([], offence, has_ended, self._has_more)
