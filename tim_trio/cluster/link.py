"""One link between two nodes, from LINK's answer on; the same on both sides.

Source: protocol.md, section 12.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

import attrs

from tim_trio.core.member import LINK_PREFIX, Member
from tim_trio.core.outbox import Outbox
from tim_trio.core.session import PeerClosed
from tim_trio.errors import Code, RemoteProtocolError
from tim_trio.protocol.decoder import ControlFrame
from tim_trio.protocol.messages import (
    Close,
    Error,
    Ping,
    Pong,
    Right,
    UnreadableFields,
    decode,
    encode,
    encode_close,
    is_known_type,
    type_of,
)
from tim_trio.protocol.runs import Run

_CLOSE: Final = type_of(Close)
_FIRST_ANSWER: Final = 0x80
_LAST_ANSWER: Final = 0xBF
_FIRST_REQUEST_ID: Final = 1000
_LAST_REQUEST_ID: Final = 0xFFFF_FFFF

#: Gets the answer, an `Error` included; None where the link broke first.
OnAnswer = Callable[[Any], None]


class LinkHost(Protocol):
    """What a link hands over to."""

    def link_up(self, link: NodeLink, now: float) -> None: ...
    def link_lost(self, link: NodeLink, now: float) -> None: ...
    def link_run(self, link: NodeLink, run: Run, now: float) -> int: ...
    def link_message(self, link: NodeLink, message: object, request_id: int, now: float) -> None:
        """Carry out a request, a one-way message or an event."""


@attrs.define(eq=False)
class NodeLink:
    """Attributes:
    peer: the other node's name.
    dialed: we have opened the connection.
    member: this link as rooms see it.
    heard_at: when something came last, by this node's clock.
    """

    peer: str
    incarnation: int
    dialed: bool
    outbox: Outbox
    host: LinkHost
    heard_at: float = 0.0
    pinged_at: float = 0.0
    is_over: bool = False
    member: Member = attrs.field(init=False)
    _awaited: dict[int, OnAnswer] = attrs.field(factory=dict)
    _last_id: int = _FIRST_REQUEST_ID

    def __attrs_post_init__(self) -> None:
        self.member = Member(LINK_PREFIX + self.peer, self.outbox, Right(0))

    def begin(self, now: float) -> None:
        self.heard_at = now
        self.host.link_up(self, now)

    def tell(self, message: object, now: float, request_id: int = 0) -> None:
        """Send a message that awaits no answer."""
        self.outbox.put_control(encode(message, request_id), now)

    def ask(self, request: object, on_answer: OnAnswer, now: float) -> None:
        """Send a request. Answers of one link may come in any order."""
        self._last_id = self._last_id + 1 if self._last_id < _LAST_REQUEST_ID else 1
        self._awaited[self._last_id] = on_answer
        self.outbox.put_control(encode(request, self._last_id), now)

    def ping(self, on_pong: OnAnswer, now: float) -> None:
        """Ask for a sign of life, which stands in line with the other side's data."""
        self.pinged_at = now
        self.ask(Ping(stamp=int(now * 1000)), on_pong, now)

    def close(self, code: Code, now: float) -> None:
        """Say why, and give the connection up."""
        if not self.outbox.closed:
            self.outbox.put_control(encode_close(code), now)
        self.outbox.abort(None)
        self.end(now)

    def receive_run(self, run: Run, now: float) -> int:
        self.heard_at = now
        return self.host.link_run(self, run, now)

    def receive_control(self, frame: ControlFrame, now: float) -> None:
        """Raises RemoteProtocolError, PeerClosed."""
        self.heard_at = now
        number = frame.type
        if number == _CLOSE:
            raise PeerClosed
        if not is_known_type(number):
            return
        try:
            message = decode(number, frame.fields)
        except UnreadableFields as error:
            raise RemoteProtocolError(f"a link's frame of type {number:#04x}: {error}") from error
        if _FIRST_ANSWER <= number <= _LAST_ANSWER:
            on_answer = self._awaited.pop(frame.request_id, None)
            if on_answer is not None:
                on_answer(message)
        elif isinstance(message, Ping):
            self.tell(Pong(stamp=message.stamp), now, frame.request_id)
        else:
            self.host.link_message(self, message, frame.request_id, now)

    def refuse(self, request: type, request_id: int, code: Code, now: float) -> None:
        answer = Error(
            request_type=type_of(request),
            code=code,
            retry=code < Code.BAD_REQUEST,
            retry_after_ms=0,
            text=code.label.replace("_", " "),
        )
        self.tell(answer, now, request_id)

    def end(self, now: float) -> None:
        """The connection is over. Idempotent."""
        if self.is_over:
            return
        self.is_over = True
        self.host.link_lost(self, now)
        awaited, self._awaited = self._awaited, {}
        for on_answer in awaited.values():
            on_answer(None)
