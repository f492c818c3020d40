"""What a browser holds while it sends and takes a large file, and while it watches for long.

Heaps are asked of the page itself, after a garbage collection; what the processes hold is
read from /proc.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs
import pytest
from playwright.sync_api import BrowserContext, CDPSession, Page, Playwright

from tests.browser.conftest import FLAGS, serving

_SECONDS: Final = min(240.0, float(os.environ.get("SOAK_SECONDS", "1800")))
#: Of the file; what is held must be a small part of it.
_FILE_BYTES: Final = 400_000_000
_MB: Final = 1_000_000
#: More than a page holds before its first byte: blocks on their way, and what the garbage
#: collector and the allocator have not given back yet.
_MOST_HEAP: Final = 60 * _MB
_MOST_PROCESS: Final = 160 * _MB
#: From the second quarter of watching to the last: a leak of one picture in a hundred
#: would be twenty times as much.
_MOST_HEAP_RISE: Final = 3 * _MB
_MOST_PROCESS_RISE: Final = 40 * _MB
#: Decoded pictures that wait to be shown, and one in each hand.
_MOST_OPEN_FRAMES: Final = 20

pytestmark = [pytest.mark.soak, pytest.mark.timeout(_SECONDS + 300)]


@attrs.frozen
class Held:
    """Bytes: of the pages' heaps, and of each process that a page runs in, by its id."""

    heaps: list[int]
    processes: dict[int, int]


def weigh(pages: list[Visited], *, collect: bool = False) -> Held:
    heaps = []
    for page in pages:
        if collect:
            page.debugger.send("HeapProfiler.collectGarbage")
        heaps.append(int(page.debugger.send("Runtime.getHeapUsage")["usedSize"]))
    return Held(heaps, dict(_renderers()))


def _renderers() -> Iterator[tuple[int, int]]:
    """Yield the renderers among our descendants, and what they hold.

    Not the browser's own process: what the pages say to the server passes through it on
    its way to whoever drives the browser, and waits there.
    """
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue  # it ended just now
            children.setdefault(parent, []).append(int(entry.name))
    waiting = [os.getpid()]
    while waiting:
        pid = waiting.pop()
        waiting += children.get(pid, [])
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except OSError:
            continue
        if b"--type=renderer" in command:
            yield pid, pages * os.sysconf("SC_PAGE_SIZE")


@attrs.frozen
class Visited:
    """A page, and a way to ask for its heap."""

    page: Page
    debugger: CDPSession
    complaints: list[str]


def _open_page(context: BrowserContext, name: str) -> Visited:
    page = context.new_page()
    page.add_init_script(f"localStorage['tim.name'] ??= {json.dumps(json.dumps(name))}")
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    debugger = context.new_cdp_session(page)
    debugger.send("HeapProfiler.enable")
    return Visited(page, debugger, complaints)


@contextmanager
def two_pages(playwright: Playwright, profile: Path) -> Iterator[tuple[list[Visited], str, str]]:
    """Open a browser with a profile on the disk, for others have their files in memory.

    Yields:
        two pages, and two addresses of one server: as places of their own, each with a
        name of its own.
    """
    path = shutil.which("chromium")
    assert path is not None, "chromium is missing; `make test` installs it"
    with serving() as site:
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=path, args=FLAGS, viewport={"width": 560, "height": 420}
        )
        found = [_open_page(context, name) for name in ("alice", "bob")]
        yield found, site, site.replace("127.0.0.1", "localhost")
        assert [each.complaints for each in found] == [[], []]
        context.close()


