"""Secrets stay where they belong: in no log, answer, error, metric or process title.

A server and clients, as processes of their own, go through sign-ins and
failures of every kind with secrets that occur nowhere else; then all that was
printed, answered and raised is searched for them, as they are and encoded.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import os
import pkgutil
import re
import secrets
import subprocess
import time
import traceback
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
import trio

import tim_trio
from tests.net.rawclient import HELLO, RawClient
from tests.net.running import eventually
from tests.net.tim import client as tims
from tests.net.tim.client import tim_client
from tests.net.wsclient import WsClient
from tests.test_cli_end_to_end import COMMAND
from tim_trio.accounts.store import Store, default_database_url
from tim_trio.accounts.tokens import claims_for, make_token, read_key
from tim_trio.core.room import Room
from tim_trio.errors import Code
from tim_trio.protocol import messages
from tim_trio.protocol.messages import AuthMethod

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

#: Every process that is started here lives for longer.
_TITLES_INTERVAL_S: Final = 0.05
_DEADLINE_S: Final = 30.0


def new_secret() -> str:
    return f"hush-{secrets.token_hex(12)}"


@attrs.define
class Witness:
    """Sees what anybody may see, and knows what nobody may."""

    heard: list[tuple[str, bytes]] = attrs.Factory(list)
    secrets: dict[str, bytes] = attrs.Factory(dict)
    titles: set[bytes] = attrs.Factory(set)

    def secret(self, what: str, value: str | bytes | None = None) -> str:
        """Return a secret that is not to be seen anywhere, by default a new one."""
        value = new_secret() if value is None else value
        data = value.encode() if isinstance(value, str) else value
        assert data
        self.secrets[what] = data
        return data.decode()

    def hear(self, where: str, text: str | bytes) -> None:
        self.heard.append((where, text.encode() if isinstance(text, str) else text))

    def look_at_titles(self) -> None:
        """Read the command lines of all processes below this one."""
        for directory in Path("/proc").iterdir():
            if directory.name.isdigit():
                try:
                    self.titles.add((directory / "cmdline").read_bytes())
                    self.titles.add((directory / "comm").read_bytes())
                except OSError:
                    pass  # it has ended

    async def watch_titles(self) -> None:
        while True:
            self.look_at_titles()
            await trio.sleep(_TITLES_INTERVAL_S)

    def found(self) -> list[str]:
        """Return which secret was seen where."""
        seen = [*self.heard, *(("process title", title) for title in self.titles)]
        return [
            f"{what} in {where}"
            for what, secret in self.secrets.items()
            for where, data in seen
            if any(form in data for form in forms(secret))
        ]


def forms(secret: bytes) -> set[bytes]:
    """Return what a secret may look like to who prints it."""
    found = {secret, secret.hex().encode(), repr(secret)[2:-1].encode()}
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        # However it stands in what is encoded: without the ends, which depend on it.
        found |= {encode(bytes(shift) + secret)[4:-4] for shift in range(3)}
    return found


def test_the_witness_finds_what_there_is() -> None:
    witness = Witness()
    secret = witness.secret("password").encode()
    for shown in (
        b"password=" + secret,
        b"got " + secret.hex().encode(),
        base64.b64encode(b"alice:" + secret),
        repr({"secret": secret}).encode(),
    ):
        assert Witness([("log", shown)], witness.secrets).found() == ["password in log"]
    assert Witness([("log", b"nothing")], witness.secrets).found() == []
    argument = f"import time; time.sleep(60) # {secret.decode()}"
    with subprocess.Popen([*COMMAND[:1], "-c", argument]) as process:
        # The kernel runs a program a moment before it shows the arguments.
        title = Path(f"/proc/{process.pid}/cmdline")
        until = time.monotonic() + _DEADLINE_S
        while secret not in title.read_bytes() and time.monotonic() < until:
            time.sleep(0.001)
        witness.look_at_titles()
        process.kill()
    assert witness.found() == ["password in process title"]


#: What a field is called that holds a secret, or secrets by name.
_SECRET: Final = re.compile("secret|password|token|pwd|^_?old$|^new$|invitation|issued|_url$")
#: Called so, and none: files that hold one, an audience's name, what is left of a rate.
_NO_SECRET: Final = re.compile("_file$|^token_audience$|^_?tokens$")


def test_no_value_shows_its_secrets() -> None:
    shown = set()
    seen = set()
    for module in pkgutil.walk_packages(tim_trio.__path__, "tim_trio."):
        if module.name.endswith("__main__"):
            continue
        for kind in vars(importlib.import_module(module.name)).values():
            if isinstance(kind, type) and attrs.has(kind):
                for field in attrs.fields(kind):
                    if not _SECRET.search(field.name):
                        continue
                    seen.add(field.name)
                    if field.repr and field.type not in ("float", float):
                        shown.add(field.name)
    assert seen >= {"secret", "password", "session_token", "pwd", "metrics_token", "database_url"}
    assert not {name for name in shown if not _NO_SECRET.search(name)}
    # A room's tokens are for taking its sources over.
    assert not attrs.fields(Room)._tokens.repr


@attrs.define
class Theatre:
    """A server as a process, and what a witness hears of it."""

    witness: Witness
    directory: Path
    env: dict[str, str]
    address: str
    web: str

    def file(self, name: str, secret: str) -> Path:
        path = self.directory / name
        path.write_text(secret)
        return path

    async def command(self, *arguments: object, stdin: str = "", **env: str) -> int:
        """Run a command line; what it prints is heard."""
        done = await trio.run_process(
            [*COMMAND, *map(str, arguments)],
            env={**self.env, **env},
            stdin=stdin.encode(),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
        self.witness.hear(f"output of {arguments[:2]}", done.stdout + done.stderr)
        return done.returncode

    async def fails(self, error: type[Exception], act: Callable[[], Any]) -> None:
        """Do what must raise; the error is heard with all that belongs to it."""
        with pytest.raises(error) as caught:
            async with act():
                raise AssertionError("not reached")
        self.witness.hear("error", repr(caught.value))
        self.witness.hear("traceback", "".join(traceback.format_exception(caught.value)))

    @asynccontextmanager
    async def raw(self) -> AsyncIterator[RawClient]:
        client = await RawClient.connect(int(self.address.rpartition(":")[2]))
        with contextlib.closing(client):
            await client.request(HELLO, messages.Welcome)
            yield client

    async def listen_to_metrics(self) -> None:
        def read() -> bytes:
            with urllib.request.urlopen(f"http://{self.web}/metrics", timeout=10) as answer:
                text: bytes = answer.read()
                return text

        text = await trio.to_thread.run_sync(read)
        assert b"tim_trio_" in text
        self.witness.hear("metrics", text)


@asynccontextmanager
async def theatre(tmp_path: Path, **config: str) -> AsyncIterator[Theatre]:
    """Run a server that logs all it can, and search everything at the end."""
    witness = Witness()
    kept = {name: value for name, value in os.environ.items() if "TIM_TRIO" not in name}
    settings = {f"TIM_TRIO_{name.upper()}": value for name, value in config.items()}
    command = [*COMMAND, "--tcp", "127.0.0.1:0", "--web", "127.0.0.1:0"]
    log = tmp_path / "log"
    with log.open("wb") as errors:
        process = await trio.lowlevel.open_process(
            command,
            env={**kept, **settings, "TIM_TRIO_LOG_LEVEL": "debug"},
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    try:
        assert process.stdout is not None
        output = b""
        with trio.fail_after(20):
            while output.count(b"\n") < 2:
                output += await process.stdout.receive_some()
        by_kind = dict(line.split()[1:3] for line in output.decode().splitlines())
        env = {
            **kept,
            "TIM_TRIO_DATABASE_URL": settings.get("TIM_TRIO_DATABASE_URL", ""),
            "TIM_TRIO_SERVER": f"tim://{by_kind['tcp']}",
        }
        async with trio.open_nursery() as nursery:
            nursery.start_soon(witness.watch_titles)
            stage = Theatre(witness, tmp_path, env, f"tim://{by_kind['tcp']}", by_kind["web"])
            yield stage
            await stage.listen_to_metrics()
            nursery.cancel_scope.cancel()
        process.terminate()
        with trio.fail_after(20):
            while chunk := await process.stdout.receive_some():
                output += chunk
            assert await process.wait() == 0
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
    witness.hear("the server's output", output)
    said = log.read_bytes()
    assert said.count(b"connection ended") > 5
    witness.hear("the server's log", said)
    assert witness.titles
    assert witness.found() == []


def authenticate(method: AuthMethod, account: str, secret: str) -> messages.Authenticate:
    return messages.Authenticate(method=method, account=account, secret=secret.encode(), device="")


async def mischief_over_the_web(stage: Theatre, secret: str) -> None:
    """The same over WebSocket, and in HTTP where none is taken."""
    port = int(stage.web.rpartition(":")[2])
    right = messages.encode(authenticate(AuthMethod.PASSWORD, "alice", secret), 9)
    cut = (len(right) - 4 - 3).to_bytes(4, "big") + right[4:-3]
    for last in (secret.encode(), b"\x00\x00\x00\x40\x99" + secret.encode() * 4, right[:-3]):
        client = await WsClient.connect(port)
        assert isinstance(client, WsClient)
        with contextlib.closing(client):
            await client.open()
            await client.request(HELLO, messages.Welcome)
            await client.send(cut)
            error = await client.expect(messages.Error)
            stage.witness.hear("error of the server's", error.text)
            await client.send(last)
            stage.witness.hear("last words", repr(await client.rest()))
    for request in (
        f"GET /metrics?token={secret} HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: Bearer {secret}\r\n\r\n",
        f"GET /{secret} HTTP/1.1\r\nHost: localhost\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: {secret}.example\r\n\r\n",
        f"GET /ws HTTP/1.1\r\nHost: localhost\r\nOrigin: https://{secret}.example\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: localhost\r\nCookie: {secret}\r\n{secret}\r\n\r\n",
        f"{secret}\r\n\r\n",
        f"POST /tim2 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 24\r\n\r\n{secret[:24]}",
    ):
        client = await WsClient.connect(port)
        assert isinstance(client, WsClient)
        with contextlib.closing(client):
            stage.witness.hear("http", repr(await client.ask_http(request.encode())))


async def mischief(stage: Theatre, secret: str) -> None:
    """Send a secret where none belongs, and in requests that are wrong in every other way."""
    await mischief_over_the_web(stage, secret)
    right = authenticate(AuthMethod.PASSWORD, "alice", secret)
    # Cut off in the middle; of another method; in the wrong place; as a frame of its own.
    whole = messages.encode(right, 9)
    cut = (len(whole) - 4 - 3).to_bytes(4, "big") + whole[4:-3]
    async with stage.raw() as client:
        await client.send(cut)
        error = await client.expect(messages.Error)
        stage.witness.hear("error of the server's", error.text)
        for request in (
            attrs.evolve(right, method=AuthMethod.NODE),
            attrs.evolve(right, method=AuthMethod.NAME),
            attrs.evolve(right, account=secret),
            messages.ChangePassword(old=secret.encode(), new=secret.encode()),
            messages.RegisterAccount(account="a b", password=secret.encode(), invitation=b""),
            messages.RegisterAccount(
                account="alice", password=secret.encode(), invitation=secret.encode()
            ),
        ):
            answer = await client.ask(request)
            assert isinstance(answer, messages.Error)
            stage.witness.hear("error of the server's", answer.text)
        await client.send(b"\x00\x00\x00\x40" + b"\x99" + secret.encode() * 4)
        stage.witness.hear("last words", repr(await client.rest()))


async def as_clients_of_tims(stage: Theatre, right: str, wrong: str) -> None:
    """Sign in, rightly and wrongly, as TIM's own clients do, and send packets that are none."""
    port = int(stage.web.rpartition(":")[2])
    hear = stage.witness.hear
    for form in ("json", "thrift"):
        async with tim_client(port, None, form) as client:
            for kind in (tims.AUTH, tims.TOKEN, tims.REGISTER):
                hear("ack", repr(await client.ask(kind, name="alice", pwd=wrong)))
                hear("ack", repr(await client.ask(kind, name=wrong, pwd=wrong, token=wrong)))
                cut = tims.encode(form, kind, {"name": "alice", "pwd": wrong})[:-2]
                await client.send_raw(cut)
                hear("ack", await client.socket.get_message())
                await client.send_raw(bytes((kind | 0x80,)) + f'{{"{wrong}":["{wrong}"]}}'.encode())
                hear("ack", await client.socket.get_message())
        async with tim_client(port, None, form) as client:
            ack = await client.ask(tims.TOKEN, name="alice", pwd=right)
            token = stage.witness.secret(f"token for once, {form}", ack["n"])
            await client.sign_in("alice", token=token)
            hear("ack", repr(await client.ask(tims.AUTH, name="alice", token=token)))


