"""Whatever a peer sends: a typed error or a close, nothing left, nobody else hurt.

`running_server` looks for what is left: connections, subscriptions, bytes,
tasks, descriptors. `bystanders` are a publisher and a subscriber who must not
notice anything.
"""

from __future__ import annotations

import contextlib
import itertools
from typing import Final

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

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
from tests.net.running import Running, bystanders, running_server
from tim_trio.errors import Code
from tim_trio.limits import Limits
from tim_trio.protocol import messages
from tim_trio.protocol.layout import Flag
from tim_trio.protocol.room_ids import FIRST_ROOM_ID

_QUICK: Final = Limits(
    max_frame_bytes=64 * 1024, max_init_bytes=2048, linger_s=0, close_timeout_s=0.5
)
_MALICE: Final = frame(FIRST_ROOM_ID, 0)


def _prelude(length: int, kind: int, *, flags: int = 0, ext_words: int = 0) -> bytes:
    return length.to_bytes(4, "big") + bytes([kind, flags, 0, ext_words])


# One offence each, after a proper greeting

_OFFENCES: Final[dict[str, tuple[bytes, Code]]] = {
    "length 0": (_prelude(0, 0x03), Code.PROTOCOL_ERROR),
    "length 4": (_prelude(4, 0x03), Code.PROTOCOL_ERROR),
    "no request id": (_prelude(7, 0x03), Code.PROTOCOL_ERROR),
    "short stream frame": (_prelude(31, 0x40), Code.PROTOCOL_ERROR),
    "ext words beyond the length": (_prelude(35, 0x40, ext_words=1), Code.PROTOCOL_ERROR),
    "ext words in a control frame": (_prelude(16, 0x03, ext_words=255), Code.PROTOCOL_ERROR),
    "huge length": (_prelude(2**32 - 1, 0x40), Code.FRAME_TOO_LARGE),
    "huge control frame": (_prelude(2**31, 0x10), Code.FRAME_TOO_LARGE),
    "a byte too long": (_prelude(64 * 1024 - 3, 0x40), Code.FRAME_TOO_LARGE),
    "large INIT": (_prelude(2045, 0x40, flags=Flag.INIT), Code.FRAME_TOO_LARGE),
    "large END": (_prelude(2045, 0x40, flags=Flag.END), Code.FRAME_TOO_LARGE),
    "type 0": (_prelude(8, 0x00) + bytes(4), Code.PROTOCOL_ERROR),
    "reserved stream type": (_prelude(8, 0x41) + bytes(4), Code.PROTOCOL_ERROR),
    "an event": (to_bytes(messages.Viewers(room=2**63, viewers=1)), Code.PROTOCOL_ERROR),
    "type 0xc0": (_prelude(8, 0xC0) + b"\0\0\0\1", Code.PROTOCOL_ERROR),
    "type 0xff": (_prelude(8, 0xFF) + b"\0\0\0\1", Code.PROTOCOL_ERROR),
    "request without a number": (messages.encode(register_room(), 0), Code.PROTOCOL_ERROR),
    "HELLO again": (messages.encode(HELLO, 9), Code.PROTOCOL_ERROR),
    "foreign source": (to_bytes(_MALICE), Code.FOREIGN_SOURCE),
    "HTTP": (b"GET / HTTP/1.1\r\n\r\n", Code.FRAME_TOO_LARGE),
}


@pytest.mark.parametrize("offence", _OFFENCES)
async def test_an_offence(offence: str) -> None:
    data, code = _OFFENCES[offence]
    async with running_server(_QUICK) as running, bystanders(running):
        client = await running.connect()
        await client.send(messages.Ping(stamp=1), data, messages.Ping(stamp=2))
        (pong,) = await client.expect_close(code)
        assert pong == messages.Pong(stamp=1)
        await running.until_gone(2)
        assert running.node.closes == {code.label: 1}


@pytest.mark.parametrize(
    "seqs",
    [[1], [0, 2], [0, 1, 1], [0, 1, 0], [2**64 - 1], [0, 2**64 - 1]],
    ids=str,
)
async def test_sequences_that_jump_or_fall(seqs: list[int]) -> None:
    async with running_server(_QUICK) as running, bystanders(running):
        publisher, room = await running.published_room()
        subscriber = await running.connect("dora")
        await subscriber.subscribe(room)
        await publisher.send(*(frame(room, seq) for seq in seqs))
        await publisher.expect(messages.Viewers)
        await publisher.expect_close(Code.BAD_SEQUENCE)
        # What was in order has been handed on; then the source is over.
        for seq in seqs[:-1]:
            await subscriber.expect_frames(room, seq, seq)
        left = await subscriber.expect(messages.SourceLeft)
        assert left.reason == messages.SourceLeftReason.CONNECTION_LOST


