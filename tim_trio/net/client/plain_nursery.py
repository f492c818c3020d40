"""A nursery that lives in a context manager without changing its user's exceptions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def open_plain_nursery() -> AsyncIterator[trio.Nursery]:
    """Open a nursery for background tasks that report errors by other means.

    Trio wraps whatever leaves a nursery's block in a group. Our tasks never
    raise on purpose, so an exception that leaves is the user's own: it comes
    out as it went in, and ``except NoSuchRoom`` around ``async with`` works.
    Two at once (a bug of ours beside it) stay a group.
    """
    single: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseExceptionGroup as group:
        if len(group.exceptions) != 1:
            raise
        single = group.exceptions[0]
    if single is not None:
        # Outside the handler, or the group would become its __context__.
        raise single
