"""A log for tests: what was said, in order."""

from typing import Any


class Log:
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def _say(self, event: str, **fields: Any) -> None:
        self.events.append((event, fields))

    debug = info = warning = error = _say

    @property
    def names(self) -> list[str]:
        return [event for event, _ in self.events]
