"""Real PostgreSQL servers on free ports, as an unprivileged user, for tests."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import attrs
import psycopg
import pytest

from tests.cluster.etcd_process import free_ports

_START_S: Final = 30.0
_ROOM_BYTES: Final = 500_000_000
USER: Final = "tim"
PASSWORD: Final = "hunter2 @/:%"
#: Written as in a URL.
QUOTED: Final = "hunter2%20%40%2F%3A%25"


def _program(name: str) -> str:
    # Debian keeps the server's programs of each version in a directory of their own.
    found = [str(path) for path in Path("/usr/lib/postgresql").glob(f"*/bin/{name}")]
    newest = max(found, key=lambda path: int(path.split("/")[4].split(".")[0]), default=None)
    path = newest or shutil.which(name)
    if path is None:
        pytest.fail(f"PostgreSQL's {name} is missing; `make test` installs it")
    return path


def _as_nobody() -> dict[str, Any]:
    """Return what makes a subprocess somebody without rights: PostgreSQL refuses to be root."""
    if os.geteuid():
        return {}
    try:
        user = pwd.getpwnam("postgres")
    except KeyError:
        user = pwd.getpwnam("nobody")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


@attrs.define(eq=False)
class PostgresqlServer:
    """One server process, which may be killed and started again with its data."""

    directory: Path
    port: int
    fsync: bool
    _process: subprocess.Popen[bytes] | None = None

    def url(self, database: str = "postgres", *, schema: str = "") -> str:
        query = f"?options=-csearch_path%3D{schema}" if schema else ""
        return f"postgresql+psycopg://{USER}:{QUOTED}@127.0.0.1:{self.port}/{database}{query}"

    def prepare(self) -> None:
        password = self.directory / "password"
        password.write_text(PASSWORD)
        if not os.geteuid():
            for path in (self.directory, password):
                os.chown(path, _as_nobody()["user"], _as_nobody()["group"])
        command = [_program("initdb"), "-D", str(self.directory / "data"), "--no-sync"]
        command += ["--auth", "scram-sha-256", "--username", USER, "--pwfile", str(password)]
        command += ["--encoding", "UTF8", "--locale", "C.UTF-8", "--no-instructions"]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=self.directory, **_as_nobody()
        )
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        """Start it, and block until it answers."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "fsync": "on" if self.fsync else "off",
            "max_connections": 200,
            "shared_buffers": "16MB",
        }
        command = [_program("postgres"), "-D", str(self.directory / "data")]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.directory, **_as_nobody()
            )
        deadline = time.monotonic() + _START_S
        while True:
            with contextlib.suppress(psycopg.OperationalError), self.connect():
                return
            assert time.monotonic() < deadline, (self.directory / "log").read_text()[-3000:]
            time.sleep(0.02)

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user=USER,
            password=PASSWORD,
            dbname="postgres",
            connect_timeout=5,
            autocommit=True,
        )

    def execute(self, statement: str) -> None:
        with self.connect() as connection:
            connection.execute(statement.encode())

    @contextlib.contextmanager
    def schema(self, name: str) -> Iterator[str]:
        """Give the URL of an empty schema."""
        self.execute(f"CREATE SCHEMA {name}")
        yield self.url(schema=name)
        self.execute(f"DROP SCHEMA {name} CASCADE")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def processes(self) -> list[int]:
        """Return its own pid and those of its children."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [self.pid, *map(int, children.split())]

    def signal(self, number: int) -> None:
        """Send a signal to all of its processes."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """End all of its processes as a power cut would. Idempotent."""
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def running_postgresql(*, fsync: bool = False) -> Iterator[PostgresqlServer]:
    # In memory where there is room: a server that was killed waits for an fsync of each of
    # its files. Not in pytest's own directory, into which nobody else may look.
    in_memory = Path("/dev/shm")
    has_room = in_memory.is_dir() and shutil.disk_usage(in_memory).free > _ROOM_BYTES
    directory = Path(tempfile.mkdtemp(prefix="tim_trio-", dir=in_memory if has_room else None))
    server = PostgresqlServer(directory, free_ports(1)[0], fsync)
    try:
        server.prepare()
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(directory)
