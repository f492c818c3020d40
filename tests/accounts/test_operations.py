"""Every operation against every role, in all three modes, over real connections.

To add an operation: a line in `OPERATIONS` and a line in `TABLE`. To add a
role: a branch in `Scene.enter` and a column. A cell is what comes of it: None
where the request is carried out (or the state and status that its answer
tells), the code of its ERROR, or of the CLOSE where the connection is ended.
"""

from __future__ import annotations

import struct
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
from tim_trio.core.relations import MemoryRelations, Relations
from tim_trio.core.session import _ONE_WAY
from tim_trio.errors import Code
from tim_trio.limits import Limits
from tim_trio.protocol import messages
from tim_trio.protocol.messages import (
    AuthMethod,
    AuthMode,
    BanKind,
    ContactAction,
    ContactState,
    DeliveryStatus,
)
from tim_trio.protocol.stream import StreamFrame

PASSWORD: Final = b"correct horse"
OPEN, ACCOUNTS, SIGNED = AuthMode.OPEN, AuthMode.ACCOUNTS, AuthMode.TOKEN
NO_LIMITS: Final = Limits(
    logins_per_minute_per_address=1e6,
    logins_per_minute_per_account=1e6,
    commands_per_s=1e6,
    max_devices_per_account=1000,
)

#: In a room of alice's: she made it, she lets this one push, she did, … And to
#: alice and hermit as accounts: both block `blocked`, both are contacts of `contact`.
ROLES: Final = (
    *("creator", "granted", "revoked", "subscriber", "stranger", "operator"),
    *("blocked", "contact", "expired", "disabled", "banned", "unauthenticated"),
)
#: What a mode does not know: nobody's time ends in open mode, and the operator of the
#: other two modes' accounts is somebody else, who disables them there.
ABSENT: Final = {(OPEN, "expired"), (OPEN, "disabled"), (SIGNED, "disabled")}
#: Others there: hermit takes messages of contacts alone, mallory is banned again and again.
OTHERS: Final = ("alice", "hermit", "mallory", "zoe")


@attrs.frozen
class Place:
    """Where an operation happens: a room of alice's, in which she publishes source 1."""

    room: int


Operation = Callable[[Place], object]
#: What comes of an operation.
Outcome = Code | ContactState | DeliveryStatus | None


def _contact(action: ContactAction) -> Operation:
    return lambda at: messages.Contact(action=action, account="hermit")


def _send_to(account: str) -> Operation:
    return lambda at: messages.AccountSend(receivers=[account], kind=300, payload=b"x")


OPERATIONS: Final[dict[str, Operation]] = {
    "hello again": lambda at: HELLO,
    "sign in again": lambda at: messages.Authenticate(
        method=AuthMethod.NAME, account="zoe", secret=b"", device=""
    ),
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
    "credit": lambda at: messages.Credit(room=at.room, source=1, limit=2**40),
    "stream frame": lambda at: frame(at.room, 0, source=99),
    "node figures": lambda at: messages.NodeFigures(node=""),
    "room figures": lambda at: messages.RoomFigures(node="", after=0, limit=0),
    "subscriber figures": lambda at: messages.SubscriberFigures(node="", room=at.room, limit=0),
    "ban room": lambda at: messages.Ban(kind=BanKind.ROOM, room=at.room, account="", reason=""),
    "ban account": lambda at: messages.Ban(
        kind=BanKind.ACCOUNT, room=0, account="mallory", reason=""
    ),
    "send to alice": _send_to("alice"),
    "send to hermit": _send_to("hermit"),
    "send to zoe": _send_to("zoe"),
    "send to nobody": _send_to("no body"),
    "contact ask": _contact(ContactAction.ASK),
    "contact accept": _contact(ContactAction.ACCEPT),
    "contact decline": _contact(ContactAction.DECLINE),
    "contact remove": _contact(ContactAction.REMOVE),
    "contact block": _contact(ContactAction.BLOCK),
    "contact unblock": _contact(ContactAction.UNBLOCK),
    "list contacts": lambda at: messages.ListContacts(after="", limit=0),
    "set policy": lambda at: messages.SetPolicy(policy=messages.Policy.ANYONE),
    "get policy": lambda at: messages.GetPolicy(),
    "register account": lambda at: messages.RegisterAccount(
        account=f"new-{time.monotonic_ns()}", password=PASSWORD, invitation=b""
    ),
    "link": lambda at: messages.Link(node="n", incarnation=1),
    "link subscribe": lambda at: messages.LinkSubscribe(room=at.room, credit=0, path=[]),
    "link path": lambda at: messages.LinkPath(room=at.room, path=[]),
    "link viewers": lambda at: messages.LinkViewers(room=at.room, viewers=1),
    "link source": lambda at: messages.LinkSource(
        room=at.room, source=1, account="alice", node="n", epoch=0, tracks=[]
    ),
    "link invite": lambda at: messages.LinkInvite(room=at.room, warm=True),
    "link expelled": lambda at: messages.LinkExpelled(incarnation=1),
    "forward": lambda at: messages.Forward(account="alice", rights=0, frame=b""),
    # The last, for it signs all other devices of the account out.
    "change password": lambda at: messages.ChangePassword(old=PASSWORD, new=PASSWORD),
}