async def too_often(stage: Theatre, method: AuthMethod, wrong: str) -> None:
    """Try until the server closes, or asks to wait."""
    async with stage.raw() as client:
        answer: object = None
        while not isinstance(answer, messages.Close):
            try:
                answer = await client.ask(authenticate(method, "alice", wrong))
            except AssertionError:
                answer = (await client.rest() or client.set_aside())[-1]
            stage.witness.hear("answer", repr(answer))
            if isinstance(answer, messages.Error) and answer.code == Code.RATE_LIMITED:
                return


def mistaken_settings(directory: Path, secret: str) -> list[tuple[dict[str, str], list[str]]]:
    """Return variables and options with a secret in them, none of which can be used."""

    def file(name: str, text: str) -> str:
        (directory / name).write_text(text)
        return str(directory / name)

    pem = f"-----BEGIN PRIVATE KEY-----\n{secret}\n-----END PRIVATE KEY-----\n"
    with_password = f"postgresql+psycopg://u:{secret}@127.0.0.1"
    accounts = {"AUTH": "accounts"}
    node = {"CLUSTER": "etcd://127.0.0.1:1"}
    return [
        (accounts | {"DATABASE_URL": f"{with_password}:notaport/db"}, []),
        (accounts | {"DATABASE_URL": f"{with_password}:1/db"}, []),
        (accounts | {"DATABASE_URL": secret}, []),
        ({"CLUSTER": f"etcd://u:{secret}@127.0.0.1:1"}, []),
        (node | {"CLUSTER_SECRET_FILE": file("short", secret[:12])}, []),
        ({"AUTH": "token", "TOKEN_KEY_FILE": file("short-key", secret[:20])}, []),
        ({"AUTH": "token", "TOKEN_KEY_FILE": file("bad-key", pem)}, []),
        (
            {
                "TLS": "127.0.0.1:0",
                "TLS_CERT": file("cert", pem.replace("PRIVATE KEY", "CERTIFICATE")),
                "TLS_KEY": file("key", pem),
            },
            [],
        ),
        ({}, ["--config", file("a.toml", f'database_url = "postgresql://u:{secret}@h/d"\nx')]),
        ({}, ["--config", file("c.toml", f'database_url = ["postgresql://u:{secret}@h/d"]')]),
        ({}, ["--config", file("d.toml", f'password = "{secret}"')]),
        ({"PASWORD": secret}, []),
    ]


