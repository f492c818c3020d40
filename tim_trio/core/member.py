"""One authenticated connection, as rooms see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from tim_trio.core.form import Form
from tim_trio.core.inbox import Inbox
from tim_trio.core.outbox import Outbox
from tim_trio.protocol.messages import Right

if TYPE_CHECKING:
    from tim_trio.core.room import Room
    from tim_trio.core.sources import Source
    from tim_trio.core.subscription import Subscription

#: Sources a connection is remembered to have held. Frames in flight when a
#: source ends arrive within a round trip, so the oldest may be forgotten.
_MAX_FORMER: Final = 4096
#: What the name of a link's member begins with: no account's has a colon.
LINK_PREFIX: Final = "node:"


@attrs.define(eq=False)
class Member:
    """Who a connection is, what it subscribes to and what it publishes.

    Attributes:
        sources: (room, source number) of what it may push right now.
        former: what it held earlier: frames for those are discarded, frames
            for any other source are an offence.
        push_rooms, subscribe_rooms: all rooms that its sign-in is for; None for any.
        forms: of rooms whose frames, to be subscribed to now, are not to look
            as all else that this connection gets.
        inbox: account streams that wait for it.
    """

    account: str
    outbox: Outbox
    rights: Right
    subscriptions: dict[int, Subscription] = attrs.field(factory=dict)
    sources: dict[tuple[int, int], tuple[Room, Source]] = attrs.field(factory=dict)
    former: dict[tuple[int, int], Source] = attrs.field(factory=dict)
    push_rooms: frozenset[int] | None = attrs.field(default=None, kw_only=True)
    subscribe_rooms: frozenset[int] | None = attrs.field(default=None, kw_only=True)

    forms: dict[int, Form] = attrs.field(factory=dict, init=False)
    inbox: Inbox = attrs.field(factory=Inbox, init=False)

    def may_push_to(self, room: int) -> bool:
        """Say whether a narrowed sign-in reaches that far; the room has its own say."""
        return self.push_rooms is None or room in self.push_rooms

    def may_subscribe_to(self, room: int) -> bool:
        return self.subscribe_rooms is None or room in self.subscribe_rooms

    def hold(self, room: Room, source: Source) -> None:
        self.sources[room.number, source.number] = (room, source)
        self.former.pop((room.number, source.number), None)

    def release(self, room: Room, source: Source) -> None:
        """The source is no longer this connection's to push."""
        key = (room.number, source.number)
        if self.sources.pop(key, None) is not None:
            if len(self.former) >= _MAX_FORMER:
                del self.former[next(iter(self.former))]
            self.former[key] = source
