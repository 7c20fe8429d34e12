"""
Asks each collector when it is due, and waits for none of them.

Each collector has a lane: a daemon thread of its own, or a place in the eye. A lane holds at most one read; a read
that never returns costs that lane and nothing else. https://github.com/prometheus/node_exporter/issues/3791 is what
happens otherwise: every scrape added one more stuck goroutine.
"""

from __future__ import annotations

import errno
import math
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import NamedTuple, Protocol

from agent.sampling.plugins import Collector
from collectors import Host, Note, Reading, Sample

SERIES_CAP = 20_000  # per collector: a runaway label must not take the host's memory
SHARE = 0.01  # of one core: what a collector may cost before its interval grows
SLOW = 5.0  # seconds: above this the schedule says when a collector is due
LONGEST = 120.0  # seconds: rules look back five minutes
REFUSALS = frozenset(os.strerror(code) for code in (errno.EACCES, errno.EPERM))


class Outcome(Enum):
    """How a pass ended."""

    OK = "ok"
    FAILED = "failed"  # it should have given something and did not
    ABSENT = "absent"  # this machine has no such hardware
    REFUSED = "refused"  # the kernel would tell, but not to this user


class Pass(NamedTuple):
    """What one pass of a collector gave; `began` is on the monotonic clock, in seconds."""

    collector: str
    began: float
    seconds: float
    cpu_seconds: float
    samples: tuple[Sample, ...]
    notes: tuple[Note, ...]
    error: str | None = None
    again: float | None = None
    """Seconds to the next pass, where the collector asked for another time than its interval."""

    @property
    def outcome(self) -> Outcome:
        """Success is to have samples, or to find nothing to read without a complaint."""
        if self.error is not None:
            return Outcome.FAILED
        if self.samples:
            return Outcome.OK
        if not self.notes:
            return Outcome.ABSENT
        refused = all(note.reason in REFUSALS for note in self.notes)
        return Outcome.REFUSED if refused else Outcome.FAILED


class Made(NamedTuple):
    """What a join made of one pass of one of its sources."""

    source: Pass
    result: Pass


def perform(name: str, readings: Callable[[], Iterable[Reading]], host: Host, began: float) -> Pass:
    """Runs one pass to its end; a collector that raises has failed, and what it had yielded until then is kept."""
    cpu, error = time.thread_time(), None
    samples: list[Sample] = []
    try:
        for reading in readings():
            if reading is None:
                continue
            if not (isinstance(reading, Sample) and isinstance(reading.value, float)):
                raise TypeError(f"yielded {str(reading)[:80]!r}, which is no Sample with a float")
            if len(samples) == SERIES_CAP:
                host.note(name, f"more than the cap of {SERIES_CAP} series; the rest is dropped")
                break
            samples.append(reading)
    except Exception as failure:  # whatever a collector raises, the others must not feel it
        error = f"{type(failure).__name__}: {failure}"
    cpu = time.thread_time() - cpu + host.take_spent()
    seconds = time.monotonic() - began
    notes, again = tuple(host.take_notes()), host.take_again()
    return Pass(name, began, seconds, cpu, tuple(samples), notes, error, again)


class Lane(Protocol):
    """Where a collector runs; at most one pass at a time."""

    busy_since: float | None

    def start(self, collector: Collector, began: float) -> None:
        """Begins a pass; its Pass is delivered later. Only called while not busy."""


class ThreadLane:
    """A daemon thread for one collector; a daemon, so that a stuck read cannot keep the process from ending."""

    def __init__(self, name: str, host: Host, deliver: Callable[[Pass], None]) -> None:
        self.busy_since: float | None = None
        self._host = host
        self._deliver = deliver
        self._orders: queue.SimpleQueue[tuple[Collector, float]] = queue.SimpleQueue()
        threading.Thread(target=self._work, name=f"collect {name}", daemon=True).start()

    def start(self, collector: Collector, began: float) -> None:
        self.busy_since = began
        self._orders.put((collector, began))

    def _work(self) -> None:
        while True:
            collector, began = self._orders.get()
            result = perform(collector.name, lambda c=collector: c.collect(self._host), self._host, began)  # type: ignore[misc]  # mypy cannot infer a lambda's default
            self.busy_since = None
            self._deliver(result)