async def test_settings_that_cannot_be_used(tmp_path: Path) -> None:
    witness = Witness()
    secret = witness.secret("setting")
    witness.secret("half a setting", secret[:12])
    kept = {name: value for name, value in os.environ.items() if "TIM_TRIO" not in name}
    started = trio.Semaphore(2)

    async def start(settings: dict[str, str], options: list[str]) -> None:
        env = {f"TIM_TRIO_{name}": value for name, value in settings.items()}
        async with started:
            with trio.fail_after(100):
                done = await trio.run_process(
                    [*COMMAND, "serve", "--tcp", "127.0.0.1:0", "--no-web", *options],
                    env={**kept, **env, "TIM_TRIO_LOG_LEVEL": "debug"},
                    capture_stdout=True,
                    capture_stderr=True,
                    check=False,
                )
        witness.hear(f"output with {[*settings, *options]}", done.stdout + done.stderr)
        assert done.returncode == 1, (settings, options, done.stderr)
        assert done.stderr.startswith(b"error: ") and done.stderr.count(b"\n") == 1

    async with trio.open_nursery() as watching:
        watching.start_soon(witness.watch_titles)
        async with trio.open_nursery() as nursery:
            for settings, options in mistaken_settings(tmp_path, secret):
                nursery.start_soon(start, settings, options)
        watching.cancel_scope.cancel()
    assert witness.titles
    assert witness.found() == []


