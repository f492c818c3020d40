"""Every view for everybody: two languages, dark and light, narrow, by keyboard, read aloud."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import pytest
from playwright.sync_api import Playwright

from tests.browser.conftest import FLAGS, Visit, browsing, serving
from tests.browser.visitor import Visitor

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

#: As long as the server lets a name be, without a place to break it.
LONG_NAME: Final = "Wolfeschlegelsteinhausenbergerdorff" + "W" * 29
NOBODYS: Final = "NGhMpCbk2wQ"
NARROW: Final = (360, 740)

#: Texts that a Chinese page has in Latin letters: names, ids, units, codecs.
_LATIN: Final = re.compile(
    r"tim_trio|English|W+olfe\w+|paula|[1-9A-HJ-NP-Za-km-z]{11}|\d+p|[\d.]+ [kM]bit/s"
    r"|\d+ × \d+(, [a-z0-9.]+)?"
)


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """The page of a server where nobody else has made a room: views list them all."""
    with serving() as site:
        yield site


@pytest.mark.parametrize("language, dark, size", [("zh", True, NARROW), ("en", False, (1200, 780))])
def test_every_view(
    site: str, visit: Visit, language: str, dark: bool, size: tuple[int, int]
) -> None:
    visitor = visit(site, name=LONG_NAME, language=language, dark=dark, size=size)
    page = visitor.page
    page.wait_for_selector("[data-kind=test]")
    assert page.locator("html").get_attribute("lang") == ("zh-Hans" if language == "zh" else "en")
    background = visitor.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(13, 17, 23)" if dark else "rgb(246, 247, 249)")

    # Whatever the header leads to, and what links lead to besides.
    views = page.locator("nav a").evaluate_all("links => links.map(link => link.hash)")
    assert {"#live", "#meeting"} <= set(views)
    for view in [*views, f"#watch={NOBODYS}", "#watch=1", f"#meet={NOBODYS}"]:
        visitor.evaluate("view => { location.hash = view }", view)
        page.wait_for_selector("main h1")
        if view.startswith("#watch"):
            page.wait_for_selector("a[href='#live'].button")
        check(visitor, language)

    visitor.evaluate("() => { location.hash = 'live' }")
    link = visitor.share()
    page.wait_for_function(
        "() => document.querySelector('[data-stat=picture]').textContent !== '–'"
    )
    check(visitor, language)
    # One's own stream as well, from wherever one is.
    visitor.evaluate("link => { location.href = link }", link)
    visitor.wait_for_picture(10)
    page.wait_for_function("() => document.querySelector('.facts').textContent")
    check(visitor, language)


def check(visitor: Visitor, language: str) -> None:
    visitor.check_view()
    for shown in visitor.evaluate(_TEXTS):
        chinese = re.search(r"[\u4e00-\u9fff]", shown) is not None
        if language == "zh":
            assert chinese or _LATIN.fullmatch(shown) or not re.search("[A-Za-z]", shown), shown
        else:
            assert not chinese or shown == "中文", shown


#: All that is read or shown: texts, and attributes that are texts.
_TEXTS = """() => {
  const found = [document.title];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const inside = walker.currentNode.parentElement;
    if (!inside.closest("noscript, script")) found.push(walker.currentNode.data.trim());
  }
  for (const each of document.querySelectorAll("[aria-label], [title], [placeholder], [alt]")) {
    for (const name of ["aria-label", "title", "placeholder", "alt"]) {
      found.push((each.getAttribute(name) ?? "").trim());
    }
  }
  return found.filter(Boolean);
}"""


def test_language_and_colours_change_and_are_remembered(site: str, visit: Visit) -> None:
    visitor = visit(site, name="paula")
    page = visitor.page
    visitor.share()
    page.select_option("header select", "zh")
    assert page.inner_text("button:has-text('停止')") == "停止"
    check(visitor, "zh")
    page.click("button[aria-label=深色]")
    for _ in range(2):
        page.wait_for_selector("button[aria-label=浅色]")
        assert page.locator("html").get_attribute("data-theme") == "dark"
        assert page.locator("html").get_attribute("lang") == "zh-Hans"
        page.reload()
    page.select_option("header select", "en")
    page.wait_for_selector("button:has-text('Stop')")
    check(visitor, "en")
    # What was chosen is kept, whatever the system does; what was not, follows it.
    page.emulate_media(color_scheme="light")
    assert page.locator("html").get_attribute("data-theme") == "dark"
    visitor.evaluate("() => localStorage.removeItem('tim.theme')")
    page.emulate_media(color_scheme="dark")
    visitor.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    page.emulate_media(color_scheme="light")
    page.wait_for_selector("html[data-theme=light]")


def test_with_the_keyboard_alone(site: str, visit: Visit) -> None:
    visitor = visit(site, name="kay", size=(560, 600))
    page = visitor.page
    page.wait_for_selector("[data-kind=test]")
    # In the order in which they are read, each of them, and each to be seen.
    reached: list[int] = []
    while len(reached) < 40:
        page.keyboard.press("Tab")
        at = visitor.evaluate(_FOCUS)
        if at is None:
            break
        assert at["outlined"] and at["inView"], at
        reached.append(at["index"])
    assert reached == visitor.evaluate(_FOCUSABLE)

    page.keyboard.press("Tab")
    assert "skip" in focus(visitor)["is"]
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert 'data-kind="test"' in focus(visitor)["is"]
    page.keyboard.press("Enter")
    page.wait_for_selector(".link")
    # On air the focus is where the stream is governed: Space mutes, Tab leads to Stop.
    assert "Mute" in focus(visitor)["is"]
    page.keyboard.press("Space")
    page.wait_for_selector("button.off:has-text('Unmute')")
    page.keyboard.press("Tab")
    assert "Stop" in focus(visitor)["is"]
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-kind=test]")
    assert 'data-kind="test"' in focus(visitor)["is"]

    page.locator("nav a[href='#meeting']").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("h1:has-text('New meeting')")
    # From the new view's beginning, not through the header again.
    page.keyboard.press("Tab")
    assert "<select" in focus(visitor)["is"]
    page.locator(".who").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open]")
    page.fill("dialog input", "two words")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog [role=alert]:has-text('without spaces')")
    visitor.check_view()
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="detached")
    assert "who" in focus(visitor)["is"]
    # The people of a meeting change while its creator is about to choose one.
    assert visitor.evaluate(_ARRANGE) == ["abc", "xcab", "true", "ab", "true", "ba"]


def focus(visitor: Visitor) -> dict[str, Any]:
    found = visitor.evaluate(_FOCUS)
    assert found is not None
    return dict(found)


_FOCUS = """() => {
  const each = document.activeElement;
  if (each === null || each === document.body) return null;
  const { outlineStyle, outlineWidth } = getComputedStyle(each);
  const { left, right, top, bottom } = each.getBoundingClientRect();
  return {
    index: [...document.querySelectorAll("*")].indexOf(each), is: each.outerHTML.slice(0, 200),
    outlined: outlineStyle !== "none" && parseFloat(outlineWidth) >= 2,
    inView: left >= 0 && top >= 0 && right <= innerWidth && bottom <= innerHeight,
  };
}"""

_FOCUSABLE = """() => [...document.querySelectorAll("*")].map((each, index) => [each, index])
  .filter(([each]) => each.matches("a[href], button, select, input") && !each.disabled
    && (each.checkVisibility() || each.matches(".skip")))
  .map(([, index]) => index)"""


_ARRANGE = """async () => {
  const { arrange } = await import("/app/dom.js");
  const list = document.createElement("ul");
  document.body.append(list);
  const make = (key) => {
    const button = document.createElement("button");
    button.textContent = key;
    return button;
  };
  const found = [];
  arrange(list, ["a", "b", "c"], make);
  const middle = list.children[0];
  middle.focus();
  found.push(list.textContent);
  arrange(list, ["x", "c", "a", "b"], make);
  found.push(list.textContent, String(document.activeElement === middle));
  arrange(list, ["a", "b"], make);
  found.push(list.textContent, String(document.activeElement === middle));
  arrange(list, ["b", "a"], make);
  found.push(list.textContent);
  list.remove();
  return found;
}"""


def test_on_a_machine_without_a_camera(playwright: Playwright, site: str) -> None:
    """A newcomer has a live picture one click later; a camera's absence is explained."""
    flags = [each for each in FLAGS if each != "--use-fake-device-for-media-stream"]
    with browsing(playwright, flags) as browser:
        visitor = Visitor(browser)
        page = visitor.page
        page.goto(site)
        page.click("[data-kind=test]")
        page.wait_for_selector(".link")
        page.wait_for_function("() => document.querySelector('[data-stat=frames]').textContent > 9")
        page.click("button:has-text('Stop')")
        page.click("[data-kind=camera]")
        page.wait_for_selector("[role=alert]:has-text('No camera or microphone was found')")
        # In a meeting the test picture stands in.
        page.click("nav a[href='#meeting']")
        page.click("text=Start a meeting")
        page.click("[data-do=test]")
        page.wait_for_selector(".own-tile")
        assert visitor.complaints == []
