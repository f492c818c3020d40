"""Options and argument types that commands share."""

from __future__ import annotations

import re
from typing import Final

import click

from tim_trio.net.client.address import parse_address
from tim_trio.net.client.credentials import checked_account
from tim_trio.protocol.room_ids import parse_room_id

_UNITS: Final = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3}
_BINARY_UNITS: Final = {"k": 1024, "m": 1024**2, "g": 1024**3}


def room_id(text: str) -> str:
    """Check a room id, 11 characters of base58."""
    try:
        parse_room_id(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    return text


def server_address(text: str) -> str:
    """Check ``tim://HOST:PORT`` or ``tims://HOST:PORT``."""
    try:
        return str(parse_address(text))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def account_name(text: str) -> str:
    """Check the name of an account."""
    try:
        return checked_account(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def byte_count(text: str) -> int:
    """Read a positive number of bytes: ``500k``, ``2M``, ``1.5M``, ``64Ki``."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([kKmMgG]?)(i?)[bB]?", text.strip())
    if found is not None and not (found[3] and not found[2]):
        units = _BINARY_UNITS if found[3] else _UNITS
        count = int(float(found[1]) * units[found[2].lower()])
        if count > 0:
            return count
    raise click.BadParameter(f"{text!r} is not a number of bytes such as 500k, 2M or 64Ki")


def byte_rate(text: str) -> int:
    """Read a number of bytes a second; 0 for as fast as possible."""
    return 0 if text.strip() == "0" else byte_count(text)


reconnect_option = click.option(
    "--reconnect-for",
    "reconnect_for_s",
    type=click.FloatRange(0),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="How long to look for the server after the connection is lost; 0 for not at all.",
)
quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress on standard error.")
