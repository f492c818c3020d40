"""The directory as the room manager of a node sees it: its errors are answers.

Source: docs/cluster.md.
"""

from __future__ import annotations

from typing import Final

import attrs
import trio

from tim_trio.cluster.directory import EtcdDirectory
from tim_trio.core.directory import RoomRecord
from tim_trio.errors import ClusterError, Code, RoomError, room_error

_RETRY_S: Final = 2.0


def unavailable(error: ClusterError) -> RoomError:
    del error  # for the log at most; no exception's text reaches a peer
    return room_error(Code.DIRECTORY_UNAVAILABLE)


@attrs.define(eq=False)
class ManagersDirectory:
    """Implements the core's `Directory`."""

    directory: EtcdDirectory
    nursery: trio.Nursery

    async def add_room(self, record: RoomRecord) -> bool:
        try:
            return await self.directory.add_room(record)
        except ClusterError as error:
            raise unavailable(error) from error

    async def find_room(self, room: int) -> RoomRecord | None:
        try:
            return await self.directory.find_room(room)
        except ClusterError as error:
            raise unavailable(error) from error

    async def update_room(self, record: RoomRecord) -> None:
        try:
            await self.directory.update_room(record)
        except ClusterError as error:
            raise unavailable(error) from error

    async def remove_room(self, room: int) -> None:
        """Never fails: what etcd does not take now it gets later."""
        try:
            await self.directory.remove_room(room)
        except ClusterError:
            self.nursery.start_soon(self._remove_later, room)

    async def _remove_later(self, room: int) -> None:
        while True:
            await trio.sleep(_RETRY_S)
            try:
                await self.directory.remove_room(room)
            except ClusterError:
                continue
            return
