"""
The agent's clock: wall time that never jumps by itself.

The time is the monotonic clock plus an offset. When somebody sets the wall clock, the offset shifts, and the caller
shifts every stored time by the same amount. Durations (`for`, rate windows, ages) so stay the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable

SHIFT_THRESHOLD = 1.0  # seconds; NTP slews by less, people and dead batteries set the clock by more


class Clock:
    """Milliseconds since the epoch, counted on the monotonic clock."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        self.monotonic = monotonic
        self._wall = wall
        self._offset = wall() - monotonic()

    def now_ms(self) -> int:
        """Returns the current time."""
        return self.from_monotonic_ms(self.monotonic())

    def from_monotonic_ms(self, monotonic: float) -> int:
        """Converts a time of the monotonic clock."""
        return round((monotonic + self._offset) * 1000)

    def detect_shift_ms(self) -> int:
        """Returns how far the wall clock was set since the last call (0 if it was not), and follows it."""
        offset = self._wall() - self.monotonic()
        shift = offset - self._offset
        if abs(shift) <= SHIFT_THRESHOLD:
            return 0
        before = self.from_monotonic_ms(0.0)
        self._offset = offset
        return self.from_monotonic_ms(0.0) - before