def test_a_large_file(
    playwright: Playwright, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    film = tmp_path / "film.mp4"
    with film.open("wb") as file:
        for _ in range(_FILE_BYTES // _MB):
            file.write(os.urandom(_MB))
    with two_pages(playwright, tmp_path / "profile") as (pages, here, there):
        alice, bob = (each.page for each in pages)
        for page, site in ((alice, here), (bob, there)):
            page.goto(f"{site}#files")
            page.wait_for_selector("#file-picker", state="attached")
        before = weigh(pages, collect=True)
        alice.fill("[name=to]", "bob")
        alice.set_input_files("#file-picker", str(film))
        alice.click("[data-do=send]")
        bob.click("[data-do=accept]", timeout=120_000)  # its digest comes first
        seen: list[Held] = []
        weigh_until(
            lambda: bool(bob.locator("[data-phase=done]").count()),
            lambda: seen.append(weigh(pages)),
        )
    heaps = [max(each.heaps[at] - before.heaps[at] for each in seen) for at in (0, 1)]
    most = max(
        size - before.processes.get(pid, 0) for each in seen for pid, size in each.processes.items()
    )
    with capsys.disabled():
        print(
            f"\n{_FILE_BYTES / _MB:.0f} MB from page to page, weighed {len(seen)} times: heaps "
            f"rose by {heaps[0] / _MB:.1f} and {heaps[1] / _MB:.1f} MB, no process by more than "
            f"{most / _MB:.0f} MB"
        )
    assert len(seen) > 5
    assert max(heaps) < _MOST_HEAP
    assert most < _MOST_PROCESS


def weigh_until(is_over: Callable[[], bool], note: Callable[[], None]) -> None:
    deadline = time.monotonic() + 240
    while not is_over():
        assert time.monotonic() < deadline
        note()
        time.sleep(0.2)


def test_watching_for_long(
    playwright: Playwright, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with two_pages(playwright, tmp_path / "profile") as (pages, here, there):
        publisher, viewer = (each.page for each in pages)
        publisher.goto(here)
        publisher.click("[data-kind=test]")
        room = publisher.input_value(".link").rpartition("#")[2]
        viewer.add_init_script(_COUNT_FRAMES)
        viewer.goto(f"{there}#{room}")
        viewer.wait_for_function("() => globalThis.decoded > 60", timeout=30_000)
        seen: list[Held] = []
        most_open = 0
        end = time.monotonic() + _SECONDS
        while time.monotonic() < end:
            seen.append(weigh(pages, collect=True))
            most_open = max(most_open, int(viewer.evaluate("() => decoded - givenBack")))
            time.sleep(_SECONDS / 60)
        drawn = int(viewer.evaluate(_DRAWN))
        decoded = int(viewer.evaluate("() => decoded"))
    quarter = len(seen) // 4
    early, late = seen[quarter : 2 * quarter], seen[-quarter:]

    def rise(of: Callable[[Held], float]) -> float:
        return statistics.median(map(of, late)) - statistics.median(map(of, early))

    heaps = [rise(lambda held, at=at: held.heaps[at]) for at in (0, 1)]  # type: ignore[misc]
    lasting = set.intersection(*(set(held.processes) for held in (*early, *late)))
    worst = max(rise(lambda held, pid=pid: held.processes[pid]) for pid in lasting)  # type: ignore[misc]
    with capsys.disabled():
        print(
            f"\n{drawn:,} pictures drawn in {_SECONDS:.0f} s, never more than {most_open} held; "
            f"heaps rose by {heaps[0] / _MB:.2f} (publisher) and {heaps[1] / _MB:.2f} MB, no "
            f"process by more than {worst / _MB:.1f} MB"
        )
    assert decoded >= drawn > 10 * _SECONDS
    assert most_open <= _MOST_OPEN_FRAMES
    assert max(heaps) < _MOST_HEAP_RISE
    assert worst < _MOST_PROCESS_RISE


_DRAWN: Final = "() => document.querySelector('.tile canvas').player.stats.framesDrawn"

#: Counts pictures that the decoder makes, and those that are given back.
_COUNT_FRAMES: Final = """
globalThis.decoded = 0;
globalThis.givenBack = 0;
const { close } = VideoFrame.prototype;
VideoFrame.prototype.close = function () {
  givenBack += 1;
  return close.call(this);
};
globalThis.VideoDecoder = class extends VideoDecoder {
  constructor({ output, error }) {
    super({ error, output: (frame) => {
      decoded += 1;
      output(frame);
    } });
  }
};
"""
