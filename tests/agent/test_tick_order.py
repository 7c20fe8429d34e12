"""The order of the tick's steps, and of the owners of time when the wall clock shifts."""

from __future__ import annotations

import asyncio

from agent.runtime.clock import Clock
from agent.sampling.sampler import Sampler
from tests.loops import StandIn, build_loop


class FakeClocks:
    """A monotonic and a wall clock that the test sets."""

    def __init__(self) -> None:
        self.monotonic, self.wall = 1000.0, 1_700_000_000.0


def run_ticks(clocks: FakeClocks, wall_seconds: float) -> list[str]:
    """The calls of one tick, before which the wall clock moved so far, to every part of the agent."""
    calls: list[str] = []

    async def tick_once() -> None:
        sampler = Sampler(lambda _: None, [], clocks.monotonic)
        parts = {name: StandIn(name, calls) for name in ("eye_pool", "history", "notifier")}
        loop = build_loop(Clock(lambda: clocks.monotonic, lambda: clocks.wall), sampler, calls=calls, **parts)
        loop.rules.evaluate = lambda history, now_ms: calls.append("rules.evaluate")
        loop.rules.shift = lambda delta_ms: calls.append("rules.shift")
        clocks.wall += wall_seconds
        await loop.tick()

    asyncio.run(tick_once())
    return calls


STEPS = [
    "eye_pool.restart_stuck",
    "history.record",
    "rules.evaluate",
    "notifier.enqueue_due",
    "remediator.tick",
    "persistence.save",
    "memory_estimate.maybe_log",
    "presenter.show",
    "presenter.format_status",
    "watchdog.notify_tick",
]


def test_a_tick_samples_records_evaluates_notifies_remediates_saves_and_shows() -> None:
    """The watchdog is fed last, so that a step that hangs is seen by systemd."""
    assert run_ticks(FakeClocks(), 0.0) == STEPS


def test_a_shifted_wall_clock_shifts_every_owner_of_times_first() -> None:
    """Every owner of stored times is told before the tick reads or writes any."""
    shifts = ["history", "rules", "notifier", "remediator", "inbox"]

    calls = run_ticks(FakeClocks(), 3600.0)

    assert calls == [*(f"{name}.shift" for name in shifts), "scheduler.reschedule", "persistence.shift", *STEPS]
