"""nginx-rtmp beside the row R7b: its own protocol, so a load generator of its own."""

import json
import subprocess
import sys
from pathlib import Path

from bench.load import Load, Sample
from bench.peers import Server
from bench.processes import BenchError, cpu_seconds, rss_bytes, running

_LOAD = Path(__file__).parent / "relays" / "rtmp_load.py"


def run_rtmp(server: Server, load: Load) -> Sample:
    """Play one room's stream to all subscribers. Latency is not measured.

    Raises:
        BenchError: the players failed, or nothing arrived.
    """
    (pid,) = server.pids
    rss_start = rss_bytes(pid)
    command = [sys.executable, str(_LOAD), str(server.ports[0]), str(load.subscribers)]
    command += [str(each) for each in (load.payload_bytes, load.rate, load.key_every)]
    command += [str(each) for each in (load.warmup_s, load.seconds)]
    with running(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as players:
        assert players.stdin is not None and players.stdout is not None

        def await_line(wanted: bytes) -> bytes:
            assert players.stdout is not None and players.stderr is not None
            line = players.stdout.readline()
            if not line.startswith(wanted):
                raise BenchError(f"the players: {players.stderr.read().decode()[-300:]}")
            return line

        await_line(b"measuring")
        cpu_before = cpu_seconds(pid)
        players.stdin.write(b"\n")
        players.stdin.flush()
        await_line(b"done")
        server_cpu_s = cpu_seconds(pid) - cpu_before
        rss_end = rss_bytes(pid)
        players.stdin.write(b"\n")
        players.stdin.flush()
        figures = json.loads(await_line(b"{"))
    if not figures["deliveries"]:
        raise BenchError("no player got anything")
    return Sample(
        frames=figures["frames"],
        deliveries=figures["deliveries"],
        bytes=figures["deliveries"] * load.payload_bytes,
        lost=figures["lost"],
        wall_s=figures["wall_s"],
        server_cpu_s=server_cpu_s,
        load_cpu_s=figures["cpu_s"],
        rss_start=rss_start,
        rss_end=rss_end,
        rss_samples=(rss_end,),
    )
