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

import trio

from tim_trio.accounts.configured import Accounts, open_accounts
from tim_trio.accounts.schema import StoreError
from tim_trio.accounts.tokens import KeyFileError
from tim_trio.config import Address, ServerConfig
from tim_trio.log import get_logger, setup_logging
from tim_trio.net.listening import ListenError, describe, open_listeners
from tim_trio.net.metrics import TokenFileError, read_token
from tim_trio.net.origin import OriginPolicy
from tim_trio.net.server import Server
from tim_trio.net.tls import ServerTls, TlsFileError
from tim_trio.net.web import WebPort
from tim_trio.web import load_files

_log = get_logger("app")


def run_server(config: ServerConfig) -> int:
    """Run a server until SIGTERM or SIGINT; return the process's exit code.

    Prints ``listening KIND HOST:PORT`` (tcp, tls, web, web-tls) per listener
    on standard output once it accepts. A second signal ends the
    drain at once. SIGUSR1 logs figures.
    """
    setup_logging(log_format=config.log_format, log_level=config.log_level)
    raise_open_files_limit()
    tame_garbage_collector()
    try:
        trio.run(_main, config)
    except (ListenError, StoreError, KeyFileError, TlsFileError, TokenFileError) as error:
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
    """Make full passes rare: one over 8,000 connections stops every stream for 0.1 s.

    What the process was started with is never looked at again. A connection
    that ends leaves no cycles behind (tests/net/test_server.py checks it), so
    memory does not wait for a pass.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 1_000)


async def _main(config: ServerConfig) -> None:
    async with open_accounts(config) as accounts:
        await _serve(config, accounts)


async def _serve(config: ServerConfig, accounts: Accounts) -> None:
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
    listeners = _open_listeners(config.tcp, "--tcp")
    tls_listeners = _open_listeners(config.tls, "--tls")
    web_listeners = _open_listeners(config.web, "--web")
    web_tls_listeners = _open_listeners(config.web_tls, "--web-tls")
    web = _web_port(config, server)
    with (
        trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals,
        trio.open_signal_receiver(signal.SIGUSR1) as questions,
    ):
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(server.serve, listeners, tls_listeners=tls_listeners))
            await nursery.start(partial(web.serve, web_listeners, tls_listeners=web_tls_listeners))
            for kind, opened in (
                ("tcp", listeners),
                ("tls", tls_listeners),
                ("web", web_listeners),
                ("web-tls", web_tls_listeners),
            ):
                for listener in opened:
                    print(f"listening {kind} {describe(listener)}", flush=True)
            nursery.start_soon(_tell_on_signal, server, questions)
            nursery.start_soon(_stop_on_signal, server, signals, nursery.cancel_scope)


def _open_listeners(addresses: Iterable[Address], option: str) -> list[socket.socket]:
    return [
        sock
        for address in addresses
        for sock in open_listeners(address.host, address.port, option=option)
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
    server: Server, signals: AsyncIterator[int], everything: trio.CancelScope
) -> None:
    async with trio.open_nursery() as nursery:
        number = await anext(aiter(signals))
        _log.info("stopping", signal=signal.Signals(number).name)
        nursery.start_soon(_drain, server, nursery.cancel_scope)
        await anext(aiter(signals))
        _log.info("stopping at once")
        everything.cancel()  # the drain too: this nursery would wait for it
    everything.cancel()


async def _drain(server: Server, waiting: trio.CancelScope) -> None:
    await server.drain()
    waiting.cancel()
