"""Greeting, deadlines, limits and goodbyes of a server over real connections."""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import os
import socket
import weakref
from collections.abc import Iterator, MutableMapping
from typing import Any, Final, cast

import attrs
import pytest
import structlog
import trio

from tests.net.rawclient import (
    HELLO,
    TOKEN,
    RawClient,
    authenticate,
    bye,
    frame,
    register_room,
    subscribe,
    to_bytes,
)
from tests.net.running import Running, eventually, open_descriptors, running_server
from tim_trio.core.member import Member
from tim_trio.core.outbox import Outbox
from tim_trio.core.session import Session
from tim_trio.core.sources import Source
from tim_trio.core.subscription import Subscription
from tim_trio.errors import Code
from tim_trio.limits import Limits
from tim_trio.log import StormLimiter
from tim_trio.net.connection import TcpConnection
from tim_trio.net.listening import ListenError, describe, is_loopback, open_listeners
from tim_trio.protocol import messages
from tim_trio.protocol.layout import MAX_GREETING_BYTES, Flag
from tim_trio.protocol.messages import SourceLeftReason
from tim_trio.protocol.stream import StreamFrame

_STREAM_FRAME: Final = frame(2**63, 0)


def _padded_hello(size: int) -> bytes:
    """Return a HELLO of ``size`` bytes, with fields of a later version behind ours."""
    plain = messages.encode(HELLO, 1)
    return (size - 4).to_bytes(4, "big") + plain[4:].ljust(size - 4, b"\0")


# Greeting


async def test_welcome_tells_the_limits() -> None:
    limits = Limits(
        max_frame_bytes=5000,
        max_init_bytes=2000,
        backlog_bytes=6000,
        backlog_age_s=0.5,
        stall_timeout_s=3,
        ping_interval_s=4,
        max_subscriptions=5,
    )
    async with running_server(limits) as running:
        welcome = await (await running.connect(None)).request(HELLO, messages.Welcome)
    assert welcome == messages.Welcome(
        version=1,
        capabilities=welcome.capabilities,
        agent=welcome.agent,
        node="node",
        auth_mode=messages.AuthMode.OPEN,
        max_frame_bytes=5000,
        max_init_bytes=2000,
        backlog_bytes=6000,
        backlog_age_ms=500,
        stall_timeout_ms=3000,
        ping_interval_ms=4000,
        max_subscriptions=5,
    )
    assert welcome.agent.startswith("tim_trio/")


async def test_a_loopback_client_is_an_operator() -> None:
    async with running_server() as running:
        client = await running.connect(None)
        await client.request(HELLO, messages.Welcome)
        answer = await client.request(authenticate("zoë"), messages.AuthenticateAnswer)
    assert answer.account == "zoë"
    assert answer.rights == messages.Right.OPERATOR | messages.Right.REGISTER_ROOMS


@pytest.mark.parametrize(
    "hello",
    [
        attrs.evolve(HELLO, magic=0x54494D55),
        attrs.evolve(HELLO, min_version=2, max_version=9),
        attrs.evolve(HELLO, min_version=0, max_version=0),
    ],
    ids=["magic", "newer", "older"],
)
async def test_another_protocol_or_version(hello: messages.Hello) -> None:
    async with running_server() as running:
        client = await running.connect(None)
        await client.send(hello)
        assert await client.expect_close(Code.UNSUPPORTED_VERSION) == []
        await running.until_gone()
        assert running.node.closes == {"unsupported_version": 1}


async def test_the_highest_common_version_is_taken() -> None:
    async with running_server() as running:
        client = await running.connect(None)
        hello = attrs.evolve(HELLO, min_version=0, max_version=255)
        assert (await client.request(hello, messages.Welcome)).version == 1


