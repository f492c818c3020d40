"""The client: rooms, publishing, subscribing, and what concerns the account.

Source: protocol.md, sections 6 to 9 and 13.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Literal, TypeVar

import attrs
import trio

from tim_trio.errors import Code, ConnectionClosed, LocalProtocolError
from tim_trio.net.client.account_streams import (
    FIRST_OWN_KIND,
    OWN_KINDS,
    AccountStreams,
    Receipt,
    Switchboard,
    check_size,
    send_to,
)
from tim_trio.net.client.connection import Connection
from tim_trio.net.client.contacts import Contacts
from tim_trio.net.client.credentials import Credentials, Secret, secret_bytes
from tim_trio.net.client.events import AccountEvents
from tim_trio.net.client.feed import Feed, credit_window
from tim_trio.net.client.figures import Figures
from tim_trio.net.client.files import receiving, sending
from tim_trio.net.client.files.incoming import Ask
from tim_trio.net.client.files.receiving import FileReceiver
from tim_trio.net.client.files.sending import FileSent
from tim_trio.net.client.files.transfer import FileTransfer
from tim_trio.net.client.line import Line
from tim_trio.net.client.notices import AccountEvent, Reconnected, Reconnecting
from tim_trio.net.client.session import Session
from tim_trio.net.client.source import Source
from tim_trio.net.client.subscription import Subscription
from tim_trio.net.client.whereabouts import Whereabouts
from tim_trio.protocol import messages
from tim_trio.protocol.messages import ListScope, RoomMode, StartFrom
from tim_trio.protocol.room_ids import format_room_id, is_room_id, parse_room_id
from tim_trio.protocol.wire import TOKEN_BYTES

A = TypeVar("A")
C = TypeVar("C")

Mode = Literal["live", "reliable"]
Start = Literal["group", "live"]

_MODES: Final[dict[str, RoomMode]] = {"live": RoomMode.LIVE, "reliable": RoomMode.RELIABLE}
_STARTS: Final[dict[str, StartFrom]] = {"group": StartFrom.GROUP, "live": StartFrom.LIVE}


def room_number(room: str | int) -> int:
    """Return a room id's number, given as that or as its 11 characters.

    Raises:
        TypeError: neither.
        ValueError: not a room id.
    """
    if isinstance(room, str):
        return parse_room_id(room)
    if not isinstance(room, int):
        raise TypeError(f"a room is its id as text or as a number, not {type(room).__name__}")
    if not is_room_id(room):
        raise ValueError(f"{room} is not a room id")
    return room


@attrs.define(eq=False)
class Client:
    """A signed-in client. Made by `connect`; use it in that block only.

    Every method may be used by several tasks at once. Rooms are given as
    text or as number.

    When the connection is lost, a client that reconnects looks for another;
    its sources and subscriptions go on by themselves, requests wait for it.
    A request under way at the loss raises ConnectionClosed, since the server
    may have carried it out. When there will be no other connection, whatever
    waits and every later call raise ConnectionClosed.

    Refused requests raise the RoomError of their kind (`NoSuchRoom`,
    `PermissionDenied`, …), and the connection goes on. A request without an
    answer raises RequestTimedOut.
    """

    _line: Line = attrs.field(repr=False)
    _nursery: trio.Nursery = attrs.field(repr=False)
    _switchboard: Switchboard = attrs.field(repr=False)
    _credentials: Credentials = attrs.field(repr=False)
    _whereabouts: Whereabouts = attrs.field(repr=False)
    _subscriptions: dict[int, Subscription] = attrs.Factory(dict)
    _sources: list[Source] = attrs.Factory(list)
    #: Tokens in use or being opened here; the same one twice would be one source.
    _tokens: set[bytes] = attrs.field(factory=set, repr=False)
    _events: AccountEvents = attrs.field(init=False, repr=False)
    _away: bool = False
    #: Files on their way out: their offers are not for us.
    _sending: set[str] = attrs.Factory(set)

    def __attrs_post_init__(self) -> None:
        self._events = AccountEvents(self._line)

    @property
    def _connection(self) -> Connection:
        return self._line.session.connection

    @property
    def account(self) -> str:
        """The account as the server wrote it."""
        identity = self._connection.identity
        assert identity is not None
        return identity.account

    @property
    def rights(self) -> messages.Right:
        """What the account may do beside what everyone may."""
        identity = self._connection.identity
        assert identity is not None
        return messages.Right(identity.rights)

    @property
    def session_token(self) -> bytes:
        """What signs in again without a password, for `connect`; empty for none.

        As good as the password: keep it where nobody else can read.
        """
        return self._credentials.session_token

    @property
    def server(self) -> messages.Welcome:
        """What the server said of itself: version, capabilities, limits."""
        return self._connection.limits

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection at this moment."""
        return self._line.is_up

    async def wait_connected(self) -> None:
        """Wait until there is a connection.

        Raises:
            ConnectionClosed: there will be none.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        await self._line.wait_up()

    async def _request(self, message: object, answer: type[A]) -> A:
        session = await self._line.up()
        return await session.connection.request(message, answer)

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
        answer = await self._request(
            messages.RegisterRoom(
                mode=_choose(_MODES, mode), gather_ms=gather_ms, idle_timeout_s=idle_timeout_s
            ),
            messages.RegisterRoomAnswer,
        )
        return format_room_id(answer.room)

    async def remove_room(self, room: str | int) -> None:
        """End a room of ours."""
        await self._request(messages.RemoveRoom(room=room_number(room)), messages.RemoveRoomAnswer)

    async def grant(self, room: str | int, account: str) -> None:
        """Let an account push to a room of ours."""
        await self._request(
            messages.Grant(room=room_number(room), account=account), messages.GrantAnswer
        )

    async def revoke(self, room: str | int, account: str) -> None:
        """Take that right away; the account's sources in the room end at once."""
        await self._request(
            messages.Revoke(room=room_number(room), account=account), messages.RevokeAnswer
        )

    async def room_info(self, room: str | int) -> messages.RoomInfo:
        """Return what the server tells of a room."""
        answer = await self._request(
            messages.GetRoomInfo(room=room_number(room)), messages.RoomInfoAnswer
        )
        return answer.info

    async def list_rooms(self, *, all_rooms: bool = False) -> list[messages.RoomEntry]:
        """Return the rooms created by or granted to us; all of them is for operators."""
        rooms: list[messages.RoomEntry] = []
        scope = ListScope.ALL if all_rooms else ListScope.MINE
        while True:
            after = rooms[-1].room if rooms else 0
            answer = await self._request(
                messages.ListRooms(scope=scope, after=after, limit=0), messages.ListRoomsAnswer
            )
            rooms += answer.rooms
            if not answer.more or not answer.rooms:
                return rooms

    async def ask_to_push(self, room: str | int, message: str = "") -> int:
        """Ask a room's creator for the right to push; return how many connections heard it.

        The answer, if it is yes, comes as PushGranted among `events`.
        """
        answer = await self._request(
            messages.AskToPush(room=room_number(room), message=message), messages.AskToPushAnswer
        )
        return answer.told

    def events(self) -> AccountEvents:
        """Return an iterator over PushAsked, PushGranted, ContactChanged and GoAway as they come.

        Also over Reconnecting and Reconnected, in between. The newest
        thousand wait for whoever iterates; each goes to one iterator.
        Iterating raises ConnectionClosed when there is no connection any
        more, and will be none.
        """
        return self._events

    # -- for operators -------------------------------------------------------

    async def ban_room(self, room: str | int, reason: str = "") -> None:
        """End a room for everyone; its id is never good again. For operators.

        Args:
            reason: told to everyone in the room.
        """
        await self._request(
            messages.Ban(
                kind=messages.BanKind.ROOM, room=room_number(room), account="", reason=reason
            ),
            messages.BanAnswer,
        )

    async def ban_account(self, account: str, reason: str = "") -> None:
        """Close an account's connections and let it in no more. For operators.

        Where the server keeps the accounts, ``account enable`` lets it in
        again; elsewhere the ban lasts as long as the server runs.

        Args:
            reason: for the server's log.
        """
        await self._request(
            messages.Ban(kind=messages.BanKind.ACCOUNT, room=0, account=account, reason=reason),
            messages.BanAnswer,
        )

    # -- the account ---------------------------------------------------------

    async def change_password(self, old: Secret, new: Secret) -> None:
        """Change our password. Every other device of the account is signed out.

        Raises:
            BadCredentials: ``old`` is not the password.
            RoomError: ``weak_password``; ``not_supported`` where the server
                does not keep the accounts.
        """
        await self._request(
            messages.ChangePassword(
                old=secret_bytes(old, "a password"), new=secret_bytes(new, "a password")
            ),
            messages.ChangePasswordAnswer,
        )
        self._credentials.change_password(secret_bytes(new, "a password"))

    @property
    def contacts(self) -> Contacts:
        """Our contacts and blocks, and who may send to us."""
        return Contacts(self._line)

    @property
    def figures(self) -> Figures:
        """What operators see of the server, its rooms and their subscribers."""
        return Figures(self._line)

    # -- account streams -----------------------------------------------------

    async def send_to(
        self, accounts: str | Iterable[str], payload: bytes, *, kind: int = FIRST_OWN_KIND
    ) -> dict[str, Receipt]:
        """Send a message to every live device of one or several accounts.

        Nothing is stored: who is not there does not get it. Delivered means
        handed to a connection, not that a program has taken it.

        Args:
            accounts: one name, or several.
            payload: at most 64 KiB, unless the server says otherwise.
            kind: what it is, to the application: 256 to 65,535.

        Returns:
            What became of it, by receiver.

        Raises:
            LocalProtocolError: too large for this server, or not a kind.
        """

        async def ask(message: messages.AccountSend) -> messages.AccountSendAnswer:
            session = await self._line.up()
            check_size(message, session.connection.limits)
            return await session.connection.request(message, messages.AccountSendAnswer)

        return await send_to(ask, accounts, payload, kind)

    def account_streams(self, kinds: Collection[int] = OWN_KINDS) -> AccountStreams:
        """Return an iterator over messages from other accounts as they come.

        Each iterator gets every message of its kinds from now on, and before
        them those that nobody wanted yet. `Bounds.account_stream_bytes` of
        them wait for whoever iterates, the newest (`AccountStreams.dropped`
        counts the others). Iterating raises ConnectionClosed when there is no
        connection any more, and will be none.

        Args:
            kinds: what to take, by default everything that is an
                application's own: 256 to 65,535.
        """
        return self._switchboard.open(self._line, kinds)

    # -- files ---------------------------------------------------------------

    async def send_file(
        self,
        path: str | Path,
        *,
        to: str,
        name: str | None = None,
        media_type: str = "",
        answer_within_s: float = 120.0,
        resume_within_s: float = 300.0,
        may_be_offline: bool = False,
        transfer: FileTransfer | None = None,
    ) -> FileSent:
        """Send a file to an account, and return when it has arrived there whole.

        First the file is read for its SHA-256, then it is offered until one
        of the account's devices accepts. When the connection, the server or
        the receiver goes away meanwhile, it is offered again and goes on
        where the receiver stands. Disk work is done in threads.

        Cancelled, it tells the receiver so, whose part stays: send the same
        file again, from another process too, and it goes on.

        Args:
            name: what to call it there; by default what it is called here.
            media_type: what it is, such as ``"video/mp4"``.
            answer_within_s: how long to wait for an answer at first.
            resume_within_s: how long to wait after an interruption.
            may_be_offline: wait also for a receiver who is not online at first.
            transfer: shows how far it is, and cancels it for good.

        Raises:
            FileTransferError: it did not get there; its kinds say why.
            NotSupported: the server does not serve account streams.
            ConnectionClosed: the connection is over, and there will be no other.
        """
        path = Path(path)
        return await sending.send_file(
            self,
            path,
            to=to,
            name=path.name if name is None else name,
            media_type=media_type,
            answer_within_s=answer_within_s,
            resume_within_s=resume_within_s,
            may_be_offline=may_be_offline,
            transfer=FileTransfer() if transfer is None else transfer,
        )

    @asynccontextmanager
    async def receive_files(
        self,
        directory: str | Path,
        *,
        accept: Ask | None = None,
        accept_from: Collection[str] = (),
        patience_s: float = 300.0,
    ) -> AsyncIterator[FileReceiver]:
        """Take files that other accounts send into a directory, for the block.

        ::

            async with client.receive_files("inbox", accept_from={"alice"}) as arrivals:
                async for arrival in arrivals:
                    print(arrival.path or arrival.error)

        A file appears under its name only when it is whole and its SHA-256
        is right, and never in the place of another. Until then it is a
        hidden part, with which this or another process goes on when the file
        is offered again.

        Args:
            accept: asks whether a file is wanted. It is cancelled when the
                sender takes the offer back or another device answers first.
                None: nobody is asked, and the answer is no.
            accept_from: accounts from whom everything is wanted.
            patience_s: how long a sender may stay away in mid-transfer; its
                part stays for later.

        Raises:
            NotSupported: the server does not serve account streams.
            OSError: the directory cannot be read.
        """
        async with receiving.receive_files(
            self, Path(directory), ask=accept, accept_from=accept_from, patience_s=patience_s
        ) as receiver:
            yield receiver

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

        def undo(answer: messages.PublishAnswer) -> object | None:
            # Unless the same source has been asked for again meanwhile.
            in_use = token in self._tokens
            return None if in_use else messages.Unpublish(room=room, source=answer.source)

        async def publish() -> None:
            session = await self._line.up()

            def open_source(answer: messages.PublishAnswer) -> None:
                source = Source(
                    token=token,
                    mode=answer.mode,
                    room_number=room,
                    source_number=answer.source,
                    line=self._line,
                    session=session,
                    next_seqs={track.track: track.last_seq + 1 for track in answer.tracks},
                    ended={track.track for track in answer.tracks if track.ended},
                    counted=answer.received,
                    credit=answer.credit,
                )
                session.sources[room, answer.source] = source
                self._sources.append(source)
                opened.append(source)

            await session.connection.request(
                messages.Publish(room=room, token=token),
                messages.PublishAnswer,
                on_answer=open_source,
                undo=undo,
            )

        self._tokens.add(token)
        try:
            await self._through_losses(publish)
        except BaseException:
            for source in opened:
                self._close_source(source)
            self._tokens.discard(token)
            raise
        return opened[0]

    async def _through_losses(self, ask: Callable[[], Awaitable[None]]) -> None:
        """Ask on the next connection what was lost with one: for what may be asked twice."""
        while True:
            try:
                return await ask()
            except ConnectionClosed:
                if self._line.is_over or not self._line.reconnects:
                    raise

    def _close_source(self, source: Source) -> None:
        self._tokens.discard(source.token)
        if source in self._sources:
            self._sources.remove(source)
        session = source._session
        if session is not None:
            session.drop_source(source)
        if source._make_error is None:
            if session is not None:
                session.connection.notify_nowait(
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
        opened: list[Subscription] = []

        async def subscribe() -> None:
            session = await self._line.up()
            connection = session.connection

            def open_subscription(answer: messages.SubscribeAnswer) -> None:
                # Still in the reader: what follows the answer must find it.
                stream = Subscription(
                    mode=answer.mode,
                    sources=tuple(answer.sources),
                    room_number=room,
                    start=start,
                    line=self._line,
                )
                feed = session.feeds[room] = Feed.opened(connection, stream, answer)
                stream._attach(feed)
                self._subscriptions[room] = stream
                opened.append(stream)

            await connection.request(
                messages.Subscribe(room=room, start=start, credit=credit_window(connection)),
                messages.SubscribeAnswer,
                on_answer=open_subscription,
                undo=lambda _: messages.Unsubscribe(room=room),
            )

        try:
            await self._through_losses(subscribe)
        except BaseException:
            for stream in opened:
                self._close_subscription(stream)
            raise
        return opened[0]

    def _close_subscription(self, stream: Subscription) -> None:
        """Leave without waiting: requests act in order, and late frames are dropped."""
        if self._subscriptions.get(stream._room) is stream:
            del self._subscriptions[stream._room]
        for feed in {stream._feed, stream._next_feed} - {None}:
            assert feed is not None
            session = feed.connection.receiver
            assert isinstance(session, Session)
            if session.feeds.get(stream._room) is feed:
                del session.feeds[stream._room]
                feed.connection.notify_nowait(messages.Unsubscribe(room=stream._room))
        stream._leave()

    # -- called by the sessions and the reconnector -----------------------------

    def on_account_event(self, event: AccountEvent) -> None:
        if isinstance(event, Reconnected):
            self._away = False
        self._events._put(event)

    def on_account_stream(self, session: Session, message: messages.AccountStream) -> None:
        self._switchboard.take(session, message)

    def on_other_nodes(self, message: messages.OtherNodes) -> None:
        self._whereabouts.learn(message.addresses)

    def on_session_over(self, session: Session) -> None:
        """A connection has ended: everything on it waits for the next, or is over."""
        self._switchboard.end()
        connection = session.connection
        error = connection.closed_error()
        is_newest = not self._line.is_set or self._line.session is session
        # With a fresh token nothing has expired.
        has_run_out = error.code == Code.EXPIRED and self._credentials.is_renewable
        if not self._line.reconnects or (is_newest and not error.retryable and not has_run_out):
            self._give_up(connection.closed_error)
            return
        for source in session.sources.values():
            source._lose()
        for feed in session.feeds.values():
            feed.taker.lose(feed, error)
        session.sources.clear()
        session.feeds.clear()
        if is_newest and not self._away:
            self._away = True
            self._events._put(Reconnecting(error))

    def _give_up(self, make_error: Callable[[], ConnectionClosed]) -> None:
        """Wake whoever waits: there will be no other connection."""
        self._line.finish(make_error)
        for stream in self._subscriptions.values():
            stream._wake()
        for source in self._sources:
            source._wake()
        self._events._wake()
        self._switchboard.wake()

    def _rooms_in_use(self) -> set[int]:
        rooms = {source._room for source in self._sources if source._make_error is None}
        return rooms | {room for room, one in self._subscriptions.items() if not one._is_over}


def _choose(choices: dict[str, C], text: str) -> C:
    try:
        return choices[text]
    except KeyError:
        raise ValueError(f"{text!r} is none of {', '.join(map(repr, choices))}") from None
