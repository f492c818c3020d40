"""What goes wrong with media, for the person who gave it."""

from __future__ import annotations

from tim_trio.errors import TimError


class MediaError(TimError):
    """A file or URL cannot be read, or a file not written; one line says why."""
