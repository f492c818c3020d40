"""What a connection holds, and what it is remembered to have held."""

import pytest

from tests.core.builders import ROOM, TOKEN, Peer, make_peer, make_room
from tim_trio.core import member as member_module
from tim_trio.core.member import Member
from tim_trio.core.sources import Source
from tim_trio.protocol.messages import Right


def source(number: int, peer: Peer) -> Source:
    return Source(number, peer.account, TOKEN, peer.member)


def test_what_is_released_becomes_former() -> None:
    peer, room = make_peer(), make_room()
    held = source(3, peer)
    peer.member.hold(room, held)
    assert peer.member.sources == {(ROOM, 3): (room, held)}
    assert peer.member.former == {}
    peer.member.release(room, held)
    assert peer.member.sources == {}
    assert peer.member.former == {(ROOM, 3): held}


def test_what_was_never_held_does_not_become_former() -> None:
    peer, room = make_peer(), make_room()
    peer.member.release(room, source(3, peer))
    assert peer.member.former == {}


def test_what_is_held_again_is_no_longer_former() -> None:
    peer, room = make_peer(), make_room()
    held = source(3, peer)
    peer.member.hold(room, held)
    peer.member.release(room, held)
    peer.member.hold(room, held)
    assert peer.member.sources == {(ROOM, 3): (room, held)}
    assert peer.member.former == {}


def test_the_oldest_former_source_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member_module, "_MAX_FORMER", 3)
    peer, room = make_peer(), make_room()
    for number in range(1, 6):
        held = source(number, peer)
        peer.member.hold(room, held)
        peer.member.release(room, held)
    assert [number for _, number in peer.member.former] == [3, 4, 5]


def test_a_sign_in_may_be_for_some_rooms_alone() -> None:
    anywhere = make_peer().member
    assert anywhere.may_push_to(ROOM) and anywhere.may_subscribe_to(ROOM)
    narrowed = Member(
        "alice",
        anywhere.outbox,
        Right(0),
        push_rooms=frozenset({ROOM}),
        subscribe_rooms=frozenset({ROOM + 1}),
    )
    assert narrowed.may_push_to(ROOM) and not narrowed.may_push_to(ROOM + 1)
    assert narrowed.may_subscribe_to(ROOM + 1) and not narrowed.may_subscribe_to(ROOM)
