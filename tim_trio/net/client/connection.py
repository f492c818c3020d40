"""One connection to a server, from HELLO to CLOSE.

It knows frames, requests and their answers, and signs of life; it does not
know rooms. What must survive a reconnect (sources, subscriptions, their
tokens and counters) is kept by the `Client`.

Source: protocol.md, sections 2, 5 and 6.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol, TypeVar, cast

import attrs
import trio

from tim_trio._version import __version__
from tim_trio.errors import (
    BadCredentials,
    Code,
    ConnectionClosed,
    RemoteProtocolError,
    is_retryable,
    room_error,
)
from tim_trio.net.client.budget import ReceiveBudget
from tim_trio.net.client.credentials import Credentials
from tim_trio.net.client.errors import ConnectFailed, NotATimServer, RequestTimedOut
from tim_trio.net.client.outgoing import Outgoing
from tim_trio.protocol import messages
from tim_trio.protocol.decoder import ControlFrame, Decoder
from tim_trio.protocol.layout import ANSWER_BIT, MAGIC, VERSION
from tim_trio.protocol.runs import Run

A = TypeVar("A")

READ_BYTES: Final = 256 * 1024
#: WELCOME and the answer to AUTHENTICATE with its session token fit many times.
_GREETING_BYTES: Final = 64 * 1024
#: After the writer has failed, how long the reader may look for a CLOSE that says why.
_LAST_WORDS_S: Final = 1.0
#: Silence of so many ping intervals means that the server is gone.
_SILENT_INTERVALS: Final = 3
#: HELLO and so much fit into what a server takes before its WELCOME.
_SHORT_SECRET_BYTES: Final = 1024
_MAX_REQUEST_ID: Final = 2**32 - 1
_CAPABILITIES: Final = messages.Capability.RELIABLE | messages.Capability.ACCOUNT_STREAMS


@attrs.frozen(kw_only=True)
class Bounds:
    """Every wait and every buffer of a client.

    Attributes:
        request_timeout_s: from when a request was written to its answer.
        drain_timeout_s: the same for UNPUBLISH, whose answer waits until all
            was handed on.
        write_timeout_s: for the kernel to take one batch of at most 256 KiB.
        close_timeout_s: for what is pending and CLOSE to leave at the end.
        send_buffer_bytes: queued for the server before senders wait.
        receive_buffer_bytes: read and not yet taken by the user's iterators
            before the connection is no longer read.
        request_headroom_bytes: as much again while a request is under way.
        account_stream_bytes: account streams that wait for whoever iterates;
            the oldest go first.
        reconnect_for_s: how long a lost connection is tried to be replaced;
            as long as a room lives without data, by default.
    """

    request_timeout_s: float = 10.0
    drain_timeout_s: float = 120.0
    write_timeout_s: float = 30.0
    close_timeout_s: float = 2.0
    send_buffer_bytes: int = 1024 * 1024
    receive_buffer_bytes: int = 4 * 1024 * 1024
    request_headroom_bytes: int = 32 * 1024 * 1024
    account_stream_bytes: int = 1024 * 1024
    reconnect_for_s: float = 300.0


class Receiver(Protocol):
    """Who gets what a connection reads: synchronously, in the order of the wire."""

    connection: Connection

    def on_run(self, run: Run) -> None: ...

    def on_event(self, event: object) -> None: ...

    def on_closed(self) -> None: ...


@attrs.define(eq=False)
class _Request:
    """A request under way.

    Attributes:
        mark: `Outgoing.queued_total` behind it; once so much is sent, its time runs.
        undo: what to send should the answer come when nobody waits any more.
    """

    name: str
    type: int
    mark: int
    timeout_s: float
    on_answer: Callable[[Any], object] | None
    undo: Callable[[Any], object] | None
    scope: trio.CancelScope
    done: trio.Event = attrs.Factory(trio.Event)
    answer: object = None
    error: Exception | None = None
    abandoned: bool = False


@attrs.define(eq=False)
class Connection:
    """A connection that has said HELLO. Made by `open_connection`."""

    stream: trio.abc.Stream
    bounds: Bounds
    receiver: Receiver
    outgoing: Outgoing
    budget: ReceiveBudget
    welcome: messages.Welcome | None = None
    #: The session token for the next connection, where the server gave one.
    identity: messages.AuthenticateAnswer | None = None
    _welcomed: trio.Event = attrs.Factory(trio.Event)
    _over: trio.Event = attrs.Factory(trio.Event)
    _make_error: Callable[[], ConnectionClosed] = ConnectionClosed
    _spoke_otherwise: bool = False
    _decoder: Decoder = attrs.field(init=False)
    _requests: dict[int, _Request] = attrs.Factory(dict)
    _unarmed: list[_Request] = attrs.Factory(list)
    _numbers: itertools.count[int] = attrs.Factory(itertools.count)
    _tasks: trio.CancelScope = attrs.Factory(lambda: trio.CancelScope(shield=True))
    _reader: trio.CancelScope = attrs.Factory(trio.CancelScope)
    _last_received: float = attrs.Factory(trio.current_time)
    _last_sent: float = attrs.Factory(trio.current_time)

    def __attrs_post_init__(self) -> None:
        self._decoder = Decoder(max_frame_bytes=_GREETING_BYTES, max_init_bytes=_GREETING_BYTES)

    # -- state ---------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        return self._over.is_set()

    @property
    def limits(self) -> messages.Welcome:
        """The server's limits, from its WELCOME."""
        assert self.welcome is not None
        return self.welcome

    def closed_error(self) -> ConnectionClosed:
        """Return a new exception that says why the connection is over."""
        return self._make_error()

    async def wait_over(self) -> None:
        """Wait until the connection is over."""
        await self._over.wait()

    def fail(self, code: int | None, text: str = "", *, retry_after_ms: int = 0) -> None:
        """End the connection for everyone. The first reason stays."""
        if self._over.is_set():
            return
        self._make_error = partial(ConnectionClosed, code, text, retry_after_ms=retry_after_ms)
        self._over.set()
        self.outgoing.close()
        for request in self._requests.values():
            request.error = self.closed_error()
            request.done.set()
        self._requests.clear()
        self.receiver.on_closed()

    # -- sending -------------------------------------------------------------

    def send_nowait(self, message: object, request_id: int = 0) -> None:
        """Queue a control frame, whatever is pending: answers have reserved room."""
        self.outgoing.push_nowait(messages.encode(message, request_id))

    def notify_nowait(self, request: object) -> None:
        """Queue a request whose answer nobody waits for."""
        self.send_nowait(request, self._next_number())

    async def request(
        self,
        message: object,
        answer: type[A],
        *,
        timeout_s: float | None = None,
        on_answer: Callable[[A], object] | None = None,
        undo: Callable[[A], object] | None = None,
    ) -> A:
        """Send a request and return its answer.

        Args:
            timeout_s: counted from when the request has been written, since
                it stands behind every frame queued before; None for the usual.
            on_answer: called by the reader, before it looks at what follows
                the answer on the wire.
            undo: given an answer that comes when nobody waits any more (a
                timeout or a cancellation), returns the request that takes it
                back, or None.

        Cancelled while it waits, the request may still be carried out.

        Raises:
            RoomError: the server refused.
            RequestTimedOut: no answer in time.
            ConnectionClosed: the connection ended first.
            LocalProtocolError: the message cannot be written; nothing was sent.
        """
        request = self._start(message, timeout_s=timeout_s, on_answer=on_answer, undo=undo)
        return cast(A, await self._finish(request))

    def _next_number(self) -> int:
        # Wraps before u32 does; 0 is not a request. An old request that still
        # waits for its answer keeps its number.
        while True:
            number = next(self._numbers) % _MAX_REQUEST_ID + 1
            if number not in self._requests:
                return number

    def _start(
        self,
        message: object,
        *,
        timeout_s: float | None = None,
        on_answer: Callable[[Any], object] | None = None,
        undo: Callable[[Any], object] | None = None,
    ) -> _Request:
        if self.is_over:
            raise self.closed_error()
        number = self._next_number()
        self.send_nowait(message, number)
        request = _Request(
            name=type(message).__name__,
            type=messages.type_of(type(message)),
            mark=self.outgoing.queued_total,
            timeout_s=self.bounds.request_timeout_s if timeout_s is None else timeout_s,
            on_answer=on_answer,
            undo=undo,
            scope=trio.CancelScope(),
        )
        self._requests[number] = request
        self._unarmed.append(request)
        return request

    async def _finish(self, request: _Request) -> object:
        try:
            with self.budget.awaiting_answer(), request.scope:
                await request.done.wait()
        finally:
            request.abandoned = not request.done.is_set()
        if request.abandoned:
            raise RequestTimedOut(f"no answer to {request.name} within {request.timeout_s:g} s")
        if request.error is not None:
            raise request.error
        return request.answer

    def _arm_requests(self) -> None:
        """Start the time of the requests that have been written."""
        sent = self.outgoing.sent_total
        while self._unarmed and self._unarmed[0].mark <= sent:
            request = self._unarmed.pop(0)
            request.scope.deadline = trio.current_time() + request.timeout_s

    # -- the tasks -----------------------------------------------------------

    async def run(self) -> None:
        """Read, write and ping until the connection is over, then close the stream.

        Shielded, so that a cancelled user can still say goodbye; whoever
        started it ends it by `aclose`, which has a deadline.
        """
        try:
            with self._tasks:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    nursery.start_soon(self._keep_alive)
                    await self._read()
                    nursery.cancel_scope.cancel()
        finally:
            self.fail(None)
            await trio.aclose_forcefully(self.stream)

    async def aclose(self, code: Code = Code.BYE) -> None:
        """Say CLOSE, let what is pending leave, close. Waits `close_timeout_s` at most."""
        with trio.CancelScope(
            shield=True, deadline=trio.current_time() + self.bounds.close_timeout_s
        ):
            await self._say_close(code)
        self.fail(code)
        self._tasks.cancel()

    async def _say_close(self, code: Code) -> None:
        close = messages.Close(code=code, retry=is_retryable(code), retry_after_ms=0, text="")
        self.send_nowait(close)
        await self.outgoing.wait_sent()

    async def _write(self) -> None:
        try:
            while batch := await self.outgoing.take():
                with trio.fail_after(self.bounds.write_timeout_s):
                    await self.stream.send_all(batch)
                self.outgoing.sent(len(batch))
                self._last_sent = trio.current_time()
                self._arm_requests()
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            # Half a frame may be out, so nothing more is written. The server
            # may have said why before it closed; the reader gets a moment to see.
            self.outgoing.close()
            self._reader.deadline = trio.current_time() + _LAST_WORDS_S

    async def _read(self) -> None:
        with self._reader:
            try:
                while not self.is_over:
                    await self.budget.wait()
                    data = await self.stream.receive_some(READ_BYTES)
                    if not data:
                        break
                    self._last_received = trio.current_time()
                    for item in self._decoder.feed(bytes(data)):
                        self._dispatch(item)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            except (RemoteProtocolError, messages.UnreadableFields) as error:
                self._spoke_otherwise = self.welcome is None
                code = getattr(error, "code", Code.PROTOCOL_ERROR)
                if not self._spoke_otherwise:
                    with trio.move_on_after(_LAST_WORDS_S):
                        await self._say_close(code)
                self.fail(code, f"the server broke the protocol: {error}")
        self.fail(None)

    async def _keep_alive(self) -> None:
        """Ping when one side is silent; give up on a server that stays so.

        A connection that is not read because its user is slow pings too:
        the server judges it by its backlog, not by its silence.
        """
        await self._welcomed.wait()
        interval_s = self.limits.ping_interval_ms / 1000
        for stamp in itertools.count(1):
            await trio.sleep(interval_s / 2)
            now = trio.current_time()
            if self.budget.spent:
                self._last_received = now
            elif now - self._last_received > _SILENT_INTERVALS * interval_s:
                self.fail(None, "the server has gone silent")
                self._tasks.cancel()
            idle = now - min(self._last_sent, self._last_received) >= interval_s / 2
            if idle and not self.outgoing.pending_bytes:
                self.notify_nowait(messages.Ping(stamp=stamp))

    # -- what comes in -------------------------------------------------------

    def _dispatch(self, item: Run | ControlFrame) -> None:
        if isinstance(item, Run):
            self.receiver.on_run(item)
        elif item.type >= ANSWER_BIT:
            self._settle(item)
        elif messages.is_known_type(item.type):
            self._take_message(item.request_id, messages.decode(item.type, item.fields))

    def _take_message(self, request_id: int, message: object) -> None:
        match message:
            case messages.Ping(stamp=stamp):
                self.send_nowait(messages.Pong(stamp=stamp), request_id)
            case messages.Close(code=code, text=text, retry_after_ms=retry_after_ms):
                self.fail(code, text, retry_after_ms=retry_after_ms)
            case _:
                self.receiver.on_event(message)

    def _settle(self, frame: ControlFrame) -> None:
        """Give an answer to its request."""
        request = self._requests.get(frame.request_id)
        if request is None:
            return
        if frame.type not in (ANSWER_BIT, request.type + ANSWER_BIT):
            raise RemoteProtocolError(f"{frame.type:#04x} is no answer to {request.name}")
        answer = messages.decode(frame.type, frame.fields)
        # Only now: had it been unreadable, the connection's end would wake who waits.
        del self._requests[frame.request_id]
        if isinstance(answer, messages.Error):
            request.error = room_error(
                answer.code, answer.text, retry_after_ms=answer.retry_after_ms
            )
        elif request.abandoned:
            undo = request.undo(answer) if request.undo is not None else None
            if undo is not None:
                self.notify_nowait(undo)
        else:
            request.answer = answer
            if request.on_answer is not None:
                request.on_answer(answer)
        request.done.set()

    # -- the handshake -------------------------------------------------------

    async def handshake(
        self, credentials: Credentials | None, timeout_s: float, *, where: str
    ) -> None:
        """Say HELLO and who we are, in one go where that fits; None: only HELLO.

        Args:
            where: the server, as errors name it.

        Raises:
            NotATimServer: the answer was none of this protocol.
            ConnectFailed: no answer in time.
            ConnectionClosed: the server closed, and said why.
            BadCredentials: the secret is not the account's.
            RoomError: the server does not want this account.
        """
        try:
            with trio.fail_after(timeout_s):
                hello = self._start(
                    messages.Hello(
                        magic=MAGIC,
                        min_version=VERSION,
                        max_version=VERSION,
                        capabilities=_CAPABILITIES,
                        agent=f"tim_trio {__version__}",
                    ),
                    timeout_s=math.inf,
                    on_answer=self._on_welcome,
                )
                if credentials is None:
                    await self._finish(hello)
                else:
                    self.identity = await self._sign_in(credentials, hello)
        except trio.TooSlowError:
            raise ConnectFailed(
                f"{where} took the connection, but did not answer within {timeout_s:g} s"
            ) from None
        except ConnectionClosed as error:
            if self._spoke_otherwise or (error.code is None and self.welcome is None):
                raise NotATimServer("what answers there is not a tim_trio server") from None
            raise

    async def _sign_in(
        self, credentials: Credentials, hello: _Request
    ) -> messages.AuthenticateAnswer:
        who = await credentials.request()
        started = None
        if len(who.secret) <= _SHORT_SECRET_BYTES:
            started = self._start(who, timeout_s=math.inf)
        await self._finish(hello)
        if started is None:
            started = self._start(who, timeout_s=math.inf)
        try:
            answer = cast(messages.AuthenticateAnswer, await self._finish(started))
        except BadCredentials:
            if not credentials.fall_back():
                raise
            again = await credentials.request()
            answer = await self.request(again, messages.AuthenticateAnswer, timeout_s=math.inf)
        credentials.learn(answer)
        return answer

    def _on_welcome(self, welcome: messages.Welcome) -> None:
        self.welcome = welcome
        self._welcomed.set()
        self._decoder.max_frame_bytes = welcome.max_frame_bytes
        self._decoder.max_init_bytes = welcome.max_init_bytes


async def start_connection(
    nursery: trio.Nursery,
    stream: trio.abc.Stream,
    receiver: Receiver,
    *,
    credentials: Credentials | None,
    handshake_timeout_s: float,
    bounds: Bounds,
    budget: ReceiveBudget,
    where: str,
) -> None:
    """Say HELLO over ``stream``, and run the connection in ``nursery`` from then on.

    It becomes ``receiver.connection``. Its tasks end by `Connection.aclose`
    alone, which closes the stream too, after CLOSE where that is possible.
    When the connection is lost, whoever uses it sees ConnectionClosed.

    Raises:
        as `Connection.handshake`; the stream is then closed.
    """
    connection = receiver.connection = Connection(
        stream=stream,
        bounds=bounds,
        receiver=receiver,
        outgoing=Outgoing(bounds.send_buffer_bytes),
        budget=budget,
    )
    nursery.start_soon(connection.run)
    try:
        await connection.handshake(credentials, handshake_timeout_s, where=where)
    except BaseException:
        await connection.aclose()
        raise
