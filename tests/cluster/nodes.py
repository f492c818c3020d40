"""Nodes of a cluster in this process, on real sockets and a real etcd."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import attrs
import trio

from tim_trio.cluster.cluster import Cluster
from tim_trio.cluster.room import SharedRoom
from tim_trio.cluster.service import ClusterSettings, Node, open_cluster
from tim_trio.limits import Limits
from tim_trio.net.client import Client, connect
from tim_trio.net.listening import describe, open_listeners
from tim_trio.net.server import Server
from tim_trio.net.tls import NodeTls
from tim_trio.protocol.room_ids import parse_room_id

SECRET: Final = b"a secret of the tests, long enough"
_POLL_S: Final = 0.005


async def eventually(condition: Callable[[], bool], what: str, seconds: float = 15) -> None:
    with trio.move_on_after(seconds):
        while not condition():  # noqa: ASYNC110 - nodes do not know of tests
            await trio.sleep(_POLL_S)
        return
    raise AssertionError(f"in vain for {seconds} s: {what}")


@attrs.define(eq=False)
class RunningNode:
    name: str
    port: int
    server: Server
    node: Node
    _scope: trio.CancelScope

    @property
    def cluster(self) -> Cluster:
        return self.node.cluster

    @property
    def url(self) -> str:
        return f"tim://127.0.0.1:{self.port}"

    def room(self, room: str) -> SharedRoom:
        found = self.cluster.room(parse_room_id(room))
        assert found is not None, f"{self.name} has no room {room}"
        return found

    def client(
        self, account: str, **credentials: Any
    ) -> contextlib.AbstractAsyncContextManager[Client]:
        return connect(self.url, account=account, **credentials)

    def stop(self) -> None:
        self._scope.cancel()


@attrs.define(eq=False)
class Cloud:
    """Some nodes that see each other."""

    etcd_url: str
    prefix: str
    nursery: trio.Nursery
    #: Makes a node's server of its name.
    make_server: Callable[[str], Server]
    #: Gives a node's certificate for links; None for links in plain TCP.
    tls_of: Callable[[str], NodeTls | None] = lambda _: None
    nodes: dict[str, RunningNode] = attrs.field(factory=dict)

    def __getitem__(self, name: str) -> RunningNode:
        return self.nodes[name]

    def relay_of(self, room: str) -> RunningNode:
        any_node = next(iter(self.nodes.values()))
        return self.nodes[any_node.cluster.ranking(parse_room_id(room))[0]]

    def ranked(self, room: str) -> list[RunningNode]:
        any_node = next(iter(self.nodes.values()))
        return [self.nodes[name] for name in any_node.cluster.ranking(parse_room_id(room))]

    async def add(self, name: str, **settings: int) -> RunningNode:
        running = await self.nursery.start(self._run, name, settings)
        assert isinstance(running, RunningNode)
        self.nodes[name] = running
        await self.agree()
        return running

    async def _run(
        self,
        name: str,
        settings: dict[str, int],
        task_status: trio.TaskStatus[RunningNode] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        server = self.make_server(name)
        listeners = open_listeners("127.0.0.1", 0, option="--tcp")
        port = listeners[0].getsockname()[1]
        tls = self.tls_of(name)
        link_listeners = [] if tls is None else open_listeners("127.0.0.1", 0)
        chosen = ClusterSettings(
            endpoints=[self.etcd_url],
            address=f"127.0.0.1:{port}",
            public=(f"tim://127.0.0.1:{port}",),
            secret=SECRET,
            prefix=self.prefix,
            weight=settings.get("weight", 1),
            fanout=settings.get("fanout", 64),
            lease_s=settings.get("lease_s", 5),
            link_tls=tls,
            link_address="".join(map(describe, link_listeners)),
        )
        with trio.CancelScope() as scope:
            async with open_cluster(server, chosen) as node, trio.open_nursery() as nursery:
                await nursery.start(
                    functools.partial(server.serve, listeners, link_listeners=link_listeners)
                )
                task_status.started(RunningNode(name, port, server, node, scope))
                await trio.sleep_forever()

    async def agree(self) -> None:
        """Wait until all nodes see all."""
        names = sorted(self.nodes)
        await eventually(
            lambda: all(
                sorted(node.cluster.membership.placement.weights) == names
                for node in self.nodes.values()
            ),
            f"all nodes see {names}",
        )

    async def remove(self, name: str) -> None:
        self.nodes.pop(name).stop()
        await self.agree()


@contextlib.asynccontextmanager
async def cloud(
    etcd_url: str,
    prefix: str,
    *names: str,
    limits: Limits | None = None,
    make_server: Callable[[str], Server] | None = None,
    tls_of: Callable[[str], NodeTls | None] = lambda _: None,
    **settings: int,
) -> AsyncIterator[Cloud]:
    def default_server(name: str) -> Server:
        return Server(limits or Limits(), node_name=name)

    async with trio.open_nursery() as nursery:
        made = Cloud(etcd_url, prefix, nursery, make_server or default_server, tls_of)
        for name in names:
            await made.add(name, **settings)
        yield made
        nursery.cancel_scope.cancel()