@pytest.mark.parametrize(
    "first, code",
    [
        (authenticate(), Code.PROTOCOL_ERROR),
        (messages.Ping(stamp=1), Code.PROTOCOL_ERROR),
        (bye(), Code.PROTOCOL_ERROR),
        (messages.Pong(stamp=1), Code.PROTOCOL_ERROR),
        (_STREAM_FRAME, Code.PROTOCOL_ERROR),
        (messages.encode(HELLO, 0), Code.PROTOCOL_ERROR),
        (messages.encode(HELLO, 1)[:-3] + b"\xff" * 3, Code.PROTOCOL_ERROR),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", Code.FRAME_TOO_LARGE),
        (b"\0\0\0\0\0\0\0\0", Code.PROTOCOL_ERROR),
        (_padded_hello(MAX_GREETING_BYTES + 1), Code.FRAME_TOO_LARGE),
        ((2**32 - 1).to_bytes(4, "big") + b"\1\0\0\0", Code.FRAME_TOO_LARGE),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, Code) else value.label,
)
async def test_a_first_frame_that_is_no_hello(first: object, code: Code) -> None:
    async with running_server() as running:
        client = await running.connect(None)
        await client.send(first)
        assert await client.expect_close(code) == []
        await running.until_gone()
        assert running.node.closes == {code.label: 1}


async def test_the_largest_greeting() -> None:
    async with running_server() as running:
        client = await running.connect(None)
        await client.send(_padded_hello(MAX_GREETING_BYTES))
        await client.expect(messages.Welcome)
        # From here on the server takes its own limit.
        await client.request(authenticate(), messages.AuthenticateAnswer)
        room = await client.register()
        await client.publish(room)
        await client.send(frame(room, 0, bytes(100_000)))
        assert await client.is_served()


async def test_a_second_hello() -> None:
    async with running_server() as running:
        client = await running.connect()
        await client.send(HELLO)
        assert await client.expect_close(Code.PROTOCOL_ERROR) == []


async def test_a_stream_frame_before_authentication() -> None:
    async with running_server() as running:
        client = await running.connect(None)
        await client.send(HELLO, _STREAM_FRAME)
        (welcome,) = await client.expect_close(Code.PROTOCOL_ERROR)
        assert isinstance(welcome, messages.Welcome)


async def test_what_is_served_before_authentication() -> None:
    async with running_server() as running:
        client = await running.connect(None)
        await client.request(HELLO, messages.Welcome)
        assert await client.is_served()
        await client.send(messages.Pong(stamp=1))
        await client.refused(register_room(), Code.NOT_AUTHENTICATED)
        await client.refused(subscribe(2**63), Code.NOT_AUTHENTICATED)
        await client.refused(authenticate(""), Code.BAD_REQUEST)
        await client.refused(authenticate("a/b"), Code.BAD_REQUEST)
        with_password = attrs.evolve(authenticate(), method=messages.AuthMethod.PASSWORD)
        await client.refused(with_password, Code.NOT_SUPPORTED)
        await client.request(authenticate(), messages.AuthenticateAnswer)
        await client.refused(authenticate("other"), Code.BAD_REQUEST)
        assert await client.is_served()


async def test_everything_at_once_without_waiting() -> None:
    """HELLO, AUTHENTICATE and requests in one write are answered in order."""
    async with running_server() as running:
        client = await running.connect(None)
        await client.send(HELLO, authenticate(), register_room(), messages.Ping(stamp=3))
        await client.expect(messages.Welcome)
        await client.expect(messages.AuthenticateAnswer)
        room = (await client.expect(messages.RegisterRoomAnswer)).room
        await client.expect(messages.Pong)
        publish = messages.Publish(room=room, token=TOKEN)
        await client.send(subscribe(room), publish, frame(room, 0), frame(room, 1, flags=Flag.END))
        assert (await client.expect(messages.SubscribeAnswer)).sources == []
        assert (await client.expect(messages.PublishAnswer)).source == 1
        await client.expect(messages.SourceJoined)
        await client.expect_frames(room, 0, 1)


# Deadlines


async def test_who_never_speaks_is_closed() -> None:
    async with running_server(Limits(handshake_timeout_s=0.15, ping_interval_s=0.1)) as running:
        silent = [await running.connect(None) for _ in range(20)]
        only_hello = await running.connect(None)
        await only_hello.request(HELLO, messages.Welcome)
        for client in silent:
            # No PING either: nothing but CLOSE is said before WELCOME.
            assert await client.expect_close(Code.HANDSHAKE_TIMEOUT) == []
        before = await only_hello.expect_close(Code.HANDSHAKE_TIMEOUT)
        assert all(isinstance(item, messages.Ping) for item in before)
        await running.until_gone()
        assert running.node.closes == {"handshake_timeout": 21}


