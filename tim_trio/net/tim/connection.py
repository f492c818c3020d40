"""One TIM client's connection.

Source: docs/tim.md.
"""

from __future__ import annotations

from functools import partial

from tim_trio.core.accounts import Gate
from tim_trio.core.manager import RoomManager
from tim_trio.core.session import Session
from tim_trio.net.byte_socket import ByteSocket
from tim_trio.net.connection import Arrival
from tim_trio.net.http import Request
from tim_trio.net.readiness import ReadinessLoop
from tim_trio.net.tim.credentials import Credentials
from tim_trio.net.tim.form import TimForms
from tim_trio.net.tim.reader import PacketReader
from tim_trio.net.tim.session import TimSession
from tim_trio.net.websocket import Opening, Reader, WebSocketConnection, open_websocket
from tim_trio.protocol.tim.structs import Format


class TimOpening(Opening):
    """A handshake of a client of TIM's."""


def open_tim(request: Request) -> TimOpening:
    """Check an opening handshake.

    Raises:
        Unservable: it is none.
    """
    opening = open_websocket(request, None)
    return TimOpening(opening.answer, opening.request, opening.frames)


class TimConnection(WebSocketConnection):
    """As its base, with packets in place of frames."""

    __slots__ = ()

    def __init__(
        self,
        sock: ByteSocket,
        address: str,
        manager: RoomManager,
        readiness: ReadinessLoop[Arrival],
        gate: Gate[Session] | None = None,
        *,
        forms: TimForms,
        credentials: Credentials,
        opening: Opening,
        early: bytes = b"",
        is_loopback: bool = False,
    ) -> None:
        super().__init__(
            sock,
            address,
            manager,
            readiness,
            gate,
            opening=opening,
            early=early,
            is_loopback=is_loopback,
            form=forms.of_format[Format.JSON],
            make_session=partial(TimSession, forms=forms, credentials=credentials),
        )
        self.scheme = ""

    def _make_reader(self, opening: Opening) -> Reader:
        assert isinstance(self.session, TimSession)
        return PacketReader(self._limits, self.session, self._outbox.put_control_encoded)