YES: Final = None
DENIED, GRANTED, NO_SOURCE = Code.PERMISSION_DENIED, Code.ALREADY_GRANTED, Code.NO_SUCH_SOURCE
NOT_IN, IN, ANOTHERS = Code.NOT_SUBSCRIBED, Code.ALREADY_SUBSCRIBED, Code.TOKEN_IN_USE
FOREIGN, NEVER, BAD, BROKEN = (
    *(Code.FOREIGN_SOURCE, Code.NOT_SUPPORTED, Code.BAD_REQUEST, Code.PROTOCOL_ERROR),
)
TAKEN, AWAY, REFUSED, UNKNOWN = (
    *(DeliveryStatus.DELIVERED, DeliveryStatus.OFFLINE, DeliveryStatus.REFUSED),
    DeliveryStatus.UNKNOWN,
)
NONE, ASKED, FRIENDS, BLOCKED = (
    *(ContactState.NONE, ContactState.ASKED_BY_ME, ContactState.CONTACT),
    ContactState.BLOCKED_BY_ME,
)

# fmt: off
#: What a room is asked. To a room a block or a contact makes no difference.
ROOM_TABLE: Final[dict[str, tuple[Outcome, ...]]] = {
    #                creator    granted    revoked    subscriber stranger   operator
    "hello again":      (BROKEN,    BROKEN,    BROKEN,    BROKEN,    BROKEN,    BROKEN),
    "sign in again":    (BAD,       BAD,       BAD,       BAD,       BAD,       BAD),
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
    "credit":           (YES,       YES,       YES,       YES,       YES,       YES),
    "stream frame":     (FOREIGN,   FOREIGN,   FOREIGN,   FOREIGN,   FOREIGN,   FOREIGN),
    "node figures":     (DENIED,    DENIED,    DENIED,    DENIED,    DENIED,    YES),
    "room figures":     (DENIED,    DENIED,    DENIED,    DENIED,    DENIED,    YES),
    "subscriber figures": (YES,     DENIED,    DENIED,    DENIED,    DENIED,    YES),
    "ban room":         (DENIED,    DENIED,    DENIED,    DENIED,    DENIED,    YES),
    "ban account":      (DENIED,    DENIED,    DENIED,    DENIED,    DENIED,    YES),
    "register account": (NEVER,     NEVER,     NEVER,     NEVER,     NEVER,     NEVER),
    "change password":  (NEVER,     NEVER,     NEVER,     NEVER,     NEVER,     NEVER),
    "link":             (NEVER,     NEVER,     NEVER,     NEVER,     NEVER,     NEVER),
    "link subscribe":   (NEVER,     NEVER,     NEVER,     NEVER,     NEVER,     NEVER),
    "link path":        (NEVER,     NEVER,     NEVER,     NEVER,     NEVER,     NEVER),
    "link viewers":     (NEVER,     NEVER,     NEVER,     NEVER,     NEVER,     NEVER),
    "link source":      (NEVER,     NEVER,     NEVER,     NEVER,     NEVER,     NEVER),
    "link invite":      (NEVER,     NEVER,     NEVER,     NEVER,     NEVER,     NEVER),
    "link expelled":    (NEVER,     NEVER,     NEVER,     NEVER,     NEVER,     NEVER),
    "forward":          (NEVER,     NEVER,     NEVER,     NEVER,     NEVER,     NEVER),
}
#: What accounts are asked. To an account, what one may do in a room makes no difference.
ACCOUNT_TABLE: Final[dict[str, tuple[Outcome, ...]]] = {
    #                stranger  blocked   contact
    "send to alice":    (TAKEN,    AWAY,     TAKEN),
    "send to hermit":   (REFUSED,  REFUSED,  TAKEN),
    "send to zoe":      (AWAY,     AWAY,     AWAY),
    "send to nobody":   (UNKNOWN,  UNKNOWN,  UNKNOWN),
    "contact ask":      (ASKED,    ASKED,    FRIENDS),
    "contact accept":   (NONE,     NONE,     FRIENDS),
    "contact decline":  (NONE,     NONE,     NONE),
    "contact remove":   (NONE,     NONE,     NONE),
    "contact block":    (BLOCKED,  BLOCKED,  BLOCKED),
    "contact unblock":  (NONE,     NONE,     FRIENDS),
    "list contacts":    (YES,      YES,      YES),
    "set policy":       (YES,      YES,      YES),
    "get policy":       (YES,      YES,      YES),
}
# fmt: on
OPERATORS: Final = {
    *("list all", "ban room", "ban account"),
    *("node figures", "room figures", "subscriber figures"),
}
IN_ROOMS: Final = ROLES[: ROLES.index("operator") + 1]
AMONG_ACCOUNTS: Final = ("stranger", "blocked", "contact")
#: Whose connection is ended, and by what.
ENDED: Final = {"expired": Code.EXPIRED, "disabled": Code.DISABLED, "banned": Code.BANNED}


