#!/usr/bin/env python3
"""A client in plain sockets: the standard library and protocol.md, nothing else.

    plain_client.py HOST:PORT push [ROOM] < data     send standard input to a room
    plain_client.py HOST:PORT watch ROOM  > data     write what the room sends

`push` registers a room if none is given and prints its id first; it ends with 0
once the server has handed on every byte. `watch` follows the first track it hears
of until the track's END; it ends with 1 when something is missing.
"§" refers to protocol.md. Waiting for input and network at once needs a POSIX system.
"""

import os
import secrets
import select
import socket
import struct
import sys
from typing import NamedTuple

HELLO, AUTHENTICATE, PING, CLOSE, REGISTER_ROOM = 0x01, 0x02, 0x03, 0x04, 0x10  # §5
SUBSCRIBE, PUBLISH, UNPUBLISH, CREDIT, STREAM = 0x14, 0x16, 0x17, 0x1B, 0x40
ROOM_CLOSED, SOURCE_LEFT, GAP, PUSH_REVOKED, REPLACED = 0x60, 0x62, 0x63, 0x64, 0x65  # §13
ERROR, ANSWER = 0x80, 0x80  # an answer's type is its request's + 0x80
KEY, END = 0x02, 0x04  # §4, flags
BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
CHUNK = 16_384  # payload bytes of a frame: our choice
UNLIMITED = 2**53 - 1  # §10: credit for all there is; that we read slowly, TCP tells the server


class Frame(NamedTuple):
    type: int
    flags: int
    track: int
    header: bytes  # §4: room, source, seq, timestamp; §5: request_id
    body: bytes  # payload or fields


class Connection:
    def __init__(self, host: str, port: str) -> None:
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.last_request_id, self.max_frame_bytes = 0, 4096
        # §6: HELLO, then a name. The magic says that we mean this protocol.
        hello = struct.pack(">IBBI", 0x54494D54, 1, 1, 0) + string("plain_client")
        welcome = self.request(HELLO, hello)
        limits = after_string(welcome, after_string(welcome, 5)) + 1  # behind agent, node, mode
        (self.max_frame_bytes,) = struct.unpack_from(">I", welcome, limits)
        self.request(AUTHENTICATE, b"\0" + string("plain") + bytes(4) + string(""))

    def send(self, type: int, header: bytes, body: bytes, flags: int = 0) -> int:
        """Send a frame on track 0 and return its size (§2)."""
        length = 4 + len(header) + len(body)
        self.socket.sendall(struct.pack(">IBBBB", length, type, flags, 0, 0) + header + body)
        return 4 + length

    def receive(self) -> Frame:
        """Wait for a frame. A PING has then been answered; CLOSE and ERROR do not return."""
        (length,) = struct.unpack(">I", self.exactly(4))
        if not 8 <= length <= self.max_frame_bytes - 4:
            sys.exit(f"not this protocol: a frame of length {length}")
        data = self.exactly(length)
        type, flags, track, ext_words = data[:4]
        split = 32 if type == STREAM else 8
        header, body = data[4:split], data[split + 4 * ext_words :]
        if type == PING:
            self.send(PING + ANSWER, header, body[:8])
        elif type == CLOSE:
            sys.exit(f"closed by the server: {body[0] << 8 | body[1]} {body[9:].decode()}")
        elif type == ERROR:
            sys.exit(f"refused: {body[1] << 8 | body[2]} {body[10:].decode()}")
        return Frame(type, flags, track, header, body)

    def exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            data += more or sys.exit("connection lost")
        return data

    def request(self, type: int, fields: bytes) -> bytes:
        """Send a request and return its answer's fields. What else arrives meanwhile is skipped:
        nothing we need comes before PUBLISH's and SUBSCRIBE's answers or after UNPUBLISH (§15)."""
        self.last_request_id += 1
        request_id = struct.pack(">I", self.last_request_id)
        self.send(type, request_id, fields)
        while True:
            frame = self.receive()
            if frame.type == type + ANSWER and frame.header == request_id:
                return frame.body

    def close(self) -> None:
        self.send(CLOSE, bytes(4), struct.pack(">HBI", 1000, 1, 0) + string(""))  # §14: bye
        self.socket.close()


