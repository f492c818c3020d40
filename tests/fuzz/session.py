"""Fuzzes whole sessions in memory: three connections, one room manager, no sockets.

An input is a script: a byte that picks the limits, then steps. A step feeds raw
bytes or a well-formed request, pushes frames, lets a peer's socket take all,
little or nothing, drains it, loses it, or moves the clock. Whatever happens,

* a peer's bytes lead to answers or to a close, never to another exception;
* every request is answered exactly once;
* each subscriber gets what protocol.md promises (`_Observer`);
* when all is over, nothing is left: no room, subscriber, source or queued byte.

See `tests.fuzz.engine` for how to run it.
"""

import itertools
import struct
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import attrs
import trio

from tests.fuzz import engine

with engine.instrumented():
    from tests.protocol.builders import (
        END,
        INIT,
        KEY,
        ROOM,
        VALID_FILES,
        control_bytes,
        frames_of_run,
        load_vectors,
        stream_bytes,
        vector_bytes,
    )
    from tim_trio.core.manager import RoomManager
    from tim_trio.core.node import Node
    from tim_trio.core.outbox import Buffer, Outbox
    from tim_trio.core.session import PeerClosed, Session, new_decoder
    from tim_trio.errors import Code, RemoteProtocolError
    from tim_trio.limits import KIB, MIB, Limits
    from tim_trio.protocol import messages
    from tim_trio.protocol.decoder import ControlFrame, Decoder
    from tim_trio.protocol.layout import ANSWER_BIT, MAGIC
    from tim_trio.protocol.messages import UnreadableFields, decode, encode
    from tim_trio.protocol.runs import Run

_PEERS = 3
_ACCOUNTS = ("alice", "bob")
_ONE_WAY = frozenset(
    messages.type_of(message)
    for message in (messages.Credit, messages.LinkPath, messages.LinkViewers)
)
_TOKENS = tuple(bytes([number]) * 16 for number in range(3))


def _limits(choices: int) -> Limits:
    """Tight limits, so that short scripts pass them."""
    return Limits(
        max_frame_bytes=4 * KIB,
        max_init_bytes=KIB,
        backlog_bytes=4 * KIB,
        connection_backlog_bytes=(8 if choices & 1 else 64) * KIB,
        node_backlog_bytes=MIB,
        control_backlog_bytes=16 * KIB,
        outbox_items=64 if choices & 2 else 1024,
        room_cache_bytes=8 * KIB if choices & 4 else 0,
        node_cache_bytes=(12 if choices & 8 else 64) * KIB,
        linger_s=5.0 if choices & 16 else 0.0,
        commands_per_s=1.0,
        command_burst=8 if choices & 32 else 1000,
        # Nothing here may wait.
        max_slowed_s=0.0,
        commands_per_s_per_address=1e9,
        max_refused_commands=4,
        max_rooms=3,
        max_rooms_per_account=2,
        max_subscriptions=2,
        max_sources_per_room=3,
        max_sources_per_connection=3,
        max_grants_per_room=1,
        idle_timeout_s=30.0,
    )


