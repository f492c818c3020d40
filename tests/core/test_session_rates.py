"""Rates of a connection: slowed down, then refused or warned, then closed."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.core.builders import KEY, ROOM, make_manager
from tests.core.test_session import REGISTER, Caller, closes_with
from tim_trio.errors import Code
from tim_trio.protocol.decoder import ControlFrame
from tim_trio.protocol.messages import (
    AccountSend,
    AccountSendAnswer,
    Credit,
    Error,
    Ping,
    Pong,
    RegisterRoom,
    RegisterRoomAnswer,
    RoomMode,
    StartFrom,
    Subscribe,
    SubscribeAnswer,
    Unpublish,
    UnpublishAnswer,
    encode,
)

RELIABLE = RegisterRoom(mode=RoomMode.RELIABLE, gather_ms=0, idle_timeout_s=0)


async def test_requests_over_the_rate_are_slowed_down_first(autojump_clock: MockClock) -> None:
    manager = make_manager(commands_per_s=2.0, command_burst=2, max_slowed_s=2.0)
    alice = await Caller(manager).enter()
    began = trio.current_time()
    for _ in range(5):
        await alice.get(Pong, Ping(stamp=0), trio.current_time())
    assert trio.current_time() - began == pytest.approx(2.0)
    assert manager.node.limited == {"commands_per_s": 4}
    assert manager.node.slowed_ms == pytest.approx(2000, abs=4)
    # That was enough within a minute: now they are refused.
    assert await alice.refusal(REGISTER, trio.current_time()) is Code.RATE_LIMITED
    await trio.sleep(60)
    for _ in range(4):
        await alice.get(Pong, Ping(stamp=0), trio.current_time())


async def test_credit_over_the_rate_is_left_to_the_task_which_waits(
    autojump_clock: MockClock,
) -> None:
    bob = await Caller(make_manager(commands_per_s=2.0, command_burst=3)).enter("bob")
    credit = Credit(room=ROOM, source=1, limit=1)
    (frame,) = bob.session.decoder.feed(encode(credit))
    assert isinstance(frame, ControlFrame)
    began = trio.current_time()
    assert [bob.session.receive_at_once(frame, began) for _ in range(3)] == [True, True, False]
    await bob.send(encode(credit), began)
    assert trio.current_time() - began == pytest.approx(0.5)


async def test_requests_of_one_address_share_a_rate(autojump_clock: MockClock) -> None:
    manager = make_manager(commands_per_s_per_address=100.0)
    crowd = []
    for name in ("alice", "bob"):
        caller = Caller(manager)
        caller.session.address = "192.0.2.1"
        crowd.append(await caller.enter(name))
    other = Caller(manager)
    other.session.address = "192.0.2.2"
    await other.enter("carol")
    began = trio.current_time()
    for _ in range(150):
        for caller in crowd:
            await caller.get(Pong, Ping(stamp=0), trio.current_time())
    slowed_s = trio.current_time() - began
    assert slowed_s == pytest.approx(1.0, abs=0.1)  # 302 in all, and 200 of them at once
    await other.get(Pong, Ping(stamp=0), trio.current_time())
    assert trio.current_time() - began == slowed_s
    assert set(manager.node.limited) == {"commands_per_s_per_address"}


async def test_a_live_stream_over_its_rate_is_slowed_then_warned_then_closed(
    autojump_clock: MockClock,
) -> None:
    rate = 10_000.0
    manager = make_manager(stream_bytes_per_s=rate, max_slowed_s=5.0)
    alice = await Caller(manager).enter()
    room = await alice.register()
    writer = await alice.publish(room)
    alice.peer.new()
    sent = warnings = 0
    began = trio.current_time()
    with closes_with(Code.FLOODING):
        while True:
            data = writer.data(KEY, payload=bytes(964))
            sent += len(data)
            await alice.send(data, trio.current_time())
            if alice.session.pause_s:
                await alice.session.pause()
            for message in alice.peer.new():
                assert isinstance(message, Error)
                assert (message.request_type, message.code) == (0x40, Code.RATE_LIMITED)
                assert message.retry_after_ms
                warnings += 1
                assert trio.current_time() - began > 5
            assert trio.current_time() - began < 30
    elapsed = trio.current_time() - began
    assert sent == pytest.approx(rate * (elapsed + 1), rel=0.1)
    assert elapsed > 10
    assert warnings
    assert manager.node.limited["stream_bytes_per_s"] > 10


async def test_a_reliable_stream_over_its_rate_is_slowed_and_no_more(
    autojump_clock: MockClock,
) -> None:
    manager = make_manager(stream_bytes_per_s_per_account=10_000.0, max_slowed_s=1.0)
    alice = await Caller(manager).enter()
    room = (await alice.get(RegisterRoomAnswer, RELIABLE)).room
    writer = await alice.publish(room)
    bob = await Caller(manager).enter("bob")
    await bob.get(SubscribeAnswer, Subscribe(room=room, start=StartFrom.GROUP, credit=2**40))
    alice.peer.new()
    began = trio.current_time()
    for _ in range(300):
        await alice.send(writer.data(KEY, payload=bytes(464)), trio.current_time())
        if alice.session.pause_s:
            await alice.session.pause()
    assert trio.current_time() - began == pytest.approx(14, abs=1)
    assert not [one for one in alice.peer.new() if isinstance(one, Error)]
    assert set(manager.node.limited) == {"stream_bytes_per_s_per_account"}


async def test_frames_of_a_source_that_has_ended_count_too(autojump_clock: MockClock) -> None:
    manager = make_manager(stream_bytes_per_s=10_000.0)
    alice = await Caller(manager).enter()
    room = await alice.register()
    writer = await alice.publish(room)
    await alice.get(UnpublishAnswer, Unpublish(room=room, source=writer.source))
    for _ in range(14):
        await alice.send(writer.data(KEY, payload=bytes(964)), trio.current_time())
    assert alice.session.pause_s
    assert manager.node.discarded == 14


async def test_messages_to_accounts_have_a_rate_in_bytes(autojump_clock: MockClock) -> None:
    manager = make_manager(
        account_stream_bytes_per_s=10_000.0, max_slowed_s=2.0, max_refused_commands=2
    )
    alice = await Caller(manager).enter()
    send = AccountSend(receivers=["bob", "carol"], kind=1000, payload=bytes(2500))
    began = trio.current_time()
    for _ in range(6):  # 5,000 bytes each, and 10,000 at once
        await alice.get(AccountSendAnswer, send, trio.current_time())
    assert trio.current_time() - began == pytest.approx(2.0)
    for _ in range(2):
        assert await alice.refusal(send, trio.current_time()) is Code.RATE_LIMITED
    with closes_with(Code.FLOODING):
        await alice.send(encode(send, 9), trio.current_time())
    assert set(manager.node.limited) == {"account_stream_bytes_per_s"}


async def test_who_is_closed_while_slowed_down_sends_nothing_more(
    autojump_clock: MockClock,
) -> None:
    manager = make_manager(account_stream_bytes_per_s=1024.0)
    alice = await Caller(manager).enter()
    send = AccountSend(receivers=["bob"], kind=1000, payload=bytes(1025))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(alice.send, encode(send, 9), trio.current_time())
        await trio.testing.wait_all_tasks_blocked()
        alice.session.end(trio.current_time())
    (error,) = alice.peer.new()
    assert isinstance(error, Error)
    assert error.code == Code.UNAVAILABLE