async def test_a_frame_after_end() -> None:
    async with running_server(_QUICK) as running, bystanders(running):
        publisher, room = await running.published_room()
        await publisher.send(frame(room, 0, flags=Flag.END), frame(room, 1))
        await publisher.expect(messages.Viewers)
        await publisher.expect_close(Code.BAD_SEQUENCE)


async def test_sources_of_others() -> None:
    """Neither another's source nor another room's, but one's own former is forgiven."""
    async with running_server(_QUICK) as running, bystanders(running):
        publisher, room = await running.published_room()
        other_room = await publisher.register()
        thief = await running.connect("alice")
        await thief.send(frame(room, 0, b"stolen"))
        await thief.expect_close(Code.FOREIGN_SOURCE)

        await publisher.request(messages.Unpublish(room=room, source=1), messages.UnpublishAnswer)
        await publisher.send(frame(room, 0))
        assert await publisher.is_served()
        assert running.node.discarded == 1
        await publisher.send(frame(other_room, 0))
        await publisher.expect(messages.Viewers)
        await publisher.expect_close(Code.FOREIGN_SOURCE)


async def test_typed_errors_that_the_connection_survives() -> None:
    async with running_server(_QUICK) as running, bystanders(running):
        client = await running.connect()
        room = await client.register()
        for kind in range(0x01, 0x40):
            if messages.is_known_type(kind):
                continue
            await client.send(_prelude(8, kind) + bytes(4))  # one-way: ignored
            await client.send(_prelude(8, kind) + b"\0\0\0\7")
            error = await client.expect(messages.Error)
            assert (error.code, error.request_type) == (Code.NOT_SUPPORTED, kind)
        for kind in range(0x80, 0xC0):
            await client.send(_prelude(8, kind) + b"\0\0\0\7")  # answers to nothing
        for kind in (0x10, 0x11, 0x12, 0x14, 0x16, 0x18, 0x1A, 0x1B):
            await client.send(_prelude(9, kind) + b"\0\0\0\7" + b"\xff")  # unreadable
            assert (await client.expect(messages.Error)).code == Code.BAD_REQUEST
        no_room = FIRST_ROOM_ID + 1
        await client.refused(subscribe(no_room), Code.NO_SUCH_ROOM)
        await client.refused(messages.Publish(room=no_room, token=TOKEN), Code.NO_SUCH_ROOM)
        await client.refused(messages.Unpublish(room=room, source=9), Code.NO_SUCH_SOURCE)
        await client.refused(messages.Unsubscribe(room=room), Code.NOT_SUBSCRIBED)
        assert await client.is_served()


async def test_a_crowd_that_never_speaks() -> None:
    limits = Limits(handshake_timeout_s=0.3, close_timeout_s=0.2, max_unauthenticated=60)
    async with running_server(limits) as running, bystanders(running):
        silent = [await running.connect(None) for _ in range(50)]
        half = [await running.connect(None) for _ in range(10)]
        for client in half:
            await client.send(messages.encode(HELLO, 1)[:11])
        turned_away = await running.connect(None)
        await turned_away.expect_close(Code.OVERLOADED)
        for client in silent + half:
            await client.expect_close(Code.HANDSHAKE_TIMEOUT)
        assert await (await running.connect("late")).is_served()


@pytest.mark.slow
async def test_floods_of_requests_with_bystanders() -> None:
    limits = Limits(commands_per_s=50, command_burst=50, max_slowed_s=0, max_refused_commands=100)
    async with running_server(limits) as running, bystanders(running):
        flooders = [await running.connect(f"flooder{number}") for number in range(5)]
        listing = messages.ListRooms(scope=messages.ListScope.ALL, after=0, limit=0)
        for client in flooders:
            await client.send(*[listing] * 200)
        for client in flooders:
            items = await client.expect_close(Code.FLOODING)
            errors = [item for item in items if isinstance(item, messages.Error)]
            assert len(errors) == 100
            assert {error.code for error in errors} == {Code.RATE_LIMITED}


@pytest.mark.slow
async def test_a_flood_of_frames_that_are_ignored() -> None:
    """One-way frames of unknown types and answers cost nothing and close nothing."""
    async with running_server(_QUICK) as running, bystanders(running):
        client = await running.connect()
        for _ in range(5):
            await client.send((_prelude(8, 0x3E) + bytes(4)) * 2000)
            await client.send((_prelude(8, 0xB0) + b"\0\0\0\1") * 2000)
        assert await client.is_served()


