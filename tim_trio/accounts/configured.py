"""From the configuration to the authenticator that it asks for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import assert_never

import platformdirs
import trio

from tim_trio.accounts.authenticator import StoreAuthenticator
from tim_trio.accounts.store import Store, default_database_url
from tim_trio.accounts.tokens import KeyFile, TokenAuthenticator
from tim_trio.config import ServerConfig
from tim_trio.core.accounts import Authenticator, OpenAuthenticator


def new_store(config: ServerConfig) -> Store:
    """Return the store that is configured, not opened yet."""
    return Store(
        config.database_url
        or default_database_url(Path(platformdirs.user_data_dir("tim_trio", appauthor=False)))
    )


@asynccontextmanager
async def open_authenticator(config: ServerConfig) -> AsyncIterator[Authenticator]:
    """Give the authenticator for ``auth``, and what it needs for as long as it is used.

    Raises:
        StoreError, KeyFileError: one line that says what is wrong.
    """
    match config.auth:
        case "open":
            yield OpenAuthenticator()
        case "token":
            path = Path(config.token_key_file)
            key_file = await trio.to_thread.run_sync(KeyFile, path)
            yield TokenAuthenticator(key_file, config.limits, audience=config.token_audience)
        case "accounts":
            store = new_store(config)
            await trio.to_thread.run_sync(store.open)
            try:
                yield StoreAuthenticator(
                    store,
                    config.limits,
                    registration=config.registration,
                    session_lifetime_s=config.session_lifetime_s,
                )
            finally:
                store.close()
        case _:
            assert_never(config.auth)
