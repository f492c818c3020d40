"""What the tests of rooms stand on: fakes of a socket and of a connection.

Frames and runs are made by the real encoder and the real decoder, and what an
outbox sent is read back by them, so that nothing here is an opinion of its own
about the wire.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import attrs
import trio

from tim_trio.core.accounts import OpenAuthenticator
from tim_trio.core.form import Form
from tim_trio.core.manager import RoomManager
from tim_trio.core.member import Member
from tim_trio.core.node import Node
from tim_trio.core.outbox import Backlog, Buffer, Outbox, Sink
from tim_trio.core.revocation import Identity, Revocation
from tim_trio.core.room import Room
from tim_trio.core.sources import Source
from tim_trio.core.subscription import Subscription
from tim_trio.errors import Code, room_error
from tim_trio.limits import KIB, MIB, Limits
from tim_trio.protocol.decoder import ControlFrame, Decoder
from tim_trio.protocol.layout import STREAM_HEADER_BYTES, Flag
from tim_trio.protocol.messages import (
    Authenticate,
    AuthMode,
    Capability,
    ChangePassword,
    RegisterAccount,
    Right,
    RoomMode,
    StartFrom,
    decode,
)
from tim_trio.protocol.runs import Run
from tim_trio.protocol.stream import StreamFrame, encode_stream_frame, iter_stream_frames

T = TypeVar("T")

ROOM = 8312248653376802578
TOKEN = bytes(range(16))
#: Source number of frames that only take up room; `parse` leaves them out.
FILLER = 0
INIT, KEY, END = int(Flag.INIT), int(Flag.KEY), int(Flag.END)
#: The smallest bounds that `Limits` allows, so that few bytes overflow them.
LIMITS = Limits(
    max_frame_bytes=4 * KIB,
    max_init_bytes=KIB,
    backlog_bytes=4 * KIB,
    connection_backlog_bytes=8 * KIB,
    node_backlog_bytes=MIB,
    control_backlog_bytes=16 * KIB,
    outbox_items=64,
    room_cache_bytes=8 * KIB,
    node_cache_bytes=16 * KIB,
)


def limits(**changes: Any) -> Limits:
    """Return the small bounds of tests with some of them changed."""
    return attrs.evolve(LIMITS, **changes)


# Frames and runs


def read_runs(data: bytes) -> list[Run]:
    """Return what the server's decoder makes of stream frames."""
    items = Decoder(max_frame_bytes=64 * MIB, max_init_bytes=MIB).feed(data)
    runs = [item for item in items if isinstance(item, Run)]
    assert len(runs) == len(items)
    return runs


@attrs.define
class TrackWriter:
    """Numbers the frames of one track as a publisher does."""

    room: int = ROOM
    source: int = 1
    track: int = 0
    next_seq: int = 0

    def frame(self, flags: int = 0, payload: bytes = b"x") -> StreamFrame:
        seq = self.next_seq
        self.next_seq += 1
        return StreamFrame(self.room, self.source, self.track, seq, seq * 1000, flags, payload)

    def data(self, *flags: int, payload: bytes = b"x") -> bytes:
        """Return the bytes of one frame per element of ``flags``."""
        return b"".join(encode_stream_frame(self.frame(each, payload)) for each in flags)

    def run(self, *flags: int, payload: bytes = b"x", size: int = 0) -> Run:
        """Return frames that the decoder takes for one run.

        ``size``: bytes of each whole frame, instead of a payload.
        """
        if size:
            payload = bytes(size - STREAM_HEADER_BYTES)
        (run,) = read_runs(self.data(*flags, payload=payload))
        return run


# What a peer gets


@attrs.frozen
class Received:
    """A control frame with its message."""

    request_id: int
    message: object


def parse_with_ids(data: bytes) -> list[Received | StreamFrame]:
    """Return everything in some bytes, which must be whole frames."""
    decoder = Decoder(max_frame_bytes=64 * MIB, max_init_bytes=MIB)
    received: list[Received | StreamFrame] = []
    for item in decoder.feed(data):
        if isinstance(item, ControlFrame):
            received.append(Received(item.request_id, decode(item.type, item.fields)))
        else:
            received.extend(each for each in iter_stream_frames(item.data) if each.source != FILLER)
    assert not decoder.buffered_bytes, "the bytes end within a frame"
    return received


