"""From the configuration to who may come in, and who may reach whom.

What a database or tokens need is loaded where they are configured: SQLAlchemy and
cryptography take a quarter of the time in which a server starts.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

import attrs
import platformdirs
import trio

from tim_trio.config import ServerConfig
from tim_trio.core.accounts import Authenticator, OpenAuthenticator
from tim_trio.core.relations import MemoryRelations, Relations

if TYPE_CHECKING:
    from tim_trio.accounts.store import Store


def new_store(config: ServerConfig) -> Store:
    """Return the store that is configured, not opened yet."""
    from tim_trio.accounts.store import Store, default_database_url

    return Store(
        config.database_url
        or default_database_url(Path(platformdirs.user_data_dir("tim_trio", appauthor=False)))
    )


def is_of_this_machine(config: ServerConfig) -> bool:
    """Say whether the store that is configured is a file, which other machines do not see."""
    return not config.database_url or config.database_url.startswith("sqlite")


@attrs.frozen
class Accounts:
    """What a server asks about accounts."""

    authenticator: Authenticator
    relations: Relations


@asynccontextmanager
async def open_accounts(config: ServerConfig) -> AsyncIterator[Accounts]:
    """Give what ``auth`` asks for, and keep open what it needs as long as it is used.

    Raises:
        StoreError, KeyFileError: one line that says what is wrong.
    """
    match config.auth:
        case "open":
            async with _relations(config) as relations:
                yield Accounts(OpenAuthenticator(), relations)
        case "token":
            from tim_trio.accounts.tokens import KeyFile, TokenAuthenticator

            path = Path(config.token_key_file)
            key_file = await trio.to_thread.run_sync(KeyFile, path)
            async with _relations(config) as relations:
                yield Accounts(
                    TokenAuthenticator(key_file, config.limits, audience=config.token_audience),
                    relations,
                )
        case "accounts":
            from tim_trio.accounts.authenticator import StoreAuthenticator, StoreThreads
            from tim_trio.accounts.relations import StoreRelations

            threads = StoreThreads()
            async with _open_store(config) as store:
                yield Accounts(
                    StoreAuthenticator(
                        store,
                        config.limits,
                        registration=config.registration,
                        session_lifetime_s=config.session_lifetime_s,
                        threads=threads,
                    ),
                    StoreRelations(
                        store, max_contacts=config.limits.max_contacts_per_account, threads=threads
                    ),
                )
        case _:
            assert_never(config.auth)


@asynccontextmanager
async def _open_store(config: ServerConfig) -> AsyncIterator[Store]:
    store = new_store(config)
    await trio.to_thread.run_sync(store.open)
    try:
        yield store
    finally:
        store.close()


@asynccontextmanager
async def _relations(config: ServerConfig) -> AsyncIterator[Relations]:
    """Give the relations of accounts that are somebody else's."""
    limits = config.limits
    if not config.database_url:
        yield MemoryRelations(limits.max_contacts_per_account, limits.max_contacts_in_memory)
        return
    from tim_trio.accounts.relations import StoreRelations

    async with _open_store(config) as store:
        yield StoreRelations(
            store, knows_accounts=False, max_contacts=limits.max_contacts_per_account
        )
