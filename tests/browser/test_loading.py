"""What a visit costs: every file at once, and nothing but the page itself the second time."""

from __future__ import annotations

from typing import Final

import pytest

from tests.browser.conftest import Visit
from tests.browser.visitor import Visitor

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

#: Paths that the browser looked for, and which of them came over the network.
_ASKED: Final = """() => {
  const entries = performance.getEntriesByType("resource");
  const paths = (which) => which.map(({ name }) => new URL(name).pathname);
  return [paths(entries), paths(entries.filter(({ transferSize }) => transferSize > 0))];
}"""
_OF_A_WORKER: Final = ("part_worker.js", "part_stores.js", "sha256.js")
_ANNOUNCED: Final = """() => [...document.querySelectorAll("link[rel=modulepreload]")]
  .map(({ href }) => new URL(href).pathname)"""


def test_modules_are_announced_and_kept(site: str, visit: Visit) -> None:
    visitor = visit(site, name="vera")
    asked, came = look(visitor)
    announced = visitor.evaluate(_ANNOUNCED)
    modules = {path for path in asked if path.endswith(".js")}
    # Neither one that the browser finds out about later, but for a worker's own, nor one
    # that is not needed.
    workers = {path for path in modules if path.partition("/files/")[2] in _OF_A_WORKER}
    assert modules - workers == set(announced)
    assert len(announced) == len(set(announced)) > 50
    assert set(announced) <= set(came)
    visitor.page.reload()
    asked, came = look(visitor)
    assert set(announced) <= set(asked)
    assert not {*announced, *(path for path in asked if path.endswith(".css"))} & set(came)


def look(visitor: Visitor) -> tuple[list[str], list[str]]:
    visitor.page.wait_for_selector("[data-kind=test]")
    asked, came = visitor.evaluate(_ASKED)
    return asked, came
