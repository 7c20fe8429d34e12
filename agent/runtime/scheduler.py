"""
Runs jobs with an interval of 5 s or more: slow collectors, baselines, housekeeping.

APScheduler 3 follows the wall clock. Set back by an hour, it sleeps for an hour; set forward by a month, it replays
every slot that it missed: https://github.com/agronholm/apscheduler/issues/351 and /issues/526. Two things prevent this:
EveryTrigger never returns a slot of the past, and `reschedule` gives every job a new slot.
"""

from __future__ import annotations

import datetime
import inspect
from collections.abc import Callable

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.base import BaseTrigger

from agent.runtime.step_guard import StepGuard

MIN_INTERVAL = 0.01  # seconds between two runs of one job


def utc_now() -> datetime.datetime:
    """Returns the time of the wall clock, which APScheduler follows."""
    return datetime.datetime.now(datetime.UTC)


class EveryTrigger(BaseTrigger):  # type: ignore[misc]  # APScheduler ships no types
    """Fires every `seconds`, and never catches up on slots in the past."""

    __slots__ = ("interval",)

    def __init__(self, seconds: float) -> None:
        # With an interval of 0 the scheduler would search for the next slot for ever, and fill the memory.
        self.interval = datetime.timedelta(seconds=max(seconds, MIN_INTERVAL))

    def get_next_fire_time(
        self, previous_fire_time: datetime.datetime | None, now: datetime.datetime
    ) -> datetime.datetime:
        """Returns the next slot after `now`, in the rhythm of the previous one; O(1) after any shift."""
        if previous_fire_time is None:
            return now + self.interval
        next_slot: datetime.datetime = previous_fire_time + self.interval
        if now < next_slot <= now + self.interval:
            return next_slot
        return now + self.interval


class Scheduler:
    """Runs the slow jobs on the event loop."""

    def __init__(self, steps: StepGuard) -> None:
        """`steps` guards every job as a step of that name."""
        self._steps = steps
        self._running: set[str] = set()
        # Two instances: one that waits, and one that sees it and returns; APScheduler would log each skipped slot.
        defaults = {"coalesce": True, "max_instances": 2, "misfire_grace_time": None}
        self._scheduler = AsyncIOScheduler(timezone=datetime.UTC, job_defaults=defaults)

    def add_job(self, seconds: float, job: Callable[[], object], *, name: str) -> None:
        """
        Calls `job` every `seconds`, first after one interval; replaces an earlier job of that name.

        Awaits what `job` returns where that is awaitable, and skips the slots of the meantime: a disk may hang.
        """

        async def run_job() -> None:  # a plain function would run in the default executor's threads
            if name in self._running:
                return
            self._running.add(name)
            try:
                with self._steps.guard("job", name):
                    result = job()
                    if inspect.isawaitable(result):
                        await result
            finally:
                self._running.discard(name)

        self._scheduler.add_job(run_job, EveryTrigger(seconds), id=name, replace_existing=True)

    def remove_job(self, name: str) -> None:
        """Removes the job of that name, if there is one."""
        if self._scheduler.get_job(name) is not None:
            self._scheduler.remove_job(name)

    def start(self) -> None:
        """Starts; needs the running event loop."""
        self._scheduler.start()

    def reschedule(self) -> None:
        """Gives every job a new slot after a shift of the wall clock."""
        now = utc_now()
        for job in self._scheduler.get_jobs():
            job.modify(next_run_time=job.trigger.get_next_fire_time(None, now))

    def close(self) -> None:
        """Ends; no job is interrupted, since all run on the event loop."""
        self._scheduler.shutdown(wait=False)
