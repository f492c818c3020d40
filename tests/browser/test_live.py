"""Live: one page publishes, others watch."""

from __future__ import annotations

import statistics
import time
from itertools import pairwise
from typing import Final

import pytest

from tests.browser.conftest import Visit
from tests.browser.visitor import SHOWN, SMALL, Visitor

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def test_one_publishes_and_three_watch(site: str, visit: Visit) -> None:
    publisher = visit(site, name="paula", size=SHOWN)
    publisher.page.wait_for_selector("[data-kind=test]")
    publisher.photograph("live-start")
    link = publisher.share()
    sizes = {"vera": SHOWN, "victor": SMALL, "wendy": SMALL}
    viewers = [visit(link, name=name, size=size) for name, size in sizes.items()]
    for viewer in viewers:
        viewer.wait_for_picture(60)
        assert viewer.check_pattern() == []
        behind = viewer.behind_ms()
        assert behind is not None and behind < 2000
        viewer.wait_for_sound()
    publisher.page.wait_for_function(
        "() => document.querySelector('[data-stat=viewers]').textContent === '3'"
    )
    # None, unless the machine has no time for the encoder.
    dropped = int(publisher.page.inner_text("[data-stat=dropped]"))
    assert dropped < viewers[0].stats()["framesDrawn"] / 4
    publisher.photograph("live")
    viewers[0].photograph("watch")

    for viewer in viewers[1:]:
        viewer.close()
    # Joining late: the running group, not the next keyframe. A machine that is busy with
    # something else may spoil ten, but not ten and ten again and again.
    for _ in range(3):
        waits = [first_picture_ms(viewers[0], link) for _ in range(10)]
        print("first picture after ms:", sorted(round(wait) for wait in waits))
        if statistics.median(waits) < 500:
            break
    else:
        pytest.fail("the first picture takes too long")


def first_picture_ms(viewer: Visitor, link: str) -> float:
    """Leave and come back; return the time from subscribing to the first picture."""
    viewer.evaluate("() => { location.hash = 'live' }")
    viewer.page.wait_for_selector("[data-kind=test]")
    viewer.evaluate("link => { location.href = link }", link)
    viewer.wait_for_picture()
    stats = viewer.stats()
    return stats["firstPictureAt"] - stats["subscribedAt"]


def test_the_publisher_reloads_and_the_viewers_go_on(site: str, visit: Visit) -> None:
    publisher = visit(site, name="paula", size=SMALL)
    link = publisher.share()
    viewer = visit(link, name="vera", size=SMALL)
    viewer.wait_for_picture(30)
    publisher.page.reload()
    publisher.page.wait_for_selector(".link")
    assert publisher.page.input_value(".link") == link
    drawn = viewer.stats()["framesDrawn"]
    viewer.wait_for_picture(int(drawn) + 30)
    assert viewer.check_pattern() == []
    behind = viewer.behind_ms()
    assert behind is not None and behind < 2000


def test_a_frozen_viewer_comes_back_to_the_live_edge(site: str, visit: Visit) -> None:
    """Each round is a while as a yardstick, and as long a while with one viewer frozen.

    What must hold in each round does not depend on how busy the machine is: the frozen
    viewer leaves out what it has missed, and the other goes on. The figures (back within
    1 s; the other's p99 between pictures moves by less than 20 ms) are held against what
    the machine does to the yardsticks themselves.
    """
    publisher = visit(site, name="paula", size=SMALL)
    link = publisher.share()
    frozen, other = (visit(link, name=name, size=SMALL) for name in ("vera", "victor"))
    for viewer in (frozen, other):
        viewer.wait_for_picture(30)
        viewer.evaluate(_NOTE_DRAWING)
    debugger = frozen.page.context.new_cdp_session(frozen.page)
    debugger.send("Debugger.enable")
    backs: list[float] = []
    calm: list[float] = []
    during: list[float] = []
    for done in range(1, _MOST_ROUNDS + 1):
        for viewer in (frozen, other):
            viewer.evaluate("() => { drawn.length = 0 }")
        time.sleep(_FREEZE_S)
        usual = statistics.median(age for _, age in frozen.evaluate("() => drawn"))
        calm.append(_p99(_intervals(other.evaluate("() => drawn.splice(0)"))))
        skipped = frozen.stats()["framesSkipped"]
        debugger.send("Debugger.pause")
        time.sleep(_FREEZE_S)
        # On this machine's clock, like what the page notes.
        thawed = time.time() * 1000
        debugger.send("Debugger.resume")
        live = frozen.page.wait_for_function(_IS_LIVE, arg=[thawed, usual + 250], polling=50)
        backs.append(live.json_value() - thawed)
        intervals = _intervals(other.evaluate("() => drawn.splice(0)"))
        during.append(_p99(intervals))
        drawn = frozen.evaluate("() => drawn")
        assert max(_intervals(drawn)) > 0.8 * 1000 * _FREEZE_S, "it was not frozen"
        old = [at for at, _ in drawn if thawed < at < live.json_value()]
        assert len(old) < 30, "it played what it had missed"
        assert frozen.stats()["framesSkipped"] > skipped, "nor left it out"
        assert frozen.check_pattern() == [], "from a keyframe on"
        # Held up as long as the frozen one, it would have seen no picture at all.
        assert max(intervals) < 0.8 * 1000 * _FREEZE_S, "the other waited"
        moved = statistics.median(during) - statistics.median(calm)
        noise = max(calm) - min(calm)
        print(
            f"back after {backs[-1]:.0f} ms; p99 between pictures {calm[-1]:.0f} ms, beside a "
            f"frozen viewer {during[-1]:.0f}; all in all moved by {moved:.1f}, noise {noise:.1f}"
        )
        if done >= _FEWEST_ROUNDS and min(backs) < 1000 and moved < 20 + noise:
            return
    assert min(backs) < 1000
    assert moved < 20 + noise


_FREEZE_S: Final = 3.0
_FEWEST_ROUNDS: Final = 2
_MOST_ROUNDS: Final = 5


def _intervals(drawn: list[list[float]]) -> list[float]:
    return [later[0] - earlier[0] for earlier, later in pairwise(drawn)]


def _p99(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]


#: When the first picture after a moment was drawn that was no older than so many ms.
_IS_LIVE = """([since, age]) =>
  drawn.find(([at, old]) => at > since && old < age)?.[0]"""

#: Note when each picture is drawn, and how old it then is.
_NOTE_DRAWING = """() => {
  globalThis.drawn = [];
  const { player } = document.querySelector(".tile canvas");
  const draw = player._draw;
  player._draw = function (frame, now) {
    const at = performance.timeOrigin + now;
    drawn.push([at, at - frame.timestamp / 1000]);
    return draw.call(this, frame, now);
  };
}"""
