"""Accounts on disk, and signed tokens: who may sign in where ``auth`` is not ``open``.

Implements the interfaces of :mod:`tim_trio.core.accounts`. `store` and
`relation_rules` block and know no Trio; everything else calls them in worker
threads, so that a slow disk stalls no stream.
"""
