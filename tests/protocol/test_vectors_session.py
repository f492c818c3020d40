"""The invalid vectors against a server's session: what it closes, answers, ignores."""

from functools import partial
from typing import Any

import pytest
import trio

from tests.protocol.builders import load_vectors, vector_bytes
from tim_trio.core.manager import RoomManager
from tim_trio.core.node import Node
from tim_trio.core.outbox import Buffer, Outbox
from tim_trio.core.session import PeerClosed, Session, new_decoder
from tim_trio.errors import RemoteProtocolError, code_label
from tim_trio.limits import Limits
from tim_trio.protocol import messages
from tim_trio.protocol.decoder import ControlFrame, Decoder
from tim_trio.protocol.layout import MAGIC
from tim_trio.protocol.messages import decode, encode
from tim_trio.protocol.runs import Run

Vector = dict[str, Any]

HELLO = messages.Hello(magic=MAGIC, min_version=1, max_version=1, capabilities=0, agent="")
ALICE = messages.Authenticate(
    method=messages.AuthMethod.NAME, account="alice", secret=b"", device=""
)


class Log:
    def info(self, event: str, **fields: Any) -> None:
        pass


class Server:
    """One session whose every write is taken at once."""

    def __init__(self) -> None:
        manager = RoomManager(Node(Limits()), Log())
        self.sent = bytearray()
        outbox = Outbox(self._transmit, manager.node, start_writer=_never, on_abort=_never)
        self._decoder = new_decoder(manager)
        self._session = Session(manager, outbox, self._decoder, 0.0)

    def _transmit(self, data: Buffer) -> int:
        self.sent += data
        return len(data)

    async def outcome(self, data: bytes) -> Vector:
        """Feed bytes; return what they lead to as the vectors write it."""
        self.sent.clear()
        items: list[Run | ControlFrame] = []
        error = self._decoder.feed_into(data, items)
        try:
            for item in items:
                if isinstance(item, Run):
                    self._session.receive_run(item, 0.0)
                else:
                    await self._session.receive_control(item, 0.0)
        except RemoteProtocolError as broken:
            error = broken
        except PeerClosed:
            return {"closed": True}
        if error is not None:
            return {"close": error.code.label}
        if not self.sent:
            return {"more": True} if self._decoder.buffered_bytes else {"ignored": True}
        (answer,) = Decoder(max_frame_bytes=2**20, max_init_bytes=0).feed(bytes(self.sent))
        assert isinstance(answer, ControlFrame)
        message = decode(answer.type, answer.fields)
        if not isinstance(message, messages.Error):
            return {"answer": type(message).__name__}
        return {
            "error": code_label(message.code),
            "request_type": message.request_type,
            "request_id": answer.request_id,
        }


def _never() -> None:
    pytest.fail("nothing is ever queued or aborted here")


async def _feed(vector: Vector) -> Vector:
    server = Server()
    if vector["phase"] != "new":
        assert await server.outcome(encode(HELLO, 1)) == {"answer": "Welcome"}
    if vector["phase"] == "open":
        assert await server.outcome(encode(ALICE, 2)) == {"answer": "AuthenticateAnswer"}
    return await server.outcome(vector_bytes(vector))


@pytest.mark.parametrize(
    "vector",
    [
        pytest.param(vector, id=vector["name"])
        for stem in ("invalid", "limits")
        for vector in load_vectors(stem)["vectors"]
        if vector["receiver"] == "server"
    ],
)
def test_outcome(vector: Vector) -> None:
    assert trio.run(partial(_feed, vector)) == vector["expect"]
