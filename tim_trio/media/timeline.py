"""One clock that only goes on, out of files that begin again and clocks that jump. Pure."""

from __future__ import annotations

from typing import Final

import attrs

#: Stepping back further is a clock that was set, not a picture out of order.
_MAX_BACK_US: Final = 1_000_000
#: Ahead, where a format's clock is known to jump; else it is a pause that was meant.
_MAX_AHEAD_US: Final = 10_000_000


@attrs.define(eq=False)
class Timeline:
    """Maps the times of one pass after another to a clock that begins with 0.

    Attributes:
        end_us: where the latest chunk of all passes ends, on that clock.
    """

    end_us: int = 0
    _offset_us: int = 0
    _may_jump: bool = False
    #: By track: when the next chunk is expected to be decoded.
    _expected_us: dict[int, int] = attrs.Factory(dict)

    def begin_pass(self, first_us: int, *, may_jump: bool) -> None:
        """A file begins: its earliest time follows what has been so far."""
        self._offset_us = self.end_us - first_us
        self._may_jump = may_jump
        self._expected_us.clear()

    def place(self, track: int, dts_us: int, pts_us: int, duration_us: int) -> int:
        """Return what to add to the chunk's times."""
        dts_us += self._offset_us
        expected = self._expected_us.get(track)
        if expected is not None:
            ahead = dts_us - expected
            if ahead < -_MAX_BACK_US or (self._may_jump and ahead > _MAX_AHEAD_US):
                self._offset_us -= ahead
                dts_us = expected
        self._expected_us[track] = dts_us + duration_us
        self.end_us = max(self.end_us, pts_us + self._offset_us + duration_us)
        return self._offset_us

    def skip(self, passes: int, pass_us: int) -> None:
        """Go on as if as many passes of that length had been."""
        self.end_us += passes * pass_us
