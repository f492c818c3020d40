"""Every operation against every role, in all three modes, over real connections.

To add an operation: a line in `OPERATIONS` and a line in `TABLE`. To add a
role: a branch in `Scene.enter` and a column. A cell is None where the request
is carried out, the code of its ERROR, or of the CLOSE where the connection is
already gone.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
import trio

from tests.accounts.cheap import CHEAP, cheap_hasher
from tests.net.rawclient import HELLO, TOKEN, RawClient, frame
from tests.net.running import Running, running_server
from tim_trio.accounts.authenticator import StoreAuthenticator
from tim_trio.accounts.relations import StoreRelations
from tim_trio.accounts.store import AccountState, Store, default_database_url
from tim_trio.accounts.tokens import KeyFile, TokenAuthenticator, make_token
from tim_trio.core.accounts import Authenticator, OpenAuthenticator
from tim_trio.errors import Code
from tim_trio.limits import Limits
from tim_trio.protocol import messages
from tim_trio.protocol.messages import AuthMethod, AuthMode, ContactAction
from tim_trio.protocol.stream import StreamFrame

PASSWORD: Final = b"correct horse"
OPEN, ACCOUNTS, SIGNED = AuthMode.OPEN, AuthMode.ACCOUNTS, AuthMode.TOKEN
NO_LIMITS: Final = Limits(logins_per_minute_per_address=1e6, logins_per_minute_per_account=1e6)

ROLES: Final = (
    *("creator", "granted", "revoked", "subscriber", "stranger", "operator"),
    *("blocked", "contact", "expired", "disabled", "unauthenticated"),
)
#: What a mode does not know: nobody's rights end in open mode, tokens only expire.
ABSENT: Final = {(OPEN, "expired"), (OPEN, "disabled"), (SIGNED, "disabled")}


@attrs.frozen
class Place:
    """Where an operation happens: a room of alice's, in which she publishes source 1."""

    room: int
    account: str


Operation = Callable[[Place], object]

OPERATIONS: Final[dict[str, Operation]] = {
    "ping": lambda at: messages.Ping(stamp=1),
    "register room": lambda at: messages.RegisterRoom(
        mode=messages.RoomMode.LIVE, gather_ms=0, idle_timeout_s=0
    ),
    "remove room": lambda at: messages.RemoveRoom(room=at.room),
    "grant": lambda at: messages.Grant(room=at.room, account="zoe"),
    "revoke": lambda at: messages.Revoke(room=at.room, account="granted"),
    "subscribe": lambda at: messages.Subscribe(
        room=at.room, start=messages.StartFrom.GROUP, credit=0
    ),
    "unsubscribe": lambda at: messages.Unsubscribe(room=at.room),
    "publish": lambda at: messages.Publish(room=at.room, token=b"another token 16"),
    "take over": lambda at: messages.Publish(room=at.room, token=TOKEN),
    "unpublish": lambda at: messages.Unpublish(room=at.room, source=1),
    "room info": lambda at: messages.GetRoomInfo(room=at.room),
    "list mine": lambda at: messages.ListRooms(scope=messages.ListScope.MINE, after=0, limit=0),
    "list all": lambda at: messages.ListRooms(scope=messages.ListScope.ALL, after=0, limit=0),
    "ask to push": lambda at: messages.AskToPush(room=at.room, message=""),
    "stream frame": lambda at: frame(at.room, 0, source=99),
    "register account": lambda at: messages.RegisterAccount(
        account=f"new-{time.monotonic_ns()}", password=PASSWORD, invitation=b""
    ),
    "change password": lambda at: messages.ChangePassword(old=PASSWORD, new=PASSWORD),
}

YES: Final = None
DENIED, GRANTED, NO_SOURCE = Code.PERMISSION_DENIED, Code.ALREADY_GRANTED, Code.NO_SUCH_SOURCE
NOT_IN, IN, ANOTHERS = Code.NOT_SUBSCRIBED, Code.ALREADY_SUBSCRIBED, Code.TOKEN_IN_USE
FOREIGN, NEVER = Code.FOREIGN_SOURCE, Code.NOT_SUPPORTED

