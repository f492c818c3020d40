"""Who is connected here, as etcd has it for the other nodes.

An account's writes go one after another, so that the last word is the true
one; accounts that come and go faster than etcd takes it cost no write.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import attrs
import trio

from tim_trio.cluster.directory import EtcdDirectory
from tim_trio.cluster.membership import EventLog, Membership
from tim_trio.errors import ClusterError

_WRITERS: Final = 16
_RETRY_S: Final = 0.5


@attrs.define(eq=False)
class Presence:
    """What is yet to be written is bounded by who is connected, and by who has been
    written down as that.

    Args:
        is_here: says whether an account has a connection here.
    """

    membership: Membership
    directory: EtcdDirectory
    log: EventLog
    is_here: Callable[[str], bool]
    _written: set[str] = attrs.field(factory=set)
    _waiting: OrderedDict[str, None] = attrs.field(factory=OrderedDict)
    _under_way: set[str] = attrs.field(factory=set)
    _news: trio.Event = attrs.field(factory=trio.Event)
    _has_trouble: bool = False

    def note(self, account: str) -> None:
        """The account has come, or gone. Never blocks."""
        is_known = account in self._written or account in self._under_way
        if self.is_here(account) or is_known:
            self._waiting[account] = None
            self._news.set()
        else:
            self._waiting.pop(account, None)

    async def run(self) -> None:
        """Write down what is noted. Runs until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(_WRITERS):
                nursery.start_soon(self._write_all)

    async def _write_all(self) -> None:
        while True:
            account = next((name for name in self._waiting if name not in self._under_way), None)
            if account is None:
                if self._news.is_set():
                    self._news = trio.Event()
                await self._news.wait()
                continue
            del self._waiting[account]
            self._under_way.add(account)
            try:
                await self._write(account)
                self._has_trouble = False
            except ClusterError as error:
                if not self._has_trouble:
                    self.log.warning("who is here was not recorded", error=str(error))
                self._has_trouble = True
                await trio.sleep(_RETRY_S)
                if self.is_here(account) or account in self._written:
                    self._waiting[account] = None
            finally:
                self._under_way.discard(account)
                if account in self._waiting:
                    self._news.set()

    async def _write(self, account: str) -> None:
        here, node = self.is_here(account), self.membership.me.name
        if here == (account in self._written):
            return
        if here:
            # Before it is certain: what may be there must be taken away again.
            self._written.add(account)
            try:
                await self.directory.set_online(account, node, self.membership.lease)
            except ClusterError:
                self._written.discard(account)
                raise
        else:
            await self.directory.set_offline(account, node)
            self._written.discard(account)
