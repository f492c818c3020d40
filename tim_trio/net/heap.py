"""Memory that streams use again and again, and what they have left behind."""

from __future__ import annotations

import ctypes
from typing import Final


def _find(name: str) -> ctypes._FuncPointer | None:
    try:
        function: ctypes._FuncPointer = getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        return None
    return function


#: Of the GNU C library alone; others give back by themselves, or cannot.
_malloc_trim: Final = _find("malloc_trim")
_mallopt: Final = _find("mallopt")

# Source: mallopt(3), <malloc.h>.
_TRIM_THRESHOLD: Final = -1
_TOP_PAD: Final = -2
_MMAP_THRESHOLD: Final = -3
#: Freed memory at the heap's end that is kept.
KEPT_BYTES: Final = 32 * 1024 * 1024
_GROWN_BYTES: Final = 1024 * 1024
#: What is larger is the system's to give, and goes back at once.
_LARGE_BYTES: Final = 4 * 1024 * 1024


def keep_heap() -> None:
    """Keep freed memory for the next frames. Once, when a server starts.

    The C library gives the heap's end back as soon as 256 KiB of it are free, and a
    read of a file's frames is as much: each would be read into pages that the
    system first has to find and clear, at twice the cost of the read itself.
    """
    if _mallopt is not None:
        _mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)
        _mallopt(_TRIM_THRESHOLD, KEPT_BYTES)
        _mallopt(_TOP_PAD, _GROWN_BYTES)


def trim_heap() -> None:
    """Give back what was freed between pieces that are still used.

    The C library keeps that, and frames of many sizes leave a lot of it. Blocks,
    and makes others wait who need memory: some ms for 100 MB.
    """
    if _malloc_trim is not None:
        _malloc_trim(0)
