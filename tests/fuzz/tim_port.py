"""Fuzzes what clients of TIM's may do: three of their connections, and a publisher of ours.

An input is a script: a byte that picks the limits, then steps. A step feeds raw
bytes, a message, or a well-formed packet in either format, pushes frames, lets
a peer's socket take all, little or nothing, drains it, loses it, or moves the
clock. Whatever happens,

* a client's bytes lead to packets or to a close, never to another exception;
* however its bytes are cut, they are read alike;
* it gets whole WebSocket messages, each a packet, in the format of its AUTH;
* each subscriber gets each publisher's frames in order, and none twice;
* when all is over, nothing is left: no room, subscriber, source or queued byte.

See `tests.fuzz.engine` for how to run it.
"""

import itertools
import secrets
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import trio
import trio.testing

from tests.fuzz import engine
from tests.fuzz.script import NoLog, Script

with engine.instrumented():
    from tests.net.wsclient import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, ws_frame
    from tests.protocol.builders import ROOM, load_vectors, stream_bytes
    from tim_trio.core.accounts import Gate, OpenAuthenticator
    from tim_trio.core.manager import RoomManager
    from tim_trio.core.node import Node
    from tim_trio.core.outbox import Buffer, Outbox
    from tim_trio.core.relations import MemoryRelations
    from tim_trio.core.session import Session, new_decoder
    from tim_trio.errors import Code, RemoteProtocolError
    from tim_trio.limits import KIB, MIB, Limits
    from tim_trio.net.tim.credentials import Credentials
    from tim_trio.net.tim.form import TimForms
    from tim_trio.net.tim.reader import PacketReader, max_message_bytes
    from tim_trio.net.tim.session import TimSession
    from tim_trio.protocol import messages
    from tim_trio.protocol.decoder import ControlFrame, Decoder
    from tim_trio.protocol.layout import MAGIC
    from tim_trio.protocol.room_ids import format_room_id
    from tim_trio.protocol.runs import Run
    from tim_trio.protocol.tim import compact, json_form, packets
    from tim_trio.protocol.tim.structs import (
        Format,
        PacketType,
        Tid,
        TimAck,
        TimAuth,
        TimMessage,
        TimReq,
        TimStream,
    )

_PEERS = 3
_ACCOUNTS = ("alice", "bob", "eve")
#: Begins the body of each frame that a step pushes; no input can hold it.
_MARK = b"#" + secrets.token_hex(4).encode()
_STRUCTS: dict[int, type[TimAck | TimMessage | TimStream]] = {
    12: TimAck,
    90: TimMessage,
    94: TimStream,
}


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
        linger_s=5.0 if choices & 8 else 0.0,
        commands_per_s=1.0,
        command_burst=8 if choices & 16 else 1000,
        # Nothing here may wait.
        max_slowed_s=0.0,
        commands_per_s_per_address=1e9,
        stream_bytes_per_s=4096.0 if choices & 32 else 1e9,
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


