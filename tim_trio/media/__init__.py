"""Video and sound in stream frames: the media profile, and files read and written with it.

`profile` is pure. What reads, encodes and writes needs the extra ``tim_trio[media]``.

Source: protocol.md, Annex A.
"""
