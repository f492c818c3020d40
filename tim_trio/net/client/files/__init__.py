"""File transfer between accounts: protocol.md, Annex B; docs/files.md."""

from tim_trio.net.client.files.errors import (
    FileCancelled,
    FileDeclined,
    FileTransferError,
    FileUnusable,
    PeerUnreachable,
    TransferFailed,
    TransferTimedOut,
)
from tim_trio.net.client.files.receiving import Arrival, FileReceiver
from tim_trio.net.client.files.sending import FileSent
from tim_trio.net.client.files.transfer import FileTransfer, TransferPhase

__all__ = [
    "Arrival",
    "FileCancelled",
    "FileDeclined",
    "FileReceiver",
    "FileSent",
    "FileTransfer",
    "FileTransferError",
    "FileUnusable",
    "PeerUnreachable",
    "TransferFailed",
    "TransferPhase",
    "TransferTimedOut",
]
