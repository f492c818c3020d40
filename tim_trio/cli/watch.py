"""``watch``: one source and track of a room, to a file or standard output."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click
import trio

from tim_trio.cli.exit_codes import PIPE_CLOSED
from tim_trio.cli.login import Login, server_options
from tim_trio.cli.options import quiet_option, reconnect_option, room_id
from tim_trio.cli.output import Output, OutputClosed
from tim_trio.cli.progress import Progress
from tim_trio.cli.runner import run
from tim_trio.cli.selection import Outcome, Selection
from tim_trio.cli.watch_media import kind_of_file, watch_media
from tim_trio.errors import NoSuchRoom
from tim_trio.net.client import Bounds, Item, RoomClosed, Subscription

#: Written at once when so much has already come: a thread's hop per frame is dear.
_WRITE_BYTES: Final = 1024 * 1024


@click.command()
@click.argument("room", type=room_id)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write here, as FILE.part until the stream has ended.  [default: standard output]",
)
@click.option(
    "--source",
    type=click.IntRange(0, 2**32 - 1),
    metavar="N",
    help="Only this source.  [default: the first that sends]",
)
@click.option(
    "--track",
    type=click.IntRange(0, 255),
    metavar="N",
    help="Only this track.  [default: the first that comes]",
)
@click.option(
    "--media",
    is_flag=True,
    help="Write all tracks of the source as a file that plays: FILE.mkv, .mp4 or .webm; "
    "or to standard output as Matroska.",
)
@reconnect_option
@server_options
@quiet_option
def watch(
    room: str,
    out: Path | None,
    source: int | None,
    track: int | None,
    media: bool,
    reconnect_for_s: float,
    login: Login,
    quiet: bool,
) -> int:
    """Write one track of one source in ROOM, in order, until its END.

    A lost connection is replaced. What came meanwhile is asked for again as
    far as the server has it; the rest counts as missing.

    With --media a recording begins at a keyframe, at once, and goes on at one
    after a gap. It ends with the source, and is a whole file also when
    interrupted. Where the stream's parameters change, another file begins:
    FILE-2.mkv.

    \b
    Exit codes:
      0    the END of the track (of --media: of all) came or had come, nothing missing
      1    failed: no server, no such room, cannot write, …
      2    wrong usage
      3    the room ended, or the source left, before END
      4    frames were missing before END
      5    a reliable stream did not begin with its first frame
      130  interrupted
      141  the reader of standard output has gone
    """
    if media and track is not None:
        raise click.UsageError("--media writes all tracks: leave out --track")
    kind = kind_of_file(out) if media else None
    output = Output(None if media else out)

    async def command() -> int:
        bounds = Bounds(reconnect_for_s=reconnect_for_s)
        async with (
            login.connect(reconnect=reconnect_for_s > 0, bounds=bounds) as client,
            client.subscribe(room) as stream,
        ):
            if media:
                return await watch_media(
                    client, stream, out=out, kind=kind, source=source, quiet=quiet
                )
            selection = Selection(stream.mode, source, track)
            progress = Progress("received", lambda: f"{selection.missing_frames} missing", quiet)
            async with progress.shown(client):
                await _copy(stream, selection, output, progress)
        return _finish(selection, stream, output)

    try:
        return run(command, room=room)
    except OutputClosed:
        return PIPE_CLOSED
    finally:
        if output.part is not None:
            if output.written:
                click.echo(f"incomplete: what came is in {output.part}", err=True)
            else:
                output.part.unlink(missing_ok=True)


async def _copy(
    stream: Subscription, selection: Selection, output: Output, progress: Progress
) -> None:
    """Write what is selected until the watch is over."""
    selection.begin(stream.sources)
    if selection.outcome is Outcome.ENDED:
        progress.say(f"the stream in room {stream.room} had already ended")
    while not selection.over:
        try:
            item: Item | None = await anext(stream)
        except (StopAsyncIteration, RoomClosed, NoSuchRoom):
            # The last: gone while the connection was away.
            selection.outcome = Outcome.CUT_OFF
            return
        pieces: list[bytes] = []
        size = 0
        while item is not None:
            payload = selection.take(item)
            if payload is not None:
                pieces.append(payload)
                size += len(payload)
                progress.frames += 1
            item = _next_nowait(stream) if size < _WRITE_BYTES and not selection.over else None
        if size:
            await output.write(b"".join(pieces))
            progress.bytes += size


def _next_nowait(stream: Subscription) -> Item | None:
    try:
        return stream.receive_nowait()
    except trio.WouldBlock:
        return None


def _finish(selection: Selection, stream: Subscription, output: Output) -> int:
    """Say how it ended, keep the file where there is an END, return the exit code."""
    assert selection.outcome is not None
    match selection.outcome:
        case Outcome.ENDED:
            output.keep()
        case Outcome.GAP:
            output.keep()
            _warn(
                f"{selection.missing_frames} frames are missing: they came faster than they "
                "could be taken (push with --rate, or into a reliable room)"
            )
        case Outcome.CUT_OFF if stream.closed is not None:
            _warn(str(stream.closed))
        case Outcome.CUT_OFF if not selection.source_left:
            _warn(f"room {stream.room} was gone when the connection was back")
        case Outcome.CUT_OFF:
            _warn(f"source {selection.source} left before its END")
        case Outcome.MISSED_START:
            _warn("the stream began before; a reliable one is of use from its first frame only")
    return selection.outcome


def _warn(text: str) -> None:
    click.echo(f"error: {text}", err=True)