class _Script:
    """Takes numbers and bytes off a fuzzer's input; zeros when it is used up."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def number(self) -> int:
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def take(self, size: int) -> bytes:
        self._at += size
        return self._data[self._at - size : self._at]


class _Log:
    def info(self, event: str, **fields: Any) -> None:
        str((event, fields))


@attrs.define
class _SeenTrack:
    """What a subscriber has seen of one track.

    Attributes:
        account_for: the next seq that must come or be announced lost, once
            ``started``; before that, the least that may come.
        must_be_key: no frame but a KEY (or END, or INIT) may come next.
        init: seq of the newest INIT, -1 for none.
        ended: END has come.
        over: END had come before, and only INITs may be sent.
    """

    last: int = -1
    account_for: int = 0
    started: bool = False
    keyed: bool = False
    must_be_key: bool = False
    init: int = -1
    ended: bool = False
    over: bool = False


@attrs.define
class _TrueTrack:
    """What the relay accepted of one track, to compare with what subscribers saw."""

    next_seq: int = 0
    inits: set[int] = attrs.field(factory=set)
    ended: bool = False


class _Observer:
    """Reads what one peer was sent, as a client that trusts nothing."""

    def __init__(self, world: "_World") -> None:
        self._world = world
        self.answers: Counter[tuple[int, int]] = Counter()
        #: For requests whose answers do not say what they are about.
        self.subscribes: deque[messages.Subscribe | None] = deque()
        self.unsubscribes: deque[messages.Unsubscribe | None] = deque()
        self._rooms: dict[int, dict[int, dict[int, _SeenTrack]]] = {}
        self._reliable: set[int] = set()
        self._closed = False

    def read(self, data: bytes) -> int:
        """Check everything; return how many bytes of half a frame are left."""
        decoder = Decoder(max_frame_bytes=MIB, max_init_bytes=KIB)
        for item in decoder.feed(data):
            assert not self._closed, "nothing follows CLOSE"
            if isinstance(item, Run):
                self._run(item)
            else:
                self._control(item)
        return decoder.buffered_bytes

    def _run(self, run: Run) -> None:
        sources = self._rooms[run.room]
        track = sources[run.source].setdefault(run.track, _SeenTrack())
        true = self._world.tracks[run.room, run.source][run.track]
        for seq, frame in enumerate(frames_of_run(run), run.first_seq):
            assert frame in self._world.pushed, "frames arrive as they were pushed"
            flags = frame[5]
            assert seq > track.last, "seq rises and never repeats"
            assert not track.ended, "nothing follows END"
            assert flags & INIT or not track.over, "nothing but an INIT follows an old END"
            if flags & INIT and seq < track.account_for:
                pass  # an INIT may come from within a gap
            else:
                assert seq == track.account_for or (not track.started and seq > track.account_for)
                track.account_for = seq + 1
            if flags & INIT:
                track.init = seq
            elif flags & KEY:
                before = [init for init in true.inits if init < seq]
                assert track.init == max(before, default=-1), "a KEY stands behind its INIT"
            if not flags & INIT:
                assert not track.must_be_key or flags & (KEY | END)
                track.started = True
            track.keyed = track.keyed or bool(flags & KEY)
            if flags & KEY or not flags & INIT:
                track.must_be_key = False
            track.last = seq
            track.ended = bool(flags & END)

    def _control(self, frame: ControlFrame) -> None:
        message = decode(frame.type, frame.fields)
        if frame.type & ANSWER_BIT:
            number = frame.type ^ ANSWER_BIT
            if isinstance(message, messages.Error):
                number = message.request_type
            self.answers[number, frame.request_id] += 1
        match message:
            case messages.SubscribeAnswer():
                request = self.subscribes.popleft()
                assert request is not None and request.room == message.room
                assert message.room not in self._rooms
                self._subscribed(message, request.start)
            case messages.UnsubscribeAnswer():
                unsubscribe = self.unsubscribes.popleft()
                assert unsubscribe is not None
                del self._rooms[unsubscribe.room]
            case messages.Error(request_type=0x14):
                self.subscribes.popleft()
            case messages.Error(request_type=0x15):
                self.unsubscribes.popleft()
            case messages.RoomClosed():
                for source in self._rooms.pop(message.room, {}).items():
                    self._source_over(message.room, *source)
            case messages.SourceJoined():
                sources = self._rooms[message.room]
                assert message.source not in sources
                sources[message.source] = {}
            case messages.SourceLeft():
                tracks = self._rooms[message.room].pop(message.source)
                self._source_over(message.room, message.source, tracks)
            case messages.Gap():
                self._gap(message)
            case messages.Close():
                self._closed = True

    def _subscribed(self, answer: messages.SubscribeAnswer, start: messages.StartFrom) -> None:
        state = messages.TrackState
        is_live = answer.mode is messages.RoomMode.LIVE
        waits = is_live and start is messages.StartFrom.GROUP
        self._rooms[answer.room] = {
            source.source: {
                info.track: _SeenTrack(
                    keyed=bool(info.state & state.KEYED),
                    must_be_key=waits and bool(info.state & state.KEYED),
                    over=is_live and info.ended and not info.state & state.CACHED_GROUP,
                )
                for info in source.tracks
            }
            for source in answer.sources
            if not source.left
        }
        if not is_live:
            self._reliable.add(answer.room)

    def _source_over(self, room: int, source: int, tracks: dict[int, _SeenTrack]) -> None:
        for number, true in self._world.tracks[room, source].items():
            seen = tracks.get(number, _SeenTrack())
            assert not seen.started or seen.account_for == true.next_seq, "losses are announced"
            if room not in self._reliable:
                assert seen.ended or seen.over or not true.ended, "END reaches everyone"

    def _gap(self, gap: messages.Gap) -> None:
        sources = self._rooms[gap.room]
        track = sources[gap.source].setdefault(gap.track, _SeenTrack())
        assert gap.first_seq <= gap.last_seq
        if gap.room in self._reliable:
            assert gap.reason != messages.GapReason.LAGGED, "a reliable room drops nothing"
        if track.started:
            assert gap.first_seq == track.account_for, "a lost seq is in exactly one GAP"
        track.account_for = max(track.account_for, gap.last_seq + 1)
        if gap.reason == messages.GapReason.LAGGED and track.keyed:
            track.must_be_key = True


class _Peer:
    """One connection: what a server does with it, and the socket it would have."""

    def __init__(self, world: "_World", *, is_operator: bool = False) -> None:
        self.world = world
        self.sent = bytearray()
        self.takes = 1 << 30  # bytes per write; 0 blocks, below 0 is a broken connection
        self.over = False
        self.aborted = False
        self.requests: Counter[tuple[int, int]] = Counter()
        self.mistakes: Counter[tuple[int, int]] = Counter()  # one-way: may be answered
        self.observer = _Observer(world)
        self.has_writer = False
        self.outbox = Outbox(
            self._transmit,
            world.manager.node,
            start_writer=self._start_writer,
            on_abort=self._abort,
        )
        self.decoder = new_decoder(world.manager)
        self.session = Session(
            world.manager, self.outbox, self.decoder, world.now, is_loopback=is_operator
        )
        self.next_seq: Counter[tuple[int, int, int]] = Counter()

    def _transmit(self, data: Buffer) -> int:
        if self.takes < 0:
            raise BrokenPipeError
        if not self.takes:
            raise BlockingIOError
        taken = bytes(data[: self.takes])
        self.sent += taken
        return len(taken)

    def _start_writer(self) -> None:
        assert not self.has_writer
        self.has_writer = True

    def _abort(self) -> None:
        self.aborted = True

    def _is_closed(self) -> bool:
        return self.over or self.outbox.closed

    async def feed(self, data: bytes) -> None:
        """Receive bytes as a connection's reader does."""
        if self._is_closed():
            return
        now = self.world.now
        items: list[Run | ControlFrame] = []
        error = self.decoder.feed_into(data, items)
        assert self.decoder.buffered_bytes < self.decoder.max_frame_bytes
        code: Code | None = None
        try:
            for item in items:
                if self._is_closed():
                    return
                if isinstance(item, Run):
                    self.world.pushed.update(frames_of_run(item))
                    try:
                        self.session.receive_run(item, now)
                    finally:
                        self.world.record(item)
                else:
                    await self._feed_control(item)
        except RemoteProtocolError as broken:
            error = broken
        except PeerClosed:
            code = Code.BYE
        if error is not None:
            code = error.code
        if code is not None:
            self.session.end(now)
            self.session.close(code, now)

    async def _feed_control(self, frame: ControlFrame) -> None:
        before = +self.requests
        request: object = None
        try:
            request = decode(frame.type, frame.fields)
        except UnreadableFields:
            pass
        if frame.type in _ONE_WAY:
            self.mistakes[frame.type, frame.request_id] += 1
        elif 0 < frame.type < 0x40 and frame.request_id:
            self.requests[frame.type, frame.request_id] += 1
        observer = self.observer
        if frame.type == 0x14:
            observer.subscribes.append(request if isinstance(request, messages.Subscribe) else None)
        elif frame.type == 0x15:
            observer.unsubscribes.append(
                request if isinstance(request, messages.Unsubscribe) else None
            )
        try:
            await self.session.receive_control(frame, self.world.now)
        except (RemoteProtocolError, PeerClosed):
            self.requests = before  # closed instead of answered
            raise

    async def drain(self) -> None:
        """Write what is queued as a connection's writer does."""
        outbox = self.outbox
        while not self.over and outbox.pending_bytes > outbox.closed:
            assert self.has_writer
            pieces = await outbox.next_batch()
            try:
                sent = self._transmit(b"".join(bytes(piece) for piece in pieces))
            except BlockingIOError:
                return
            except OSError:
                outbox.abort(None)
                return
            outbox.settle(sent, self.world.now)

    async def tidy(self) -> None:
        """After each step: what the owner of a connection does once it is over."""
        if self.over or not self.outbox.closed:
            return
        self.session.end(self.world.now)
        if not self.aborted:
            await self.drain()
            if self.outbox.pending_bytes > 1 and self.takes:
                return
        self.outbox.discard()
        self.over = True

    async def finish(self) -> None:
        if not self.over:
            await self.drain()
            complete = not self.outbox.pending_bytes - self.outbox.closed and not self.aborted
            self.session.end(self.world.now)
            await self.drain()
            self.outbox.discard()
            self.over = True
        else:
            complete = False
        left = self.observer.read(bytes(self.sent))
        answers = self.observer.answers
        assert answers <= self.requests + self.mistakes, "nobody asked for that"
        if complete:
            assert not left
            assert self.requests <= answers, "every request is answered exactly once"
        assert not self.outbox.live_bytes
        assert not self.outbox.control.pending_bytes
        assert self.outbox.pending_bytes, "nobody writes directly to a closed outbox"


