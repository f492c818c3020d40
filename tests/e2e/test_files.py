"""A file of 200 MB while the server is killed and started again, twice."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trio

from tests.net.running import eventually
from tim_trio.net.client import connect
from tim_trio.net.client.files import FileSent, FileTransfer

SIZE = 200_000_000
DEADLINE_S = 200
_POLL_S = 0.01

pytestmark = pytest.mark.slow


@attrs.define
class Server:
    """A server of its own process, always on the same port."""

    log: Path
    port: int
    _process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"tim://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it listens. Blocks."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tim_trio", "--tcp", f"127.0.0.1:{self.port}", "--no-web"],
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self._process.stdout is not None
        assert self._process.stdout.readline().startswith(b"listening"), self.log.read_text()

    def kill(self) -> None:
        """End it without a word."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = Server(tmp_path / "server.log", port)
    server.start()
    yield server
    server.kill()


@pytest.mark.timeout(DEADLINE_S + 20)
async def test_the_server_is_killed_twice_under_a_large_file(
    tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    path = tmp_path / "large.bin"
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for _ in range(SIZE // 1_000_000):
            block = os.urandom(1_000_000)
            file.write(block)
            digest.update(block)
    sent: list[FileSent] = []

    async def send() -> None:
        sent.append(await alice.send_file(path, to="bob"))

    async def until(view: FileTransfer, share: float) -> None:
        # Most of it is waiting for the disk and for a core, where others have them too.
        while view.position < share * SIZE:  # noqa: ASYNC110 - a view has no event
            await trio.sleep(_POLL_S)

    with trio.fail_after(DEADLINE_S):
        async with (
            connect(server.address, account="alice") as alice,
            connect(server.address, account="bob") as bob,
            bob.receive_files(inbox, accept_from={"alice"}) as arrivals,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(send)
            await eventually(lambda: bool(arrivals.transfers), "the offer")
            (view,) = arrivals.transfers
            for share in (0.2, 0.6):
                await until(view, share)
                server.kill()
                assert view.position < SIZE, "it was too late"
                await trio.to_thread.run_sync(server.start)
            arrival = await anext(arrivals)
            await eventually(lambda: bool(sent), "the sender's end")
    assert arrival.path == inbox / "large.bin"
    assert hashlib.sha256(arrival.path.read_bytes()).hexdigest() == digest.hexdigest()
    assert [file.name for file in inbox.iterdir()] == ["large.bin"]
    assert arrival.transfer.attempts == sent[0].attempts == 3
    again = sent[0].moved_bytes - SIZE
    with capsys.disabled():
        print(f"[{again / 1e6:.2f} MB sent again, {again / SIZE:.2%}] ", end="")
    assert again <= 0.05 * SIZE