class _Received:
    """What one client has got, read as it comes."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._form: Format | None = None  # once its AUTH is answered
        self._newest: defaultdict[tuple[str, bytes], int] = defaultdict(lambda: -1)
        self._closed = False

    def add(self, data: bytes) -> None:
        self._data += data
        while (message := self._next()) is not None:
            opcode, payload = message
            assert not self._closed, "something behind the close"
            if opcode == BINARY:
                self._read(payload)
            elif opcode == CLOSE:
                self._closed = True
            else:
                assert opcode in (PING, PONG)

    def _next(self) -> tuple[int, bytes] | None:
        data = self._data
        if len(data) < 2:
            return None
        assert data[0] & 0xF0 == 0x80 and not data[1] & 0x80
        more = {126: 2, 127: 8}.get(data[1], 0)
        if len(data) < 2 + more:
            return None
        size = int.from_bytes(data[2 : 2 + more], "big") if more else data[1]
        if len(data) < 2 + more + size:
            return None
        payload = bytes(data[2 + more : 2 + more + size])
        opcode = data[0] & 0xF
        del data[: 2 + more + size]
        return opcode, payload

    def _read(self, packet: bytes) -> None:
        kind, body = packet[0], packet[1:]
        if kind in _STRUCTS:
            form = Format.JSON if body[:1] == b"{" else Format.THRIFT
            assert self._form in (None, form)
            value = packets.decode_body(_STRUCTS[kind], body, form)
            if isinstance(value, TimAck) and value.tim_type == PacketType.AUTH and value.ok:
                self._form = form
            elif isinstance(value, TimStream):
                assert len(value.room) == 11 and value.from_node
                self._check_order(value.room, value.body)
        elif kind == PacketType.BIG_BINARY_STREAM:
            assert body[11] == 131
            self._check_order(body[:11].decode(), body[12:])
        elif kind == PacketType.PING:
            assert not body
        else:
            assert kind in (PacketType.BIG_STRING, PacketType.BIG_BINARY)

    def _check_order(self, room: str, body: bytes) -> None:
        if body.startswith(_MARK):
            _, publisher, number, _ = body.split(b":", 3)
            key = room, publisher
            assert int(number) > self._newest[key], "out of order, or twice"
            self._newest[key] = int(number)


class _Peer:
    """One client, and what a server does with its connection."""

    serials = itertools.count()

    def __init__(self, world: "_World") -> None:
        self.world = world
        self.serial = next(self.serials)
        self.received = _Received()
        self.takes = 1 << 30  # bytes per write; 0 blocks, below 0 is a broken connection
        self.over = False
        self.aborted = False
        self.form = Format.JSON
        self.pushed = 0
        manager = world.manager
        self.outbox = Outbox(
            self._transmit,
            manager.node,
            start_writer=lambda: None,
            on_abort=self._abort,
            form=world.forms.of_format[Format.JSON],
        )
        self.session = TimSession(
            manager,
            self.outbox,
            new_decoder(manager),
            world.now,
            gate=world.gate,
            forms=world.forms,
            credentials=world.credentials,
        )
        self.reader = PacketReader(
            manager.node.limits, self.session, self.outbox.put_control_encoded
        )

    def _transmit(self, data: Buffer) -> int:
        if self.takes < 0:
            raise BrokenPipeError
        if not self.takes:
            raise BlockingIOError
        taken = bytes(data[: self.takes])
        self.received.add(taken)
        return len(taken)

    def _abort(self) -> None:
        self.aborted = True

    def is_closed(self) -> bool:
        return self.over or self.outbox.closed

    async def feed(self, data: bytes) -> None:
        """Receive bytes as a connection's reader does."""
        if self.is_closed():
            return
        now = self.world.now
        self.reader.feed(data)
        has_more = True
        while has_more:
            items: list[Run | ControlFrame] = []
            code: Code | None = None
            has_more = False
            try:
                has_more = self.reader.take(items, now)
            except RemoteProtocolError as broken:
                code = broken.code
            try:
                for item in items:
                    if self.is_closed():
                        return
                    if isinstance(item, Run):
                        self.session.receive_run(item, now)
                    else:
                        await self.session.receive_control(item, now)
                    self.session.pause_s = 0.0
            except RemoteProtocolError as broken:
                code = broken.code
            if code is not None:
                self.session.end(now)
                self.session.close(code, now)
                return
            if self.reader.close_answer:
                self.session.end(now)
                self.outbox.put_control_encoded(self.reader.close_answer, now)
                self.outbox.close(None, None, now)
                return

    async def drain(self) -> None:
        """Write what is queued as a connection's writer does."""
        outbox = self.outbox
        while not self.over and outbox.pending_bytes > outbox.closed:
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

    def lose(self) -> None:
        self.session.end(self.world.now)
        self.outbox.discard()
        self.over = True