def parse(data: bytes) -> list[object]:
    """Return messages and stream frames, in order."""
    return [
        each.message if isinstance(each, Received) else each for each in parse_with_ids(bytes(data))
    ]


class Wire:
    """A fake socket that takes a budget of bytes and keeps them.

    ``budget`` None means that it takes everything.
    """

    def __init__(self, budget: int | None = None) -> None:
        self.budget = budget
        self.broken = False
        self.taken = bytearray()
        self.writes: list[int] = []

    def transmit(self, data: Buffer) -> int:
        if self.broken:
            raise BrokenPipeError
        size = len(data) if self.budget is None else min(self.budget, len(data))
        if not size:
            raise BlockingIOError
        if self.budget is not None:
            self.budget -= size
        self.taken += data[:size]
        self.writes.append(size)
        return size

    def fileno(self) -> int:
        raise AssertionError("for a real passage alone")

    def send(self, data: bytes, flags: int, /) -> int:
        raise AssertionError("for a real passage alone")


class Carried:
    """A passage: a frame as if it were still in the kernel.

    ``failure`` is what moving it raises in the end.
    """

    def __init__(self, data: bytes, failure: Exception | None = None) -> None:
        self._data = data
        self._failure = failure

    def move(self, sink: Sink) -> bytes:
        assert isinstance(sink, Wire)
        try:
            sent = sink.transmit(self._data)
        except BlockingIOError:
            sent = 0
        if self._failure is not None:
            raise self._failure
        return self._data[sent:]


class Brackets:
    """A form that anyone can read: ``[frames]``, and nothing for ``unsayable``.

    ``encoded`` keeps what it was asked for.
    """

    def __init__(self) -> None:
        self.encoded: list[bytes] = []

    def encode(self, data: Buffer) -> bytes:
        frames = bytes(data)
        self.encoded.append(frames)
        return b"" if frames == b"unsayable" else b"[" + frames + b"]"

    def farewell(self, code: int | None) -> bytes:
        return b"bye %d" % code if code else b""


@attrs.define(eq=False)
class Peer:
    """One connection without its socket: a member, its outbox, and the wire behind it."""

    node: Node
    account: str
    rights: Right
    wire: Wire = attrs.field(factory=Wire)
    form: Form | None = None
    aborts: int = 0
    writers: int = 0
    expects_bulk: bool = False
    outbox: Outbox = attrs.field(init=False)
    member: Member = attrs.field(init=False)
    _read: int = 0

    def __attrs_post_init__(self) -> None:
        self.outbox = Outbox(
            self.wire.transmit,
            self.node,
            start_writer=self._start_writer,
            on_abort=self._on_abort,
            on_bulk=self._on_bulk,
            form=self.form,
            sink=self.wire if self.form is None else None,
        )
        self.member = Member(self.account, self.outbox, self.rights)

    def _start_writer(self) -> None:
        self.writers += 1

    def _on_bulk(self) -> None:
        self.expects_bulk = True

    def _on_abort(self) -> None:
        self.aborts += 1

    def drain(self, budget: int | None = None, now: float = 0.0) -> None:
        """Be the writer task until the wire takes no more. Not within `trio.run`."""
        trio.run(self.write, budget, now)

    async def write(self, budget: int | None = None, now: float = 0.0) -> None:
        """As `drain`, within `trio.run`."""
        self.wire.budget = budget
        while self.outbox.pending_bytes > self.outbox.closed:
            for piece in await self.outbox.next_batch():
                try:
                    sent = self.wire.transmit(piece)
                except BlockingIOError:
                    return
                self.outbox.settle(sent, now)
                if sent < len(piece):
                    return

    def new(self) -> list[object]:
        """Return what has been received since the last call."""
        start, self._read = self._read, len(self.wire.taken)
        return parse(bytes(self.wire.taken[start:]))

    def new_with_ids(self) -> list[Received | StreamFrame]:
        start, self._read = self._read, len(self.wire.taken)
        return parse_with_ids(bytes(self.wire.taken[start:]))

    def frames(self) -> list[StreamFrame]:
        """Return the stream frames among what is new."""
        return [each for each in self.new() if isinstance(each, StreamFrame)]

    @property
    def subscription(self) -> Subscription:
        return self.member.subscriptions[ROOM]


def make_peer(
    node: Node | None = None,
    *,
    account: str = "alice",
    budget: int | None = None,
    rights: Right = Right.REGISTER_ROOMS,
    form: Form | None = None,
) -> Peer:
    """Return a connection; without a node on one of its own."""
    return Peer(node or Node(LIMITS), account, rights, Wire(budget), form)


