"""Account streams: to whom, with what answer, and what others notice of it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio

from tests.core.builders import Peer, enter, fill, make_manager, of_kind
from tim_trio.core.account_streams import send, tell_contact
from tim_trio.core.manager import RoomManager
from tim_trio.core.relations import ContactChange, MemoryRelations, Verdict
from tim_trio.errors import Code, RoomError
from tim_trio.limits import KIB
from tim_trio.protocol.messages import (
    AccountSend,
    AccountSendAnswer,
    AccountStream,
    ContactAction,
    ContactChanged,
    ContactState,
    Delivery,
    DeliveryStatus,
    Policy,
    encode,
)

DELIVERED, OFFLINE, REFUSED, UNKNOWN, BUSY = DeliveryStatus


@pytest.fixture
def manager() -> RoomManager:
    return make_manager()


@pytest.fixture
def relations() -> MemoryRelations:
    return MemoryRelations()


def to(*receivers: str, payload: bytes = b"ring", kind: int = 300) -> AccountSend:
    return AccountSend(receivers=list(receivers), kind=kind, payload=payload)


def got(account: str, status: DeliveryStatus, devices: int = 0) -> Delivery:
    return Delivery(account=account, status=status, devices=devices)


def received(peer: Peer) -> list[AccountStream]:
    return of_kind(AccountStream, peer.new())


async def test_every_device_of_every_receiver_gets_it(
    manager: RoomManager, relations: MemoryRelations
) -> None:
    alice = enter(manager, "alice")
    bobs = [enter(manager, "bob") for _ in range(2)]
    carol = enter(manager, "carol")
    answer = await send(
        manager, relations, alice.member, to("bob", "carol", "dave", "no body"), 0.0
    )
    assert answer == [
        got("bob", DELIVERED, 2),
        got("carol", DELIVERED, 1),
        got("dave", OFFLINE),
        got("no body", UNKNOWN),
    ]
    for peer in (*bobs, carol):
        assert received(peer) == [AccountStream(account="alice", kind=300, payload=b"ring")]
    assert alice.new() == []
    node = manager.node
    assert (node.account_delivered, node.account_missed) == (3, 2)
    assert node.account_bytes == 3 * len(b"ring")
    assert node.figures()["account_delivered"] == 3


async def test_ones_own_other_devices_get_it(
    manager: RoomManager, relations: MemoryRelations
) -> None:
    phone = enter(manager, "alice")
    assert await send(manager, relations, phone.member, to("alice"), 0.0) == [got("alice", OFFLINE)]
    laptop = enter(manager, "alice")
    assert await send(manager, relations, phone.member, to("alice"), 0.0) == [
        got("alice", DELIVERED, 1)
    ]
    assert len(received(laptop)) == 1
    assert received(phone) == []


async def test_who_is_named_twice_gets_it_once(
    manager: RoomManager, relations: MemoryRelations
) -> None:
    alice, bob = enter(manager, "alice"), enter(manager, "bob")
    assert await send(manager, relations, alice.member, to("bob", "bob"), 0.0) == [
        got("bob", DELIVERED, 1)
    ]
    assert len(received(bob)) == 1
    assert await send(manager, relations, alice.member, to(), 0.0) == []


async def test_both_sides_are_asked(manager: RoomManager, relations: MemoryRelations) -> None:
    alice, bob = enter(manager, "alice"), enter(manager, "bob")

    async def result() -> Delivery:
        (delivery,) = await send(manager, relations, alice.member, to("bob"), 0.0)
        return delivery

    await relations.contact("bob", ContactAction.BLOCK, "alice")
    assert await result() == got("bob", OFFLINE)
    await relations.contact("bob", ContactAction.UNBLOCK, "alice")
    await relations.contact("alice", ContactAction.BLOCK, "bob")
    assert await result() == got("bob", REFUSED)
    await relations.contact("alice", ContactAction.UNBLOCK, "bob")
    await relations.set_policy("bob", Policy.CONTACTS)
    assert await result() == got("bob", REFUSED)
    assert received(bob) == []
    assert manager.node.account_refused == 3
    await relations.contact("alice", ContactAction.ASK, "bob")
    await relations.contact("bob", ContactAction.ACCEPT, "alice")
    assert await result() == got("bob", DELIVERED, 1)


async def test_who_does_not_read_is_busy_and_the_others_are_not(
    manager: RoomManager, relations: MemoryRelations
) -> None:
    alice, bob = enter(manager, "alice"), enter(manager, "bob", budget=0)
    carol = enter(manager, "carol")
    payload = bytes(3 * KIB)
    statuses = [
        (await send(manager, relations, alice.member, to("bob", payload=payload), 0.0))[0].status
        for _ in range(3)
    ]
    # This connection takes 8 KiB in all (the tests' small bounds).
    assert statuses == [DELIVERED, DELIVERED, BUSY]
    assert manager.node.account_busy == 1
    assert await send(manager, relations, alice.member, to("bob", "carol"), 0.0) == [
        got("bob", DELIVERED, 1),
        got("carol", DELIVERED, 1),
    ]
    assert len(received(carol)) == 1
    await bob.write()
    assert len(received(bob)) == 3
    assert (await send(manager, relations, alice.member, to("bob", payload=payload), 0.0)) == [
        got("bob", DELIVERED, 1)
    ]


async def test_one_device_with_room_is_enough(
    manager: RoomManager, relations: MemoryRelations
) -> None:
    alice = enter(manager, "alice")
    stuck, ready = enter(manager, "bob", budget=0), enter(manager, "bob")
    fill(stuck, manager.node.limits.connection_backlog_bytes)
    assert await send(manager, relations, alice.member, to("bob"), 0.0) == [
        got("bob", DELIVERED, 1)
    ]
    assert len(received(ready)) == 1


async def test_a_connection_that_is_ending_is_not_there(
    manager: RoomManager, relations: MemoryRelations
) -> None:
    alice, bob = enter(manager, "alice"), enter(manager, "bob")
    bob.outbox.abort(None)
    assert await send(manager, relations, alice.member, to("bob"), 0.0) == [got("bob", OFFLINE)]


async def test_a_flood_leaves_room_for_rooms_and_other_senders() -> None:
    manager = make_manager(account_backlog_bytes=4 * KIB, connection_backlog_bytes=16 * KIB)
    relations = MemoryRelations()
    bob = enter(manager, "bob", budget=0)
    for sender in ("alice", "carol", "dave", "eve"):
        member = enter(manager, sender).member
        for _ in range(50):
            await send(manager, relations, member, to("bob", payload=bytes(500)), 0.0)
    assert bob.member.inbox.pending_bytes <= 4 * KIB
    assert len(bob.member.inbox.shares) >= 2
    assert bob.outbox.has_room_beside(12 * KIB)
    assert bob.aborts == 0


async def test_bounds_of_a_message() -> None:
    manager = make_manager(max_account_stream_bytes=KIB, max_receivers=64)
    relations = MemoryRelations()
    alice, bob = enter(manager, "alice"), enter(manager, "bob")

    async def refused(request: AccountSend) -> None:
        with pytest.raises(RoomError) as caught:
            await send(manager, relations, alice.member, request, 0.0)
        assert caught.value.code == Code.BAD_REQUEST

    await send(manager, relations, alice.member, to("bob", payload=bytes(KIB)), 0.0)
    await refused(to("bob", payload=bytes(KIB + 1)))
    names = [f"a{number}" for number in range(64)]
    assert len(await send(manager, relations, alice.member, to(*names), 0.0)) == 64
    await refused(to(*names, "bob"))
    assert len(received(bob)) == 1


async def test_neither_a_delivered_frame_nor_an_answer_outgrows_a_frame(
    relations: MemoryRelations,
) -> None:
    manager = make_manager()  # frames of 4 KiB
    most = manager.node.limits.max_frame_bytes
    long_name = "\N{MATHEMATICAL BOLD SMALL A}" * 63
    alice, bob = enter(manager, long_name), enter(manager, "bob")
    await send(manager, relations, alice.member, to("bob", payload=bytes(most - 512)), 0.0)
    assert len(bob.wire.taken) <= most
    with pytest.raises(RoomError):
        await send(manager, relations, alice.member, to("bob", payload=bytes(most - 511)), 0.0)
    receivers = [f"{number:02}{'x' * 57}" for number in range(63)]
    assert len(encode(AccountSendAnswer(deliveries=[got(r, OFFLINE) for r in receivers]))) < most
    assert len(await send(manager, relations, alice.member, to(*receivers), 0.0)) == 63
    receivers = [f"{number:02}{'x' * 60}" for number in range(63)]
    assert len(encode(AccountSendAnswer(deliveries=[got(r, OFFLINE) for r in receivers]))) > most
    with pytest.raises(RoomError):
        await send(manager, relations, alice.member, to(*receivers), 0.0)


class SlowRelations(MemoryRelations):
    def __init__(self) -> None:
        super().__init__()
        self.go_on = trio.Event()

    async def verdicts(self, sender: str, receivers: Sequence[str]) -> list[Verdict]:
        await self.go_on.wait()
        return await super().verdicts(sender, receivers)


async def test_who_loses_its_rights_meanwhile_sends_nothing(manager: RoomManager) -> None:
    relations = SlowRelations()
    alice, bob = enter(manager, "alice"), enter(manager, "bob")
    codes = []

    async def try_to_send() -> None:
        with pytest.raises(RoomError) as caught:
            await send(manager, relations, alice.member, to("bob"), 0.0)
        codes.append(caught.value.code)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(try_to_send)
        await trio.testing.wait_all_tasks_blocked()
        alice.outbox.close(None, Code.BANNED, 0.0)
        relations.go_on.set()
    assert codes == [Code.UNAVAILABLE]
    assert received(bob) == []


# Contacts


def change(*, is_news: bool) -> ContactChange:
    return ContactChange(
        state=ContactState.ASKED_BY_ME, other_state=ContactState.ASKED_BY_THEM, is_news=is_news
    )


async def test_the_other_side_is_told_of_news_alone(manager: RoomManager) -> None:
    alice = enter(manager, "alice")
    bobs = [enter(manager, "bob") for _ in range(2)]
    await tell_contact(manager, alice.member, "bob", change(is_news=False), 0.0)
    await tell_contact(manager, alice.member, "carol", change(is_news=True), 0.0)
    assert [bob.new() for bob in bobs] == [[], []]
    await tell_contact(manager, alice.member, "bob", change(is_news=True), 0.0)
    for bob in bobs:
        assert bob.new() == [ContactChanged(account="alice", state=ContactState.ASKED_BY_THEM)]


async def test_telling_again_and_again_closes_nobody(manager: RoomManager) -> None:
    alice, bob = enter(manager, "alice"), enter(manager, "bob", budget=0)
    for _ in range(10_000):
        await tell_contact(manager, alice.member, "bob", change(is_news=True), 0.0)
    assert bob.aborts == 0
    assert not bob.outbox.closed
