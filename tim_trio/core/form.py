"""What frames look like on one kind of wire.

A room hands out whole frames. Most connections send them as they are; where
the wire wants something around them, or something else instead, the outbox
has a form, which makes it. Connections of one kind share one form object, so
that a run is encoded once for all of them.

Source: docs/architecture.md.
"""

from __future__ import annotations

from typing import Protocol

Buffer = bytes | memoryview


class Form(Protocol):
    """One kind of wire."""

    def encode(self, data: Buffer) -> bytes:
        """Return what goes on the wire for ``data``, one or more whole frames.

        Stream and control frames alike, never a part of one. The result may
        be empty: this wire has nothing to say for them.
        """

    def farewell(self, code: int | None) -> bytes:
        """Return what stands behind the CLOSE frame, the last of all; may be empty."""
