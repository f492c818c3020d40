"""The directory of a cluster: rooms, their sources, and who is online, in etcd.

Each room has a lease, which all its keys hang on: ending it ends the room. Keys::

    rooms/ROOM             the record
    numbers/ROOM           the last number given to a source
    sources/ROOM/TOKEN     a source, by the hash of its publisher's token
    accounts/NAME/ROOM     the rooms that an account created or was granted
    online/NAME/NODE       hangs on the node's lease

Source: docs/cluster.md, "What is in etcd".
"""

from __future__ import annotations

import json
import math
from hashlib import blake2b
from typing import Any, Final

import attrs

from tim_trio.cluster.etcd import (
    EtcdClient,
    EtcdRefused,
    KeyValue,
    delete,
    is_absent,
    is_present,
    is_unchanged,
    put,
)
from tim_trio.core.directory import RoomRecord
from tim_trio.errors import ClusterError, Code, room_error
from tim_trio.protocol.messages import Role, RoomMode
from tim_trio.protocol.room_ids import format_room_id, parse_room_id

#: Tries before a record that others keep changing is given up.
_TRIES: Final = 16
_LEAST_SLACK_S: Final = 10


@attrs.frozen(kw_only=True)
class SourceRecord:
    """A source, as all nodes know it.

    Attributes:
        node: where its publisher is connected.
        epoch: rises with every takeover.
    """

    number: int
    account: str
    node: str
    epoch: int


def lease_seconds(idle_timeout_s: float) -> int:
    """Return the time a room's lease lives beyond its renewal.

    The root of the room's tree ends it after the idle timeout; the lease is
    for when there is none. It is renewed every quarter of that time.
    """
    return math.ceil(idle_timeout_s + max(_LEAST_SLACK_S, idle_timeout_s / 2))


def token_key(token: bytes) -> str:
    """Return what stands for a token in keys: whoever reads etcd must not take over."""
    return blake2b(token, digest_size=16, person=b"tim_trio source").hexdigest()


def _dump(values: dict[str, Any]) -> bytes:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()


def _dump_room(record: RoomRecord) -> bytes:
    return _dump(
        {
            "creator": record.creator,
            "mode": int(record.mode),
            "gather_ms": record.gather_ms,
            "idle_timeout_s": record.idle_timeout_s,
            "granted": sorted(record.granted),
        }
    )


