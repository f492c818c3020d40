"""Frames as TIM's clients get them.

One form per format and kind of subscription, shared by all connections of a
server, so that a run is encoded once for each of them however many subscribe.

Source: docs/tim.md.
"""

from __future__ import annotations

import abc
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Final

from tim_trio.core.form import Buffer
from tim_trio.core.manager import RoomManager
from tim_trio.protocol.layout import (
    CONTROL_HEADER_BYTES,
    EXT_WORD_BYTES,
    LENGTH_BYTES,
    PRELUDE,
    PRELUDE_BYTES,
    STREAM,
    STREAM_HEADER,
    STREAM_HEADER_BYTES,
    Flag,
)
from tim_trio.protocol.messages import (
    AccountStream,
    Error,
    PushRevoked,
    RoomClosed,
    SubscribeAnswer,
    decode,
    type_of,
)
from tim_trio.protocol.room_ids import format_room_id
from tim_trio.protocol.tim import packets
from tim_trio.protocol.tim.account_streams import to_packet
from tim_trio.protocol.tim.structs import (
    ErrorCode,
    Format,
    PacketType,
    RoomCall,
    TimAck,
    TimError,
    TimStream,
)
from tim_trio.protocol.websocket import encode_close, encode_message, encode_message_head

#: Who publishes a source, by room and number.
PublisherOf = Callable[[int, int], str]

_ROOM_BYTES: Final = 8
_ROOM_END: Final = PRELUDE_BYTES + _ROOM_BYTES
#: Sizes of bodies, whose heads are kept.
_MAX_HEADS: Final = 256
_SUBSCRIBED: Final = type_of(SubscribeAnswer)
_ROOM_CLOSED: Final = type_of(RoomClosed)
_PUSH_REVOKED: Final = type_of(PushRevoked)
_ACCOUNT_STREAM: Final = type_of(AccountStream)
_ERROR: Final = type_of(Error)
_TOO_FAST: Final = TimAck(
    ok=False,
    tim_type=PacketType.STREAM,
    error=TimError(code=ErrorCode.RATE, info="over its rate"),
)


class _Form(abc.ABC):
    """What the forms have in common: each remembers the last run it encoded.

    Those that cannot be written to at once come one by one with the same run,
    which they are to share.
    """

    __slots__ = ("_data", "_encoded")

    def __init__(self) -> None:
        self._data: Buffer = b""
        self._encoded = b""

    def encode(self, data: Buffer) -> bytes:
        if data is not self._data:
            self._encoded = b"".join(self._messages(data))
            self._data = data
        return self._encoded

    def farewell(self, code: int | None) -> bytes:
        return b"" if code is None else encode_close(code)

    @abc.abstractmethod
    def _messages(self, data: Buffer) -> list[Buffer]:
        """Return WebSocket messages, in pieces, one per frame that has something to say."""


class BigForm(_Form):
    """The frames of a room for who has subscribed in the big-binary form."""

    __slots__ = ("_heads", "_prefix", "_room")

    def __init__(self) -> None:
        super().__init__()
        self._room = b""
        self._prefix = b""
        # What stands before a body, by its size: a stream's frames are alike.
        self._heads: dict[int, bytes] = {}

    def _messages(self, data: Buffer) -> list[Buffer]:
        # As much as ten sends cost may not go here: the loop has nothing to spare.
        unpack = PRELUDE.unpack_from
        view = memoryview(data)
        pieces: list[Buffer] = []
        add = pieces.append
        position, end = 0, len(data)
        while position < end:
            length, kind, flags, _, words = unpack(data, position)
            after = position + LENGTH_BYTES + length
            if kind == STREAM:  # all else is a GAP
                room = data[position + PRELUDE_BYTES : position + _ROOM_END]
                if room != self._room:
                    self._begin_room(bytes(room))
                start = position + STREAM_HEADER_BYTES + EXT_WORD_BYTES * words
                size = after - start
                # That a track has ended is nothing that TIM could say.
                if size or not flags & Flag.END:
                    add(self._heads.get(size) or self._make_head(size))
                    add(view[start:after])
            position = after
        return pieces

    def _begin_room(self, room: bytes) -> None:
        text = format_room_id(int.from_bytes(room, "big"))
        self._prefix = packets.encode_big_stream(text.encode("ascii"), b"")
        self._room = room
        self._heads.clear()

    def _make_head(self, size: int) -> bytes:
        if len(self._heads) >= _MAX_HEADS:
            self._heads.clear()
        prefix = self._prefix
        head = self._heads[size] = encode_message_head(len(prefix) + size) + prefix
        return head