def expected(mode: AuthMode, role: str, operation: str) -> Outcome:
    if role in ENDED:
        return ENDED[role]
    if role == "unauthenticated":
        return expected_of_nobody(mode, operation)
    if mode is ACCOUNTS and operation in ("register account", "change password"):
        return YES
    if mode is OPEN and operation in OPERATORS:
        return YES  # from loopback everybody is an operator
    if operation in ACCOUNT_TABLE:
        column = role if role in AMONG_ACCOUNTS else "stranger"
        return ACCOUNT_TABLE[operation][AMONG_ACCOUNTS.index(column)]
    if operation == "ask to push" and role == "blocked":
        return Code.CREATOR_ABSENT  # not to be told from it
    column = role if role in IN_ROOMS else "stranger"
    return ROOM_TABLE[operation][IN_ROOMS.index(column)]


def expected_of_nobody(mode: AuthMode, operation: str) -> Outcome:
    match operation:
        case "ping":
            return YES
        case "hello again" | "stream frame":
            return Code.PROTOCOL_ERROR
        case "sign in again":  # for the first time, by name alone
            return YES if mode is OPEN else NEVER
        case "register account":
            return YES if mode is ACCOUNTS else NEVER
        case _:
            return Code.NOT_AUTHENTICATED


@attrs.define
class Scene:
    """A server of one mode; alice, whose rooms things happen in, and the others."""

    mode: AuthMode
    running: Running
    store: Store | None = None
    key_file: KeyFile | None = None
    session_lifetime_s: Callable[[float], None] | None = None
    alice: RawClient = attrs.field(init=False)
    hermit: RawClient = attrs.field(init=False)
    operator: RawClient = attrs.field(init=False)

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
        return Place(room)

    async def enter(self, role: str, at: Place) -> RawClient:
        """Return a connection in a role."""
        match role:
            case "unauthenticated":
                client = await self.running.connect(None)
                await client.request(HELLO, messages.Welcome)
                return client
            case "creator":
                client = await self.sign_in("alice")
            case "expired":
                # JWT counts in whole seconds.
                client = await self.sign_in(role, expires_in_s=2 if self.mode is SIGNED else 0.3)
            case _:
                client = await self.sign_in(role)
        await self.relate(role, client)
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
            case "disabled":
                assert self.store is not None
                set_state = self.store.set_state
                await trio.to_thread.run_sync(set_state, role, AccountState.DISABLED)
            case "banned":
                ban = messages.Ban(kind=BanKind.ACCOUNT, room=0, account=role, reason="")
                await self.operator.request(ban, messages.BanAnswer)
        return client

    async def relate(self, role: str, client: RawClient) -> None:
        """Make alice and hermit to a role what they are to be, whatever was before."""
        account = "alice" if role == "creator" else role
        for name, other in (("alice", self.alice), ("hermit", self.hermit)):
            if name == account:
                continue
            acts = [
                (client, ContactAction.UNBLOCK, name),
                (other, ContactAction.UNBLOCK, account),
                (other, ContactAction.REMOVE, account),
            ]
            if role == "blocked":
                acts.append((other, ContactAction.BLOCK, account))
            elif role == "contact":
                acts.append((other, ContactAction.ASK, account))
                acts.append((client, ContactAction.ACCEPT, name))
            for who, action, whom in acts:
                request = messages.Contact(action=action, account=whom)
                await who.request(request, messages.ContactAnswer)


