"""How old a picture is when it is seen: from one page's source to another page's canvas.

The test source draws the time into its picture; whoever watches reads it back
from the canvas, at each frame that the browser puts on the screen.
"""

from __future__ import annotations

import os
from typing import Final

import pytest
from playwright.sync_api import Playwright

from tests.browser.conftest import FLAGS, browsing, serving
from tests.browser.visitor import Visitor

#: Milliseconds, on loopback.
_MEDIAN_MS: Final = 150
_SECONDS: Final = min(60.0, float(os.environ.get("SOAK_SECONDS", "1800")))
SMALL: Final = (560, 420)


@pytest.mark.soak
@pytest.mark.timeout(_SECONDS + 120)
def test_glass_to_glass(playwright: Playwright, capsys: pytest.CaptureFixture[str]) -> None:
    """360p at 30 frames a second, with sound, between two pages of one machine."""
    with serving() as site, browsing(playwright, FLAGS) as browser:
        publisher = Visitor(browser, name="paula", size=SMALL)
        publisher.page.goto(site)
        viewer = Visitor(browser, name="vera", size=SMALL)
        viewer.page.goto(publisher.share())
        viewer.wait_for_picture(300)  # the delay against jitter has settled
        viewer.wait_for_sound()
        ages = sorted(viewer.evaluate(_AGES, _SECONDS * 1000))
        pictures = len(ages)
        dropped = publisher.page.inner_text("[data-stat=dropped]")
        complaints = publisher.complaints + viewer.complaints
    p50, p95, p99 = (ages[int(len(ages) * share)] for share in (0.5, 0.95, 0.99))
    with capsys.disabled():
        print(
            f"\nglass to glass: {p50:.0f} ms p50, {p95:.0f} p95, {p99:.0f} p99, "
            f"{ages[-1]:.0f} at most; {pictures:,} pictures in {_SECONDS:.0f} s, {dropped} dropped"
        )
    assert complaints == []
    # Nearly all pictures were seen, each once.
    assert pictures > 0.9 * 30 * _SECONDS
    assert p50 < _MEDIAN_MS


#: The age of each picture when it is on the canvas, by the stamp that is read from it.
_AGES = """async (lengthMs) => {
  const { readStamp } = await import("/media/test_pattern.js");
  const canvas = document.querySelector(".tile canvas");
  const context = canvas.getContext("2d");
  const ages = [];
  let last = null;
  const end = performance.now() + lengthMs;
  while (performance.now() < end) {
    await new Promise(requestAnimationFrame);
    // After the frame's own callbacks, among them the player's.
    await new Promise((resolve) => { setTimeout(resolve, 0); });
    const now = performance.timeOrigin + performance.now();
    const stamp = readStamp(context, canvas.width, canvas.height, now);
    if (stamp === null || stamp === last) continue;
    last = stamp;
    ages.push(now - stamp);
  }
  return ages;
}"""
