"""The client: rooms, publishing, subscribing, and what concerns the account.

Source: protocol.md, sections 6 to 9 and 13.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, Literal, TypeVar

import attrs
import trio

from tim_trio.errors import LocalProtocolError
from tim_trio.net.client.address import parse_address
from tim_trio.net.client.connection import Bounds, Connection, open_connection
from tim_trio.net.client.errors import (
    ConnectFailed,
    NotATimServer,
    RoomClosed,
    SourceReplaced,
    SourceRevoked,
)
from tim_trio.net.client.source import Source
from tim_trio.net.client.subscription import Subscription
from tim_trio.protocol import messages
from tim_trio.protocol.messages import ListScope, RoomMode, StartFrom
from tim_trio.protocol.room_ids import format_room_id, is_room_id, parse_room_id
from tim_trio.protocol.runs import Run
from tim_trio.protocol.wire import TOKEN_BYTES

C = TypeVar("C")

#: Account events kept for `Client.events`; the oldest go first.
MAX_EVENTS: Final = 1000

AccountEvent = messages.PushAsked | messages.PushGranted | messages.GoAway
Mode = Literal["live", "reliable"]
Start = Literal["group", "live"]

_MODES: Final[dict[str, RoomMode]] = {"live": RoomMode.LIVE, "reliable": RoomMode.RELIABLE}
_STARTS: Final[dict[str, StartFrom]] = {"group": StartFrom.GROUP, "live": StartFrom.LIVE}


def room_number(room: str | int) -> int:
    """Return a room id's number, given as that or as its 11 characters.

    Raises:
        ValueError: not a room id.
    """
    if isinstance(room, str):
        return parse_room_id(room)
    if not is_room_id(room):
        raise ValueError(f"{room} is not a room id")
    return room


@attrs.define(eq=False)
class AccountEvents:
    """Events about the account, in the order they came. Made by `Client.events`."""

    _client: Client = attrs.field(repr=False)
    _queue: deque[AccountEvent] = attrs.Factory(lambda: deque(maxlen=MAX_EVENTS))
    _listeners: trio.lowlevel.ParkingLot = attrs.Factory(trio.lowlevel.ParkingLot)

    def __aiter__(self) -> AccountEvents:
        return self

    async def __anext__(self) -> AccountEvent:
        """Return the next event. Cancelled, nothing is lost.

        Raises:
            ConnectionClosed: the connection is over and nothing is left.
        """
        await trio.lowlevel.checkpoint()
        while not self._queue:
            connection = self._client._connection
            if connection.is_over:
                raise connection.closed_error()
            await self._listeners.park()
        return self._queue.popleft()

    def _put(self, event: AccountEvent) -> None:
        self._queue.append(event)
        self._listeners.unpark_all()

    def _wake(self) -> None:
        self._listeners.unpark_all()


@attrs.define(eq=False)
class Client:
    """A signed-in client. Made by `connect`; use it in that block only.

    Every method may be used by several tasks at once. Rooms are given as
    text or as number. When the connection is lost, whatever waits and every
    later call raise ConnectionClosed.

    Refused requests raise the RoomError of their kind (`NoSuchRoom`,
    `PermissionDenied`, …), and the connection goes on. A request without an
    answer raises RequestTimedOut.
    """

    _connection: Connection = attrs.field(init=False, repr=False)
    _subscriptions: dict[int, Subscription] = attrs.Factory(dict)
    _sources: dict[tuple[int, int], Source] = attrs.Factory(dict)
    #: Tokens in use or being opened here; the same one twice would be one source.
    _tokens: set[bytes] = attrs.field(factory=set, repr=False)
    _events: AccountEvents = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._events = AccountEvents(self)

    @property
    def account(self) -> str:
        """The account as the server wrote it."""
        identity = self._connection.identity
        assert identity is not None
        return identity.account

    @property
    def server(self) -> messages.Welcome:
        """What the server said of itself: version, capabilities, limits."""
        return self._connection.limits

    # -- rooms ---------------------------------------------------------------

    async def register_room(
        self, *, mode: Mode = "live", gather_ms: int = 0, idle_timeout_s: int = 0
    ) -> str:
        """Register a room and return its id, 11 characters.

        Args:
            mode: ``"live"`` never waits for the slow, ``"reliable"`` never drops.
            gather_ms: how long the server may hold small frames to send
                several at once; 0 for not at all.
            idle_timeout_s: after so long without a frame the room ends; 0 for
                the server's default.
        """
        answer = await self._connection.request(
            messages.RegisterRoom(
                mode=_choose(_MODES, mode), gather_ms=gather_ms, idle_timeout_s=idle_timeout_s
            ),
            messages.RegisterRoomAnswer,
        )
        return format_room_id(answer.room)

    async def remove_room(self, room: str | int) -> None:
        """End a room of ours."""
        await self._connection.request(
            messages.RemoveRoom(room=room_number(room)), messages.RemoveRoomAnswer
        )

    async def grant(self, room: str | int, account: str) -> None:
        """Let an account push to a room of ours."""
        await self._connection.request(
            messages.Grant(room=room_number(room), account=account), messages.GrantAnswer
        )

    async def revoke(self, room: str | int, account: str) -> None:
        """Take that right away; the account's sources in the room end at once."""
        await self._connection.request(
            messages.Revoke(room=room_number(room), account=account), messages.RevokeAnswer
        )

    async def room_info(self, room: str | int) -> messages.RoomInfo:
        """Return what the server tells of a room."""
        answer = await self._connection.request(
            messages.GetRoomInfo(room=room_number(room)), messages.RoomInfoAnswer
        )
        return answer.info

    async def list_rooms(self, *, all_rooms: bool = False) -> list[messages.RoomEntry]:
        """Return the rooms created by or granted to us; all of them is for operators."""
        rooms: list[messages.RoomEntry] = []
        scope = ListScope.ALL if all_rooms else ListScope.MINE
        while True:
            after = rooms[-1].room if rooms else 0
            answer = await self._connection.request(
                messages.ListRooms(scope=scope, after=after, limit=0), messages.ListRoomsAnswer
            )
            rooms += answer.rooms
            if not answer.more or not answer.rooms:
                return rooms

    async def ask_to_push(self, room: str | int, message: str = "") -> int:
        """Ask a room's creator for the right to push; return how many connections heard it.

        The answer, if it is yes, comes as PushGranted among `events`.
        """
        answer = await self._connection.request(
            messages.AskToPush(room=room_number(room), message=message), messages.AskToPushAnswer
        )
        return answer.told

    def events(self) -> AccountEvents:
        """Return an iterator over PushAsked, PushGranted and GoAway as they come.

        The newest thousand wait for whoever iterates; each goes to one
        iterator. Iterating raises ConnectionClosed when the connection is over.
        """
        return self._events

    # -- publishing ----------------------------------------------------------

    @asynccontextmanager
    async def publish(
        self, room: str | int, *, token: bytes | None = None
    ) -> AsyncIterator[Source]:
        """Open a source in a room for the block.

        At the block's end the source is unpublished, and the server's answer
        awaited: every frame has then been handed on. If the source ended
        before that without a `send` that said so, this raises it. When an
        exception leaves the block, the source ends without waiting.

        Args:
            token: 16 secret bytes. Those of a source that still runs take it
                over where it stands; by default a new source with random ones.

        Raises:
            RoomError: as the room refuses; later as `Source.send` and `Source.unpublish`.
        """
        source = await self._open_source(room_number(room), token)
        try:
            yield source
            if not source._told:
                await source.unpublish()
        finally:
            self._close_source(source)

    async def _open_source(self, room: int, token: bytes | None) -> Source:
        token = secrets.token_bytes(TOKEN_BYTES) if token is None else bytes(token)
        if token in self._tokens:
            raise LocalProtocolError("a source with this token is open on this connection")
        opened: list[Source] = []

        def open_source(answer: messages.PublishAnswer) -> None:
            source = Source(
                token=token,
                mode=answer.mode,
                room_number=room,
                source_number=answer.source,
                connection=self._connection,
                next_seqs={track.track: track.last_seq + 1 for track in answer.tracks},
                ended={track.track for track in answer.tracks if track.ended},
                counted=answer.received,
                credit=answer.credit,
            )
            self._sources[room, answer.source] = source
            opened.append(source)

        def undo(answer: messages.PublishAnswer) -> object | None:
            # Unless the same source has been asked for again meanwhile.
            in_use = token in self._tokens
            return None if in_use else messages.Unpublish(room=room, source=answer.source)

        self._tokens.add(token)
        try:
            await self._connection.request(
                messages.Publish(room=room, token=token),
                messages.PublishAnswer,
                on_answer=open_source,
                undo=undo,
            )
        except BaseException:
            self._tokens.discard(token)
            raise
        return opened[0]

    def _close_source(self, source: Source) -> None:
        self._tokens.discard(source.token)
        key = (source._room, source.number)
        if self._sources.get(key) is source:
            del self._sources[key]
        if source._make_error is None:
            self._connection.notify_nowait(
                messages.Unpublish(room=source._room, source=source.number)
            )
            source._finish(lambda: LocalProtocolError("the source has been unpublished"))

    # -- subscribing ---------------------------------------------------------

    @asynccontextmanager
    async def subscribe(
        self, room: str | int, *, start: Start = "group"
    ) -> AsyncIterator[Subscription]:
        """Subscribe to a room for the block.

        Args:
            start: ``"group"`` begins with each track's running group where
                the server has it, so that a picture shows at once;
                ``"live"`` with the next frame.

        Raises:
            RoomError: as the room refuses.
        """
        stream = await self._open_subscription(room_number(room), _choose(_STARTS, start))
        try:
            yield stream
        finally:
            self._close_subscription(stream)

    async def _open_subscription(self, room: int, start: StartFrom) -> Subscription:
        connection = self._connection
        window = max(connection.bounds.receive_buffer_bytes, connection.limits.max_frame_bytes)
        opened: list[Subscription] = []

        def open_subscription(answer: messages.SubscribeAnswer) -> None:
            # Still in the reader: what follows the answer must find it.
            stream = Subscription(
                mode=answer.mode,
                sources=tuple(answer.sources),
                room_number=room,
                connection=connection,
                window=window,
            )
            self._subscriptions[room] = stream
            opened.append(stream)

        await connection.request(
            messages.Subscribe(room=room, start=start, credit=window),
            messages.SubscribeAnswer,
            on_answer=open_subscription,
            undo=lambda _: messages.Unsubscribe(room=room),
        )
        return opened[0]

    def _close_subscription(self, stream: Subscription) -> None:
        """Leave without waiting: requests act in order, and late frames are dropped."""
        if self._subscriptions.get(stream._room) is stream:
            del self._subscriptions[stream._room]
            self._connection.notify_nowait(messages.Unsubscribe(room=stream._room))
        stream._leave()

    # -- called by the connection, in the order of the wire --------------------

    def on_run(self, run: Run) -> None:
        """Hand frames to their subscription. Those of a room just left are late."""
        stream = self._subscriptions.get(run.room)
        if stream is not None:
            stream._deliver(run)

    def on_event(self, event: object) -> None:
        """Hand an event to whom it concerns."""
        match event:
            case messages.SourceJoined() | messages.SourceLeft() | messages.Gap():
                stream = self._subscriptions.get(event.room)
                if stream is not None:
                    stream._deliver(event)
            case messages.RoomClosed():
                self._end_room(event)
            case messages.Viewers():
                for (room, _), source in self._sources.items():
                    if room == event.room:
                        source._set_viewers(event.viewers)
            case messages.Credit():
                found = self._sources.get((event.room, event.source))
                if found is not None:
                    found._raise_credit(event.limit)
            case messages.PushRevoked():
                reason = event.reason
                self._end_source(event.room, event.source, lambda r: SourceRevoked(r, reason))
            case messages.Replaced():
                self._end_source(event.room, event.source, SourceReplaced)
            case messages.PushAsked() | messages.PushGranted() | messages.GoAway():
                self._events._put(event)
            case _:
                pass  # of later versions, or of what this client does not do yet

    def on_closed(self) -> None:
        """Wake whoever waits: the connection is over."""
        for stream in self._subscriptions.values():
            stream._wake()
        for source in self._sources.values():
            source._wake()
        self._events._wake()

    def _end_room(self, event: messages.RoomClosed) -> None:
        stream = self._subscriptions.pop(event.room, None)
        if stream is not None:
            stream._close(event)
        name, reason, text = format_room_id(event.room), event.reason, event.text
        for (room, _), source in self._sources.items():
            if room == event.room:
                source._finish(lambda: RoomClosed(name, reason, text))

    def _end_source(self, room: int, number: int, make: Callable[[str], Exception]) -> None:
        source = self._sources.get((room, number))
        if source is not None:
            source._finish(lambda: make(format_room_id(room)))


