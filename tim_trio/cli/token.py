"""The secret of a push that may be started again: 16 bytes in hex, in a file of its own."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

import click

from tim_trio.protocol.wire import TOKEN_BYTES

_OWNER_ONLY: Final = 0o600


def read_token(path: Path) -> bytes:
    """Return the token in a file, which is made, for its owner alone, where there is none.

    Raises:
        click.ClickException: the file cannot be read or made, or holds something else.
    """
    try:
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _OWNER_ONLY)
        except FileExistsError:
            text = path.read_text(encoding="ascii", errors="replace").strip()
        else:
            text = secrets.token_hex(TOKEN_BYTES)
            with os.fdopen(fd, "w", encoding="ascii") as file:
                file.write(f"{text}\n")
    except OSError as error:
        raise click.ClickException(f"cannot use {path}: {error.strerror}") from error
    try:
        token = bytes.fromhex(text)
    except ValueError:
        token = b""
    if len(token) != TOKEN_BYTES:
        raise click.ClickException(
            f"{path} holds no token: that is {2 * TOKEN_BYTES} characters of hex"
        )
    return token
