"""``python -m bench.storms``: streams beside a rush of logins, and beside attacks.

Each scene starts a server, lets bystanders stream for a while (*calm*), then
again beside the rush or the attack (*storm*), and compares.

* ``login``: 200 password attempts a second for 20 s, argon2 at its library's
  defaults, rates of logins raised; every other password is wrong.
* ``loris``, ``tls-loris``, ``handshakes``, ``commands``, ``connections``: what
  `bench.storms.attack` does, from one address. The limits are the defaults.
  The attacker runs at the lowest priority: it stands for another machine.
"""

import argparse
import json
import os
import re
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import asdict, frozen

from bench.processes import BenchError, cpu_seconds, raise_open_files, running
from bench.storms.attack import ACCOUNT, PASSWORD
from bench.storms.stream import Plan
from tim_trio.accounts.passwords import PasswordHasher
from tim_trio.accounts.store import Store, default_database_url

_ROOT = Path(__file__).resolve().parents[2]
_OPEN_FILES = 20_000
_START_TIMEOUT_S = 60.0
#: Sessions that an account may have by default.
_DEVICES = 32
_NICE = ("nice", "-n", "19")


@frozen(kw_only=True)
class Scene:
    """One storm. ``tls``: it goes for the TLS port."""

    name: str
    attack: str
    amount: int
    tls: bool = False
    accounts: bool = False


SCENES = {
    scene.name: scene
    for scene in (
        Scene(name="login", attack="logins", amount=200, accounts=True),
        Scene(name="loris", attack="loris", amount=3000),
        Scene(name="tls-loris", attack="tls-loris", amount=3000, tls=True),
        Scene(name="handshakes", attack="handshakes", amount=50, tls=True),
        Scene(name="commands", attack="commands", amount=100),
        Scene(name="connections", attack="connections", amount=100),
    )
}


@frozen(kw_only=True)
class Result:
    """What the bystanders saw calm and in the storm, and what became of the storm."""

    scene: str
    calm: dict[str, Any]
    storm: dict[str, Any]
    attack: dict[str, Any]
    calm_cpu: float
    storm_cpu: float


@contextmanager
def _server(scene: Scene, folder: Path) -> Iterator[tuple[int, int, int]]:
    """A server for the scene: its plain and its TLS port, and its process."""
    options = ["--tcp", "127.0.0.1:0", "--no-web"]
    settings: dict[str, str] = {}
    if scene.accounts:
        settings = {
            "auth": "accounts",
            "database_url": default_database_url(folder),
            "limits.logins_per_minute_per_address": "1e9",
            "limits.logins_per_minute_per_account": "1e9",
        }
    if scene.tls:
        import trustme  # of `make test`, which the other scenes do without

        leaf = trustme.CA().issue_cert("127.0.0.1")
        leaf.cert_chain_pems[0].write_to_path(folder / "cert.pem")
        leaf.private_key_pem.write_to_path(folder / "key.pem")
        options += ["--tls", "127.0.0.1:0", "--tls-cert", str(folder / "cert.pem")]
        options += ["--tls-key", str(folder / "key.pem")]
    for key, value in settings.items():
        options += ["--set", f"{key}={value}"]
    with (
        (folder / "log").open("wb") as log,
        running(
            (sys.executable, "-m", "tim_trio", "serve", *options),
            cwd=_ROOT,
            stdout=subprocess.PIPE,
            stderr=log,
        ) as process,
    ):
        ports = [_port(process) for _ in range(1 + scene.tls)]
        yield ports[0], ports[-1], process.pid


def _line(process: "subprocess.Popen[bytes]") -> str:
    assert process.stdout is not None
    number = process.stdout.fileno()
    deadline = time.monotonic() + _START_TIMEOUT_S
    line = b""
    # Byte by byte: a buffer would hide the next line from select.
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([number], [], [], max(0.0, deadline - time.monotonic()))
        byte = os.read(number, 1) if ready else b""
        if not byte:
            raise BenchError(f"{process.args!r} says nothing")
        line += byte
    return line.decode().strip()


def _port(process: "subprocess.Popen[bytes]") -> int:
    found = re.fullmatch(r"listening \S+ 127\.0\.0\.1:(\d+)", _line(process))
    if found is None:
        raise BenchError("the server does not listen")
    return int(found[1])


def make_accounts(folder: Path, connections: int) -> tuple[str, ...]:
    """Make the account of the rush, and as many sessions as there are bystanders."""
    store = Store(default_database_url(folder))
    store.open()
    hashed = PasswordHasher().hash_blocking(PASSWORD)
    store.add_account(ACCOUNT, hashed)
    tokens = []
    for number in range(0, connections, _DEVICES):
        name = f"bystander-{number}"
        store.add_account(name, hashed)
        for _ in range(_DEVICES):
            identity = store.open_session(
                name, "", lifetime_s=3600.0, max_devices=_DEVICES, checked_hash=hashed
            )
            tokens.append(identity.session_token.hex())
    store.close()
    return tuple(tokens)


