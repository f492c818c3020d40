"""The bystanders: a stream, requests and newcomers, and how long each of them waits.

``python -m bench.storms.stream PLAN``, where PLAN is the JSON of a `Plan`. It
prints ``ready`` once everybody watches, and on each line of standard input
ends a phase and prints its figures as a line of JSON; an empty line ends it.

One process, one epoll: what is measured is the server, and the reader costs
little. The publisher, the watchers and the newcomers come from 127.0.0.1.
"""

import json
import os
import select
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

from attrs import Factory, asdict, define, frozen

from tim_trio.protocol import messages
from tim_trio.protocol.decoder import ControlFrame, Decoder
from tim_trio.protocol.layout import MAGIC, VERSION, Flag
from tim_trio.protocol.runs import Run
from tim_trio.protocol.stream import StreamFrame, encode_stream_frame, iter_stream_frames

ADDRESS = "127.0.0.1"
_DEADLINE_S = 60.0
_PING_EVERY_S = 0.02
_JOIN_EVERY_S = 0.1
#: A ping that takes longer counts as lost.
_LOST_S = 10.0


@frozen(kw_only=True)
class Plan:
    """What the bystanders do.

    ``tokens`` are session tokens in hex, one a connection in turn; without
    any, everybody signs in by name. ``rate`` is in frames a second.
    """

    port: int
    watchers: int = 200
    rate: float = 30.0
    payload_bytes: int = 4096
    tokens: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Read what `to_json` wrote."""
        values = json.loads(text)
        return cls(**{**values, "tokens": tuple(values["tokens"])})

    def to_json(self) -> str:
        """As text for the command line."""
        return json.dumps(asdict(self))


def sign_in(number: int, tokens: tuple[str, ...]) -> bytes:
    """HELLO and AUTHENTICATE as requests 1 and 2."""
    if tokens:
        method, account = messages.AuthMethod.SESSION, ""
        secret = bytes.fromhex(tokens[number % len(tokens)])
    else:
        method, account, secret = messages.AuthMethod.NAME, f"bystander-{number}", b""
    hello = messages.Hello(
        magic=MAGIC, min_version=VERSION, max_version=VERSION, capabilities=0, agent="bench"
    )
    who = messages.Authenticate(method=method, account=account, secret=secret, device="")
    return messages.encode(hello, 1) + messages.encode(who, 2)


@define(eq=False)
class Line:
    """One connection, read without blocking."""

    raw: socket.socket
    decoder: Decoder = Factory(lambda: Decoder(max_frame_bytes=2**24, max_init_bytes=2**24))
    began: float = 0.0
    next_seq: int = 0

    def read(self) -> list[Run | ControlFrame]:
        """What has come; raises EOFError at the end."""
        try:
            data = self.raw.recv(2**18)
        except BlockingIOError:
            return []
        if not data:
            raise EOFError
        return self.decoder.feed(data)

    def send(self, data: bytes) -> None:
        """All of it; waits for a server that does not read."""
        view = memoryview(data)
        while view:
            try:
                view = view[self.raw.send(view) :]
            except BlockingIOError:
                select.select([], [self.raw], [], _DEADLINE_S)

    def answer(self, request_id: int) -> object:
        """Wait for an answer; what else comes meanwhile is dropped."""
        deadline = time.monotonic() + _DEADLINE_S
        while time.monotonic() < deadline:
            select.select([self.raw], [], [], 1.0)
            for item in self.read():
                if isinstance(item, ControlFrame) and item.request_id == request_id:
                    return messages.decode(item.type, item.fields)
        raise TimeoutError


@define
class Phase:
    """What was measured since the last question. Times in seconds."""

    frames: list[float] = Factory(list)
    pings: list[float] = Factory(list)
    joins: list[float] = Factory(list)
    lost: Counter[str] = Factory(Counter)

    def figures(self) -> dict[str, object]:
        """Percentiles in milliseconds, and what went missing."""
        return {
            **{
                f"{name}_{label}_ms": _quantile(values, share)
                for name, values in (
                    ("frame", self.frames),
                    ("ping", self.pings),
                    ("join", self.joins),
                )
                for label, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
            },
            "deliveries": len(self.frames),
            "pings": len(self.pings),
            "joins": len(self.joins),
            "lost": dict(self.lost),
        }


def _quantile(values: list[float], share: float) -> float:
    if not values:
        return -1.0
    ordered = sorted(values)
    return round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2)


@define(eq=False)
class Bystanders:
    """All of them, in one loop."""

    plan: Plan
    phase: Phase = Factory(Phase)
    epoll: select.epoll = Factory(select.epoll)
    handlers: dict[int, Callable[[], None]] = Factory(dict)
    people: int = 0
    room: int = 0
    ping_sent: float = 0.0
    going: bool = True

    def connect(self) -> Line:
        raw = socket.socket()
        raw.bind((ADDRESS, 0))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # On loopback the kernel accepts at once, however long the queue.
        raw.settimeout(_DEADLINE_S)
        raw.connect((ADDRESS, self.plan.port))
        raw.setblocking(False)
        self.people += 1
        return Line(raw)

    def member(self) -> Line:
        line = self.connect()
        line.send(sign_in(self.people, self.plan.tokens))
        answer = line.answer(2)
        if not isinstance(answer, messages.AuthenticateAnswer):
            raise RuntimeError(f"not signed in: {answer}")
        return line

    def on_readable(self, raw: socket.socket, handler: Callable[[], None]) -> None:
        self.epoll.register(raw, select.EPOLLIN)
        self.handlers[raw.fileno()] = handler

    def forget(self, line: Line) -> None:
        self.handlers.pop(line.raw.fileno(), None)
        line.raw.close()  # which takes it out of the epoll

    def open(self) -> Line:
        """Everybody comes; returns the publisher."""
        publisher = self.member()
        publisher.send(
            messages.encode(
                messages.RegisterRoom(mode=messages.RoomMode.LIVE, gather_ms=0, idle_timeout_s=0), 3
            )
        )
        room = publisher.answer(3)
        assert isinstance(room, messages.RegisterRoomAnswer)
        self.room = room.room
        publisher.send(messages.encode(messages.Publish(room=self.room, token=os.urandom(16)), 4))
        assert isinstance(publisher.answer(4), messages.PublishAnswer)
        for _ in range(self.plan.watchers):
            watcher = self.member()
            watcher.send(
                messages.encode(
                    messages.Subscribe(room=self.room, start=messages.StartFrom.LIVE, credit=0), 3
                )
            )
            assert isinstance(watcher.answer(3), messages.SubscribeAnswer)
            self.on_readable(watcher.raw, partial(self.watch, watcher))
        self.on_readable(publisher.raw, lambda: self.keep(publisher))
        return publisher

    def watch(self, line: Line) -> None:
        for item in line.read():
            now = time.monotonic()
            if isinstance(item, Run):
                for frame in iter_stream_frames(item.data):
                    self.phase.frames.append(now - frame.timestamp_us / 1e6)
                    if line.next_seq and frame.seq != line.next_seq:
                        self.phase.lost["frames"] += frame.seq - line.next_seq
                    line.next_seq = frame.seq + 1
            else:
                self.pong(line, item)

    def keep(self, line: Line) -> None:
        for item in line.read():
            if isinstance(item, ControlFrame):
                self.pong(line, item)

    def pong(self, line: Line, item: ControlFrame) -> None:
        message = messages.decode(item.type, item.fields)
        if isinstance(message, messages.Ping):
            line.send(messages.encode(messages.Pong(stamp=message.stamp), item.request_id))

    def start_ping(self, line: Line, now: float) -> None:
        if self.ping_sent:
            if now - self.ping_sent > _LOST_S:
                self.phase.lost["pings"] += 1
                self.ping_sent = 0.0
            return
        self.ping_sent = now
        line.send(messages.encode(messages.Ping(stamp=1), 9))

    def end_ping(self, line: Line) -> None:
        for item in line.read():
            if isinstance(item, ControlFrame) and item.request_id == 9:
                self.phase.pings.append(time.monotonic() - self.ping_sent)
                self.ping_sent = 0.0
            elif isinstance(item, ControlFrame):
                self.pong(line, item)

    def start_join(self, now: float) -> None:
        try:
            line = self.connect()
            line.began = now
            line.send(sign_in(self.people, self.plan.tokens))
        except OSError:
            self.phase.lost["joins"] += 1
            return
        self.on_readable(line.raw, lambda: self.end_join(line))

    def end_join(self, line: Line) -> None:
        try:
            for item in line.read():
                if isinstance(item, ControlFrame) and item.request_id == 2:
                    message = messages.decode(item.type, item.fields)
                    if isinstance(message, messages.AuthenticateAnswer):
                        self.phase.joins.append(time.monotonic() - line.began)
                    else:
                        self.phase.lost["joins"] += 1
                    self.forget(line)
                    return
        except (EOFError, OSError):
            self.phase.lost["joins"] += 1
            self.forget(line)

    def question(self) -> None:
        text = sys.stdin.readline()
        self.going = bool(text.strip())
        if self.going:
            print(json.dumps(self.phase.figures()), flush=True)
            self.phase = Phase()

    def run(self) -> None:
        publisher = self.open()
        asker = self.member()
        self.on_readable(asker.raw, lambda: self.end_ping(asker))
        self.epoll.register(sys.stdin, select.EPOLLIN)
        self.handlers[sys.stdin.fileno()] = self.question
        print("ready", flush=True)
        payload = os.urandom(self.plan.payload_bytes)
        seq = 0
        now = time.monotonic()
        next_frame, next_ping, next_join = now, now, now
        while self.going:
            now = time.monotonic()
            if now >= next_frame:
                # Counted from when it was due: a server that makes its
                # publisher wait does not hide that.
                frame = StreamFrame(self.room, 1, 0, seq, int(next_frame * 1e6), Flag.KEY, payload)
                publisher.send(encode_stream_frame(frame))
                seq += 1
                next_frame += 1 / self.plan.rate
            if now >= next_ping:
                self.start_ping(asker, now)
                next_ping = now + _PING_EVERY_S
            if now >= next_join:
                self.start_join(now)
                next_join = now + _JOIN_EVERY_S
            wait = max(0.0, min(next_frame, next_ping, next_join) - time.monotonic())
            for number, _ in self.epoll.poll(wait):
                handler = self.handlers.get(number)
                if handler is not None:
                    handler()


if __name__ == "__main__":
    Bystanders(Plan.from_json(sys.argv[1])).run()
