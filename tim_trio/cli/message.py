"""``message``: account streams on the command line."""

from __future__ import annotations

import base64
import json
import sys
from typing import Final

import click
import trio

from tim_trio.cli.login import Login, server_options
from tim_trio.cli.options import account_name, reconnect_option
from tim_trio.cli.runner import run
from tim_trio.net.client import Bounds, Receipt
from tim_trio.net.client.account_streams import FIRST_OWN_KIND, OWN_KINDS
from tim_trio.protocol.messages import AccountStream, DeliveryStatus

#: More than any server takes, so that its own error says how much that is.
_MAX_PAYLOAD_BYTES: Final = 1024 * 1024
_NOT_DELIVERED: Final = 3
_REASONS: Final = {
    DeliveryStatus.OFFLINE: "offline",
    DeliveryStatus.REFUSED: "refused",
    DeliveryStatus.UNKNOWN: "no such account",
    DeliveryStatus.BUSY: "busy, try again",
}

_kind = click.IntRange(0, 65_535)


@click.group()
def message() -> None:
    """Send messages to accounts, and see those that come. Nothing is stored."""


@message.command()
@click.argument("names", type=account_name, nargs=-1, required=True, metavar="NAME...")
@click.option("--text", metavar="TEXT", help="What to send.  [default: standard input]")
@click.option(
    "--kind",
    type=_kind,
    default=FIRST_OWN_KIND,
    show_default=True,
    metavar="N",
    help="What it is, to the programs at both ends; below 256 are the protocol's own.",
)
@server_options
def send(names: tuple[str, ...], text: str | None, kind: int, login: Login) -> int:
    """Send a message to every device of each NAME that is there now.

    Prints a line for each NAME. Exit code 3: not everyone has it.
    """
    if text is not None:
        payload = text.encode()
    else:
        payload = sys.stdin.buffer.read(_MAX_PAYLOAD_BYTES)

    async def command() -> int:
        async with login.connect() as client:
            receipts = await client.send_to(names, payload, kind=kind)
        for receipt in receipts.values():
            click.echo(f"{receipt.account}: {_describe(receipt)}")
        return 0 if all(each.is_delivered for each in receipts.values()) else _NOT_DELIVERED

    return run(command)


def _describe(receipt: Receipt) -> str:
    if receipt.is_delivered:
        return f"delivered to {receipt.devices} device{'' if receipt.devices == 1 else 's'}"
    if isinstance(receipt.status, DeliveryStatus):
        return _REASONS[receipt.status]
    return f"status {receipt.status}"


@message.command()
@click.option(
    "--kind",
    "kinds",
    type=_kind,
    multiple=True,
    metavar="N",
    help="Only this kind. May be repeated.  [default: all from 256 on]",
)
@click.option(
    "--count", type=click.IntRange(1), metavar="N", help="End after so many.  [default: never]"
)
@reconnect_option
@server_options
def listen(kinds: tuple[int, ...], count: int | None, reconnect_for_s: float, login: Login) -> int:
    """Print the messages that come, each as a line of JSON.

    Its members: "from", "kind", and "text", or "base64" for what is no text.
    """

    async def command() -> int:
        bounds = Bounds(reconnect_for_s=reconnect_for_s)
        async with login.connect(reconnect=reconnect_for_s > 0, bounds=bounds) as client:
            # On standard error, for whoever waits for it: from now on nothing is missed.
            click.echo(f"listening as {client.account}", err=True)
            streams = client.account_streams(kinds or OWN_KINDS)
            left = count
            while left is None or left > 0:
                line = to_json(await anext(streams))
                # In a thread: a pipe that nobody reads must not stop our pings.
                await trio.to_thread.run_sync(_print, line, abandon_on_cancel=True)
                left = None if left is None else left - 1
        return 0

    return run(command)


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def to_json(message: AccountStream) -> str:
    """Return a message as a line of ASCII, which does nothing to a terminal."""
    members: dict[str, object] = {"from": message.account, "kind": message.kind}
    try:
        members["text"] = message.payload.decode()
    except UnicodeDecodeError:
        members["base64"] = base64.b64encode(message.payload).decode()
    return json.dumps(members)