@asynccontextmanager
async def scene(mode: AuthMode, tmp_path: Path) -> AsyncIterator[Scene]:
    store: Store | None = None
    key_file: KeyFile | None = None
    set_lifetime: Callable[[float], None] | None = None
    authenticator: Authenticator = OpenAuthenticator()
    relations: Relations = MemoryRelations()
    if mode is SIGNED:
        path = tmp_path / "key"
        path.write_bytes(b"x" * 32)
        key_file = KeyFile(path)
        authenticator = TokenAuthenticator(key_file, NO_LIMITS)
    elif mode is ACCOUNTS:
        store = Store(default_database_url(tmp_path))
        store.open()
        for name in (*OTHERS, *ROLES):
            store.add_account(name, CHEAP.hash(PASSWORD), operator=name == "operator")
        accounts = StoreAuthenticator(store, NO_LIMITS, registration="open", hasher=cheap_hasher())
        authenticator, relations = accounts, StoreRelations(store)

        def set_lifetime(seconds: float) -> None:
            accounts._session_lifetime_s = seconds

    def close() -> None:
        if store is not None:
            store.close()

    try:
        async with running_server(
            NO_LIMITS, authenticator=authenticator, relations=relations, close=close
        ) as running:
            stage = Scene(mode, running, store, key_file, set_lifetime)
            stage.alice = await stage.sign_in("alice")
            stage.hermit = await stage.sign_in("hermit")
            stage.operator = await stage.sign_in("operator")
            policy = messages.SetPolicy(policy=messages.Policy.CONTACTS)
            await stage.hermit.request(policy, messages.SetPolicyAnswer)
            yield stage
    finally:
        close()


