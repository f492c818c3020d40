"""The dashboard of a cluster: its nodes, their links, and where each room is."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs
import pytest

from tests.browser.conftest import Visit, serving_both
from tests.browser.traffic import busy_rooms
from tests.cluster.etcd_process import EtcdMember, running_etcd
from tim_trio.cluster.placement import Placement
from tim_trio.protocol.room_ids import parse_room_id

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

NAMES = ("north", "south", "west")


@pytest.fixture
def etcd() -> Iterator[EtcdMember]:
    with running_etcd() as members:
        yield members[0]


@attrs.frozen
class Node:
    """``site`` is its page's address, ``stop`` ends it."""

    site: str
    port: int
    stop: Callable[[], None]


@contextmanager
def cluster(etcd: EtcdMember, directory: Path) -> Iterator[dict[str, Node]]:
    """Run three nodes with a page each; yield them by name."""
    secret = directory / "secret"
    secret.write_text("a secret of the tests, long enough")
    common = ("--cluster", etcd.url.replace("http", "etcd"), "--cluster-secret", str(secret))
    with ExitStack() as stack:
        own = {name: stack.enter_context(ExitStack()) for name in NAMES}

        def start(name: str) -> Node:
            site, port = own[name].enter_context(serving_both("--name", name, *common))
            return Node(site, port, own[name].close)

        with ThreadPoolExecutor() as pool:
            nodes = dict(zip(NAMES, pool.map(start, NAMES), strict=True))
        yield nodes


def relay_of(room: str) -> str:
    return Placement(dict.fromkeys(NAMES, 1)).rank(parse_room_id(room), 1)[0]


def test_nodes_links_and_a_rooms_relay_and_backups(
    etcd: EtcdMember, tmp_path: Path, visit: Visit
) -> None:
    with cluster(etcd, tmp_path) as nodes:
        north = nodes["north"]
        ports = [nodes[name].port for name in ("south", "west")]
        # North has the page and the publisher; the relay is to be another.
        with busy_rooms(north.port, ports, lambda room: relay_of(room) != "north") as busy:
            visitor = visit(north.site + "#dashboard", name="olga", size=(1200, 1150))
            page = visitor.page
            for name in NAMES:
                page.wait_for_selector(f"[data-node={name}] .badge[data-state]")
            states = {name: page.inner_text(f"[data-node={name}] .badge") for name in NAMES}
            assert states == {"north": "here", "south": "live", "west": "live"}
            # Who watches elsewhere makes links, and they are drawn.
            page.wait_for_selector(".link-line", state="attached")
            assert page.inner_text("[data-figure=failovers]").isdigit()
            row = f"[data-room='{busy.room}']"
            page.wait_for_function(
                "row => /bit\\/s$/.test(document.querySelector(row)?.children[6].textContent)",
                arg=row,
            )
            ranking = page.inner_text(f"{row} td.ranking").split(" → ")
            assert sorted(ranking) == sorted(NAMES)
            page.wait_for_function(
                "row => document.querySelector(row).children[5].textContent === '4'", arg=row
            )
            visitor.check_view()
            if os.environ.get("TIM_PHOTOGRAPH"):
                time.sleep(24)
            visitor.photograph("dashboard-cluster")

            # Down the room's tree, from node to node.
            page.click(f"{row} a")
            page.wait_for_selector(".roles b")
            assert page.locator(".roles b").all_inner_texts() == ranking
            for name in ("south", "west"):
                page.select_option("label:has-text('At node') select", name)
                page.wait_for_selector("[data-subscriber=bob], [data-subscriber=carol]")
            visitor.check_view()

            # The relay goes; the next in line takes over, and that is counted.
            page.click("text=All rooms")
            nodes[ranking[0]].stop()
            page.wait_for_selector(f"[data-node={ranking[0]}]", state="detached")
            page.wait_for_function(
                "([row, cell]) => document.querySelector(row)?.querySelector('.ranking')"
                ".textContent === cell",
                arg=[row, " → ".join(ranking[1:])],
            )
            page.wait_for_function(
                "() => Number(document.querySelector('[data-figure=failovers]').textContent) > 0"
            )