async def test_who_stays_after_the_handshake_timeout_is_dropped() -> None:
    limits = Limits(handshake_timeout_s=0.1, close_timeout_s=0.3)
    async with running_server(limits) as running:
        client = await running.connect(None)
        await running.until_connected(1)
        await running.until_gone()
        assert running.node.closes == {"handshake_timeout": 1}
        assert await client.expect_close(Code.HANDSHAKE_TIMEOUT) == []


async def test_the_handshake_deadline_is_over_once_authenticated() -> None:
    async with running_server(Limits(handshake_timeout_s=0.1)) as running:
        client = await running.connect()
        await trio.sleep(0.3)
        assert await client.is_served()


async def test_silence_is_pinged_and_then_closed() -> None:
    async with running_server(Limits(ping_interval_s=0.1)) as running:
        client = await running.connect()
        started = trio.current_time()
        (ping,) = await client.expect_close(Code.IDLE_TIMEOUT)
        assert isinstance(ping, messages.Ping)
        assert trio.current_time() - started >= 0.3 - 0.01
        await running.until_gone()
        assert running.node.closes == {"idle_timeout": 1}


async def test_who_answers_pings_stays() -> None:
    async with running_server(Limits(ping_interval_s=0.2)) as running:
        client = await running.connect()
        for _ in range(5):
            ping = await client.expect(messages.Ping)
            # As PONG to the request_id of the PING; the server does not look.
            await client.send(messages.encode(messages.Pong(stamp=ping.stamp), 1))
        assert await client.is_served()
        assert not running.node.closes


async def test_any_frame_counts_as_heard() -> None:
    async with running_server(Limits(ping_interval_s=0.25)) as running:
        client = await running.connect()
        for _ in range(10):
            await trio.sleep(0.05)
            assert await client.is_served()
        # Nobody who speaks is pinged.
        await client.send(bye())
        assert await client.expect_close(Code.BYE) == []


async def test_a_pong_repeats_the_stamp() -> None:
    async with running_server() as running:
        client = await running.connect()
        for stamp in (0, 1, 2**53, 2**64 - 1):
            assert await client.request(messages.Ping(stamp=stamp), messages.Pong) == messages.Pong(
                stamp=stamp
            )


# Limits


async def test_connections_in_all() -> None:
    async with running_server(Limits(max_connections=2)) as running:
        first = await running.connect()
        second = await running.connect()
        third = await running.connect(None)
        assert await third.expect_close(Code.OVERLOADED) == []
        assert await first.is_served() and await second.is_served()
        first.close()
        await running.until_gone(1)
        assert await (await running.connect()).is_served()
        assert running.node.closes == {"overloaded": 1, "lost": 1}


async def test_connections_of_one_address() -> None:
    async with running_server(Limits(max_connections_per_address=1)) as running:
        first = await running.connect()
        second = await running.connect(None)
        assert await second.expect_close(Code.TOO_MANY_CONNECTIONS) == []
        elsewhere = await running.connect(come_from="127.0.0.2")
        assert await first.is_served() and await elsewhere.is_served()
        first.close()
        await running.until_gone(1)
        assert await (await running.connect()).is_served()


async def test_connections_that_have_not_authenticated() -> None:
    async with running_server(Limits(max_unauthenticated=2)) as running:
        first = await running.connect(None)
        second = await running.connect(None)
        third = await running.connect(None)
        assert await third.expect_close(Code.OVERLOADED) == []
        await first.greet()
        assert await (await running.connect()).is_served()
        await second.greet()


async def test_a_refused_client_that_has_spoken_reads_why() -> None:
    async with running_server(Limits(max_connections=1)) as running:
        await running.connect()
        raw = socket.socket()
        with contextlib.closing(raw):
            raw.connect(("127.0.0.1", running.port))  # the kernel accepts first
            raw.send(to_bytes(HELLO, authenticate(), request_ids=itertools.count(1)))
            refused = RawClient(raw)
            assert await refused.expect_close(Code.OVERLOADED) == []


