"""Fuzzes whole sessions in memory: three connections, one room manager, no sockets.

An input is a script: a byte that picks the limits, then steps. A step feeds raw
bytes or a well-formed request, pushes frames, lets a peer's socket take all,
little or nothing, drains it, loses it, or moves the clock. Whatever happens,

* a peer's bytes lead to answers or to a close, never to another exception;
* every request is answered exactly once;
* each subscriber gets what protocol.md promises (`Observer`);
* contacts and blocks change as their model says, and who is blocked gets nothing through;
* when all is over, nothing is left: no room, subscriber, source or queued byte.

See `tests.fuzz.engine` for how to run it.
"""

import copy
import itertools
import json
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial

import trio

from tests.fuzz import engine
from tests.fuzz.script import NoLog, Script

with engine.instrumented():
    from tests.core.relations_model import Model
    from tests.fuzz.conversations import seeds
    from tests.fuzz.observer import Observer, TrueTrack
    from tests.protocol.builders import (
        ROOM,
        frames_of_run,
        stream_bytes,
    )
    from tim_trio.core.accounts import Gate, OpenAuthenticator
    from tim_trio.core.inbox import Inbox
    from tim_trio.core.manager import RoomManager
    from tim_trio.core.node import Node
    from tim_trio.core.outbox import Buffer, Outbox
    from tim_trio.core.relations import MemoryRelations, Verdict
    from tim_trio.core.session import PeerClosed, Session, new_decoder
    from tim_trio.errors import Code, RemoteProtocolError
    from tim_trio.limits import KIB, MIB, Limits
    from tim_trio.protocol import messages
    from tim_trio.protocol.decoder import ControlFrame
    from tim_trio.protocol.layout import MAGIC
    from tim_trio.protocol.messages import UnreadableFields, decode, encode
    from tim_trio.protocol.runs import Run

_PEERS = 3
_ACCOUNTS = ("alice", "bob", "eve")
_ONE_WAY = frozenset(
    messages.type_of(message)
    for message in (
        messages.Credit,
        messages.LinkPath,
        messages.LinkViewers,
        messages.LinkSource,
        messages.LinkInvite,
        messages.LinkExpelled,
    )
)
#: Types of the frames that peers have got, where somebody asks.
_got: Counter[int] | None = None
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
        max_account_stream_bytes=KIB,
        max_receivers=64,
        account_backlog_bytes=2 * KIB,
    )


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
        self.observer = Observer(world.pushed, world.tracks)
        self.has_writer = False
        self.outbox = Outbox(
            self._transmit,
            world.manager.node,
            start_writer=self._start_writer,
            on_abort=self._abort,
        )
        self.decoder = new_decoder(world.manager)
        self.session = Session(
            world.manager,
            self.outbox,
            self.decoder,
            world.now,
            gate=world.gate,
            is_loopback=is_operator,
        )
        self.inbox: Inbox | None = None
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
        await self._feed_some(data)
        while self.decoder.has_more and not self._is_closed():
            await self._feed_some(b"")

    async def _feed_some(self, data: bytes) -> None:
        if self._is_closed():
            return
        now = self.world.now
        items: list[Run | ControlFrame] = []
        error = self.decoder.feed_into(data, items)
        held = self.decoder.buffered_bytes
        assert self.decoder.has_more or held < self.decoder.max_frame_bytes
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
            async with self.world.watching(self.session.account, request):
                await self.session.receive_control(frame, self.world.now)
        except (RemoteProtocolError, PeerClosed):
            self.requests = before  # closed instead of answered
            raise
        finally:
            if self.session.member is not None:
                self.inbox = self.session.member.inbox

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
        if _got is not None:
            _got.update(_types_of(bytes(self.sent)))
        answers = self.observer.answers
        assert answers <= self.requests + self.mistakes, "nobody asked for that"
        if complete:
            assert not left
            assert self.requests <= answers, "every request is answered exactly once"
        assert not self.outbox.live_bytes
        assert not self.outbox.control.pending_bytes
        assert self.inbox is None or not (self.inbox.pending_bytes or self.inbox.shares)
        assert self.outbox.pending_bytes, "nobody writes directly to a closed outbox"


def _types_of(data: bytes) -> Iterator[int]:
    at = 0
    while at + 4 < len(data):
        yield data[at + 4]
        at += 4 + int.from_bytes(data[at : at + 4], "big")


