"""A network of its own for nodes, whose wires can be cut: namespaces, veth pairs and a bridge.

Each machine is a network namespace with one wire to a bridge, which stands in a
namespace as well; one more wire leads to who runs the tests. A namespace lives as
long as the process in it, and takes its wires with it, so nothing is left behind,
whatever becomes of the tests.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Final

import attrs
import pytest

_PR_SET_PDEATHSIG: Final = 1
_START_S: Final = 10.0
#: An address of Ethernet that nobody has: what is sent there is lost without a word.
_NOBODY: Final = "02:00:00:00:00:99"
_libc = ctypes.CDLL(None)


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _run(*command: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert result.returncode == 0, f"{' '.join(command)}: {result.stderr or result.stdout}"


@attrs.define(eq=False)
class Namespace:
    """A network namespace, and the process that keeps it."""

    _holder: subprocess.Popen[bytes]

    @classmethod
    def make(cls) -> Namespace:
        holder = subprocess.Popen(
            ["unshare", "--net", "sleep", "infinity"], preexec_fn=_die_with_parent
        )
        made = cls(holder)
        ours = os.readlink("/proc/self/ns/net")
        deadline = time.monotonic() + _START_S
        while os.readlink(f"/proc/{holder.pid}/ns/net") == ours:
            assert holder.poll() is None, "unshare: no network namespace"
            assert time.monotonic() < deadline
            time.sleep(0.002)
        made.run("ip", "link", "set", "lo", "up")
        return made

    @property
    def pid(self) -> int:
        return self._holder.pid

    def inside(self, *command: str) -> list[str]:
        """Return what starts ``command`` in it, as a process of the same id."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--", *command]

    def run(self, *command: str) -> None:
        _run(*self.inside(*command))

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()


@attrs.define(eq=False)
class Machine:
    """A namespace with a wire to all others."""

    name: str
    address: str
    namespace: Namespace

    def _lose(self, other: Machine) -> None:
        self.namespace.run(
            *("ip", "neigh", "replace", other.address, "lladdr", _NOBODY),
            *("dev", "wire", "nud", "permanent"),
        )

    def _find(self, other: Machine) -> None:
        self.namespace.run("ip", "neigh", "del", other.address, "dev", "wire")


@attrs.define(eq=False)
class Network:
    """Machines by name."""

    machines: dict[str, Machine]
    _cuts: set[frozenset[str]] = attrs.field(factory=set)

    def __getitem__(self, name: str) -> Machine:
        return self.machines[name]

    def cut(self, name: str, *others: str) -> None:
        """Let nothing through any more between a machine and others, in either direction.

        What is sent is lost: no reset, no error, as with a cable that is pulled
        somewhere on the way. Who runs the tests still reaches all.
        """
        for other in others:
            self._cuts.add(frozenset((name, other)))
            self[name]._lose(self[other])
            self[other]._lose(self[name])

    def heal(self) -> None:
        """Mend all cuts."""
        while self._cuts:
            one, other = self._cuts.pop()
            self[one]._find(self[other])
            self[other]._find(self[one])


@contextlib.contextmanager
def wired(*names: str) -> Iterator[Network]:
    """Make a network; it is gone when the block is left.

    Needs root, in its own user namespace at least.
    """
    if os.geteuid() != 0:
        pytest.fail(
            "network namespaces need root: run the tests as root, or these alone by "
            "`unshare -Urn python -m pytest tests/cluster/test_cut_off.py`"
        )
    for program in ("ip", "unshare", "nsenter"):
        if shutil.which(program) is None:
            pytest.fail(f"{program} is missing; `make test` installs it")
    # Several may run these tests on one machine.
    # Addresses that are set aside for trying out networks (RFC 2544).
    net, tag = f"198.{random.choice((18, 19))}.{random.randrange(256)}", f"{os.getpid() % 100000}"
    with contextlib.ExitStack() as stack:

        def namespace() -> Namespace:
            made = Namespace.make()
            stack.callback(made.close)
            return made

        def plug(name: str, where: int, end: str) -> None:
            """Lay a wire from the bridge to a namespace, by a process in it."""
            hub.run(
                *("ip", "link", "add", "name", name, "type", "veth"),
                *("peer", "name", end, "netns", str(where)),
            )
            hub.run("ip", "link", "set", "dev", name, "master", "bridge", "up")

        hub = namespace()
        hub.run("ip", "link", "add", "bridge", "type", "bridge")
        hub.run("ip", "link", "set", "bridge", "up")
        ours = f"tests{tag}"
        plug("to-tests", os.getpid(), ours)
        _run("ip", "addr", "add", f"{net}.1/24", "dev", ours)
        _run("ip", "link", "set", ours, "up")
        network = Network({})
        for i, name in enumerate(names):
            machine = Machine(name, f"{net}.{10 + i}", namespace())
            plug(f"to-{name}", machine.namespace.pid, "wire")
            machine.namespace.run("ip", "addr", "add", f"{machine.address}/24", "dev", "wire")
            machine.namespace.run("ip", "link", "set", "wire", "up")
            network.machines[name] = machine
        yield network
        # The wire to us goes with the bridge's namespace, in the kernel's own time.