async def test_floods_of_requests_are_refused_and_then_closed() -> None:
    limits = Limits(commands_per_s=1, command_burst=5, max_slowed_s=0, max_refused_commands=10)
    async with running_server(limits) as running:
        client = await running.connect()  # AUTHENTICATE is the first of five
        await client.send(*[messages.Ping(stamp=stamp) for stamp in range(100)])
        answers = await client.expect_close(Code.FLOODING)
        assert [answer.stamp for answer in answers if isinstance(answer, messages.Pong)] == [
            0, 1, 2, 3,
        ]  # fmt: skip
        refusals = [answer for answer in answers if isinstance(answer, messages.Error)]
        assert len(refusals) == 10 == len(answers) - 4
        for error in refusals:
            assert error.code == Code.RATE_LIMITED and error.retry
            assert 0 < error.retry_after_ms <= 1001
        await running.until_gone()
        assert running.node.closes == {"flooding": 1}


async def test_who_waits_as_told_is_served_again() -> None:
    limits = Limits(commands_per_s=20, command_burst=2, max_slowed_s=0, max_refused_commands=5)
    async with running_server(limits) as running:
        client = await running.connect()
        assert await client.is_served()
        error = await client.refused(messages.Ping(stamp=1), Code.RATE_LIMITED)
        await trio.sleep(error.retry_after_ms / 1000)
        assert await client.is_served()


# Goodbyes


async def test_close_from_the_client_ends_its_sources_at_once() -> None:
    async with running_server(Limits(linger_s=60)) as running:
        publisher, room = await running.published_room()
        subscriber = await running.connect("carol")
        await subscriber.subscribe(room)
        await publisher.send(frame(room, 0), bye())
        assert await publisher.expect_close(Code.BYE) in (
            [],
            [messages.Viewers(room=room, viewers=0)],
        )
        await subscriber.expect_frames(room, 0, 0)
        left = await subscriber.expect(messages.SourceLeft)
        assert left.reason == SourceLeftReason.UNPUBLISHED
        await running.until_gone(1)
        assert running.node.closes == {"bye": 1}


async def test_frames_behind_a_close_are_not_looked_at() -> None:
    async with running_server() as running:
        publisher, room = await running.published_room()
        subscriber = await running.connect("carol")
        await subscriber.subscribe(room)
        await publisher.send(frame(room, 0), bye(Code.INTERNAL_ERROR), frame(room, 1), b"\xff" * 99)
        await publisher.expect(messages.Viewers)
        await publisher.expect_close(Code.BYE)
        await subscriber.expect_frames(room, 0, 0)
        await subscriber.expect(messages.SourceLeft)


@pytest.mark.parametrize("how", ["fin", "reset", "half"])
async def test_a_lost_publisher_lingers(how: str) -> None:
    async with running_server(Limits(linger_s=0.3)) as running:
        publisher, room = await running.published_room()
        subscriber = await running.connect("carol")
        await subscriber.subscribe(room)
        await publisher.send(frame(room, 0), messages.encode(bye())[:7] if how == "half" else b"")
        await subscriber.expect_frames(room, 0, 0)
        lost_at = trio.current_time()
        if how == "reset":
            publisher.reset()
        else:
            publisher.close()
        left = await subscriber.expect(messages.SourceLeft)
        assert left.reason == SourceLeftReason.CONNECTION_LOST
        assert trio.current_time() - lost_at >= 0.29
        assert running.node.closes == {"lost": 1}


async def test_a_takeover_continues_a_lost_source() -> None:
    async with running_server(Limits(linger_s=60)) as running:
        publisher, room = await running.published_room()
        subscriber = await running.connect("carol")
        await subscriber.subscribe(room)
        await publisher.send(*(frame(room, seq) for seq in range(5)))
        await subscriber.expect_frames(room, 0, 4)
        publisher.reset()
        await running.until_gone(1)

        successor = await running.connect("alice")
        answer = await successor.request(
            messages.Publish(room=room, token=TOKEN), messages.PublishAnswer
        )
        assert answer.source == 1
        assert [(track.track, track.last_seq) for track in answer.tracks] == [(0, 4)]
        await successor.send(*(frame(room, seq) for seq in range(3, 8)))
        await subscriber.expect_frames(room, 5, 7)  # without repeats, without an event
        counts = await successor.request(
            messages.Unpublish(room=room, source=1), messages.UnpublishAnswer
        )
        assert (counts.forwarded, counts.discarded) == (8, 2)
        assert (await subscriber.expect(messages.SourceLeft)).reason == SourceLeftReason.UNPUBLISHED


