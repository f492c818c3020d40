"""One end of the row F1's floor: does with a file what ``send`` and ``receive`` do with it.

``pipe_end.py send PORT FILE`` reads the file twice, for its digest and for the network;
``pipe_end.py receive PORT FILE`` digests what comes, writes it, and makes it safe every
second. Both print the digest.
"""

import hashlib
import os
import socket
import sys
import time

_BLOCK_BYTES = 1024 * 1024
_FRAME_BYTES = 128 * 1024


def _send(connection: socket.socket, path: str) -> str:
    with open(path, "rb", buffering=0) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        connection.sendall(b"P")
        while block := file.read(_BLOCK_BYTES):
            view = memoryview(block)
            for at in range(0, len(block), _FRAME_BYTES):
                connection.sendall(view[at : at + _FRAME_BYTES])
    return digest


def _receive(connection: socket.socket, path: str) -> str:
    digest = hashlib.sha256()
    synced_at = time.monotonic()
    connection.sendall(b"S")
    with open(path, "xb", buffering=0) as file:
        while data := connection.recv(2 * _FRAME_BYTES):
            digest.update(data)
            file.write(data)
            if time.monotonic() - synced_at >= 1.0:
                os.fsync(file.fileno())
                synced_at = time.monotonic()
    return digest.hexdigest()


def main() -> None:
    what, port, path = sys.argv[1:]
    with socket.create_connection(("127.0.0.1", int(port))) as connection:
        print((_send if what == "send" else _receive)(connection, path))


main()
