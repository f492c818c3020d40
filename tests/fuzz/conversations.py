"""Scripts that the session fuzzer goes on from: golden vectors, and conversations."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from tests.protocol.builders import VALID_FILES, control_bytes, load_vectors, vector_bytes

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
    # bob asks alice, and is accepted; messages both ways; she blocks him; and again
    b"\x13\x0e\x00\x03\x0e\x05\x13\x0d\x00\x03\x0d\x04"
    + b"\x03\x0e\x8a\x13\x0d\x00\x13\x0e\x00\x03\x0f\x00\x03\x0e\x8b\x13\x0d\x00",
    # an offer of a file, which is for the accounts alone to understand
    b"\x13\x0d\x01\x03\x0d\x05",
    # bob asks to push, and again too soon; both look at the room and at the list of rooms
    b"\x13\x0a\x00\x13\x0a\x00\x13\x08\x00\x03\x08\x00\x03\x09\x00\x13\x09\x80\x03\x09\x80",
    # a policy, and a flood at who does not read
    b"\x13\x10\x80\x13\x17\x00\x03\x0d\x04"
    + _BOB_STALLS
    + b"\x13\x10\x00"
    + b"\x03\x0d\xc4" * 6
    + _BOB_READS,
    # alice, an operator, bans bob who publishes, and then the room
    b"\x03\x05\x04\x13\x02\x04\x03\x11\x88\x16\x00\x02\x10\x03\x11\x00",
    # alice, an operator, and bob look at figures while bob lags
    _BOB_STALLS
    + b"\x06\x01\x00\xf5" * 4
    + b"\x03\x14\x00\x03\x15\x00\x03\x16\x00\x13\x16\x00\x13\x14\x01\x03\x16\x04"
    + _BOB_READS,
    # joining live, a ping, and the room's idle end
    b"\x03\x01\x80\x1e" + _KEY + _LATER * 3,
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
