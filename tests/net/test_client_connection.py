"""A client's connection: handshake, requests, signs of life, ends."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from tests.net.scripted_server import (
    ROOM,
    ROOM_TEXT,
    WELCOME,
    ScriptedServer,
    client_and_server,
    frame,
    published,
    subscribed,
)
from tim_trio.errors import (
    Code,
    ConnectionClosed,
    LocalProtocolError,
    NoSuchRoom,
    PermissionDenied,
    RoomError,
)
from tim_trio.net.client import Bounds, ConnectFailed, NotATimServer, RequestTimedOut, open_client
from tim_trio.protocol import messages
from tim_trio.protocol.decoder import ControlFrame


async def test_hello_and_authenticate_leave_together() -> None:
    ours, theirs = memory_stream_pair()
    server = ScriptedServer(theirs)

    async def serve() -> None:
        hello, hello_id = await server.expect(messages.Hello)
        who, who_id = await server.expect(messages.Authenticate)  # before any WELCOME
        assert (hello.min_version, hello.max_version) == (1, 1)
        assert (who.method, who.account, who.device) == (messages.AuthMethod.NAME, "alice", "phone")
        await server.send(WELCOME, request_id=hello_id)
        identity = messages.AuthenticateAnswer(
            account="alice", rights=2, session_token=b"s", expires_ms=0
        )
        await server.send(identity, request_id=who_id)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        async with open_client(ours, account="alice", device="phone") as client:
            assert client.account == "alice"
            assert client.server.node == "n1"


@pytest.mark.parametrize(
    "spoken",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", b"", b"\0\0\0\1\1\0\0\0"],
)
async def test_another_server(spoken: bytes) -> None:
    ours, theirs = memory_stream_pair()
    await theirs.send_all(spoken)
    await theirs.aclose()
    with pytest.raises(NotATimServer):
        async with open_client(ours, account="alice"):
            raise AssertionError("not reached")


async def test_a_server_that_does_not_greet(autojump_clock: MockClock) -> None:
    ours, _theirs = memory_stream_pair()
    with pytest.raises(ConnectFailed, match=r"the server took .* within 3 s"):
        async with open_client(ours, account="alice", handshake_timeout_s=3):
            raise AssertionError("not reached")


async def test_a_server_that_refuses_with_close() -> None:
    ours, theirs = memory_stream_pair()
    await ScriptedServer(theirs).send(
        messages.Close(code=1003, retry=True, retry_after_ms=700, text="full")
    )
    with pytest.raises(ConnectionClosed) as caught:
        async with open_client(ours, account="alice"):
            raise AssertionError("not reached")
    assert caught.value.code == Code.OVERLOADED
    assert caught.value.retryable
    assert caught.value.retry_after_ms == 700


async def test_an_account_the_server_does_not_want() -> None:
    ours, theirs = memory_stream_pair()
    server = ScriptedServer(theirs)

    async def serve() -> None:
        await server.answer(messages.Hello, WELCOME)
        await server.refuse(messages.Authenticate, Code.BAD_CREDENTIALS)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        with pytest.raises(RoomError, match="bad credentials"):
            async with open_client(ours, account="alice"):
                raise AssertionError("not reached")


async def test_a_bad_account_name_sends_nothing() -> None:
    ours, theirs = memory_stream_pair()
    with pytest.raises(ValueError, match="not an account name"):
        async with open_client(ours, account="a b"):
            raise AssertionError("not reached")
    await ours.aclose()
    assert await theirs.receive_some(100) == b""


async def test_an_exception_comes_out_as_it_is() -> None:
    with pytest.raises(KeyError) as caught:
        async with client_and_server():
            raise KeyError("mine")
    assert caught.value.__context__ is None


async def test_bye_at_the_end_also_when_cancelled() -> None:
    async def said_bye(server: ScriptedServer) -> None:
        close, _ = await server.expect(messages.Close)
        assert close.code == Code.BYE
        assert await server.next_item() is None

    async with client_and_server() as (_, server):
        pass
    await said_bye(server)

    with trio.CancelScope() as scope:
        async with client_and_server() as (_, server):
            scope.cancel()
            await trio.sleep_forever()
    await said_bye(server)


async def test_a_refusal_is_typed_and_the_connection_lives() -> None:
    async with client_and_server() as (client, server), trio.open_nursery() as nursery:

        async def serve() -> None:
            await server.refuse(messages.RemoveRoom, Code.PERMISSION_DENIED, "not yours")
            await server.refuse(messages.RemoveRoom, Code.NO_SUCH_ROOM)
            await server.refuse(messages.RemoveRoom, 2999, "new")
            await server.answer(messages.RemoveRoom, messages.RemoveRoomAnswer())

        nursery.start_soon(serve)
        with pytest.raises(PermissionDenied, match="not yours"):
            await client.remove_room(ROOM)
        with pytest.raises(NoSuchRoom):
            await client.remove_room(ROOM_TEXT)
        with pytest.raises(RoomError, match="new"):
            await client.remove_room(ROOM)
        await client.remove_room(ROOM)


async def test_answers_may_come_in_another_order() -> None:
    async with client_and_server() as (client, server), trio.open_nursery() as nursery:
        told: dict[str, int] = {}

        async def ask(message: str) -> None:
            told[message] = await client.ask_to_push(ROOM, message)

        nursery.start_soon(ask, "one")
        first, first_id = await server.expect(messages.AskToPush)
        nursery.start_soon(ask, "two")
        _, second_id = await server.expect(messages.AskToPush)
        assert first.message == "one"
        await server.send(messages.AskToPushAnswer(told=2), request_id=second_id)
        await server.send(messages.AskToPushAnswer(told=1), request_id=first_id)
        await wait_all_tasks_blocked()
        assert told == {"one": 1, "two": 2}


async def test_a_request_without_answer_times_out(autojump_clock: MockClock) -> None:
    bounds = Bounds(request_timeout_s=5)
    async with client_and_server(bounds=bounds) as (client, server):
        started = trio.current_time()
        with pytest.raises(RequestTimedOut, match="RemoveRoom within 5 s"):
            await client.remove_room(ROOM)
        assert trio.current_time() - started == pytest.approx(5)
        _, number = await server.expect(messages.RemoveRoom)
        # The late answer disturbs nothing.
        await server.send(messages.RemoveRoomAnswer(), request_id=number)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.answer, messages.Grant, messages.GrantAnswer())
            await client.grant(ROOM, "bob")


async def test_a_late_subscription_and_a_late_source_are_undone() -> None:
    async with client_and_server() as (client, server):
        for manager in (client.subscribe(ROOM), client.publish(ROOM)):
            with trio.move_on_after(0.01):
                async with manager:
                    raise AssertionError("not reached")
        _, subscribe_id = await server.expect(messages.Subscribe)
        _, publish_id = await server.expect(messages.Publish)
        await server.send(subscribed(), frame(0), request_id=subscribe_id)
        await server.expect(messages.Unsubscribe)
        await server.send(published(), request_id=publish_id)
        undone, _ = await server.expect(messages.Unpublish)
        assert undone.source == 7


async def test_pings_are_answered_in_line() -> None:
    async with client_and_server() as (_, server):
        await server.send(messages.Ping(stamp=77), request_id=9)
        pong, number = await server.expect(messages.Pong)
        assert (pong.stamp, number) == (77, 9)


async def test_an_idle_client_pings(autojump_clock: MockClock) -> None:
    async with client_and_server() as (client, server):
        for _ in range(10):
            ping, number = await server.expect(messages.Ping)
            await server.send(messages.Pong(stamp=ping.stamp), request_id=number)
        assert trio.current_time() >= 90
        assert not client._connection.is_over


async def test_a_silent_server_is_given_up(autojump_clock: MockClock) -> None:
    async with client_and_server(bounds=Bounds(request_timeout_s=1000)) as (client, _):
        with pytest.raises(ConnectionClosed, match="silent") as caught:
            await client.remove_room(ROOM)
        assert caught.value.retryable
        assert 60 <= trio.current_time() <= 80


async def test_a_lost_connection_wakes_all_and_leaves_the_block_alone() -> None:
    async with client_and_server() as (client, server), trio.open_nursery() as nursery:

        async def wait_for_events() -> None:
            with pytest.raises(ConnectionClosed):
                await anext(client.events())

        async def wait_for_answer() -> None:
            with pytest.raises(ConnectionClosed) as caught:
                await client.remove_room(ROOM)
            assert caught.value.code is None

        nursery.start_soon(wait_for_events)
        nursery.start_soon(wait_for_answer)
        await wait_all_tasks_blocked()
        await server.stream.aclose()
        await wait_all_tasks_blocked()
        with pytest.raises(ConnectionClosed):
            await client.register_room()
        await trio.lowlevel.checkpoint()  # nobody cancelled us


async def test_close_says_why() -> None:
    async with client_and_server() as (client, server):
        await server.send(messages.Close(code=1108, retry=False, retry_after_ms=0, text="spam"))
        with pytest.raises(ConnectionClosed, match="spam") as caught:
            await client.register_room()
        assert caught.value.code == Code.BANNED
        assert not caught.value.retryable


async def test_the_reason_is_found_though_writing_failed_first() -> None:
    class BrokenWriter(trio.abc.Stream):
        """Reads on, but can no longer write: as after the peer's close."""

        def __init__(self, inner: trio.abc.Stream) -> None:
            self.inner = inner
            self.broken = False

        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            await trio.lowlevel.checkpoint()
            if self.broken:
                raise trio.BrokenResourceError
            await self.inner.send_all(data)

        async def wait_send_all_might_not_block(self) -> None:
            await trio.lowlevel.checkpoint()

        async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
            return await self.inner.receive_some(max_bytes)

        async def aclose(self) -> None:
            await self.inner.aclose()

    ours, theirs = memory_stream_pair()
    server, broken = ScriptedServer(theirs), BrokenWriter(ours)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.greet)
        async with open_client(broken, account="alice") as client:
            async with trio.open_nursery() as inner:
                inner.start_soon(server.answer, messages.Publish, published())
                manager = client.publish(ROOM)
                source = await manager.__aenter__()
            broken.broken = True
            await source.send(b"lost")
            await wait_all_tasks_blocked()
            nursery.start_soon(
                server.send,
                messages.Close(code=1103, retry=False, retry_after_ms=0, text="jumped"),
            )
            with pytest.raises(ConnectionClosed, match="jumped"):
                await source.send(b"more")
            await manager.__aexit__(None, None, None)


