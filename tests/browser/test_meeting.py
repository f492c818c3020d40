"""A meeting of four: asking to speak, being allowed to, and losing the right again."""

from __future__ import annotations

import pytest

from tests.browser.conftest import Visit, serving
from tests.browser.visitor import SHOWN, SMALL, Visitor

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def test_four_people_meet(site: str, visit: Visit) -> None:
    host = visit(site + "#meeting", name="helga", size=SHOWN)
    choose(host, "test")
    host.page.click("text=Start a meeting")
    host.page.wait_for_selector("[data-do=end]")
    room = host.page.inner_text("h1.room-id")
    guests = [
        visit(f"{site}#meet={room}", name=name, size=SMALL) for name in ("bob", "carol", "dan")
    ]
    for guest in guests:
        choose(guest, "camera")
        guest.page.click("button:has-text('Join')")
        guest.wait_for_picture()
        assert tiles(guest) == {"helga"}

    everybody = [host, *guests]
    present = {"helga"}
    for guest, name in zip(guests, ("bob", "carol", "dan"), strict=True):
        guest.page.click("[data-do=ask]")
        host.page.click(f"[data-grant={name}]")
        present.add(name)
        for person in everybody:
            wait_for_tiles(person, present)
    for person in everybody:
        person.page.wait_for_function(_ALL_MOVE)
    host.photograph("meeting")

    # Muted, nobody hears him any more: the camera's beep comes each second.
    host.page.wait_for_function(_HEARS, arg="bob", polling=20)
    guests[0].page.click("text=Mute")
    guests[0].page.wait_for_selector("button.off:has-text('Unmute')")
    host.page.wait_for_function(_IS_SILENT, arg="bob", polling=20)

    host.page.click("[data-revoke=carol]")
    present.remove("carol")
    carol = guests[1].page
    carol.wait_for_selector("text=took the right to speak away")
    for person in everybody:
        wait_for_tiles(person, present)
    assert carol.is_visible("[data-do=ask]")

    guests[2].page.click("[data-do=leave]")
    present.remove("dan")
    for person in everybody[:3]:
        wait_for_tiles(person, present)

    host.page.click("[data-do=end]")
    for person in (host, guests[0], guests[1]):
        person.page.wait_for_selector("text=The meeting has ended.")


def test_who_is_not_answered_may_ask_again(visit: Visit) -> None:
    with serving("--set", "limits.ask_interval_s=0") as site:
        host = visit(site + "#meeting", name="helga", size=SMALL)
        choose(host, "test")
        host.page.click("text=Start a meeting")
        room = host.page.inner_text("h1.room-id")
        guest = visit(f"{site}#meet={room}", name="bob", size=SMALL)
        guest.page.click("button:has-text('Join')")
        guest.page.wait_for_selector("[data-do=ask]:enabled")
        guest.evaluate(_KEEP_THE_TIMER)
        for label in ("Ask to speak", "Ask again"):
            assert guest.page.inner_text("[data-do=ask]") == label
            guest.page.click("[data-do=ask]")
            guest.page.wait_for_selector("[data-do=ask]:disabled:has-text('Waiting for the host')")
            host.page.click("[data-decline=bob]")
            guest.evaluate("() => later()")
            guest.page.wait_for_selector("[data-do=ask]:enabled")


#: What would be done 20 s later is done when the test says so.
_KEEP_THE_TIMER = """() => {
  const set = setTimeout;
  globalThis.setTimeout = (run, ms, ...rest) => {
    if (ms !== 20_000) return set(run, ms, ...rest);
    globalThis.later = run;
  };
}"""


def choose(person: Visitor, picture: str) -> None:
    person.page.select_option("select:has(option[value=test])", picture)
    # Four times four pictures, and no graphics card.
    person.page.select_option("select:has(option[value='180'])", "180")


def tiles(person: Visitor) -> set[str]:
    names = person.page.locator(".tile .name").all_inner_texts()
    return {name.removesuffix(" (you)") for name in names}


def wait_for_tiles(person: Visitor, names: set[str]) -> None:
    """Wait until the grid shows these people, one's own picture among them."""
    person.page.wait_for_function(
        """wanted => {
          const shown = [...document.querySelectorAll(".tile .name")].map((each) =>
            each.textContent.replace(" (you)", ""));
          return JSON.stringify(shown.sort()) === JSON.stringify(wanted);
        }""",
        arg=sorted(names),
    )


_HEARS = """name => [...document.querySelectorAll(".tile")]
  .find((tile) => tile.querySelector(".name").textContent === name)
  .querySelector("canvas").player.level > 0.02"""

#: For longer than from one beep to the next.
_IS_SILENT = """name => {
  const { player } = [...document.querySelectorAll(".tile")]
    .find((tile) => tile.querySelector(".name").textContent === name).querySelector("canvas");
  globalThis.loudAt ??= performance.now();
  if (player.level > 0.002) globalThis.loudAt = performance.now();
  return performance.now() - globalThis.loudAt > 1500;
}"""

_ALL_MOVE = """() => {
  const canvases = [...document.querySelectorAll(".tile canvas:not(.own)")];
  return canvases.length === 3 && canvases.every((each) => each.player.stats.framesDrawn > 5);
}"""
