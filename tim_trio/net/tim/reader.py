"""Messages off a WebSocket: text or binary, whole or in fragments, and what is in them.

The library's message layer is passed by, because some of TIM's clients send
text messages that are no text: what counts is the bytes.

Source: RFC 6455, section 5; docs/tim.md, "The wire".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from wsproto.frame_protocol import CloseReason, Frame, FrameDecoder, Opcode, ParseFailed

from tim_trio.errors import Code, RemoteProtocolError
from tim_trio.limits import Limits
from tim_trio.net.control_rate import ControlFrameRate
from tim_trio.protocol.decoder import ControlFrame
from tim_trio.protocol.runs import Run
from tim_trio.protocol.tim import packets
from tim_trio.protocol.websocket import encode_close_answer, encode_pong

#: Messages and fragments in a row before other tasks get a turn.
_FRAMES_IN_A_ROW: Final = 256
#: What base64, a struct's other fields and the longest names add to a frame.
_OVERHEAD_BYTES: Final = 4096
#: Of a message before signing in: enough for a signed token with much around it.
MAX_BYTES_BEFORE: Final = 16 * 1024


def max_message_bytes(limits: Limits) -> int:
    """Return how large a message may be: a frame's payload in base64."""
    return limits.max_frame_bytes * 4 // 3 + _OVERHEAD_BYTES


class Pusher(Protocol):
    """Makes runs of the packets that are frames of a room; see `TimSession`."""

    @property
    def is_signed_in(self) -> bool: ...

    def push_nowait(self, packet: bytes) -> bool: ...

    def take_pushed(self) -> list[Run | ControlFrame]: ...


class PacketReader:
    """Bytes of a WebSocket in; runs out, and packets that only a task can carry out.

    Those are `ControlFrame`s whose fields are the whole packet. Answers pings.
    Holds one message at most, and no more of it than is allowed.

    Args:
        reply: sends what is to go out, in order with everything else.

    Attributes:
        close_answer: for a peer that has sent its close; to be sent when what
            came before that has been carried out, as the last of all.
    """

    def __init__(
        self, limits: Limits, pusher: Pusher, reply: Callable[[bytes, float], None]
    ) -> None:
        self._decoder = FrameDecoder(client=False)
        self._limits = limits
        self._pusher = pusher
        self._reply = reply
        self._max_bytes = max_message_bytes(limits)
        self._message = bytearray()
        self._is_text: bool | None = None  # None between messages
        self._control_rate = ControlFrameRate(limits)
        self.close_answer = b""

    def feed(self, data: bytes) -> None:
        """Take what was read. To be followed by `take` until it has no more."""
        self._decoder.receive_bytes(data)

    def take(self, items: list[Run | ControlFrame], now: float) -> bool:
        """Append what has come; say whether there may be more.

        Raises:
            RemoteProtocolError: what stood before it is in ``items``.
        """
        pusher = self._pusher
        try:
            for _ in range(_FRAMES_IN_A_ROW):
                frame = self._next_frame()
                if frame is None:
                    return False
                payload = frame.payload
                assert isinstance(payload, bytes)
                if frame.opcode.iscontrol():
                    self._receive_control(frame.opcode, payload, now)
                    if self.close_answer:
                        return False
                    continue
                self._add(frame.opcode, payload)
                if not (frame.frame_finished and frame.message_finished):
                    continue
                packet = self._end()
                if not pusher.push_nowait(packet):
                    items += pusher.take_pushed()
                    items.append(ControlFrame(packets.type_of(packet), 0, packet))
                    if not pusher.is_signed_in:
                        break  # how large the next may be depends on it
            return True
        finally:
            items += pusher.take_pushed()

    def _next_frame(self) -> Frame | None:
        try:
            return self._decoder.process_buffer()
        except ParseFailed:
            raise RemoteProtocolError("a malformed WebSocket frame") from None

    def _add(self, opcode: Opcode, payload: bytes) -> None:
        self._begin(opcode)
        most = self._max_bytes if self._pusher.is_signed_in else MAX_BYTES_BEFORE
        if len(self._message) + len(payload) > most:
            raise RemoteProtocolError(
                "a message too large", Code.FRAME_TOO_LARGE, limit="max_frame_bytes"
            )
        self._message += payload

    def _begin(self, opcode: Opcode) -> None:
        """Check that a piece of data may stand here."""
        if (opcode is Opcode.CONTINUATION) == (self._is_text is None):
            raise RemoteProtocolError("a fragment out of place")
        if opcode is not Opcode.CONTINUATION:
            self._is_text = opcode is Opcode.TEXT

    def _end(self) -> bytes:
        message, is_text = bytes(self._message), self._is_text
        self._message.clear()
        self._is_text = None
        if is_text and message[:1] in (b"\xc2", b"\xc3"):
            # Written as text, a type byte above 0x7f is two: no packet's type
            # is 0x42 or 0x43, so it means the other.
            message = bytes(((message[0] & 3) << 6 | message[1] & 0x3F,)) + message[2:]
        return message

    def _receive_control(self, opcode: Opcode, payload: bytes, now: float) -> None:
        if opcode is Opcode.CLOSE:
            has_code = len(payload) >= 2
            code = int.from_bytes(payload[:2], "big") if has_code else None
            if code is not None and not _may_be_sent(code):
                raise RemoteProtocolError("a malformed WebSocket frame")
            self.close_answer = encode_close_answer(code)
        elif self._control_rate.admit(now) and opcode is Opcode.PING:
            self._reply(encode_pong(payload), now)


def _may_be_sent(code: int) -> bool:
    return 1000 <= code < 5000 and code not in (
        CloseReason.NO_STATUS_RCVD,
        CloseReason.ABNORMAL_CLOSURE,
        CloseReason.TLS_HANDSHAKE_FAILED,
    )