def run_scene(
    scene: Scene, *, calm_s: float, storm_s: float, watchers: int = 200, rate: float = 30.0
) -> Result:
    """Run one scene.

    Raises:
        BenchError: something did not start, or the bystanders were cut off.
    """
    with tempfile.TemporaryDirectory(prefix="tim-storm-") as name:
        folder = Path(name)
        tokens = make_accounts(folder, watchers + 2) if scene.accounts else ()
        with _server(scene, folder) as (port, storm_port, pid):
            plan = Plan(port=port, watchers=watchers, rate=rate, tokens=tokens)
            with running(
                (sys.executable, "-m", "bench.storms.stream", plan.to_json()),
                cwd=_ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=None,
            ) as bystanders:
                if _line(bystanders) != "ready":
                    raise BenchError("the bystanders did not begin")
                time.sleep(min(1.0, calm_s))
                _ask(bystanders)  # what came before does not count
                calm_cpu = _cpu(pid, lambda: time.sleep(calm_s))
                calm = _ask(bystanders)
                command = [sys.executable, "-m", "bench.storms.attack", scene.attack]
                command += [str(storm_port), str(storm_s), str(scene.amount)]
                outcome: list[str] = []
                prefix = () if scene.accounts else _NICE
                storm_cpu = _cpu(pid, lambda: outcome.append(_attack((*prefix, *command))))
                storm = _ask(bystanders)
    return Result(
        scene=scene.name,
        calm=calm,
        storm=storm,
        attack=json.loads(outcome[0]),
        calm_cpu=calm_cpu,
        storm_cpu=storm_cpu,
    )


def _attack(command: Sequence[str]) -> str:
    done = subprocess.run(command, cwd=_ROOT, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise BenchError(f"the storm ended with {done.returncode}")
    return done.stdout.decode()


def _ask(process: "subprocess.Popen[bytes]") -> dict[str, Any]:
    assert process.stdin is not None
    process.stdin.write(b"?\n")
    process.stdin.flush()
    answer: dict[str, Any] = json.loads(_line(process))
    return answer


def _cpu(pid: int, act: Callable[[], object]) -> float:
    """CPU of the server while something goes on, in cores."""
    began, before = time.monotonic(), cpu_seconds(pid)
    act()
    return round((cpu_seconds(pid) - before) / (time.monotonic() - began), 2)


def show(result: Result) -> str:
    """The result for a person."""
    lines = [f"{result.scene}: {result.attack['outcomes']}, {result.attack['seconds']} s"]
    if result.attack["slowest_answer_s"]:
        lines[0] += f", slowest answer {result.attack['slowest_answer_s']} s"
    lines.append(f"  {'':24}{'calm':>10}{'storm':>10}{'moved by':>10}")
    for name in ("frame", "ping", "join"):
        for label in ("p50", "p99", "max"):
            key = f"{name}_{label}_ms"
            calm, storm = result.calm[key], result.storm[key]
            what = f"{name} {label}, ms"
            lines.append(f"  {what:24}{calm:10}{storm:10}{storm - calm:10.2f}")
    lines.append(f"  {'server CPU, cores':24}{result.calm_cpu:10}{result.storm_cpu:10}")
    lost = result.calm["lost"] | result.storm["lost"]
    lines.append(f"  lost by bystanders: {lost or 'nothing'}")
    return "\n".join(lines)


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m bench.storms", description=__doc__)
    parser.add_argument("scenes", nargs="*", metavar="SCENE", help=", ".join(SCENES))
    parser.add_argument("--calm", type=float, default=10.0, help="seconds before the storm")
    parser.add_argument("--storm", type=float, default=20.0, help="seconds of the storm")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    unknown = [name for name in options.scenes if name not in SCENES]
    if unknown:
        parser.error(f"no scene {unknown[0]!r}; there are: {', '.join(SCENES)}")
    raise_open_files(_OPEN_FILES)
    results = []
    for name in options.scenes or SCENES:
        try:
            result = run_scene(SCENES[name], calm_s=options.calm, storm_s=options.storm)
        except BenchError as error:
            print(f"bench: {name}: {error}", file=sys.stderr)
            return 2
        print(show(result), flush=True)
        results.append(result)
    if options.json:
        figures = {"cpus": os.cpu_count(), "scenes": [asdict(result) for result in results]}
        options.json.write_text(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
