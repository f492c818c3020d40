"""A server that everybody comes to and leaves for half an hour is afterwards what it was.

``SOAK_SECONDS`` makes it shorter or longer, ``SOAK_SHARE`` is what of a core
server and clients together may take.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

import pytest
import trio

from tests.net.running import eventually, living_tasks, open_descriptors
from tests.soak.churn import Churn, Pace
from tests.soak.killed import push_and_kill
from tests.soak.server import Held, SoakedServer, soaked_server

_SECONDS: Final = float(os.environ.get("SOAK_SECONDS", "1800"))
_SHARE: Final = float(os.environ.get("SOAK_SHARE", "0.6"))
#: Between two looks at what is left when nobody is there.
_ROUNDS: Final = 6
_GROWTH: Final = 1.05


def check_rest(rest: Held, at_first: Held) -> None:
    """Check that the server holds no more than before anybody came."""
    assert rest.is_idle
    assert rest.figures["tasks"] == at_first.figures["tasks"]
    assert rest.descriptors == at_first.descriptors


#: What must have happened, by the clients' count and by the server's log.
_SOON: Final = ("frames", "gaps", "stalls", "publishers killed", "subscribers killed")
_IN_TIME: Final = (
    *("takeovers", "resumed", "revokes", "rooms removed", "live rooms", "reliable rooms"),
    *("pushes killed and whole", "ended by RoomClosed"),
)
_LOGGED: Final = ("source taken over", "push revoked", "frames dropped", "protocol error")
_CLOSES: Final = ("slow_consumer", "handshake_timeout")


def check_events(churn: Churn, server: SoakedServer, *, all_of_them: bool) -> None:
    """Check that it was not all quiet, and nothing went wrong in the server."""
    assert not server.errors
    for name in _SOON + (_IN_TIME if all_of_them else ()):
        assert churn.counts[name], name
    for code in ("bye", "lost", *(_CLOSES if all_of_them else ())):
        assert server.closes[code], code
    if all_of_them:
        for name in _LOGGED:
            assert server.events[name], name


def report(server: SoakedServer, churn: Churn, seconds: float, rest: Held) -> str:
    server.read_log()
    figures = rest.figures
    return (
        f"after {seconds:,.0f} s: {rest.rss_bytes / 2**20:.2f} MiB resident, "
        f"{figures['tasks']} tasks, {rest.descriptors} open files; so far "
        f"{figures['frames_in']:,} frames in, {figures['deliveries']:,} deliveries, "
        f"{figures['gaps']:,} gaps; server {server.cpu_s:.0f} s of CPU; "
        f"closes {dict(server.closes)}; {dict(churn.counts)}"
    )


async def churn_for(
    seconds: float,
    rounds: int,
    share: float,
    folder: Path,
    say: pytest.CaptureFixture[str],
    **limits: float,
) -> list[Held]:
    """Churn in so many rounds; return what was held after each."""
    rests: list[Held] = []
    began = time.monotonic()
    async with soaked_server(folder, **limits) as server:
        at_first = await server.until_idle()
        with say.disabled():
            print(f"\nat first: {at_first.rss_bytes / 2**20:.2f} MiB resident", flush=True)
        churn = Churn(server, Pace(server, share))
        for _ in range(rounds):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(push_and_kill, churn, folder)
                await churn.run(seconds / rounds)
                nursery.cancel_scope.cancel()
            rests.append(await server.until_idle())
            with say.disabled():
                print(report(server, churn, time.monotonic() - began, rests[-1]), flush=True)
            check_rest(rests[-1], at_first)
        check_events(churn, server, all_of_them=rounds > 1)
    return rests


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_for_a_moment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    descriptors, tasks = open_descriptors(), living_tasks()
    # Rooms that are left behind are waited for.
    await churn_for(10, 1, 0.9, tmp_path, capsys, idle_timeout_s=8.0)
    await eventually(lambda: living_tasks() <= tasks, "our own tasks end")
    assert open_descriptors() <= descriptors


@pytest.mark.soak
@pytest.mark.timeout(_SECONDS * 2 + 300)
async def test_for_half_an_hour(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first round is the warm-up: memory at the end is compared with that after it."""
    rests = await churn_for(_SECONDS, _ROUNDS, _SHARE, tmp_path, capsys)
    after_warm_up, at_end = rests[0].rss_bytes, rests[-1].rss_bytes
    assert at_end <= _GROWTH * after_warm_up, [rest.rss_bytes for rest in rests]