def make_room(
    node: Node | None = None,
    *,
    creator: str = "alice",
    mode: RoomMode = RoomMode.LIVE,
    gather_ms: int = 0,
    created_at: float = 0.0,
    flush_at: Callable[[Room, float], None] = lambda room, when: None,
) -> Room:
    """Return a room outside a manager."""
    return Room(
        ROOM,
        creator,
        mode,
        gather_ms,
        300.0,
        created_at,
        node or Node(LIMITS),
        "node",
        flush_at=flush_at,
    )


def open_source(room: Room, publisher: Peer, token: bytes = TOKEN) -> Source:
    """Publish and forget the answer."""
    source = room.publish(publisher.member, token, 1, 0.0)
    publisher.new()
    return source


def join(
    room: Room,
    peer: Peer,
    start: StartFrom = StartFrom.GROUP,
    *,
    credit: int = 0,
    request_id: int = 1,
) -> None:
    room.subscribe(peer.member, start, credit, request_id, 0.0)


def of_kind(kind: type[T], items: Sequence[object]) -> list[T]:
    return [each for each in items if isinstance(each, kind)]


def seqs(items: Sequence[object]) -> list[int]:
    """Return the numbers of the stream frames among some items."""
    return [each.seq for each in of_kind(StreamFrame, items)]


def fill(peer: Peer, size: int, now: float = 0.0) -> Backlog:
    """Queue ``size`` bytes that somebody else pays for, in one piece."""
    ledger = Backlog()
    peer.outbox.queue(TrackWriter(source=FILLER).run(0, size=size).data, ledger, now)
    return ledger


# Who signs in


class FakeAuthenticator(OpenAuthenticator):
    """Takes any name, and gives what it is told to; keeps what it was asked.

    Attributes:
        identity: what everyone gets, under their own name.
        refusal: what everyone gets instead.
        pause: set where it is to wait for `go_on`.
    """

    mode: AuthMode = AuthMode.ACCOUNTS
    capabilities = Capability.ACCOUNTS

    def __init__(self, **identity: Any) -> None:
        super().__init__()
        self.identity: dict[str, Any] = {"rights": Right.REGISTER_ROOMS, **identity}
        self.refusal: Code | None = None
        self.go_on: trio.Event | None = None
        self.asked: list[tuple[object, str]] = []
        self.revoke: Callable[[Revocation], None] | None = None

    async def authenticate(
        self, request: Authenticate, *, address: str, is_loopback: bool
    ) -> Identity:
        await self._ask(request, address)
        return Identity(account=request.account, **self.identity)

    async def register(self, request: RegisterAccount, *, address: str) -> None:
        await self._ask(request, address)

    async def change_password(
        self, identity: Identity, request: ChangePassword, *, address: str
    ) -> None:
        await self._ask((identity.account, request), address)

    async def ban(self, account: str) -> None:
        await self._ask(account, "")

    async def _ask(self, what: object, address: str) -> None:
        self.asked.append((what, address))
        if self.go_on is not None:
            await self.go_on.wait()
        if self.refusal is not None:
            raise room_error(self.refusal)

    async def run(self, revoke: Callable[[Revocation], None]) -> None:
        self.revoke = revoke
        await trio.sleep_forever()


# Managers


class Log:
    """Keeps what would be logged."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def info(self, event: str, **fields: Any) -> None:
        self.lines.append((event, fields))

    def events(self) -> list[str]:
        return [event for event, _ in self.lines]


def make_manager(**changes: Any) -> RoomManager:
    """Return a manager with its own node; ``changes`` are limits."""
    return RoomManager(Node(limits(**changes)), Log())


def enter(
    manager: RoomManager,
    account: str,
    *,
    budget: int | None = None,
    rights: Right = Right.REGISTER_ROOMS,
) -> Peer:
    """Return a connection that has authenticated."""
    peer = make_peer(manager.node, account=account, budget=budget, rights=rights)
    manager.enter(peer.member)
    return peer


def is_idle(node: Node) -> bool:
    """Say whether nothing is held any more."""
    return not any(
        (
            node.backlog_bytes,
            node.cache_bytes,
            node.pinned_bytes,
            node.lagging,
            node.subscriptions,
            node.rooms,
        )
    )
