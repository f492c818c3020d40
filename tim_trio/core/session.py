"""One connection's conversation: greeting, authentication, requests, data.

Knows no socket: frames come in as the decoder cut them, bytes leave through
the outbox. TCP and WebSocket connections are the same from here on.

Source: protocol.md, section 6.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Final

import attrs
import trio

from tim_trio._version import __version__
from tim_trio.core.accounts import Gate
from tim_trio.core.addresses import network_of
from tim_trio.core.links import LinkGate, LinkHandler
from tim_trio.core.manager import RoomManager
from tim_trio.core.member import Member
from tim_trio.core.outbox import Outbox, Passage
from tim_trio.core.pace import Pace
from tim_trio.core.requests import carry_out
from tim_trio.core.revocation import Identity
from tim_trio.core.throttle import Throttle
from tim_trio.errors import Code, RemoteProtocolError, RoomError, room_error
from tim_trio.protocol.decoder import ControlFrame, Decoder, FrameHeader
from tim_trio.protocol.layout import MAGIC, MAX_GREETING_BYTES, STREAM, VERSION
from tim_trio.protocol.messages import (
    AccountSend,
    Authenticate,
    AuthenticateAnswer,
    AuthMethod,
    Capability,
    ChangePassword,
    ChangePasswordAnswer,
    Close,
    Credit,
    Error,
    GoAway,
    GoAwayReason,
    Hello,
    Link,
    LinkAnswer,
    LinkExpelled,
    LinkInvite,
    LinkPath,
    LinkSource,
    LinkViewers,
    Ping,
    Pong,
    RegisterAccount,
    RegisterAccountAnswer,
    Right,
    UnreadableFields,
    Welcome,
    decode,
    encode,
    encode_close,
    is_known_type,
    type_of,
)
from tim_trio.protocol.runs import Run

AGENT: Final = f"tim_trio/{__version__}"
#: Capabilities of every server; its authenticator adds to them.
SERVED: Final = Capability.RELIABLE | Capability.ACCOUNT_STREAMS | Capability.OPERATOR
_LAST_REQUEST: Final = 0x3F
_FIRST_ANSWER: Final = 0x80
_LAST_ANSWER: Final = 0xBF
_CLOSE: Final = type_of(Close)
_HELLO: Final = type_of(Hello)
_CREDIT: Final = type_of(Credit)
#: What needs no request_id. Only a mistake in it is answered.
_ONE_WAY: Final = frozenset(
    type_of(message)
    for message in (Credit, LinkPath, LinkViewers, LinkSource, LinkInvite, LinkExpelled)
)
_PING_STAMP: Final = 1
#: Requests and runs cut from what was read before others get a turn: some 200 µs.
_ITEMS_IN_A_ROW: Final = 128
#: Closes that take rights away: nobody may take the sources over.
_RIGHTS_ENDED: Final = frozenset({Code.EXPIRED, Code.DISABLED, Code.BANNED, Code.SIGNED_OUT})


class PeerClosed(Exception):
    """The peer sent CLOSE: stop reading."""


@attrs.define(eq=False)
class Session:
    """The state of one connection above its bytes.

    Attributes:
        last_received: when the peer was last heard, by the owner's clock.
        gate: who checks AUTHENTICATE, and where the sign-in is written down.
        address: the peer's, without its port.
        member: set once authenticated, but for nodes.
        link: set once a node has said LINK.
        pause_s: so long nothing is to be read, for a rate: the owner calls
            `pause` before it reads on, and before it hands over more.
        pace: of the source that the newest frames were for, in a reliable room.
        take_turn: waits until others have had theirs; set by the owner.
    """

    manager: RoomManager
    outbox: Outbox
    decoder: Decoder
    last_received: float
    gate: Gate[Session] = attrs.field(factory=Gate)
    address: str = ""
    is_loopback: bool = False
    member: Member | None = None
    link: LinkHandler | None = None
    greeted: bool = False
    pinged_at: float = -math.inf
    _identity: Identity | None = None
    #: The node that has proved who it is and not yet said LINK.
    _peer: str = ""
    _failed_logins: int = 0
    _revoked: bool = False
    _said_bye: bool = False
    _over: bool = False
    pause_s: float = 0.0
    pace: Pace | None = attrs.field(default=None, repr=False)
    take_turn: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
    #: Of stream frames, that may come before their rate is looked at.
    _unchecked_bytes: int = 0
    _throttle: Throttle | None = None

    def receive_run(self, run: Run, now: float) -> int:
        """Push a run. Returns the work done: 1 and the subscribers it went to.

        Raises:
            RemoteProtocolError: the connection may not send this.
        """
        member = self.member
        if member is None:
            if self.link is not None:
                return self.link.receive_run(run, now)
            raise RemoteProtocolError("a stream frame before authentication")
        held = member.sources.get((run.room, run.source))
        if held is None:
            former = member.former.get((run.room, run.source))
            if former is None:
                raise RemoteProtocolError(
                    f"a frame for source {run.source}, never held here", Code.FOREIGN_SOURCE
                )
            former.discarded += run.frames
            self.manager.node.discarded += run.frames
            work, is_live = 1, True
        else:
            room, source = held
            work, is_live = 1 + room.push(source, run, now), source.pace is None
            self.pace = source.pace
        self._unchecked_bytes -= len(run.data)
        if self._unchecked_bytes < 0:
            self._check_stream_rate(now, is_live=is_live)
        return work

    def may_pass(self, frame: FrameHeader) -> bool:
        """Say whether a frame can go on unread, by `pass_on`; nothing has changed by that."""
        held = None if self.member is None else self.member.sources.get((frame.room, frame.source))
        return held is not None and held[0].may_pass(held[1], frame)

    def pass_on(self, frame: FrameHeader, passage: Passage, now: float) -> None:
        """Let a frame through that `may_pass`. After several, `tell_credit`."""
        assert self.member is not None
        room, source = self.member.sources[frame.room, frame.source]
        room.pass_on(source, frame, passage, now)
        self.pace = source.pace
        self._unchecked_bytes -= frame.size
        if self._unchecked_bytes < 0:
            self._check_stream_rate(now, is_live=False)

    def tell_credit(self) -> None:
        """Tell the publisher what the frames that have passed make room for."""
        if self.pace is not None:
            self.pace.update()

    def _check_stream_rate(self, now: float, *, is_live: bool) -> None:
        """Count the bytes that have come; ask for a pause where they are too many.

        A reliable stream is slowed down and nothing else: waiting is what its
        publisher expects.
        """
        throttle = self._rates(now)
        wait_s = throttle.charge_stream(throttle.unchecked_bytes - self._unchecked_bytes, now)
        self._unchecked_bytes = throttle.unchecked_bytes
        if not wait_s:
            return
        self.pause_s = wait_s
        if is_live and throttle.must_warn(wait_s, now):
            warning = Error(
                request_type=STREAM,
                code=Code.RATE_LIMITED,
                retry=True,
                retry_after_ms=int(wait_s * 1000) + 1,
                text="a live stream over its rate",
            )
            self.outbox.put_control(encode(warning), now)

    async def pause(self) -> None:
        """Wait as long as a rate asks for. The peer's sends wait too, in the kernel's buffers."""
        pause_s, self.pause_s = self.pause_s, 0.0
        await trio.sleep(pause_s)

    def _rates(self, now: float) -> Throttle:
        if self._throttle is None:
            manager = self.manager
            self._throttle = Throttle(
                manager.node, manager.address_rates.of(network_of(self.address), now)
            )
        return self._throttle

    def receive_at_once(self, frame: ControlFrame, now: float) -> bool:
        """Carry out a subscriber's CREDIT; False for all else, which is for `receive_control`.

        It never waits and is hardly ever answered. To wake a task for it would be
        several times the work, and a file's receiver sends hundreds a second.
        """
        member = self.member
        if frame.type != _CREDIT or member is None:
            return False
        try:
            credit = decode(frame.type, frame.fields)
        except UnreadableFields:
            return False
        assert isinstance(credit, Credit)
        if not self._rates(now).charge_command_at_once(now):
            return False
        self.manager.credit(member, credit.room, credit.source, credit.limit)
        return True

    async def receive_control(self, frame: ControlFrame, now: float) -> None:
        """Carry out a control frame and answer it.

        Raises:
            RemoteProtocolError: the connection must end with this code.
            PeerClosed: the peer has said goodbye.
        """
        number = frame.type
        if not self.greeted:
            self._greet(frame, now)
            return
        if self.link is not None:
            self.link.receive_control(frame, now)
            return
        if _FIRST_ANSWER <= number <= _LAST_ANSWER:
            return  # a PONG, or an answer nobody waits for
        if not 0 < number <= _LAST_REQUEST or number == _HELLO:
            raise RemoteProtocolError(f"a frame of type {number:#04x} from a client")
        if number == _CLOSE:
            self._said_bye = True
            raise PeerClosed
        if not frame.request_id and number not in _ONE_WAY:
            if is_known_type(number):
                raise RemoteProtocolError(f"a request of type {number:#04x} with request_id 0")
            return
        try:
            wait_s = self._rates(now).charge_command(now)
            if wait_s:
                now = await self._slow_down(wait_s)
            answer = await self._answer(frame, now)
        except RoomError as error:
            if error.limit:
                self.manager.node.count_limit(error.limit)
            answer = Error(
                request_type=number,
                code=error.code,
                retry=error.retryable,
                retry_after_ms=error.retry_after_ms,
                text=error.text,
            )
        if answer is not None:
            self.outbox.put_control(encode(answer, frame.request_id), now)
            if isinstance(answer, AuthenticateAnswer) and self.member is not None:
                self.gate.on_signed_in(self)

    def _greet(self, frame: ControlFrame, now: float) -> None:
        if frame.type != _HELLO:
            raise RemoteProtocolError(f"type {frame.type:#04x} before HELLO")
        try:
            hello = decode(frame.type, frame.fields)
        except UnreadableFields as error:
            raise RemoteProtocolError(f"HELLO: {error}") from error
        assert isinstance(hello, Hello)
        if hello.magic != MAGIC:
            raise RemoteProtocolError("not this protocol", Code.UNSUPPORTED_VERSION)
        if not hello.min_version <= VERSION <= hello.max_version:
            raise RemoteProtocolError(
                f"versions {hello.min_version} to {hello.max_version}", Code.UNSUPPORTED_VERSION
            )
        if not frame.request_id:
            raise RemoteProtocolError("HELLO with request_id 0")
        self.greeted = True
        limits = self.manager.node.limits
        self.decoder.max_frame_bytes = limits.max_frame_bytes
        welcome = Welcome(
            version=VERSION,
            capabilities=self._capabilities(),
            agent=AGENT,
            node=self.manager.node_name,
            auth_mode=self.gate.authenticator.mode,
            max_frame_bytes=limits.max_frame_bytes,
            max_init_bytes=limits.max_init_bytes,
            backlog_bytes=limits.backlog_bytes,
            backlog_age_ms=int(limits.backlog_age_s * 1000),
            stall_timeout_ms=int(limits.stall_timeout_s * 1000),
            ping_interval_ms=int(limits.ping_interval_s * 1000),
            max_subscriptions=limits.max_subscriptions,
        )
        self.outbox.put_control(encode(welcome, frame.request_id), now)

    def _capabilities(self) -> Capability:
        served = SERVED | self.gate.authenticator.capabilities
        return served | Capability.LINKS if self.gate.links is not None else served

    async def _slow_down(self, wait_s: float) -> float:
        """Wait, and return the time it is then."""
        await trio.sleep(wait_s)
        # Many may have waited for the same moment.
        await self.take_turn()
        return trio.current_time()

    async def _answer(self, frame: ControlFrame, now: float) -> object | None:
        """Carry out a request; None where the answer has been sent already."""
        if not is_known_type(frame.type):
            raise room_error(Code.NOT_SUPPORTED, f"unknown type {frame.type:#04x}")
        try:
            request = decode(frame.type, frame.fields)
        except UnreadableFields as error:
            raise room_error(Code.BAD_REQUEST, str(error)) from error
        match request:
            case Ping():
                return Pong(stamp=request.stamp)
            case Authenticate(method=AuthMethod.NODE) if self.gate.links is not None:
                return self._authenticate_node(request, self.gate.links)
            case Authenticate():
                return await self._authenticate(request, now)
            case Link() if self.gate.links is not None and self._peer:
                self._open_link(request, self.gate.links, frame.request_id, now)
                return None
            case RegisterAccount():
                await self.gate.authenticator.register(request, address=self.address)
                return RegisterAccountAnswer(account=request.account)
        if self.member is None:
            raise room_error(Code.NOT_AUTHENTICATED)
        if isinstance(request, AccountSend):
            size = len(request.payload) * len(request.receivers)
            wait_s = self._rates(now).charge_messages(size, now)
            if wait_s:
                now = await self._slow_down(wait_s)
            if self.member is None:
                raise room_error(Code.UNAVAILABLE)  # closed from outside meanwhile
        if isinstance(request, ChangePassword):
            return await self._change_password(request)
        return await carry_out(self.manager, self.gate, self.member, request, frame.request_id, now)

    def _authenticate_node(self, request: Authenticate, links: LinkGate) -> AuthenticateAnswer:
        if self.member is not None or self._peer:
            raise room_error(Code.BAD_REQUEST, "already authenticated")
        try:
            self._peer = links.authenticate(request)
        except RoomError as error:
            self._count_failure(error)
            raise
        self.gate.on_known(self)
        return AuthenticateAnswer(account="", rights=Right(0), session_token=b"", expires_ms=0)

    def _open_link(self, request: Link, links: LinkGate, request_id: int, now: float) -> None:
        link = links.open(self._peer, request, self.outbox)
        answer = LinkAnswer(node=self.manager.node_name, incarnation=links.incarnation)
        self.outbox.put_control(encode(answer, request_id), now)
        self.link = link
        link.begin(now)

    async def _authenticate(self, request: Authenticate, now: float) -> AuthenticateAnswer:
        if self.member is not None or self._peer:
            raise room_error(Code.BAD_REQUEST, "already authenticated")
        try:
            identity = await self.gate.authenticator.authenticate(
                request, address=self.address, is_loopback=self.is_loopback
            )
        except RoomError as error:
            self._count_failure(error)
            raise
        if self._over:
            # Closed from outside meanwhile: nobody would end what began now.
            raise room_error(Code.UNAVAILABLE)
        self._identity = identity
        self.member = Member(
            identity.account,
            self.outbox,
            identity.rights,
            push_rooms=identity.push_rooms,
            subscribe_rooms=identity.subscribe_rooms,
        )
        self.manager.enter(self.member)
        now = max(now, trio.current_time())  # that may have taken its time
        rates = self.manager.account_rates.of(identity.account, now)
        self._rates(now).join_account(rates)
        self.gate.sign_ins.add(self, identity)
        self.gate.on_known(self)
        return AuthenticateAnswer(
            account=identity.account,
            rights=identity.rights,
            session_token=identity.session_token,
            expires_ms=identity.expires_ms,
        )

    async def _change_password(self, request: ChangePassword) -> ChangePasswordAnswer:
        assert self._identity is not None
        try:
            await self.gate.authenticator.change_password(
                self._identity, request, address=self.address
            )
        except RoomError as error:
            self._count_failure(error)
            raise
        return ChangePasswordAnswer()

    def _count_failure(self, error: RoomError) -> None:
        if error.code == Code.BAD_CREDENTIALS:
            self._failed_logins += 1
            if self._failed_logins > self.manager.node.limits.max_failed_logins:
                raise RemoteProtocolError(
                    "too many failed logins",
                    Code.AUTHENTICATION_FAILED,
                    limit="max_failed_logins",
                )

    # What the owner of the connection asks for.

    @property
    def account(self) -> str | None:
        """Who authenticated here, also after the end."""
        return None if self._identity is None else self._identity.account

    def ping(self, now: float) -> None:
        self.pinged_at = now
        self.outbox.put_control(encode(Ping(stamp=_PING_STAMP), _PING_STAMP), now)

    def go_away(self, spread_s: float, now: float, *, address: str = "") -> None:
        """Tell the peer that the server is about to stop; ``address``: where to go instead."""
        if self.member is not None:
            event = GoAway(
                reason=GoAwayReason.STOPPING, address=address, spread_ms=int(spread_s * 1000)
            )
            self.outbox.put_control(encode(event), now)

    def close(self, code: Code, now: float) -> None:
        """Say why and send nothing more."""
        self._revoked = code in _RIGHTS_ENDED
        self.outbox.close(encode_close(code), code, now)

    def end(self, now: float) -> None:
        """The connection is over: leave every room. Idempotent."""
        if not self._over:
            self._over = True
            if self.link is not None:
                self.link.end(now)
            if self.member is not None:
                self.gate.sign_ins.discard(self, self.member.account)
                self.manager.leave(
                    self.member, clean=self._said_bye, now=now, revoked=self._revoked
                )
                self.member = None


def new_decoder(manager: RoomManager) -> Decoder:
    """Return the decoder of a connection that has not said HELLO yet."""
    return Decoder(
        max_frame_bytes=MAX_GREETING_BYTES,
        max_init_bytes=manager.node.limits.max_init_bytes,
        most_items=_ITEMS_IN_A_ROW,
    )
