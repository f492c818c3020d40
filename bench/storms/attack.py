"""The others: a rush of logins, or an attack from one address.

``python -m bench.storms.attack KIND PORT SECONDS AMOUNT`` goes on for so long
and prints what became of it as a line of JSON. It comes from 127.0.0.2.

| kind | |
| --- | --- |
| `logins` | AMOUNT attempts a second, every other one with the right password |
| `loris` | AMOUNT connections that send a byte of HELLO a second, and come back when closed |
| `tls-loris` | the same with half a handshake of TLS |
| `handshakes` | whole handshakes of TLS, one after another, on AMOUNT connections at a time |
| `commands` | AMOUNT signed-in connections that send requests as fast as they are read |
| `connections` | AMOUNT at a time that connect, say HELLO and leave |
"""

import json
import socket
import ssl
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable

import trio
from attrs import Factory, define

from tim_trio.errors import code_label
from tim_trio.protocol import messages
from tim_trio.protocol.decoder import ControlFrame, Decoder
from tim_trio.protocol.layout import MAGIC, VERSION

HERE = "127.0.0.1"
FROM = "127.0.0.2"
PASSWORD = b"the right password"
ACCOUNT = "rusher"
#: An attempt that has not been answered by then never will be.
_DEADLINE_S = 60.0
_HELLO = messages.Hello(
    magic=MAGIC, min_version=VERSION, max_version=VERSION, capabilities=0, agent="storm"
)
_CLIENT_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"


@define(eq=False)
class Attack:
    """One attack, and what has become of it."""

    port: int
    seconds: float
    amount: int
    outcomes: Counter[str] = Factory(Counter)
    answer_s: list[float] = Factory(list)

    async def connect(self) -> trio.SocketStream:
        sock = trio.socket.socket()
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await sock.bind((FROM, 0))
            await sock.connect((HERE, self.port))
        except BaseException:
            sock.close()
            raise
        return trio.SocketStream(sock)

    # A rush

    async def logins(self) -> None:
        async with trio.open_nursery() as nursery:
            began = trio.current_time()
            for number in range(int(self.amount * self.seconds)):
                await trio.sleep_until(began + number / self.amount)
                nursery.start_soon(self.log_in, number % 2 == 0)

    async def log_in(self, is_right: bool) -> None:
        began = trio.current_time()
        outcome = "unanswered"
        try:
            with trio.move_on_after(_DEADLINE_S):
                outcome = await self.try_password(PASSWORD if is_right else b"a wrong password")
        except (OSError, trio.BrokenResourceError) as error:
            outcome = f"unanswered: {type(error).__name__}"
        self.outcomes[outcome] += 1
        self.answer_s.append(trio.current_time() - began)

    async def try_password(self, password: bytes) -> str:
        who = messages.Authenticate(
            method=messages.AuthMethod.PASSWORD, account=ACCOUNT, secret=password, device=""
        )
        stream = await self.connect()
        async with stream:
            await stream.send_all(messages.encode(_HELLO, 1) + messages.encode(who, 2))
            decoder = Decoder(max_frame_bytes=2**20, max_init_bytes=2**20)
            while data := await stream.receive_some(65536):
                for item in decoder.feed(bytes(data)):
                    assert isinstance(item, ControlFrame)
                    match messages.decode(item.type, item.fields):
                        case messages.AuthenticateAnswer():
                            return "signed in"
                        case messages.Error(code=code) | messages.Close(code=code):
                            return code_label(code)
            return "unanswered: closed"

    # Attacks

    async def several(self, one: Callable[[], Awaitable[None]]) -> None:
        """``amount`` of one kind at a time, for as long as it is to last."""

        async def again_and_again() -> None:
            while True:
                try:
                    await one()
                except (OSError, trio.BrokenResourceError):
                    self.outcomes["lost"] += 1
                    await trio.sleep(0.01)

        with trio.move_on_after(self.seconds):
            async with trio.open_nursery() as nursery:
                for _ in range(self.amount):
                    nursery.start_soon(again_and_again)

    async def drip(self, first: bytes, drop: bytes) -> None:
        stream = await self.connect()
        async with stream:
            self.outcomes["connected"] += 1
            await stream.send_all(first)
            while True:
                with trio.move_on_after(1.0):
                    while await stream.receive_some(65536):
                        pass
                    self.outcomes["closed"] += 1
                    await trio.sleep(0.2)
                    return
                await stream.send_all(drop)

    async def loris(self) -> None:
        await self.several(lambda: self.drip(messages.encode(_HELLO, 1)[:9], b"\0"))

    async def tls_loris(self) -> None:
        await self.several(lambda: self.drip(_CLIENT_HELLO, b"\0"))

    async def handshakes(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE

        async def one() -> None:
            tls = trio.SSLStream(await self.connect(), context)
            try:
                await tls.do_handshake()
                self.outcomes["shaken"] += 1
            finally:
                await trio.aclose_forcefully(tls)

        await self.several(one)

    async def commands(self) -> None:
        who = messages.Authenticate(
            method=messages.AuthMethod.NAME, account="flooder", secret=b"", device=""
        )
        greeting = messages.encode(_HELLO, 1) + messages.encode(who, 2)
        lists = messages.ListRooms(scope=messages.ListScope.MINE, after=0, limit=0)
        flood = messages.encode(lists, 3) * 200

        async def one() -> None:
            stream = await self.connect()
            async with stream:
                await stream.send_all(greeting)
                with trio.CancelScope() as until_closed:
                    async with trio.open_nursery() as nursery:

                        async def read() -> None:
                            try:
                                while data := await stream.receive_some(65536):
                                    self.outcomes["answer bytes"] += len(data)
                            except trio.BrokenResourceError:
                                pass
                            self.outcomes["closed"] += 1
                            until_closed.cancel()

                        async def write() -> None:
                            try:
                                while True:
                                    await stream.send_all(flood)
                                    self.outcomes["sent"] += 200
                            except trio.BrokenResourceError:
                                await trio.sleep_forever()  # the reader says the rest

                        nursery.start_soon(read)
                        nursery.start_soon(write)

        await self.several(one)

    async def connections(self) -> None:
        hello = messages.encode(_HELLO, 1)

        async def one() -> None:
            stream = await self.connect()
            async with stream:
                await stream.send_all(hello)
                await stream.receive_some(65536)
                self.outcomes["connected"] += 1

        await self.several(one)

    async def run(self, kind: str) -> dict[str, object]:
        kinds = {
            "logins": self.logins,
            "loris": self.loris,
            "tls-loris": self.tls_loris,
            "handshakes": self.handshakes,
            "commands": self.commands,
            "connections": self.connections,
        }
        began = time.monotonic()
        await kinds[kind]()
        return {
            "kind": kind,
            "outcomes": dict(self.outcomes),
            "slowest_answer_s": round(max(self.answer_s, default=0.0), 2),
            "seconds": round(time.monotonic() - began, 2),
        }


if __name__ == "__main__":
    KIND, PORT, SECONDS, AMOUNT = sys.argv[1:5]
    attack = Attack(int(PORT), float(SECONDS), int(AMOUNT))
    print(json.dumps(trio.run(attack.run, KIND)))
