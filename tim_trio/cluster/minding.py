"""What a node does for its rooms by itself, now and then.

Source: docs/cluster.md.
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Final

import attrs
import trio

from tim_trio.cluster.directory import lease_seconds
from tim_trio.cluster.room import SharedRoom
from tim_trio.errors import ClusterError
from tim_trio.protocol.messages import LinkViewers, RoomClosedReason, SourceLeftReason

if TYPE_CHECKING:
    from tim_trio.cluster.cluster import Cluster

_LOOK_S: Final = 2.0
_LONGEST_LOOK_S: Final = 30.0
#: A room that nobody uses here stays for who comes back.
_UNUSED_S: Final = 2.0
_FORGET_S: Final = 30.0


@attrs.define(eq=False)
class Minder:
    """Minds the rooms of one node."""

    cluster: Cluster

    def watch(self, room: SharedRoom, now: float) -> None:
        tree = room.tree
        if tree.leaving and now > room.part_by:
            tree.part()
            self.cluster.act(room, now)
        room.mind_move(now)
        if tree.is_looking and now > room.ask_until:
            tree.give_up()
            self.cluster.act(room, now)
        if not tree.is_settled and now > room.look_at:
            # Ever more seldom: what changes the answer is heard of otherwise.
            pause_s = min(_LOOK_S * 2**room.looks, _LONGEST_LOOK_S)
            room.looks += 1
            room.look_at = now + random.uniform(pause_s / 2, pause_s)
            tree.look_again()
            self.cluster.act(room, now)
        if room.idle_since is not None and now - room.idle_since > _UNUSED_S and not room.is_used:
            if tree.wanted:
                tree.want(False)
                self.cluster.act(room, now)
            if now - room.idle_since > _FORGET_S and not tree.is_active and not room.bonds:
                self.cluster.drop(room, RoomClosedReason.IDLE, now)
                return
        self._count_viewers(room, now)
        if tree.is_root:
            self._mind_holders(room, now)
            self._renew(room, now)

    def _count_viewers(self, room: SharedRoom, now: float) -> None:
        below, total = room.viewers_below, room.viewers
        for bond in room.bonds.values():
            link = self.cluster.links.get(bond.peer)
            if link is None:
                continue
            if bond.peer == room.tree.parent and room.told_up != below:
                link.tell(LinkViewers(room=room.number, viewers=below), now)
            if bond.as_child and room.told_down != total:
                link.tell(LinkViewers(room=room.number, viewers=total), now)
        if room.told_down not in (-1, total):
            room.viewers_changed = True
        room.told_up, room.told_down = below, total

    def _mind_holders(self, room: SharedRoom, now: float) -> None:
        """End the sources of a node that is gone, when nobody has taken them over."""
        for number, holder in list(room.holders.items()):
            if not holder.node or holder.node in self.cluster.membership.nodes:
                holder.gone_since = None
                continue
            if holder.gone_since is None:
                holder.gone_since = now
            elif now - holder.gone_since > self.cluster.manager.node.limits.linger_s:
                holder.gone_since = math.inf
                self.cluster.nursery.start_soon(self._end_orphan, room, number, holder.epoch)

    async def _end_orphan(self, room: SharedRoom, number: int, epoch: int) -> None:
        try:
            if not await self.cluster.directory.release_source(room.number, number, epoch):
                return  # it has been taken over
        except ClusterError:
            return
        source = room.sources.get(number)
        holder = room.holders.get(number)
        if source is not None and holder is not None and holder.epoch == epoch:
            room.end_for_all(source, SourceLeftReason.CONNECTION_LOST, trio.current_time())

    def _renew(self, room: SharedRoom, now: float) -> None:
        """Keep a room's lease alive while data arrives."""
        every_s = lease_seconds(room.idle_timeout_s) / 4
        if room.last_frame_at > room.renewed_at and now - room.renewed_at > every_s:
            room.renewed_at = now
            self.cluster.nursery.start_soon(self._renew_once, room)

    async def _renew_once(self, room: SharedRoom) -> None:
        try:
            lives = await self.cluster.directory.renew_room(room.number)
        except ClusterError:
            return
        if not lives and self.cluster.room(room.number) is room:
            self.cluster.drop(room, RoomClosedReason.REMOVED, trio.current_time())
