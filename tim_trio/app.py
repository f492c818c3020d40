"""The server as a program: configuration in, exit code out.

Source: docs/operations.md.
"""

from __future__ import annotations

import contextlib
import gc
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import trio

from tim_trio.accounts.configured import Accounts, is_of_this_machine, open_accounts
from tim_trio.config import Address, ServerConfig
from tim_trio.errors import TimError
from tim_trio.log import get_logger, setup_logging
from tim_trio.net.collector_pauses import watch_collector
from tim_trio.net.heap import keep_heap
from tim_trio.net.listening import describe, open_listeners
from tim_trio.net.metrics import read_token
from tim_trio.net.origin import OriginPolicy
from tim_trio.net.server import Server
from tim_trio.net.tls import ServerTls
from tim_trio.net.web import WebPort
from tim_trio.web import load_files

if TYPE_CHECKING:
    from tim_trio.cluster.service import Node

_log = get_logger("app")
_GREETING = """
The page: {}
Open it in a browser and click "Test picture": that is a live stream.
"""


class Expelled(TimError):
    """The cluster went on without this node."""


def run_server(config: ServerConfig, *, is_worker: bool = False, greet: bool = False) -> int:
    """Run a server until SIGTERM or SIGINT; return the process's exit code.

    Prints ``listening KIND HOST:PORT`` (tcp, tls, web, web-tls) per listener
    on standard output once it accepts. A second signal ends the
    drain at once. SIGUSR1 logs figures. ``greet`` adds a line for people that
    says where the page is.
    """
    setup_logging(log_format=config.log_format, log_level=config.log_level)
    raise_open_files_limit()
    keep_heap()
    tame_garbage_collector()
    try:
        trio.run(_main, config, is_worker, greet)
    except TimError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def raise_open_files_limit() -> None:
    """Take as many open files as the system lets us have: one per connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def tame_garbage_collector() -> None:
    """Make full passes rare, and the others short: each stops every stream.

    A pass takes 0.3 µs for each object that it looks at, and a connection has
    some fifty. So one over 8,000 connections would take more than 0.1 s; the
    young generations are as small as a pause of some milliseconds wants them.
    What the process was started with is never looked at again. A connection
    that ends leaves no cycles behind (tests/net/test_server.py checks it), so
    memory does not wait for a full pass.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(3_000, 3, 2_000)
    watch_collector()


async def _main(config: ServerConfig, is_worker: bool, greet: bool) -> None:
    async with open_accounts(config) as accounts:
        if await _serve(config, accounts, is_worker, greet):
            raise Expelled(
                "the cluster went on without this node, whose clients have left: start it anew"
            )


async def _serve(config: ServerConfig, accounts: Accounts, is_worker: bool, greet: bool) -> bool:
    """Serve until a signal; True when it ended because the cluster expelled this node."""
    server = Server(
        config.limits,
        node_name=config.node_name,
        drain_timeout_s=config.drain_timeout_s,
        authenticator=accounts.authenticator,
        relations=accounts.relations,
        tls=ServerTls(Path(config.tls_cert), Path(config.tls_key))
        if config.tls or config.web_tls
        else None,
    )
    # Opened before any nursery, so that a ListenError arrives bare.
    listeners = _open_listeners(config.tcp, "--tcp", is_worker)
    if is_worker:
        # Behind the shared port nobody knows which worker will answer: other
        # nodes get a port of this one's own.
        host = Address.parse(config.advertise).host if config.advertise else "127.0.0.1"
        listeners += open_listeners(host, 0, option="--advertise")
        config = attrs.evolve(config, advertise=describe(listeners[-1]))
    link_listeners = [
        # Of each worker's own, likewise.
        sock
        for address in config.link_tls
        for sock in open_listeners(
            address.host, 0 if is_worker else address.port, option="link_tls"
        )
    ]
    tls_listeners = _open_listeners(config.tls, "--tls", is_worker)
    web_listeners = _open_listeners(config.web, "--web", is_worker)
    web_tls_listeners = _open_listeners(config.web_tls, "--web-tls", is_worker)
    web = _web_port(config, server)
    with (
        trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals,
        trio.open_signal_receiver(signal.SIGUSR1) as questions,
    ):
        async with _cluster(config, server, listeners, link_listeners, is_worker) as node:
            async with trio.open_nursery() as nursery:
                await nursery.start(
                    partial(
                        server.serve,
                        listeners,
                        tls_listeners=tls_listeners,
                        link_listeners=link_listeners,
                    )
                )
                await nursery.start(
                    partial(web.serve, web_listeners, tls_listeners=web_tls_listeners)
                )
                for kind, opened in (
                    ("tcp", listeners),
                    ("tls", tls_listeners),
                    ("link-tls", link_listeners),
                    ("web", web_listeners),
                    ("web-tls", web_tls_listeners),
                ):
                    for listener in opened:
                        print(f"listening {kind} {describe(listener)}", flush=True)
                if greet:
                    _greet(web_listeners, web_tls_listeners)
                nursery.start_soon(_tell_on_signal, server, questions)
                nursery.start_soon(_stop_on_signal, server, node, signals, nursery.cancel_scope)
                if node is not None:
                    nursery.start_soon(_stop_when_expelled, server, node, nursery.cancel_scope)
            return node is not None and node.is_expelled


