"""How a file transfer can end badly.

::

    TimError
    └── FileTransferError
        ├── FileUnusable       ours: it cannot be read or written, or has changed
        ├── PeerUnreachable    offline, refused, or no such account
        ├── FileDeclined       they do not want it
        ├── FileCancelled      a person on either side has cancelled
        ├── TransferTimedOut   nobody answered, or came back, in time
        └── TransferFailed     why is in `reason`
"""

from __future__ import annotations

from typing import Final

from tim_trio.errors import TimError
from tim_trio.net.client.files.messages import By
from tim_trio.net.client.files.sender import Ending, Outcome

_WHY: Final = {
    "changed": "the file has changed since it was offered",
    "unreadable": "the sender cannot read the file",
    "room": "the sender may not have a room for it",
    "digest": "what arrived is not what was promised (another SHA-256)",
    "space": "the receiver's disk is full",
    "unwritable": "the receiver cannot write the file",
    "superseded": "the same file was sent once more, and that one goes on",
    "protocol": "the other side broke the rules",
    "timeout": "the other side gave up waiting",
}
_WHY_DECLINED: Final = {
    "user": "does not want the file",
    "policy": "takes no files from this account",
    "busy": "is being offered too many files",
    "space": "has no room for a file of this size",
    "version": "has a program of another version",
}
_WHY_WE_DECLINED: Final = {
    "policy": "declined: nobody was asked",
    "busy": "declined: another program goes on with it",
    "space": "declined: the disk has no room for it",
}


class FileTransferError(TimError):
    """A file did not get there."""


class FileUnusable(FileTransferError):
    """A file of ours cannot be read or written, or is not what it was."""


class PeerUnreachable(FileTransferError):
    """The receiver is offline, refuses our messages, or does not exist: see ``ending``."""

    def __init__(self, account: str, ending: Ending) -> None:
        self.account = account
        self.ending = ending
        match ending:
            case Ending.UNKNOWN:
                text = f"there is no account {account}"
            case Ending.REFUSED:
                text = f"{account} takes messages from contacts only"
            case _:
                text = f"{account} is not online"
        super().__init__(text)


class FileDeclined(FileTransferError):
    """It was not wanted: ``by`` says on which side that was decided.

    ``reason`` is as in protocol.md, or one we do not know; for a receiver it
    is empty where another device of the account has taken the file.
    """

    def __init__(self, account: str, reason: str, by: By, *, ours: By) -> None:
        self.account = account
        self.reason = reason
        self.by = by
        if ours is By.SENDER:
            text = f"{account} {_WHY_DECLINED.get(reason, 'does not take the file')}"
        elif by is ours:
            text = _WHY_WE_DECLINED.get(reason, "declined")
        else:
            text = "another device has taken it"
        super().__init__(text)


class FileCancelled(FileTransferError):
    """A person has cancelled: ``by`` says on which side."""

    def __init__(self, account: str, by: By, *, ours: By) -> None:
        self.account = account
        self.by = by
        super().__init__("cancelled" if by is ours else f"{account} has cancelled")


class TransferTimedOut(FileTransferError):
    """Nobody answered, or came back, in time."""


class TransferFailed(FileTransferError):
    """It cannot be: ``reason`` as in protocol.md, or one we do not know.

    ``detail`` says which rule was broken, on the side that saw it.
    """

    def __init__(self, reason: str, by: By, detail: str = "") -> None:
        self.reason = reason
        self.by = by
        self.detail = detail
        text = _WHY.get(reason, f"the {by} could not go on")
        super().__init__(f"{text}: {detail}" if detail else text)


def error_of(outcome: Outcome, account: str, *, ours: By) -> FileTransferError:
    """Return the error for a transfer with ``account`` that did not end well."""
    match outcome.ending:
        case Ending.DECLINED:
            return FileDeclined(account, outcome.reason, outcome.by, ours=ours)
        case Ending.CANCELLED:
            return FileCancelled(account, outcome.by, ours=ours)
        case Ending.TIMED_OUT:
            return TransferTimedOut(f"{account} did not answer in time")
        case Ending.FAILED:
            return TransferFailed(outcome.reason, outcome.by)
        case _:
            return PeerUnreachable(account, outcome.ending)
