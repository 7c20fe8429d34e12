"""A clock that never jumps by itself."""

from __future__ import annotations

import pytest

from agent.runtime.clock import Clock


class FakeClocks:
    """Two clocks that the test moves."""

    def __init__(self) -> None:
        self.monotonic = 100.0
        self.wall = 1_700_000_000.0

    def advance(self, seconds: float) -> None:
        self.monotonic += seconds
        self.wall += seconds

    def build_clock(self) -> Clock:
        return Clock(lambda: self.monotonic, lambda: self.wall)


def test_now_follows_the_monotonic_clock() -> None:
    """Setting the wall clock does not move the time until `detect_shift_ms` is called."""
    times = FakeClocks()
    clock = times.build_clock()
    before = clock.now_ms()
    times.advance(2)
    times.wall += 3600

    assert clock.now_ms() - before == 2000


@pytest.mark.parametrize("step", [3600, -3600, -400 * 86400, 30 * 86400])
def test_a_step_is_told_once(step: int) -> None:
    """The shift is returned once; after it the time equals the wall clock again."""
    times = FakeClocks()
    clock = times.build_clock()
    times.advance(1)
    times.wall += step

    assert clock.detect_shift_ms() == step * 1000
    assert clock.detect_shift_ms() == 0
    assert clock.now_ms() == round(times.wall * 1000)


def test_slewing_is_not_a_step() -> None:
    """A correction by NTP of less than a second is not a shift."""
    times = FakeClocks()
    clock = times.build_clock()
    times.wall += 0.9

    assert clock.detect_shift_ms() == 0