class Course:
    """How one collector has been doing: when it is due, what it costs, when it last gave something."""

    def __init__(self, collector: Collector, now: float) -> None:
        self.collector = collector
        self.due = now
        self.interval = collector.interval
        self.started = -math.inf
        self.overruns = 0
        self.overdue = False
        self.last: Pass | None = None
        self.good_at: float | None = None
        self.born = now
        self.passes = 0
        self._costs: deque[float] = deque(maxlen=5)

    @property
    def slow(self) -> bool:
        """Whether the schedule makes it due, and not the tick."""
        return self.collector.interval > SLOW

    def start_at(self, now: float) -> None:
        """The next pass is one interval later, on the grid, so that a late tick does not shift all that follow."""
        self.started = now
        self.due += self.interval
        if self.slow:
            self.due = math.inf
        elif self.due <= now:
            self.due = now + self.interval

    def ended(self, result: Pass) -> None:
        """Takes note of a pass."""
        self.last = result
        self.passes += 1
        self.overdue = False
        if result.samples or result.outcome is Outcome.ABSENT:
            self.good_at = result.began
        self._costs.append(result.cpu_seconds)
        wanted = result.again or 0.0
        if len(self._costs) == self._costs.maxlen:
            wanted = max(wanted, sorted(self._costs)[len(self._costs) // 2] / SHARE)  # the median
        self.interval = max(self.collector.interval, min(wanted, LONGEST))

    @property
    def unheard(self) -> bool:
        """Whether it has still to say its first word; a first pass that broke off, as an eye comes up, is no word."""
        return self.passes == 0 or (self.passes == 1 and self.last is not None and self.last.error is not None)

    @property
    def took(self) -> float:
        """Seconds that the last pass took: what is always slower than its interval is late, not silent."""
        return 0.0 if self.last is None else self.last.seconds

    def age(self, now: float) -> float:
        """Seconds since the newest good reading began, or since the start where there was none."""
        return now - (self.born if self.good_at is None else self.good_at)

    @property
    def outcome(self) -> Outcome | None:
        """How it stands: an overdue read is a failure, however good the one before was."""
        if self.overdue:
            return Outcome.FAILED
        return None if self.last is None else self.last.outcome


class Gather:
    """All collectors, each on its lane and its own interval."""

    def __init__(
        self, lane_of: Callable[[Collector], Lane], collectors: Sequence[Collector], now: float, *, root: str = "/"
    ) -> None:
        self._lane_of = lane_of
        self._root = root
        self._awake_since = -math.inf
        self._hosts_of_joins: dict[str, Host] = {}
        self._made: dict[str, dict[str, Made]] = {}
        self.courses: dict[str, Course] = {}
        self._lanes: dict[str, Lane] = {}
        for collector in collectors:
            self.add(collector, now)

    def add(self, collector: Collector, now: float) -> None:
        """Adds a collector, or gives a known one a new configuration without losing its lane."""
        course = self.courses.get(collector.name)
        if course is not None:
            course.collector, course.interval, course.due = collector, collector.interval, now
            self._made.pop(collector.name, None)
            return
        self.courses[collector.name] = Course(collector, now)
        if collector.join is None and collector.name not in self._lanes:
            self._lanes[collector.name] = self._lane_of(collector)

    def remove(self, name: str) -> None:
        """Forgets a collector; its lane stays, so that a read under way is not stacked when the collector returns."""
        self.courses.pop(name, None)
        self._made.pop(name, None)

    def start_due(self, now: float) -> set[str]:
        """Starts every collector that is due and free; returns their names."""
        started = set()
        for name, course in self.courses.items():
            lane = self._lanes.get(name)
            if lane is None:  # made from others
                continue
            self._judge(course, lane, now)
            if course.due <= now:
                course.start_at(now)
                if lane.busy_since is None:
                    lane.start(course.collector, now)
                    started.add(name)
                else:
                    course.overruns += 1
        return started

    def _judge(self, course: Course, lane: Lane, now: float) -> None:
        course.overdue = lane.busy_since is not None and now - lane.busy_since > course.collector.deadline

    def hurry(self, names: Iterable[str], now: float) -> None:
        """Makes collectors due now: hardware came or went."""
        for name in names:
            if name in self.courses:
                self.courses[name].due = now

    def slow_due(self, name: str, now: float) -> None:
        """The schedule's call for a slow collector; one whose interval has grown waits until it is over."""
        course = self.courses.get(name)
        # Half a second of grace: the schedule goes by the wall clock, this by the monotonic one.
        if course is not None and course.slow and now - course.started > course.interval - 0.5:
            course.due = now

    def ended(self, result: Pass) -> bool:
        """Takes note of a pass that arrived; False where its collector has been removed since."""
        course = self.courses.get(result.collector)
        if course is None:
            return False
        course.ended(result)
        return True

    def joins(self, arrived: Iterable[str]) -> list[Pass]:
        """The passes, each of all its sources together, of the collectors that are made from what has just arrived."""
        fresh = set(arrived)
        joining = [c.collector for c in self.courses.values() if c.collector.join and fresh & set(c.collector.after)]
        return [result for result in map(self._join, joining) if result is not None]

    def _join(self, collector: Collector) -> Pass | None:
        """Makes what is not made yet; a source that gives nothing any more has no part in it."""
        if any(self.courses[name].unheard for name in collector.awaits if name in self.courses):
            return None
        before = self._made.get(collector.name, {})
        sources = [self.courses[name].last for name in collector.after if name in self.courses]
        made = {
            source.collector: before[source.collector]
            if source.collector in before and before[source.collector].source is source
            else self._make(collector, source)
            for source in sources
            if source is not None and source.samples
        }
        self._made[collector.name] = made
        if not made:
            return None
        result = _together(
            collector.name, list(made.values()), [part for name, part in made.items() if before.get(name) is not part]
        )
        self.courses[collector.name].ended(result)
        return result

    def _make(self, collector: Collector, source: Pass) -> Made:
        join, host = collector.join, self._hosts_of_joins.setdefault(collector.name, Host(self._root))
        assert join is not None  # only those that have one are asked
        readings = {source.collector: source.samples}
        result = perform(collector.name, lambda: join(readings, host), host, time.monotonic())
        return Made(source, result)

    def with_joined(self, result: Pass) -> tuple[Sample, ...]:
        """
        A pass's Samples and, behind them, those that were made of it.

        They are recorded together: a joined Sample is exactly as old as what it was made of, and ends with it. In one
        group for all sources, a slow source would hold back the readings of a fast one.
        """
        made = (parts.get(result.collector) for parts in self._made.values())
        joined = [
            sample for part in made if part is not None and part.source is result for sample in part.result.samples
        ]
        return (*result.samples, *joined) if joined else result.samples

    def sampling_groups(self) -> list[str]:
        """The collectors that are recorded by their own name; a join is recorded with its sources."""
        return [name for name, course in self.courses.items() if course.collector.join is None]

    def wake(self, now: float) -> None:
        """Says that the agent itself stood still until now: what it did not hear was nobody's silence."""
        self._awake_since = now

    def silent(self, now: float, stale_after: int) -> list[str]:
        """The collectors whose newest good reading is older than so many of their intervals, while we were awake."""
        awake = now - self._awake_since
        return [
            name
            for name, course in self.courses.items()
            if min(course.age(now), awake)
            > stale_after * max(course.interval, course.took, self._slowest_source(course))
        ]

    def _slowest_source(self, course: Course) -> float:
        sources = (self.courses[name].interval for name in course.collector.after if name in self.courses)
        return max(sources, default=0.0)


def _together(name: str, made: Sequence[Made], new: Sequence[Made]) -> Pass:
    """One pass of a join from its parts; it is as old as its oldest source, and cost what is new in it."""
    return Pass(
        name,
        min(part.source.began for part in made),
        sum(part.result.seconds for part in new),
        sum(part.result.cpu_seconds for part in new),
        tuple(sample for part in made for sample in part.result.samples),
        tuple(note for part in made for note in part.result.notes),
        next((part.result.error for part in made if part.result.error is not None), None),
    )
