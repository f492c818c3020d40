"""Sockets: listeners, connections and the client library."""
