"""Streams through a cluster whose nodes are processes, and what subscribers see of them."""

from __future__ import annotations

import contextlib
import itertools
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from typing import Final

import attrs
import trio

from tests.cluster.processes import Processes, room_at
from tim_trio.net.client import Client
from tim_trio.net.client.source import Source
from tim_trio.net.client.subscription import Subscription
from tim_trio.protocol.messages import Gap
from tim_trio.protocol.stream import StreamFrame

FRAMES_PER_S: Final = 30
KEY_EVERY: Final = 30


@attrs.define(eq=False)
class Seen:
    """What came of one source."""

    seqs: list[int] = attrs.field(factory=list)
    gaps: list[tuple[int, int]] = attrs.field(factory=list)

    def check(self, count: int, who: str) -> int:
        """No repeat, no disorder, every loss in exactly one GAP; return what was lost of
        ``count`` frames since the first seen."""
        assert self.seqs == sorted(set(self.seqs)), who
        announced = [seq for first, last in self.gaps for seq in range(first, last + 1)]
        assert len(announced) == len(set(announced)), f"{who}: a loss was announced twice"
        missing = set(range(self.seqs[0], count)) - set(self.seqs)
        assert missing == set(announced), (who, sorted(missing), self.gaps)
        return len(missing)


@attrs.define(eq=False)
class Watcher:
    """What one subscriber got, by the source's number, and when anything came."""

    name: str
    sources: defaultdict[int, Seen] = attrs.field(factory=lambda: defaultdict(Seen))
    times: list[float] = attrs.field(factory=list)

    async def watch(self, stream: Subscription) -> None:
        async for item in stream:
            match item:
                case StreamFrame():
                    assert item.payload == payload(item.source, item.seq), self.name
                    self.sources[item.source].seqs.append(item.seq)
                    self.times.append(trio.current_time())
                case Gap():
                    self.sources[item.source].gaps.append((item.first_seq, item.last_seq))

    def has(self, counts: dict[int, int]) -> bool:
        """Say whether the last of so many frames has come, of each source."""
        return all(
            not count or ((seqs := self.sources[source].seqs) and seqs[-1] >= count - 1)
            for source, count in counts.items()
        )

    def longest_pause_s(self) -> float:
        return max(later - earlier for earlier, later in itertools.pairwise(self.times))


def payload(source: int, seq: int) -> bytes:
    return b"%d:%d " % (source, seq) * 100


@attrs.define(eq=False)
class Streaming:
    """A room with publishers and subscribers.

    Attributes:
        sent: frames pushed so far, by the source's number.
    """

    room: str
    watchers: list[Watcher]
    key_every: int
    sent: dict[int, int] = attrs.field(factory=dict)
    is_over: bool = False

    async def pump(self, source: Source) -> None:
        """Publish a video until it is over, at 30 frames a second."""
        number = source.number
        while not self.is_over:
            seq = self.sent[number]
            assert await source.send(payload(number, seq), key=seq % self.key_every == 0) == seq
            assert source.number == number, "it was away for too long"
            self.sent[number] += 1
            await trio.sleep(1 / FRAMES_PER_S)

    async def flow(
        self, more: int = 5, *, at: str = "", of: int | None = None, within_s: float = 20
    ) -> None:
        """Wait until everyone has what was pushed until now, and some more.

        ``at``: until those who began at these nodes have; ``of``: that of one source.
        """
        watchers = [each for each in self.watchers if not at or each.name[0] in at]
        counts = {
            source: count + more for source, count in self.sent.items() if of in (None, source)
        }
        with trio.move_on_after(within_s):
            while not all(watcher.has(counts) for watcher in watchers):  # noqa: ASYNC110
                await trio.sleep(0.01)
            return
        seen = {
            watcher.name: {number: seen.seqs[-1:] for number, seen in watcher.sources.items()}
            for watcher in watchers
        }
        raise AssertionError(f"{counts} did not come within {within_s} s: {seen}")

    @property
    def gaps(self) -> int:
        """How many GAPs everyone has got so far."""
        return sum(len(seen.gaps) for each in self.watchers for seen in each.sources.values())

    def check(self) -> dict[str, int]:
        """Check what each watcher has got of each source; return what was lost, by watcher."""
        return {
            watcher.name: sum(
                watcher.sources[source].check(count, watcher.name)
                for source, count in self.sent.items()
            )
            for watcher in self.watchers
        }


@contextlib.asynccontextmanager
async def streaming(
    nodes: Processes,
    publishers_at: Sequence[str],
    watchers_at: Sequence[str],
    *,
    relay: str | None = None,
    ranking: Sequence[str] = (),
    key_every: int = KEY_EVERY,
) -> AsyncIterator[Streaming]:
    """Stream while something is done to the cluster; in the end everyone has got all.

    Args:
        relay, ranking: where the room's relay is to be, or who is to be first in its ranking.
        key_every: frames in a group.
    """
    async with contextlib.AsyncExitStack() as stack:

        async def client(name: str, account: str) -> Client:
            made: Client = await stack.enter_async_context(nodes[name].client(account))
            return made

        publishers = [await client(name, f"publisher-{name}") for name in publishers_at]
        wanted = tuple(ranking) or ((relay,) if relay else ())
        room = await room_at(publishers[0], nodes, *wanted)
        for name in publishers_at[1:]:
            await publishers[0].grant(room, f"publisher-{name}")
        watchers = [Watcher(f"{name}-{i}") for i, name in enumerate(watchers_at)]
        stream = Streaming(room, watchers, key_every)
        sources = [await stack.enter_async_context(each.publish(room)) for each in publishers]
        subscriptions = []
        for watcher, name in zip(stream.watchers, watchers_at, strict=True):
            subscriber = await client(name, watcher.name)
            subscriptions.append(await stack.enter_async_context(subscriber.subscribe(room)))
        async with trio.open_nursery() as watching:
            for watcher, subscription in zip(stream.watchers, subscriptions, strict=True):
                watching.start_soon(watcher.watch, subscription)
            async with trio.open_nursery() as publishing:
                for source in sources:
                    stream.sent[source.number] = 0
                    publishing.start_soon(stream.pump, source)
                yield stream
                stream.is_over = True
            await stream.flow(0)
            watching.cancel_scope.cancel()
