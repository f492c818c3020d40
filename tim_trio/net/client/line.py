"""A client's way to its server: the connection there is now, or that there will be none."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs
import trio

from tim_trio.errors import ConnectionClosed
from tim_trio.net.client.errors import RequestTimedOut

if TYPE_CHECKING:
    from tim_trio.net.client.session import Session


@attrs.define(eq=False)
class Line:
    """Attributes:
    session: on the newest connection that was signed in, also when that is lost.
    reconnects: a lost connection is replaced.
    """

    reconnects: bool
    session: Session = attrs.field(init=False)
    _make_error: Callable[[], ConnectionClosed] | None = None
    _changed: trio.lowlevel.ParkingLot = attrs.Factory(trio.lowlevel.ParkingLot)

    @property
    def is_set(self) -> bool:
        """There has been a connection."""
        return hasattr(self, "session")

    @property
    def is_over(self) -> bool:
        """There is no connection, and there will be none."""
        return self._make_error is not None

    @property
    def is_up(self) -> bool:
        return not self.is_over and not self.session.connection.is_over

    def raise_if_over(self) -> None:
        if self._make_error is not None:
            raise self._make_error()

    def finish(self, make_error: Callable[[], ConnectionClosed]) -> None:
        """There will be no other connection. The first reason stays."""
        if self._make_error is None:
            self._make_error = make_error
        self._changed.unpark_all()

    def use(self, session: Session) -> None:
        """Go on with another connection."""
        self.session = session
        self._changed.unpark_all()

    async def wait_other(self, session: Session) -> None:
        """Wait until this is no longer the session, or nothing is any more."""
        while self.session is session and not self.is_over:
            await self._changed.park()

    async def up(self) -> Session:
        """Return the session, once the connection is there.

        Raises:
            ConnectionClosed: there will be none.
            RequestTimedOut: there is none within the time of a request.
        """
        timeout_s = self.session.connection.bounds.request_timeout_s
        with trio.move_on_after(timeout_s):
            await self.wait_up()
            return self.session
        raise RequestTimedOut(f"no connection within {timeout_s:g} s")

    async def wait_up(self) -> None:
        """Wait for the connection, however long it takes.

        Raises:
            ConnectionClosed: there will be none.
        """
        while not self.is_up:
            self.raise_if_over()
            await self._changed.park()
