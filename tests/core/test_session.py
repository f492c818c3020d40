"""One connection's conversation, from greeting to end, over the real decoder."""

import itertools
from collections.abc import Callable
from typing import Self, TypeVar

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests.core.builders import (
    KEY,
    ROOM,
    TOKEN,
    FakeAuthenticator,
    Log,
    Peer,
    Received,
    TrackWriter,
    limits,
    make_manager,
    make_peer,
    of_kind,
    seqs,
)
from tests.protocol.builders import control_bytes
from tim_trio.core.accounts import Gate
from tim_trio.core.manager import RoomManager
from tim_trio.core.node import Node
from tim_trio.core.session import AGENT, PeerClosed, Session, new_decoder
from tim_trio.errors import Code, RemoteProtocolError, is_retryable
from tim_trio.limits import Limits
from tim_trio.protocol.decoder import ControlFrame
from tim_trio.protocol.layout import MAGIC, MAX_GREETING_BYTES, VERSION
from tim_trio.protocol.messages import (
    AskToPush,
    AskToPushAnswer,
    Authenticate,
    AuthenticateAnswer,
    AuthMethod,
    AuthMode,
    Capability,
    ChangePassword,
    ChangePasswordAnswer,
    Close,
    Credit,
    Error,
    Forward,
    GetRoomInfo,
    GoAway,
    GoAwayReason,
    Grant,
    GrantAnswer,
    Hello,
    Link,
    LinkPath,
    LinkSubscribe,
    LinkViewers,
    ListRooms,
    ListRoomsAnswer,
    ListScope,
    Ping,
    Pong,
    Publish,
    PublishAnswer,
    PushRevoked,
    RegisterAccount,
    RegisterAccountAnswer,
    RegisterRoom,
    RegisterRoomAnswer,
    RemoveRoom,
    RemoveRoomAnswer,
    Replaced,
    Revoke,
    RevokeAnswer,
    Right,
    RoomClosed,
    RoomInfoAnswer,
    RoomMode,
    SourceLeft,
    SourceLeftReason,
    StartFrom,
    Subscribe,
    SubscribeAnswer,
    Unpublish,
    UnpublishAnswer,
    Unsubscribe,
    UnsubscribeAnswer,
    Welcome,
    encode,
    type_of,
)
from tim_trio.protocol.runs import Run

T = TypeVar("T")

OTHER_TOKEN = bytes(16)
HELLO = Hello(magic=MAGIC, min_version=VERSION, max_version=VERSION, capabilities=0, agent="test")
REGISTER = RegisterRoom(mode=RoomMode.LIVE, gather_ms=0, idle_timeout_s=0)


def authenticate(account: str, method: AuthMethod = AuthMethod.NAME) -> Authenticate:
    return Authenticate(method=method, account=account, secret=b"", device="")


class Caller:
    """A client whose bytes go through a decoder into a session."""

    def __init__(
        self,
        manager: RoomManager,
        *,
        gate: Gate[Session] | None = None,
        is_loopback: bool = False,
        budget: int | None = None,
    ) -> None:
        self.manager = manager
        self.peer: Peer = make_peer(manager.node, budget=budget)
        decoder = new_decoder(manager)
        self.session = Session(
            manager,
            self.peer.outbox,
            decoder,
            0.0,
            gate=gate or Gate(),
            address="192.0.2.7",
            is_loopback=is_loopback,
        )
        self._numbers = itertools.count(1)

    async def send(self, data: bytes, now: float = 0.0) -> None:
        """Carry out frames as a connection's reader does."""
        for item in self.session.decoder.feed(data):
            if isinstance(item, Run):
                self.session.receive_run(item, now)
            else:
                await self.session.receive_control(item, now)

    async def ask(self, request: object, now: float = 0.0) -> object:
        """Send a request and return its one answer; events before it are forgotten."""
        number = next(self._numbers)
        await self.send(encode(request, number), now)
        answers = [
            each.message
            for each in self.peer.new_with_ids()
            if isinstance(each, Received) and each.request_id == number
        ]
        assert len(answers) == 1
        return answers[0]

    async def get(self, kind: type[T], request: object, now: float = 0.0) -> T:
        """Send a request and return its answer, which must be of a kind."""
        answer = await self.ask(request, now)
        assert isinstance(answer, kind), answer
        return answer

    async def refusal(self, request: object, now: float = 0.0) -> Code:
        """Send a request and return the code of the ERROR that answers it."""
        error = await self.get(Error, request, now)
        assert error.request_type == type_of(type(request))
        assert error.retry == is_retryable(error.code)
        return Code(error.code)

    async def enter(self, account: str = "alice") -> Self:
        await self.get(Welcome, HELLO)
        await self.get(AuthenticateAnswer, authenticate(account))
        return self

    async def register(self) -> int:
        return (await self.get(RegisterRoomAnswer, REGISTER)).room

    async def publish(self, room: int, token: bytes = TOKEN) -> TrackWriter:
        answer = await self.get(PublishAnswer, Publish(room=room, token=token))
        return TrackWriter(room, answer.source)


