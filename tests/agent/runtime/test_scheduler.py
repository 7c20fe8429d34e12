"""Scheduled jobs keep their rhythm wherever the wall clock is set."""

from __future__ import annotations

import asyncio
import datetime
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.runtime.scheduler import EveryTrigger, Scheduler
from agent.runtime.step_guard import StepGuard

NOON = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)


@given(st.floats(0.5, 3600), st.integers(-(10**10), 10**10))
def test_the_next_slot_is_never_past_and_never_far(seconds: float, step: int) -> None:
    """Wherever the clock was set since the last run, the next one is within one interval from now."""
    trigger = EveryTrigger(seconds)
    now = NOON + datetime.timedelta(seconds=step)
    following = trigger.get_next_fire_time(NOON, now)

    assert now < following <= now + datetime.timedelta(seconds=seconds)


@pytest.mark.parametrize("step", [3600, -3600, -400 * 86400, 30 * 86400])
def test_a_step_neither_stops_nor_floods(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a shift of the wall clock a job keeps its rhythm: it does not stop, nor replay missed slots."""
    offset = datetime.timedelta(0)

    class ShiftedDatetime(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> ShiftedDatetime:  # type: ignore[override]
            moment = datetime.datetime.now(tz) + offset
            return cls.fromtimestamp(moment.timestamp(), tz)

    monkeypatch.setattr("apscheduler.schedulers.base.datetime", ShiftedDatetime)
    monkeypatch.setattr("apscheduler.executors.base.datetime", ShiftedDatetime)
    monkeypatch.setattr("agent.runtime.scheduler.utc_now", lambda: ShiftedDatetime.now(datetime.UTC))
    fire_times: list[float] = []

    async def scenario() -> None:
        nonlocal offset
        loop = asyncio.get_running_loop()
        schedule = Scheduler(StepGuard())
        schedule.add_job(0.1, lambda: fire_times.append(loop.time()), name="fire")
        schedule.start()
        await asyncio.sleep(0.35)
        offset = datetime.timedelta(seconds=step)
        schedule.reschedule()
        before = len(fire_times)
        await asyncio.sleep(0.65)
        schedule.close()

        assert 1 <= before <= 4
        assert 1 <= len(fire_times) - before <= 8

    asyncio.run(scenario())


def test_a_job_that_fails_or_hangs_stops_no_other() -> None:
    """A job that raises is tried again at its next slot; one that waits is not started a second time beside itself."""
    runs: Counter[str] = Counter()
    enough = asyncio.Event()

    def fail() -> None:
        runs["fail"] += 1
        raise OSError(28, "No space left on device")

    async def hang() -> None:
        runs["hang"] += 1
        await asyncio.Event().wait()

    def work() -> None:
        runs["work"] += 1
        if runs["work"] > 5 and runs["fail"] > 5:
            enough.set()

    async def scenario() -> None:
        steps = StepGuard()
        schedule = Scheduler(steps)
        for job in (fail, hang, work):
            schedule.add_job(0.01, job, name=job.__name__)
        schedule.start()
        await asyncio.wait_for(enough.wait(), 60)
        schedule.close()
        assert runs["hang"] == 1
        assert [str(fault) for fault in steps.faults] == ["job fail (OSError)"]

    asyncio.run(scenario())
