"""Passwords that cost a test nothing."""

import argon2

from tim_trio.accounts.passwords import PasswordHasher

CHEAP = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


def cheap_hasher(**changes: int) -> PasswordHasher:
    return PasswordHasher(argon2_hasher=CHEAP, **changes)
