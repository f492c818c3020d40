"""Following a part of etcd's keys: a snapshot, and every change from then on.

Lost connections are resumed at the revision behind the last one seen. Where
etcd has compacted that away, the follower gets a new snapshot instead: it
sees the state, though not each step that led there.
"""

from __future__ import annotations

import base64
import contextlib
import json
import random
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import attrs
import httpx
import trio

from tim_trio.cluster.etcd import (
    EtcdClient,
    EtcdRefused,
    EtcdUnavailable,
    KeyValue,
    Page,
    describe,
    error_of,
    prefix_end,
    read_kv,
)
from tim_trio.errors import ClusterError

#: A stream that says nothing for so long is opened anew: nothing else tells a
#: quiet etcd from a dead wire.
SILENCE_S: Final = 15.0
_LONGEST_PAUSE_S: Final = 2.0


@attrs.frozen
class Change:
    """A key was put, or deleted: then ``kv`` is None."""

    key: str
    kv: KeyValue | None
    revision: int


class _Compacted(Exception):
    """The changes behind the last one seen are gone."""


@attrs.define(eq=False)
class Follower:
    """Follows all keys that begin with ``prefix``.

    Args:
        on_snapshot: gets the whole state, at first and after a compaction.
        on_changes: gets what changed, in order.
        on_trouble: gets a line when etcd cannot be reached; may be called often.
    """

    client: EtcdClient
    prefix: str
    on_snapshot: Callable[[Page], None]
    on_changes: Callable[[list[Change]], None]
    on_trouble: Callable[[str], None]
    silence_s: float = SILENCE_S
    #: The last revision seen; 0 for none.
    revision: int = 0

    async def run(self) -> None:
        """Follow until cancelled.

        Raises:
            EtcdRefused: etcd does not let us, from the start. Later that is
                a trouble like others.
        """
        has_begun = False
        pause_s = 0.0
        while True:
            before = self.revision
            try:
                if not self.revision:
                    page = await self.client.snapshot(self.prefix)
                    self.on_snapshot(page)
                    self.revision = page.revision
                has_begun = True
                await self._watch()
            except _Compacted:
                self.revision = 0
                continue
            except ClusterError as error:
                if isinstance(error, EtcdRefused) and not has_begun:
                    raise
                self.on_trouble(str(error))
            if self.revision != before:
                pause_s = 0.0
            pause_s = min(_LONGEST_PAUSE_S, pause_s * 2 or 0.05)
            await trio.sleep(random.uniform(pause_s / 2, pause_s))

    async def _watch(self) -> None:
        """Pass changes on until the stream ends or falls silent."""
        request = {
            "key": base64.b64encode(self.prefix.encode()).decode(),
            "range_end": base64.b64encode(prefix_end(self.prefix).encode()).decode(),
            "start_revision": str(self.revision + 1),
        }
        endpoint = self.client.endpoint
        try:
            async with self.client.stream("/v3/watch", {"create_request": request}) as response:
                lines = response.aiter_lines()
                try:
                    while True:
                        with trio.move_on_after(self.silence_s) as silence:
                            line = await anext(lines, None)
                        if silence.cancelled_caught:
                            return
                        if line is None:
                            break
                        self._take(endpoint, json.loads(line))
                finally:
                    await _finish(lines)
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            self.client.try_next(endpoint)
            raise EtcdUnavailable(f"{endpoint}: {describe(error)}") from None
        self.client.try_next(endpoint)
        raise EtcdUnavailable(f"{endpoint}: the stream has ended")

    def _take(self, endpoint: str, line: dict[str, Any]) -> None:
        problem = line.get("error", line if "code" in line else None)
        if problem is not None:
            error = error_of(endpoint, problem if isinstance(problem, dict) else line)
            self.client.forget_token()
            raise error if isinstance(error, EtcdRefused) else EtcdUnavailable(str(error))
        result = line["result"]
        if int(result.get("compact_revision", 0)):
            raise _Compacted
        if result.get("canceled"):
            # etcd ends a watch that falls behind, or whose rights have changed.
            self.client.forget_token()
            raise EtcdUnavailable(f"{endpoint}: {result.get('cancel_reason', 'canceled')}")
        events = result.get("events", [])
        if events:
            self.on_changes([_read_event(event) for event in events])
            self.revision = max(int(event["kv"]["mod_revision"]) for event in events)


async def _finish(lines: AsyncIterator[str]) -> None:
    """Cancel a chain of generators from its innermost, where it waits for bytes:
    closing the outermost alone would leave the others to the garbage collector."""
    with trio.CancelScope() as scope:
        scope.cancel()
        with contextlib.suppress(httpx.HTTPError):
            async for _ in lines:
                pass


def _read_event(event: dict[str, Any]) -> Change:
    kv = read_kv(event["kv"])
    is_delete = event.get("type") == "DELETE"
    return Change(kv.key, None if is_delete else kv, kv.mod_revision)