# Cut off at every byte


def _conversation(room: int) -> bytes:
    """Return all that a client says, alone in a room that will get this number."""
    numbers = itertools.count(1)
    return to_bytes(
        HELLO,
        authenticate("alice"),
        register_room(),
        messages.Publish(room=room, token=TOKEN),
        frame(room, 0, b"codec", flags=Flag.INIT),
        frame(room, 1, b"key", flags=Flag.KEY),
        frame(room, 2, b"delta"),
        subscribe(room),
        frame(room, 3, b"next key", flags=Flag.KEY),
        frame(room, 0, b"sound", track=1),
        messages.Grant(room=room, account="bob"),
        messages.GetRoomInfo(room=room),
        messages.Ping(stamp=1),
        frame(room, 4, b"", flags=Flag.END),
        messages.Unsubscribe(room=room),
        messages.Unpublish(room=room, source=1),
        messages.RemoveRoom(room=room),
        bye(),
        request_ids=numbers,
    )


async def test_the_whole_conversation() -> None:
    """What is cut up below works when it is not."""
    async with running_server(_QUICK) as running, bystanders(running):
        running.manager.draw = lambda: FIRST_ROOM_ID
        client = await running.connect(None)
        await client.send(_conversation(FIRST_ROOM_ID))
        items = await client.expect_close(Code.BYE)
        assert not [item for item in items if isinstance(item, messages.Error)]
        seqs = [item.seq for item in items if type(item) is type(_MALICE) and not item.track]
        assert seqs == [0, 1, 2, 3, 4]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["fin", "reset", "half-closed"])
async def test_disconnects_at_every_byte(how: str) -> None:
    size = len(_conversation(FIRST_ROOM_ID))
    async with running_server(_QUICK) as running, bystanders(running):
        await _disconnect_at(running, how, range(size + 1))


@pytest.mark.parametrize("how", ["fin", "reset", "half-closed"])
async def test_disconnects_at_some_bytes(how: str) -> None:
    size = len(_conversation(FIRST_ROOM_ID))
    async with running_server(_QUICK) as running, bystanders(running):
        await _disconnect_at(running, how, range(0, size + 1, 13))


async def _disconnect_at(running: Running, how: str, cuts: range) -> None:
    room = FIRST_ROOM_ID

    def draw() -> int:
        return room

    running.manager.draw = draw
    for cut in cuts:
        client = await RawClient.connect(running.port)
        await client.send(_conversation(room)[:cut])
        if how == "reset":
            client.reset()
        elif how == "fin":
            client.close()
        else:
            await client.finish()
            # Everything is answered that was asked, and nothing is made up.
            items = await client.rest()
            assert not [item for item in items if isinstance(item, messages.Error)]
            closes = [item for item in items if isinstance(item, messages.Close)]
            assert closes == ([] if cut < len(_conversation(room)) else items[-1:])
            client.close()
        room += 1
    await running.until_gone(2)
    node = running.node
    assert node.subscriptions == 1  # the bystander's
    assert node.backlog_bytes == node.pinned_bytes == node.lagging == 0
    for number, left in running.manager.rooms.items():
        if number < room:  # made by a conversation that was cut off before its end
            assert not left.sources
            assert not left.viewers


async def test_every_byte_on_its_own() -> None:
    async with running_server(_QUICK) as running, bystanders(running):
        running.manager.draw = lambda: FIRST_ROOM_ID
        client = await running.connect(None)
        for byte in _conversation(FIRST_ROOM_ID):
            await client.send(bytes([byte]))
            await trio.testing.wait_all_tasks_blocked()
        items = await client.expect_close(Code.BYE)
        assert not [item for item in items if isinstance(item, messages.Error)]


async def test_who_vanishes_with_a_group_on_its_way() -> None:
    """Joiners that get a cached group and do not take it give back what it pins."""
    limits = Limits(linger_s=0, close_timeout_s=0.2)
    async with running_server(limits, send_buffer=4096) as running, bystanders(running):
        publisher, room = await running.published_room()
        await publisher.send(frame(room, 0, bytes(300_000), flags=Flag.KEY))
        assert await publisher.is_served()
        joiners = []
        for number in range(10):
            joiner = await running.connect(f"joiner{number}", receive_buffer=4096)
            await joiner.subscribe(room)
            joiners.append(joiner)
        # One and the same group for all of them.
        assert 300_000 <= running.node.pinned_bytes < 301_000
        for joiner in joiners[::2]:
            joiner.reset()
        for joiner in joiners[1::2]:
            joiner.close()
        await running.until_gone(3)
        assert running.node.backlog_bytes == 0
        # The next frame is the end of the opening that was kept for whoever joins.
        await publisher.send(frame(room, 1))
        assert await publisher.is_served()
        assert running.node.pinned_bytes == 0