class TimForm(_Form):
    """Everything else: frames with their sender, answers, messages from accounts."""

    __slots__ = ("_format", "_ids", "_publisher", "_publisher_of", "_source")

    def __init__(self, form: Format, publisher_of: PublisherOf) -> None:
        super().__init__()
        self._format = form
        self._publisher_of = publisher_of
        self._source = (0, 0)
        self._publisher = ""
        # As unlike those of an earlier life as a clock is, and still a number in JavaScript.
        self._ids = itertools.count(time.time_ns() // 1_000)

    def _messages(self, data: Buffer) -> list[Buffer]:
        unpack = STREAM_HEADER.unpack_from
        pieces: list[Buffer] = []
        position, end = 0, len(data)
        while position < end:
            after = position + LENGTH_BYTES + int.from_bytes(data[position : position + 4], "big")
            if data[position + 4] == STREAM:
                _, _, flags, track, words, room, source, _, _ = unpack(data, position)
                start = position + STREAM_HEADER_BYTES + EXT_WORD_BYTES * words
                # That a track has ended is nothing that TIM could say.
                if start < after or not flags & Flag.END:
                    pieces.append(self._stream(room, source, track, bytes(data[start:after])))
            else:
                pieces.extend(self._control(bytes(data[position:after])))
            position = after
        return pieces

    def _stream(self, room: int, source: int, track: int, body: bytes) -> bytes:
        if (room, source) != self._source or not self._publisher:
            self._source = room, source
            self._publisher = self._publisher_of(room, source)
        stream = TimStream(
            id=next(self._ids),
            room=format_room_id(room),
            dtype=track - 256 if track > 127 else track,
            body=body,
            from_node=self._publisher,
        )
        return self._message(packets.encode_body(PacketType.STREAM, stream, self._format))

    def _control(self, frame: bytes) -> Iterator[bytes]:
        kind = frame[4]
        fields = frame[CONTROL_HEADER_BYTES:]
        if kind == _ACCOUNT_STREAM:
            event = decode(kind, fields)
            assert isinstance(event, AccountStream)
            yield self._message(
                to_packet(
                    event.account,
                    event.kind,
                    event.payload,
                    self._format,
                    id=next(self._ids),
                    timestamp_ns=time.time_ns(),
                )
            )
        elif kind in (_SUBSCRIBED, _ROOM_CLOSED, _PUSH_REVOKED):
            room = format_room_id(int.from_bytes(fields[:_ROOM_BYTES], "big"))
            yield self._message(packets.encode_body(PacketType.ACK, _ack(kind, room), self._format))
        elif kind == _ERROR:
            # All others are a request's, and that is answered where it is carried out.
            yield self._message(packets.encode_body(PacketType.ACK, _TOO_FAST, self._format))

    def _message(self, packet: bytes) -> bytes:
        return encode_message(packet)


def _ack(kind: int, room: str) -> TimAck:
    if kind == _SUBSCRIBED:
        return TimAck(ok=True, tim_type=PacketType.VIRTUAL_ROOM, t=RoomCall.SUBSCRIBE, n=room)
    # TIM would say nothing, and leave its client to wonder.
    error = (
        TimError(code=ErrorCode.DOES_NOT_EXIST, info="the room has ended")
        if kind == _ROOM_CLOSED
        else TimError(code=ErrorCode.PERMISSION, info="the right to push was taken back")
    )
    return TimAck(ok=False, tim_type=PacketType.STREAM, error=error, n=room)


class TimForms:
    """The forms of one server."""

    def __init__(self, manager: RoomManager) -> None:
        def publisher_of(room: int, source: int) -> str:
            there = manager.rooms.get(room)
            one = None if there is None else there.sources.get(source)
            return "" if one is None else one.account

        self.big = BigForm()
        self.of_format = {form: TimForm(form, publisher_of) for form in Format}
