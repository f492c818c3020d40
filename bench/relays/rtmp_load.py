"""Players and one publisher that speak RTMP, for nginx-rtmp beside the row R7b.

``rtmp_load.py PORT PLAYERS PAYLOAD RATE KEY_EVERY WARMUP SECONDS`` prints ``measuring`` when the
phase begins, ``done`` when it has ended, and then its figures as one line of JSON.

Each frame carries a mark, which is counted; nothing else of what arrives is looked at.
It waits for a line of its input after either word. Source: Adobe's RTMP specification 1.0.
"""

import json
import os
import select
import socket
import struct
import sys
import time

_HANDSHAKE_BYTES = 1536
_CHUNK_BYTES = 65536
_DEADLINE_S = 60.0
_READ_BYTES = 256 * 1024
_QUIET_S = 2.0
#: What a frame of H.264 begins with; players get nothing before a keyframe.
_KEYFRAME = b"\x17\x01\0\0\0"
_OTHER = b"\x27\x01\0\0\0"
_MARK = b"tim_trio"


def _amf(*values: object) -> bytes:
    parts = []
    for value in values:
        match value:
            case None:
                parts.append(b"\x05")
            case str():
                parts.append(b"\x02" + struct.pack(">H", len(value)) + value.encode())
            case int():
                parts.append(b"\0" + struct.pack(">d", value))
            case dict():
                pairs = (
                    struct.pack(">H", len(key)) + key.encode() + _amf(one)
                    for key, one in value.items()
                )
                parts.append(b"\x03" + b"".join(pairs) + b"\0\0\x09")
            case _:
                raise TypeError(value)
    return b"".join(parts)


def _message(kind: int, stream: int, payload: bytes, *, chunk: int = 4, time_ms: int = 0) -> bytes:
    """Return a message of less than 64 KiB as one chunk."""
    times = struct.pack(">BH", time_ms >> 16 & 0xFF, time_ms & 0xFFFF)
    size = struct.pack(">BHB", 0, len(payload), kind)
    return bytes((chunk,)) + times + size + struct.pack("<I", stream) + payload


def _connect(port: int, *, publishes: bool) -> socket.socket:
    """Return a connection that plays, or may publish. Blocks."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=_DEADLINE_S)
    sock.sendall(b"\x03" + bytes(8) + os.urandom(_HANDSHAKE_BYTES - 8))
    answer = b""
    while len(answer) < 1 + 2 * _HANDSHAKE_BYTES:
        data = sock.recv(1 + 2 * _HANDSHAKE_BYTES - len(answer))
        if not data:
            raise SystemExit("the server ends the handshake")
        answer += data
    how = ("publish", 4, None, "b", "live") if publishes else ("play", 4, None, "b")
    sock.sendall(
        answer[1 : 1 + _HANDSHAKE_BYTES]
        + _message(1, 0, struct.pack(">I", _CHUNK_BYTES), chunk=2)
        + _message(20, 0, _amf("connect", 1, {"app": "live"}), chunk=3)
        + _message(20, 0, _amf("createStream", 2, None), chunk=3)
        + _message(20, 1, _amf(*how), chunk=8)
    )
    return sock


class _Player:
    """Counts whole messages by the mark that each carries once."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.messages = 0
        self.tail = b""

    def take(self, data: bytes) -> None:
        data = self.tail + data
        self.messages += data.count(_MARK)
        end = data.rfind(_MARK)
        keep = min(len(data) - (end + len(_MARK) if end >= 0 else 0), len(_MARK) - 1)
        self.tail = data[len(data) - keep :] if keep else b""


def main() -> None:
    port, count, payload = map(int, sys.argv[1:4])
    rate, key_every, warmup_s, seconds = map(float, sys.argv[4:8])
    publisher = _connect(port, publishes=True)
    players = [_Player(_connect(port, publishes=False)) for _ in range(count)]
    poll = select.epoll()
    by_fd = {}
    for player in players:
        player.sock.setblocking(False)
        by_fd[player.sock.fileno()] = player
        poll.register(player.sock, select.EPOLLIN)
    publisher.setblocking(False)
    poll.register(publisher, select.EPOLLIN)
    rest = _MARK + bytes(payload - len(_OTHER) - len(_MARK))

    def read(timeout_s: float) -> None:
        for fd, _ in poll.poll(max(0.0, timeout_s)):
            player = by_fd.get(fd)
            data = (player.sock if player else publisher).recv(_READ_BYTES)
            if not data:
                raise SystemExit("the server closes a connection")
            if player:
                player.take(data)

    def send_for(duration_s: float) -> int:
        began = time.monotonic()
        number = 0
        while number < duration_s * rate:
            due = began + number / rate
            while (left := due - time.monotonic()) > 0:
                read(left)
            body = (_OTHER if number % key_every else _KEYFRAME) + rest
            message = _message(9, 1, body, time_ms=int(number * 1000 / rate), chunk=6)
            publisher.setblocking(True)
            publisher.sendall(message)
            publisher.setblocking(False)
            number += 1
            read(0)
        return number

    def drain(expected: int) -> None:
        """Until all have all, or two seconds bring nothing more."""
        had, quiet_since = -1, time.monotonic()
        while (have := sum(player.messages for player in players)) < expected:
            now = time.monotonic()
            if have != had:
                had, quiet_since = have, now
            elif now - quiet_since > _QUIET_S:
                return
            read(0.05)

    warm = send_for(warmup_s)
    drain(warm * count)
    before = [player.messages for player in players]
    times_before = os.times()
    print("measuring", flush=True)
    sys.stdin.readline()
    began = time.monotonic()
    frames = send_for(seconds)
    drain(sum(before) + frames * count)
    wall_s = time.monotonic() - began
    print("done", flush=True)
    times = os.times()
    got = [player.messages - had for player, had in zip(players, before, strict=True)]
    figures = {
        "frames": frames,
        "deliveries": sum(got),
        "lost": sum(max(0, frames - one) for one in got),
        "wall_s": wall_s,
        "cpu_s": times.user + times.system - times_before.user - times_before.system,
    }
    sys.stdin.readline()
    print(json.dumps(figures), flush=True)


main()
