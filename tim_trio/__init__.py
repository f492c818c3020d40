"""tim_trio: a relay for live streams, on Trio."""

__version__ = "0.1.0"