# fmt: off
TABLE: Final[dict[str, tuple[Code | None, ...]]] = {
    #                creator    granted    revoked    subscriber stranger   operator
    "ping":             (YES,       YES,       YES,       YES,       YES,       YES),
    "register room":    (YES,       YES,       YES,       YES,       YES,       YES),
    "remove room":      (YES,       DENIED,    DENIED,    DENIED,    DENIED,    DENIED),
    "grant":            (YES,       DENIED,    DENIED,    DENIED,    DENIED,    DENIED),
    "revoke":           (YES,       DENIED,    DENIED,    DENIED,    DENIED,    DENIED),
    "subscribe":        (YES,       YES,       YES,       IN,        YES,       YES),
    "unsubscribe":      (NOT_IN,    NOT_IN,    NOT_IN,    YES,       NOT_IN,    NOT_IN),
    "publish":          (YES,       YES,       DENIED,    DENIED,    DENIED,    DENIED),
    "take over":        (YES,       ANOTHERS,  DENIED,    DENIED,    DENIED,    DENIED),
    "unpublish":        (NO_SOURCE, NO_SOURCE, NO_SOURCE, NO_SOURCE, NO_SOURCE, NO_SOURCE),
    "room info":        (YES,       YES,       YES,       YES,       YES,       YES),
    "list mine":        (YES,       YES,       YES,       YES,       YES,       YES),
    "list all":         (DENIED,    DENIED,    DENIED,    DENIED,    DENIED,    YES),
    "ask to push":      (GRANTED,   GRANTED,   YES,       YES,       YES,       YES),
    "stream frame":     (FOREIGN,   FOREIGN,   FOREIGN,   FOREIGN,   FOREIGN,   FOREIGN),
    "register account": (NEVER,     NEVER,     NEVER,     NEVER,     NEVER,     NEVER),
    "change password":  (NEVER,     NEVER,     NEVER,     NEVER,     NEVER,     NEVER),
}
# fmt: on


def expected(mode: AuthMode, role: str, operation: str) -> Code | None:
    if role == "expired":
        return Code.EXPIRED
    if role == "disabled":
        return Code.DISABLED
    if role == "unauthenticated":
        match operation:
            case "ping":
                return YES
            case "stream frame":
                return Code.PROTOCOL_ERROR
            case "register account":
                return YES if mode is ACCOUNTS else NEVER
            case _:
                return Code.NOT_AUTHENTICATED
    if mode is ACCOUNTS and operation in ("register account", "change password"):
        return YES
    if mode is OPEN and operation == "list all":
        return YES  # from loopback everybody is an operator
    # In a room a block or a contact changes nothing.
    column = "stranger" if role in ("blocked", "contact") else role
    return TABLE[operation][ROLES.index(column)]


@attrs.define
class Scene:
    """A server of one mode, and alice, whose rooms things happen in."""

    mode: AuthMode
    running: Running
    store: Store | None = None
    key_file: KeyFile | None = None
    session_lifetime_s: Callable[[float], None] | None = None
    alice: RawClient = attrs.field(init=False)

    async def sign_in(self, account: str, *, expires_in_s: float = 3600.0) -> RawClient:
        client = await self.running.connect(None)
        await client.request(HELLO, messages.Welcome)
        method, secret = AuthMethod.NAME, b""
        if self.mode is ACCOUNTS:
            method, secret = AuthMethod.PASSWORD, PASSWORD
            assert self.session_lifetime_s is not None
            self.session_lifetime_s(expires_in_s)
        elif self.mode is SIGNED:
            assert self.key_file is not None
            method = AuthMethod.SIGNED_TOKEN
            claims: dict[str, Any] = {
                "sub": account,
                # Counted from when the server's patience is over.
                "exp": time.time() + expires_in_s - (5 if expires_in_s < 5 else 0),
            }
            if account == "operator":
                claims["tim"] = {"operator": True}
            secret = make_token(self.key_file.key, claims).encode()
        request = messages.Authenticate(method=method, account=account, secret=secret, device="")
        await client.request(request, messages.AuthenticateAnswer)
        return client

    async def place(self) -> Place:
        room = await self.alice.register()
        await self.alice.publish(room)
        await self.alice.request(messages.Grant(room=room, account="granted"), messages.GrantAnswer)
        return Place(room, "alice")

    async def enter(self, role: str, at: Place) -> RawClient:
        """Return a connection in a role."""
        match role:
            case "unauthenticated":
                client = await self.running.connect(None)
                await client.request(HELLO, messages.Welcome)
            case "creator":
                client = await self.sign_in("alice")
            case "expired":
                # JWT counts in whole seconds.
                client = await self.sign_in(role, expires_in_s=2 if self.mode is SIGNED else 0.3)
            case _:
                client = await self.sign_in(role)
        match role:
            case "revoked":
                for change, answer in (
                    (messages.Grant, messages.GrantAnswer),
                    (messages.Revoke, messages.RevokeAnswer),
                ):
                    request = change(room=at.room, account=role)
                    await self.alice.request(request, answer)
            case "subscriber":
                await client.subscribe(at.room)
            case "blocked" | "contact" if self.store is not None:
                relations = StoreRelations(self.store)
                if role == "blocked":
                    await relations.contact("alice", ContactAction.BLOCK, role)
                else:
                    await relations.contact("alice", ContactAction.ASK, role)
                    await relations.contact(role, ContactAction.ACCEPT, "alice")
            case "disabled":
                assert self.store is not None
                set_state = self.store.set_state
                await trio.to_thread.run_sync(set_state, role, AccountState.DISABLED)
        return client