@pytest.fixture
def manager() -> RoomManager:
    return make_manager()


@pytest.fixture
async def alice(manager: RoomManager) -> Caller:
    return await Caller(manager).enter("alice")


@pytest.fixture
async def bob(manager: RoomManager) -> Caller:
    return await Caller(manager).enter("bob")


def closes_with(code: Code) -> "pytest.RaisesExc[RemoteProtocolError]":
    def has_code(error: RemoteProtocolError) -> bool:
        return error.code is code

    return pytest.raises(RemoteProtocolError, check=has_code)


# The greeting


async def test_hello_is_answered_with_the_limits(manager: RoomManager) -> None:
    caller = Caller(manager)
    assert caller.session.decoder.max_frame_bytes == MAX_GREETING_BYTES
    bounds = manager.node.limits
    assert await caller.ask(HELLO) == Welcome(
        version=1,
        capabilities=Capability.RELIABLE | Capability.ACCOUNT_STREAMS | Capability.OPERATOR,
        agent=AGENT,
        node="node",
        auth_mode=AuthMode.OPEN,
        max_frame_bytes=bounds.max_frame_bytes,
        max_init_bytes=bounds.max_init_bytes,
        backlog_bytes=bounds.backlog_bytes,
        backlog_age_ms=1000,
        stall_timeout_ms=10_000,
        ping_interval_ms=20_000,
        max_subscriptions=bounds.max_subscriptions,
    )
    assert caller.session.greeted
    assert caller.session.decoder.max_frame_bytes == bounds.max_frame_bytes


@pytest.mark.parametrize("end", ["least", "most"])
async def test_whatever_the_limits_are_they_can_be_told(end: str) -> None:
    """No field of WELCOME overflows, and none is 0."""
    extremes = {
        field.name: field.metadata[end]
        for field in attrs.fields(Limits)
        if field.metadata[end] is not None
    }
    if end == "least":
        extremes["max_frame_bytes"] = extremes["backlog_bytes"]
    manager = RoomManager(Node(Limits(**extremes)), Log())
    welcome = await Caller(manager).get(Welcome, HELLO)
    assert welcome.backlog_bytes == manager.node.limits.backlog_bytes
    assert welcome.max_subscriptions == manager.node.limits.max_subscriptions
    assert min(welcome.backlog_age_ms, welcome.stall_timeout_ms, welcome.ping_interval_ms) > 0


@pytest.mark.parametrize(
    "hello, code",
    [
        (attrs.evolve(HELLO, magic=0), Code.UNSUPPORTED_VERSION),
        (attrs.evolve(HELLO, min_version=2, max_version=9), Code.UNSUPPORTED_VERSION),
        (attrs.evolve(HELLO, min_version=0, max_version=0), Code.UNSUPPORTED_VERSION),
        (attrs.evolve(HELLO, min_version=1, max_version=0), Code.UNSUPPORTED_VERSION),
        (Ping(stamp=1), Code.PROTOCOL_ERROR),
        (authenticate("alice"), Code.PROTOCOL_ERROR),
    ],
    ids=["magic", "newer", "older", "empty range", "ping first", "authenticate first"],
)
async def test_a_wrong_first_frame_closes(manager: RoomManager, hello: object, code: Code) -> None:
    caller = Caller(manager)
    with closes_with(code):
        await caller.send(encode(hello, 1))
    assert caller.peer.new() == []
    assert not caller.session.greeted


async def test_a_range_that_holds_our_version_is_enough(manager: RoomManager) -> None:
    await Caller(manager).get(Welcome, attrs.evolve(HELLO, min_version=0, max_version=200))


async def test_an_unreadable_hello_closes(manager: RoomManager) -> None:
    with closes_with(Code.PROTOCOL_ERROR):
        await Caller(manager).send(control_bytes(type_of(Hello), b"TIMT"))


async def test_a_hello_needs_a_request_id(manager: RoomManager) -> None:
    with closes_with(Code.PROTOCOL_ERROR):
        await Caller(manager).send(encode(HELLO, 0))


async def test_a_second_hello_closes(alice: Caller) -> None:
    with closes_with(Code.PROTOCOL_ERROR):
        await alice.send(encode(HELLO, 9))


async def test_a_client_need_not_wait_for_answers(manager: RoomManager) -> None:
    caller = Caller(manager)
    await caller.send(encode(HELLO, 1) + encode(authenticate("alice"), 2) + encode(REGISTER, 3))
    kinds = [type(message) for message in caller.peer.new()]
    assert kinds == [Welcome, AuthenticateAnswer, RegisterRoomAnswer]


# Authentication


