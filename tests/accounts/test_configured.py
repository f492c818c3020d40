"""From the configuration to an authenticator."""

from __future__ import annotations

from pathlib import Path

import platformdirs
import pytest

from tim_trio.accounts.authenticator import StoreAuthenticator
from tim_trio.accounts.configured import new_store, open_accounts
from tim_trio.accounts.relations import StoreRelations
from tim_trio.accounts.schema import StoreError
from tim_trio.accounts.store import default_database_url
from tim_trio.accounts.tokens import KeyFileError, TokenAuthenticator
from tim_trio.config import ServerConfig, load_config
from tim_trio.core.accounts import OpenAuthenticator
from tim_trio.core.relations import MemoryRelations
from tim_trio.protocol.messages import ContactAction


def configured(**overrides: object) -> ServerConfig:
    return load_config(file=None, env={}, overrides=overrides)


async def test_each_mode_has_its_authenticator(tmp_path: Path) -> None:
    async with open_accounts(configured()) as opened:
        assert isinstance(opened.authenticator, OpenAuthenticator)
        assert isinstance(opened.relations, MemoryRelations)
    key = tmp_path / "key"
    key.write_bytes(b"x" * 32)
    async with open_accounts(configured(auth="token", token_key_file=str(key))) as token:
        assert isinstance(token.authenticator, TokenAuthenticator)
        assert isinstance(token.relations, MemoryRelations)
    url = default_database_url(tmp_path)
    async with open_accounts(configured(auth="accounts", database_url=url)) as accounts:
        assert isinstance(accounts.authenticator, StoreAuthenticator)
        assert isinstance(accounts.relations, StoreRelations)
    assert (tmp_path / "accounts.db").exists()


async def test_with_a_database_contacts_are_kept_where_accounts_are_somebody_elses(
    database_url: str,
) -> None:
    config = load_config(file=None, env={"TIM_TRIO_DATABASE_URL": database_url}, overrides={})
    for _ in range(2):
        async with open_accounts(config) as opened:
            assert isinstance(opened.authenticator, OpenAuthenticator)
            entries = await opened.relations.list_contacts("any", "", 0)
            await opened.relations.contact("any", ContactAction.BLOCK, "body")
    assert [entry.account for entry in entries[1]] == ["body"]


async def test_what_cannot_be_opened_arrives_bare(tmp_path: Path) -> None:
    missing = str(tmp_path / "key")
    with pytest.raises(KeyFileError):
        async with open_accounts(configured(auth="token", token_key_file=missing)):
            pass
    with pytest.raises(StoreError):
        async with open_accounts(configured(auth="accounts", database_url="sqlite://")):
            pass


def test_without_a_url_it_is_a_file_of_this_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platformdirs, "user_data_dir", lambda *_, **__: str(tmp_path / "data"))
    store = new_store(configured(auth="accounts"))
    store.open()
    store.close()
    assert (tmp_path / "data" / "accounts.db").exists()
