"""What the fuzzers of a whole server share: the input read as a script, and a log for nobody."""

from __future__ import annotations

from typing import Any


class Script:
    """Takes numbers and bytes off a fuzzer's input; zeros when it is used up."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def number(self) -> int:
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def take(self, size: int) -> bytes:
        self._at += size
        return self._data[self._at - size : self._at]


class NoLog:
    """Formats what is logged, and drops it."""

    def info(self, event: str, **fields: Any) -> None:
        str((event, fields))
