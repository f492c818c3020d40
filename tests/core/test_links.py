"""How a session becomes a link, and what a manager asks the rest of a cluster."""

from __future__ import annotations

import pytest
import trio

from tests.core.builders import KEY, ROOM, TrackWriter, make_manager, make_peer
from tests.core.test_session import HELLO, Caller, closes_with
from tim_trio.core.accounts import Gate
from tim_trio.core.manager import RoomManager
from tim_trio.core.member import Member
from tim_trio.core.outbox import Outbox
from tim_trio.core.session import Session
from tim_trio.errors import Code, RoomError, room_error
from tim_trio.protocol.decoder import ControlFrame
from tim_trio.protocol.messages import (
    Authenticate,
    AuthenticateAnswer,
    AuthMethod,
    Capability,
    Contact,
    ContactAction,
    GetRoomInfo,
    Link,
    LinkAnswer,
    RegisterRoom,
    RegisterRoomAnswer,
    RoomInfoAnswer,
    RoomMode,
    StartFrom,
    Subscribe,
    Welcome,
    encode,
)
from tim_trio.protocol.runs import Run

SECRET = b"proof"


class Handler:
    """A link that writes down what it is handed."""

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox
        self.log: list[object] = []

    def begin(self, now: float) -> None:
        self.log.append("begin")

    def receive_run(self, run: Run, now: float) -> int:
        self.log.append(run)
        return 7

    def receive_control(self, frame: ControlFrame, now: float) -> None:
        self.log.append(frame.type)

    def end(self, now: float) -> None:
        self.log.append("end")


class LinksGate:
    incarnation = 5

    def __init__(self) -> None:
        self.handlers: list[Handler] = []

    def authenticate(self, request: Authenticate) -> str:
        if request.secret != SECRET:
            raise room_error(Code.BAD_CREDENTIALS)
        return request.account

    def open(self, node: str, request: Link, outbox: Outbox) -> Handler:
        if request.node != node:
            raise room_error(Code.BAD_REQUEST)
        self.handlers.append(Handler(outbox))
        return self.handlers[-1]


PROOF = Authenticate(method=AuthMethod.NODE, account="n2", secret=SECRET, device="")


REGISTER = RegisterRoom(mode=RoomMode.LIVE, gather_ms=0, idle_timeout_s=0)


@pytest.fixture
def manager() -> RoomManager:
    return make_manager()


def member_of(caller: Caller) -> Member:
    assert caller.session.member is not None
    return caller.session.member


@pytest.fixture
def links() -> LinksGate:
    return LinksGate()


@pytest.fixture
async def node(manager: RoomManager, links: LinksGate) -> Caller:
    gate: Gate[Session] = Gate()
    gate.links = links
    caller = Caller(manager, gate=gate)
    welcome = await caller.ask(HELLO)
    assert isinstance(welcome, Welcome) and welcome.capabilities & Capability.LINKS
    return caller


async def test_a_node_proves_itself_and_links(node: Caller, links: LinksGate) -> None:
    known: list[Session] = []
    node.session.gate.on_known = known.append
    answer = await node.ask(PROOF)
    assert answer == AuthenticateAnswer(account="", rights=0, session_token=b"", expires_ms=0)
    assert known == [node.session]
    assert await node.ask(Link(node="n2", incarnation=9)) == LinkAnswer(
        node=node.manager.node_name, incarnation=5
    )
    (link,) = links.handlers
    run = TrackWriter().run(KEY)
    assert node.session.receive_run(run, 0.0) == 7
    await node.session.receive_control(ControlFrame(0x83, 1, b""), 0.0)
    node.session.end(0.0)
    node.session.end(0.0)
    assert link.log == ["begin", run, 0x83, "end"]


async def test_a_wrong_proof_counts_as_a_failed_login(node: Caller) -> None:
    known: list[Session] = []
    node.session.gate.on_known = known.append
    wrong = Authenticate(method=AuthMethod.NODE, account="n2", secret=b"?", device="")
    for _ in range(node.manager.node.limits.max_failed_logins):
        assert await node.refusal(wrong) is Code.BAD_CREDENTIALS
    with closes_with(Code.AUTHENTICATION_FAILED):
        await node.ask(wrong)
    assert not known


async def test_who_is_in_cannot_become_another(node: Caller) -> None:
    await node.ask(PROOF)
    assert await node.refusal(PROOF) is Code.BAD_REQUEST
    as_account = Authenticate(method=AuthMethod.NAME, account="alice", secret=b"", device="")
    assert await node.refusal(as_account) is Code.BAD_REQUEST
    assert await node.refusal(REGISTER) is Code.NOT_AUTHENTICATED


async def test_a_link_takes_a_proof_first_and_the_name_that_was_proved(node: Caller) -> None:
    assert await node.refusal(Link(node="n2", incarnation=1)) is Code.NOT_AUTHENTICATED
    await node.ask(PROOF)
    assert await node.refusal(Link(node="n3", incarnation=1)) is Code.BAD_REQUEST
    assert node.session.link is None


