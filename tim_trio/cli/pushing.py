"""What `push` does with a source of bytes and with one of media alike."""

from __future__ import annotations

import click

from tim_trio.cli.progress import Progress
from tim_trio.net.client import Client, Source
from tim_trio.net.client.client import Mode
from tim_trio.protocol.messages import UnpublishAnswer


def check_mode(source: Source, wanted: Mode | None) -> None:
    """Complain where the room is of the other mode than was asked for."""
    actual = source.mode.name.lower()
    if wanted is not None and wanted != actual:
        raise click.ClickException(f"room {source.room} is {actual}, not {wanted}")


def progress_of(client: Client, source: Source, *, quiet: bool) -> Progress:
    """Return the progress of a push: what went, and who watches."""

    def describe() -> str:
        return f"{source.viewers or 0} watching" + ("" if client.is_connected else ", reconnecting")

    return Progress("pushed", describe, quiet=quiet)


async def wait_watched(source: Source, progress: Progress, count: int) -> None:
    """Wait until so many watch."""
    if count:
        progress.say(f"waiting for {count} to watch room {source.room}")
        await source.wait_viewers(count)


def check_result(source: Source, result: UnpublishAnswer, *, took_over: bool) -> None:
    """Complain where not everything has been handed on."""
    if source.lost_frames:
        raise click.ClickException(
            f"{source.lost_frames} frames were lost with the connection "
            "(a room of --mode reliable loses none)"
        )
    if result.discarded and not took_over and not source.resumed:
        raise click.ClickException(f"the server discarded {result.discarded} frames")