@asynccontextmanager
async def scene(mode: AuthMode, tmp_path: Path) -> AsyncIterator[Scene]:
    store: Store | None = None
    key_file: KeyFile | None = None
    set_lifetime: Callable[[float], None] | None = None
    authenticator: Authenticator = OpenAuthenticator()
    if mode is SIGNED:
        path = tmp_path / "key"
        path.write_bytes(b"x" * 32)
        key_file = KeyFile(path)
        authenticator = TokenAuthenticator(key_file, NO_LIMITS)
    elif mode is ACCOUNTS:
        store = Store(default_database_url(tmp_path))
        store.open()
        for name in ("alice", *ROLES):
            store.add_account(name, CHEAP.hash(PASSWORD), operator=name == "operator")
        accounts = StoreAuthenticator(store, NO_LIMITS, registration="open", hasher=cheap_hasher())
        authenticator = accounts

        def set_lifetime(seconds: float) -> None:
            accounts._session_lifetime_s = seconds

    try:
        async with running_server(NO_LIMITS, authenticator=authenticator) as running:
            stage = Scene(mode, running, store, key_file, set_lifetime)
            stage.alice = await stage.sign_in("alice")
            yield stage
            if store is not None:
                # Its pool has opened files that the server is not to be blamed for.
                store.close()
    finally:
        if store is not None:
            store.close()


async def outcome(client: RawClient, request: object) -> Code | None:
    """Send a request, and return the code of its ERROR or of the CLOSE instead."""
    if isinstance(request, StreamFrame):
        await client.send(request)
        return close_code(await client.rest())
    try:
        answer = await client.ask(request)
    except (BrokenPipeError, ConnectionError):
        return close_code(await client.rest())
    if isinstance(answer, messages.Close):
        return close_code([answer])
    return Code(answer.code) if isinstance(answer, messages.Error) else None


def close_code(items: list[object]) -> Code:
    close = items[-1]
    assert isinstance(close, messages.Close)
    return Code(close.code)


@pytest.mark.slow
@pytest.mark.parametrize(
    "mode, role",
    [(mode, role) for mode in AuthMode for role in ROLES if (mode, role) not in ABSENT],
)
async def test_who_may_do_what(mode: AuthMode, role: str, tmp_path: Path) -> None:
    found: dict[str, Code | None] = {}
    wanted = {operation: expected(mode, role, operation) for operation in OPERATIONS}
    async with scene(mode, tmp_path) as stage:
        if role in ("expired", "disabled"):
            # Their connections end by themselves, within a second: for whatever
            # they ask afterwards there is nobody to answer.
            client = await stage.enter(role, await stage.place())
            with trio.fail_after(10):
                code = close_code(await client.rest())
            found = dict.fromkeys(OPERATIONS, code)
        else:
            for operation, make in OPERATIONS.items():
                at = await stage.place()
                client = await stage.enter(role, at)
                found[operation] = await outcome(client, make(at))
                client.close()
    assert found == wanted


def test_the_table_is_whole() -> None:
    assert set(TABLE) == set(OPERATIONS)
    for row in TABLE.values():
        assert len(row) == ROLES.index("operator") + 1