class _Ours:
    """A publisher of our own protocol, with KEYs, INITs and ENDs."""

    def __init__(self, world: "_World") -> None:
        manager = world.manager
        self.world = world
        self.outbox = Outbox(len, manager.node, start_writer=lambda: None, on_abort=lambda: None)
        self.decoder = Decoder(max_frame_bytes=4 * KIB, max_init_bytes=KIB)
        self.session = Session(
            manager, self.outbox, self.decoder, world.now, gate=world.gate, is_loopback=True
        )
        self.next_seq: defaultdict[tuple[int, int, int], int] = defaultdict(int)
        self.rooms: set[int] = set()

    async def feed(self, data: bytes) -> None:
        if self.outbox.closed:
            return
        items: list[Run | ControlFrame] = []
        try:
            error = self.decoder.feed_into(data, items)
            for item in items:
                if isinstance(item, Run):
                    self.session.receive_run(item, self.world.now)
                else:
                    await self.session.receive_control(item, self.world.now)
            if error is not None:
                raise error
        except RemoteProtocolError as broken:
            self.session.end(self.world.now)
            self.session.close(broken.code, self.world.now)

    async def greet(self) -> None:
        hello = messages.Hello(
            magic=MAGIC, min_version=1, max_version=1, capabilities=0, agent="fuzz"
        )
        name = messages.Authenticate(
            method=messages.AuthMethod.NAME, account="alice", secret=b"", device=""
        )
        await self.feed(encode(hello, 1) + encode(name, 2))

    async def push(self, room: int, track: int, flags: int, size: int) -> None:
        member = self.session.member
        if member is None:
            return
        held = [key for key in member.sources if key[0] == room]
        if not held:
            await self.feed(encode(messages.Publish(room=room, token=bytes(16)), 3))
            held = [key for key in member.sources if key[0] == room]
        if held:
            key = (*held[0], track)
            frame = stream_bytes(
                self.next_seq[key],
                room=room,
                source=held[0][1],
                track=track,
                flags=flags,
                payload=bytes(size),
            )
            self.next_seq[key] += 1
            await self.feed(frame)

    def end(self) -> None:
        self.session.end(self.world.now)
        self.outbox.discard()


encode = messages.encode


