"""The dashboard: what an operator sees, and what somebody is told who is none."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Final

import pytest

from tests.browser.conftest import Visit, serving, serving_both
from tests.browser.test_sign_in import PASSWORD, sign_in
from tests.browser.traffic import FRAME_BYTES, FRAMES_PER_S, busy_rooms
from tests.browser.visitor import Visitor
from tim_trio.accounts.store import Store, default_database_url
from tim_trio.cli.account import _hash

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

#: Pushed into the busiest room, as the page writes rates.
MBIT_PER_S: Final = FRAME_BYTES * FRAMES_PER_S * 8 / 1e6
UNITS: Final = {"kbit/s": 1e-3, "Mbit/s": 1.0}


def rate(text: str) -> float:
    """Read a rate in Mbit/s."""
    number, unit = text.split()
    return float(number) * UNITS[unit]


def cells(visitor: Visitor, row: str) -> list[str]:
    return visitor.page.locator(f"{row} > *").all_inner_texts()


def wait_for_cell(visitor: Visitor, row: str, column: int, pattern: str) -> None:
    """Wait until a row's cell is as a regular expression says."""
    visitor.page.wait_for_function(
        """([row, column, pattern]) => new RegExp(pattern).test(
          document.querySelector(row)?.children[column]?.textContent ?? "")""",
        arg=[row, column, pattern],
    )


def test_an_operator_sees_who_lags(visit: Visit) -> None:
    with serving_both() as (site, port), busy_rooms(port) as busy:
        visitor = visit(site + "#dashboard", name="olga")
        page = visitor.page
        row = f"[data-room='{busy.room}']"
        # One of its four subscribers reads too slowly.
        wait_for_cell(visitor, row, 5, "^4$")
        wait_for_cell(visitor, row, 8, "^1$")
        wait_for_cell(visitor, row, 6, "bit/s$")
        page.wait_for_selector(".alarm [data-figure=lagging]")
        shown = cells(visitor, row)
        assert [shown[0], shown[1], shown[2], shown[4]] == [busy.room, "alice", "live", "1"]
        # A busy machine pushes less, none pushes more.
        assert 0 < rate(shown[6]) < 1.25 * MBIT_PER_S
        assert int(shown[9].replace(",", "")) > 0, "dropped"
        assert page.inner_text("[data-figure=rooms]") == "4"
        assert rate(page.inner_text("[data-figure=out]")) > rate(shown[6])
        visitor.check_view()

        first = page.locator("[data-room]").first
        assert first.get_attribute("data-room") == busy.room, "the busiest first"
        page.click("th button:has-text('Creator')")
        assert page.inner_text("th[aria-sort=ascending]:visible") == "Creator"
        creators = page.locator("[data-room] td.name").all_inner_texts()
        assert creators == ["alice", "bob", "carol", "dora"]
        page.click("th button:has-text('Creator')")
        assert page.locator("[data-room] td.name").all_inner_texts() == creators[::-1]
        page.fill("input[type=search]", "DOR")
        assert page.locator("[data-room]").count() == 1
        page.fill("input[type=search]", "nobody at all")
        page.wait_for_selector("text=No room of that name.")
        page.fill("input[type=search]", "")
        page.click("th button:has-text('Rate')")
        linger()
        visitor.photograph("dashboard")

        # Into the room: each subscriber's lag. It begins at its top.
        visitor.evaluate("() => scrollTo(0, document.body.scrollHeight)")
        page.click(f"{row} a")
        slow = "[data-subscriber=slow]"
        wait_for_cell(visitor, slow, 1, "lagging")
        assert visitor.evaluate("() => scrollY") == 0
        assert visitor.evaluate("() => document.activeElement.id") == "main"
        wait_for_cell(visitor, slow, 2, "[KM]B$")
        wait_for_cell(visitor, slow, 4, " s$")
        wait_for_cell(visitor, "[data-subscriber=bob]", 5, "bit/s$")
        page.wait_for_function(
            "() => document.querySelector('[data-figure=rate]').textContent !== '–'"
        )
        rows = page.locator("[data-subscriber]")
        assert rows.first.get_attribute("data-subscriber") == "slow", "the furthest behind first"
        assert rows.count() == 4
        lagging, keeping = cells(visitor, slow), cells(visitor, "[data-subscriber=bob]")
        assert [keeping[1], keeping[2], keeping[6]] == ["keeps up", "–", "–"]
        assert rate(lagging[5]) < rate(keeping[5]) < 1.25 * MBIT_PER_S
        assert int(lagging[6].replace(",", "")) > 0, "dropped"
        assert page.inner_text("[data-figure=viewers]") == "4"
        assert re.search(r"[1-4] of 4 behind", page.inner_text("main"))
        visitor.check_view()
        linger()
        visitor.photograph("dashboard-room")

        # The same on a telephone, in the dark and in Chinese.
        small = visit(
            f"{site}#dashboard={busy.room}", name="olga", language="zh", dark=True, size=(360, 740)
        )
        wait_for_cell(small, slow, 1, "落后")
        small.check_view()
        small.page.click("text=所有房间")
        small.page.wait_for_selector(row)
        small.check_view()

        busy.remove()
        page.wait_for_selector("[role=alert]:has-text('This room has ended.')")
        page.click("text=All rooms")
        page.wait_for_function("() => document.querySelectorAll('[data-room]').length === 3")
        assert page.locator(row).count() == 0


def linger() -> None:
    """For the documentation's pictures: let the plots fill."""
    if os.environ.get("TIM_PHOTOGRAPH"):
        time.sleep(24)


def test_who_is_no_operator_is_told_what_to_do(tmp_path: Path, visit: Visit) -> None:
    url = default_database_url(tmp_path)
    store = Store(url)
    store.open()
    store.add_account("eve", _hash(PASSWORD.encode(), "eve"))
    store.close()
    with serving("--set", "auth=accounts", "--set", f"database_url={url}") as site:
        visitor = visit(site + "#dashboard")
        page = visitor.page
        sign_in(page, "eve", PASSWORD)
        page.wait_for_selector("h1:has-text('The dashboard is for operators')")
        advice = page.inner_text("main")
        assert "eve has no operator right." in advice
        assert "python -m tim_trio account add NAME --operator" in advice
        visitor.check_view()
        # Of a room of her own she sees who watches.
        room = visitor.evaluate(_REGISTER, PASSWORD)
        page.reload()
        page.click(f"a:has-text('{room}')")
        page.wait_for_selector("text=Nobody watches.")
        page.wait_for_function(
            "() => document.querySelector('[data-figure=viewers]').textContent === '0'"
        )
        visitor.check_view()
        visitor.evaluate("() => { location.hash = 'dashboard=1' }")
        page.wait_for_selector("[role=alert]:has-text('This is not a room')")


_REGISTER = """async (password) => {
  const { connect } = await import("/tim/index.js");
  const client = await connect(`ws://${location.host}/ws`, { account: "eve", password });
  const room = await client.registerRoom();
  client.close();
  return room;
}"""