async def test_passwords_sessions_and_invitations(tmp_path: Path) -> None:
    url = default_database_url(tmp_path)
    store = Store(url)
    store.open()
    code = store.add_invitation(3600)
    async with theatre(
        tmp_path, auth="accounts", registration="invitation", database_url=url
    ) as stage:
        witness = stage.witness
        invitation = witness.secret("invitation", code)
        password, changed = witness.secret("password"), witness.secret("new password")
        wrong, forged = witness.secret("wrong password"), witness.secret("forged session")
        who = ("--account", "alice")
        # Registered with one line of standard input and the code from the environment.
        assert await stage.command("account", "register", *who, stdin=wrong) == 1
        registered = await stage.command(
            *("account", "register", *who), stdin=password, TIM_TRIO_INVITATION=invitation
        )
        assert registered == 0
        again = await stage.command(
            *("account", "register", "--account", "bob"),
            stdin=password,
            TIM_TRIO_INVITATION=invitation,
        )
        assert again == 1
        # Signed in by file and by variable, rightly and wrongly.
        by_file = ("--password-file", stage.file("password", password))
        assert await stage.command("room", "list", *who, *by_file) == 0
        assert await stage.command("room", "list", *who, TIM_TRIO_PASSWORD=password) == 0
        assert await stage.command("room", "list", *who, TIM_TRIO_PASSWORD=wrong) == 1
        assert await stage.command("room", "list", TIM_TRIO_TOKEN=forged) == 1
        for mistaken in (("--password", wrong), ("--token", wrong)):
            # The user's own doing shows in the title; the error must not repeat it.
            assert await stage.command("room", "list", *mistaken) == 2
        witness.titles = {title for title in witness.titles if wrong.encode() not in title}
        # Through the library: sessions, a push with a token of its own, a change.
        by_password: dict[str, Any] = {"account": "alice", "password": password}
        async with tim_trio.connect(stage.address, **by_password) as client:
            session = witness.secret("session", client.session_token)
            witness.hear("repr", repr(client) + repr(client._credentials))
            token = witness.secret("source token", secrets.token_hex(8)).encode()
            room = await client.register_room()
            async with client.publish(room, token=token) as source:
                await source.send(b"x")
                witness.hear("repr", repr(source))
            with pytest.raises(tim_trio.BadCredentials) as caught:
                await client.change_password(wrong, changed)
            witness.hear("error", "".join(traceback.format_exception(caught.value)))
            await client.change_password(password, changed)
        by_session = ("--token-file", stage.file("session", session))
        assert await stage.command("room", "list", *by_session) == 0
        connect = tim_trio.connect
        for how in (
            by_password,
            {"session_token": forged},
            {"account": "alice", "session_token": forged, "password": wrong},
        ):
            await stage.fails(
                tim_trio.BadCredentials,
                lambda how=how: connect(stage.address, **how),  # type: ignore[misc]
            )
        await stage.fails(tim_trio.RoomError, lambda: connect(stage.address, token=f"{forged}.a.b"))
        await mischief(stage, wrong)
        await as_clients_of_tims(stage, changed, wrong)
        await too_often(stage, AuthMethod.SESSION, forged)
        await too_often(stage, AuthMethod.PASSWORD, wrong)
        # The database is the administrator's alone, and still holds none of them.
        store.close()
        for name in ("accounts.db", "accounts.db-wal"):
            witness.hear(name, (tmp_path / name).read_bytes())


