"""Which nodes there are: each holds a lease in etcd, and follows the others'.

A node is a member as long as its lease is kept alive. Between the moment
when it could have ended and the moment when etcd is heard again nobody knows
(`is_certain`); when it has ended the node is *expelled*: it is in nobody's
ranking any more, and does not come back under this incarnation.

Source: docs/cluster.md, "Members".
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

import attrs
import trio

from tim_trio.cluster.etcd import EtcdClient, KeyValue, Page, is_unchanged, put
from tim_trio.cluster.follow import Change, Follower
from tim_trio.cluster.placement import Placement
from tim_trio.errors import ClusterError
from tim_trio.net.client.plain_nursery import open_plain_nursery

LEASE_S: Final = 5
_NAME_PATIENCE_S: Final = 2.0
_RETRY_S: Final = 0.25
_GLANCE_S: Final = 0.5


class EventLog(Protocol):
    """The part of a structlog logger that is used here."""

    def info(self, event: str, **fields: Any) -> object: ...
    def warning(self, event: str, **fields: Any) -> object: ...
    def error(self, event: str, **fields: Any) -> object: ...


class NameInUse(ClusterError):
    """Another live node has this node's name or address; the message is for a person."""


@attrs.frozen(kw_only=True)
class NodeInfo:
    """What a node says of itself.

    Attributes:
        address: ``HOST:PORT`` where other nodes reach it.
        incarnation: differs each time the node starts, and rises.
        draining: it is about to leave and takes no rooms.
        link: where they reach it with TLS; empty for links in plain TCP to ``address``.
        public: where clients reach it, as ``SCHEME://HOST:PORT``.
    """

    name: str
    address: str
    weight: int = 1
    incarnation: int = 0
    draining: bool = False
    link: str = ""
    public: tuple[str, ...] = ()

    def dump(self) -> bytes:
        return json.dumps(attrs.asdict(self)).encode()

    @classmethod
    def load(cls, data: bytes) -> NodeInfo:
        """Read what `dump` wrote. Raises ValueError for anything else."""
        try:
            values = json.loads(data)
            return cls(
                name=str(values["name"]),
                address=str(values["address"]),
                weight=int(values["weight"]),
                incarnation=int(values["incarnation"]),
                draining=bool(values["draining"]),
                link=str(values.get("link", "")),
                public=tuple(map(str, values.get("public", ()))),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not what a node writes: {error!r}") from None


def new_incarnation() -> int:
    return time.time_ns() // 1000


@attrs.define(eq=False)
class Membership:
    """One node's membership, and its view of the others.

    Attributes:
        me: what this node says of itself.
        nodes: all live nodes by name, this one included while it is one.
        placement: the nodes that take rooms.
        lease: 0 until joined.
        expelled: set when the lease has ended.
    """

    client: EtcdClient
    prefix: str
    me: NodeInfo
    log: EventLog
    on_change: Callable[[], None]
    lease_s: int = LEASE_S
    nodes: dict[str, NodeInfo] = attrs.field(factory=dict)
    placement: Placement = attrs.field(factory=lambda: Placement({}))
    lease: int = 0
    expelled: trio.Event = attrs.field(factory=trio.Event)
    #: Until when the lease certainly lives.
    deadline: float = 0.0
    _seen: trio.Event = attrs.field(factory=trio.Event)
    _has_trouble: bool = False
    _is_leaving: bool = False

    @property
    def key(self) -> str:
        return f"{self.prefix}nodes/{self.me.name}"

    def is_certain(self, now: float) -> bool:
        """Say whether this node is a member for sure."""
        return now < self.deadline and not self.expelled.is_set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Join, report started with the first view of the others, and go on until cancelled.

        Raises:
            ClusterError: it cannot join: etcd is not there, or the name is taken.
        """
        await self._join()
        follower = Follower(
            self.client,
            f"{self.prefix}nodes/",
            self._on_snapshot,
            self._on_changes,
            self._on_trouble,
        )
        async with open_plain_nursery() as nursery:
            nursery.start_soon(follower.run)
            nursery.start_soon(self._keep_alive)
            await self._seen.wait()
            task_status.started()

    async def _at_our_address(self) -> str | None:
        """Return the name of another node that is reached where we say we are.

        It may be our own former life under another name, which then ends soon.
        """
        page = await self.client.snapshot(f"{self.prefix}nodes/")
        for kv in page.kvs:
            with contextlib.suppress(ValueError):
                other = NodeInfo.load(kv.value)
                if other.address == self.me.address and other.name != self.me.name:
                    return other.name
        return None

    async def _join(self) -> None:
        began = trio.current_time()
        self.lease = await self.client.grant(self.lease_s)
        self.deadline = began + self.lease_s
        give_up_at = began + self.lease_s + _NAME_PATIENCE_S
        while (occupant := await self._at_our_address()) is not None:
            if trio.current_time() > give_up_at:
                raise NameInUse(
                    f"the other nodes reach {occupant} at {self.me.address} already; give this "
                    "one an address of its own with --advertise"
                )
            await self.client.keep_alive(self.lease)
            await trio.sleep(_RETRY_S)
        while True:
            if await self.client.create(self.key, self.me.dump(), self.lease):
                return
            kv = await self.client.get(self.key)
            if kv is None:
                continue
            other = NodeInfo.load(kv.value)
            # Our own former life, killed a moment ago: nobody else can
            # listen at our address.
            is_former_life = other.address == self.me.address
            if is_former_life and await self.client.swap(
                self.key, self.me.dump(), kv.mod_revision, self.lease
            ):
                return
            if trio.current_time() > give_up_at:
                raise NameInUse(
                    f"another node at {other.address} is named {self.me.name}; "
                    "give this one another node_name"
                )
            await self.client.keep_alive(self.lease)
            await trio.sleep(_RETRY_S)

    async def _keep_alive(self) -> None:
        while not self.expelled.is_set():
            await trio.sleep(self.lease_s / 4)
            began = trio.current_time()
            try:
                ttl_s = await self.client.keep_alive(self.lease)
            except ClusterError as error:
                self._on_trouble(str(error))
                continue
            if ttl_s <= 0:
                self.expel("its lease has ended")
                return
            # Counted from before the question: etcd may have begun no earlier.
            self.deadline = began + ttl_s
            if self._has_trouble:
                self._has_trouble = False
                self.log.info("etcd is back")

    def _on_trouble(self, text: str) -> None:
        if not self._has_trouble:
            self._has_trouble = True
            self.log.warning("etcd is away", error=text)

    def expel(self, why: str) -> None:
        """Take note that this node is no member any more. Idempotent."""
        if not self.expelled.is_set():
            if not self._is_leaving:
                self.log.error("expelled from the cluster", why=why)
            self.expelled.set()
            self.nodes.pop(self.me.name, None)
            self._changed()

    def _on_snapshot(self, page: Page) -> None:
        before, there = self.nodes, {kv.key.rpartition("/")[2] for kv in page.kvs}
        self.nodes = {name: info for name, info in before.items() if name in there}
        for name in before.keys() - there:
            self.log.info("node left", node=name)
        for kv in page.kvs:
            self._note(kv)
        if self.me.name not in self.nodes:
            self.expel("etcd does not know it")
        self._seen.set()
        self._changed()

    def _on_changes(self, changes: list[Change]) -> None:
        for change in changes:
            if change.kv is not None:
                self._note(change.kv)
                continue
            name = change.key.rpartition("/")[2]
            gone = self.nodes.pop(name, None)
            if gone is not None:
                self.log.info("node left", node=name)
            if name == self.me.name:
                self.expel("etcd has taken it out")
        self._changed()

    def _note(self, kv: KeyValue) -> None:
        try:
            info = NodeInfo.load(kv.value)
        except ValueError as error:
            self.log.error("unreadable record of a node", key=kv.key, error=str(error))
            return
        if info.name == self.me.name and info.incarnation != self.me.incarnation:
            self.expel("another process has taken its name")
            return
        if self.expelled.is_set() and info.name == self.me.name:
            return
        known = self.nodes.get(info.name)
        if known is None or known.incarnation != info.incarnation:
            self.log.info("node joined", node=info.name, address=info.address, weight=info.weight)
        self.nodes[info.name] = info

    def _changed(self) -> None:
        self.nodes = dict(sorted(self.nodes.items()))
        self.placement = Placement(
            {info.name: info.weight for info in self.nodes.values() if not info.draining}
        )
        self.on_change()

    async def look_again(self) -> None:
        """See who is there, unless etcd does not answer at once."""
        with trio.move_on_after(_GLANCE_S), contextlib.suppress(ClusterError):
            self._on_snapshot(await self.client.snapshot(f"{self.prefix}nodes/"))

    async def withdraw(self) -> None:
        """Take no more rooms, while still being there: the first step of a drain.

        Raises:
            ClusterError: etcd could not be told.
        """
        self.me = attrs.evolve(self.me, draining=True)
        kv = await self.client.get(self.key)
        if kv is not None and kv.lease == self.lease:
            await self.client.transact(
                [is_unchanged(self.key, kv.mod_revision)],
                [put(self.key, self.me.dump(), self.lease)],
            )

    async def leave(self) -> None:
        """End the lease, and with it all that hangs on it.

        Raises:
            ClusterError: etcd could not be told; the lease ends by itself.
        """
        self._is_leaving = True
        if self.lease:
            await self.client.revoke(self.lease)
