"""Accounts that an operator has banned, where the accounts are somebody else's.

In memory: they are let in again when the server is started anew, unless somebody
further up remembers. Whoever keeps the accounts can shut them out for good.

Source: protocol.md, section 11.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from typing import Final

import trio

from tim_trio.core.revocation import Revocation
from tim_trio.errors import Code, room_error

#: More than any operator bans by hand; a bound for what does it by program.
_MOST: Final = 100_000


class Bans:
    """Who is banned. Never blocks.

    Args:
        most: banned accounts; more are refused.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._banned: set[str] = set()
        self._numbers = itertools.count(1)
        self._untold: deque[Revocation] = deque()
        self._changed = trio.Event()

    def check(self, account: str) -> None:
        """Raise ``permission_denied`` for who is banned."""
        if account in self._banned:
            raise room_error(Code.PERMISSION_DENIED, "this account is banned")

    def add(self, account: str) -> None:
        """Ban an account. Idempotent.

        Raises:
            RoomError: ``unavailable``, there are too many.
        """
        if account in self._banned:
            return
        if len(self._banned) >= self._most:
            raise room_error(Code.UNAVAILABLE, "this server's memory for bans is full")
        self._banned.add(account)
        self._untold.append(
            Revocation(number=next(self._numbers), account=account, code=Code.BANNED)
        )
        self._changed.set()

    def lift(self, account: str) -> None:
        """Let an account in again. Idempotent."""
        self._banned.discard(account)

    async def run(self, revoke: Callable[[Revocation], None]) -> None:
        """Call ``revoke`` for each ban. Runs until cancelled."""
        while True:
            self._changed = trio.Event()
            while self._untold:
                revoke(self._untold.popleft())
            await self._changed.wait()