async def test_signed_tokens(tmp_path: Path) -> None:
    witness_key = new_secret() * 2
    key_file = tmp_path / "key"
    key_file.write_text(witness_key)
    async with theatre(tmp_path, auth="token", token_key_file=str(key_file)) as stage:
        witness = stage.witness
        witness.secret("key", witness_key)
        key = read_key(key_file)
        token = witness.secret("token", make_token(key, claims_for("alice", lifetime_s=3600)))
        # What a token says of itself is none; what signs it is.
        signature = witness.secret("signature", token.rpartition(".")[2])
        old = witness.secret("expired", make_token(key, claims_for("alice", lifetime_s=-3600)))
        forged = witness.secret("forged", token[:-20] + secrets.token_urlsafe(15))
        path = stage.file("token", token)
        assert await stage.command("room", "list", "--token-file", path) == 0
        assert await stage.command("room", "list", TIM_TRIO_TOKEN=token) == 0
        assert await stage.command("room", "list", TIM_TRIO_TOKEN=old) == 1
        assert await stage.command("token", "check", "--key", key_file, stdin=token) == 0
        assert await stage.command("token", "check", "--key", key_file, stdin=forged) == 1
        assert await stage.command("token", "check", "--key", path, stdin=signature) == 1
        connect = tim_trio.connect
        async with connect(stage.address, token=token) as client:
            witness.hear("repr", repr(client) + repr(client._credentials))
        for bad in (old, forged, signature):
            await stage.fails(
                tim_trio.BadCredentials,
                lambda bad=bad: connect(stage.address, token=bad),  # type: ignore[misc]
            )

        def broken() -> str:
            raise RuntimeError("no token today")

        await stage.fails(tim_trio.ConnectFailed, lambda: connect(stage.address, token=broken))
        await mischief(stage, forged)
        await too_often(stage, AuthMethod.SIGNED_TOKEN, forged)
        # A key that cannot be used is logged, and not what is in it.
        bad_key = witness.secret("bad key", f"-----BEGIN PUBLIC KEY-----\n{new_secret()}\n")
        key_file.write_text(bad_key)
        os.utime(key_file, (time.time() + 5, time.time() + 5))
        log = tmp_path / "log"
        await eventually(lambda: b"key not usable" in log.read_bytes(), "the key is read")
