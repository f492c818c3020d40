"""One TCP connection of the server: a reader, a writer, and how they end.

Reads and direct writes go to a non-blocking socket, since a scheduling pass
per read or write would cost more than the relaying. Stream frames are relayed
as soon as the socket is found readable (`readiness`); the connection's task
wakes up for requests alone. TLS has the shape of such a socket (`tls_socket`).

Source: DESIGN "The data path"; protocol.md, section 6.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from time import perf_counter
from typing import Final

import attrs
import trio

from tim_trio.core.accounts import Gate
from tim_trio.core.addresses import network_of
from tim_trio.core.form import Form
from tim_trio.core.manager import RoomManager
from tim_trio.core.outbox import Outbox
from tim_trio.core.session import PeerClosed, Session, new_decoder
from tim_trio.errors import Code, RemoteProtocolError, is_retryable
from tim_trio.log import get_logger
from tim_trio.net.byte_socket import ByteSocket
from tim_trio.net.passage import FrameInKernel, Pipe, readable_bytes
from tim_trio.net.readiness import ReadinessLoop, Rest
from tim_trio.net.tls_ends import is_cut
from tim_trio.net.tls_socket import RECORD_BYTES, TlsSocket
from tim_trio.net.turns import BEGINNING, ENDING, HANDSHAKE_STEP, REQUEST
from tim_trio.protocol.decoder import LARGE_FRAME_BYTES, ControlFrame
from tim_trio.protocol.layout import STREAM_HEADER_BYTES
from tim_trio.protocol.messages import Close, encode
from tim_trio.protocol.runs import Run

#: A little more than 256 KiB, for that much in frames with their headers.
READ_BYTES: Final = 257 * 1024
#: The same for a reliable room's large frames: its sources send so much at once.
_BULK_READ_BYTES: Final = 1026 * 1024
#: Who has sent so much of them, and may send as much again, is let rest.
_MUCH_BYTES: Final = 128 * 1024
#: The most that may gather meanwhile: a whole window of the default limits.
_GATHERED_BYTES: Final = 2 * 1024 * 1024
#: Looks without a rest, after one in which less came than might have: the publisher
#: waits for something else than credit.
_HURRIED_LOOKS: Final = 16
_MOMENT_S: Final = 0.001
#: From here on a frame is worth four calls to move it unread.
_PASSED_BYTES: Final = 256 * 1024
#: What is read where little comes at a time: making room for a large read
#: costs 20 µs, which is as much as ten sends' worth of our own work.
_SMALL_READ_BYTES: Final = 96 * 1024
#: What is read of who sends requests alone. They are a hundred times the work of
#: a stream's bytes, and wait in the kernel until their rate lets them be read.
FIRST_READ_BYTES: Final = 4 * 1024
#: So much goes on unread before other tasks get a turn: about a millisecond.
_PASSED_IN_A_ROW: Final = 4 * 1024 * 1024
#: Full reads in a row before other tasks get a turn.
_READS_IN_A_ROW: Final = 4
#: Deliveries in a row before other tasks get a turn: a few milliseconds.
DELIVERIES_IN_A_ROW: Final = 500
#: What a control frame counts for among them. So no more than six are carried out
#: without a turn, all of them CREDITs.
CONTROL_WORK: Final = 100
#: From here on pieces are worth a scatter write; smaller ones are joined.
_SCATTER_BYTES: Final = 16 * 1024
_NOTSENT_LOWAT: Final = 16 * 1024
#: Where credit bounds what is under way, the kernel takes whole frames: sends
#: that end in the middle of one each wake the writer.
_BULK_LOWAT: Final = 1024 * 1024

Address = str

#: A HELLO's first byte; TLS never begins with it.
_PLAIN: Final = b"\0"
_PLAIN_REFUSED: Final = encode(
    Close(
        code=Code.UNSUPPORTED_VERSION,
        retry=is_retryable(Code.UNSUPPORTED_VERSION),
        retry_after_ms=0,
        text="this port speaks TLS",
    )
)

_log = get_logger("server")


def configure_socket(sock: socket.socket) -> None:
    """Set what Trio sets on its own streams: no Nagle delay, a short unsent queue.

    The second keeps the kernel from hiding a slow consumer behind megabytes
    that it has taken and not sent.
    """
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    set_unsent(sock, _NOTSENT_LOWAT)


def set_unsent(sock: socket.socket, size: int) -> None:
    """Let the kernel take data while less than ``size`` bytes wait to be sent."""
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, size)


@attrs.frozen
class Arrival:
    """What reading left for a connection's task.

    Attributes:
        items: to be carried out, in order.
        error: then raised: the peer's fault or ours.
        is_last: the connection has ended.
        has_more: there is more in what has been read: do not wait for the socket.
    """

    items: list[Run | ControlFrame] = attrs.field(factory=list)
    error: Exception | None = None
    is_last: bool = False
    has_more: bool = False


ENDED: Final = Arrival(is_last=True)


async def shake_hands(
    tls: TlsSocket, take_turn: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
) -> None:
    """Do TLS's handshake; how long it may take is the caller's to bound.

    Args:
        take_turn: called before each of its steps.

    Raises:
        ssl.SSLError: the peer speaks something else, or broke off.
        OSError: the connection is lost.
        trio.ClosedResourceError: `trio.lowlevel.notify_closing` was called.
    """
    await take_turn()
    while not tls.shake_hands():
        if tls.must_write:
            await trio.lowlevel.wait_writable(tls)
        else:
            await trio.lowlevel.wait_readable(tls)
        await take_turn()


class TcpConnection:
    """Owns one accepted socket from the greeting to the close.

    Args:
        sock: configured; where it is a `TlsSocket` whose handshake is still to
            be done, that comes first.
        make_session: another kind of conversation: what dials other nodes.
        pipe: what large frames that come here may pass through, unread.

    Attributes:
        session: the conversation; its ``outbox`` is this connection's.
        address: the peer's, without its port.
        scheme: by which way it came, as its server's address begins; empty for
            clients that speak another protocol.
    """

    __slots__ = (
        "_decoder",
        "_hurried",
        "_limits",
        "_lingers",
        "_low_water",
        "_network",
        "_nursery",
        "_outbox",
        "_pipe",
        "_plain",
        "_read_bytes",
        "_readiness",
        "_socket",
        "_tls",
        "_turns",
        "accepted_at",
        "address",
        "scheme",
        "session",
    )

    def __init__(
        self,
        sock: ByteSocket,
        address: Address,
        manager: RoomManager,
        readiness: ReadinessLoop[Arrival],
        gate: Gate[Session] | None = None,
        *,
        is_loopback: bool = False,
        form: Form | None = None,
        make_session: Callable[..., Session] = Session,
        pipe: Pipe | None = None,
    ) -> None:
        self.address = address
        self.scheme = "tims" if isinstance(sock, TlsSocket) else "tim"
        self.accepted_at = trio.current_time()
        self._socket = sock
        self._readiness = readiness
        self._turns = readiness.turns
        self._network = network_of(address)
        self._read_bytes = FIRST_READ_BYTES
        # How much must have come before the kernel wakes us; 1 but while we rest.
        self._low_water = 1
        self._hurried = 0
        # None with TLS: it is records that are read then, which end where they like.
        self._plain = sock if isinstance(sock, socket.socket) else None
        self._pipe = pipe if self._plain is not None else None
        #: Until its handshake is done.
        self._tls = sock if isinstance(sock, TlsSocket) and not sock.is_ready else None
        self._lingers = True
        self._nursery: trio.Nursery | None = None
        self._outbox = Outbox(
            sock.send,
            manager.node,
            start_writer=self._start_writer,
            on_abort=self._cancel,
            on_bulk=self._expect_bulk,
            form=form,
            sink=self._plain if form is None else None,
        )
        self._decoder = new_decoder(manager)
        self._limits = manager.node.limits
        self.session = make_session(
            manager,
            self._outbox,
            self._decoder,
            self.accepted_at,
            gate=gate or Gate(),
            address=address,
            is_loopback=is_loopback,
        )
        # Not a method of ours: that would be a cycle.
        self.session.take_turn = partial(self._turns.take, self._network, REQUEST)

    async def run(self) -> int | None:
        """Serve the connection until it ends; return its close code, None for lost.

        Leaves nothing behind, also when cancelled: rooms, queued bytes and
        the socket are given up before it returns.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await self._turns.take(self._network, BEGINNING)
                if not self._outbox.closed:
                    code = None
                    try:
                        if self._tls is None or await self._shake_hands(self._tls):
                            code = await self._read()
                    except Exception as failure:
                        # Ours, not the peer's: it is told so, and nothing of what.
                        _log.error("internal error", address=self.address, exc_info=failure)
                        code = Code.INTERNAL_ERROR
                    now = trio.current_time()
                    self.session.end(now)
                    if code is None:
                        self._outbox.close(None, None, now)
                    else:
                        self._say_close(code, now)
                    # The writer sends what is queued and returns; a peer
                    # that does not take it is not waited for.
                    nursery.cancel_scope.deadline = now + self._limits.close_timeout_s
            # An abort comes here straight away: what it held is given up
            # before the peer gets its moment, not after.
            self.session.end(trio.current_time())
            self._outbox.discard()
            await self._linger()
        finally:
            self.session.end(trio.current_time())
            self._outbox.discard()
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
            # Half of what keeps a dead connection for the garbage collector,
            # whose full passes are pauses of every stream.
            self._nursery = None
        return self._outbox.close_code

    def _expect_bulk(self) -> None:
        if self._plain is not None:
            set_unsent(self._plain, _BULK_LOWAT)

    def close(self, code: Code) -> None:
        """End the connection from outside, saying why. Does not block.

        Does nothing to a connection that is ending already.
        """
        if self._outbox.closed:
            return
        now = trio.current_time()
        self._say_close(code, now)
        self.session.end(now)
        if self._nursery is not None:
            scope = self._nursery.cancel_scope
            scope.deadline = min(scope.deadline, now + self._limits.close_timeout_s)
        self._wake_reader()

    def _wake_reader(self) -> None:
        """End its waiting for bytes that may never come, without a cancel scope
        of its own in each of thousands of connections."""
        if self._tls is None:
            self._readiness.close(self._socket.fileno())
        else:
            trio.lowlevel.notify_closing(self._socket)

    def drop(self, code: Code) -> None:
        """As `close`, but say it only if it can leave at once, and wait for nothing."""
        self._lingers = False
        self.close(code)
        self._cancel()

    def _say_close(self, code: Code, now: float) -> None:
        if self._tls is None:
            self.session.close(code, now)
        else:
            self._outbox.close(None, code, now)  # there are no keys to say it with

    def _cancel(self) -> None:
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    def _start_writer(self) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(self._write)

    async def _shake_hands(self, tls: TlsSocket) -> bool:
        """Do TLS's handshake; False when there will be none, and nothing more to say."""
        try:
            await shake_hands(tls, partial(self._turns.take, self._network, HANDSHAKE_STEP))
        except ssl.SSLError as error:
            if is_cut(error):
                return False
            code = Code.PROTOCOL_ERROR
            if tls.first_byte == _PLAIN:
                code = Code.UNSUPPORTED_VERSION
                tls.send_plain(_PLAIN_REFUSED)
            # One of OpenSSL's own names, not a text of the peer's.
            _log.info("tls handshake failed", address=self.address, reason=error.reason)
            self._outbox.close(None, code, trio.current_time())
            return False
        except (OSError, trio.ClosedResourceError):
            return False
        self._tls = None
        return True

    async def _read(self) -> Code | None:
        """Read and carry out until the peer ends or breaks the protocol.

        Returns the code to close with, None when the peer closed.
        """
        # What came along with TLS's handshake is no longer in the socket.
        arrival = self._receive_at_once()
        while True:
            if arrival is None:
                try:
                    arrival = await self._readiness.wait(self._socket.fileno(), self._receive)
                except trio.ClosedResourceError:
                    return None
            try:
                if self.session.pause_s:
                    await self.session.pause()
                await self._carry_out(arrival.items)
                if arrival.error is not None:
                    try:
                        raise arrival.error
                    finally:
                        arrival = ENDED  # a cycle else: this frame is on the traceback
            except RemoteProtocolError as broken:
                return self._note_offence(broken)
            except PeerClosed:
                return Code.BYE
            if arrival.is_last or self._outbox.closed:
                await self._turns.take(self._network, ENDING)
                return None
            if arrival.has_more:
                await trio.lowlevel.checkpoint()
                arrival = self._receive_at_once()
            else:
                # While it waits for more, an idle connection must not pin what
                # it read last.
                arrival = None

    def _note_offence(self, broken: RemoteProtocolError) -> Code:
        if broken.limit:
            self.session.manager.node.count_limit(broken.limit)
        self.session.manager.log.info(
            "protocol error",
            address=self.address,
            code=broken.code.label,
            error=str(broken),
        )
        return broken.code

    def _receive(self, now: float) -> Arrival | Rest | None:
        """Read what there is and relay the stream frames in it. Never blocks.

        Returns what is left for the task: requests, and what ends the
        connection; None for nothing, Rest where much more is about to come.
        """
        result = self._pass_frames(now) if self._may_pass_frames() else None
        if result is None:
            result = self._read_frames(now)
        if self._low_water != 1 and not isinstance(result, Rest):
            self._set_low_water(1)
        return result

    def _set_low_water(self, size: int) -> None:
        if size != self._low_water:
            self._low_water = size
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)

    def _receive_at_once(self) -> Arrival | None:
        """As `_receive`, but not to rest: only who looks at all sockets ends that again."""
        result = self._receive(trio.current_time())
        if isinstance(result, Rest):
            self._set_low_water(1)
            return None
        return result

    def _may_pass_frames(self) -> bool:
        decoder = self._decoder
        return (
            self.session.pace is not None
            and self._pipe is not None
            and decoder.frame_bytes >= _PASSED_BYTES
            and decoder.is_between_frames
        )

    def _pass_frames(self, now: float) -> Arrival | Rest | None:
        """Let large frames go on unread; None where there is something to be read."""
        before = self._low_water
        try:
            result, total = self._pass_whole_frames(now)
        finally:
            # Once for all: each CREDIT wakes the publisher.
            self.session.tell_credit()
        if result is not None or not total:
            return result
        if total < before:
            self._hurried = _HURRIED_LOOKS
        elif self._hurried:
            self._hurried -= 1
        return None if self._hurried else self._rest(Rest.UNTIL_MUCH)

    def _pass_whole_frames(self, now: float) -> tuple[Arrival | Rest | None, int]:
        """Do so; return what there is to be done, and how many bytes have passed."""
        sock, pipe = self._plain, self._pipe
        assert sock is not None and pipe is not None
        session = self.session
        total = available = 0
        while total < _PASSED_IN_A_ROW:
            try:
                header = sock.recv(STREAM_HEADER_BYTES, socket.MSG_PEEK)
                frame = self._decoder.look_at(header)
                if frame is None or frame.size < _PASSED_BYTES or not session.may_pass(frame):
                    return None, 0
                if available < frame.size:
                    available = readable_bytes(sock)
                if available < frame.size:
                    if not total and self._low_water >= frame.size:
                        return None, 0  # It has been waited for: the kernel holds no more.
                    self._set_low_water(frame.size)
                    return Rest.UNTIL_MUCH, total
                pipe.open()
            except BlockingIOError:
                break
            except OSError:
                return None, 0  # Reading finds the same, or needs no pipe.
            session.last_received = now
            try:
                session.pass_on(frame, FrameInKernel(pipe, sock, header, frame.size), now)
            except Exception as failure:
                return Arrival(error=failure), total
            if self._outbox.closed:
                return ENDED, total
            if session.pause_s:
                return Arrival(), total
            total += frame.size
            available -= frame.size
        return None, total

    def _rest(self, patience: Rest) -> Rest | None:
        """Let as much gather as the publisher may send; then it waits for credit."""
        pace = self.session.pace
        frame_bytes = self._decoder.frame_bytes
        if pace is None:
            return None
        coming = min(pace.left, _GATHERED_BYTES) // frame_bytes * frame_bytes
        wanted = coming - self._decoder.buffered_bytes
        if self._plain is None:
            wanted -= RECORD_BYTES  # of which a part may have come
        if wanted < _MUCH_BYTES:
            return None
        self._set_low_water(wanted)
        return patience

    def _read_frames(self, now: float) -> Arrival | Rest | None:
        session = self.session
        decoder = self._decoder
        began = perf_counter()
        total = 0
        for _ in range(_READS_IN_A_ROW):
            if decoder.has_more:
                data, is_full = b"", True
            else:
                wanted = self._read_bytes
                if decoder.frame_bytes >= LARGE_FRAME_BYTES and self._plain is not None:
                    if session.pace is not None and wanted == READ_BYTES:
                        wanted = _BULK_READ_BYTES
                    wanted = decoder.suggest_read(wanted)
                try:
                    data = self._socket.recv(wanted)
                except BlockingIOError:
                    break
                except OSError:
                    return ENDED
                if not data:
                    return ENDED
                size = len(data)
                total += size
                is_full = size == wanted
                if self._read_bytes == FIRST_READ_BYTES:
                    if size > FIRST_READ_BYTES // 2:
                        self._read_bytes = _SMALL_READ_BYTES
                elif is_full:
                    self._read_bytes = READ_BYTES
                elif size < _SMALL_READ_BYTES:
                    self._read_bytes = _SMALL_READ_BYTES
                session.last_received = now
            items: list[Run | ControlFrame] = []
            error = decoder.feed_into(data, items)
            has_more = decoder.has_more
            if has_more:
                self._read_bytes = FIRST_READ_BYTES
            work = 0
            for done, item in enumerate(items):
                if work > DELIVERIES_IN_A_ROW:
                    return Arrival(items[done:], error, has_more=has_more)
                try:
                    if isinstance(item, Run):
                        work += session.receive_run(item, now)
                    elif session.receive_at_once(item, now):
                        work += CONTROL_WORK
                    else:
                        return Arrival(items[done:], error, has_more=has_more)
                except Exception as failure:
                    return Arrival(error=failure)
                if self._outbox.closed:
                    return ENDED
                if session.pause_s:
                    return Arrival(items[done + 1 :], error, has_more=has_more)
            if error is not None:
                return Arrival(error=error)
            if has_more:
                return Arrival(has_more=True)
            if not is_full or work > DELIVERIES_IN_A_ROW:
                # A full read means that there is more: no need to ask the kernel.
                break
        # Who keeps us for longer has more come meanwhile.
        if session.pace is None or total < _MUCH_BYTES or perf_counter() - began > _MOMENT_S:
            return None
        return self._rest(Rest.A_MOMENT)

    async def _carry_out(self, items: list[Run | ControlFrame]) -> None:
        work = 0
        for item in items:
            # A node speaks for many, and has no rate either.
            if not isinstance(item, Run) and self.session.link is None:
                await self._turns.take(self._network, REQUEST)
            if self._outbox.closed:  # by another task, or by what was carried out
                return
            # Carrying out what came before may have taken its time.
            now = trio.current_time()
            if isinstance(item, Run):
                work += self.session.receive_run(item, now)
                if self.session.pause_s:
                    await self.session.pause()
            else:
                work += CONTROL_WORK
                await self.session.receive_control(item, now)
            if work > DELIVERIES_IN_A_ROW:
                work = 0
                await trio.lowlevel.checkpoint()

    async def _write(self) -> None:
        """Send what the outbox holds, in order, until it is closed and empty."""
        sock = self._socket
        outbox = self._outbox
        stall_timeout_s = self._limits.stall_timeout_s
        while True:
            try:
                pieces = await outbox.next_batch()
            except trio.EndOfChannel:
                return
            size = sum(map(len, pieces))
            try:
                if len(pieces) == 1:
                    sent = sock.send(pieces[0])
                elif size >= _SCATTER_BYTES * len(pieces):
                    sent = sock.sendmsg(pieces)
                else:
                    sent = sock.send(b"".join(pieces))
            except BlockingIOError:
                with trio.move_on_after(stall_timeout_s) as patience:
                    try:
                        await trio.lowlevel.wait_writable(sock)
                    except trio.ClosedResourceError:
                        continue  # `close` woke everyone
                if patience.cancelled_caught:
                    self.session.manager.node.count_limit("stall_timeout_s")
                    outbox.abort(Code.SLOW_CONSUMER)
                    return
            except OSError:
                outbox.abort(None)
                return
            else:
                outbox.settle(sent, trio.current_time())

    async def _linger(self) -> None:
        """Close so that the peer can read our last frames.

        Closing a socket with unread bytes in it resets the connection, and a
        reset throws away what the peer has not read: so say the end, then
        read and drop for a moment.
        """
        if self._outbox.close_code is None or not self._lingers:
            return
        self._set_low_water(1)
        with trio.move_on_after(self._limits.close_timeout_s):
            try:
                self._socket.shutdown(socket.SHUT_WR)
                while True:
                    await trio.lowlevel.wait_readable(self._socket)
                    if not self._socket.recv(READ_BYTES):
                        return
            except OSError:
                return