@pytest.mark.parametrize(
    "wrong",
    [
        b"\0\0\0\x09\x60\0\0\0\0\0\0\0\x01",  # ROOM_CLOSED without its fields
        b"\x7f\xff\xff\xff\x60\0\0\0",  # too large
        b"\0\0\0\x08\x92\0\0\0\0\0\0\x01",  # GRANT's answer to something else
    ],
)
async def test_a_server_that_breaks_the_protocol_is_told(wrong: bytes) -> None:
    async with client_and_server() as (client, server), trio.open_nursery() as nursery:
        nursery.start_soon(fails_closed, client.remove_room(ROOM))
        _, number = await server.expect(messages.RemoveRoom)
        await server.stream.send_all(wrong[:11] + bytes([number]) + wrong[12:])
        close, _ = await server.expect(messages.Close)
        assert close.code in (Code.PROTOCOL_ERROR, Code.FRAME_TOO_LARGE)
        assert not close.retry


async def fails_closed(awaitable: object) -> None:
    with pytest.raises(ConnectionClosed, match="the server broke the protocol"):
        await awaitable  # type: ignore[misc]


async def test_what_is_unknown_is_ignored() -> None:
    async with client_and_server() as (client, server), trio.open_nursery() as nursery:
        for kind in (0x00, 0x3F, 0x41, 0x7F, 0xBF, 0xFF):
            await server.stream.send_all(bytes([0, 0, 0, 8, kind, 0, 0, 0, 0, 0, 0, 99]))
        await server.send(
            messages.ContactChanged(account="bob", state=77),
            messages.AccountStream(account="bob", kind=1, payload=b"x"),
            messages.Gap(room=ROOM, source=1, track=0, first_seq=0, last_seq=1, reason=1),
            messages.Credit(room=ROOM, source=1, limit=5),
            messages.PushRevoked(room=ROOM, source=1, reason=1),
            messages.Viewers(room=ROOM, viewers=1),
            frame(0),
        )
        nursery.start_soon(server.answer, messages.Grant, messages.GrantAnswer())
        await client.grant(ROOM, "bob")