def push(connection: Connection, room: int | None) -> None:
    if room is None:  # live, no gathering, the server's idle timeout
        answer = connection.request(REGISTER_ROOM, struct.pack(">BHI", 0, 0, 0))
        (room,) = struct.unpack_from(">Q", answer)
    token = secrets.token_bytes(16)  # §8: with it another connection could take over
    answer = connection.request(PUBLISH, struct.pack(">Q", room) + token)
    _, source, _, sent, credit = struct.unpack_from(">QIBQQ", answer)
    print(room_text(room), flush=True)
    seq, flags = 0, KEY
    while not flags & END:
        # Wait for input only with the credit to send it on (§10); always hear the server.
        inputs = [connection.socket.fileno()] + [0] * (sent + 36 + CHUNK <= credit)
        ready, _, _ = select.select(inputs, [], [])
        if connection.socket.fileno() in ready:
            frame = connection.receive()
            if frame.type == CREDIT:
                credit = max(credit, struct.unpack_from(">QIQ", frame.body)[2])
            elif frame.type in (ROOM_CLOSED, PUSH_REVOKED, REPLACED):
                sys.exit(f"the source is over: event 0x{frame.type:02x}")
        elif payload := os.read(0, CHUNK):
            sent += connection.send(STREAM, stream_header(room, source, seq), payload, flags)
            seq, flags = seq + 1, 0
        else:
            flags |= END  # still with KEY if the input was empty
            connection.send(STREAM, stream_header(room, source, seq), b"", flags)
    connection.request(UNPUBLISH, struct.pack(">QI", room, source))  # answered when all is out


def watch(connection: Connection, room: int) -> None:
    answer = connection.request(SUBSCRIBE, struct.pack(">QBQ", room, 0, UNLIMITED))
    (sources,) = struct.unpack_from(">H", answer, 11)
    live, at = 0, 13
    for _ in range(sources):  # §5: u32 source, str account, bool left, a list of 10-byte tracks
        at = after_string(answer, at + 4)
        left, tracks = struct.unpack_from(">BH", answer, at)
        live, at = live + (not left), at + 3 + 10 * tracks
    if sources and not live:
        sys.exit("the room's sources have left already")
    print(f"watching {room_text(room)}", file=sys.stderr, flush=True)
    followed: tuple[int, int] | None = None  # source and track
    while True:
        frame = connection.receive()
        if frame.type == STREAM:
            _, source, _, _ = struct.unpack(">QIQq", frame.header)
            followed = followed or (source, frame.track)
            if followed == (source, frame.track):
                sys.stdout.buffer.write(frame.body)
                sys.stdout.buffer.flush()
                if frame.flags & END:
                    return
        elif frame.type == GAP:
            _, source, track, first, last, why = struct.unpack_from(">QIBQQB", frame.body)
            if followed in (None, (source, track)):
                sys.exit(f"GAP: frames {first} to {last} are lost, reason {why}")
        elif frame.type == SOURCE_LEFT and followed is not None:
            _, source, why = struct.unpack_from(">QIB", frame.body)
            if source == followed[0]:
                sys.exit(f"the source left before its END, reason {why}")
        elif frame.type == ROOM_CLOSED:
            sys.exit(f"the room ended, reason {frame.body[8]}")


def string(text: str) -> bytes:
    data = text.encode()
    return struct.pack(">H", len(data)) + data


def after_string(data: bytes, at: int) -> int:
    return at + 2 + int(struct.unpack_from(">H", data, at)[0])


def stream_header(room: int, source: int, seq: int) -> bytes:
    return struct.pack(">QIQq", room, source, seq, 0)  # pipes have no clock: timestamp 0


def room_text(room: int) -> str:
    return "".join(BASE58[room // 58**place % 58] for place in reversed(range(11)))


def room_number(text: str) -> int:
    room = 0
    for character in text:
        room = room * 58 + BASE58.find(character)
    if len(text) != 11 or set(text) - set(BASE58) or not 58**10 <= room < 2**64:
        sys.exit(f"not a room id: {text}")
    return room


def main() -> None:
    match sys.argv[1:]:
        case [address, "push" | "watch" as verb, *rooms] if len(rooms) <= 1 and ":" in address:
            room = room_number(rooms[0]) if rooms else None
        case _:
            sys.exit("usage: plain_client.py HOST:PORT push [ROOM] | HOST:PORT watch ROOM")
    host, _, port = address.rpartition(":")
    try:
        connection = Connection(host.strip("[]"), port)
        if verb == "push":
            push(connection, room)
        elif room is not None:
            watch(connection, room)
        else:
            sys.exit("watch needs a room")
        connection.close()
    except OSError as error:
        sys.exit(f"{address}: {error}")


if __name__ == "__main__":
    main()
