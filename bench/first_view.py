"""``python -m bench.first_view``: how long until the page shows something to use.

A browser of the system opens the page of a server on this machine, near (no delay)
and far (50 ms more for each request, 10 Mbit/s), without a cache and again with what
the first visit left there. A round is a browser profile of its own; medians are shown.

WebSockets are not delayed: what counts here is how the files come.
"""

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
from typing import Final

from playwright.sync_api import Browser, sync_playwright

from bench.processes import BenchError

#: Of a page that can be used: what a visitor clicks first.
_USABLE: Final = "[data-kind=test]"
_FAR: Final = {
    "offline": False,
    "latency": 50,
    "downloadThroughput": 10_000_000 / 8,
    "uploadThroughput": 10_000_000 / 8,
}
_WAIT_MS: Final = 30_000


def _visit(browser: Browser, address: str, is_far: bool) -> list[dict[str, float]]:
    """Open the page twice; return for each visit ms, requests and bytes over the network."""
    context = browser.new_context()
    context.set_default_timeout(_WAIT_MS)
    page = context.new_page()
    debugger = context.new_cdp_session(page)
    debugger.send("Network.enable")
    if is_far:
        debugger.send("Network.emulateNetworkConditions", _FAR)
    counts = {"requests": 0.0, "bytes": 0.0}

    def count(event: dict[str, float]) -> None:
        if event["encodedDataLength"] > 0:
            counts["requests"] += 1
            counts["bytes"] += event["encodedDataLength"]

    debugger.on("Network.loadingFinished", count)
    found = []
    for _ in range(2):
        counts.update(requests=0, bytes=0)
        page.goto("about:blank")
        page.goto(address, wait_until="commit")
        page.wait_for_selector(_USABLE)
        at = page.evaluate("() => new Promise(done => requestAnimationFrame(done))")
        page.wait_for_load_state("networkidle")
        found.append({"ms": float(at), **counts})
    context.close()
    return found


def _median(rounds: list[dict[str, float]]) -> dict[str, int]:
    return {key: round(statistics.median(each[key] for each in rounds)) for key in rounds[0]}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.first_view", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    chromium = shutil.which("chromium")
    if chromium is None:
        raise BenchError("chromium is missing; `make test` installs it")
    command = [sys.executable, "-m", "tim_trio", "--tcp", "127.0.0.1:0", "--web", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            lines = server.stdout.readline() + server.stdout.readline()
            found = re.search(r"^listening web (\S+)$", lines, re.MULTILINE)
            if found is None:
                raise BenchError(f"the server does not listen: {lines}")
            address = f"http://{found[1]}/"
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path=chromium, args=["--headless", "--no-sandbox"]
                )
                _visit(browser, address, False)  # the browser's own first steps
                for name, is_far in (("near", False), ("far", True)):
                    visits = [_visit(browser, address, is_far) for _ in range(rounds)]
                    for at, which in enumerate(("first", "again")):
                        row = _median([visit[at] for visit in visits])
                        print(json.dumps({"network": name, "visit": which, **row}), flush=True)
                browser.close()
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