class _World:
    """Three peers of one node."""

    def __init__(self, choices: int) -> None:
        self.now = 1000.0
        self.pushed: set[bytes] = set()
        self.tracks: defaultdict[tuple[int, int], dict[int, TrueTrack]] = defaultdict(dict)
        rooms = itertools.count(ROOM)
        self.manager = RoomManager(Node(_limits(choices)), NoLog(), draw=lambda: next(rooms))
        self._request_ids = itertools.count(1)
        self.authenticator = OpenAuthenticator()
        self.gate: Gate[Session] = Gate(self.authenticator, MemoryRelations(3, 12))
        self.model = Model()
        self.peers = [_Peer(self, is_operator=not index) for index in range(_PEERS)]

    def record(self, run: Run) -> None:
        """Note what became of a run."""
        room = self.manager.rooms.get(run.room)
        source = room.sources.get(run.source) if room is not None else None
        track = source.tracks.get(run.track) if source is not None else None
        if track is not None:
            true = self.tracks[run.room, run.source].setdefault(run.track, TrueTrack())
            true.next_seq = track.next_seq
            true.ended = track.ended
            if track.init is not None:
                true.inits.add(int.from_bytes(track.init[20:28], "big"))

    @asynccontextmanager
    async def watching(self, account: str | None, request: object) -> AsyncIterator[None]:
        """Look that a request changes between accounts what it may, or nothing."""
        node = self.manager.node
        delivered = node.account_delivered
        yield
        match request:
            case messages.Contact(action=action, account=other) if account not in (None, other):
                assert account is not None
                after = copy.deepcopy(self.model)
                after.act(account, action, other)
                await self._choose(account, after)
            case messages.SetPolicy(policy=policy) if account is not None:
                after = copy.deepcopy(self.model)
                after.set_policy(account, policy)
                await self._choose(account, after)
            case messages.AccountSend(receivers=receivers) if account is not None:
                may = [self.model.verdict(account, each) is Verdict.DELIVER for each in receivers]
                assert node.account_delivered - delivered <= sum(may) * _PEERS
            case _:
                assert node.account_delivered == delivered

    async def _choose(self, account: str, after: Model) -> None:
        """What is known of accounts is as before (the request was refused), or as after."""
        found = {
            (one, other): verdict
            for one in _ACCOUNTS
            for other, verdict in zip(
                _ACCOUNTS, await self.gate.relations.verdicts(one, _ACCOUNTS), strict=True
            )
        }
        _, listed = await self.gate.relations.list_contacts(account, "", 0)
        seen = {each.account: each.state for each in listed if each.account in _ACCOUNTS}
        for model in (after, self.model):
            if seen == {
                other: state for other in _ACCOUNTS if (state := model.state(account, other))
            } and found == {(one, other): model.verdict(one, other) for one, other in found}:
                self.model = model
                return
        raise AssertionError("contacts are neither as before nor as they are to be")

    def hand_out_bans(self) -> None:
        """Close who was banned, as the server does."""
        untold = self.authenticator.bans._untold
        while untold:
            revocation = untold.popleft()
            for session in self.gate.sign_ins.revoked(revocation):
                session.close(revocation.code, self.now)
                session.end(self.now)
            self.manager.end_lingering(revocation.account, self.now)

    async def step(self, script: Script) -> None:
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
        self.hand_out_bans()
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

    async def _request(self, peer: _Peer, script: Script) -> None:
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
            lambda: messages.AccountSend(
                receivers=[account, *_ACCOUNTS][: 1 + choice % 4],
                kind=choice,
                payload=bytes(choice * 5),
            ),
            lambda: messages.Contact(
                action=messages.ContactAction(choice % 4 + top * 2), account=account
            ),
            lambda: messages.ListContacts(after="a" * top, limit=choice % 3),
            lambda: messages.SetPolicy(policy=messages.Policy(top)),
            lambda: messages.Ban(
                kind=messages.BanKind(top), room=room, account=account, reason="because"
            ),
            lambda: messages.RegisterAccount(account=account, password=token, invitation=b""),
            lambda: messages.ChangePassword(old=token, new=token),
            lambda: messages.NodeFigures(node=("", "node", "other")[choice % 3]),
            lambda: messages.RoomFigures(node="", after=room - 1, limit=choice % 3),
            lambda: messages.SubscriberFigures(node="", room=room, limit=choice // 4 % 3),
            lambda: messages.GetPolicy(),
        )
        request = makers[kind % len(makers)]()
        request_id = 0 if isinstance(request, messages.Credit) else next(self._request_ids)
        await peer.feed(encode(request, request_id))

    async def _push(self, peer: _Peer, script: Script) -> None:
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
    script = Script(data)
    world = _World(script.number())
    while script:
        await world.step(script)
    await world.finish()


def run_one(data: bytes) -> None:
    """Play one script and check that all promises were kept."""
    trio.run(partial(_play, data))


def show_what_seeds_reach() -> None:
    """Print how often the peers of all seeds got each type of frame, as JSON."""
    global _got
    _got = Counter()
    for seed in seeds():
        run_one(seed)
    print(json.dumps(_got))


if __name__ == "__main__":
    if sys.argv[1:] == ["--reached"]:
        show_what_seeds_reach()
        sys.exit()
    engine.main(run_one, seeds(), max_input_bytes=512)