@pytest.mark.parametrize(
    "is_loopback, rights",
    [(False, Right.REGISTER_ROOMS), (True, Right.REGISTER_ROOMS | Right.OPERATOR)],
)
async def test_a_name_is_enough_in_open_mode(
    manager: RoomManager, is_loopback: bool, rights: Right
) -> None:
    caller = Caller(manager, is_loopback=is_loopback)
    await caller.ask(HELLO)
    assert await caller.ask(authenticate("älice")) == AuthenticateAnswer(
        account="älice", rights=rights, session_token=b"", expires_ms=0
    )
    assert caller.session.account == "älice"
    assert caller.session.member is not None


@pytest.mark.parametrize("name", ["", "a b", "a/b", "x" * 65, "line\n"])
async def test_an_invalid_name_is_refused_and_may_be_corrected(
    manager: RoomManager, name: str
) -> None:
    caller = Caller(manager)
    await caller.ask(HELLO)
    assert await caller.refusal(authenticate(name)) is Code.BAD_REQUEST
    await caller.get(AuthenticateAnswer, authenticate("alice"))


async def test_authenticating_twice_is_refused(alice: Caller) -> None:
    assert await alice.refusal(authenticate("bob")) is Code.BAD_REQUEST
    assert alice.session.account == "alice"


@pytest.mark.parametrize("method", [each for each in AuthMethod if each is not AuthMethod.NAME])
async def test_other_methods_are_not_taken(manager: RoomManager, method: AuthMethod) -> None:
    caller = Caller(manager)
    await caller.ask(HELLO)
    assert await caller.refusal(authenticate("alice", method)) is Code.NOT_SUPPORTED


async def test_before_authentication_only_a_few_requests_are_served(manager: RoomManager) -> None:
    caller = Caller(manager)
    await caller.ask(HELLO)
    assert await caller.ask(Ping(stamp=5)) == Pong(stamp=5)
    for request in (
        REGISTER,
        Subscribe(room=ROOM, start=StartFrom.GROUP, credit=0),
        GetRoomInfo(room=ROOM),
        ListRooms(scope=ListScope.MINE, after=0, limit=0),
    ):
        assert await caller.refusal(request) is Code.NOT_AUTHENTICATED
    # Served by servers with accounts of their own.
    account = RegisterAccount(account="alice", password=b"", invitation=b"")
    assert await caller.refusal(account) is Code.NOT_SUPPORTED


async def test_a_stream_frame_before_authentication_closes(manager: RoomManager) -> None:
    caller = Caller(manager)
    await caller.ask(HELLO)
    with closes_with(Code.PROTOCOL_ERROR):
        await caller.send(TrackWriter().data(KEY))


def gate_of(authenticator: FakeAuthenticator) -> Gate[Session]:
    return Gate(authenticator)


async def test_welcome_says_how_to_sign_in(manager: RoomManager) -> None:
    caller = Caller(manager, gate=gate_of(FakeAuthenticator()))
    welcome = await caller.get(Welcome, HELLO)
    assert welcome.auth_mode is AuthMode.ACCOUNTS
    assert welcome.capabilities & Capability.ACCOUNTS


async def test_the_authenticator_decides_and_the_sign_in_is_written_down(
    manager: RoomManager,
) -> None:
    gate = gate_of(FakeAuthenticator(rights=Right.OPERATOR, session_token=b"hush", expires_at=12.5))
    known: list[Session] = []
    gate.on_known = known.append
    caller = Caller(manager, gate=gate)
    await caller.ask(HELLO)
    assert await caller.ask(authenticate("alice")) == AuthenticateAnswer(
        account="alice", rights=Right.OPERATOR, session_token=b"hush", expires_ms=12_500
    )
    assert isinstance(gate.authenticator, FakeAuthenticator)
    assert gate.authenticator.asked == [(authenticate("alice"), "192.0.2.7")]
    assert gate.sign_ins.expired(12.5) == known == [caller.session]
    caller.session.end(0.0)
    assert len(gate.sign_ins) == 0


async def test_too_many_failed_logins_close(manager: RoomManager) -> None:
    manager.node.limits = limits(max_failed_logins=2)
    fake = FakeAuthenticator()
    caller = await Caller(manager, gate=gate_of(fake)).enter("alice")
    newcomer = Caller(manager, gate=gate_of(fake))
    await newcomer.ask(HELLO)
    attempts: list[tuple[Caller, object]] = [
        (caller, ChangePassword(old=b"x", new=b"y")),
        (newcomer, authenticate("alice")),
    ]
    for who, request in attempts:
        fake.refusal = Code.UNAVAILABLE  # is nobody's fault
        for _ in range(5):
            assert await who.refusal(request) is Code.UNAVAILABLE
        fake.refusal = Code.BAD_CREDENTIALS
        for _ in range(2):
            assert await who.refusal(request) is Code.BAD_CREDENTIALS
        with closes_with(Code.AUTHENTICATION_FAILED):
            await who.send(encode(request, 9))


