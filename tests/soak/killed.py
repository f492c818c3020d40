"""A publisher that is a process of its own, killed in the middle and started again."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Final

import trio

import tim_trio
from tests.soak.churn import Churn

_BYTES: Final = 300_000
_RATE: Final = 100_000
_PAUSE_S: Final = 10.0
_DEADLINE_S: Final = 120.0


async def push_and_kill(churn: Churn, folder: Path) -> None:
    """Push a file into a reliable room, again and again, until cancelled.

    Each time the process is killed twice, and whoever watches must have the
    whole file at the end.
    """
    port, counts = churn.server.port, churn.counts
    path, token = folder / "pushed", folder / "token"
    while True:
        data = random.randbytes(_BYTES)
        path.write_bytes(data)
        async with tim_trio.connect(f"tim://127.0.0.1:{port}", account="pusher") as client:
            room = await client.register_room(mode="reliable")
            with trio.fail_after(_DEADLINE_S):
                async with client.subscribe(room) as stream, trio.open_nursery() as nursery:
                    nursery.start_soon(_push, port, room, path, token, counts)
                    received = await _read(stream)
                    nursery.cancel_scope.cancel()
            await client.remove_room(room)
        token.unlink()
        assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest()
        counts["pushes killed and whole"] += 1
        await churn.pace.pause(_PAUSE_S)


async def _read(stream: tim_trio.Subscription) -> bytes:
    """Return what the source that came to its end sent."""
    by_source: dict[int, bytearray] = {}
    async for item in stream:
        if isinstance(item, tim_trio.StreamFrame):
            data = by_source.setdefault(item.source, bytearray())
            data += item.payload
            if item.is_end:
                return bytes(data)
        else:
            assert not isinstance(item, tim_trio.Gap), item
    raise AssertionError("the room has ended")


async def _push(port: int, room: str, path: Path, token: Path, counts: Counter[str]) -> None:
    command = [
        *(sys.executable, "-m", "tim_trio", "push", "--quiet", "--account", "pusher"),
        *("--server", f"tim://127.0.0.1:{port}", "--rate", str(_RATE), "--frame-bytes", "5000"),
        *("--token", str(token), room, str(path)),
    ]
    for lives_s in (1.5, 1.5, _DEADLINE_S):
        process = await trio.lowlevel.open_process(command, stderr=subprocess.PIPE)
        try:
            with trio.move_on_after(lives_s):
                await process.wait()
                break
        finally:
            if process.poll() is None:
                process.kill()
                counts["pushes killed"] += 1
            with trio.CancelScope(shield=True):
                await process.wait()
            assert process.stderr is not None
            await process.stderr.aclose()
    # The reader ends it all, once it has seen the end.
    await trio.sleep_forever()
