"""Where a page's files are, told to the browser beforehand.

Pure. Modules import one another by relative paths, each statement at the beginning of a
line, as tim_trio/web/static has them.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Final

#: From ``import`` to the path, over several lines where there are braces.
_IMPORT: Final = re.compile(
    rb'^(?:import|export)\s+(?:[\w$*{][^;"\']*?\bfrom\s+)?"(\.{1,2}/[^"]+)"', re.MULTILINE
)
_MODULE_SCRIPT: Final = re.compile(rb'<script type="module" src="/([^"]+)"></script>')


def imports_of(name: str, source: bytes) -> Iterator[str]:
    """Yield the names of the modules that a module imports, relative to the site."""
    for found in _IMPORT.finditer(source):
        yield posixpath.normpath(posixpath.join(posixpath.dirname(name), found[1].decode()))


def modules_from(entry: str, site: Mapping[str, bytes]) -> list[str]:
    """Return a module and all that it imports, directly or not, in the order of the imports.

    Raises:
        KeyError: one imports what is not there.
    """
    found: dict[str, None] = {}
    waiting = [entry]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = None
            waiting += reversed([*imports_of(name, site[name])])
    return list(found)


def preload_modules(html: bytes, site: Mapping[str, bytes]) -> bytes:
    """Return a page with a ``modulepreload`` link for each module that it leads to.

    Raises:
        KeyError: a module is not there.
    """

    def links(script: re.Match[bytes]) -> bytes:
        names = modules_from(script[1].decode(), site)
        preloads = (f'<link rel="modulepreload" href="/{name}">'.encode() for name in names)
        return b"\n".join((*preloads, script[0]))

    return _MODULE_SCRIPT.sub(links, html)


def link_under(prefix: str, html: bytes) -> bytes:
    """Return a page whose scripts, styles and icons are those under ``prefix``."""
    return re.sub(rb'\b(src|href)="/', rf'\1="/{prefix}'.encode(), html)
