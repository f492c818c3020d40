"""tim_trio: a relay for live streams, on Trio."""

from tim_trio._version import __version__

__all__ = ["__version__"]
