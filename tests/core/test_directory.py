"""The directory of a single node."""

import attrs
import pytest

from tests.core.builders import ROOM
from tim_trio.core import directory as directory_module
from tim_trio.core.directory import MemoryDirectory, RoomRecord
from tim_trio.protocol.messages import RoomMode


def record(room: int = ROOM) -> RoomRecord:
    return RoomRecord(
        room=room, creator="alice", mode=RoomMode.LIVE, gather_ms=0, idle_timeout_s=300.0
    )


async def test_a_live_id_is_not_given_out_again() -> None:
    directory = MemoryDirectory()
    assert await directory.add_room(record())
    assert not await directory.add_room(record())
    assert await directory.add_room(record(ROOM + 1))


async def test_a_live_room_is_found() -> None:
    directory = MemoryDirectory()
    assert await directory.find_room(ROOM) is None
    await directory.add_room(record())
    assert await directory.find_room(ROOM) == record()
    await directory.remove_room(ROOM)
    assert await directory.find_room(ROOM) is None


async def test_an_ended_id_is_not_given_out_again() -> None:
    directory = MemoryDirectory()
    await directory.add_room(record())
    await directory.remove_room(ROOM)
    await directory.remove_room(ROOM)
    assert not await directory.add_room(record())


async def test_an_update_of_an_ended_room_does_not_bring_it_back() -> None:
    directory = MemoryDirectory()
    await directory.add_room(record())
    await directory.update_room(attrs.evolve(record(), granted=frozenset({"bob"})))
    await directory.remove_room(ROOM)
    await directory.update_room(record())
    assert not await directory.add_room(record())


async def test_removing_what_never_was_does_not_use_its_id_up() -> None:
    directory = MemoryDirectory()
    await directory.remove_room(ROOM)
    assert await directory.add_room(record())


async def test_the_oldest_ended_ids_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory_module, "_ENDED_KEPT", 2)
    directory = MemoryDirectory()
    for room in range(ROOM, ROOM + 3):
        await directory.add_room(record(room))
        await directory.remove_room(room)
    assert await directory.add_room(record(ROOM))
    assert not await directory.add_room(record(ROOM + 1))
    assert not await directory.add_room(record(ROOM + 2))