async def test_a_takeover_of_a_living_connection() -> None:
    async with running_server() as running:
        publisher, room = await running.published_room()
        subscriber = await running.connect("carol")
        await subscriber.subscribe(room)
        await publisher.send(frame(room, 0))
        await subscriber.expect_frames(room, 0, 0)
        successor = await running.connect("alice")
        assert await successor.publish(room) == 1
        replaced = await publisher.expect(messages.Replaced)
        assert (replaced.room, replaced.source) == (room, 1)
        # In flight when it was replaced: discarded without a word.
        await publisher.send(frame(room, 1, b"too late"))
        assert await publisher.is_served()
        await successor.send(frame(room, 1, b"in time"))
        (got,) = await subscriber.expect_frames(room, 1, 1)
        assert got.payload == b"in time"
        await publisher.send(bye())
        await publisher.expect_close(Code.BYE)
        await successor.send(frame(room, 2))
        await subscriber.expect_frames(room, 2, 2)


async def test_a_client_that_stops_sending_is_lost() -> None:
    async with running_server() as running:
        client = await running.connect()
        await client.send(messages.Ping(stamp=1))
        await client.finish()
        await client.expect(messages.Pong)
        assert await client.next() is None
        await running.until_gone()
        assert running.node.closes == {"lost": 1}


def _alive(besides: list[object]) -> list[object]:
    """Return what is there of any connection, dead or alive, that is not in ``besides``.

    Modules of other tests may keep some for good.
    """
    kinds = (TcpConnection, Session, Outbox, Member, Source, Subscription)
    known = {id(each) for each in besides}
    return [each for each in gc.get_objects() if isinstance(each, kinds) and id(each) not in known]


@pytest.mark.parametrize("mode", messages.RoomMode)
@pytest.mark.parametrize("how", ["bye", "lost", "offence", "too large", "closed"])
@pytest.mark.parametrize("wire", ["tcp", "websocket"])
async def test_a_dead_connection_is_freed_without_the_garbage_collector(
    how: str, mode: messages.RoomMode, wire: str
) -> None:
    """`tim_trio.app` makes full passes rare, so cycles would pile up."""
    gc.collect()
    others = _alive(besides=[])
    async with running_server(Limits(linger_s=0)) as running:
        connect = running.connect if wire == "tcp" else running.connect_web
        client: RawClient = await connect(None)
        await running.until_connected(1)
        await client.greet()
        register = messages.RegisterRoom(mode=mode, gather_ms=0, idle_timeout_s=0)
        room = (await client.request(register, messages.RegisterRoomAnswer)).room
        await client.subscribe(room)
        await client.publish(room)
        await client.send(frame(room, 0))
        await client.expect(messages.Viewers)
        await client.expect(messages.SourceJoined)
        await client.expect_frames(room, 0, 0)
        alive = _alive(others)
        assert len(alive) == 6
        kinds = (Session, Member, Source, Subscription)
        watched = [weakref.ref(each) for each in alive if isinstance(each, kinds)]
        del alive
        gc.disable()
        try:
            match how:
                case "bye":
                    await client.send(bye())
                    await client.expect_close(Code.BYE)
                case "lost":
                    client.reset()
                case "offence":
                    await client.send(HELLO)
                    await client.expect_close(Code.PROTOCOL_ERROR)
                case "too large":
                    await client.send(b"\xff" * 100)
                    await client.expect_close(Code.FRAME_TOO_LARGE)
                case _:
                    client.close()
            await running.until_gone()
            # To look at all objects there are takes long: once these are gone.
            await eventually(lambda: not any(ref() for ref in watched), "they are to be freed")
            await eventually(lambda: not _alive(others), "all of it is to be freed")
        finally:
            gc.enable()


