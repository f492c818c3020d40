"""One person with one page, and what the tests look at in it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final, cast

from playwright.sync_api import Browser, ConsoleMessage, Page

_AXE: Final = Path(__file__).resolve().parents[1] / "js/node_modules/axe-core/axe.min.js"
IMAGES: Final = Path(__file__).resolve().parents[2] / "docs" / "images"
#: Of a picture in the documentation.
MOST_BYTES: Final = 200_000
WAIT_MS: Final = 15_000
#: Few pixels to put on the screen, which is the browser's greatest labour here.
SMALL: Final = (560, 420)
#: Of a view that the documentation shows.
SHOWN: Final = (1200, 780) if os.environ.get("TIM_PHOTOGRAPH") else SMALL

_PLAYER = "document.querySelector('.tile canvas')?.player"


class Visitor:
    """Attributes:
    complaints: errors of the page and of its console.
    """

    def __init__(
        self,
        browser: Browser,
        *,
        name: str = "",
        dark: bool = False,
        language: str = "en",
        size: tuple[int, int] = (1200, 780),
    ) -> None:
        self._context = browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme="dark" if dark else "light",
            locale="zh-CN" if language == "zh" else "en-GB",
        )
        self._context.set_default_timeout(WAIT_MS)
        if name:
            known = f"localStorage['tim.name'] ??= {json.dumps(json.dumps(name))}"
            self._context.add_init_script(known)
        self.complaints: list[str] = []
        self.page: Page = self._context.new_page()
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._hear)

    def _hear(self, message: ConsoleMessage) -> None:
        # A codec that is closed with work in hand drops pictures of the browser's own so; ours
        # are counted in tests/soak/test_browser_memory.py.
        is_dropped = message.text.startswith("A VideoFrame was garbage collected")
        if message.type == "error" and not is_dropped:
            self.complaints.append(message.text)

    def close(self) -> None:
        self._context.close()

    def evaluate(self, script: str, argument: object = None) -> Any:
        return self.page.evaluate(script, argument)

    def photograph(self, name: str) -> None:
        """Take the pictures of this view that the documentation shows: in English, and in
        Chinese where there is one so far.

        Kept only with TIM_PHOTOGRAPH in the environment, as `make screenshots` has it,
        so that a run of the tests changes no file.
        """
        if not os.environ.get("TIM_PHOTOGRAPH"):
            return
        for language, suffix in (("zh", ".zh"), ("en", "")):
            self.page.select_option("header select", language)
            if suffix and not (IMAGES / f"{name}{suffix}.png").exists():
                continue
            picture = self.page.screenshot(animations="disabled")
            assert len(picture) < MOST_BYTES
            (IMAGES / f"{name}{suffix}.png").write_bytes(picture)

    # -- what everybody must be able to use ------------------------------------

    def check_view(self) -> None:
        """Check that this view is fit for a screen reader, and that nothing sticks out."""
        if not self.evaluate("() => 'axe' in globalThis"):
            # As the browser's own tools would, past the page's policy.
            tools = self._context.new_cdp_session(self.page)
            tools.send("Runtime.evaluate", {"expression": _AXE.read_text()})
            tools.detach()
        assert self.evaluate(_BROKEN_RULES) == []
        assert self.evaluate(_STICKING_OUT) == []

    # -- publishing ------------------------------------------------------------

    def share(self, kind: str = "test") -> str:
        """Go live; return the link for viewers."""
        self.page.click(f"[data-kind={kind}]")
        self.page.wait_for_selector(".link")
        return self.page.input_value(".link")

    # -- watching --------------------------------------------------------------

    def wait_for_picture(self, frames: int = 1) -> None:
        """Wait until so many frames have been drawn."""
        self.page.wait_for_function(
            f"frames => {_PLAYER}?.stats.framesDrawn >= frames", arg=frames, timeout=WAIT_MS
        )

    def stats(self) -> dict[str, float]:
        return cast("dict[str, float]", self.evaluate(f"() => {_PLAYER}.stats"))

    def check_pattern(self) -> list[str]:
        """Compare the picture with what the test source drew then; return what differs."""
        return cast("list[str]", self.evaluate(_CHECK_PATTERN))

    def behind_ms(self) -> float | None:
        """Say how old the picture is by the stamp in it, None where there is none."""
        return cast("float | None", self.evaluate(_BEHIND))

    def wait_for_sound(self) -> None:
        """Wait until what plays is as loud as the note that begins each second."""
        self.page.wait_for_function(f"() => {_PLAYER}.level > 0.05", polling=10)


_BEHIND = """async () => {
  const { readStamp } = await import("/media/test_pattern.js");
  const canvas = document.querySelector(".tile canvas");
  const now = performance.timeOrigin + performance.now();
  const stamp = readStamp(canvas.getContext("2d"), canvas.width, canvas.height, now);
  return stamp === null ? null : now - stamp;
}"""

_BROKEN_RULES = """async () => {
  const { violations } = await axe.run();
  return violations.flatMap(({ id, nodes }) =>
    nodes.map(({ html, failureSummary }) => `${id}: ${html}: ${failureSummary}`));
}"""

_STICKING_OUT = """() => [...document.querySelectorAll("body *")].filter((each) => {
  const { left, right, width } = each.getBoundingClientRect();
  return width > 0 && !each.matches(".skip")
    && (left < -1 || right > document.documentElement.clientWidth + 1);
}).map((each) => each.outerHTML.slice(0, 120))"""

_CHECK_PATTERN = """async () => {
  const { FLASH_AT, isFlash, patchesAt, readStamp } = await import("/media/test_pattern.js");
  const canvas = document.querySelector(".tile canvas");
  const context = canvas.getContext("2d");
  const now = performance.timeOrigin + performance.now();
  const stamp = readStamp(context, canvas.width, canvas.height, now);
  if (stamp === null) return ["no stamp"];
  const scale = canvas.width / 640;
  const found = [];
  const compare = (x, y, colour, what) => {
    const pixel = context.getImageData(x * scale, y * scale, 1, 1).data;
    const wanted = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
    if (wanted.some((value, at) => Math.abs(value - pixel[at]) > 24)) {
      found.push(`${what} at ${stamp}: ${[...pixel.slice(0, 3)]} instead of ${wanted}`);
    }
  };
  for (const { x, y, colour } of patchesAt(stamp)) compare(x, y, colour, `patch ${x}`);
  const { x, y } = FLASH_AT;
  compare(x, y, isFlash(stamp) ? "#ffffff" : "#2a313c", "flash");
  return found;
}"""
