"""A server as a node of a cluster: put together, joined, and taken apart.

Source: docs/cluster.md.
"""

from __future__ import annotations

import contextlib
import math
import random
import ssl
from collections.abc import AsyncIterator, Sequence
from typing import Final

import attrs
import trio

from tim_trio.cluster.bans import SharedBans
from tim_trio.cluster.cluster import Cluster
from tim_trio.cluster.directory import EtcdDirectory
from tim_trio.cluster.etcd import EtcdClient, open_etcd
from tim_trio.cluster.link_port import NoAccounts
from tim_trio.cluster.links import Links
from tim_trio.cluster.managers_directory import ManagersDirectory
from tim_trio.cluster.membership import LEASE_S, Membership, NodeInfo, new_incarnation
from tim_trio.cluster.presence import Presence
from tim_trio.cluster.requests import Requests
from tim_trio.core.accounts import Gate
from tim_trio.core.relations import MemoryRelations
from tim_trio.errors import ClusterError
from tim_trio.log import get_logger
from tim_trio.net.client.plain_nursery import open_plain_nursery
from tim_trio.net.other_nodes import address_for
from tim_trio.net.server import Server
from tim_trio.net.tls import NodeTls

PREFIX = "tim_trio/"

_log = get_logger("cluster")


@attrs.frozen(kw_only=True)
class ClusterSettings:
    """How a node takes part.

    Attributes:
        endpoints: etcd's base URLs.
        address: ``HOST:PORT`` where other nodes reach this node.
        public: where clients do, as ``SCHEME://HOST:PORT``.
        secret: what all nodes of the cluster know.
        prefix: of all keys in etcd; clusters that share an etcd differ in it.
    """

    endpoints: Sequence[str]
    address: str
    secret: bytes = attrs.field(repr=False)
    public: tuple[str, ...] = ()
    weight: int = 1
    fanout: int = 64
    user: str = ""
    password: str = attrs.field(default="", repr=False)
    tls: ssl.SSLContext | None = None
    prefix: str = PREFIX
    lease_s: int = LEASE_S
    #: Links with TLS alone: our certificate, and where others reach our link port.
    link_tls: NodeTls | None = None
    link_address: str = ""


#: Longer than an old parent is waited for.
_HAND_OVER_S: Final = 4.0


@attrs.define(eq=False)
class Node:
    """A running node of a cluster."""

    cluster: Cluster
    server: Server

    async def withdraw(self) -> None:
        """Hand the rooms over: the others rank this node out, and it follows them."""
        try:
            await self.cluster.membership.withdraw()
        except ClusterError as error:
            _log.warning("could not withdraw", error=str(error))
            return
        # The others need a moment to take over what this node still serves.
        with trio.move_on_after(_HAND_OVER_S):
            while (  # noqa: ASYNC110
                self.cluster.me in self.cluster.membership.placement.weights
                or self.cluster.is_bridge
            ):
                await trio.sleep(0.02)

    def refuge(self, scheme: str) -> str:
        """Return where a client goes that has to leave, and has come by ``scheme``; empty
        for nowhere.

        Not one that we have lost sight of, if there is another: we may be the last
        to hear that it is gone. And one of the third that started last: in a rolling
        restart they have it behind them, and their clients need not move again.
        """
        ours = self.cluster.membership.me.public
        others = [
            (info, address)
            for info in self.cluster.other_members()
            if (address := address_for(scheme, info.public)) and address not in ours
        ]
        found = [each for each in others if each[0].name not in self.cluster.links.lost] or others
        found.sort(key=lambda each: each[0].incarnation, reverse=True)
        if not found:
            return ""
        _, address = random.choice(found[: math.ceil(len(found) / 3)])
        return address.partition("://")[2]

    @property
    def is_expelled(self) -> bool:
        return self.cluster.membership.expelled.is_set()

    async def wait_expelled(self) -> None:
        """Wait until this node is out, and knows who is not, so as to send its clients there."""
        await self.cluster.membership.expelled.wait()
        await self.cluster.membership.look_again()


@contextlib.asynccontextmanager
async def open_cluster(server: Server, settings: ClusterSettings) -> AsyncIterator[Node]:
    """Make a server a node, and join, before it serves. It listens already.

    Raises:
        ClusterError: it cannot join; the message is for a person.
    """
    client: EtcdClient
    async with (
        open_etcd(
            settings.endpoints, user=settings.user, password=settings.password, tls=settings.tls
        ) as client,
        open_plain_nursery() as nursery,
    ):
        me = NodeInfo(
            name=server.node_name,
            address=settings.address,
            weight=settings.weight,
            incarnation=new_incarnation(),
            link=settings.link_address,
            public=settings.public,
        )
        directory = EtcdDirectory(client, settings.prefix)
        membership = Membership(
            client, settings.prefix, me, _log, lambda: None, lease_s=settings.lease_s
        )
        links = Links(
            server.manager,
            membership,
            _log,
            settings.secret,
            nursery,
            server.readiness,
            settings.link_tls,
        )
        cluster = Cluster(
            server.manager,
            membership,
            directory,
            _log,
            nursery,
            links,
            fanout=settings.fanout,
        )

        def on_change() -> None:
            cluster.members_changed()
            # Behind a port that several share, who comes again may find another of them.
            server.directions.update(
                [set(info.public).difference(me.public) for info in cluster.other_members()]
            )

        membership.on_change = on_change
        if isinstance(server.gate.relations, MemoryRelations):
            _log.warning("contacts and blocks hold on this node alone: set database_url")
        bans = server.authenticator.bans
        shared = SharedBans(client, settings.prefix, bans, _log) if bans is not None else None
        requests = Requests(cluster, server.gate, shared)
        presence = Presence(
            membership, directory, _log, lambda account: bool(server.manager.members_of(account))
        )
        cluster.on_forward = requests.forwarding.on_forward
        server.manager.directory = ManagersDirectory(directory, nursery)
        server.manager.elsewhere = requests
        server.manager.on_presence = lambda account, _: presence.note(account)
        if settings.link_tls is None:
            server.gate.links = links
        else:
            server.link_tls = settings.link_tls
            server.link_gate = Gate(NoAccounts(), links=links)
            nursery.start_soon(settings.link_tls.follow)
        await nursery.start(membership.run)
        if shared is not None:
            await nursery.start(shared.run)
        links.try_one()
        nursery.start_soon(presence.run)
        nursery.start_soon(cluster.follow_members)
        nursery.start_soon(cluster.run)
        try:
            yield Node(cluster, server)
        finally:
            with trio.move_on_after(2, shield=True):
                links.close()
                with contextlib.suppress(ClusterError):
                    await membership.leave()
            nursery.cancel_scope.cancel()