def _load_room(room: int, data: bytes) -> RoomRecord:
    try:
        values = json.loads(data)
        return RoomRecord(
            room=room,
            creator=str(values["creator"]),
            mode=RoomMode(values["mode"]),
            gather_ms=int(values["gather_ms"]),
            idle_timeout_s=float(values["idle_timeout_s"]),
            granted=frozenset(map(str, values["granted"])),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ClusterError(f"unreadable record of room {format_room_id(room)}: {error!r}") from None


def _load_source(data: bytes) -> SourceRecord:
    try:
        values = json.loads(data)
        return SourceRecord(
            number=int(values["number"]),
            account=str(values["account"]),
            node=str(values["node"]),
            epoch=int(values["epoch"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ClusterError(f"unreadable record of a source: {error!r}") from None


@attrs.define(eq=False)
class EtcdDirectory:
    """All methods block for a round trip or a few, and raise ClusterError."""

    client: EtcdClient
    prefix: str

    def _room_key(self, room: int) -> str:
        return f"{self.prefix}rooms/{format_room_id(room)}"

    def _account_key(self, account: str, room: int) -> str:
        return f"{self.prefix}accounts/{account}/{format_room_id(room)}"

    def _source_key(self, room: int, token: str) -> str:
        return f"{self.prefix}sources/{format_room_id(room)}/{token}"

    # Rooms

    async def add_room(self, record: RoomRecord) -> bool:
        lease = await self.client.grant(lease_seconds(record.idle_timeout_s))
        key = self._room_key(record.room)
        created = await self.client.transact(
            [is_absent(key)],
            [
                put(key, _dump_room(record), lease),
                put(self._account_key(record.creator, record.room), b"", lease),
            ],
        )
        if not created:
            await self.client.revoke(lease)
        return created

    async def find_room(self, room: int) -> RoomRecord | None:
        kv = await self.client.get(self._room_key(room))
        return None if kv is None else _load_room(room, kv.value)

    async def update_room(self, record: RoomRecord) -> None:
        key = self._room_key(record.room)
        for _ in range(_TRIES):
            kv = await self.client.get(key)
            if kv is None:
                return
            before = _load_room(record.room, kv.value).granted
            changes = [put(key, _dump_room(record), kv.lease)]
            for account in sorted(record.granted - before):
                changes.append(put(self._account_key(account, record.room), b"", kv.lease))
            for account in sorted(before - record.granted):
                changes.append(delete(self._account_key(account, record.room)))
            if await self.client.transact([is_unchanged(key, kv.mod_revision)], changes):
                return
        raise ClusterError("a room's record changes faster than it can be read")

    async def remove_room(self, room: int) -> None:
        kv = await self.client.get(self._room_key(room))
        if kv is not None:
            await self.client.revoke(kv.lease)

    async def renew_room(self, room: int) -> bool:
        """Let a room live on; False when it has ended."""
        kv = await self.client.get(self._room_key(room))
        return kv is not None and await self.client.keep_alive(kv.lease) > 0

    async def rooms_of(
        self, account: str, after: int, limit: int
    ) -> tuple[bool, list[tuple[RoomRecord, Role]]]:
        """Return whether there are more, and an account's rooms above ``after``."""
        prefix = f"{self.prefix}accounts/{account}/"
        behind = prefix + format_room_id(after) if after else ""
        page = await self.client.range(prefix, after=behind, limit=limit)
        found = []
        for kv in page.kvs:
            record = await self.find_room(parse_room_id(kv.key.rpartition("/")[2]))
            if record is not None:
                role = Role.CREATOR if record.creator == account else Role.GRANTED
                found.append((record, role))
        return page.more, found

    async def all_rooms(self, after: int, limit: int) -> tuple[bool, list[RoomRecord]]:
        prefix = f"{self.prefix}rooms/"
        behind = prefix + format_room_id(after) if after else ""
        page = await self.client.range(prefix, after=behind, limit=limit)
        return page.more, [_load_room(_room_of(kv), kv.value) for kv in page.kvs]

    async def count_rooms(self, account: str) -> int:
        """Return how many rooms an account created or was granted."""
        return await self.client.count(f"{self.prefix}accounts/{account}/")

    # Sources

    async def claim_source(self, room: int, account: str, token: bytes, node: str) -> SourceRecord:
        """Open a source at ``node``, or take over the one with this token.

        Raises:
            RoomError: ``token_in_use``, ``no_such_room``.
        """
        key = self._source_key(room, token_key(token))
        for _ in range(_TRIES):
            kv = await self.client.get(key)
            if kv is not None:
                found = await self._take_over(kv, account, node)
            else:
                found = await self._open_source(room, key, account, node)
            if found is not None:
                return found
        raise ClusterError("a room's sources change faster than they can be read")

    async def _take_over(self, kv: KeyValue, account: str, node: str) -> SourceRecord | None:
        record = _load_source(kv.value)
        if record.account != account:
            raise room_error(Code.TOKEN_IN_USE)
        if record.node == node:
            return record
        record = attrs.evolve(record, node=node, epoch=record.epoch + 1)
        swapped = await self.client.swap(
            kv.key, _dump(attrs.asdict(record)), kv.mod_revision, kv.lease
        )
        return record if swapped else None

    async def _open_source(
        self, room: int, key: str, account: str, node: str
    ) -> SourceRecord | None:
        room_key = self._room_key(room)
        counter_key = f"{self.prefix}numbers/{format_room_id(room)}"
        room_kv = await self.client.get(room_key)
        if room_kv is None:
            raise room_error(Code.NO_SUCH_ROOM)
        counter = await self.client.get(counter_key)
        number = int(counter.value) + 1 if counter is not None else 1
        record = SourceRecord(number=number, account=account, node=node, epoch=0)
        try:
            opened = await self.client.transact(
                [
                    is_present(room_key),
                    is_absent(key),
                    is_unchanged(counter_key, counter.mod_revision if counter is not None else 0),
                ],
                [
                    put(counter_key, str(number).encode(), room_kv.lease),
                    put(key, _dump(attrs.asdict(record)), room_kv.lease),
                ],
            )
        except EtcdRefused as error:
            if "lease not found" in str(error):
                return None  # the room has just ended
            raise
        return record if opened else None

    async def release_source(self, room: int, number: int, epoch: int) -> bool:
        """Forget a source, unless it has been taken over since ``epoch``; say whether."""
        for kv in (await self.client.range(self._source_key(room, ""))).kvs:
            record = _load_source(kv.value)
            if record.number == number:
                return record.epoch == epoch and await self.client.transact(
                    [is_unchanged(kv.key, kv.mod_revision)], [delete(kv.key)]
                )
        return True

    async def sources_of(self, room: int) -> list[SourceRecord]:
        page = await self.client.range(self._source_key(room, ""))
        return [_load_source(kv.value) for kv in page.kvs]

    # Accounts

    async def set_online(self, account: str, node: str, lease: int) -> None:
        """Say that an account is connected at a node, as long as the node's lease lives."""
        await self.client.put(f"{self.prefix}online/{account}/{node}", b"", lease)

    async def set_offline(self, account: str, node: str) -> None:
        await self.client.delete(f"{self.prefix}online/{account}/{node}")

    async def nodes_of(self, account: str) -> list[str]:
        """Return the nodes where an account is connected."""
        page = await self.client.range(f"{self.prefix}online/{account}/")
        return [kv.key.rpartition("/")[2] for kv in page.kvs]


def _room_of(kv: KeyValue) -> int:
    return parse_room_id(kv.key.rpartition("/")[2])