class _World:
    """Three clients of one node."""

    def __init__(self, choices: int, clock: trio.testing.MockClock) -> None:
        self._clock = clock
        rooms = itertools.count(ROOM)
        self.manager = RoomManager(Node(_limits(choices)), NoLog(), draw=lambda: next(rooms))
        self.gate: Gate[Session] = Gate(OpenAuthenticator(), MemoryRelations(3, 12))
        self.forms = TimForms(self.manager)
        self.credentials = Credentials(self.gate.authenticator)
        self.peers = [_Peer(self) for _ in range(_PEERS)]
        self.ours = _Ours(self)

    @property
    def now(self) -> float:
        return trio.current_time()

    async def step(self, script: Script) -> None:
        index, kind = divmod(script.number(), 16)
        if index >= _PEERS:
            # A new connection in place of one that is over.
            index %= _PEERS
            if self.peers[index].over:
                self.peers[index] = _Peer(self)
        peer = self.peers[index]
        match kind:
            case 0:
                await peer.feed(script.take(script.number()))
            case 1:
                await self._send(peer, script.take(script.number()), script.number())
            case 2:
                choice = script.number()
                peer.form = Format.THRIFT if choice & 4 else Format.JSON
                auth = TimAuth(name=_ACCOUNTS[choice % 3], resource="x" * (choice >> 4))
                await self._send(peer, _packet(PacketType.AUTH, auth, peer.form), 0)
            case 3 | 4 | 5:
                await self._request(peer, script)
            case 6 | 7:
                await self._push(peer, script)
            case 8:
                room, flags = ROOM + script.number() % 4, script.number()
                await self.ours.push(room, flags >> 3 & 1, flags & 7, (flags >> 4) ** 3 % 1000)
            case 9:
                peer.takes = (1 << 30, 0, 1, 100, 1000, -1)[script.number() % 6]
            case 10 | 11:
                await peer.drain()
            case 12:
                if not peer.over:
                    peer.lose()
            case 13:
                await self._pass_time(script.number() / 16)
            case 14:
                if not peer.is_closed():
                    peer.session.ping(self.now)
            case 15:
                for room_ in list(self.manager.rooms.values()):
                    room_.announce_viewers(self.now)
        for each in self.peers:
            await each.tidy()

    async def _pass_time(self, seconds: float) -> None:
        self._clock.jump(seconds)
        for room in self.manager.rooms.values():
            room.flush(self.now)
        await self.manager.expire(self.now)

    async def _send(self, peer: _Peer, packet: bytes, choice: int) -> None:
        """Send a packet as a message: text or binary, whole or in two fragments."""
        opcode = TEXT if choice & 1 else BINARY
        if choice & 2:
            cut = choice >> 2
            head = ws_frame(packet[:cut], opcode, fin=False)
            await peer.feed(head)
            await peer.feed(ws_frame(packet[cut:], CONTINUATION))
        else:
            await peer.feed(ws_frame(packet, opcode))

    async def _request(self, peer: _Peer, script: Script) -> None:
        kind, choice = script.number(), script.number()
        room = format_room_id(ROOM + choice % 4)
        account = _ACCOUNTS[choice // 4 % len(_ACCOUNTS)]
        top = choice >> 7
        form = peer.form if choice & 64 == 0 else Format.JSON

        def call(rtype: int, **members: Any) -> bytes:
            return _packet(PacketType.VIRTUAL_ROOM, TimReq(rtype=rtype, **members), form)

        makers: tuple[Callable[[], bytes], ...] = (
            lambda: call(1),
            lambda: call(2, node=room),
            lambda: call(3, node=room, node2=account),
            lambda: call(4, node=room, node2=account),
            lambda: call(5, node=room, req_int=top),
            lambda: call(6, node=room),
            lambda: call(choice, node=room),
            lambda: b"\x8d",
            lambda: _packet(PacketType.TOKEN, TimAuth(name=account), form),
            lambda: _packet(PacketType.REGISTER, TimAuth(name=account, pwd="x"), form),
            lambda: _packet(
                PacketType.MESSAGE,
                TimMessage(
                    ms_type=2,
                    od_type=5 - choice % 2,
                    to_tid=Tid(node=account),
                    data_binary=bytes(choice * 4),
                    data_string="hi" * (choice & 3),
                    to_list=_ACCOUNTS[: choice % 4],
                ),
                form,
            ),
            lambda: _big(PacketType.BIG_STRING, account, b"\0|"[top : top + 1], b"t" * choice),
            lambda: _big(PacketType.BIG_BINARY, account, b"\x83", bytes(choice * 5)),
            lambda: bytes((choice,)) + room.encode(),
        )
        await self._send(peer, makers[kind % len(makers)](), 0)

    async def _push(self, peer: _Peer, script: Script) -> None:
        """Push some frames in one go, in either way."""
        where, choice = script.number(), script.number()
        room = format_room_id(ROOM + where % 4)
        frames = []
        for number in range(1 + choice % 8):
            # Who pushes on two tracks is two publishers to whom the order is checked for.
            track = where >> 6 if choice & 16 == 0 else number % 2
            is_big = where & 4
            publisher = b"%d/%d" % (peer.serial, 0 if is_big else track)
            size = (choice >> 5) ** 4
            body = b"%s:%s:%d:" % (_MARK, publisher, peer.pushed) + bytes(size)
            peer.pushed += 1
            if is_big:
                packet = _big(PacketType.BIG_BINARY_STREAM, room, b"\x83", body)
            else:
                packet = _packet(
                    PacketType.STREAM, TimStream(room=room, dtype=track - 1, body=body), peer.form
                )
            frames.append(ws_frame(packet))
        await peer.feed(b"".join(frames))

    async def finish(self) -> None:
        """End everything and look for what is left."""
        for peer in self.peers:
            await peer.tidy()
            if not peer.over:
                await peer.drain()
                peer.lose()
            assert not peer.outbox.live_bytes
            assert not peer.outbox.control.pending_bytes
        self.ours.end()
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


def _packet(kind: PacketType, value: Any, form: Format) -> bytes:
    if form is Format.JSON:
        return bytes((kind | 0x80,)) + json_form.encode(value)
    return bytes((kind,)) + compact.encode(value)


def _big(kind: PacketType, node: str, separator: bytes, content: bytes) -> bytes:
    rest = node.encode() + separator + content
    return bytes((kind,)) + (5 + len(rest)).to_bytes(4, "big") + rest


# However it is cut


class _Nobody:
    """Takes no packet for a frame."""

    is_signed_in = True

    def push_nowait(self, packet: bytes) -> bool:
        return False

    def take_pushed(self) -> list[Run | ControlFrame]:
        return []


def _read(data: bytes, size: int) -> tuple[list[object], bytes, bytes, object]:
    """Return packets, pongs, the answer to a close, and the code of an offence."""
    limits = _limits(0)
    replies = bytearray()
    reader = PacketReader(limits, _Nobody(), lambda reply, _: replies.extend(reply))
    items: list[Run | ControlFrame] = []
    code = None
    for at in range(0, len(data), size):
        reader.feed(data[at : at + size])
        try:
            while reader.take(items, 0.0):
                pass
        except RemoteProtocolError as broken:
            code = broken.code
            break
        assert len(reader._message) <= max_message_bytes(limits)
        if reader.close_answer:
            break
    return list(items), bytes(replies), reader.close_answer, code


async def _play(data: bytes, clock: trio.testing.MockClock) -> None:
    script = Script(data)
    world = _World(script.number(), clock)
    await world.ours.greet()
    while script:
        await world.step(script)
    await world.finish()


def run_one(data: bytes) -> None:
    """Play one input and check all that was promised."""
    if data[:1] == b"\xff" and len(data) > 2:
        size = 1 + data[1] % 16
        assert _read(data[2:], size) == _read(data[2:], len(data))
    elif data:
        clock = trio.testing.MockClock(autojump_threshold=0)
        trio.run(_play, data, clock, clock=clock)


def _seeds() -> Iterator[bytes]:
    cases = load_vectors("tim")
    golden = [
        bytes.fromhex("".join(digits for digits, _ in case[form]))
        for case in cases["vectors"]
        for form in ("json", "thrift", "bytes")
        if form in case
    ]
    for packet in golden:
        if len(packet) < 250:
            yield b"\x00\x02\x00\x01" + bytes((len(packet),)) + packet + b"\x00"
    wire = [
        ws_frame(b"\x0d"),
        ws_frame(b"\x90", TEXT, fin=False) + ws_frame(b"p", PING) + ws_frame(b"{}", CONTINUATION),
        ws_frame("\x96{}".encode(), TEXT),
        ws_frame(b"\x03\xe8bye", CLOSE),
        ws_frame(b"", PONG),
        ws_frame(bytes(200)),
        ws_frame(b"x", masked=False),
    ]
    for each in (*wire, b"".join(wire)):
        yield b"\xff\x00" + each
        yield b"\xff\x06" + each
    start = (
        b"\x02\x00"  # alice signs in
        b"\x12\x05"  # bob, in Thrift
        b"\x22\x02"  # eve
        b"\x03\x00\x00"  # alice registers a room
        b"\x13\x04\x00"  # bob subscribes
        b"\x23\x04\x80"  # eve does in the big-binary form
        b"\x06\x00\x03"  # alice pushes
    )
    steps = (
        b"\x06\x04\x03" * 3,
        b"\x06\x40\x17\x06\x00\x60",
        b"\x19\x01" + b"\x06\x00\x67" * 6 + b"\x19\x00\x1a" + b"\x06\x00\x00" * 2,
        b"\x29\x01" + b"\x06\x04\x67" * 6 + b"\x29\x00\x2a" + b"\x06\x04\x00" * 2,
        b"\x29\x03" + b"\x06\x04\x47" * 3 + b"\x2a\x2b",
        # bob may not, is granted, pushes, is revoked
        b"\x16\x00\x00\x03\x02\x04\x0d\xff\x16\x00\x03\x03\x03\x04\x16\x00\x03",
        # ours, with INIT, KEY and END, also to those that lag or come late
        b"\x08\x00\x51\x08\x00\x42\x08\x00\x40\x08\x00\x44" + b"\x13\x05\x00\x13\x04\x80",
        b"\x19\x01" + b"\x08\x00\xf2" * 8 + b"\x08\x00\x51\x08\x00\x46\x19\x00\x1a",
        # messages to accounts
        b"\x03\x0a\x04\x03\x0b\x04\x13\x0c\x08\x13\x0a\x48",
        # all that ends
        b"\x03\x01\x00\x06\x00\x00",
        b"\x0c\x32\x00\x33\x00\x00",
        b"\x0d\xff" * 3 + b"\x06\x00\x00",
        b"\x0e\x1e\x0f",
        b"\x03\x06\x09\x03\x07\x00\x03\x08\x00\x03\x09\x00\x03\x0d\x15",
    )
    for limits in (0, 0x05, 0x3A):
        for each in steps:
            yield bytes((limits,)) + start + each


if __name__ == "__main__":
    engine.main(run_one, _seeds(), max_input_bytes=1024)
