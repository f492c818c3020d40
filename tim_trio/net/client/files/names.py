"""What a received file may be called: the sender's name is a suggestion.

Pure. Source: protocol.md, Annex B, "What either side must expect".
"""

from __future__ import annotations

import os
import re
import unicodedata
from typing import Final

#: Leaves room for " (1234)" under the 255 bytes that file systems take.
MAX_BYTES: Final = 240
NAMELESS: Final = "file"

#: Control, format (invisible, turns the direction of writing), surrogates, line
#: and paragraph separators.
_DROPPED: Final = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
_REPLACED: Final = re.compile(r'[<>:"|?*]')
#: Windows takes these for devices, with any extension and in any case; also
#: with a superscript digit.
_RESERVED: Final = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3]) *(\.|$)", re.IGNORECASE
)
#: Longer than any known one; what is longer is no extension.
_MAX_EXTENSION_BYTES: Final = 32


def safe_name(name: str) -> str:
    """Return a name for a file in one directory, made from what a stranger suggests.

    It has no path, nothing invisible, is not hidden, not reserved, and not
    longer than `MAX_BYTES` in UTF-8. Applied again it changes nothing.
    """
    name = re.split(r"[/\\]", name)[-1]
    name = "".join(c for c in name if unicodedata.category(c) not in _DROPPED)
    name = _REPLACED.sub("_", unicodedata.normalize("NFC", name))
    name = shortened(_trim(name), MAX_BYTES)
    # Last: shortening may bring out what is reserved, and `_` still fits.
    if _RESERVED.match(name):
        name = f"_{name}"
    return name or NAMELESS


def numbered(name: str, number: int) -> str:
    """Return ``name (2).ext`` for number 2, ``name.ext`` for 0."""
    if not number:
        return name
    stem, extension = split(name)
    return f"{stem} ({number}){extension}"


def split(name: str) -> tuple[str, str]:
    """Return what stands in front of the extension, and the extension with its dot."""
    stem, extension = os.path.splitext(name)
    if len(extension.encode()) > _MAX_EXTENSION_BYTES:
        return name, ""
    if stem.lower().endswith(".tar"):
        stem, extension = stem[:-4], stem[-4:] + extension
    return stem, extension


def shortened(name: str, most_bytes: int) -> str:
    """Return ``name`` in at most so many bytes of UTF-8, its extension kept."""
    if len(name.encode()) <= most_bytes:
        return name
    stem, extension = split(name)
    room = most_bytes - len(extension.encode())
    # Never in the middle of a character.
    return _trim(stem.encode()[:room].decode(errors="ignore")) + extension


def _trim(name: str) -> str:
    """Drop dots and white space at both ends: hidden names, and what Windows drops."""
    start, end = 0, len(name)
    while start < end and _is_fringe(name[start]):
        start += 1
    while end > start and _is_fringe(name[end - 1]):
        end -= 1
    return name[start:end]


def _is_fringe(character: str) -> bool:
    return character == "." or character.isspace()
