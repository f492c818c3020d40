"""What a server's operators see: its figures, its rooms' and a room's subscribers'.

Source: protocol.md, section 7.
"""

from __future__ import annotations

from typing import Final, TypeVar

import attrs

from tim_trio.net.client.line import Line
from tim_trio.protocol import messages
from tim_trio.protocol.messages import NodeEntry, RoomLoad, SubscriberFiguresAnswer
from tim_trio.protocol.room_ids import parse_room_id

A = TypeVar("A")

#: Rooms asked for at a time: the server spends a moment on each.
_PAGE: Final = 500


@attrs.frozen(kw_only=True)
class NodeView:
    """A node at one moment.

    Attributes:
        uptime_ms: the node's clock; differences of two answers are over that of theirs.
        figures: by name; those of protocol.md, and perhaps others.
        nodes: all of its cluster; none on a single node.
    """

    node: str
    uptime_ms: int
    figures: dict[str, int]
    nodes: list[NodeEntry]


@attrs.frozen(kw_only=True)
class RoomsView:
    """Rooms of a node, as they were at ``uptime_ms`` of its clock (the last page's)."""

    node: str
    uptime_ms: int
    rooms: list[RoomLoad]


@attrs.define(eq=False)
class Figures:
    """For operators; of a room's subscribers for its creator too. Made by `Client.figures`.

    ``node`` is another node of a cluster, empty for the one that we are connected
    to. A refusal raises RoomError: ``permission_denied``, ``no_such_room``,
    ``bad_request`` for a node that there is not, ``path_lost`` for one that does
    not answer.
    """

    _line: Line = attrs.field(repr=False)

    async def _request(self, message: object, answer: type[A]) -> A:
        session = await self._line.up()
        return await session.connection.request(message, answer)

    async def node(self, node: str = "") -> NodeView:
        """Return a node's own figures."""
        answer = await self._request(messages.NodeFigures(node=node), messages.NodeFiguresAnswer)
        return NodeView(
            node=answer.node,
            uptime_ms=answer.uptime_ms,
            figures={figure.name: figure.value for figure in answer.figures},
            nodes=answer.nodes,
        )

    async def rooms(self, node: str = "") -> RoomsView:
        """Return those of each room that is present at a node, in order of the ids."""
        rooms: list[RoomLoad] = []
        while True:
            after = rooms[-1].room if rooms else 0
            answer = await self._request(
                messages.RoomFigures(node=node, after=after, limit=_PAGE),
                messages.RoomFiguresAnswer,
            )
            rooms += answer.rooms
            if not answer.more or not answer.rooms:
                return RoomsView(node=answer.node, uptime_ms=answer.uptime_ms, rooms=rooms)

    async def subscribers(
        self, room: str | int, node: str = "", *, limit: int = 0
    ) -> SubscriberFiguresAnswer:
        """Return a room's subscribers at a node, those furthest behind first.

        Args:
            limit: so many at most; 0 for as many as the server likes.
        """
        number = parse_room_id(room) if isinstance(room, str) else room
        return await self._request(
            messages.SubscriberFigures(node=node, room=number, limit=limit),
            messages.SubscriberFiguresAnswer,
        )