async def outcome(client: RawClient, request: object) -> Outcome:
    """Send a request, and return what comes of it."""
    if isinstance(request, StreamFrame | messages.Hello):
        await client.send(request)
        return close_code(await client.rest())
    if messages.type_of(type(request)) in _ONE_WAY:
        # Answered only where it is refused; what is asked behind it says that it was not.
        await client.send(messages.encode(request))
        await client.ask(messages.Ping(stamp=7))
        refused = [each for each in client.set_aside() if isinstance(each, messages.Error)]
        return Code(refused[0].code) if refused else None
    try:
        answer = await client.ask(request)
    except (BrokenPipeError, ConnectionError):
        return close_code(await client.rest())
    match answer:
        case messages.Close():
            return close_code([answer])
        case messages.Error():
            return Code(answer.code)
        case messages.ContactAnswer():
            return ContactState(answer.state)
        case messages.AccountSendAnswer(deliveries=[delivery]):
            return DeliveryStatus(delivery.status)
        case _:
            return None


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
    found: dict[str, Outcome] = {}
    wanted = {operation: expected(mode, role, operation) for operation in OPERATIONS}
    async with scene(mode, tmp_path) as stage:
        if role in ENDED:
            # Their connections end by themselves, within a second: for whatever
            # they ask afterwards there is nobody to answer.
            client = await stage.enter(role, await stage.place())
            with trio.fail_after(30):
                code = close_code(await client.rest())
            found = dict.fromkeys(OPERATIONS, code)
            await assert_not_let_in_again(stage, role)
        else:
            for operation, make in OPERATIONS.items():
                at = await stage.place()
                client = await stage.enter(role, at)
                found[operation] = await outcome(client, make(at))
                client.close()
    assert found == wanted


async def assert_not_let_in_again(stage: Scene, role: str) -> None:
    """Who was ended by somebody's word stays out; whose time was over signs in anew."""
    if role == "expired":
        await stage.sign_in(role)
        return
    with pytest.raises(AssertionError, match="Error"):
        await stage.sign_in(role)


#: What servers send: an answer that nobody waits for is ignored, an event is an offence.
ANSWERS: Final = sorted(
    messages.type_of(kind) for kind in messages._types if messages.type_of(kind) >= 0x80
)
EVENTS: Final = sorted(
    messages.type_of(kind) for kind in messages._types if 0x60 <= messages.type_of(kind) < 0x80
)


def _control(number: int) -> bytes:
    """Return a control frame of a type, request 9, without fields."""
    return struct.pack(">IBBBBI", 8, number, 0, 0, 0, 9)


@pytest.mark.slow
@pytest.mark.parametrize("mode", AuthMode)
async def test_what_servers_alone_may_send(mode: AuthMode, tmp_path: Path) -> None:
    async with scene(mode, tmp_path) as stage:
        at = await stage.place()
        for role in ("unauthenticated", "stranger", "creator"):
            client = await stage.enter(role, at)
            await client.send(*map(_control, ANSWERS))
            assert await client.is_served()
            client.close()
            for number in EVENTS:
                client = await stage.enter(role, at)
                await client.send(_control(number))
                assert close_code(await client.rest()) is Code.PROTOCOL_ERROR, number
                client.close()


def test_every_message_of_the_protocol_is_sent_here() -> None:
    made = [make(Place(2**63)) for make in OPERATIONS.values()]
    sent = {messages.type_of(type(each)) for each in made if not isinstance(each, StreamFrame)}
    sent |= {*ANSWERS, *EVENTS, messages.type_of(messages.Close)}
    assert sent == {messages.type_of(kind) for kind in messages._types}


def test_the_tables_are_whole() -> None:
    assert {*ROOM_TABLE, *ACCOUNT_TABLE} == set(OPERATIONS)
    assert not ROOM_TABLE.keys() & ACCOUNT_TABLE.keys()
    assert {len(row) for row in ROOM_TABLE.values()} == {len(IN_ROOMS)}
    assert {len(row) for row in ACCOUNT_TABLE.values()} == {len(AMONG_ACCOUNTS)}


def test_every_request_of_the_protocol_is_an_operation() -> None:
    made = {type(make(Place(2**63))) for make in OPERATIONS.values()}
    requests = {kind for kind in messages._types if messages.type_of(kind) < 0x40}
    # CLOSE is what ends every test here.
    assert requests - made == {messages.Close}
    contact = {request.action for request in _made(messages.Contact)}
    assert contact == set(ContactAction)
    assert {request.kind for request in _made(messages.Ban)} == set(BanKind)
    assert {request.scope for request in _made(messages.ListRooms)} == set(messages.ListScope)


def _made(kind: type[Any]) -> list[Any]:
    requests = (make(Place(2**63)) for make in OPERATIONS.values())
    return [request for request in requests if isinstance(request, kind)]