async def test_who_is_closed_while_signing_in_does_not_enter(manager: RoomManager) -> None:
    fake = FakeAuthenticator()
    fake.go_on = trio.Event()
    gate = gate_of(fake)
    caller = Caller(manager, gate=gate)
    await caller.ask(HELLO)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(caller.send, encode(authenticate("alice"), 2))
        await trio.testing.wait_all_tasks_blocked()
        caller.session.close(Code.HANDSHAKE_TIMEOUT, 0.0)
        caller.session.end(0.0)
        fake.go_on.set()
    assert caller.session.member is None
    assert len(gate.sign_ins) == 0
    assert [type(message) for message in caller.peer.new()] == [Close]


async def test_accounts_are_made_and_passwords_changed_by_the_authenticator(
    manager: RoomManager,
) -> None:
    fake = FakeAuthenticator()
    caller = Caller(manager, gate=gate_of(fake))
    await caller.ask(HELLO)
    register = RegisterAccount(account="alice", password=b"p", invitation=b"")
    assert await caller.ask(register) == RegisterAccountAnswer(account="alice")
    change = ChangePassword(old=b"p", new=b"q")
    assert await caller.refusal(change) is Code.NOT_AUTHENTICATED
    await caller.ask(authenticate("alice"))
    assert await caller.ask(change) == ChangePasswordAnswer()
    assert [what for what, _ in fake.asked] == [
        register,
        authenticate("alice"),
        ("alice", change),
    ]


async def test_a_sign_in_for_some_rooms_alone(manager: RoomManager, alice: Caller) -> None:
    mine, other = await alice.register(), await alice.register()
    await alice.ask(Grant(room=mine, account="bob"))
    await alice.ask(Grant(room=other, account="bob"))

    async def bob(push: set[int] | None, subscribe: set[int] | None) -> Caller:
        fake = FakeAuthenticator(
            push_rooms=None if push is None else frozenset(push),
            subscribe_rooms=None if subscribe is None else frozenset(subscribe),
        )
        return await Caller(manager, gate=gate_of(fake)).enter("bob")

    async def may(who: Caller, room: int) -> list[bool]:
        answers = [
            await who.ask(Subscribe(room=room, start=StartFrom.LIVE, credit=0)),
            await who.ask(Publish(room=room, token=OTHER_TOKEN if room == mine else TOKEN)),
            await who.ask(GetRoomInfo(room=room)),
        ]
        for answer in answers:
            assert not isinstance(answer, Error) or answer.code == Code.PERMISSION_DENIED
        return [not isinstance(answer, Error) for answer in answers]

    assert await may(await bob(None, None), mine) == [True, True, True]
    assert await may(await bob({mine}, {mine}), mine) == [True, True, True]
    assert await may(await bob({mine}, {mine}), other) == [False, False, False]
    assert await may(await bob(set(), {mine}), mine) == [True, False, True]
    watcher = await bob({mine}, set())
    assert await may(watcher, mine) == [False, True, True]
    # A room that is not there looks like one that is not for it.
    assert await watcher.refusal(Publish(room=ROOM, token=TOKEN)) is Code.PERMISSION_DENIED
    assert await watcher.refusal(AskToPush(room=other, message="")) is Code.PERMISSION_DENIED


@pytest.mark.parametrize(
    "code", [Code.EXPIRED, Code.DISABLED, Code.BANNED, Code.SIGNED_OUT, Code.IDLE_TIMEOUT]
)
async def test_with_the_rights_end_the_sources_at_once(
    manager: RoomManager, alice: Caller, bob: Caller, code: Code
) -> None:
    room = await alice.register()
    await alice.publish(room)
    await bob.ask(Subscribe(room=room, start=StartFrom.LIVE, credit=0))
    alice.session.close(code, 0.0)
    alice.session.end(0.0)
    left = [each.reason for each in of_kind(SourceLeft, bob.peer.new())]
    # Otherwise it may come back and go on.
    assert left == ([] if code is Code.IDLE_TIMEOUT else [SourceLeftReason.REVOKED])


# What is no request


async def test_answers_nobody_waits_for_are_ignored(alice: Caller) -> None:
    for number in (0x80, 0x83, 0x90, 0xBF):
        await alice.send(control_bytes(number, b"what", request_id=3))
    assert alice.peer.new() == []


@pytest.mark.parametrize("number", [0x00, 0x41, 0x5F, 0x60, 0x7F, 0xC0, 0xFF])
async def test_types_that_a_client_never_sends_close(alice: Caller, number: int) -> None:
    with closes_with(Code.PROTOCOL_ERROR):
        await alice.send(control_bytes(number))


@pytest.mark.parametrize("number", [0x05, 0x27, 0x2F, 0x3F])
async def test_an_unknown_request_is_not_supported_and_without_an_id_ignored(
    alice: Caller, number: int
) -> None:
    await alice.send(control_bytes(number, request_id=77))
    (answer,) = alice.peer.new_with_ids()
    assert isinstance(answer, Received)
    assert answer.request_id == 77
    assert isinstance(answer.message, Error)
    assert (answer.message.request_type, answer.message.code) == (number, Code.NOT_SUPPORTED)
    await alice.send(control_bytes(number, request_id=0))
    assert alice.peer.new() == []


