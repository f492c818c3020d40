"""``send``: a file to an account."""

from __future__ import annotations

import mimetypes
from pathlib import Path
from typing import Final

import click

from tim_trio.cli.file_progress import FileProgress, shown_name
from tim_trio.cli.login import Login, server_options
from tim_trio.cli.options import account_name, quiet_option, reconnect_option
from tim_trio.cli.progress import format_bytes
from tim_trio.cli.runner import run
from tim_trio.net.client import Bounds
from tim_trio.net.client.files import FileSent, FileTransfer, FileUnusable, PeerUnreachable
from tim_trio.net.client.files.outgoing import OutgoingFile
from tim_trio.net.client.files.sender import Ending

_ANSWER_WITHIN_S: Final = 120.0


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--to", required=True, type=account_name, metavar="ACCOUNT", help="Who is to have it."
)
@click.option("--name", metavar="NAME", help="What to call it there.  [default: its name here]")
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="How long to wait for ACCOUNT to come online and to answer.  "
    f"[default: {_ANSWER_WITHIN_S:.0f} for an answer; who is not online is not waited for]",
)
@click.option(
    "--resume-within",
    "resume_within_s",
    type=click.FloatRange(0, min_open=True),
    default=300,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for ACCOUNT to come back when it went away in the middle.",
)
@reconnect_option
@server_options
@quiet_option
def send(
    file: Path,
    to: str,
    name: str | None,
    wait_s: float | None,
    resume_within_s: float,
    reconnect_for_s: float,
    login: Login,
    quiet: bool,
) -> int:
    """Send FILE to an account.

    It is read once for its digest, then offered; ACCOUNT takes it with
    `tim_trio receive`. Exit code 0 says that it is there, whole.

    When the connection or the server goes away, or ACCOUNT's program does,
    it is waited for and gone on with. Interrupted, run the same command
    again: it goes on where it was.
    """
    # Before anyone connects anywhere.
    try:
        OutgoingFile.open(file).close()
    except FileUnusable as error:
        raise click.ClickException(str(error)) from error
    transfer = FileTransfer(name=name or file.name)
    progress = FileProgress("sending", lambda: [transfer], quiet=quiet)

    async def command() -> int:
        bounds = Bounds(reconnect_for_s=reconnect_for_s)
        async with (
            login.connect(reconnect=reconnect_for_s > 0, bounds=bounds) as client,
            progress.shown(client),
        ):
            try:
                sent = await client.send_file(
                    file,
                    to=to,
                    name=name,
                    media_type=mimetypes.guess_type(name or file.name)[0] or "",
                    answer_within_s=wait_s or _ANSWER_WITHIN_S,
                    resume_within_s=resume_within_s,
                    may_be_offline=wait_s is not None,
                    transfer=transfer,
                )
            except PeerUnreachable as error:
                if error.ending is not Ending.OFFLINE:
                    raise
                raise click.ClickException(
                    f"{to} is not online (--wait 600 waits ten minutes)"
                ) from error
            progress.say(_summary(transfer, sent))
        return 0

    code = run(command, denied=f"{login.who} may not register rooms, and a file needs one")
    if code and transfer.attempts:
        progress.say("interrupted: run the same command again to go on")
    return code


def _summary(transfer: FileTransfer, sent: FileSent) -> str:
    rate = sent.moved_bytes / max(sent.elapsed_s, 1e-3)
    text = f"sent {shown_name(transfer)} to {transfer.account}: {format_bytes(sent.size)}"
    if sent.resumed_at:
        text += f", {format_bytes(sent.resumed_at)} of it before"
    text += f" in {sent.elapsed_s:.1f} s, {format_bytes(rate)}/s"
    again = sent.moved_bytes - (sent.size - sent.resumed_at)
    if again > 0:
        text += f", {format_bytes(again)} sent again"
    return text