async def test_who_looks_after_connections_keeps_none() -> None:
    """A service sleeps most of the time, and holds what its variables hold."""
    gc.collect()
    others = _alive(besides=[])
    async with running_server(Limits(ping_interval_s=0.2, viewers_interval_s=0.02)) as running:
        client = await running.connect()
        await client.subscribe(await client.register())
        await client.expect(messages.Ping)  # it has been looked after
        gc.disable()
        try:
            client.close()
            await running.until_gone()
            await eventually(lambda: not _alive(others), "all of it is to be freed")
        finally:
            gc.enable()


# Draining


async def _drained(running: Running) -> None:
    with trio.fail_after(30):
        await running.server.drain()


async def test_drain_waits_for_clients_to_leave() -> None:
    async with running_server(drain_timeout_s=60) as running:
        client = await running.connect()
        newcomer = await running.connect(None)
        await running.until_connected(2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_drained, running)
            away = await client.expect(messages.GoAway)
            assert away == messages.GoAway(
                reason=messages.GoAwayReason.STOPPING, address="", spread_ms=30_000
            )
            late = await running.connect(None)
            assert await late.expect_close(Code.SHUTTING_DOWN) == []
            assert await client.is_served()  # for as long as it takes
            await newcomer.greet()  # also who was there and had not spoken
            newcomer.close()
            await client.send(bye())
            assert await client.expect_close(Code.BYE) == []


async def test_drain_closes_who_stays() -> None:
    async with running_server(drain_timeout_s=0.1) as running:
        publisher, room = await running.published_room()
        subscriber = await running.connect("carol")
        await subscriber.subscribe(room)
        silent = await running.connect(None)
        await running.until_connected(3)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_drained, running)
            items = await subscriber.expect_close(Code.SHUTTING_DOWN)
            assert isinstance(items[0], messages.GoAway)
            assert await silent.expect_close(Code.SHUTTING_DOWN) == []
            await publisher.expect(messages.GoAway)
            await publisher.expect_close(Code.SHUTTING_DOWN)
            running.close_clients()
        assert running.node.closes == {"shutting_down": 3}


async def test_drain_of_nobody_returns_at_once() -> None:
    async with running_server(drain_timeout_s=60) as running:
        await _drained(running)


async def test_drain_does_not_wait_for_who_does_not_read() -> None:
    limits = Limits(close_timeout_s=0.2)
    async with running_server(limits, drain_timeout_s=0.1, send_buffer=4096) as running:
        publisher, room = await running.published_room()
        stalled = await running.connect("carol", receive_buffer=4096)
        await stalled.subscribe(room)
        while not running.node.backlog_bytes:
            await publisher.send(frame(room, running.node.frames_in, bytes(10_000)))
            assert await publisher.is_served()
        await _drained(running)


# Listeners


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_port_in_use(taken_port: int) -> None:
    before = open_descriptors()
    with pytest.raises(ListenError) as caught:
        open_listeners("127.0.0.1", taken_port)
    assert str(caught.value) == (
        f"cannot listen on 127.0.0.1:{taken_port}: "
        "the port is in use; choose another with --tcp HOST:PORT"
    )
    assert open_descriptors() == before


def test_an_address_that_is_not_ours() -> None:
    with pytest.raises(ListenError, match=r"cannot listen on 192\.0\.2\.1:0: .*assign"):
        open_listeners("192.0.2.1", 0)


def test_a_host_that_is_no_address() -> None:
    with pytest.raises(ListenError, match=r"cannot listen on 1\.2\.3\.4\.5:0: "):
        open_listeners("1.2.3.4.5", 0)


def test_describe() -> None:
    for host, text in (("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")):
        for listener in open_listeners(host, 0):
            with listener:
                assert describe(listener) == f"{text}:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    "address, expected",
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:192.0.2.1", False),
        ("192.0.2.1", False),
        ("fe80::1%lo", False),
        ("0.0.0.0", False),
    ],
)
def test_is_loopback(address: str, expected: bool) -> None:
    assert is_loopback(address) is expected


