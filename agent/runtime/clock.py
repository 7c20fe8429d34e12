"""
One clock: wall time that never jumps.

`now` is the monotonic clock plus an offset. When somebody sets the wall clock, the offset moves, and the caller moves
every stored time by the same amount, so that durations (`for`, rate windows, ages) stay what they were.
"""

from __future__ import annotations

import time
from collections.abc import Callable

SHIFT_THRESHOLD = 1.0  # seconds: NTP slews below this, people and dead batteries step above it


class Clock:
    """Milliseconds since the epoch, told by the monotonic clock."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        self.monotonic = monotonic
        self._wall = wall
        self._offset = wall() - monotonic()

    def now_ms(self) -> int:
        """The time now."""
        return self.from_monotonic_ms(self.monotonic())

    def from_monotonic_ms(self, monotonic: float) -> int:
        """The time at a moment of the monotonic clock."""
        return round((monotonic + self._offset) * 1000)

    def detect_shift_ms(self) -> int:
        """How far the wall clock stepped since the last call (0 when it did not); `now` follows it."""
        offset = self._wall() - self.monotonic()
        shift = offset - self._offset
        if abs(shift) <= SHIFT_THRESHOLD:
            return 0
        before = self.from_monotonic_ms(0.0)
        self._offset = offset
        return self.from_monotonic_ms(0.0) - before
