"""A page whose node stops goes on at another node of the cluster."""

from __future__ import annotations

import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.browser.conftest import Visit, serving
from tests.cluster.etcd_process import free_ports, running_etcd

SMALL = (560, 420)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def test_a_viewer_goes_on_at_another_node(visit: Visit, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a secret of the tests, long enough")
    with ExitStack() as stack:
        (etcd,) = stack.enter_context(running_etcd())
        common = ("--cluster", etcd.url.replace("http", "etcd"), "--cluster-secret", str(secret))
        hosts = [f"127.0.0.1:{port}" for port in free_ports(2)]
        south, north = (stack.enter_context(ExitStack()) for _ in hosts)
        for name, host, own in zip(("south", "north"), hosts, (south, north), strict=True):
            public = ("--set", f"public=ws://{host}")
            own.enter_context(serving("--name", name, *public, *common, web=host))
        _wait_known(hosts[1], hosts[0])
        publisher = visit(f"http://{hosts[0]}/", name="paula", size=SMALL)
        fragment = urlsplit(publisher.share()).fragment
        viewer = visit(f"http://{hosts[1]}/#{fragment}", name="vera", size=SMALL)
        viewer.wait_for_picture(10)
        assert viewer.check_pattern() == []  # by a module that cannot be fetched later
        drawn = int(viewer.stats()["framesDrawn"])
        north.close()
        viewer.wait_for_picture(drawn + 60)
        viewer.page.wait_for_selector(".dot[data-state=up]")
        assert viewer.check_pattern() == []
        # The browser's own, of attempts where nobody was any more.
        viewer.complaints.clear()


def _wait_known(host: str, other: str) -> None:
    """Wait until the pages of one node may go on at another."""
    deadline = time.monotonic() + 20
    while True:
        with urllib.request.urlopen(f"http://{host}/", timeout=5) as response:
            policy = response.headers["Content-Security-Policy"]
        if f"ws://{other}" in policy:
            return
        assert time.monotonic() < deadline, policy
        time.sleep(0.05)
