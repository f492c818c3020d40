"""Memory that streams have left behind, given back to the system."""

from __future__ import annotations

import ctypes
from typing import Final


def _find() -> ctypes._FuncPointer | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None


#: Of the GNU C library alone; others give back by themselves, or cannot.
_malloc_trim: Final = _find()


def trim_heap() -> None:
    """Give back what was freed between pieces that are still used.

    The C library keeps that, and frames of many sizes leave a lot of it. Blocks,
    and makes others wait who need memory: some ms for 100 MB.
    """
    if _malloc_trim is not None:
        _malloc_trim(0)