async def test_a_request_without_an_id_closes(alice: Caller) -> None:
    for request in (Ping(stamp=1), REGISTER, Unsubscribe(room=ROOM)):
        with closes_with(Code.PROTOCOL_ERROR):
            await alice.send(encode(request, 0))


@pytest.mark.parametrize(
    "frame, code",
    [
        (encode(LinkPath(room=ROOM, path=["a"])), Code.NOT_SUPPORTED),
        (encode(LinkViewers(room=ROOM, viewers=3)), Code.NOT_SUPPORTED),
        (control_bytes(type_of(LinkPath), b"", request_id=0), Code.BAD_REQUEST),
        (control_bytes(type_of(LinkViewers), b"", request_id=0), Code.BAD_REQUEST),
        (control_bytes(type_of(Credit), b"", request_id=0), Code.BAD_REQUEST),
    ],
    ids=["path", "viewers", "unreadable path", "unreadable viewers", "unreadable credit"],
)
async def test_a_mistake_in_a_one_way_message_is_answered_all_the_same(
    alice: Caller, frame: bytes, code: Code
) -> None:
    await alice.send(frame)
    (answer,) = alice.peer.new_with_ids()
    assert isinstance(answer, Received)
    assert answer.request_id == 0
    assert isinstance(answer.message, Error)
    assert (answer.message.request_type, answer.message.code) == (frame[4], code)


async def test_unreadable_fields_are_a_bad_request_and_the_connection_lives(alice: Caller) -> None:
    for fields in (b"", b"\x00" * 7, bytes(8) + b"\x05" + bytes(8)):
        await alice.send(control_bytes(type_of(Subscribe), fields, request_id=4))
        (answer,) = of_kind(Error, alice.peer.new())
        assert (answer.request_type, answer.code) == (type_of(Subscribe), Code.BAD_REQUEST)
    assert await alice.ask(Ping(stamp=1)) == Pong(stamp=1)


async def test_credit_alone_needs_no_task(manager: RoomManager, alice: Caller, bob: Caller) -> None:
    register = RegisterRoom(mode=RoomMode.RELIABLE, gather_ms=0, idle_timeout_s=0)
    answer = await alice.get(RegisterRoomAnswer, register)
    await bob.ask(Subscribe(room=answer.room, start=StartFrom.LIVE, credit=0))
    source = (await alice.publish(answer.room)).source
    room = manager.rooms[answer.room]
    (subscription,) = (each for _, each in room.subscribers())
    pace = room.sources[source].pace
    assert pace is not None

    def send(data: bytes) -> bool:
        (frame,) = bob.session.decoder.feed(data)
        assert isinstance(frame, ControlFrame)
        return bob.session.receive_at_once(frame, 0.0)

    assert send(encode(Credit(room=answer.room, source=source, limit=2**30)))
    assert pace.flow(subscription).granted == 2**30
    assert not send(control_bytes(type_of(Credit), b"unreadable"))
    assert not send(encode(Ping(stamp=1), 1))
    assert not any(isinstance(each, Error) for each in bob.peer.new())


async def test_credit_of_nobody_waits_for_the_task_that_refuses_it(manager: RoomManager) -> None:
    stranger = Caller(manager)
    await stranger.get(Welcome, HELLO)
    credit = ControlFrame(type_of(Credit), 0, b"")
    assert not stranger.session.receive_at_once(credit, 0.0)


async def test_credit_is_taken_without_a_word(alice: Caller) -> None:
    room = await alice.register()
    await alice.publish(room)
    credit = Credit(room=room, source=1, limit=2**40)
    await alice.send(encode(credit))
    await alice.ask(Subscribe(room=room, start=StartFrom.GROUP, credit=0))
    await alice.send(encode(credit))
    assert alice.peer.new() == []


@pytest.mark.parametrize(
    "request_",
    [
        RegisterAccount(account="bob", password=b"", invitation=b""),
        ChangePassword(old=b"", new=b""),
        Link(node="n", incarnation=1),
        LinkSubscribe(room=ROOM, credit=0, path=[]),
        LinkPath(room=ROOM, path=[]),
        Forward(account="bob", frame=b"", rights=0),
    ],
    ids=lambda request: type(request).__name__,
)
async def test_what_this_server_does_not_serve_says_so(alice: Caller, request_: object) -> None:
    assert await alice.refusal(request_) is Code.NOT_SUPPORTED


@pytest.mark.parametrize(
    "frame",
    [
        encode(Close(code=1000, retry=True, retry_after_ms=0, text="")),
        control_bytes(type_of(Close), b"?", request_id=0),
    ],
)
async def test_a_close_ends_the_reading_readable_or_not(alice: Caller, frame: bytes) -> None:
    with pytest.raises(PeerClosed):
        await alice.send(frame)
    assert alice.peer.new() == []