async def test_fields_of_later_versions_are_skipped() -> None:
    async with client_and_server() as (client, server), trio.open_nursery() as nursery:

        async def serve() -> None:
            item = await server.next_item()
            assert isinstance(item, ControlFrame)
            await server.stream.send_all(
                bytes([0, 0, 0, 18, 0x9A, 0, 0, 1])  # one ext word
                + item.request_id.to_bytes(4, "big")
                + b"EXT."
                + b"\0\3"
                + b"more"
            )

        nursery.start_soon(serve)
        assert await client.ask_to_push(ROOM) == 3


async def test_a_request_that_cannot_be_written_sends_nothing() -> None:
    async with client_and_server() as (client, server):
        with pytest.raises(LocalProtocolError):
            await client.grant(ROOM, "x" * 2000)
        with pytest.raises(ValueError, match="room id"):
            await client.grant("nonsense", "bob")
        with pytest.raises(ValueError, match="room id"):
            await client.grant(5, "bob")
    close, _ = await server.expect(messages.Close)
    assert close.code == Code.BYE


async def test_a_list_comes_in_pages() -> None:
    def entry(room: int) -> messages.RoomEntry:
        return messages.RoomEntry(
            room=room, mode=messages.RoomMode.LIVE, creator="alice", role=0, viewers=0, sources=0
        )

    async with client_and_server() as (client, server), trio.open_nursery() as nursery:
        asked: list[int] = []

        async def serve() -> None:
            for more, rooms in ((True, [ROOM, ROOM + 1]), (False, [ROOM + 2])):
                answer = messages.ListRoomsAnswer(more=more, rooms=[*map(entry, rooms)])
                asked.append((await server.answer(messages.ListRooms, answer)).after)

        nursery.start_soon(serve)
        assert [one.room for one in await client.list_rooms()] == [ROOM, ROOM + 1, ROOM + 2]
    assert asked == [0, ROOM + 1]


def _control(kind: int, fields: bytes) -> bytes:
    return (8 + len(fields)).to_bytes(4, "big") + bytes([kind, 0, 0, 0, 0, 0, 0, 3]) + fields


@given(
    st.one_of(
        st.binary(max_size=200),
        st.lists(st.builds(_control, st.integers(0, 255), st.binary(max_size=40)), max_size=5).map(
            b"".join
        ),
    )
)
def test_any_bytes_of_a_server_are_ignored_or_end_the_connection(data: bytes) -> None:
    async def feed() -> None:
        async with client_and_server() as (client, server):
            await server.stream.send_all(data)
            await server.stream.aclose()
            await client._connection.wait_over()

    trio.run(feed)
