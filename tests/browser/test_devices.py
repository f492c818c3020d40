"""Devices and publishers that go away in the middle."""

from __future__ import annotations

import pytest

from tests.browser.conftest import Visit
from tests.browser.visitor import SMALL

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]


def test_what_is_unplugged_and_who_falls_silent(site: str, visit: Visit) -> None:
    publisher = visit(site, name="paula", size=SMALL)
    publisher.evaluate(_KEEP_STREAM)
    viewer = visit(publisher.share("camera"), name="vera", size=SMALL)
    viewer.wait_for_picture(5)

    mute = publisher.page.locator("button:has-text('Mute')")
    assert mute.is_visible()
    publisher.evaluate(_UNPLUG, "audio")
    publisher.page.wait_for_selector("[role=alert]:has-text('The microphone is gone')")
    assert mute.is_hidden()
    drawn = int(viewer.stats()["framesDrawn"])
    viewer.wait_for_picture(drawn + 10)
    assert publisher.page.is_visible("text=You are live")

    # A publisher that stands still, as behind a laptop's lid: its last picture is no live one.
    silent = viewer.page.locator(".note:has-text('Nothing comes from paula just now.')")
    publisher.evaluate(_HOLD)
    silent.wait_for()
    viewer.check_view()
    publisher.evaluate("() => release()")
    silent.wait_for(state="hidden")

    publisher.evaluate(_UNPLUG, "video")
    publisher.page.wait_for_selector("[role=alert]:has-text('The camera is gone')")
    publisher.page.wait_for_selector("[data-kind=camera]")
    viewer.page.wait_for_selector(".stage-message:has-text('The stream has ended.')")


_KEEP_STREAM = """() => {
  const devices = navigator.mediaDevices;
  const open = devices.getUserMedia.bind(devices);
  devices.getUserMedia = async (wanted) => (globalThis.stream = await open(wanted));
}"""

#: Nothing leaves the page until `release`.
_HOLD = """() => {
  const { send } = WebSocket.prototype;
  const held = [];
  WebSocket.prototype.send = function (data) {
    held.push([this, new Uint8Array(data)]);
  };
  globalThis.release = () => {
    WebSocket.prototype.send = send;
    for (const [socket, data] of held) socket.send(data);
  };
}"""

#: No script can unplug; this is what the browser tells then.
_UNPLUG = """(kind) => {
  for (const track of stream.getTracks().filter((each) => each.kind === kind)) {
    track.stop();
    track.dispatchEvent(new Event("ended"));
  }
}"""