# The room operations, as they go over the wire


async def test_a_rooms_life_over_the_wire(alice: Caller, bob: Caller) -> None:
    room = await alice.register()
    assert await bob.ask(AskToPush(room=room, message="let me")) == AskToPushAnswer(told=1)
    assert await alice.ask(Grant(room=room, account="bob")) == GrantAnswer()
    writer = await bob.publish(room)
    answer = await alice.get(SubscribeAnswer, Subscribe(room=room, start=StartFrom.GROUP, credit=0))
    assert [source.account for source in answer.sources] == ["bob"]
    await bob.send(writer.data(KEY, 0))
    assert seqs(alice.peer.new()) == [0, 1]
    info = (await alice.get(RoomInfoAnswer, GetRoomInfo(room=room))).info
    assert (info.frames, info.viewers, info.granted) == (2, 1, ["bob"])
    listed = await alice.get(ListRoomsAnswer, ListRooms(scope=ListScope.MINE, after=0, limit=0))
    assert [entry.room for entry in listed.rooms] == [room]
    answer_ = await bob.ask(Unpublish(room=room, source=writer.source))
    assert answer_ == UnpublishAnswer(forwarded=2, discarded=0)
    assert of_kind(SourceLeft, alice.peer.new())
    assert await alice.ask(Unsubscribe(room=room)) == UnsubscribeAnswer()
    assert await alice.ask(Revoke(room=room, account="bob")) == RevokeAnswer()
    assert await bob.refusal(Publish(room=room, token=TOKEN)) is Code.PERMISSION_DENIED
    assert await alice.ask(RemoveRoom(room=room)) == RemoveRoomAnswer()
    assert await alice.refusal(GetRoomInfo(room=room)) is Code.NO_SUCH_ROOM


async def test_every_refusal_of_a_room_operation(manager: RoomManager) -> None:
    manager.node.limits = limits(
        max_rooms_per_account=1,
        max_subscriptions=1,
        max_sources_per_room=1,
        max_grants_per_room=1,
    )
    alice, bob = await Caller(manager).enter("alice"), await Caller(manager).enter("bob")
    gate: Gate[Session] = Gate(FakeAuthenticator(rights=Right(0)))
    nobody = await Caller(manager, gate=gate).enter("nobody")
    room, other = await alice.register(), await bob.register()

    def subscribe(number: int) -> Subscribe:
        return Subscribe(room=number, start=StartFrom.LIVE, credit=0)

    await alice.publish(room)
    await alice.ask(subscribe(room))
    await alice.ask(Grant(room=room, account="carol"))
    expected: list[tuple[Caller, object, Code]] = [
        (nobody, REGISTER, Code.PERMISSION_DENIED),
        (alice, REGISTER, Code.TOO_MANY_ROOMS),
        (alice, attrs.evolve(REGISTER, gather_ms=1001), Code.BAD_REQUEST),
        (bob, RemoveRoom(room=room), Code.PERMISSION_DENIED),
        (bob, RemoveRoom(room=ROOM), Code.NO_SUCH_ROOM),
        (bob, Grant(room=room, account="bob"), Code.PERMISSION_DENIED),
        (alice, Grant(room=room, account="bob"), Code.TOO_MANY_GRANTS),
        (alice, Grant(room=room, account=""), Code.BAD_REQUEST),
        (bob, Revoke(room=room, account="carol"), Code.PERMISSION_DENIED),
        (alice, Revoke(room=ROOM, account="carol"), Code.NO_SUCH_ROOM),
        (alice, subscribe(room), Code.ALREADY_SUBSCRIBED),
        (alice, subscribe(other), Code.TOO_MANY_SUBSCRIPTIONS),
        (bob, subscribe(ROOM), Code.NO_SUCH_ROOM),
        (bob, Unsubscribe(room=room), Code.NOT_SUBSCRIBED),
        (bob, Publish(room=room, token=TOKEN), Code.PERMISSION_DENIED),
        (bob, Publish(room=ROOM, token=TOKEN), Code.NO_SUCH_ROOM),
        (alice, Publish(room=room, token=OTHER_TOKEN), Code.TOO_MANY_SOURCES),
        (bob, Unpublish(room=room, source=1), Code.NO_SUCH_SOURCE),
        (bob, GetRoomInfo(room=ROOM), Code.NO_SUCH_ROOM),
        (bob, ListRooms(scope=ListScope.ALL, after=0, limit=0), Code.PERMISSION_DENIED),
        (alice, AskToPush(room=room, message=""), Code.ALREADY_GRANTED),
        (bob, AskToPush(room=ROOM, message=""), Code.NO_SUCH_ROOM),
    ]
    for caller, request, code in expected:
        assert await caller.refusal(request) is code, request
    await alice.ask(Revoke(room=room, account="carol"))
    await alice.ask(Grant(room=room, account="bob"))
    assert await bob.refusal(Publish(room=room, token=TOKEN)) is Code.TOKEN_IN_USE
    await bob.ask(AskToPush(room=other, message=""))
    alice.session.end(0.0)
    ask = AskToPush(room=room, message="")
    assert await nobody.refusal(ask) is Code.CREATOR_ABSENT
    assert await nobody.ask(AskToPush(room=other, message="")) == AskToPushAnswer(told=1)
    assert await nobody.refusal(AskToPush(room=other, message=""), 1.0) is Code.RATE_LIMITED


