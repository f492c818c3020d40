"""What a room's tree wants of other nodes, and answers them.

Source: protocol.md, section 12.
"""

from __future__ import annotations

import attrs

Path = tuple[str, ...]


@attrs.frozen
class Ask:
    """Ask a node to be our parent. ``waiting``: us, and who waits for our answer."""

    peer: str
    waiting: Path


@attrs.frozen
class Leave:
    """Be a node's child no longer."""

    peer: str


@attrs.frozen
class Accept:
    """Answer an ask: you are our child, and this is our path."""

    peer: str
    path: Path


@attrs.frozen
class Refuse:
    """Answer an ask: there is no path here for you."""

    peer: str


@attrs.frozen
class Redirect:
    """Answer an ask: we have children enough, ask this one."""

    peer: str
    to: str


@attrs.frozen
class TellPath:
    """Tell a child our new path."""

    peer: str
    path: Path


@attrs.frozen
class Invite:
    """Ask a node to be our child and hold the room warm, or not any longer."""

    peer: str
    warm: bool


@attrs.frozen
class Overlap:
    """Tell a node that we have another path; we stay its child until `Leave`."""

    peer: str
    path: Path


Action = Ask | Leave | Accept | Refuse | Redirect | TellPath | Invite | Overlap
