"""``watch --media``: a source's tracks into a file that plays, or as Matroska to a player.

Source: protocol.md, Annex A.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final, assert_never

import click
import trio

from tim_trio.cli.output import Output as Standard
from tim_trio.cli.progress import Progress
from tim_trio.cli.push_media import check_installed
from tim_trio.errors import NoSuchRoom
from tim_trio.media.codecs import FILE_KINDS, FileKind, holds, kind_of
from tim_trio.media.errors import MediaError
from tim_trio.media.matroska import MatroskaStream
from tim_trio.media.programme import Chunk, Note, Outcome, Output, Programme, Segment, TrackEnd
from tim_trio.media.sink import FileSink
from tim_trio.net.client import Client, Item, RoomClosed, Subscription
from tim_trio.net.client.plain_nursery import open_plain_nursery

#: How long the first chunk waits for the source's other tracks to show up.
_HOLD_S: Final = 0.5
#: Written at once when so much has already come.
_WRITE_BYTES: Final = 256 * 1024


def kind_of_file(out: Path | None) -> FileKind | None:
    """Return what kind of file is to be written, None for standard output.

    Raises:
        click.UsageError: of that ending there is none.
        click.ClickException: the extra is missing.
    """
    if out is None:
        if sys.stdout.isatty():
            raise click.UsageError("give --out FILE, or pipe the output into a player")
        return None
    kind = FILE_KINDS.get(out.suffix.lower())
    if kind is None:
        raise click.UsageError(f"--out {out.name}: the name must end in {', '.join(FILE_KINDS)}")
    if not out.absolute().parent.is_dir():
        raise click.ClickException(f"cannot write {out}: there is no such directory")
    check_installed()
    return kind


async def watch_media(
    client: Client,
    stream: Subscription,
    *,
    out: Path | None,
    kind: FileKind | None,
    source: int | None,
    quiet: bool,
) -> int:
    """Write one source's media until it has ended; return the exit code.

    Raises:
        MediaError: a file cannot be written.
        OutputClosed: the reader of standard output has gone.
    """
    programme = Programme(source)
    if kind is not None:
        programme.wanted = lambda family: holds(kind, family)
    progress = Progress("received", lambda: f"{programme.missing_frames} missing", quiet)
    programme.begin(stream.sources)
    if programme.outcome is Outcome.ENDED:
        progress.say(f"the stream in room {stream.room} had already ended")
    async with open_plain_nursery() as nursery:
        writer = _Writer(out, kind, progress, nursery)
        try:
            async with progress.shown(client):
                await _follow(stream, programme, writer)
        finally:
            # Interrupted as well: what was recorded so far becomes a file that plays.
            with trio.CancelScope(shield=True):
                await writer.write(programme.open())
                await writer.finish()
    return _finish(programme, stream, writer)


async def _follow(stream: Subscription, programme: Programme, writer: _Writer) -> None:
    hold_until = math.inf
    while programme.outcome is None:
        outputs: list[Output] = []
        with trio.move_on_at(hold_until) as hold:
            try:
                item = await anext(stream)
            except (StopAsyncIteration, RoomClosed, NoSuchRoom):
                outputs = programme.cut_off()
            else:
                outputs = _take_all(item, stream, programme)
        if hold.cancelled_caught:
            outputs = programme.open()
        if not programme.is_holding:
            hold_until = math.inf
        elif hold_until == math.inf:
            hold_until = trio.current_time() + _HOLD_S
        await writer.write(outputs)


def _take_all(item: Item, stream: Subscription, programme: Programme) -> list[Output]:
    """Take an item, and what else has come already."""
    outputs: list[Output] = []
    size = 0
    while True:
        brought = programme.take(item)
        outputs += brought
        size += sum(len(one.payload) for one in brought if isinstance(one, Chunk))
        if size >= _WRITE_BYTES or programme.outcome is not None:
            return outputs
        try:
            item = stream.receive_nowait()
        except trio.WouldBlock:
            return outputs


class _Writer:
    """Writes segment after segment: FILE.mkv, FILE-2.mkv, …; or one to standard output.

    Attributes:
        segments: begun so far.
    """

    def __init__(
        self, out: Path | None, kind: FileKind | None, progress: Progress, nursery: trio.Nursery
    ) -> None:
        self.segments = 0
        self._out = out
        self._kind = kind
        self._progress = progress
        self._nursery = nursery
        self._matroska: MatroskaStream | None = None
        self._sink: FileSink | Standard | None = None

    async def write(self, outputs: Iterable[Output]) -> None:
        """Write what a programme brought.

        Raises:
            MediaError, OutputClosed, click.ClickException: it cannot be written.
        """
        pieces: list[bytes] = []
        for one in outputs:
            match one:
                case Segment():
                    await self._send(pieces)
                    await self.finish()
                    pieces = [self._begin(one)]
                case Chunk():
                    assert self._matroska is not None
                    pieces.append(
                        self._matroska.block(one.track, one.timestamp_us, one.payload, key=one.key)
                    )
                    self._progress.frames += 1
                    self._progress.bytes += len(one.payload)
                case TrackEnd():
                    assert self._matroska is not None
                    pieces.append(self._matroska.end(one.track, one.timestamp_us))
                case Note():
                    self._progress.say(one.text)
                case _:
                    assert_never(one)
        await self._send(pieces)

    async def finish(self) -> None:
        """Finish the running segment, if there is one.

        Raises:
            as `write`.
        """
        sink, self._sink = self._sink, None
        if sink is None or self._matroska is None:
            return
        try:
            await sink.write(self._matroska.flush())
        finally:
            if isinstance(sink, FileSink):
                await sink.finish()

    def _begin(self, segment: Segment) -> bytes:
        self.segments += 1
        for number, init in segment.tracks.items():
            self._progress.say(f"track {number}: {kind_of(init)} {init.codec}")
        if self._out is None or self._kind is None:
            if self.segments > 1:
                raise MediaError(
                    "the stream's parameters changed, and standard output cannot follow: "
                    "with --out FILE another file begins"
                )
            self._sink = Standard(None)
        else:
            path = self._out
            if self.segments > 1:
                path = path.with_stem(f"{path.stem}-{self.segments}")
                self._progress.say(f"going on in {path}")
            sink = FileSink(path, self._kind)
            sink.start(self._nursery)
            self._sink = sink
        self._matroska = MatroskaStream(
            segment.tracks, segment.start_us, holds_last=self._kind is not None
        )
        return self._matroska.header

    async def _send(self, pieces: list[bytes]) -> None:
        data = b"".join(pieces)
        if data and self._sink is not None:
            await self._sink.write(data)


def _finish(programme: Programme, stream: Subscription, writer: _Writer) -> int:
    """Say how it ended, and return the exit code."""
    assert programme.outcome is not None
    match programme.outcome:
        case Outcome.ENDED:
            pass
        case Outcome.GAP:
            _warn(f"{programme.missing_frames} frames are missing")
        case Outcome.CUT_OFF if stream.closed is not None:
            _warn(str(stream.closed))
        case Outcome.CUT_OFF if programme.source_left:
            _warn(f"source {programme.source} left before its END")
        case Outcome.CUT_OFF:
            _warn(f"room {stream.room} was gone when the connection was back")
        case _:
            assert_never(programme.outcome)
    if not writer.segments:
        _warn("no media came: there is no file")
        return programme.outcome or Outcome.CUT_OFF
    return programme.outcome


def _warn(text: str) -> None:
    click.echo(f"error: {text}", err=True)
