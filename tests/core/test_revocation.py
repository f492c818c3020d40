"""Identities, and whom a revocation concerns."""

from __future__ import annotations

import attrs
import pytest

from tim_trio.core.revocation import Identity, Revocation
from tim_trio.errors import Code
from tim_trio.protocol.messages import Right

ALICE = Identity(account="alice", rights=Right(0), session="7", as_of=3)
GONE = Revocation(number=4, account="alice", code=Code.DISABLED)


@pytest.mark.parametrize(
    "expires_at, expires_ms",
    [(None, 0), (1.5, 1500), (1e9, 10**12), (1e300, 2**53 - 1)],
)
def test_the_end_as_the_wire_says_it(expires_at: float | None, expires_ms: int) -> None:
    assert attrs.evolve(ALICE, expires_at=expires_at).expires_ms == expires_ms


def test_a_session_token_is_not_shown() -> None:
    assert "hush" not in repr(attrs.evolve(ALICE, session_token=b"hush"))


@pytest.mark.parametrize(
    "changes, concerned",
    [
        ({}, True),
        ({"number": 3}, False),
        ({"account": "bob"}, False),
        ({"session": "7"}, True),
        ({"session": "8"}, False),
        ({"spared": "7"}, False),
        ({"spared": "8"}, True),
    ],
)
def test_whom_a_revocation_concerns(changes: dict[str, object], concerned: bool) -> None:
    revocation = attrs.evolve(GONE, **changes)  # type: ignore[arg-type]
    assert revocation.concerns(ALICE) is concerned


def test_what_is_of_a_whole_account() -> None:
    assert GONE.is_of_account
    assert not attrs.evolve(GONE, session="7").is_of_account
    assert not attrs.evolve(GONE, spared="7").is_of_account
