"""Bans that hold on every node, where the accounts are somebody else's.

In etcd, so that they hold as well on nodes that start later, until they are lifted.

Source: docs/cluster.md, "What is in etcd".
"""

from __future__ import annotations

import json
import time

import attrs
import trio

from tim_trio.cluster.etcd import EtcdClient, Page
from tim_trio.cluster.follow import Change, Follower
from tim_trio.cluster.membership import EventLog
from tim_trio.core.bans import Bans
from tim_trio.errors import RoomError


@attrs.frozen(kw_only=True)
class BanRecord:
    account: str
    by: str
    reason: str
    at_ms: int


async def add_ban(client: EtcdClient, prefix: str, record: BanRecord) -> None:
    """Raises ClusterError."""
    value = json.dumps({"by": record.by, "reason": record.reason, "at_ms": record.at_ms})
    await client.put(_key(prefix, record.account), value.encode())


async def lift_ban(client: EtcdClient, prefix: str, account: str) -> bool:
    """Let an account in again; say whether it was banned. Raises ClusterError."""
    key = _key(prefix, account)
    there = await client.get(key) is not None
    await client.delete(key)
    return there


async def list_bans(client: EtcdClient, prefix: str) -> list[BanRecord]:
    """Raises ClusterError."""
    page = await client.snapshot(_key(prefix, ""))
    found = []
    for kv in page.kvs:
        values = json.loads(kv.value)
        found.append(
            BanRecord(
                account=kv.key.removeprefix(_key(prefix, "")),
                by=str(values["by"]),
                reason=str(values["reason"]),
                at_ms=int(values["at_ms"]),
            )
        )
    return found


def _key(prefix: str, account: str) -> str:
    return f"{prefix}bans/{account}"


@attrs.define(eq=False)
class SharedBans:
    """Keeps this node's bans the same as those in etcd."""

    client: EtcdClient
    prefix: str
    bans: Bans
    log: EventLog
    _shared: set[str] = attrs.field(factory=set)
    _begun: trio.Event = attrs.field(factory=trio.Event)

    async def share(self, account: str, by: str, reason: str) -> None:
        """Have an account banned everywhere. Raises ClusterError."""
        record = BanRecord(account=account, by=by, reason=reason, at_ms=int(time.time() * 1000))
        await add_ban(self.client, self.prefix, record)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow etcd until cancelled; started when all bans there are hold here."""
        follower = Follower(
            self.client,
            _key(self.prefix, ""),
            self._take_all,
            self._take_changes,
            self._note_trouble,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follower.run)
            await self._begun.wait()
            task_status.started()

    def _note_trouble(self, trouble: str) -> None:
        self.log.info("bans are not followed now", error=trouble)

    def _account(self, key: str) -> str:
        return key.removeprefix(_key(self.prefix, ""))

    def _take_all(self, page: Page) -> None:
        found = {self._account(kv.key) for kv in page.kvs}
        for account in self._shared - found:
            self._lift(account)
        for account in found - self._shared:
            self._add(account)
        self._begun.set()

    def _take_changes(self, changes: list[Change]) -> None:
        for change in changes:
            account = self._account(change.key)
            if change.kv is None:
                self._lift(account)
            else:
                self._add(account)

    def _add(self, account: str) -> None:
        self._shared.add(account)
        try:
            self.bans.add(account)
        except RoomError as error:
            self.log.warning("a ban does not hold here", account=account, error=error.text)

    def _lift(self, account: str) -> None:
        self._shared.discard(account)
        self.bans.lift(account)
