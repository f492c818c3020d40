"""Connections that are lost, servers that start anew, rooms that end."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from tests.browser.conftest import Visit, serving
from tests.browser.cuttable import Wire

SMALL = (560, 420)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def test_a_connection_that_is_lost_comes_back(site: str, visit: Visit) -> None:
    publisher = visit(site, name="paula", size=SMALL)
    link = urlsplit(publisher.share())
    with Wire(link.port or 0) as wire:
        viewer = visit(f"http://127.0.0.1:{wire.port}/#{link.fragment}", name="vera", size=SMALL)
        page = viewer.page
        viewer.wait_for_picture(10)
        wire.cut()
        page.wait_for_selector("header [role=status]:has-text('Connection lost, trying again')")
        page.wait_for_selector(".stage-message:has-text('It comes back by itself')")
        viewer.check_view()
        viewer.complaints.clear()  # the browser's own, of attempts that failed
        wire.mend()
        page.wait_for_selector(".notice:has-text('Connected again.')", timeout=20_000)
        page.wait_for_selector(".stage-message", state="hidden")
        drawn = viewer.stats()["framesDrawn"]
        viewer.wait_for_picture(int(drawn) + 30)
        assert viewer.check_pattern() == []
        viewer.complaints.clear()
        publisher.page.click("button:has-text('Stop')")
        page.wait_for_selector(".stage-message:has-text('The stream has ended.')")


def test_a_server_that_starts_anew(visit: Visit) -> None:
    with serving() as site:
        publisher = visit(site, name="paula", size=SMALL)
        link = publisher.share()
        viewer = visit(link, name="vera", size=SMALL)
        viewer.wait_for_picture(10)
        idle = visit(site, name="ida", size=SMALL)
        idle.page.wait_for_selector("[data-kind=test]")
    everybody = (publisher, viewer, idle)
    for person in everybody:
        person.page.wait_for_selector("header [role=status]:has-text('Connection lost')")
    # What cannot be had now is said, and not blamed on a camera.
    idle.page.click("[data-kind=test]")
    idle.page.wait_for_selector("[role=alert]:has-text('The server does not answer')")
    idle.evaluate("() => { location.hash = 'dashboard' }")
    idle.page.wait_for_selector("text=these numbers are old")
    idle.check_view()
    with serving(web=urlsplit(site).netloc):
        for person, how in ((publisher, _COME_BACK), (viewer, _COME_BACK), (idle, _TRY_NOW)):
            person.page.wait_for_function(how, polling=200)
        idle.page.wait_for_selector("text=these numbers are old", state="hidden")
        idle.page.wait_for_selector("[data-do=reconnect]", state="hidden")
        # It has forgotten its rooms, and each is told what that means here.
        publisher.page.wait_for_selector("[role=alert]:has-text('no longer has this room')")
        viewer.page.wait_for_selector(".stage-message:has-text('There is no such room')")
        for person in everybody:
            person.complaints.clear()  # the browser's own, of attempts that failed
        # And everything works again.
        viewer.page.click("text=Watch something else")
        again = publisher.share()
        viewer.page.fill("input[required]", again)
        viewer.page.keyboard.press("Enter")
        viewer.wait_for_picture(10)
        assert viewer.check_pattern() == []


#: As when the network is there again; by itself it may take half a minute.
_COME_BACK = """() => {
  dispatchEvent(new Event("online"));
  return document.querySelector(".dot").dataset.state === "up";
}"""


#: As who does not want to wait for it.
_TRY_NOW = """() => {
  document.querySelector("[data-do=reconnect]:not([hidden])")?.click();
  return document.querySelector(".dot").dataset.state === "up";
}"""


def test_rooms_that_end_and_rooms_that_never_were(site: str, visit: Visit) -> None:
    viewer = visit(site, name="vera", size=SMALL)
    page = viewer.page
    room = viewer.evaluate(_REGISTER)
    page.fill("input[required]", f"{site}#watch={room}")
    page.keyboard.press("Enter")
    page.wait_for_selector(".stage-message:has-text('Nobody is live here yet')")
    viewer.evaluate("() => creator.removeRoom(room)")
    page.wait_for_selector(".stage-message:has-text('The stream has ended.')")
    viewer.check_view()
    page.click("text=Watch something else")
    page.fill("input[required]", "x" + room)
    page.keyboard.press("Enter")
    page.wait_for_selector("[role=alert]:has-text('This is not a room')")
    page.fill("input[required]", f"  {room} ")
    page.keyboard.press("Enter")
    page.wait_for_selector(".stage-message:has-text('There is no such room')")
    viewer.evaluate("() => { location.hash = `meet=${room}` }")
    page.click("button:has-text('Join')")
    page.wait_for_selector("[role=alert]:has-text('There is no such room')")
    page.wait_for_selector("h1:has-text('New meeting')")


_REGISTER = """async () => {
  const { connect } = await import("/tim/index.js");
  globalThis.creator = await connect(`ws://${location.host}/ws`, { account: "paula" });
  globalThis.room = await creator.registerRoom();
  return room;
}"""
