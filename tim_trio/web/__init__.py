"""The page that a browser gets, as files in this package.

Source: docs/operations.md, "The web port".
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable


def load_files() -> dict[str, bytes]:
    """Read the whole site into memory, by name relative to it. Blocks."""
    return dict(_walk(files("tim_trio.web") / "static", ""))


def _walk(directory: Traversable, prefix: str) -> Iterator[tuple[str, bytes]]:
    for entry in directory.iterdir():
        if entry.is_dir():
            yield from _walk(entry, f"{prefix}{entry.name}/")
        elif not entry.name.startswith("."):
            yield prefix + entry.name, entry.read_bytes()
