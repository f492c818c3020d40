"""protocol <- core <- net <- cluster <- accounts <- media <- app: no import points up."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "tim_trio"
ROOT = Path(__file__).parent.parent

# From the bottom up. A module may import from its own layer and from those above it here.
LAYERS = (
    ("_version", "errors", "limits"),
    ("protocol",),
    ("config", "log"),
    ("core",),
    ("net",),
    ("cluster",),
    # Implements what the core asks for; connections and links know the interfaces alone.
    ("accounts",),
    # Uses the client library; the relay knows nothing of media.
    ("media",),
    # The package itself re-exports the client library.
    ("", "app", "cli", "web", "__main__"),
)
RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}

# The protocol is sans-IO: no scheduler, no socket, no clock, no log.
FORBIDDEN_IN_PROTOCOL = frozenset(
    "trio trio_websocket outcome sniffio asyncio threading select selectors socket ssl "
    "time datetime random secrets os io pathlib logging structlog".split()
)


def part_of(module: str) -> str:
    """``tim_trio.core.room`` belongs to ``core``, ``tim_trio`` to ````."""
    return [*module.split("."), ""][1]


def imports_of(source: str, modules: frozenset[str]) -> Iterator[tuple[int, str]]:
    """Yield line and name of each module that ``source`` imports, inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield node.lineno, f"{PACKAGE}.<relative import>"
                continue
            assert node.module is not None
            for alias in node.names:
                # `from tim_trio import log` imports a module, not a name of the package.
                inner = f"{node.module}.{alias.name}"
                yield node.lineno, inner if inner in modules else node.module


def violations(sources: dict[str, str]) -> list[str]:
    """Check a whole package, given as module name -> source text."""
    modules = frozenset(sources)
    found = []
    for module, source in sources.items():
        part = part_of(module)
        if part not in RANK:
            found.append(f"{module}: no layer holds it")
            continue
        for line, imported in imports_of(source, modules):
            top = imported.partition(".")[0]
            if part == "protocol" and top in FORBIDDEN_IN_PROTOCOL:
                found.append(f"{module}:{line}: the protocol must not import {imported}")
            if top != PACKAGE:
                continue
            target = part_of(imported)
            if target not in RANK:
                found.append(f"{module}:{line}: no layer holds {imported}")
            elif RANK[target] > RANK[part]:
                found.append(f"{module}:{line}: {part} is below {target or PACKAGE}")
            elif target != part and {target, part} == {"errors", "limits"}:
                found.append(f"{module}:{line}: {part} stands alone")
    return found


def package_sources() -> dict[str, str]:
    sources = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        sources[".".join(parts)] = path.read_text(encoding="utf-8")
    return sources


def test_no_import_points_up() -> None:
    sources = package_sources()
    assert f"{PACKAGE}.errors" in sources
    assert violations(sources) == []


@pytest.mark.parametrize(
    "module, source",
    [
        ("tim_trio.core.room", "from tim_trio.net.server import serve"),
        ("tim_trio.core.room", "import tim_trio.net.server"),
        ("tim_trio.core.room", "from tim_trio.net import server"),
        ("tim_trio.core.room", "from tim_trio import net"),
        ("tim_trio.core.room", "def late() -> None:\n    import tim_trio.net"),
        ("tim_trio.core.room", "if TYPE_CHECKING:\n    from tim_trio.cluster import links"),
        ("tim_trio.net.server", "from tim_trio.cli import main"),
        ("tim_trio.net.server", "from tim_trio import connect"),
        ("tim_trio.net.server", "import tim_trio"),
        ("tim_trio.net.server", "from tim_trio.accounts.store import Store"),
        ("tim_trio.net.server", "from tim_trio.media.profile import parse_init"),
        ("tim_trio.errors", "from tim_trio.limits import Limits"),
        ("tim_trio.limits", "from tim_trio.protocol import wire"),
        ("tim_trio.protocol.wire", "from tim_trio.log import get_logger"),
        ("tim_trio.protocol.wire", "from tim_trio.core.room import Room"),
        ("tim_trio.protocol.wire", "import trio"),
        ("tim_trio.protocol.wire", "from trio.lowlevel import checkpoint"),
        ("tim_trio.protocol.wire", "import socket"),
        ("tim_trio.protocol.wire", "from time import monotonic"),
        ("tim_trio.protocol.wire", "import logging.handlers"),
        ("tim_trio.core.room", "from . import grants"),
        ("tim_trio.core.room", "import tim_trio.elsewhere.thing"),
        ("tim_trio.elsewhere", ""),
    ],
)
def test_the_checker_finds_a_violation(module: str, source: str) -> None:
    package = dict.fromkeys(
        [
            "tim_trio",
            "tim_trio.net",
            "tim_trio.net.server",
            "tim_trio.core.room",
            "tim_trio.limits",
            "tim_trio.accounts.store",
        ],
        "",
    )
    assert len(violations({**package, module: source})) == 1


def test_the_checker_lets_what_points_down_pass() -> None:
    sources = {
        "tim_trio": "from tim_trio.net.client import connect",
        "tim_trio.errors": "import enum",
        "tim_trio.protocol.wire": "import struct\nfrom tim_trio.errors import Code",
        "tim_trio.core.room": "from tim_trio import log\nfrom tim_trio.core.grants import Grants",
        "tim_trio.log": "import time",
        "tim_trio.net.client": "import trio\nfrom tim_trio.protocol import wire",
        "tim_trio.__main__": "from tim_trio.cli import main",
        "tim_trio.cli": "import tim_trio\nfrom tim_trio.app import run",
    }
    assert violations(sources) == []


def test_a_server_loads_nothing_that_it_was_not_asked_for() -> None:
    code = "import sys, tim_trio.cli.serve, tim_trio.app; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE)
    loaded = set(shown.stdout.decode().split())
    assert "tim_trio.net.server" in loaded
    unwanted = {"av", "cryptography", "httpx", "sqlalchemy", "tim_trio.net.client"}
    assert not loaded & unwanted
