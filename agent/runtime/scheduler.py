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

SHORTEST = 0.01  # seconds between two firings of one job


def now() -> datetime.datetime:
    """The wall clock, which is what APScheduler goes by."""
    return datetime.datetime.now(datetime.UTC)


class EveryTrigger(BaseTrigger):  # type: ignore[misc]  # APScheduler ships no types
    """Fires every so many seconds, and never makes up for slots that are past."""

    __slots__ = ("interval",)

    def __init__(self, seconds: float) -> None:
        # With no interval the scheduler would look for the next slot for ever, and fill the memory meanwhile.
        self.interval = datetime.timedelta(seconds=max(seconds, SHORTEST))

    def get_next_fire_time(
        self, previous_fire_time: datetime.datetime | None, now: datetime.datetime
    ) -> datetime.datetime:
        """The next slot after now, on the grid of the previous one; O(1) after any step."""
        if previous_fire_time is None:
            return now + self.interval
        following: datetime.datetime = previous_fire_time + self.interval
        if now < following <= now + self.interval:
            return following
        return now + self.interval


class Schedule:
    """The slow jobs of the agent."""

    def __init__(self) -> None:
        defaults = {"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        self._scheduler = AsyncIOScheduler(timezone=datetime.UTC, job_defaults=defaults)

    def every(self, seconds: float, job: Callable[[], object], *, name: str | None = None) -> None:
        """Calls `job` every so many seconds, first after one interval; in place of an earlier job of that name."""

        async def on_the_loop() -> None:  # a plain function would run in the default executor's threads
            job()

        self._scheduler.add_job(on_the_loop, EveryTrigger(seconds), id=name, replace_existing=True)

    def drop(self, name: str) -> None:
        """Ends the job of that name, if there is one."""
        if self._scheduler.get_job(name) is not None:
            self._scheduler.remove_job(name)

    def start(self) -> None:
        """Begins; needs the running event loop."""
        self._scheduler.start()

    def stepped(self) -> None:
        """Puts every job on the clock again after the wall clock stepped."""
        moment = now()
        for job in self._scheduler.get_jobs():
            job.modify(next_run_time=job.trigger.get_next_fire_time(None, moment))

    def close(self) -> None:
        """Ends; jobs are short and run on the event loop, so none is half-way."""
        self._scheduler.shutdown(wait=False)