def _check_account(account: str) -> None:
    if not messages.is_account_name(account):
        raise ValueError(f"{account!r} is not an account name")


def _choose(choices: dict[str, C], text: str) -> C:
    try:
        return choices[text]
    except KeyError:
        raise ValueError(f"{text!r} is none of {', '.join(map(repr, choices))}") from None


@asynccontextmanager
async def open_client(
    stream: trio.abc.Stream,
    *,
    account: str,
    device: str = "",
    handshake_timeout_s: float = 10.0,
    bounds: Bounds | None = None,
) -> AsyncIterator[Client]:
    """As `connect`, over a stream that is connected already; it is closed at the end."""
    _check_account(account)
    client = Client()
    async with open_connection(
        stream,
        client,
        account=account,
        device=device,
        handshake_timeout_s=handshake_timeout_s,
        bounds=bounds or Bounds(),
    ) as connection:
        client._connection = connection
        yield client


@asynccontextmanager
async def connect(
    address: str,
    *,
    account: str,
    device: str = "",
    connect_timeout_s: float = 10.0,
    bounds: Bounds | None = None,
) -> AsyncIterator[Client]:
    """Connect to a server and sign in for the block.

    ::

        async with tim_trio.connect("tim://127.0.0.1:7600", account="alice") as client:
            room = await client.register_room()
            async with client.publish(room) as source:
                await source.send(b"hello")

    An exception of the block comes out as it is, not in a group. When the
    connection is lost, the block goes on until it uses it.

    Args:
        address: ``tim://HOST:PORT``.
        account: who we are.
        device: a name for this device in the account's own list.
        connect_timeout_s: for connecting, and again for the greeting.
        bounds: timeouts and buffer sizes.

    Raises:
        ValueError: ``address`` or ``account`` is malformed.
        ConnectFailed: nobody answers; NotATimServer: someone else does.
        ConnectionClosed: the server closed, and said why.
        RoomError: the server does not want this account.
    """
    where = parse_address(address)
    _check_account(account)
    try:
        with trio.fail_after(connect_timeout_s):
            stream = await trio.open_tcp_stream(where.host, where.port)
    except trio.TooSlowError:
        raise ConnectFailed(f"no answer from {where} within {connect_timeout_s:g} s") from None
    except OSError as error:
        raise ConnectFailed(f"no server at {where}: {_reason(error)}") from error
    try:
        async with open_client(
            stream,
            account=account,
            device=device,
            handshake_timeout_s=connect_timeout_s,
            bounds=bounds,
        ) as client:
            yield client
    except NotATimServer:
        raise NotATimServer(f"what answers at {where} is not a tim_trio server") from None


def _reason(error: OSError) -> str:
    """Return why connecting failed; Trio hides it behind a general sentence."""
    cause: BaseException = error.__cause__ or error
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    if isinstance(cause, socket.gaierror):
        return "the host's name is not known"
    if isinstance(cause, OSError) and cause.errno is not None:
        return os.strerror(cause.errno).lower()
    return str(cause)
