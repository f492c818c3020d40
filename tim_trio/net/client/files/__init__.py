"""File transfer between accounts: protocol.md, Annex B."""