class Elsewhere:
    """The rest of a cluster, which answers some requests itself."""

    def __init__(self) -> None:
        self.answer: object | None = None
        self.refusal: RoomError | None = None
        self.leaves: Member | None = None
        self.log: list[str] = []

    async def prepare(self, member: Member, request: object, now: float) -> object | None:
        await trio.lowlevel.checkpoint()
        self.log.append(f"prepare {type(request).__name__}")
        if self.refusal is not None:
            raise self.refusal
        if self.leaves is not None:
            self.leaves.outbox.abort(None)
        return self.answer

    async def finish(self, member: Member, request: object, answer: object, now: float) -> object:
        self.log.append(f"finish {type(answer).__name__}")
        return answer

    async def tell(self, account: str, event: bytes) -> None:
        self.log.append(f"tell {account}")


@pytest.fixture
def elsewhere(manager: RoomManager) -> Elsewhere:
    found = Elsewhere()
    manager.elsewhere = found
    return found


async def test_what_is_carried_out_here_is_finished_elsewhere(
    manager: RoomManager, elsewhere: Elsewhere
) -> None:
    alice = await Caller(manager).enter("alice")
    answer = await alice.ask(REGISTER)
    assert isinstance(answer, RegisterRoomAnswer)
    assert elsewhere.log == ["prepare RegisterRoom", "finish RegisterRoomAnswer"]
    elsewhere.log.clear()
    # Its answer has been sent by the room itself.
    await alice.ask(Subscribe(room=answer.room, start=StartFrom.GROUP, credit=0))
    assert elsewhere.log == ["prepare Subscribe"]


async def test_a_contacts_devices_elsewhere_are_told_of_news_alone(
    manager: RoomManager, elsewhere: Elsewhere
) -> None:
    alice = await Caller(manager).enter("alice")
    for _ in range(2):
        await alice.ask(Contact(action=ContactAction.ASK, account="bob"))
    told = ["prepare Contact", "tell bob", "finish ContactAnswer"]
    assert elsewhere.log == [*told, "prepare Contact", "finish ContactAnswer"]


async def test_an_answer_from_elsewhere_is_the_answer(
    manager: RoomManager, elsewhere: Elsewhere
) -> None:
    alice = await Caller(manager).enter("alice")
    room = await manager.register(member_of(alice), RoomMode.LIVE, 0, 0, 0.0)
    elsewhere.answer = RoomInfoAnswer(info=room.info(show_granted=False, now=0.0))
    assert await alice.ask(GetRoomInfo(room=ROOM)) == elsewhere.answer
    elsewhere.refusal = room_error(Code.DIRECTORY_UNAVAILABLE)
    assert await alice.refusal(GetRoomInfo(room=ROOM)) is Code.DIRECTORY_UNAVAILABLE


async def test_who_is_gone_before_it_is_ready_gets_nothing_done(
    manager: RoomManager, elsewhere: Elsewhere
) -> None:
    alice = await Caller(manager).enter("alice")
    elsewhere.leaves = member_of(alice)
    await alice.send(encode(REGISTER, 9))
    assert manager.rooms == {}


async def test_a_source_that_was_taken_over_elsewhere_is_not_waited_for(
    manager: RoomManager,
) -> None:
    alice = await Caller(manager).enter("alice")
    room = await manager.register(member_of(alice), RoomMode.LIVE, 0, 0, 0.0)
    manager.publish(member_of(alice), room.number, bytes(16), 1, 0.0)
    (source,) = room.sources.values()
    manager.leave(member_of(alice), clean=False, now=0.0)
    manager.stop_lingering(source)
    await manager.expire(manager.node.limits.linger_s + 1)
    assert list(room.sources.values()) == [source]


async def test_presence_is_told_once_per_account(manager: RoomManager) -> None:
    told: list[tuple[str, bool]] = []
    manager.on_presence = lambda account, is_here: told.append((account, is_here))
    one = make_peer(manager.node, account="alice").member
    two = make_peer(manager.node, account="alice").member
    for member in (one, two):
        manager.enter(member)
    for member in (one, two):
        manager.leave(member, clean=True, now=0.0)
    assert told == [("alice", True), ("alice", False)]


async def test_a_room_that_may_not_expire_here_is_looked_at_again(
    manager: RoomManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await Caller(manager).enter("alice")
    room = await manager.register(member_of(alice), RoomMode.LIVE, 0, 1, 0.0)
    monkeypatch.setattr(type(room), "may_expire", False)
    await manager.expire(10.0)
    assert manager.rooms == {room.number: room}
    monkeypatch.setattr(type(room), "may_expire", True)
    await manager.expire(11.0)
    assert manager.rooms == {}


async def test_a_recorded_room_is_opened_with_its_grants(manager: RoomManager) -> None:
    alice = await Caller(manager).enter("alice")
    room = await manager.register(member_of(alice), RoomMode.LIVE, 0, 0, 0.0)
    await manager.grant(member_of(alice), room.number, "bob", 0.0)
    record = await manager.directory.find_room(room.number)
    assert record is not None
    other = RoomManager(manager.node, manager.log)
    again = other.open_room(record, 5.0)
    assert again.may_push("bob") and again.creator == "alice"
    assert again.path == [other.node_name]
