"""What one connection carries of a client: its feeds and its sources.

Source: protocol.md, sections 8, 9, 13 and 15.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import attrs
import trio

from tim_trio.net.client.connection import Connection
from tim_trio.net.client.errors import RoomClosed, SourceReplaced, SourceRevoked
from tim_trio.net.client.feed import Feed
from tim_trio.net.client.notices import AccountEvent
from tim_trio.protocol import messages
from tim_trio.protocol.room_ids import format_room_id
from tim_trio.protocol.runs import Run

if TYPE_CHECKING:
    from tim_trio.net.client.source import Source


class Owner(Protocol):
    """The client above its sessions."""

    def on_account_event(self, event: AccountEvent) -> None: ...

    def on_account_stream(self, session: Session, message: messages.AccountStream) -> None: ...

    def on_other_nodes(self, message: messages.OtherNodes) -> None: ...

    def on_session_over(self, session: Session) -> None: ...


@attrs.define(eq=False)
class Session:
    """Hands what a connection reads to whom it concerns.

    Attributes:
        feeds: by room.
        sources: by room and number.
        go_away: that we are to leave, once the server or our own clock has said so.
        renews: it was our clock, and the server is as good as before.
        stirred: set by that, and at the end.
    """

    _owner: Owner
    connection: Connection = attrs.field(init=False)
    feeds: dict[int, Feed] = attrs.Factory(dict)
    sources: dict[tuple[int, int], Source] = attrs.Factory(dict)
    go_away: messages.GoAway | None = None
    renews: bool = False
    stirred: trio.Event = attrs.Factory(trio.Event)

    def on_run(self, run: Run) -> None:
        """Hand frames to their subscription. Those of a room just left are late."""
        feed = self.feeds.get(run.room)
        if feed is not None:
            feed.taker.deliver(feed, run)

    def on_event(self, event: object) -> None:
        """Hand an event to whom it concerns."""
        match event:
            case messages.SourceJoined() | messages.SourceLeft() | messages.Gap():
                feed = self.feeds.get(event.room)
                if feed is not None:
                    feed.taker.deliver(feed, event)
            case messages.RoomClosed():
                self._end_room(event)
            case messages.Viewers():
                for (room, _), source in self.sources.items():
                    if room == event.room:
                        source._set_viewers(event.viewers)
            case messages.Credit():
                found = self.sources.get((event.room, event.source))
                if found is not None:
                    found._raise_credit(event.limit)
            case messages.PushRevoked():
                reason = event.reason
                self._end_source(event.room, event.source, lambda r: SourceRevoked(r, reason))
            case messages.Replaced():
                self._end_source(event.room, event.source, SourceReplaced)
            case messages.PushAsked() | messages.PushGranted() | messages.ContactChanged():
                self._owner.on_account_event(event)
            case messages.AccountStream():
                self._owner.on_account_stream(self, event)
            case messages.OtherNodes():
                self._owner.on_other_nodes(event)
            case messages.GoAway():
                self.go_away, self.renews = event, False
                self._owner.on_account_event(event)
                self.stirred.set()
            case _:
                pass  # of later versions, or of what this client does not do yet

    def on_closed(self) -> None:
        self._owner.on_session_over(self)
        self.stirred.set()

    def leave_soon(self) -> None:
        """Have the client go on over another connection, as if the server had said so."""
        self.renews = True
        self.go_away = messages.GoAway(reason=messages.GoAwayReason.MOVING, address="", spread_ms=0)
        self.stirred.set()

    def drop_source(self, source: Source) -> bool:
        """Forget a source; say whether it was here."""
        key = (source._room, source.number)
        if self.sources.get(key) is source:
            del self.sources[key]
            return True
        return False

    def _end_room(self, event: messages.RoomClosed) -> None:
        feed = self.feeds.pop(event.room, None)
        if feed is not None:
            feed.taker.close(feed, event)
        name, reason, text = format_room_id(event.room), event.reason, event.text
        for (room, _), source in self.sources.items():
            if room == event.room:
                source._finish(lambda: RoomClosed(name, reason, text))

    def _end_source(self, room: int, number: int, make: Callable[[str], Exception]) -> None:
        source = self.sources.get((room, number))
        if source is not None:
            source._finish(lambda: make(format_room_id(room)))
