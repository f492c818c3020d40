"""Coming back: another connection in place of one that was lost, or is to be left.

One task per client. It alone opens further connections, and it alone moves
sources and subscriptions to them.

Source: protocol.md, section 6 item 5, section 13 (GO_AWAY, OTHER_NODES); docs/client.md.
"""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Final

import attrs
import trio

from tim_trio.errors import Code, ConnectionClosed, RoomError
from tim_trio.net.client.address import Address
from tim_trio.net.client.errors import ConnectFailed, RequestTimedOut, SourceLost
from tim_trio.net.client.feed import Feed, credit_window
from tim_trio.net.client.notices import Reconnected
from tim_trio.net.client.session import Session
from tim_trio.net.client.source import Source
from tim_trio.net.client.subscription import Subscription
from tim_trio.protocol import messages
from tim_trio.protocol.messages import RoomMode

if TYPE_CHECKING:
    from tim_trio.net.client.client import Client

#: Opens a signed-in session at an address, or at the usual one; TCP has so many seconds.
Open = Callable[[Address | None, float], Awaitable[Session]]

_FIRST_WAIT_S: Final = 0.25
_LONGEST_WAIT_S: Final = 30.0
#: A connection that lasted so long begins a new series of attempts.
_LASTING_S: Final = 10.0
#: Requests under way at once while everything is resumed; the server limits their rate.
_AT_ONCE: Final = 16
#: For a refusal that may pass but does not say when.
_ASK_AGAIN_S: Final = 1.0
#: For a node to answer while others may be there, in the first rounds. A machine that is
#: gone does not say so.
_PATIENCE_S: Final = 2.0
_HASTY_ROUNDS: Final = 2
#: Closes after which another node is the better choice.
_ILL: Final = frozenset({Code.SHUTTING_DOWN, Code.OVERLOADED, Code.TOO_MANY_CONNECTIONS})


@attrs.define(eq=False)
class Backoff:
    """Random waits that grow with each attempt: at one address, or at all that are known."""

    _uniform: Callable[[float, float], float] = random.uniform
    attempt: int = 0

    def next_s(self, retry_after_ms: int = 0, *, is_new: bool = True) -> float:
        """Return the next wait; not ``is_new``: within the same attempt."""
        self.attempt += is_new
        longest = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** min(self.attempt - 1, 30))
        return max(self._uniform(0, longest), retry_after_ms / 1000)

    def reset(self) -> None:
        self.attempt = 0


