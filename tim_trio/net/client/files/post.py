"""Sending a transfer's messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tim_trio.errors import ConnectionClosed, RoomError
from tim_trio.net.client.errors import RequestTimedOut
from tim_trio.net.client.files import messages
from tim_trio.net.client.files.messages import Message
from tim_trio.net.client.files.sender import Heard
from tim_trio.protocol.messages import DeliveryStatus

if TYPE_CHECKING:
    from tim_trio.net.client.client import Client

#: A status of later versions counts as offline: it may change.
_HEARD: Final[dict[int, Heard]] = {
    DeliveryStatus.DELIVERED: Heard.DELIVERED,
    DeliveryStatus.OFFLINE: Heard.OFFLINE,
    DeliveryStatus.REFUSED: Heard.REFUSED,
    DeliveryStatus.UNKNOWN: Heard.UNKNOWN,
}


async def post(client: Client, account: str, message: Message) -> tuple[Heard, int] | None:
    """Send a message; return who heard it, None where that is not known.

    Waits for the connection, for as long as a request may take.

    Raises:
        ConnectionClosed: there is no connection, and there will be none.
        RoomError: the server never lets us.
    """
    try:
        receipts = await client.send_to(account, messages.encode(message), kind=messages.KIND)
    except (ConnectionClosed, RequestTimedOut):
        client._line.raise_if_over()
        return None
    except RoomError as error:
        if not error.retryable:
            raise
        return None
    receipt = next(iter(receipts.values()), None)
    if receipt is None or receipt.status == DeliveryStatus.BUSY:
        return None
    return _HEARD.get(receipt.status, Heard.OFFLINE), receipt.devices
