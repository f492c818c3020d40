"""Hashing passwords beside live streams: few at a time, a short queue, low priority.

A hash at argon2's defaults takes 64 MiB and some 50 ms of several cores, on
purpose. Streams must not feel a storm of logins.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import Final, TypeVar

import argon2
import trio

from tim_trio.errors import Code, room_error

T = TypeVar("T")

MIN_PASSWORD_BYTES: Final = 8
#: Told to whom the queue has no place for: it is through by then.
_RETRY_AFTER_MS: Final = 2_000
#: Added to our niceness while hashing: a tenth of a stream's share of a core.
_NICENESS: Final = 10


def weakness(password: bytes, account: str) -> str | None:
    """Return what is wrong with a new password, None when nothing is."""
    if len(password) < MIN_PASSWORD_BYTES:
        return f"a password has at least {MIN_PASSWORD_BYTES} bytes"
    if len(set(password)) == 1:
        return "a password is not one character again and again"
    if password.lower() == account.lower().encode():
        return "a password is not the account's name"
    return None


def check_strength(password: bytes, account: str) -> None:
    """Raise ``weak_password`` for a new password that is too weak."""
    weak = weakness(password, account)
    if weak is not None:
        raise room_error(Code.WEAK_PASSWORD, weak)


class PasswordHasher:
    """Hashes and verifies in threads of its own.

    Args:
        threads: hashes at once. Each is itself computed on several cores.
        max_waiting: how many may wait for one.
        argon2_hasher: with other costs than the library's defaults; for tests.
    """

    def __init__(
        self,
        *,
        threads: int = 1,
        max_waiting: int = 32,
        argon2_hasher: argon2.PasswordHasher | None = None,
    ) -> None:
        self._argon2 = argon2_hasher or argon2.PasswordHasher()
        self._limiter = trio.CapacityLimiter(threads)
        self._max_waiting = max_waiting
        self._held = 0
        self._decoy = ""

    def hash_blocking(self, password: bytes) -> str:
        return self._argon2.hash(password)

    def is_outdated(self, password_hash: str) -> bool:
        """Say whether the library's defaults have become stronger since."""
        return self._argon2.check_needs_rehash(password_hash)

    async def hash(self, password: bytes) -> str:
        """Raises ``unavailable`` when too many wait already."""
        return await self._run(lambda: self._argon2.hash(password))

    async def verify(self, password_hash: str | None, password: bytes) -> bool:
        """Say whether the password is right; None (no such account) takes as long.

        Raises ``unavailable`` when too many wait already.
        """
        return await self._run(lambda: self._verify(password_hash, password))

    def _verify(self, password_hash: str | None, password: bytes) -> bool:
        if not self._decoy:
            # By the first caller, whose wait is longer whoever it asks for.
            self._decoy = self._argon2.hash(os.urandom(16))
        try:
            self._argon2.verify(password_hash or self._decoy, password)
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
            return False
        return password_hash is not None

    async def _run(self, work: Callable[[], T]) -> T:
        if self._held >= self._max_waiting + self._limiter.total_tokens:
            raise room_error(
                Code.UNAVAILABLE,
                "too many logins at once",
                retry_after_ms=_RETRY_AFTER_MS,
                limit="max_waiting_logins",
            )
        self._held += 1
        try:
            return await trio.to_thread.run_sync(gently, work, limiter=self._limiter)
        finally:
            self._held -= 1


def gently(work: Callable[[], T]) -> T:
    """Do the work in a new thread of low priority. Blocks.

    New, since a thread that has lowered itself may not rise again, and Trio
    uses its threads for other things too. The threads that argon2 starts
    inherit the priority.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def body() -> None:
        lower_priority()
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=body, name="tim_trio password", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def lower_priority() -> None:
    """Make the calling thread give way to all others. Only Linux has this per thread."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        niceness = os.getpriority(os.PRIO_PROCESS, thread)
        try:
            os.setpriority(os.PRIO_PROCESS, thread, min(19, niceness + _NICENESS))
        except OSError:  # pragma: no cover - only where the system forbids even this
            pass
