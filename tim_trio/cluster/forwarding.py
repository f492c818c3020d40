"""Requests that are carried out at another node than the one a client is connected to.

Source: protocol.md, section 12 (FORWARD).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs
import trio

from tim_trio.cluster.cluster import Cluster
from tim_trio.cluster.link import NodeLink
from tim_trio.core.accounts import Gate
from tim_trio.core.manager import RoomManager
from tim_trio.core.member import Member
from tim_trio.core.outbox import Outbox
from tim_trio.core.requests import carry_out
from tim_trio.core.session import Session
from tim_trio.errors import Code, RemoteProtocolError, RoomError, room_error
from tim_trio.protocol.decoder import ControlFrame, Decoder
from tim_trio.protocol.messages import (
    AskToPushAnswer,
    Error,
    Forward,
    ForwardAnswer,
    Right,
    UnreadableFields,
    decode,
    encode,
)

_FORWARD_S: Final = 4.0
_FIRST_EVENT: Final = 0x60
_LAST_EVENT: Final = 0x7F


class ForwardedMember(Member):
    """An account that is connected to another node."""


def _no_event(account: str, event: object, frame: bytes) -> int | None:
    return None


@attrs.define(eq=False)
class Forwarding:
    """Attributes:
    take_event: hands an event to an account's connections here and counts them; None
        for what is no event of accounts.
    """

    cluster: Cluster
    gate: Gate[Session]
    take_event: Callable[[str, object, bytes], int | None] = _no_event

    @property
    def manager(self) -> RoomManager:
        return self.cluster.manager

    async def send(self, node: str, account: str, frame: bytes, rights: int) -> object | None:
        """Have a frame carried out at a node and return the answer; None where it cannot
        be reached, or takes no more now."""
        answers: list[bytes] = []
        done = trio.Event()

        def on_answer(answer: object) -> None:
            if isinstance(answer, ForwardAnswer):
                answers.append(answer.frame)
            done.set()

        def send(link: NodeLink | None) -> None:
            if link is None or not self._has_room(link, len(frame)):
                done.set()
            else:
                forward = Forward(account=account, frame=frame, rights=rights)
                link.ask(forward, on_answer, trio.current_time())

        with trio.move_on_after(_FORWARD_S):
            self.cluster.links.with_link(node, send)
            await done.wait()
        return _read(answers[0]) if answers else None

    def _has_room(self, link: NodeLink, size: int) -> bool:
        """Say whether a frame may wait for a node: the streams over its link are not to
        end because accounts here say more than it takes."""
        bound = self.manager.node.limits.control_backlog_bytes // 2
        waiting = link.outbox.control.pending_bytes
        return not waiting or waiting + size <= bound

    # What other nodes forward

    def on_forward(self, link: NodeLink, message: object, request_id: int, now: float) -> None:
        if isinstance(message, Forward):
            self.cluster.nursery.start_soon(self._serve, link, message, request_id)

    async def _serve(self, link: NodeLink, forward: Forward, request_id: int) -> None:
        now = trio.current_time()
        try:
            answer, number = await self._carry_out_forwarded(forward, now)
        except Exception as failure:
            # Its own task: what escapes would end the node.
            self.cluster.log.error("internal error", node=link.peer, exc_info=failure)
            answer, number = _error_of(room_error(Code.UNAVAILABLE), 0), 1
        if not link.is_over:
            done = ForwardAnswer(frame=encode(answer, number))
            link.tell(done, trio.current_time(), request_id)

    async def _carry_out_forwarded(self, forward: Forward, now: float) -> tuple[object, int]:
        limits = self.manager.node.limits
        decoder = Decoder(
            max_frame_bytes=limits.max_frame_bytes, max_init_bytes=limits.max_init_bytes
        )
        try:
            (frame,) = decoder.feed(forward.frame)
            if not isinstance(frame, ControlFrame):
                raise UnreadableFields("not a control frame")
            request = decode(frame.type, frame.fields)
            if _FIRST_EVENT <= frame.type <= _LAST_EVENT:
                told = self.take_event(forward.account, request, forward.frame)
                if told is None:
                    raise UnreadableFields("not an event for an account")
                return AskToPushAnswer(told=told), 1
        except (RemoteProtocolError, UnreadableFields, ValueError):
            return _error_of(room_error(Code.BAD_REQUEST), 0), 1
        outbox = Outbox(len, self.manager.node, start_writer=_never, on_abort=_never)
        member = ForwardedMember(forward.account, outbox, Right(forward.rights))
        try:
            answer = await carry_out(
                self.manager, self.gate, member, request, frame.request_id, now
            )
        except RoomError as error:
            return _error_of(error, frame.type), frame.request_id
        if answer is None:
            answer = _error_of(room_error(Code.NOT_SUPPORTED), frame.type)
        return answer, frame.request_id


def _never() -> None:
    """A forwarded account has no wire of its own."""


def _read(frame: bytes) -> object:
    """Return the message of a frame that a node forwarded, an `Error` where it is none."""
    try:
        (item,) = Decoder(max_frame_bytes=len(frame), max_init_bytes=len(frame)).feed(frame)
        if isinstance(item, ControlFrame):
            return decode(item.type, item.fields)
    except (RemoteProtocolError, UnreadableFields, ValueError):
        pass
    return _error_of(room_error(Code.UNAVAILABLE), 0)


def _error_of(error: RoomError, request_type: int) -> Error:
    return Error(
        request_type=request_type,
        code=error.code,
        retry=error.retryable,
        retry_after_ms=error.retry_after_ms,
        text=error.text,
    )
