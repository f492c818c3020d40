"""What FFmpeg says, in words for people.

Needs PyAV, the extra ``tim_trio[media]``.
"""

from __future__ import annotations

import av


def explain(error: BaseException) -> str:
    """Return why something failed, in a few words."""
    match error:
        case av.ExitError():
            return "nothing came in time"
        case av.InvalidDataError():
            return "it is no media that FFmpeg knows, or damaged"
        case av.FFmpegError() | OSError() if error.strerror:
            return error.strerror
        case _:
            return str(error) or type(error).__name__
