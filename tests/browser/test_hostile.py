"""Names that are scripts, links that are, pages of others, and a page that is not secure."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote, urlsplit

import pytest

from tests.browser.conftest import ELSEWHERE, Visit, serving
from tests.browser.test_meeting import choose, wait_for_tiles
from tim_trio.protocol.websocket import SUBPROTOCOL

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

SMALL = (640, 520)
FRIEND = "http://friend.example"
#: What an account's name may hold: no space, no slash, no colon.
NAMES = (
    "<script>alert(1)<b>",
    "<svg><b>",
    "\"onmouseover='alert(1)'",
    "{account}${alert(1)}&lt;",
)


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[str]:
    """The page of a server that goes by a name, and lets one page of others in."""
    settings = (f"web_hosts={ELSEWHERE}", f"web_origins={FRIEND}")
    with serving(*(word for each in settings for word in ("--set", each))) as site:
        yield site


def test_names_that_are_scripts(site: str, visit: Visit) -> None:
    host_name, guest_name, *others = NAMES
    host = visit(site + "#meeting", name=host_name, size=SMALL)
    choose(host, "test")
    host.page.click("text=Start a meeting")
    room = host.page.inner_text("h1.room-id")
    guest = visit(f"{site}#meet={room}", name=guest_name, size=SMALL)
    guest.page.wait_for_selector(f".who:has-text({css(guest_name)})")
    choose(guest, "test")
    guest.page.click("button:has-text('Join')")
    guest.page.click("[data-do=ask]")
    for name in others:
        host.evaluate(_ASK, [room, name])
    for name in (guest_name, *others):
        host.page.wait_for_selector(f".requests li:has-text({css(name)})")
        host.page.click(f"[data-grant={css(name)}]")
    for person, shown in ((host, set(NAMES)), (guest, {host_name, guest_name})):
        wait_for_tiles(person, {host_name, guest_name})
        people = person.page.locator(".people li .name").all_inner_texts()
        assert set(people) == shown
        assert person.evaluate(_FOREIGN_ELEMENTS) == []
        person.check_view()


def css(name: str) -> str:
    return '"' + name.replace('"', '\\"') + '"'


_ASK = """async ([room, account]) => {
  const { connect } = await import("/tim/index.js");
  const client = await connect(`ws://${location.host}/ws`, { account });
  await client.askToPush(room, "<b>please</b>");
}"""

#: What names would have become, had they been taken for HTML.
_FOREIGN_ELEMENTS = """() => [...document.querySelectorAll(
  "body script, main b, main svg:not(.icon), #notices b, #notices svg, [onmouseover]",
)].map((each) => each.outerHTML)"""


def test_links_that_are_scripts_or_lead_nowhere(site: str, visit: Visit) -> None:
    script = quote("<img src=x onerror=\"document.title='mine'\">")
    visitor = visit(f"{site}#watch={script}", name="vera")
    page = visitor.page
    for view in ("watch", "meet"):
        visitor.evaluate("view => { location.hash = view }", f"{view}={script}")
        page.wait_for_selector("main :text('<img src')")
        assert page.locator("main img").count() == 0
        assert "mine" not in page.title()
    # Whoever made them, they lead to the start.
    for address in ("%", "__proto__", "constructor=x", "toString", "nothing", "%ff", "="):
        visitor.evaluate("address => { location.hash = 'meeting' }")
        page.wait_for_selector("h1:has-text('New meeting')")
        visitor.evaluate("address => { location.hash = address }", address)
        page.wait_for_selector("h1:has-text('Share live')")


def test_pages_of_others(elsewhere: str, visit: Visit) -> None:
    """Whoever has our page open in one tab has theirs in another."""
    port = urlsplit(elsewhere).port
    visitor = visit(elsewhere, name="vera")
    page = visitor.page
    page.wait_for_selector("main h1")
    found = {}
    for origin in ("http://evil.example", FRIEND):
        page.route(
            f"{origin}/**", lambda route: route.fulfill(body="<p>", content_type="text/html")
        )
        page.goto(f"{origin}/")
        found[origin] = visitor.evaluate(_OPEN, [f"ws://127.0.0.1:{port}/ws", SUBPROTOCOL])
        # Nor may they show ours within theirs, for clicks that are not meant for it.
        visitor.evaluate(_FRAME, elsewhere)
        assert page.frames[-1].url == "chrome-error://chromewebdata/"
    assert found == {"http://evil.example": "refused", FRIEND: "open"}
    assert "Unexpected response code: 403" in visitor.complaints[0]
    visitor.complaints.clear()


_OPEN = """([address, protocol]) => new Promise((resolve) => {
  const socket = new WebSocket(address, [protocol]);
  socket.onopen = () => resolve("open");
  socket.onclose = () => resolve("refused");
})"""

_FRAME = """(address) => new Promise((resolve) => {
  const frame = document.createElement("iframe");
  frame.onload = () => setTimeout(resolve, 100);
  frame.src = address;
  document.body.append(frame);
})"""


def test_a_page_that_is_not_secure(elsewhere: str, visit: Visit) -> None:
    """Browsers refuse cameras and codecs there; the page says so, and what to do."""
    port = urlsplit(elsewhere).port
    site = f"http://{ELSEWHERE}:{port}/"
    visitor = visit(site, name="vera")
    page = visitor.page
    assert page.evaluate("() => isSecureContext") is False
    for view in ("live", "meeting", "watch=NGhMpCbk2wQ"):
        visitor.evaluate("view => { location.hash = view }", view)
        notice = page.locator("main [role=alert]:visible")
        notice.wait_for()
        words = notice.inner_text()
        assert "The browser refuses cameras and video on this address" in words
        assert f"ssh -L {port}:127.0.0.1:{port} {ELSEWHERE}" in words
        assert f"http://127.0.0.1:{port}/" in words
        visitor.check_view()
    visitor.evaluate("() => { location.hash = 'live' }")
    page.wait_for_selector("[data-kind]")
    assert page.locator("[data-kind]:enabled").count() == 0
    visitor.photograph("not-secure")
    # All that the browser has to say is that it leaves a header aside there.
    assert all("Cross-Origin-Opener-Policy" in each for each in visitor.complaints)
    visitor.complaints.clear()
