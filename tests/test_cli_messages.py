"""``message``, ``contact`` and ``ban`` as people use them, against a real server."""

from __future__ import annotations

import json
import signal

import pytest

from tests.test_cli_end_to_end import (
    CommandLine,
    Process,
    command_line,
    finish,
    read_line,
    server,
)
from tim_trio.cli.contact import _describe as describe_state
from tim_trio.cli.message import _describe, to_json
from tim_trio.net.client import Receipt
from tim_trio.protocol.messages import AccountStream, ContactState, DeliveryStatus

__all__ = ["command_line", "server"]  # fixtures


def test_a_line_for_each_message() -> None:
    def line(payload: bytes) -> object:
        text = to_json(AccountStream(account="bøb", kind=300, payload=payload))
        assert text.isascii() and text.isprintable()
        return json.loads(text)

    assert line(b"hi\n\x1b[2J") == {"from": "bøb", "kind": 300, "text": "hi\n\x1b[2J"}
    assert line(b"\xff\x00") == {"from": "bøb", "kind": 300, "base64": "/wA="}


@pytest.mark.parametrize(
    "status, devices, text",
    [
        (DeliveryStatus.DELIVERED, 1, "delivered to 1 device"),
        (DeliveryStatus.DELIVERED, 3, "delivered to 3 devices"),
        (DeliveryStatus.OFFLINE, 0, "offline"),
        (DeliveryStatus.REFUSED, 0, "refused"),
        (DeliveryStatus.UNKNOWN, 0, "no such account"),
        (DeliveryStatus.BUSY, 0, "busy, try again"),
        (77, 0, "status 77"),
    ],
)
def test_what_became_of_it(status: int, devices: int, text: str) -> None:
    assert _describe(Receipt(account="bob", status=status, devices=devices)) == text


def test_every_state_has_its_words() -> None:
    assert len({describe_state(state) for state in ContactState}) == len(ContactState)
    assert describe_state(77) == "state 77"


@pytest.fixture
def listener(command_line: CommandLine) -> Process:
    listening = command_line.start("message", "listen", "--account", "bob")
    assert listening.stderr is not None
    assert listening.stderr.readline() == b"listening as bob\n"
    return listening


def good(line: CommandLine, *arguments: object, account: str = "alice") -> str:
    code, out, err = line.run(*arguments, "--account", account)
    assert (code, err) == (0, "")
    return out


@pytest.mark.slow
def test_messages(command_line: CommandLine, listener: Process) -> None:
    assert good(command_line, "message", "send", "bob", "--text", "ring") == (
        "bob: delivered to 1 device\n"
    )
    assert json.loads(read_line(listener)) == {"from": "alice", "kind": 256, "text": "ring"}
    code, out, err = command_line.run("message", "send", "bob", "nobody", "--text", "x")
    assert (code, out, err) == (3, "bob: delivered to 1 device\nnobody: offline\n", "")
    # Kinds of the protocol's own are not printed unless asked for.
    good(command_line, "message", "send", "bob", "--text", "file", "--kind", "1")
    piped = command_line.start("message", "send", "bob", "--kind", "999")
    assert finish(piped, b"\xff")[0] == 0
    assert json.loads(read_line(listener))["text"] == "x"
    assert json.loads(read_line(listener)) == {"from": "alice", "kind": 999, "base64": "/w=="}
    listener.send_signal(signal.SIGINT)
    assert finish(listener)[0] == 130
    code, _, err = command_line.run("message", "send", "bob", "--text", "x" * 70_000)
    assert code == 1
    assert err == "error: the server says: a payload has at most 65536 bytes\n"


@pytest.mark.slow
def test_listening_for_so_many_of_one_kind(command_line: CommandLine) -> None:
    listening = command_line.start(
        *("message", "listen", "--account", "carol", "--kind", 7, "--kind", 8, "--count", 2)
    )
    assert listening.stderr is not None
    assert listening.stderr.readline() == b"listening as carol\n"
    for kind in (7, 300, 8):
        good(command_line, "message", "send", "carol", "--text", "x", "--kind", kind)
    code, out, err = finish(listening)
    assert (code, err) == (0, "")
    assert [json.loads(line)["kind"] for line in out.decode().splitlines()] == [7, 8]


@pytest.mark.slow
def test_contacts(command_line: CommandLine) -> None:
    def contact(account: str, *arguments: object) -> str:
        return good(command_line, "contact", *arguments, account=account).strip()

    assert contact("ann", "policy") == "anyone"
    assert contact("ann", "policy", "contacts") == ""
    assert contact("ann", "policy") == "contacts"
    code, out, _ = command_line.run("message", "send", "ann", "--text", "x", "--account", "ben")
    assert (code, out) == (3, "ann: refused\n")
    assert contact("ben", "ask", "ann") == "asked by you"
    assert contact("ann", "list") == "STATE         NAME\nasks you      ben"
    assert contact("ann", "accept", "ben") == "contact"
    code, out, _ = command_line.run("message", "send", "ann", "--text", "x", "--account", "ben")
    assert (code, out) == (3, "ann: offline\n")
    assert contact("ben", "remove", "ann") == "none"
    assert contact("ben", "ask", "ann") == "asked by you"
    assert contact("ann", "decline", "ben") == "none"
    assert contact("ann", "block", "ben") == "blocked"
    assert contact("ann", "list") == "STATE         NAME\nblocked       ben"
    assert contact("ben", "list") == "STATE         NAME"
    assert contact("ann", "unblock", "ben") == "none"
    code, _, err = command_line.run("contact", "ask", "ann", "--account", "ann")
    assert (code, err) == (1, "error: the server says: that is you\n")


@pytest.mark.slow
def test_bans(command_line: CommandLine) -> None:
    room = command_line.register()
    watching = command_line.start("watch", room, "--account", "dave")
    command_line.until_watched(room, 1)
    assert good(command_line, "ban", "room", room, "--reason", "not in here") == ""
    code, _, err = finish(watching)
    assert code == 3
    assert err.endswith(f"room {room} has ended: closed by an operator: not in here\n")
    code, _, err = command_line.run("ban", "room", room)
    assert (code, err) == (1, f"error: room {room} does not exist, or has ended\n")
    assert good(command_line, "ban", "account", "mallory") == ""
    code, _, err = command_line.run("room", "list", "--account", "mallory")
    assert code == 1
    assert err.endswith("does not let account mallory in: this account is banned\n")