async def test_no_unused_id_is_unavailable_for_now(alice: Caller, manager: RoomManager) -> None:
    manager.draw = lambda: ROOM
    await alice.register()
    error = await alice.get(Error, REGISTER)
    assert (error.code, error.retry) == (Code.UNAVAILABLE, True)


# Stream frames


async def test_a_frame_for_a_source_never_held_closes(alice: Caller, bob: Caller) -> None:
    room = await alice.register()
    writer = await alice.publish(room)
    with closes_with(Code.FOREIGN_SOURCE):
        await bob.send(writer.data(KEY))
    with closes_with(Code.FOREIGN_SOURCE):
        await alice.send(TrackWriter(room, source=2).data(KEY))


async def test_the_work_done_counts_the_subscribers(alice: Caller, bob: Caller) -> None:
    room = await alice.register()
    writer = await alice.publish(room)
    assert alice.session.receive_run(writer.run(KEY), 0.0) == 1
    for caller in (alice, bob):
        await caller.ask(Subscribe(room=room, start=StartFrom.LIVE, credit=0))
    assert alice.session.receive_run(writer.run(0), 0.0) == 3


async def revoke(alice: Caller, bob: Caller, room: int) -> None:
    await alice.ask(Revoke(room=room, account="bob"))
    assert of_kind(PushRevoked, bob.peer.new())


async def remove(alice: Caller, bob: Caller, room: int) -> None:
    await alice.ask(RemoveRoom(room=room))
    assert of_kind(RoomClosed, bob.peer.new())


async def unpublish(alice: Caller, bob: Caller, room: int) -> None:
    await bob.ask(Unpublish(room=room, source=1))


async def take_over(alice: Caller, bob: Caller, room: int) -> None:
    other = await Caller(bob.manager).enter("bob")
    await other.publish(room)
    assert of_kind(Replaced, bob.peer.new())


@pytest.mark.parametrize("end", [revoke, remove, unpublish, take_over])
async def test_what_is_in_flight_when_a_source_ends_is_discarded_quietly(
    alice: Caller, bob: Caller, manager: RoomManager, end: Callable[..., object]
) -> None:
    room = await alice.register()
    await alice.ask(Grant(room=room, account="bob"))
    writer = await bob.publish(room)
    await alice.ask(Subscribe(room=room, start=StartFrom.GROUP, credit=0))
    await bob.send(writer.data(KEY, 0))
    await end(alice, bob, room)  # type: ignore[misc]
    alice.peer.new()
    bob.peer.new()
    await bob.send(writer.data(0, 0, 0))
    assert bob.peer.new() == alice.peer.new() == []
    assert manager.node.discarded == 3


# Rates


async def test_requests_over_the_rate_are_refused_and_then_are_a_flood() -> None:
    manager = make_manager(
        commands_per_s=2.0, command_burst=5, max_slowed_s=0.0, max_refused_commands=3
    )
    alice = await Caller(manager).enter()
    for _ in range(4):
        await alice.get(Pong, Ping(stamp=0))
    error = await alice.get(Error, Ping(stamp=0))
    assert (error.code, error.retry, error.retry_after_ms) == (Code.RATE_LIMITED, True, 501)
    await alice.get(Pong, Ping(stamp=0), 0.5)
    assert await alice.refusal(REGISTER, 0.5) is Code.RATE_LIMITED
    assert await alice.refusal(REGISTER, 0.5) is Code.RATE_LIMITED
    assert manager.rooms == {}
    with closes_with(Code.FLOODING):
        await alice.send(encode(REGISTER, 9), 0.5)
    assert manager.node.limited == {"commands_per_s": 4}


async def test_refusals_are_forgotten_within_a_minute() -> None:
    """Who is a little too quick, for however long, is no flood."""
    manager = make_manager(
        commands_per_s=1.0, command_burst=1, max_slowed_s=0.0, max_refused_commands=3
    )
    alice = await Caller(manager).enter()
    now = 100.0
    for _ in range(20):
        for _ in range(3):
            await alice.get(Pong, Ping(stamp=0), now)
            assert await alice.refusal(Ping(stamp=0), now) is Code.RATE_LIMITED
            now += 20
    assert await alice.refusal(Ping(stamp=0), now - 19.5) is Code.RATE_LIMITED
    assert await alice.refusal(Ping(stamp=0), now - 19.5) is Code.RATE_LIMITED
    with closes_with(Code.FLOODING):
        await alice.send(encode(REGISTER, 9), now - 19.5)


