"""Rights that end while streams run: by the clock, and by the authenticator's word."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import trio

from tests.core.builders import FakeAuthenticator
from tests.net.rawclient import HELLO, RawClient, authenticate, frame
from tests.net.running import Running, eventually, running_server
from tim_trio.core.revocation import Revocation
from tim_trio.errors import Code
from tim_trio.limits import Limits
from tim_trio.protocol import messages


async def stream(publisher: RawClient, room: int) -> None:
    """Push until the server closes."""
    seq = 0
    try:
        while True:
            await publisher.send(frame(room, seq))
            seq += 1
            await trio.sleep(0.01)
    except (BrokenPipeError, ConnectionError, trio.BrokenResourceError):
        pass


async def assert_ended(
    running: Running, publisher: RawClient, watcher: RawClient, room: int, code: Code
) -> None:
    """While it pushes the publisher is closed, and the watcher sees the source leave."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream, publisher, room)
        items = await publisher.rest()
        nursery.cancel_scope.cancel()
    close = items[-1]
    assert isinstance(close, messages.Close)
    assert (Code(close.code), close.retry) == (code, False)
    publisher.close()
    while not isinstance(left := await watcher.next(), messages.SourceLeft):
        assert left is not None
    assert left.reason == messages.SourceLeftReason.REVOKED
    assert await watcher.is_served()


async def test_an_identity_expires_while_it_pushes() -> None:
    fake = FakeAuthenticator()
    async with running_server(authenticator=fake) as running:
        watcher = await running.connect("bob")
        fake.identity["expires_at"] = time.time() + 0.5
        publisher, room = await running.published_room()
        await watcher.subscribe(room)
        started = trio.current_time()
        await assert_ended(running, publisher, watcher, room, Code.EXPIRED)
        assert trio.current_time() - started > 0.2


@pytest.mark.parametrize("code", [Code.DISABLED, Code.BANNED, Code.SIGNED_OUT])
async def test_an_identity_is_revoked_while_it_pushes(code: Code) -> None:
    fake = FakeAuthenticator()
    async with running_server(authenticator=fake) as running:
        watcher = await running.connect("bob")
        publisher, room = await running.published_room()
        await watcher.subscribe(room)
        assert fake.revoke is not None
        fake.revoke(Revocation(number=1, account="alice", code=code))
        await assert_ended(running, publisher, watcher, room, code)


async def test_one_sign_in_of_two() -> None:
    fake = FakeAuthenticator(session="1")
    async with running_server(authenticator=fake) as running:
        first = await running.connect("alice")
        fake.identity["session"] = "2"
        second = await running.connect("alice")
        assert fake.revoke is not None
        fake.revoke(Revocation(number=1, account="alice", code=Code.SIGNED_OUT, session="1"))
        await first.expect_close(Code.SIGNED_OUT)
        assert await second.is_served()


async def test_a_fault_of_the_authenticators_ends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tim_trio.net.server._RETRY_PAUSE_S", 0.01)

    class Faulty(FakeAuthenticator):
        faults = 0

        async def run(self, revoke: Callable[[Revocation], None]) -> None:
            self.faults += 1
            if self.faults < 3:
                raise RuntimeError("a fault")
            await super().run(revoke)

    fake = Faulty()
    async with running_server(authenticator=fake) as running:
        client = await running.connect("alice")
        await eventually(lambda: fake.revoke is not None, "it runs again")
        assert await client.is_served()


async def test_a_slow_sign_in_is_bounded_by_the_handshake_and_leaves_nothing() -> None:
    fake = FakeAuthenticator()
    fake.go_on = trio.Event()
    limits = Limits(handshake_timeout_s=0.1, close_timeout_s=0.2)
    async with running_server(limits, authenticator=fake) as running:
        client = await running.connect(None)
        await client.send(HELLO, authenticate("alice"))
        await client.expect_close(Code.HANDSHAKE_TIMEOUT)
        await running.until_gone()
