"""``push --media``: a media file or URL into a room, at the pace of its timestamps.

Source: protocol.md, Annex A.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click
import trio

from tim_trio.cli.pushing import check_mode, check_result, progress_of, wait_watched
from tim_trio.errors import LocalProtocolError
from tim_trio.media.errors import MediaError
from tim_trio.net.client import Client, Source
from tim_trio.net.client.client import Mode

if TYPE_CHECKING:
    from tim_trio.media.reading import Frame, MediaReader

#: Behind schedule by more than this, the rest is not sent in a burst.
_MAX_LATE_S: Final = 0.25
MISSING: Final = 'media needs PyAV: pip install "tim_trio[media]"'


def check_installed() -> None:
    """Complain where the extra is missing."""
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise click.ClickException(MISSING) from error


async def open_media(source: str, *, loop: bool) -> MediaReader:
    """Open a file or URL in a thread; before anyone connects anywhere.

    Raises:
        MediaError: it cannot be read.
    """
    from tim_trio.media.reading import MediaReader

    # Abandoned on cancellation: a server may be silent for a while.
    return await trio.to_thread.run_sync(
        lambda: MediaReader(source, loop=loop), abandon_on_cancel=True
    )


async def push_media(
    client: Client,
    room: str,
    reader: MediaReader,
    *,
    mode: Mode | None,
    wait_subscribers: int,
    paced: bool,
    token: bytes | None,
    quiet: bool,
) -> None:
    """Publish what the reader reads, to its end, and close the reader.

    Raises:
        MediaError: the source cannot be read any further, or not be sent.
        click.ClickException: not everything was handed on.
    """
    try:
        async with client.publish(room, token=token) as source:
            check_mode(source, mode)
            progress = progress_of(client, source, quiet=quiet)
            for track, description in reader.tracks.items():
                progress.say(f"track {track}: {description}")
            sent = {track: source.next_seq(track) for track in reader.tracks}
            if any(source.has_ended(track) for track in reader.tracks):
                progress.say("all of it has been pushed before")
                return
            if any(sent.values()):
                progress.say(f"going on behind {sum(sent.values())} frames pushed before")
            await wait_watched(source, progress, wait_subscribers)
            sender = _Sender(source, client, skip=sent, waits=not reader.is_live)
            pacer = _Pacer() if paced and not reader.is_live else None
            async with progress.shown(client):
                if any(sent.values()):
                    skipped = await trio.to_thread.run_sync(reader.skip_passes, sent)
                    for track, count in skipped.items():
                        sender.skip[track] = max(0, sender.skip.get(track, 0) - count)
                while frames := await trio.to_thread.run_sync(reader.read, abandon_on_cancel=True):
                    for frame in frames:
                        if not sender.is_news(frame):
                            continue
                        if pacer is not None:
                            await pacer.wait(frame.due_us)
                        await sender.send(frame)
                        progress.frames += 1
                        progress.bytes += len(frame.payload)
                if sum(sender.skip.values()):
                    raise click.ClickException(
                        f"{sum(sent.values())} frames were pushed with this token before, "
                        "but the input has fewer: is it the same?"
                    )
                if not client.is_connected:
                    await client.wait_connected()
                result = await source.unpublish()
            check_result(source, result, took_over=token is not None)
    finally:
        reader.close()


class _Sender:
    """Sends frames, but for those that were sent before with the same token.

    Attributes:
        skip: by track, how many are still to be passed over.
    """

    def __init__(
        self, source: Source, client: Client, *, skip: dict[int, int], waits: bool
    ) -> None:
        self.skip = dict(skip)
        self._source = source
        self._client = client
        self._waits = waits

    def is_news(self, frame: Frame) -> bool:
        """Say whether the frame is to be sent; count it if not."""
        left = self.skip.get(frame.track, 0)
        if left:
            self.skip[frame.track] = left - 1
        return not left

    async def send(self, frame: Frame) -> None:
        # A live input goes on while the connection is away, and what it brings
        # then is worth nothing later. Of a file the rest is wanted.
        if self._waits and not self._client.is_connected:
            await self._client.wait_connected()
        try:
            await self._source.send(
                frame.payload,
                track=frame.track,
                key=frame.key,
                init=frame.init,
                end=frame.end,
                timestamp_us=frame.timestamp_us,
            )
        except LocalProtocolError as error:
            raise MediaError(
                f"{error}; encode it at a lower bitrate or in smaller pictures"
            ) from error


class _Pacer:
    """Keeps the schedule that the timestamps are."""

    def __init__(self) -> None:
        self._start: float | None = None

    async def wait(self, due_us: int) -> None:
        """Wait until a frame is due."""
        now = trio.current_time()
        if self._start is None:
            self._start = now - due_us / 1e6
        due = self._start + due_us / 1e6
        if now - due > _MAX_LATE_S:
            self._start += now - due
        elif due > now:
            await trio.sleep_until(due)