async def test_stream_frames_answers_and_goodbyes_have_no_rate() -> None:
    manager = make_manager(commands_per_s=1.0, command_burst=4, max_refused_commands=1)
    alice = await Caller(manager).enter()
    room = await alice.register()
    writer = await alice.publish(room)
    for _ in range(50):
        await alice.send(writer.data(KEY) + encode(Pong(stamp=1), 1))
    with pytest.raises(PeerClosed):
        await alice.send(encode(Close(code=1000, retry=True, retry_after_ms=0, text="")))


# What the owner asks for


async def test_a_ping_of_ours_is_noted_and_its_pong_ignored(alice: Caller) -> None:
    alice.session.ping(12.0)
    assert alice.session.pinged_at == 12.0
    (ping,) = alice.peer.new_with_ids()
    assert isinstance(ping, Received)
    assert ping.request_id
    assert isinstance(ping.message, Ping)
    await alice.send(encode(Pong(stamp=ping.message.stamp), ping.request_id))
    assert alice.peer.new() == []


async def test_go_away_is_for_who_has_authenticated(manager: RoomManager, alice: Caller) -> None:
    newcomer = Caller(manager)
    await newcomer.ask(HELLO)
    for caller in (newcomer, alice):
        caller.session.go_away(2.5, 0.0)
    assert newcomer.peer.new() == []
    assert alice.peer.new() == [GoAway(reason=GoAwayReason.STOPPING, address="", spread_ms=2500)]


async def test_who_signs_in_is_told_of_behind_the_answer(manager: RoomManager) -> None:
    seen: list[tuple[Session, list[object]]] = []
    caller = Caller(manager)
    caller.session.gate.on_signed_in = lambda session: seen.append((session, caller.peer.new()))
    await caller.ask(HELLO)
    assert seen == []
    await caller.send(
        encode(Authenticate(method=AuthMethod.NAME, account="alice", secret=b"", device=""), 2)
    )
    ((session, before),) = seen
    assert session is caller.session
    assert isinstance(before[-1], AuthenticateAnswer)


@pytest.mark.parametrize("code", [Code.IDLE_TIMEOUT, Code.BAD_SEQUENCE])
async def test_close_says_why_and_then_nothing(alice: Caller, code: Code) -> None:
    alice.session.close(code, 0.0)
    alice.session.ping(0.0)
    (close,) = alice.peer.new()
    assert isinstance(close, Close)
    assert (close.code, close.retry, close.retry_after_ms) == (code, is_retryable(code), 0)
    assert alice.peer.outbox.close_code == code


async def end_with_close(alice: Caller) -> None:
    with pytest.raises(PeerClosed):
        await alice.send(encode(Close(code=1000, retry=True, retry_after_ms=0, text="")))


async def end_abruptly(alice: Caller) -> None:
    pass


@pytest.mark.parametrize(
    "say, left",
    [(end_with_close, [SourceLeftReason.UNPUBLISHED]), (end_abruptly, [])],
    ids=["clean", "abrupt"],
)
async def test_the_end_leaves_every_room_once(
    alice: Caller,
    bob: Caller,
    manager: RoomManager,
    say: Callable[[Caller], object],
    left: list[SourceLeftReason],
) -> None:
    room = await alice.register()
    await alice.publish(room)
    for caller in (alice, bob):
        await caller.ask(Subscribe(room=room, start=StartFrom.LIVE, credit=0))
    await say(alice)  # type: ignore[misc]
    for _ in range(2):
        alice.session.end(0.0)
    assert [each.reason for each in of_kind(SourceLeft, bob.peer.new())] == left
    assert manager.rooms[room].viewers == manager.node.subscriptions == 1
    assert (alice.session.member, alice.session.account) == (None, "alice")


async def test_the_end_of_who_never_authenticated(manager: RoomManager) -> None:
    caller = Caller(manager)
    caller.session.end(0.0)
    assert caller.session.account is None


# Anything at all


@given(
    st.lists(
        st.builds(
            control_bytes,
            kind=st.integers(0, 255).filter(lambda kind: kind != 0x40),
            fields=st.binary(max_size=40),
            request_id=st.sampled_from([0, 1, 2**32 - 1]),
        ),
        max_size=10,
    )
)
async def test_any_control_frames_give_answers_or_a_typed_close(frames: list[bytes]) -> None:
    alice = await Caller(make_manager()).enter()
    for frame in frames:
        try:
            await alice.send(frame)
        except (RemoteProtocolError, PeerClosed):
            break
        answers = alice.peer.new_with_ids()
        assert len(answers) <= 1
    alice.session.end(0.0)
    assert alice.manager.node.subscriptions == 0