# Anything at all

_rooms = st.sampled_from([FIRST_ROOM_ID, FIRST_ROOM_ID + 1, 2**63])
_small = st.integers(0, 3)
_frames = st.builds(
    frame,
    _rooms,
    st.one_of(_small, st.just(2**64 - 1)),
    st.binary(max_size=20),
    source=_small,
    track=st.integers(0, 1),
    flags=st.integers(0, 7),
)
_requests = st.one_of(
    st.just(register_room()),
    st.builds(subscribe, _rooms, st.sampled_from(messages.StartFrom)),
    st.builds(messages.Unsubscribe, room=_rooms),
    st.builds(messages.Publish, room=_rooms, token=st.sampled_from([TOKEN, bytes(16)])),
    st.builds(messages.Unpublish, room=_rooms, source=_small),
    st.builds(messages.Grant, room=_rooms, account=st.text(max_size=3)),
    st.builds(messages.Revoke, room=_rooms, account=st.sampled_from(["alice", "bob"])),
    st.builds(messages.RemoveRoom, room=_rooms),
    st.builds(messages.GetRoomInfo, room=_rooms),
    st.builds(messages.AskToPush, room=_rooms, message=st.text(max_size=5)),
    st.builds(messages.Credit, room=_rooms, source=_small, limit=st.integers(0, 2**64 - 1)),
    st.builds(messages.Ping, stamp=st.integers(0, 2**64 - 1)),
    st.builds(authenticate, st.text(max_size=4)),
)
_sessions = st.lists(st.one_of(_requests, _frames, _frames), max_size=25)


@st.composite
def _hostile_bytes(draw: st.DrawFn) -> bytes:
    """A session as it should be, or with some bytes of it changed, or mere garbage."""
    numbers = itertools.count(1)
    head = to_bytes(HELLO, authenticate("alice"), request_ids=numbers)
    opening = to_bytes(
        register_room(), messages.Publish(room=FIRST_ROOM_ID, token=TOKEN), request_ids=numbers
    )
    if draw(st.integers(0, 3)) == 0:
        garbage = draw(st.binary(max_size=200))
        return draw(st.sampled_from([b"", head, head + opening])) + garbage
    body = bytearray(opening + to_bytes(*draw(_sessions), request_ids=numbers))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(body)))
        body[at : at + draw(_small)] = draw(st.binary(max_size=3))
    return head + bytes(body)


async def _survives(data: bytes, pieces: int) -> None:
    async with running_server(_QUICK) as running, bystanders(running):
        numbers = itertools.count(FIRST_ROOM_ID)
        running.manager.draw = lambda: next(numbers)
        client = await running.connect(None)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            step = max(1, -(-len(data) // pieces))
            for at in range(0, len(data), step):
                await client.send(data[at : at + step])
                if pieces > 1:
                    await trio.testing.wait_all_tasks_blocked()
            await client.finish()
        # What comes back is well formed, and a CLOSE says one of our codes.
        items = await client.rest()
        closes = [item for item in items if isinstance(item, messages.Close)]
        assert closes == items[-1:] * len(closes)
        for close in closes:
            assert Code(close.code) in {
                Code.BYE,
                Code.PROTOCOL_ERROR,
                Code.UNSUPPORTED_VERSION,
                Code.FRAME_TOO_LARGE,
                Code.BAD_SEQUENCE,
                Code.FOREIGN_SOURCE,
                Code.CREDIT_EXCEEDED,
            }
        client.close()
        await running.until_gone(2)
        assert "internal_error" not in running.node.closes
        for room in running.manager.rooms.values():
            assert len(room.sources) == (room.creator == "bob")


@given(data=_hostile_bytes(), pieces=st.sampled_from([1, 1, 2, 5]))
async def test_any_bytes(data: bytes, pieces: int) -> None:
    await _survives(data, pieces)


@pytest.mark.slow
@settings(max_examples=200)
@given(data=_hostile_bytes(), pieces=st.sampled_from([1, 1, 2, 5]))
async def test_many_more_bytes(data: bytes, pieces: int) -> None:
    await _survives(data, pieces)
