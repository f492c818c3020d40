"""A relay as its author would write it with the websockets library.

One publisher over TCP, each frame with its length before it; every subscriber gets
each frame as one message, through the library's own ``broadcast``.
"""

import asyncio

from websockets.asyncio.server import ServerConnection, broadcast, serve

subscribers: set[ServerConnection] = set()


class Publisher(asyncio.Protocol):
    """Cuts what comes into frames; a transport and no stream, which costs less."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.greeted = False
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert self.transport is not None
        if not self.greeted:
            assert data[:1] == b"P"
            self.greeted = True
            self.transport.write(b"+")
            data = data[1:]
        self.received += data
        at = 0
        size = len(self.received)
        while size - at >= 4:
            length = int.from_bytes(self.received[at : at + 4], "big")
            if size - at < 4 + length:
                break
            broadcast(subscribers, bytes(self.received[at + 4 : at + 4 + length]))
            at += 4 + length
        del self.received[:at]


async def subscribe(connection: ServerConnection) -> None:
    await connection.recv()
    subscribers.add(connection)
    await connection.send(b"+")
    try:
        await connection.wait_closed()
    finally:
        subscribers.discard(connection)


async def main() -> None:
    """Serve until killed; print both addresses."""
    loop = asyncio.get_running_loop()
    tcp = await loop.create_server(Publisher, "127.0.0.1", 0)
    async with serve(
        subscribe, "127.0.0.1", 0, compression=None, ping_interval=None, max_size=None
    ) as web:
        print(f"listening tcp 127.0.0.1:{tcp.sockets[0].getsockname()[1]}", flush=True)
        port = next(iter(web.sockets)).getsockname()[1]
        print(f"listening web 127.0.0.1:{port}", flush=True)
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(main())
