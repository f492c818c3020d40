"""The directory in etcd: one answer for all nodes."""

import attrs
import pytest
import trio

from tim_trio.cluster.directory import EtcdDirectory, SourceRecord, lease_seconds, token_key
from tim_trio.cluster.etcd import EtcdClient
from tim_trio.core.directory import RoomRecord
from tim_trio.errors import ClusterError, Code, NoSuchRoom, RoomError
from tim_trio.protocol.messages import Role, RoomMode
from tim_trio.protocol.room_ids import FIRST_ROOM_ID, format_room_id

ROOM = FIRST_ROOM_ID + 5
TOKEN = bytes(range(16))


@pytest.fixture
def directory(client: EtcdClient, prefix: str) -> EtcdDirectory:
    return EtcdDirectory(client, prefix)


def record(room: int = ROOM, creator: str = "алиса", *granted: str) -> RoomRecord:
    return RoomRecord(
        room=room,
        creator=creator,
        mode=RoomMode.RELIABLE,
        gather_ms=5,
        idle_timeout_s=0.5,
        granted=frozenset(granted),
    )


async def test_an_id_is_given_out_once_however_many_ask(directory: EtcdDirectory) -> None:
    won: list[str] = []

    async def register(creator: str) -> None:
        if await directory.add_room(record(ROOM, creator)):
            won.append(creator)

    async with trio.open_nursery() as nursery:
        for creator in "abcdef":
            nursery.start_soon(register, creator)
    assert len(won) == 1
    assert await directory.find_room(ROOM) == record(ROOM, won[0])
    # The losers' leases are gone with what they wanted.
    assert await directory.client.count(directory.prefix + "accounts/") == 1


async def test_a_room_ends_with_all_that_hangs_on_it(directory: EtcdDirectory) -> None:
    await directory.add_room(record())
    await directory.claim_source(ROOM, "алиса", TOKEN, "node-1")
    await directory.update_room(record(ROOM, "алиса", "bob"))
    assert await directory.client.count(directory.prefix) == 5
    await directory.remove_room(ROOM)
    assert await directory.client.count(directory.prefix) == 0
    assert await directory.find_room(ROOM) is None
    await directory.remove_room(ROOM)
    await directory.update_room(record())  # does not bring it back
    assert not await directory.renew_room(ROOM)
    with pytest.raises(NoSuchRoom):
        await directory.claim_source(ROOM, "алиса", TOKEN, "node-1")


@pytest.mark.parametrize("idle, seconds", [(0.05, 11), (2.0, 12), (300.0, 450)])
def test_a_lease_outlives_the_idle_timeout(idle: float, seconds: int) -> None:
    assert lease_seconds(idle) == seconds


async def test_a_room_is_renewed(directory: EtcdDirectory) -> None:
    await directory.add_room(record())
    assert await directory.renew_room(ROOM)


async def test_grants_are_listed_for_who_has_them(directory: EtcdDirectory) -> None:
    await directory.add_room(record())
    await directory.add_room(record(ROOM + 1, "bob"))
    await directory.update_room(record(ROOM, "алиса", "bob", "carl"))
    more, rooms = await directory.rooms_of("bob", 0, 10)
    assert not more
    assert [(found.room, role) for found, role in rooms] == [
        (ROOM, Role.GRANTED),
        (ROOM + 1, Role.CREATOR),
    ]
    assert await directory.count_rooms("bob") == 2
    await directory.update_room(record(ROOM, "алиса", "carl"))
    assert [found.room for found, _ in (await directory.rooms_of("bob", 0, 10))[1]] == [ROOM + 1]
    assert [found.room for found, _ in (await directory.rooms_of("carl", 0, 10))[1]] == [ROOM]


async def test_lists_are_paged_in_order_of_the_ids(directory: EtcdDirectory) -> None:
    numbers = [ROOM, ROOM + 57, ROOM + 58**5, 2**64 - 1]
    for number in reversed(numbers):
        await directory.add_room(record(number, "alice"))
    seen: list[int] = []
    more = True
    while more:
        more, page = await directory.all_rooms(seen[-1] if seen else 0, 3)
        seen += [found.room for found in page]
    assert seen == numbers
    more, mine = await directory.rooms_of("alice", numbers[0], 2)
    assert more and [found.room for found, _ in mine] == numbers[1:3]


async def test_sources_are_numbered_once_and_taken_over(directory: EtcdDirectory) -> None:
    await directory.add_room(record())
    claimed: list[SourceRecord] = []

    async def claim(i: int) -> None:
        claimed.append(await directory.claim_source(ROOM, "a", bytes([i]) * 16, f"node-{i}"))

    async with trio.open_nursery() as nursery:
        for i in range(4):
            nursery.start_soon(claim, i)
    assert sorted(source.number for source in claimed) == [1, 2, 3, 4]
    first = next(source for source in claimed if source.node == "node-0")
    assert await directory.claim_source(ROOM, "a", bytes(16), "node-0") == first
    moved = await directory.claim_source(ROOM, "a", bytes(16), "node-9")
    assert moved == attrs.evolve(first, node="node-9", epoch=1)
    with pytest.raises(RoomError) as caught:
        await directory.claim_source(ROOM, "mallory", bytes(16), "node-9")
    assert caught.value.code == Code.TOKEN_IN_USE
    # Who has lost it cannot end it any more.
    assert not await directory.release_source(ROOM, first.number, first.epoch)
    assert await directory.release_source(ROOM, first.number, moved.epoch)
    assert await directory.release_source(ROOM, first.number, moved.epoch)
    assert len(await directory.sources_of(ROOM)) == 3
    again = await directory.claim_source(ROOM, "a", bytes(16), "node-0")
    assert (again.number, again.epoch) == (5, 0)


def test_a_token_cannot_be_read_from_its_key() -> None:
    assert token_key(TOKEN) != token_key(bytes(16))
    assert TOKEN.hex() not in token_key(TOKEN)


async def test_where_an_account_is_online(directory: EtcdDirectory) -> None:
    lease = await directory.client.grant(60)
    await directory.set_online("bob", "node-1", lease)
    await directory.set_online("bob", "node-2", lease)
    await directory.set_online("bobby", "node-3", lease)
    assert await directory.nodes_of("bob") == ["node-1", "node-2"]
    await directory.set_offline("bob", "node-1")
    assert await directory.nodes_of("bob") == ["node-2"]
    await directory.client.revoke(lease)
    assert await directory.nodes_of("bob") == []


async def test_what_another_has_scribbled_is_a_cluster_error(directory: EtcdDirectory) -> None:
    await directory.client.put(f"{directory.prefix}rooms/{format_room_id(ROOM)}", b"{}")
    with pytest.raises(ClusterError, match=format_room_id(ROOM)):
        await directory.find_room(ROOM)
    await directory.client.put(f"{directory.prefix}sources/{format_room_id(ROOM)}/x", b"?")
    with pytest.raises(ClusterError, match="source"):
        await directory.sources_of(ROOM)
