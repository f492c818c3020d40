"""Connections that are links to other nodes: what a session hands over to.

Source: protocol.md, section 12.
"""

from __future__ import annotations

from typing import Protocol

from tim_trio.core.outbox import Outbox
from tim_trio.protocol.decoder import ControlFrame
from tim_trio.protocol.messages import Authenticate, Link
from tim_trio.protocol.runs import Run


class LinkHandler(Protocol):
    """One link, from the moment LINK is answered."""

    def begin(self, now: float) -> None:
        """The answer to LINK is on its way."""

    def receive_run(self, run: Run, now: float) -> int:
        """Relay a run; return the work done, as `Session.receive_run` does."""

    def receive_control(self, frame: ControlFrame, now: float) -> None:
        """Carry out a control frame. Raises as `Session.receive_control` does."""

    def end(self, now: float) -> None:
        """The connection is over."""


class LinkGate(Protocol):
    """Which nodes may link to this one."""

    def authenticate(self, request: Authenticate) -> str:
        """Check a node's proof and return its name.

        Raises:
            RoomError: ``bad_credentials``.
        """

    def open(self, node: str, request: Link, outbox: Outbox) -> LinkHandler:
        """Make a link of a node's connection.

        Raises:
            RoomError: ``permission_denied``, ``bad_request``, ``unavailable``.
        """

    @property
    def incarnation(self) -> int:
        """This node's."""
