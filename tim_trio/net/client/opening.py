"""From an address and who we are to a signed-in client.

Source: protocol.md, section 6; docs/client.md.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from tim_trio.net.client.account_streams import Switchboard
from tim_trio.net.client.address import Address, parse_address
from tim_trio.net.client.budget import ReceiveBudget
from tim_trio.net.client.client import Client
from tim_trio.net.client.connection import Bounds, Connection, start_connection
from tim_trio.net.client.credentials import (
    Credentials,
    Secret,
    TokenSource,
    checked_account,
    secret_bytes,
)
from tim_trio.net.client.dial import client_context, dial
from tim_trio.net.client.errors import ConnectFailed, NotATimServer
from tim_trio.net.client.line import Line
from tim_trio.net.client.plain_nursery import open_plain_nursery
from tim_trio.net.client.reconnect import Reconnector
from tim_trio.net.client.renewal import keep_renewing
from tim_trio.net.client.session import Session
from tim_trio.net.client.whereabouts import Whereabouts
from tim_trio.protocol.messages import RegisterAccount, RegisterAccountAnswer
from tim_trio.protocol.runs import Run

#: Opens another stream: to where the server has sent us, or to the usual place.
Dial = Callable[[Address | None], Awaitable[trio.abc.Stream]]


@asynccontextmanager
async def open_client(
    stream: trio.abc.Stream,
    *,
    account: str | None = None,
    password: Secret | None = None,
    session_token: Secret | None = None,
    token: TokenSource | None = None,
    device: str = "",
    handshake_timeout_s: float = 10.0,
    bounds: Bounds | None = None,
    dial: Dial | None = None,
    tls: bool = False,
    where: str = "the server",
) -> AsyncIterator[Client]:
    """As `connect`, over a stream that is connected already; it is closed at the end.

    Args:
        dial: opens another stream when this one is lost; None: do not
            reconnect. It raises ConnectFailed where that is not possible.
        tls: that the stream is TLS, and so all others are to be.
        where: what the stream leads to, as errors name it.
    """
    credentials = Credentials.check(
        account, password=password, session_token=session_token, token=token, device=device
    )
    bounds = bounds or Bounds()
    budget = ReceiveBudget(bounds.receive_buffer_bytes, bounds.request_headroom_bytes)

    async def sign_in(stream: trio.abc.Stream, where: str) -> Session:
        session = Session(client)
        client._switchboard.begin()
        await start_connection(
            nursery,
            stream,
            session,
            credentials=credentials,
            handshake_timeout_s=handshake_timeout_s,
            bounds=bounds,
            budget=budget,
            where=where,
        )
        opened[:] = [one for one in opened if not one.connection.is_over]
        opened.append(session)
        return session

    async def open_another(elsewhere: Address | None, patience_s: float) -> Session:
        assert dial is not None
        name = where if elsewhere is None else str(elsewhere)
        stream = None
        with trio.move_on_after(patience_s):
            stream = await dial(elsewhere)
        if stream is None:
            raise ConnectFailed(f"no answer from {name} within {patience_s:g} s")
        return await sign_in(stream, name)

    opened: list[Session] = []
    async with open_plain_nursery() as nursery:
        client = Client(
            Line(reconnects=dial is not None),
            nursery,
            Switchboard(bounds.account_stream_bytes),
            credentials,
            Whereabouts(tls),
        )
        client._line.use(await sign_in(stream, where))
        try:
            if dial is not None:
                reconnector = Reconnector(client, open_another, bounds.reconnect_for_s)
                nursery.start_soon(reconnector.run)
                nursery.start_soon(keep_renewing, client._line, credentials)
            yield client
        finally:
            # Nobody looks for another connection from here on; the connections'
            # own tasks are shielded, and end by their goodbye.
            client._line.reconnects = False
            nursery.cancel_scope.cancel()
            for session in opened:
                await session.connection.aclose()


@asynccontextmanager
async def connect(
    address: str,
    *,
    account: str | None = None,
    password: Secret | None = None,
    session_token: Secret | None = None,
    token: TokenSource | None = None,
    device: str = "",
    tls_ca: str | Path | None = None,
    connect_timeout_s: float = 10.0,
    reconnect: bool = True,
    bounds: Bounds | None = None,
) -> AsyncIterator[Client]:
    """Connect to a server and sign in for the block.

    ::

        async with tim_trio.connect("tim://127.0.0.1:7600", account="alice") as client:
            room = await client.register_room()
            async with client.publish(room) as source:
                await source.send(b"hello")

    An exception of the block comes out as it is, not in a group. When the
    connection is lost, the block goes on; sources and subscriptions of it
    wait for the next connection, or raise ConnectionClosed when there will
    be none.

    Args:
        address: ``tim://HOST:PORT``, or ``tims://HOST:PORT`` for TLS.
        account: who we are; not needed with a token or a session token.
        password: the account's, where the server keeps accounts. Used once:
            later connections are by the session token that it gives.
        session_token: of an earlier `Client.session_token`; with a password as
            well, that is used when the session is over.
        token: a signed token (JWT) of the operator's user system; or a
            function, async or not, that gives a fresh one for each connection.
        device: a name for this device in the account's own list.
        tls_ca: a PEM file with the authorities to trust, instead of the system's.
        connect_timeout_s: for connecting, and again for the greeting.
        reconnect: connect again after a loss, or a close that does not forbid
            it, for `Bounds.reconnect_for_s`. The first connection is tried once.
        bounds: timeouts and buffer sizes.

    Raises:
        ValueError: ``address`` or ``account`` is malformed, or what signs in
            does not fit together.
        ConnectFailed: nobody answers; NotATimServer: someone else does;
            TlsFailed: the server does not prove who it is.
        ConnectionClosed: the server closed, and said why.
        BadCredentials: not this account's password, session or token.
        RoomError: the server does not want this account.
    """
    where = parse_address(address)
    # Before anybody is dialled.
    Credentials.check(
        account, password=password, session_token=session_token, token=token, device=device
    )

    context = await _context(where, tls_ca)

    async def open_stream(elsewhere: Address | None) -> trio.abc.Stream:
        return await dial(elsewhere or where, connect_timeout_s, context)

    stream = await open_stream(None)
    try:
        async with open_client(
            stream,
            account=account,
            password=password,
            session_token=session_token,
            token=token,
            device=device,
            handshake_timeout_s=connect_timeout_s,
            bounds=bounds,
            dial=open_stream if reconnect else None,
            tls=where.tls,
            where=str(where),
        ) as client:
            yield client
    except NotATimServer:
        raise NotATimServer(f"what answers at {where} is not a tim_trio server") from None


async def _context(where: Address, tls_ca: str | Path | None) -> ssl.SSLContext | None:
    if not where.tls:
        return None
    ca = None if tls_ca is None else Path(tls_ca)
    return await trio.to_thread.run_sync(client_context, ca)


async def register_account(
    address: str,
    account: str,
    password: Secret,
    *,
    invitation: Secret = b"",
    tls_ca: str | Path | None = None,
    connect_timeout_s: float = 10.0,
    bounds: Bounds | None = None,
) -> None:
    """Make an account on a server that lets people register.

    It is not signed in.

    Args:
        invitation: the code that the operator gave out, where one is needed.
        tls_ca, connect_timeout_s, bounds: as of `connect`.

    Raises:
        ValueError: ``address``, ``account`` or a secret is malformed.
        ConnectFailed, NotATimServer, TlsFailed: as of `connect`.
        ConnectionClosed: the server closed, and said why.
        RoomError: ``account_exists``, ``weak_password``, ``registration_closed``;
            ``not_supported`` where the server keeps no accounts.
    """
    where = parse_address(address)
    request = RegisterAccount(
        account=checked_account(account),
        password=secret_bytes(password, "a password"),
        invitation=secret_bytes(invitation, "an invitation") if invitation else b"",
    )
    bounds = bounds or Bounds()
    context = await _context(where, tls_ca)
    stranger = _Stranger()
    async with open_plain_nursery() as nursery:
        try:
            await start_connection(
                nursery,
                await dial(where, connect_timeout_s, context),
                stranger,
                credentials=None,
                handshake_timeout_s=connect_timeout_s,
                bounds=bounds,
                budget=ReceiveBudget(bounds.receive_buffer_bytes, bounds.request_headroom_bytes),
                where=str(where),
            )
        except NotATimServer:
            raise NotATimServer(f"what answers at {where} is not a tim_trio server") from None
        try:
            await stranger.connection.request(request, RegisterAccountAnswer)
        finally:
            await stranger.connection.aclose()


class _Stranger:
    """Gets nothing, for it has not signed in."""

    connection: Connection

    def on_run(self, run: Run) -> None:
        pass

    def on_event(self, event: object) -> None:
        pass

    def on_closed(self) -> None:
        pass
