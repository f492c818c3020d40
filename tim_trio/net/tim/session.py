"""One TIM client's conversation: packets in, translated into requests and frames.

Answers go out as packets; what rooms and accounts send, the forms translate.

Source: docs/tim.md.
"""

from __future__ import annotations

import secrets
import time
from typing import Final, assert_never

import attrs

from tim_trio.core.member import Member
from tim_trio.core.requests import carry_out
from tim_trio.core.session import Session
from tim_trio.errors import Code, RoomError, room_error
from tim_trio.net.tim.credentials import Credentials, tim_error
from tim_trio.net.tim.form import TimForms
from tim_trio.protocol.decoder import ControlFrame
from tim_trio.protocol.layout import STREAM_HEADER_BYTES, UNLIMITED_CREDIT
from tim_trio.protocol.messages import (
    AccountSend,
    AccountSendAnswer,
    AuthenticateAnswer,
    DeliveryStatus,
    Grant,
    Publish,
    PublishAnswer,
    RegisterRoom,
    RegisterRoomAnswer,
    RemoveRoom,
    Revoke,
    RoomMode,
    StartFrom,
    Subscribe,
    SubscribeAnswer,
    Unpublish,
    Unsubscribe,
    encode,
)
from tim_trio.protocol.room_ids import format_room_id, parse_room_id
from tim_trio.protocol.runs import Run
from tim_trio.protocol.stream import encode_stream_header
from tim_trio.protocol.tim import account_streams, packets
from tim_trio.protocol.tim.packets import (
    BigBinary,
    BigStream,
    BigString,
    Body,
    Other,
    Packet,
    Ping,
)
from tim_trio.protocol.tim.structs import (
    MOST_PARTS,
    ErrorCode,
    Format,
    PacketType,
    RoomCall,
    TimAck,
    TimAuth,
    TimError,
    TimFormatError,
    TimMessage,
    TimReq,
    TimStream,
)
from tim_trio.protocol.websocket import encode_message, encode_ping
from tim_trio.protocol.wire import TOKEN_BYTES

#: One connection's requests are carried out one after another, so any number does.
_REQUEST_ID: Final = 1
#: A refused room is not asked for again, nor the refusal repeated, so soon.
_REFUSED_FOR_S: Final = 1.0
_MAX_REFUSED: Final = 100
_DELIVERY_ERRORS: Final = {
    DeliveryStatus.OFFLINE: TimError(code=ErrorCode.DOES_NOT_EXIST, info="nobody there"),
    DeliveryStatus.REFUSED: TimError(code=ErrorCode.PERMISSION, info="only from contacts"),
    DeliveryStatus.UNKNOWN: TimError(code=ErrorCode.ACCOUNT, info="no such account"),
    DeliveryStatus.BUSY: TimError(code=ErrorCode.BUSY, info="takes no more now"),
}
#: Of a name from a client, in code points; more than any name has that may be right.
_MOST_ECHOED: Final = 100
_BEFORE_SIGNING_IN: Final = frozenset((PacketType.AUTH, PacketType.REGISTER, PacketType.TOKEN))


#: Of a frame's struct, which has five fields: many of them are read in a row.
_MOST_PUSH_PARTS: Final = 64

_PUSHES: Final = frozenset((PacketType.STREAM, PacketType.BIG_BINARY_STREAM))


@attrs.frozen
class _Push:
    """A frame from a client; ``room`` as it wrote it."""

    room: str
    track: int
    body: bytes


@attrs.define(eq=False)
class _Published:
    """A source of ours in a room, and where its tracks stand."""

    room: int
    number: int
    next_seqs: dict[int, int] = attrs.Factory(dict)


