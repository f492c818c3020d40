"""Signing in where a name does not suffice."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Page

from tests.browser.conftest import Visit, serving
from tim_trio.accounts.store import AccountState, Store, default_database_url
from tim_trio.accounts.tokens import claims_for, make_token, read_key

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

PASSWORD: Final = "correct horse battery"


def test_with_a_password(tmp_path: Path, visit: Visit) -> None:
    url = default_database_url(tmp_path)
    options = ("auth=accounts", f"database_url={url}", "registration=open")
    with serving(*(word for option in options for word in ("--set", option))) as site:
        visitor = visit(site + "#meeting")
        page = visitor.page
        # Nobody is let in before, wherever the link leads.
        page.wait_for_selector("h1:has-text('Sign in')")
        visitor.check_view()
        visitor.photograph("sign-in")
        # What can be nobody's name is not asked for; what a name may be is said.
        for language, words in (("zh", "名字不可用：最多 64 个字符"), ("en", "without spaces")):
            page.select_option("header select", language)
            for name in ("two words", "</script>", "a:b", "W" * 65):
                sign_in(page, name, PASSWORD)
                page.wait_for_selector(f"form [role=alert]:has-text('{words}')")
                assert page.evaluate("() => document.activeElement.name") == "account"
                page.fill("[name=account]", "")
        visitor.check_view()
        page.click("text=I have no account yet")
        visitor.check_view()
        page.fill("[name=account]", "alice")
        page.fill("[name=password]", PASSWORD)
        page.click("button.primary")
        page.wait_for_selector("h1:has-text('New meeting')")
        assert page.inner_text(".who") == "alice"
        page.reload()
        page.wait_for_selector("h1:has-text('New meeting')")
        assert page.inner_text(".who") == "alice"

        page.click(".who")
        page.wait_for_selector("dialog:has-text('You are signed in as alice')")
        visitor.check_view()
        page.click("dialog button:has-text('Cancel')")
        page.click(".who")
        page.click("dialog button:has-text('Sign out')")
        page.wait_for_selector("h1:has-text('Sign in')")
        page.reload()
        page.wait_for_selector("h1:has-text('Sign in')")
        kept = visitor.evaluate("() => JSON.stringify({...sessionStorage, ...localStorage})")
        assert "session" not in kept and "alice" not in kept

        sign_in(page, "alice", PASSWORD[::-1])
        page.wait_for_selector("[role=alert]:has-text('Account or password is wrong')")
        assert page.evaluate("() => document.activeElement.name") == "password"
        sign_in(page, "alice", PASSWORD)
        page.wait_for_selector("h1:has-text('New meeting')")

        # An operator disables the account: over at once, and there is no way back in.
        store = Store(url)
        store.open()
        store.set_state("alice", AccountState.DISABLED)
        store.close()
        page.wait_for_selector("[role=alert]:has-text('This account was disabled')")
        page.click("button:has-text('Sign in')")
        page.wait_for_selector("h1:has-text('Sign in')")
        sign_in(page, "alice", PASSWORD)
        page.wait_for_selector("form [role=alert]:has-text('was disabled or banned')")
        store.open()
        store.set_state("alice", AccountState.ACTIVE)
        store.close()
        sign_in(page, "alice", PASSWORD)
        page.wait_for_selector("h1:has-text('New meeting')")


def sign_in(page: Page, account: str, password: str) -> None:
    page.fill("[name=account]", account)
    page.fill("[name=password]", password)
    page.click("button.primary")


def test_with_a_token(tmp_path: Path, visit: Visit) -> None:
    key_file = tmp_path / "secret"
    key_file.write_text(secrets.token_hex(32))
    with serving("--set", "auth=token", "--set", f"token_key_file={key_file}") as site:
        visitor = visit(site)
        page = visitor.page
        page.fill("textarea", "no.such.token")
        visitor.check_view()
        page.click("button.primary")
        page.wait_for_selector("[role=alert]:has-text('This token is not accepted')")
        page.fill("textarea", make_token(read_key(key_file), claims_for("alice", lifetime_s=60)))
        page.click("button.primary")
        page.wait_for_selector("[data-kind=test]")
        page.reload()
        page.wait_for_selector("[data-kind=test]")
        assert page.inner_text(".who") == "alice"
        # What was signed for her lets her publish.
        visitor.share()
        page.click("button:has-text('Stop')")
        page.click(".who")
        page.click("dialog button:has-text('Sign out')")
        page.wait_for_selector("textarea")