@attrs.define(eq=False)
class Reconnector:
    """Keeps a client connected until it is cancelled, or gives up."""

    _client: Client
    _open: Open
    _reconnect_for_s: float
    _backoff: Backoff = attrs.Factory(Backoff)

    async def run(self) -> None:
        line = self._client._line
        while not line.is_over:
            session = line.session
            came = trio.current_time()
            await session.stirred.wait()
            if not session.connection.is_over:
                await self._move(session)
            if line.session is session:
                await session.connection.wait_over()
                if trio.current_time() - came >= _LASTING_S:
                    self._backoff.reset()
                await self._come_back(session)

    # -- after a loss -----------------------------------------------------------

    async def _come_back(self, lost: Session) -> None:
        """Connect again and resume everything, or give up for good."""
        began = trio.current_time()
        deadline = began + self._reconnect_for_s
        error: Exception = lost.connection.closed_error()
        is_ill = isinstance(error, ConnectionClosed) and error.code in _ILL
        whereabouts = self._client._whereabouts
        shunned: set[Address | None] = set()
        ways: list[Address | None] = []
        attempts = rounds = 0
        while not self._client._line.is_over:
            if is_new := not ways:
                known = whereabouts.after_a_loss(is_ill=is_ill)
                ways = [way for way in known if way not in shunned]
                rounds += 1
                is_hasty = len(ways) > 1 and rounds <= _HASTY_ROUNDS
            retry_after_ms = getattr(error, "retry_after_ms", 0) if is_new else 0
            wait_s = self._backoff.next_s(retry_after_ms, is_new=is_new)
            if trio.current_time() + wait_s > deadline:
                self._give_up(lost, error)
                return
            await trio.sleep(wait_s)
            where = ways.pop(0)
            attempts += 1
            try:
                session = await self._open(where, _PATIENCE_S if is_hasty else math.inf)
            except (ConnectionClosed, RoomError, ConnectFailed) as failed:
                error = failed
                if not getattr(failed, "retryable", True):
                    if where in (None, whereabouts.here):
                        self._give_up(lost, failed)
                        return
                    # One node that is set up otherwise does not speak for all.
                    shunned.add(where)
                continue
            whereabouts.arrive(where)
            self._client._line.use(session)
            after_s = trio.current_time() - began
            await self._resume_all(session, after_s, attempts)
            if not session.connection.is_over:
                self._client.on_account_event(Reconnected(after_s=after_s, attempts=attempts))
            return

    def _give_up(self, lost: Session, error: Exception) -> None:
        reason = lost.connection.closed_error()
        if isinstance(error, ConnectionClosed) and not error.retryable:
            code, text = error.code, error.text
        else:
            code = reason.code
            text = "; ".join(filter(None, (reason.text, f"no way back: {error}")))
        self._client._give_up(partial(ConnectionClosed, code, text))

    async def _resume_all(self, session: Session, after_s: float, attempts: int) -> None:
        """Take up everything that has no connection; returns early when this one is lost."""
        limiter = trio.CapacityLimiter(_AT_ONCE)  # a request counts until its answer

        async def stop_at_the_end() -> None:
            await session.connection.wait_over()
            nursery.cancel_scope.cancel()

        async def resume(source: Source) -> None:
            async with limiter:
                await self._resume_source(session, source)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop_at_the_end)
            async with trio.open_nursery() as inner:
                # First what the server waits for only a moment.
                for source in tuple(self._client._sources):
                    if source._session is None:
                        inner.start_soon(resume, source)
            for stream in tuple(self._client._subscriptions.values()):
                if stream._feed is None and not stream._is_over:
                    # Not waited for: its user may take his time.
                    self._client._nursery.start_soon(
                        self._resume_subscription, session, stream, after_s, attempts, limiter
                    )
            nursery.cancel_scope.cancel()

    async def _insist(
        self, session: Session, ask: Callable[[], Awaitable[object]]
    ) -> RoomError | None:
        """Ask until it is granted; return the refusal that says not to ask again.

        Returns None also when the connection is lost: the next one asks anew.
        """
        while True:
            try:
                await ask()
            except RoomError as error:
                if not error.retryable:
                    return error
                await trio.sleep(max(error.retry_after_ms / 1000, random.uniform(0, _ASK_AGAIN_S)))
            except RequestTimedOut:
                # Asked again, the late answer would be in the way.
                await session.connection.aclose()
                return None
            except ConnectionClosed:
                return None
            else:
                return None

    async def _resume_source(self, session: Session, source: Source) -> None:
        lost: list[messages.PublishAnswer] = []

        def resume(answer: messages.PublishAnswer) -> None:
            key = source._room, answer.source
            if source._make_error is not None:
                session.connection.notify_nowait(
                    messages.Unpublish(room=source._room, source=answer.source)
                )
            elif answer.source != source.number and (
                source.mode is RoomMode.RELIABLE or source._unpublishing
            ):
                session.connection.notify_nowait(
                    messages.Unpublish(room=source._room, source=answer.source)
                )
                lost.append(answer)
            else:
                session.sources[key] = source
                source._resume(session, answer)

        async def publish() -> None:
            if source._make_error is None:
                await session.connection.request(
                    messages.Publish(room=source._room, token=source.token),
                    messages.PublishAnswer,
                    on_answer=resume,
                )

        refusal = await self._insist(session, publish)
        if refusal is not None:
            source._finish(partial(type(refusal), refusal.code, refusal.text))
        elif lost and not (source._unpublishing and await self._was_handed_on(session, source)):
            room = source.room
            source._finish(lambda: SourceLost(room))

    async def _was_handed_on(self, session: Session, source: Source) -> bool:
        """Look whether a source left with its last frame: UNPUBLISH was carried out,
        and only its answer was lost."""
        try:
            answer = await session.connection.request(
                messages.GetRoomInfo(room=source._room), messages.RoomInfoAnswer
            )
        except (RoomError, RequestTimedOut, ConnectionClosed):
            return False
        for info in answer.info.sources:
            if info.source == source.number and info.left:
                return source._left_complete({t.track: t.last_seq for t in info.tracks})
        return False

    async def _resume_subscription(
        self,
        session: Session,
        stream: Subscription,
        after_s: float,
        attempts: int,
        limiter: trio.CapacityLimiter,
    ) -> None:
        def resume(answer: messages.SubscribeAnswer) -> None:
            if stream._is_over:
                session.connection.notify_nowait(messages.Unsubscribe(room=stream._room))
                return
            feed = session.feeds[stream._room] = Feed.opened(session.connection, stream, answer)
            stream._resume(feed, answer, after_s, attempts)

        async def subscribe() -> None:
            if not stream._is_over and stream._feed is None:
                await session.connection.request(
                    _subscribe(session, stream), messages.SubscribeAnswer, on_answer=resume
                )

        await stream._wait_drained()
        async with limiter:
            refusal = await self._insist(session, subscribe)
        if refusal is not None:
            stream._refuse(refusal)

    # -- at the server's wish -----------------------------------------------------

    async def _move(self, old: Session) -> None:
        """Leave for another connection before this one ends, with nothing lost.

        Returns when that is done, or this connection has ended first.
        """
        go_away = old.go_away
        assert go_away is not None
        whereabouts = self._client._whereabouts
        whereabouts.send_to(go_away.address)
        if await _over_within(old, random.uniform(0, go_away.spread_ms / 1000)):
            return
        backoff = Backoff()
        ways: list[Address | None] = []
        while True:
            if not ways:
                ways = [whereabouts.here] if old.renews else whereabouts.on_leaving()
                is_hasty = len(ways) > 1
            where = ways.pop(0)
            try:
                new = await self._open(where, _PATIENCE_S if is_hasty else math.inf)
                break
            except (ConnectionClosed, RoomError, ConnectFailed) as error:
                is_new = not ways
                retry_after_ms = getattr(error, "retry_after_ms", 0) if is_new else 0
                if await _over_within(old, backoff.next_s(retry_after_ms, is_new=is_new)):
                    return
        try:
            for room in self._client._rooms_in_use():
                await new.connection.request(
                    messages.GetRoomInfo(room=room), messages.RoomInfoAnswer
                )
        except (RoomError, RequestTimedOut, ConnectionClosed):
            # Not everything is there: stay as long as we may.
            await new.connection.aclose()
            await old.connection.wait_over()
            return
        whereabouts.arrive(where)
        self._client._line.use(new)
        for stream in tuple(self._client._subscriptions.values()):
            if not stream._is_over:
                await self._move_subscription(old, new, stream)
        for source in tuple(self._client._sources):
            if source._session is old:
                await self._move_source(old, new, source)
        await old.connection.aclose()
        # What the old one lost before its turn came.
        await self._resume_all(new, 0.0, 1)

    async def _move_subscription(self, old: Session, new: Session, stream: Subscription) -> None:
        answers: list[tuple[messages.SubscribeAnswer, set[int]]] = []

        def prepare(answer: messages.SubscribeAnswer) -> None:
            feed = new.feeds[stream._room] = Feed.opened(new.connection, stream, answer)
            stream._prepare(feed)
            answers.append((answer, set(stream._seen.present)))

        async def subscribe() -> None:
            if not answers:
                await new.connection.request(
                    _subscribe(new, stream), messages.SubscribeAnswer, on_answer=prepare
                )

        if stream._feed is None:
            return
        refusal = await self._insist(new, subscribe)
        if refusal is not None or not answers:
            return  # it stays with the old connection to its end
        try:
            # What the old one still has in line comes before its answer.
            await old.connection.request(
                messages.Unsubscribe(room=stream._room), messages.UnsubscribeAnswer
            )
        except (RoomError, RequestTimedOut, ConnectionClosed):
            pass
        old.feeds.pop(stream._room, None)
        stream._switch(*answers[0])

    async def _move_source(self, old: Session, new: Session, source: Source) -> None:
        source._pause()
        try:
            # Answered behind the frames: they have been accepted.
            await old.connection.request(messages.Ping(stamp=0), messages.Pong)
        except (RoomError, RequestTimedOut, ConnectionClosed):
            pass
        old.drop_source(source)
        source._lose()
        await self._resume_source(new, source)
        source._go_on()


def _subscribe(session: Session, stream: Subscription) -> messages.Subscribe:
    return messages.Subscribe(
        room=stream._room, start=stream._start, credit=credit_window(session.connection)
    )


async def _over_within(session: Session, wait_s: float) -> bool:
    with trio.move_on_after(wait_s):
        await session.connection.wait_over()
    return session.connection.is_over
