"""The order of the tick's steps, and of the shifts when somebody sets the wall clock."""

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
    """Sets the wall clock, runs one tick, and returns the calls to every part of the agent."""
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
    "persistence.save_alerts",
    "persistence.record",
    "memory_estimate.maybe_log",
    "presenter.show",
    "presenter.format_status",
    "watchdog.notify_tick",
]


def test_a_tick_samples_records_evaluates_notifies_remediates_saves_and_shows() -> None:
    """The watchdog is fed last, so that systemd notices a step that hangs."""
    assert run_ticks(FakeClocks(), 0.0) == STEPS


def test_a_shifted_wall_clock_shifts_every_owner_of_times_first() -> None:
    """Every stored time is shifted before the tick reads or writes any."""
    shifts = ["history", "rules", "notifier", "remediator", "inbox"]

    calls = run_ticks(FakeClocks(), 3600.0)

    assert calls == [*(f"{name}.shift" for name in shifts), "scheduler.reschedule", "persistence.shift", *STEPS]
