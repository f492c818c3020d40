"""Who has to go when reliable rooms hold too much: pure.

Each source of such a room may have a window of bytes under way, whatever the
number of sources; so what they hold in all has a bound of its own. Beyond it
whoever makes the node hold most is closed, until the rest fits.

Source: docs/backpressure.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import attrs

from tim_trio.core.outbox import Outbox


@attrs.frozen
class Claim:
    """What is queued of one source for one subscriber."""

    account: str
    outbox: Outbox
    pending_bytes: int


def held_bytes(claims: Iterable[Claim]) -> int:
    """Return what one source holds: subscribers who wait for the same bytes share them."""
    return max((claim.pending_bytes for claim in claims), default=0)


def choose(sources: Iterable[Iterable[Claim]], most_bytes: int) -> list[Outbox]:
    """Return the connections to close so that what is held in all fits.

    First those of the account for which most is queued, of them those that are
    furthest behind.
    """
    waiting = [sorted(claims, key=lambda claim: claim.pending_bytes) for claims in sources]
    held = sum(map(held_bytes, waiting))
    of_account: Counter[str] = Counter()
    of_outbox: dict[Outbox, list[list[Claim]]] = {}
    claims = [claim for one in waiting for claim in one]
    for one in waiting:
        for claim in one:
            of_account[claim.account] += claim.pending_bytes
            of_outbox.setdefault(claim.outbox, []).append(one)
    claims.sort(key=lambda claim: (of_account[claim.account], claim.pending_bytes), reverse=True)
    # In the order in which they go; a dictionary for the question whether one is among them.
    chosen: dict[Outbox, None] = {}
    for claim in claims:
        if held <= most_bytes:
            break
        if claim.outbox in chosen:
            continue
        chosen[claim.outbox] = None
        for one in of_outbox[claim.outbox]:
            held -= held_bytes(one[-1:])
            while one and one[-1].outbox in chosen:
                one.pop()
            held += held_bytes(one[-1:])
    return list(chosen)
