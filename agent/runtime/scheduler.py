"""
Runs what is slower than 5 s: resends, baselines, re-discovery, housekeeping.

APScheduler 3 goes by the wall clock: an hour back and it sleeps for an hour, a month forward and it replays every slot
that it missed. https://github.com/agronholm/apscheduler/issues/351 and /issues/526. Two things mend it: a trigger
that never returns a slot of the past, and `stepped`, which puts every job on the clock again.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.base import BaseTrigger

SHORTEST_INTERVAL = 0.01  # seconds between two firings of one job


def utc_now() -> datetime.datetime:
    """The wall clock, which is what APScheduler goes by."""
    return datetime.datetime.now(datetime.UTC)


class EveryTrigger(BaseTrigger):  # type: ignore[misc]  # APScheduler ships no types
    """Fires every so many seconds, and never makes up for slots that are past."""

    __slots__ = ("interval",)

    def __init__(self, seconds: float) -> None:
        # With no interval the scheduler would look for the next slot for ever, and fill the memory meanwhile.
        self.interval = datetime.timedelta(seconds=max(seconds, SHORTEST_INTERVAL))

    def get_next_fire_time(
        self, previous_fire_time: datetime.datetime | None, now: datetime.datetime
    ) -> datetime.datetime:
        """The next slot after now, on the grid of the previous one; O(1) after any step."""
        if previous_fire_time is None:
            return now + self.interval
        next_slot: datetime.datetime = previous_fire_time + self.interval
        if now < next_slot <= now + self.interval:
            return next_slot
        return now + self.interval


class Scheduler:
    """The slow jobs of the agent."""

    def __init__(self) -> None:
        defaults = {"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        self._scheduler = AsyncIOScheduler(timezone=datetime.UTC, job_defaults=defaults)

    def add_job(self, seconds: float, job: Callable[[], object], *, name: str | None = None) -> None:
        """Calls `job` every so many seconds, first after one interval; in place of an earlier job of that name."""

        async def run_job() -> None:  # a plain function would run in the default executor's threads
            job()

        self._scheduler.add_job(run_job, EveryTrigger(seconds), id=name, replace_existing=True)

    def remove_job(self, name: str) -> None:
        """Ends the job of that name, if there is one."""
        if self._scheduler.get_job(name) is not None:
            self._scheduler.remove_job(name)

    def start(self) -> None:
        """Begins; needs the running event loop."""
        self._scheduler.start()

    def reschedule(self) -> None:
        """Puts every job on the clock again after the wall clock stepped."""
        now = utc_now()
        for job in self._scheduler.get_jobs():
            job.modify(next_run_time=job.trigger.get_next_fire_time(None, now))

    def close(self) -> None:
        """Ends; jobs are short and run on the event loop, so none is half-way."""
        self._scheduler.shutdown(wait=False)
