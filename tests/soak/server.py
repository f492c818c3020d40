"""A server process that is watched for a long time: its figures, its memory, its files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from bench.processes import cpu_seconds, rss_bytes

_ROOT: Final = Path(__file__).resolve().parent.parent.parent
#: The server does that at its next tick, a second apart.
_GIVEN_BACK_S: Final = 2.0
_DEADLINE_S: Final = 60.0
#: Everything that takes its time takes less of it, so that it happens often.
LIMITS: Final = {
    "max_frame_bytes": 64 * 1024,
    "backlog_bytes": 128 * 1024,
    "connection_backlog_bytes": 512 * 1024,
    "room_cache_bytes": 256 * 1024,
    "node_cache_bytes": 2 * 1024 * 1024,
    "node_backlog_bytes": 2 * 1024 * 1024,
    "stall_timeout_s": 3.0,
    "ping_interval_s": 3.0,
    "handshake_timeout_s": 5.0,
    "reliable_patience_s": 3.0,
    "linger_s": 2.0,
    "idle_timeout_s": 30.0,
}


@attrs.frozen
class Held:
    """What a process holds at one moment.

    Attributes:
        figures: the server's own, as in its log.
        descriptors: open files.
    """

    figures: dict[str, Any]
    descriptors: int
    rss_bytes: int

    @property
    def is_idle(self) -> bool:
        names = "connections rooms subscriptions lagging backlog_bytes cache_bytes pinned_bytes"
        return not any(self.figures[name] for name in names.split())


@attrs.define(eq=False)
class SoakedServer:
    """Attributes:
    events: how often the log told what; closes: connections ended, by code.
    errors: lines that must not be there.
    """

    process: trio.Process
    log: Path
    port: int = 0
    web_port: int = 0
    events: Counter[str] = attrs.Factory(Counter)
    closes: Counter[str] = attrs.Factory(Counter)
    errors: list[str] = attrs.Factory(list)
    _figures: dict[str, Any] = attrs.Factory(dict)
    _read_to: int = 0

    def read_log(self) -> None:
        """Count what the log says since the last call."""
        with self.log.open("rb") as file:
            file.seek(self._read_to)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read_to += len(whole)
        for line in whole.splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                self.errors.append(line.decode(errors="replace"))
                continue
            name = event["event"]
            self.events[name] += 1
            if name == "figures":
                self._figures = event
            elif name == "connection ended":
                self.closes[event["code"]] += 1
            elif event["level"] == "error":
                self.errors.append(line.decode(errors="replace"))

    async def held(self) -> Held:
        """Ask the server what it holds."""
        self.read_log()
        told = self.events["figures"]
        self.process.send_signal(signal.SIGUSR1)
        with trio.fail_after(_DEADLINE_S):
            while self.events["figures"] == told:
                await trio.sleep(0.05)
                self.read_log()
        return Held(
            self._figures,
            len(os.listdir(f"/proc/{self.process.pid}/fd")),
            rss_bytes(self.process.pid),
        )

    async def until_idle(self) -> Held:
        """Wait until nothing is held for anyone and memory was given back; return what is left."""
        deadline = trio.current_time() + _DEADLINE_S
        while True:
            held = await self.held()
            if held.is_idle:
                await trio.sleep(_GIVEN_BACK_S)
                return await self.held()
            assert trio.current_time() < deadline, f"it never comes to rest: {held}"
            await trio.sleep(0.5)

    @property
    def cpu_s(self) -> float:
        return cpu_seconds(self.process.pid)


@asynccontextmanager
async def soaked_server(folder: Path, **limits: float) -> AsyncIterator[SoakedServer]:
    """Run a server with small limits, and ``limits`` on top; it must still be there when
    the block is left, and end well."""
    log, config = folder / "log", folder / "tim.toml"
    lines = [f"{name} = {value}" for name, value in {**LIMITS, **limits}.items()]
    config.write_text("[limits]\n" + "\n".join(lines) + "\n")
    command = [sys.executable, "-m", "tim_trio", "serve", "--config", str(config)]
    with log.open("wb") as errors:
        process = await trio.lowlevel.open_process(
            [*command, "--tcp", "127.0.0.1:0", "--web", "127.0.0.1:0"],
            cwd=_ROOT,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    assert process.stdout is not None
    server = SoakedServer(process, log)
    try:
        said = b""
        with trio.fail_after(_DEADLINE_S):
            while said.count(b"\n") < 2:
                said += await process.stdout.receive_some()
        tcp, web = said.splitlines()
        assert tcp.startswith(b"listening tcp ")
        assert web.startswith(b"listening web ")
        server.port, server.web_port = (int(line.rpartition(b":")[2]) for line in (tcp, web))
        yield server
        assert process.poll() is None, "the server has ended"
        process.terminate()
        with trio.fail_after(_DEADLINE_S):
            assert await process.wait() == 0
        server.read_log()
    finally:
        with trio.CancelScope(shield=True):
            if process.poll() is None:
                process.kill()
            await process.wait()
            await process.stdout.aclose()
