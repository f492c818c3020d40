"""A server with its page, and the system's Chromium on it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import attrs
import pytest
from playwright.sync_api import Browser, Playwright

from tests.browser.visitor import Visitor

#: A browser in a container, without a sandbox of its own, without a graphics
#: card, and with a camera that shows a turning disc.
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--use-fake-device-for-media-stream --use-fake-ui-for-media-stream "
    "--autoplay-policy=no-user-gesture-required"
).split()
#: A name that leads here and is no loopback name: to the browser the page is not secure.
ELSEWHERE: Final = "stream.example"
# What keeps others from this machine's servers is to be the server, not the browser's own
# check, which not every browser has.
FLAGS.append("--disable-features=LocalNetworkAccessChecks,LocalNetworkAccessChecksWebSockets")
FLAGS.append(f"--host-resolver-rules=MAP {ELSEWHERE} 127.0.0.1")

Serve = Callable[..., str]
Visit = Callable[..., Visitor]


@attrs.frozen
class Running:
    """A server: the addresses of its page and of its TCP port."""

    page: str
    tcp: str


@contextmanager
def serving(*options: str, web: str = "127.0.0.1:0") -> Iterator[str]:
    """Run a server in a process of its own; yield the page's address."""
    with running(*options, web=web) as server:
        yield server.page


@contextmanager
def serving_both(*options: str, web: str = "127.0.0.1:0") -> Iterator[tuple[str, int]]:
    """As `serving`; yield the TCP port as well."""
    with running(*options, web=web) as server:
        yield server.page, int(server.tcp.rpartition(":")[2])


@contextmanager
def running(*options: str, web: str = "127.0.0.1:0") -> Iterator[Running]:
    """Run a server in a process of its own."""
    command = [sys.executable, "-m", "tim_trio", "serve"]
    command += ["--tcp", "127.0.0.1:0", "--web", web, "--greet"]
    # Pages that are still there when it ends have nowhere to go to.
    command += ["--set", "drain_timeout_s=0.5", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            lines = "".join(process.stdout.readline() for _ in range(4))
            # What `make run` ends with, for a newcomer to open.
            found = re.search(r"^The page: (http://\S+/)$", lines, re.MULTILINE)
            assert found is not None, lines
            tcp = re.search(r"^listening tcp (\S+)$", lines, re.MULTILINE)
            assert tcp is not None, lines
            yield Running(found[1], f"tim://{tcp[1]}")
        finally:
            process.terminate()
            process.wait(timeout=20)


@contextmanager
def browsing(playwright: Playwright, flags: list[str]) -> Iterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        pytest.fail("chromium is missing; `make test` installs it")
    browser = playwright.chromium.launch(executable_path=path, args=flags)
    yield browser
    browser.close()


@pytest.fixture(scope="session")
def browser(playwright: Playwright) -> Iterator[Browser]:
    with browsing(playwright, FLAGS) as browser:
        yield browser


@pytest.fixture(scope="session")
def server() -> Iterator[Running]:
    """A server in open mode, for all that need no other: accounts have names of their own."""
    with running() as server:
        yield server


@pytest.fixture
def site(server: Running) -> str:
    """The address of its page."""
    return server.page


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """Open a page as somebody else each time; whatever goes wrong in it fails the test."""
    with ExitStack() as stack:
        visitors: list[Visitor] = []

        def open_page(address: str, **options: object) -> Visitor:
            visitor = Visitor(browser, **options)  # type: ignore[arg-type]
            stack.callback(visitor.close)
            visitors.append(visitor)
            visitor.page.goto(address)
            return visitor

        yield open_page
        for visitor in visitors:
            assert visitor.complaints == []
