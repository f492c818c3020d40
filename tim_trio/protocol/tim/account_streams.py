"""TIM's messages to accounts as account streams, and any account stream as TIM's message.

Source: protocol.md, Annex C.
"""

from __future__ import annotations

from typing import Final

import attrs

from tim_trio.protocol.tim import json_form, packets
from tim_trio.protocol.tim.packets import BigBinary, BigString
from tim_trio.protocol.tim.structs import (
    Format,
    PacketType,
    Tid,
    TimFormatError,
    TimMessage,
)

#: Kinds of account streams (protocol.md, section 11).
KIND_MESSAGE: Final = 2
KIND_TEXT: Final = 3
KIND_BINARY: Final = 4

#: From an account to an account; a stream, of which nothing is kept.
TO_ACCOUNT: Final = 2
STREAMED: Final = 5
_MAX_UDTYPE: Final = 0x7FFF


def to_payload(packet: TimMessage | BigString | BigBinary) -> tuple[int, bytes]:
    """Return what a client's packet is as an account stream: kind and payload."""
    match packet:
        case BigString(text=text):
            return KIND_TEXT, text.encode("utf-8")
        case BigBinary(body=body):
            return KIND_BINARY, body
        case _:
            # Who it is from is not the sender's to say, nor how it was kept.
            plain = attrs.evolve(packet, from_tid=None, is_offline=False, mid=0)
            return KIND_MESSAGE, json_form.encode(plain)


def to_packet(
    account: str, kind: int, payload: bytes, form: Format, *, id: int, timestamp_ns: int
) -> bytes:
    """Return what a client gets for an account stream of any kind, whoever sent it.

    Args:
        account: the sender.
        id, timestamp_ns: for a message that has none of its own.
    """
    if kind == KIND_TEXT:
        return packets.encode_big_string(account, payload.decode("utf-8", "replace"))
    if kind == KIND_BINARY:
        return packets.encode_big_binary(account, payload)
    message = _message(kind, payload)
    return packets.encode_body(
        PacketType.MESSAGE,
        attrs.evolve(
            message,
            ms_type=TO_ACCOUNT,
            od_type=STREAMED,
            id=message.id or id,
            from_tid=Tid(node=account),
            timestamp=message.timestamp or timestamp_ns,
        ),
        form,
    )


def _message(kind: int, payload: bytes) -> TimMessage:
    if kind == KIND_MESSAGE:
        try:
            return json_form.decode(TimMessage, payload, len(payload))
        except TimFormatError:
            kind = 0  # not written by us: its bytes, then
    return TimMessage(data_binary=payload, udtype=kind if kind <= _MAX_UDTYPE else 0)
