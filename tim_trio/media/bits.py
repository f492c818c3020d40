"""Reading bit fields out of a codec's headers. Pure."""

from __future__ import annotations


class Bits:
    """A cursor over bytes, most significant bit first.

    Reading past the end gives zeros: headers come from strangers, and who
    reads one checks what it says in any case.
    """

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def take(self, count: int) -> int:
        """Return the next ``count`` bits as a number."""
        self._left -= count
        mask = (1 << count) - 1
        return (self._value >> self._left if self._left >= 0 else 0) & mask

    def exp_golomb(self) -> int:
        """Return the next number in unsigned Exp-Golomb code (H.264, 9.1)."""
        zeros = 0
        while self._left > 0 and not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)
