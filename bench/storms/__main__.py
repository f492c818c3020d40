"""``python -m bench.storms``: streams beside a rush of logins, and beside attacks.

Each round of a scene starts two servers and lets bystanders stream through the
first: for a while alone (*calm*), beside the rush or the attack on the second
server, which nobody else uses (*control*), and beside the same on their own
(*storm*). Attacker, bystanders and servers share this machine's cores: what the
control shows is what an attack takes from everybody's cores, what the storm
shows beyond it is what it does to the server. Rounds take control and storm in
turns first; what is shown are medians of the rounds.

* ``login``: 200 password attempts a second, argon2 at its library's
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
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from attrs import Factory, asdict, frozen

from bench.processes import BenchError, cpu_seconds, raise_open_files, running
from bench.storms.attack import ACCOUNT, PASSWORD
from bench.storms.stream import Plan
from tim_trio.accounts.passwords import PasswordHasher
from tim_trio.accounts.store import Store, default_database_url

ROOT = Path(__file__).resolve().parents[2]
OPEN_FILES = 20_000
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
    #: Of the server, beside those of the kind of scene.
    settings: Mapping[str, str] = Factory(dict)


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


PHASES = ("calm", "control", "storm")


@frozen(kw_only=True)
class Round:
    """What the bystanders saw in each phase, their server's CPU in cores, and what
    became of the attacks."""

    seen: dict[str, dict[str, Any]]
    cpu: dict[str, float]
    attacks: dict[str, dict[str, Any]]


@frozen(kw_only=True)
class Result:
    """All rounds of a scene."""

    scene: str
    rounds: list[Round]

    def median(self, phase: str, figure: str) -> float:
        """Of the rounds."""
        values: list[float] = [each.seen[phase][figure] for each in self.rounds]
        return round(statistics.median(values), 2)


@frozen(kw_only=True)
class Served:
    """A server: the port of its bystanders, the port that is attacked, its process."""

    port: int
    storm_port: int
    pid: int


@contextmanager
def serving(scene: Scene, folder: Path, program: Sequence[str] = ("tim_trio",)) -> Iterator[Served]:
    """A server for the scene."""
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
    for key, value in {**settings, **scene.settings}.items():
        options += ["--set", f"{key}={value}"]
    with (
        (folder / "log").open("wb") as log,
        running(
            (sys.executable, "-m", *program, "serve", *options),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=log,
        ) as process,
    ):
        ports = [_port(process) for _ in range(1 + scene.tls)]
        yield Served(port=ports[0], storm_port=ports[-1], pid=process.pid)


def line_of(process: "subprocess.Popen[bytes]") -> str:
    """The next line that a process prints."""
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
    found = re.fullmatch(r"listening \S+ 127\.0\.0\.1:(\d+)", line_of(process))
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
    scene: Scene,
    *,
    calm_s: float,
    storm_s: float,
    rounds: int = 1,
    with_control: bool = True,
    watchers: int = 200,
    rate: float = 30.0,
) -> Result:
    """Run one scene.

    Raises:
        BenchError: something did not start, or the bystanders were cut off.
    """
    found = []
    for number in range(rounds):
        # Anew each time: a server remembers who has used up its rates.
        attacked = ["storm", "control"] if number % 2 else ["control", "storm"]
        if not with_control:
            attacked = ["storm"]
        found.append(_run_round(scene, attacked, calm_s, storm_s, watchers, rate))
    return Result(scene=scene.name, rounds=found)


def _run_round(
    scene: Scene,
    attacked: Sequence[str],
    calm_s: float,
    storm_s: float,
    watchers: int,
    rate: float,
) -> Round:
    with ExitStack() as stack:
        servers = {}
        tokens: tuple[str, ...] = ()
        for phase in sorted(attacked):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tim-storm-")))
            if scene.accounts:
                # In the end those of the bystanders' own server.
                tokens = make_accounts(folder, watchers + 2)
            servers[phase] = stack.enter_context(serving(scene, folder))
        own = servers["storm"]
        plan = Plan(port=own.port, watchers=watchers, rate=rate, tokens=tokens)
        bystanders = stack.enter_context(
            running(
                (sys.executable, "-m", "bench.storms.stream", plan.to_json()),
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=None,
            )
        )
        if line_of(bystanders) != "ready":
            raise BenchError("the bystanders did not begin")
        time.sleep(min(1.0, calm_s))
        seen, cpu, attacks = {}, {}, {}
        for phase in ("calm", *attacked):
            _ask(bystanders)  # what came before does not count
            began, before = time.monotonic(), cpu_seconds(own.pid)
            if phase == "calm":
                time.sleep(calm_s)
            else:
                attacks[phase] = attack(scene, servers[phase].storm_port, storm_s)
            cpu[phase] = round((cpu_seconds(own.pid) - before) / (time.monotonic() - began), 2)
            seen[phase] = _ask(bystanders)
            time.sleep(min(1.0, calm_s))  # so that the attack's end is no part of what is next
        return Round(seen=seen, cpu=cpu, attacks=attacks)


def attack(scene: Scene, port: int, seconds: float) -> dict[str, Any]:
    """Run a scene's attack on a port, and return what became of it."""
    command = [sys.executable, "-m", "bench.storms.attack", scene.attack]
    command += [str(port), str(seconds), str(scene.amount)]
    prefix = () if scene.accounts else _NICE
    done = subprocess.run((*prefix, *command), cwd=ROOT, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise BenchError(f"the storm ended with {done.returncode}")
    outcome: dict[str, Any] = json.loads(done.stdout)
    return outcome


def _ask(process: "subprocess.Popen[bytes]") -> dict[str, Any]:
    assert process.stdin is not None
    process.stdin.write(b"?\n")
    process.stdin.flush()
    answer: dict[str, Any] = json.loads(line_of(process))
    return answer


def show(result: Result) -> str:
    """The result for a person."""
    lines = [result.scene]
    for each in result.rounds:
        outcome = each.attacks["storm"]
        line = f"  {outcome['outcomes']}, {outcome['seconds']} s"
        if outcome["slowest_answer_s"]:
            line += f", slowest answer {outcome['slowest_answer_s']} s"
        lines.append(line)
    lines.append(f"  {'':20}{'calm':>10}{'control':>10}{'storm':>10}{'storm - control':>18}")
    for name in ("frame", "ping", "join"):
        for label in ("p50", "p99", "max"):
            calm, control, storm = (result.median(phase, f"{name}_{label}_ms") for phase in PHASES)
            what = f"{name} {label}, ms"
            lines.append(f"  {what:20}{calm:10}{control:10}{storm:10}{storm - control:18.2f}")
    cores = [statistics.median(each.cpu[phase] for each in result.rounds) for phase in PHASES]
    lines.append(f"  {'server CPU, cores':20}" + "".join(f"{value:10}" for value in cores))
    lost: Counter[str] = Counter()
    for each in result.rounds:
        for seen in each.seen.values():
            lost.update(seen["lost"])
    lines.append(f"  lost by bystanders: {dict(lost) or 'nothing'}")
    return "\n".join(lines)


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m bench.storms", description=__doc__)
    parser.add_argument("scenes", nargs="*", metavar="SCENE", help=", ".join(SCENES))
    parser.add_argument("--calm", type=float, default=4.0, help="seconds without an attack")
    parser.add_argument("--storm", type=float, default=8.0, help="seconds of each attack")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    unknown = [name for name in options.scenes if name not in SCENES]
    if unknown:
        parser.error(f"no scene {unknown[0]!r}; there are: {', '.join(SCENES)}")
    raise_open_files(OPEN_FILES)
    results = []
    for name in options.scenes or SCENES:
        try:
            result = run_scene(
                SCENES[name],
                calm_s=options.calm,
                storm_s=options.storm,
                rounds=options.rounds,
            )
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