@contextlib.asynccontextmanager
async def _cluster(
    config: ServerConfig,
    server: Server,
    listeners: list[socket.socket],
    link_listeners: list[socket.socket],
    is_worker: bool,
) -> AsyncIterator[Node | None]:
    """Make the server a node of its cluster, if it belongs to one."""
    if not config.cluster:
        yield None
        return
    # Their libraries take a while to load, which a single server need not wait for.
    from tim_trio.cluster.configured import cluster_settings
    from tim_trio.cluster.service import open_cluster

    settings = cluster_settings(
        config,
        [*map(describe, listeners)],
        [*map(describe, link_listeners)],
        shares_port=is_worker,
    )
    if config.auth == "accounts" and not is_worker and is_of_this_machine(config):
        _log.warning(
            "accounts are in a file of this machine: nodes elsewhere have others, unless "
            "database_url names a PostgreSQL that all share"
        )
    async with open_cluster(server, settings) as node:
        server.refuge = node.refuge
        yield node


async def _stop_when_expelled(server: Server, node: Node, everything: trio.CancelScope) -> None:
    await node.wait_expelled()
    await server.drain()
    everything.cancel()


def _greet(web: list[socket.socket], web_tls: list[socket.socket]) -> None:
    for scheme, listeners in (("http", web), ("https", web_tls)):
        for listener in listeners[:1]:
            print(_GREETING.format(f"{scheme}://{describe(listener)}/"), flush=True)


def _open_listeners(
    addresses: Iterable[Address], option: str, is_shared: bool
) -> list[socket.socket]:
    return [
        sock
        for address in addresses
        for sock in open_listeners(address.host, address.port, option=option, is_shared=is_shared)
    ]


async def _tell_on_signal(server: Server, questions: AsyncIterator[int]) -> None:
    async for _ in questions:
        server.log_figures()


def _web_port(config: ServerConfig, server: Server) -> WebPort:
    token = b""
    if config.metrics_token_file:
        token = read_token(Path(config.metrics_token_file))
    return WebPort(
        server,
        load_files(),
        OriginPolicy(frozenset(config.web_hosts), frozenset(config.web_origins)),
        metrics_token=token,
    )


async def _stop_on_signal(
    server: Server,
    node: Node | None,
    signals: AsyncIterator[int],
    everything: trio.CancelScope,
) -> None:
    async with trio.open_nursery() as nursery:
        number = await anext(aiter(signals))
        _log.info("stopping", signal=signal.Signals(number).name)
        nursery.start_soon(_drain, server, node, nursery.cancel_scope)
        await anext(aiter(signals))
        _log.info("stopping at once")
        everything.cancel()  # the drain too: this nursery would wait for it
    everything.cancel()


async def _drain(server: Server, node: Node | None, waiting: trio.CancelScope) -> None:
    if node is not None:
        await node.withdraw()
    await server.drain()
    waiting.cancel()