class _FailingListener:
    """A listener whose first calls of `accept` fail as the kernel may."""

    def __init__(self, real: socket.socket, *errors: int) -> None:
        self._real = real
        self._errors = list(errors)
        self.fileno = real.fileno

    def accept(self) -> tuple[socket.socket, object]:
        if self._errors:
            number = self._errors.pop(0)
            raise OSError(number, os.strerror(number))
        return self._real.accept()


@pytest.mark.slow
async def test_accepting_goes_on_after_errors() -> None:
    async with running_server() as running, trio.open_nursery() as nursery:
        (listener,) = open_listeners("127.0.0.1", 0)
        failing = _FailingListener(
            listener, errno.ECONNABORTED, errno.EMFILE, errno.EMFILE, errno.EPROTO
        )
        with listener, structlog.testing.capture_logs() as logs:
            nursery.start_soon(running.server._accept, cast(socket.socket, failing), nursery)
            client = await RawClient.connect(listener.getsockname()[1])
            await client.greet()
            lines = [line for line in logs if line["event"] == "cannot accept"]
            assert [line["reason"] for line in lines] == ["Too many open files"]
            # The second one is told of when its second is over.
            await eventually(
                lambda: any(
                    line["event"] == "cannot accept, more of them" and line["suppressed"] == 1
                    for line in logs
                ),
                "what was not told is counted",
            )
            client.close()
            await running.until_gone()
            nursery.cancel_scope.cancel()


async def test_a_socket_that_is_dead_on_arrival(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: socket.socket) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    async with running_server() as running:
        before = await running.connect()
        with monkeypatch.context() as patch:
            patch.setattr("tim_trio.net.server.configure_socket", fail)
            dead = await running.connect(None)
            assert await dead.next() is None
        assert running.node.closes == {"lost": 1}
        assert await before.is_served()
        assert await (await running.connect()).is_served()


@pytest.mark.slow
async def test_storms_are_told_in_a_line_a_second() -> None:
    async with running_server(Limits(max_connections=2)) as running:
        with structlog.testing.capture_logs() as logs:
            publisher, room = await running.published_room()
            await publisher.request(
                messages.Unpublish(room=room, source=1), messages.UnpublishAnswer
            )
            await publisher.send(*(frame(room, seq) for seq in range(50)))
            await running.connect()
            for _ in range(5):
                await (await running.connect(None)).expect_close(Code.OVERLOADED)
            (refused,) = [line for line in logs if line["event"] == "refused"]
            assert refused["code"] == "overloaded"

            def told(event: str) -> list[MutableMapping[str, Any]]:
                return [line for line in logs if line["event"] == event]

            await eventually(lambda: bool(told("refused, more of them")), "the rest is told")
            await eventually(lambda: bool(told("frames dropped")), "losses are told")
            assert [line["suppressed"] for line in told("refused, more of them")] == [4]
            assert [line["discarded"] for line in told("frames dropped")] == [50]


async def test_who_leaves_without_signing_in_is_told_of_in_a_line_a_second() -> None:
    async with running_server() as running:
        running.server._storms = StormLimiter(interval_s=1e6)  # a long second
        with structlog.testing.capture_logs() as logs:
            for name in (None, None, None, "alice", "bob"):
                (await running.connect(name)).close()
                await running.until_gone()
            await eventually(lambda: running.node.closes["lost"] == 5, "they have ended")
        ended = [line["account"] for line in logs if line["event"] == "connection ended"]
        assert ended == [None, "alice", "bob"]


async def test_ipv6() -> None:
    async with running_server() as running, trio.open_nursery() as nursery:
        (listener,) = open_listeners("::1", 0)
        with listener:
            nursery.start_soon(running.server._accept, listener, nursery)
            raw = socket.create_connection(listener.getsockname()[:2])
            with contextlib.closing(raw):
                client = RawClient(raw)
                await client.greet()
                client.close()
            await running.until_gone()
            await eventually(lambda: running.node.closes["lost"] == 1, "the end is counted")
            nursery.cancel_scope.cancel()


def test_frames_are_frames() -> None:
    """The tests' own frames are what the server reads: a guard for this file."""
    assert isinstance(_STREAM_FRAME, StreamFrame)
