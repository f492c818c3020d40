"""Going on beyond the end of a sign-in: over another connection, made in good time.

A sign-in ends at a time that the server names, and the connection with it. A
client that can sign in for longer (with a fresh token, or with a session
token, whose life begins anew) does so before, and moves there as if the server
had asked it to: nothing is lost, and nobody sees a source leave.

Source: protocol.md, section 11; docs/client.md.
"""

from __future__ import annotations

import random
import time
from typing import Final

import trio

from tim_trio.net.client.credentials import Credentials
from tim_trio.net.client.line import Line

#: How long before the end, at most; less where the whole time is short.
_MARGIN_S: Final = 60.0
_MARGIN_SHARE: Final = 0.2


async def keep_renewing(line: Line, credentials: Credentials) -> None:
    """Move on before each connection's rights end, until cancelled."""
    while not line.is_over:
        session = line.session
        identity = session.connection.identity
        assert identity is not None
        wait_s = renewal_wait_s(identity.expires_ms, time.time())
        if wait_s is not None and credentials.is_renewable:
            with trio.move_on_after(wait_s):
                await line.wait_other(session)
            if not session.stirred.is_set():
                session.leave_soon()
        await line.wait_other(session)


def renewal_wait_s(expires_ms: int, unix_time: float) -> float | None:
    """Return how long to wait before renewing; None for not at all.

    A sign-in that has ended already by our clock, which therefore goes wrong,
    is left to the server's.
    """
    left_s = expires_ms / 1000 - unix_time
    if left_s <= 0:
        return None
    margin_s = min(_MARGIN_S, left_s * _MARGIN_SHARE)
    return left_s - random.uniform(margin_s / 2, margin_s)
