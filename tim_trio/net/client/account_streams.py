"""Messages between accounts: what became of one that was sent, and those that come.

Source: protocol.md, sections 11 and 13; docs/client.md.
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

import attrs
import trio

from tim_trio.errors import LocalProtocolError
from tim_trio.net.client.session import Session
from tim_trio.protocol import messages
from tim_trio.protocol.messages import AccountStream, DeliveryStatus

if TYPE_CHECKING:
    from tim_trio.net.client.line import Line

#: Kinds below belong to profiles of the protocol; applications begin here.
FIRST_OWN_KIND: Final = 256
_ALL_KINDS: Final = 0x10000
OWN_KINDS: Final = range(FIRST_OWN_KIND, _ALL_KINDS)

#: Every server takes so many receivers at once.
_RECEIVERS_AT_ONCE: Final = 64
#: Messages of one connection that are remembered while another takes its place.
_COPIES_KEPT: Final = 4096
#: What a message costs beside its payload.
_MESSAGE_COST: Final = 256


@attrs.frozen(kw_only=True)
class Receipt:
    """What became of a message for one of its receivers.

    Attributes:
        status: a `DeliveryStatus`, or a number we do not know.
        devices: connections of the receiver's that it was handed to.
    """

    account: str
    status: DeliveryStatus | int
    devices: int

    @property
    def is_delivered(self) -> bool:
        return self.status == DeliveryStatus.DELIVERED


def _status(number: int) -> DeliveryStatus | int:
    try:
        return DeliveryStatus(number)
    except ValueError:
        return number


async def send_to(
    ask: Callable[[messages.AccountSend], Awaitable[messages.AccountSendAnswer]],
    accounts: str | Iterable[str],
    payload: bytes,
    kind: int,
) -> dict[str, Receipt]:
    """Send to accounts, in as many requests as it takes, and return what became of it."""
    if not isinstance(payload, bytes | bytearray | memoryview):
        raise TypeError(f"a payload is bytes, not {type(payload).__name__}")
    receivers = [accounts] if isinstance(accounts, str) else list(dict.fromkeys(accounts))
    receipts = {}
    for start in range(0, len(receivers), _RECEIVERS_AT_ONCE):
        some = receivers[start : start + _RECEIVERS_AT_ONCE]
        answer = await ask(messages.AccountSend(receivers=some, kind=kind, payload=bytes(payload)))
        for delivery in answer.deliveries:
            receipts[delivery.account] = Receipt(
                account=delivery.account,
                status=_status(delivery.status),
                devices=delivery.devices,
            )
    return receipts


def check_size(message: messages.AccountSend, limits: messages.Welcome) -> None:
    """Raise LocalProtocolError for what would make the server close the connection."""
    size = len(messages.encode(message))
    if size > limits.max_frame_bytes:
        raise LocalProtocolError(
            f"a message of {len(message.payload)} bytes is more than the server takes"
        )


@attrs.define(eq=False, weakref_slot=True)
class AccountStreams:
    """Messages from other accounts, in the order they came. Made by `Client.account_streams`.

    Attributes:
        dropped: messages that had to make room for newer ones.
    """

    _line: Line = attrs.field(repr=False)
    _kinds: Collection[int]
    _bound_bytes: int
    dropped: int = 0
    _queue: deque[AccountStream] = attrs.field(factory=deque, repr=False)
    _held_bytes: int = 0
    _listeners: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot, repr=False)

    def __aiter__(self) -> AccountStreams:
        return self

    async def __anext__(self) -> AccountStream:
        """Return the next message. Cancelled, nothing is lost.

        Raises:
            ConnectionClosed: the connection is over and nothing is left.
        """
        await trio.lowlevel.checkpoint()
        while not self._queue:
            self._line.raise_if_over()
            await self._listeners.park()
        message = self._queue.popleft()
        self._held_bytes -= _cost(message)
        return message

    def _take(self, message: AccountStream) -> None:
        if message.kind not in self._kinds:
            return
        self._queue.append(message)
        self._held_bytes += _cost(message)
        # The newest is kept, whatever its size.
        while self._held_bytes > self._bound_bytes and len(self._queue) > 1:
            self._held_bytes -= _cost(self._queue.popleft())
            self.dropped += 1
        self._listeners.unpark_all()

    def _wake(self) -> None:
        self._listeners.unpark_all()


def _cost(message: AccountStream) -> int:
    return _MESSAGE_COST + len(message.payload)


@attrs.define(eq=False)
class Switchboard:
    """Hands what comes to every iterator that wants it, or keeps it for the next.

    A message may be right behind the answer that signs us in.
    """

    _bound_bytes: int
    _iterators: WeakSet[AccountStreams] = attrs.Factory(WeakSet)
    _unclaimed: deque[AccountStream] = attrs.Factory(deque)
    _unclaimed_bytes: int = 0
    _copies: _Copies = attrs.Factory(lambda: _Copies())

    def open(self, line: Line, kinds: Collection[int]) -> AccountStreams:
        """Return a new iterator, which gets what nobody wanted and what comes from now on."""
        streams = AccountStreams(line, kinds, self._bound_bytes)
        waiting, self._unclaimed, self._unclaimed_bytes = self._unclaimed, deque(), 0
        for message in waiting:
            if message.kind in kinds:
                streams._take(message)
            else:
                self._keep(message)
        self._iterators.add(streams)
        return streams

    def take(self, session: Session, message: AccountStream) -> None:
        """A message has come over one of our connections."""
        if self._copies.is_copy(session, message):
            return
        wanted = [each for each in self._iterators if message.kind in each._kinds]
        for streams in wanted:
            streams._take(message)
        if not wanted:
            self._keep(message)

    def _keep(self, message: AccountStream) -> None:
        self._unclaimed.append(message)
        self._unclaimed_bytes += _cost(message)
        while self._unclaimed_bytes > self._bound_bytes:
            self._unclaimed_bytes -= _cost(self._unclaimed.popleft())

    def begin(self) -> None:
        """One more connection is about to sign in."""
        self._copies.connections += 1

    def end(self) -> None:
        """A connection that has begun is over."""
        self._copies.connections -= 1
        if self._copies.connections <= 1:
            self._copies.forget()

    def wake(self) -> None:
        """There will be no other connection."""
        for streams in self._iterators:
            streams._wake()


@attrs.define(eq=False)
class _Copies:
    """Tells a message from its copy while we move: two connections are signed in then.

    Both bring what is sent meanwhile, in any order between the two. So what
    came over one of them is a copy if as much has come over the other.
    """

    connections: int = 0
    _ahead: dict[Session, Counter[tuple[str, int, bytes]]] = attrs.Factory(dict)

    def is_copy(self, session: Session, message: AccountStream) -> bool:
        if self.connections <= 1:
            return False
        key = message.account, message.kind, hashlib.sha256(message.payload).digest()
        for other, counts in self._ahead.items():
            if other is not session and counts[key]:
                counts[key] -= 1
                return True
        mine = self._ahead.setdefault(session, Counter())
        if len(mine) < _COPIES_KEPT:
            mine[key] += 1
        return False

    def forget(self) -> None:
        self._ahead.clear()
