"""Which modules a page leads to."""

import re
from pathlib import Path

import pytest

from tim_trio.web import load_files
from tim_trio.web.preload import imports_of, link_under, modules_from, preload_modules

STATIC = Path(__file__).resolve().parents[2] / "tim_trio/web/static"

SITE = {
    "app/main.js": b'import { a } from "./a.js";\nimport "../b/b.js";\nexport {};\n',
    "app/a.js": b'import {\n  one, two,\n} from "../b/b.js";\nexport * from "./c.js";\n',
    "app/c.js": b'import * as main from "./main.js";\n',
    "b/b.js": b"export const b = 1;\n",
    "b/alone.js": b"export const c = 1;\n",
}


def test_modules_are_found_in_the_order_of_the_imports_and_once() -> None:
    assert modules_from("app/main.js", SITE) == ["app/main.js", "app/a.js", "b/b.js", "app/c.js"]


@pytest.mark.parametrize(
    "source, found",
    [
        (b'import "./x.js";', ["app/x.js"]),
        (b'import x from "./x.js";', ["app/x.js"]),
        (b'import x, { y } from "./x.js";', ["app/x.js"]),
        (b'export { y } from "../x.js";', ["x.js"]),
        (b'import {\n  x,\n}\n  from "./x.js";', ["app/x.js"]),
        # What is text, a type or taken later is no import.
        (b'// import "./x.js";', []),
        (b'/** @typedef {import("./x.js").X} X */', []),
        (b'const x = await import("./x.js");', []),
        (b'export const x = 1;\nconst from = "./x.js";', []),
        (b'export function x() { return from("./x.js"); }', []),
        (b'import x from "elsewhere";', []),
    ],
)
def test_imports(source: bytes, found: list[str]) -> None:
    assert [*imports_of("app/main.js", source)] == found


def test_a_module_that_is_not_there_is_an_error() -> None:
    with pytest.raises(KeyError):
        modules_from("a.js", {"a.js": b'import "./b.js";'})


def test_a_page_names_its_modules_before_its_script() -> None:
    page = b'<head>\n<script type="module" src="/app/main.js"></script>\n'
    assert link_under("v/1/", preload_modules(page, SITE)) == (
        b"<head>\n"
        b'<link rel="modulepreload" href="/v/1/app/main.js">\n'
        b'<link rel="modulepreload" href="/v/1/app/a.js">\n'
        b'<link rel="modulepreload" href="/v/1/b/b.js">\n'
        b'<link rel="modulepreload" href="/v/1/app/c.js">\n'
        b'<script type="module" src="/v/1/app/main.js"></script>\n'
    )


def test_the_whole_site() -> None:
    site = load_files()
    index = site.pop("index.html").decode()
    [versioned] = set(re.findall(r'(?:src|href)="/(v/[0-9a-f]{16}/)', index))
    assert not re.search(r'(?:src|href)="/(?!v/)', index), "all of it is kept by browsers"
    plain = {name: body for name, body in site.items() if not name.startswith("v/")}
    assert plain.keys() == {
        str(path.relative_to(STATIC)) for path in STATIC.rglob("*.*") if path.name != "index.html"
    }
    assert site == plain | {versioned + name: body for name, body in plain.items()}
    for name in re.findall(r'(?:src|href)="/([^"]+)"', index):
        assert name in site