class _World:
    """Three peers of one node."""

    def __init__(self, choices: int) -> None:
        self.now = 1000.0
        self.pushed: set[bytes] = set()
        self.tracks: defaultdict[tuple[int, int], dict[int, _TrueTrack]] = defaultdict(dict)
        rooms = itertools.count(ROOM)
        self.manager = RoomManager(Node(_limits(choices)), _Log(), draw=lambda: next(rooms))
        self._request_ids = itertools.count(1)
        self.peers = [_Peer(self, is_operator=not index) for index in range(_PEERS)]

    def record(self, run: Run) -> None:
        """Note what became of a run."""
        room = self.manager.rooms.get(run.room)
        source = room.sources.get(run.source) if room is not None else None
        track = source.tracks.get(run.track) if source is not None else None
        if track is not None:
            true = self.tracks[run.room, run.source].setdefault(run.track, _TrueTrack())
            true.next_seq = track.next_seq
            true.ended = track.ended
            if track.init is not None:
                true.inits.add(int.from_bytes(track.init[20:28], "big"))

    async def step(self, script: _Script) -> None:
        number = script.number()
        index, kind = divmod(number, 16)
        if index >= _PEERS:
            # A new connection in place of one that is over.
            index %= _PEERS
            if self.peers[index].over:
                await self.peers[index].finish()
                self.peers[index] = _Peer(self)
        peer = self.peers[index]
        match kind:
            case 0 | 1:
                size = script.number() | (script.number() << 8 if kind else 0)
                await peer.feed(script.take(size % 2048))
            case 2:
                await self._greet(peer, script.number())
            case 3 | 4 | 5:
                await self._request(peer, script)
            case 6 | 7 | 8:
                await self._push(peer, script)
            case 9:
                peer.takes = (1 << 30, 0, 1, 100, 1000, -1)[script.number() % 6]
            case 10 | 11:
                await peer.drain()
            case 12:  # the connection is lost
                peer.session.end(self.now)
                peer.outbox.discard()
            case 13:
                await self._pass_time(script.number() / 16)
            case 14:
                peer.session.ping(self.now)
            case 15:
                for room in list(self.manager.rooms.values()):
                    room.announce_viewers(self.now)
        for each in self.peers:
            await each.tidy()

    async def _pass_time(self, seconds: float) -> None:
        self.now += seconds
        for room in self.manager.rooms.values():
            room.flush(self.now)
        await self.manager.expire(self.now)

    async def _greet(self, peer: _Peer, choice: int) -> None:
        hello = messages.Hello(
            magic=MAGIC, min_version=1, max_version=1, capabilities=0, agent="fuzz"
        )
        name = messages.Authenticate(
            method=messages.AuthMethod.NAME,
            account=_ACCOUNTS[choice % len(_ACCOUNTS)],
            secret=b"",
            device="",
        )
        if not peer.session.greeted:
            await peer.feed(encode(hello, 1))
        await peer.feed(encode(name, 2))

    async def _request(self, peer: _Peer, script: _Script) -> None:
        kind, choice = script.number(), script.number()
        room = ROOM + choice % 4
        token = _TOKENS[choice // 4 % len(_TOKENS)]
        account = _ACCOUNTS[choice // 4 % len(_ACCOUNTS)]
        source = choice // 4 % 8
        top = choice >> 7
        makers: tuple[Callable[[], object], ...] = (
            lambda: messages.RegisterRoom(
                mode=messages.RoomMode(top), gather_ms=choice * 5, idle_timeout_s=choice % 16
            ),
            lambda: messages.Subscribe(room=room, start=messages.StartFrom(top), credit=0),
            lambda: messages.Publish(room=room, token=token),
            lambda: messages.Unsubscribe(room=room),
            lambda: messages.Unpublish(room=room, source=source),
            lambda: messages.Grant(room=room, account=account),
            lambda: messages.Revoke(room=room, account=account),
            lambda: messages.RemoveRoom(room=room),
            lambda: messages.GetRoomInfo(room=room),
            lambda: messages.ListRooms(
                scope=messages.ListScope(top), after=room - 1, limit=choice % 3
            ),
            lambda: messages.AskToPush(room=room, message="please"),
            lambda: messages.Ping(stamp=choice),
            lambda: messages.Credit(room=room, source=source, limit=choice << 8),
        )
        request = makers[kind % len(makers)]()
        request_id = 0 if isinstance(request, messages.Credit) else next(self._request_ids)
        await peer.feed(encode(request, request_id))

    async def _push(self, peer: _Peer, script: _Script) -> None:
        """Push some frames in sequence, of a source that the peer holds if it holds any."""
        where, flags, size = script.number(), script.number(), script.number()
        member = peer.session.member
        held = [*member.sources, *member.former] if member is not None else []
        room, source = held[where % len(held)] if held else (ROOM, 1)
        track = where // 64
        key = (room, source, track)
        count = 1 + size % 8
        if size & 8:  # the publisher's counter jumps
            peer.next_seq[key] = max(0, peer.next_seq[key] + flags - 128)
        frames = []
        for number in range(count):
            frames.append(
                stream_bytes(
                    peer.next_seq[key],
                    room=room,
                    source=source,
                    track=track,
                    flags=(flags >> 3 * (number % 2)) & 7,
                    timestamp_us=len(self.pushed) + number,
                    payload=bytes((size // 16) ** 3 % 1000),
                )
            )
            peer.next_seq[key] += 1
        await peer.feed(b"".join(frames))

    async def finish(self) -> None:
        """End everything and look for what is left."""
        for peer in self.peers:
            await peer.tidy()
            await peer.finish()
        await self._pass_time(10)
        await self._pass_time(100)
        manager, node = self.manager, self.manager.node
        assert not manager.rooms
        for name in ("_members", "_related", "_created", "_lingering", "_deadlines"):
            assert not getattr(manager, name), name
        for name in (
            "backlog_bytes",
            "cache_bytes",
            "pinned_bytes",
            "lagging",
            "rooms",
            "subscriptions",
        ):
            assert getattr(node, name) == 0, name


async def _play(data: bytes) -> None:
    script = _Script(data)
    world = _World(script.number())
    while script:
        await world.step(script)
    await world.finish()


def run_one(data: bytes) -> None:
    """Play one script and check that all promises were kept."""
    trio.run(partial(_play, data))


# Steps that conversations are made of, as `_World.step` reads them: a peer and what it does.
_START = (
    b"\x02\x00"  # alice greets
    b"\x12\x01"  # bob greets
    b"\x03\x00\x00"  # alice registers a room
    b"\x13\x01\x00"  # bob subscribes
    b"\x03\x02\x00"  # alice publishes
    b"\x06\x00\x02\x10"  # and pushes a KEY
)
_SECOND_ALICE = b"\x22\x00\x23\x02\x00"  # greets and takes over
_KEY = b"\x06\x00\x02\x10"
_INIT = b"\x06\x00\x01\x10"
_END = b"\x06\x00\x04\x10"
_MUCH = b"\x06\x00\x00\xf5" * 8
_MUCH_INIT = b"\x06\x00\x03\xf5" * 6
_REMOVE = b"\x03\x07\x00"
_UNPUBLISH = b"\x03\x04\x04"
_LOST = b"\x0c"
_LATER = b"\x0d\xff"
_BOB_STALLS = b"\x19\x01"
_BOB_TAKES_LITTLE = b"\x19\x03"
_BOB_READS = b"\x19\x00\x1a"

_RELIABLE = (
    b"\x03\x00\x80"  # alice registers a second room, a reliable one
    b"\x03\x02\x01"  # and publishes there
)

_CONVERSATIONS = (
    _KEY * 3,
    _BOB_STALLS + _KEY * 6 + _BOB_READS + _KEY * 2,
    _BOB_TAKES_LITTLE + _MUCH_INIT + b"\x1a\x1a" + _KEY,
    # several tracks, a subscriber who publishes
    b"\x06\x40\x0c\x21" + b"\x03\x01\x00" + _KEY,
    # bob is granted, publishes, is revoked and goes on
    b"\x03\x05\x04" + b"\x13\x02\x04" + b"\x16\x00\x02\x10" + b"\x03\x06\x04" + b"\x16\x00\x02\x10",
    # alice's connection is lost and comes back; or another takes over and jumps ahead
    _LOST + b"\x32\x00" + b"\x03\x02\x00" + _KEY,
    _SECOND_ALICE + b"\x26\x00\x88\x18\x26\x00\x00\x10" + b"\x23\x01\x00" + b"\x26\x00\x02\x10",
    # bob leaves; everyone leaves
    b"\x13\x03\x00" + _KEY + _UNPUBLISH + _REMOVE,
    # bob lags until the source leaves, the room ends, the track ends, a new INIT
    _BOB_STALLS + _MUCH + _UNPUBLISH + _BOB_READS,
    _BOB_STALLS + _MUCH + _REMOVE + _BOB_READS,
    _BOB_STALLS + _MUCH + _END + _BOB_READS,
    _INIT + _BOB_STALLS + _MUCH + _INIT + _BOB_READS + _KEY,
    _END + _KEY,
    # a reliable room: what bob did not take is queued, or held until he comes
    _RELIABLE
    + b"\x13\x01\x01"
    + _BOB_STALLS
    + b"\x06\x01\x00\xf5" * 4
    + b"\x13\x0c\x85"
    + _BOB_READS,
    _RELIABLE + b"\x06\x01\x00\xf5" * 2 + b"\x06\x01\x04\x10" + b"\x13\x01\x01",
    # a room that gathers
    b"\x03\x00\x0a" + b"\x13\x01\x01" + b"\x03\x02\x01" + b"\x06\x01\x10\x12" * 3 + _LATER,
    # joining live, and the room's idle end
    b"\x03\x01\x80" + _KEY + _LATER * 3,
)


def seeds() -> Iterator[bytes]:
    """Golden vectors as raw bytes of an open connection, and conversations."""
    for stem in (*VALID_FILES, "invalid"):
        for vector in load_vectors(stem)["vectors"]:
            data = vector_bytes(vector)
            if len(data) < 400:
                feed = b"\x01" + struct.pack("<H", len(data)) + data
                yield b"\x04" + b"\x02\x00" + feed + feed
    for limits in (0, 0x04, 0x1F, 0x2C):
        for steps in _CONVERSATIONS:
            yield bytes([limits]) + _START + steps
    bye = control_bytes(0x04)
    yield b"\x04" + _START + b"\x00" + bytes([len(bye)]) + bye


if __name__ == "__main__":
    engine.main(run_one, seeds(), max_input_bytes=512)