@attrs.define(eq=False)
class TimSession(Session):
    """What `Session` is for frames: the state of one connection above its packets.

    Attributes:
        forms: of the server.
        credentials: of the server.
    """

    forms: TimForms = attrs.field(kw_only=True)
    credentials: Credentials = attrs.field(kw_only=True)
    #: Frames that wait to be relayed together.
    _pushed: bytearray = attrs.Factory(bytearray)
    #: That of its AUTH; of the packet it answers before that.
    _format: Format = Format.JSON
    _published: dict[str, _Published] = attrs.Factory(dict)
    _refused: dict[str, float] = attrs.Factory(dict)
    #: The log has been told.
    _sent_unreadable: bool = False

    def __attrs_post_init__(self) -> None:
        self.greeted = True  # by the handshake
        self.decoder.max_frame_bytes = self.manager.node.limits.max_frame_bytes
        # Nobody else can know the tokens that its sources were opened with, so
        # there is nothing to wait for when the connection is lost.
        self._said_bye = True

    @property
    def is_signed_in(self) -> bool:
        return self.member is not None

    def _decode(self, packet: bytes) -> Packet:
        if packets.type_of(packet) in _PUSHES:
            return packets.decode(packet, _MOST_PUSH_PARTS)
        return packets.decode(packet, MOST_PARTS + self.manager.node.limits.max_receivers)

    # Pushes

    def push_nowait(self, packet: bytes) -> bool:
        """Take a packet that is a frame for a room in which this connection publishes.

        Returns False for any other packet, with which nothing has been done: a
        task has to carry it out (`receive_control`), and what has been pushed
        before it has to be relayed first (`take_pushed`).
        """
        member = self.member
        if member is None or packets.type_of(packet) not in _PUSHES:
            return False
        try:
            push = _read_push(self._decode(packet))
        except TimFormatError:
            return False
        published = self._published.get(push.room)
        if (
            published is None
            or (published.room, published.number) not in member.sources
            or not self._fits(push)
        ):
            return False
        self._add_frame(push, published)
        return True

    def take_pushed(self) -> list[Run | ControlFrame]:
        """Return what has been pushed since the last call, as runs."""
        items: list[Run | ControlFrame] = []
        if self._pushed:
            error = self.decoder.feed_into(bytes(self._pushed), items)
            assert error is None, "we made them"
            self._pushed.clear()
        return items

    def _fits(self, push: _Push) -> bool:
        largest = self.manager.node.limits.max_frame_bytes
        return STREAM_HEADER_BYTES + len(push.body) <= largest

    def _add_frame(self, push: _Push, published: _Published) -> None:
        seq = published.next_seqs.get(push.track, 0)
        published.next_seqs[push.track] = seq + 1
        self._pushed += encode_stream_header(
            room=published.room,
            source=published.number,
            track=push.track,
            seq=seq,
            timestamp_us=time.time_ns() // 1000,
            flags=0,
            payload_bytes=len(push.body),
        )
        self._pushed += push.body

    async def _push(self, push: _Push, now: float) -> None:
        """Relay a frame, publishing first where that is new."""
        assert self.member is not None
        if self._refuse_at_once(push, now):
            return
        try:
            published = self._published.get(push.room)
            if published is None or (published.room, published.number) not in self.member.sources:
                published = await self._publish(push.room, now)
        except RoomError as error:
            self._count_limit(error)
            self._refuse_push(push, tim_error(error), now)
            return
        self._add_frame(push, published)
        for run in self.take_pushed():
            assert isinstance(run, Run)
            self.receive_run(run, now)

    def _refuse_at_once(self, push: _Push, now: float) -> bool:
        """Refuse what needs no asking."""
        if self._refused.get(push.room, 0.0) > now:
            self._discard(push, now)
            return True
        if not self._fits(push):
            self.manager.node.count_limit("max_frame_bytes")
            self._refuse_push(push, TimError(code=ErrorCode.BIG_DATA, info="too large"), now)
            return True
        return False

    async def _publish(self, room_text: str, now: float) -> _Published:
        try:
            room = parse_room_id(room_text)
        except ValueError:
            raise room_error(Code.NO_SUCH_ROOM, "not a room id") from None
        now = await self._charge(now)
        member = self._signed_in()
        # Rooms that have ended, and rights that were taken back.
        self._published = {
            name: one
            for name, one in self._published.items()
            if (one.room, one.number) in member.sources
        }
        before = set(member.sources)
        answer = await self._request(
            Publish(room=room, token=secrets.token_bytes(TOKEN_BYTES)), now
        )
        if isinstance(answer, PublishAnswer):
            number, mode = answer.source, answer.mode
        else:
            (key,) = (each for each in member.sources if each[0] == room and each not in before)
            number, mode = key[1], member.sources[key][0].mode
        if mode is RoomMode.RELIABLE:
            # Its pace is told by credits, of which TIM knows nothing.
            await self._request(Unpublish(room=room, source=number), now)
            raise room_error(Code.PERMISSION_DENIED, "a reliable room is not for TIM's clients")
        published = self._published[room_text] = _Published(room, number)
        return published

    def _refuse_push(self, push: _Push, error: TimError, now: float) -> None:
        """Answer a push that is not accepted; once a second and room at most."""
        self._discard(push, now)
        if len(self._refused) >= _MAX_REFUSED:
            self._refused = {room: until for room, until in self._refused.items() if until > now}
            if len(self._refused) >= _MAX_REFUSED:
                return
        self._refused[push.room] = now + _REFUSED_FOR_S
        ack = TimAck(ok=False, tim_type=PacketType.STREAM, error=error, n=push.room)
        self._send_ack(ack, now)

    def _discard(self, push: _Push, now: float) -> None:
        """Count a frame that goes nowhere as one that does: it has come all the same."""
        self.manager.node.discarded += 1
        self._unchecked_bytes -= STREAM_HEADER_BYTES + len(push.body)
        if self._unchecked_bytes < 0:
            self._check_stream_rate(now, is_live=True)

    # Everything else

    def receive_at_once(self, frame: ControlFrame, now: float) -> bool:
        return False  # there is no credit in packets

    async def receive_control(self, frame: ControlFrame, now: float) -> None:
        """Carry out a packet, ``frame.fields``, and answer it.

        Raises:
            RemoteProtocolError: the connection must end with this code.
        """
        message, kind = frame.fields, frame.type
        if self.member is None and packets.has_format(message):
            self._format = packets.format_of(message)
        try:
            packet = self._decode(message)
        except TimFormatError as why:
            if not self._sent_unreadable:
                self.manager.log.info(
                    "unreadable packet", address=self.address, type=kind, why=str(why)
                )
            self._sent_unreadable = True
            packet = None
        if self.member is not None and kind in _PUSHES and packet is not None:
            await self._push(_read_push(packet), now)
            return
        try:
            now = await self._charge(now)
            await self._serve(packet, kind, now)
        except RoomError as error:
            self._count_limit(error)
            self._send_ack(TimAck(ok=False, tim_type=kind, error=tim_error(error)), now)

    async def _charge(self, now: float) -> float:
        """Count a request, wait as its rate asks for, and return the time it is then."""
        wait_s = self._rates(now).charge_command(now)
        return await self._slow_down(wait_s) if wait_s else now

    def _count_limit(self, error: RoomError) -> None:
        if error.limit:
            self.manager.node.count_limit(error.limit)

    def _signed_in(self) -> Member:
        if self.member is None:
            raise room_error(Code.UNAVAILABLE)  # closed from outside meanwhile
        return self.member

    async def _serve(self, packet: Packet | None, kind: int, now: float) -> None:
        match packet:
            case None:
                wrong = TimError(code=ErrorCode.FORMAT, info="cannot be read")
                self._send_ack(TimAck(ok=False, tim_type=kind, error=wrong), now)
            case Ping():
                self._send(packets.PING, now)
            case Other(type=PacketType.ACK):
                pass  # the answer to a packet with an id, which we never send
            case _ if self.member is None and kind not in _BEFORE_SIGNING_IN:
                raise room_error(Code.NOT_AUTHENTICATED)
            case Body(type=PacketType.AUTH, value=TimAuth() as auth):
                await self._sign_in(auth, now)
            case Body(type=PacketType.TOKEN | PacketType.REGISTER as kind, value=TimAuth() as auth):
                try:
                    ack = await self.credentials.serve(kind, auth, address=self.address)
                except RoomError as error:
                    self._count_failure(error)
                    raise
                self._send_ack(ack, now)
            case Body(value=TimReq() as request):
                await self._serve_room(request, now)
            case Body(value=TimMessage() as message):
                receivers = _receivers(message)
                is_for_group = message.room_tid is not None and not receivers
                if message.od_type != account_streams.STREAMED or is_for_group:
                    self._count_unserved()
                await self._stream_to(receivers, _stamped(message), PacketType.MESSAGE, now)
            case BigString(node=node):
                await self._stream_to([node], packet, PacketType.BIG_STRING, now)
            case BigBinary(node=node):
                await self._stream_to([node], packet, PacketType.BIG_BINARY, now)
            case _:
                self._count_unserved()

    def _count_unserved(self) -> None:
        self.manager.node.tim_unserved += 1
        raise room_error(Code.NOT_SUPPORTED, "only streaming is served here")

    async def _sign_in(self, auth: TimAuth, now: float) -> None:
        if self.member is not None:
            raise room_error(Code.BAD_REQUEST, "already signed in")
        try:
            answer = await self._prove(auth, now)
        except RoomError as error:
            self._count_limit(error)
            code = tim_error(error).code
            if auth.token and code == ErrorCode.NOT_PASSED:
                code = ErrorCode.TOKEN
            wrong = TimError(code=code, info=error.text)
            self._send_ack(TimAck(ok=False, tim_type=PacketType.AUTH, error=wrong), now)
            return
        self.outbox.form = self.forms.of_format[self._format]
        self._send_ack(
            TimAck(
                ok=True,
                tim_type=PacketType.AUTH,
                t=time.time_ns() // 1_000_000,
                n=answer.account,
                n2=_echoed(auth.resource),
            ),
            now,
        )

    async def _prove(self, auth: TimAuth, now: float) -> AuthenticateAnswer:
        try:
            request = self.credentials.to_authenticate(auth)
        except RoomError as error:
            self._count_failure(error)  # of a token for once
            raise
        return await self._authenticate(request, now)

    # Rooms

    async def _serve_room(self, request: TimReq, now: float) -> None:
        try:
            call = RoomCall(request.rtype)
        except ValueError:
            self._count_unserved()
        about = _echoed(request.node)
        if call in (RoomCall.GRANT, RoomCall.REVOKE):
            about = _echoed(request.node2)
        try:
            if call is RoomCall.REGISTER:
                about = await self._register_room(now)
            elif not await self._change_room(call, request, now):
                return  # the answer has gone out with what follows it
        except RoomError as error:
            self._count_limit(error)
            ack = TimAck(
                ok=False,
                tim_type=PacketType.VIRTUAL_ROOM,
                error=tim_error(error),
                t=call,
                n=about,
            )
        else:
            ack = TimAck(ok=True, tim_type=PacketType.VIRTUAL_ROOM, t=call, n=about)
        self._send_ack(ack, now)

    async def _register_room(self, now: float) -> str:
        answer = await self._request(
            RegisterRoom(mode=RoomMode.LIVE, gather_ms=0, idle_timeout_s=0), now
        )
        assert isinstance(answer, RegisterRoomAnswer)
        return format_room_id(answer.room)

    async def _change_room(self, call: RoomCall, request: TimReq, now: float) -> bool:
        """Carry out a call on a room; say whether it is still to be answered."""
        try:
            room = parse_room_id(request.node)
        except ValueError:
            raise room_error(Code.NO_SUCH_ROOM) from None
        match call:
            case RoomCall.REMOVE:
                await self._request(RemoveRoom(room=room), now)
            case RoomCall.GRANT:
                await self._request(Grant(room=room, account=request.node2), now)
            case RoomCall.REVOKE:
                await self._request(Revoke(room=room, account=request.node2), now)
            case RoomCall.SUBSCRIBE:
                return await self._subscribe(room, is_big=request.req_int == 1, now=now)
            case RoomCall.UNSUBSCRIBE:
                await self._unsubscribe(room, now)
            case RoomCall.REGISTER:
                raise AssertionError
            case _:
                assert_never(call)
        return True

    async def _subscribe(self, room: int, *, is_big: bool, now: float) -> bool:
        member = self._signed_in()
        form = self.forms.big if is_big else self.outbox.form
        there = member.subscriptions.get(room)
        if there is not None:
            if there.form is form:
                return True  # TIM lets its clients say it again
            await self._unsubscribe(room, now)
        if is_big:
            member.forms[room] = self.forms.big
        try:
            answer = await self._request(
                Subscribe(room=room, start=StartFrom.GROUP, credit=UNLIMITED_CREDIT), now
            )
        finally:
            member.forms.pop(room, None)
        if isinstance(answer, SubscribeAnswer):
            self.outbox.put_control(encode(answer, _REQUEST_ID), now)
        return False

    async def _unsubscribe(self, room: int, now: float) -> None:
        if room in self._signed_in().subscriptions:
            await self._request(Unsubscribe(room=room), now)

    async def _request(self, request: object, now: float) -> object | None:
        member = self._signed_in()
        return await carry_out(self.manager, self.gate, member, request, _REQUEST_ID, now)

    # Accounts

    async def _stream_to(
        self,
        receivers: list[str],
        packet: TimMessage | BigString | BigBinary,
        kind: PacketType,
        now: float,
    ) -> None:
        if not receivers:
            raise room_error(Code.BAD_REQUEST, "to nobody")
        stream_kind, payload = account_streams.to_payload(packet)
        limits = self.manager.node.limits
        if len(payload) > limits.max_account_stream_bytes:
            self.manager.node.count_limit("max_account_stream_bytes")
            error = TimError(code=ErrorCode.BIG_DATA, info="too large for an account")
            self._send_ack(TimAck(ok=False, tim_type=kind, error=error), now)
            return
        wait_s = self._rates(now).charge_messages(len(payload) * len(receivers), now)
        if wait_s:
            now = await self._slow_down(wait_s)
        answer = await self._request(
            AccountSend(receivers=receivers, kind=stream_kind, payload=payload), now
        )
        assert isinstance(answer, AccountSendAnswer)
        for delivery in answer.deliveries:
            failure = _DELIVERY_ERRORS.get(DeliveryStatus(delivery.status))
            if failure is not None:
                name = _echoed(delivery.account)
                ack = TimAck(ok=False, tim_type=kind, error=failure, n=name)
                self._send_ack(ack, now)

    # Out

    def _send_ack(self, ack: TimAck, now: float) -> None:
        self._send(packets.encode_body(PacketType.ACK, ack, self._format), now)

    def _send(self, packet: bytes, now: float) -> None:
        self.outbox.put_control_encoded(encode_message(packet), now)

    def ping(self, now: float) -> None:
        """Ask for a sign of life: the WebSocket's own, which every library answers."""
        self.pinged_at = now
        self.outbox.put_control_encoded(encode_ping(), now)

    def go_away(self, spread_s: float, now: float, *, address: str = "") -> None:
        """TIM has no word for it; the close says that another server may serve."""


def _read_push(packet: Packet) -> _Push:
    """Return what a packet of one of the types in `_PUSHES` pushes."""
    match packet:
        case BigStream(room=room, body=body):
            return _Push(room, 0, body)
        case Body(value=TimStream(room=room, dtype=dtype, body=body)):
            return _Push(_echoed(room), dtype & 0xFF, body)
        case _:
            raise AssertionError(packet)


def _echoed(name: str) -> str:
    """Return a name as it is kept and answered with: one that may be right is so, whole."""
    return name[:_MOST_ECHOED]


def _receivers(message: TimMessage) -> list[str]:
    to = [message.to_tid.node] if message.to_tid is not None and message.to_tid.node else []
    return [*to, *message.to_list]


def _stamped(message: TimMessage) -> TimMessage:
    now_ns = time.time_ns()
    return attrs.evolve(message, id=now_ns // 1000, timestamp=now_ns)
