"""The page that a browser gets, as files in this package.

Source: docs/operations.md, "The web port".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable

from tim_trio.web.preload import link_under, preload_modules


def load_files() -> dict[str, bytes]:
    """Read the whole site into memory, by name relative to it. Blocks.

    Everything is there twice: under its name, and under ``v/DIGEST/``, where it never
    changes, for the digest is that of the whole site. ``index.html`` leads there, and names
    all modules that it needs, so that a browser asks for them at once and not one after
    another, as it comes to know of them.
    """
    site = dict(_walk(files("tim_trio.web") / "static", ""))
    digest = hashlib.sha256()
    for name in sorted(site):
        digest.update(f"{name}\0{len(site[name])}\0".encode() + site[name])
    versioned = f"v/{digest.hexdigest()[:16]}/"
    index = link_under(versioned, preload_modules(site.pop("index.html"), site))
    return {"index.html": index, **site, **{versioned + name: site[name] for name in site}}


def _walk(directory: Traversable, prefix: str) -> Iterator[tuple[str, bytes]]:
    for entry in directory.iterdir():
        if entry.is_dir():
            yield from _walk(entry, f"{prefix}{entry.name}/")
        elif not entry.name.startswith("."):
            yield prefix + entry.name, entry.read_bytes()
