"""What answers list is bounded by the largest frame, byte for byte."""

from hypothesis import given
from hypothesis import strategies as st

from tests.core.builders import KEY, TrackWriter, make_peer, make_room
from tim_trio.core.listing import (
    LEFT_SOURCES_KEPT,
    TRACK_BYTES,
    Listing,
    grant_bytes,
    source_bytes,
)
from tim_trio.core.node import Node
from tim_trio.core.room import Room
from tim_trio.errors import Code, RemoteProtocolError, RoomError
from tim_trio.limits import KIB, Limits
from tim_trio.protocol.messages import (
    RoomInfoAnswer,
    SourceInfo,
    SourceLeftReason,
    StartFrom,
    TrackInfo,
    encode,
)

#: What `Listing` leaves for everything but sources and grants.
REST = KIB


def left(number: int, account: str = "alice", tracks: int = 0) -> SourceInfo:
    return SourceInfo(
        source=number,
        account=account,
        left=True,
        tracks=[TrackInfo(track=track, state=0, last_seq=0) for track in range(tracks)],
    )


def numbers(listing: Listing) -> list[int]:
    return [info.source for info in listing.left]


def test_no_more_is_taken_than_fits() -> None:
    listing = Listing(REST + 100)
    assert listing.take(60)
    assert not listing.take(41)
    assert listing.take(40)
    assert not listing.take(1)
    listing.give_back(60)
    assert listing.take(60)


def test_those_that_left_give_way_to_the_living_oldest_first() -> None:
    size = source_bytes("alice") + 2 * TRACK_BYTES
    listing = Listing(REST + 3 * size)
    for number in range(3):
        listing.keep(left(number, tracks=2))
    assert numbers(listing) == [0, 1, 2]
    assert listing.take(size + 1)
    assert numbers(listing) == [2]
    listing.keep(left(3, tracks=2))
    assert numbers(listing) == [3]
    assert listing.take(2 * size - 1)
    assert numbers(listing) == []
    listing.keep(left(4))  # nothing is left of the room
    assert numbers(listing) == []
    listing.give_back(3 * size)
    assert listing.take(3 * size)


def test_so_many_that_left_are_kept_and_no_more() -> None:
    listing = Listing(1024 * KIB)
    for number in range(LEFT_SOURCES_KEPT + 3):
        listing.keep(left(number))
    assert numbers(listing) == list(range(3, LEFT_SOURCES_KEPT + 3))


def encoded(info: SourceInfo | None, granted: list[str]) -> int:
    room = make_room(Node(Limits()), creator="")
    answer = room.info(show_granted=True, now=0.0)
    answer.sources.extend([info] if info else [])
    answer.granted.extend(granted)
    return len(encode(RoomInfoAnswer(info=answer), 1))


def test_sizes_are_those_of_the_wire() -> None:
    empty = encoded(None, [])
    name = "åsa"
    assert encoded(left(1, name, 3), []) == empty + source_bytes(name) + 3 * TRACK_BYTES
    assert encoded(None, [name]) == empty + grant_bytes(name)


def test_grants_end_where_they_cannot_be_listed() -> None:
    room = make_room(Node(Limits(max_frame_bytes=4 * KIB, max_init_bytes=KIB)))
    names = [f"{number:-<64}" for number in range(100)]
    granted = [name for name in names if room.grant(name)]
    assert granted == names[: (4 * KIB - REST) // grant_bytes(names[0])]
    room.revoke(granted[0])
    assert room.grant(names[-1])


def answers(room: Room) -> list[int]:
    """Return the sizes of the answers that list most."""
    watcher = make_peer(room._node, account="eve")
    room.subscribe(watcher.member, StartFrom.LIVE, 0, 1, 0.0)
    subscribed = watcher.wire.writes[0]
    room.unsubscribe(watcher.member)
    info = RoomInfoAnswer(info=room.info(show_granted=True, now=0.0))
    return [subscribed, len(encode(info, 1))]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["publish", "track", "track", "track", "leave", "grant", "revoke"]),
            st.integers(0, 50),
        ),
        max_size=300,
    )
)
def test_every_answer_fits_into_a_frame(steps: list[tuple[str, int]]) -> None:
    """With the smallest frames that there may be, the longest names, and any limits else."""
    limits = Limits(
        max_frame_bytes=4 * KIB,
        max_init_bytes=KIB,
        max_sources_per_room=60_000,
        max_grants_per_room=60_000,
    )
    node = Node(limits)
    long_name = "\N{FACE WITH TEARS OF JOY}" * 63
    room = make_room(node, creator=long_name)
    publisher = make_peer(node, account=long_name)
    codes = set[Code]()
    for step, which in steps:
        sources = list(room.sources.values())
        try:
            if step == "publish":
                room.publish(publisher.member, which.to_bytes(16), 1, 0.0)
            elif step == "grant":
                room.grant(f"{which:-<64}")
            elif step == "revoke" and room.granted:
                room.revoke(sorted(room.granted)[which % len(room.granted)])
            elif step == "leave" and sources:
                source = sources[which % len(sources)]
                room.end_source(source, SourceLeftReason.UNPUBLISHED, 0.0)
            elif step == "track" and sources:
                source = sources[which % len(sources)]
                for track in range(len(source.tracks), min(256, len(source.tracks) + 20)):
                    writer = TrackWriter(source=source.number, track=track)
                    room.push(source, writer.run(KEY), 0.0)
        except (RoomError, RemoteProtocolError) as error:
            codes.add(Code(error.code))
        assert codes <= {Code.TOO_MANY_SOURCES, Code.FLOODING}
        assert max(answers(room)) <= limits.max_frame_bytes
    for source in list(room.sources.values()):
        room.end_source(source, SourceLeftReason.UNPUBLISHED, 0.0)
    for account in list(room.granted):
        room.revoke(account)
    # All that was taken is there again.
    assert room._listing.take(limits.max_frame_bytes - REST)
