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
MAX_CPU_SHARE = 0.01  # of one core: what a collector may cost before its interval grows
SLOW_INTERVAL = 5.0  # seconds: above this the schedule says when a collector is due
MAX_INTERVAL = 120.0  # seconds: rules look back five minutes
REFUSAL_REASONS = frozenset(os.strerror(code) for code in (errno.EACCES, errno.EPERM))


class Outcome(Enum):
    """How a pass ended."""

    OK = "ok"
    FAILED = "failed"  # it should have given something and did not
    ABSENT = "absent"  # this machine has no such hardware
    REFUSED = "refused"  # the kernel would tell, but not to this user


class CollectionResult(NamedTuple):
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
        refused = all(note.reason in REFUSAL_REASONS for note in self.notes)
        return Outcome.REFUSED if refused else Outcome.FAILED


class JoinPart(NamedTuple):
    """What a join made of one pass of one of its sources."""

    source: CollectionResult
    result: CollectionResult


def collect_readings(
    name: str, readings: Callable[[], Iterable[Reading]], host: Host, began: float
) -> CollectionResult:
    """Runs one pass to its end; a collector that raises has failed, and what it had yielded until then is kept."""
    cpu_seconds, error = time.thread_time(), None
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
    cpu_seconds = time.thread_time() - cpu_seconds + host.take_spent()
    seconds = time.monotonic() - began
    notes, again = tuple(host.take_notes()), host.take_again()
    return CollectionResult(name, began, seconds, cpu_seconds, tuple(samples), notes, error, again)


class CollectorRunner(Protocol):
    """Where a collector runs; at most one pass at a time."""

    busy_since: float | None

    def start(self, collector: Collector, began: float) -> None:
        """Begins a pass; its Pass is delivered later. Only called while not busy."""


class ThreadRunner:
    """A daemon thread for one collector; a daemon, so that a stuck read cannot keep the process from ending."""

    def __init__(self, name: str, host: Host, deliver: Callable[[CollectionResult], None]) -> None:
        self.busy_since: float | None = None
        self._host = host
        self._deliver = deliver
        self._requests: queue.SimpleQueue[tuple[Collector, float]] = queue.SimpleQueue()
        threading.Thread(target=self._run_requests, name=f"collect {name}", daemon=True).start()

    def start(self, collector: Collector, began: float) -> None:
        self.busy_since = began
        self._requests.put((collector, began))

    def _run_requests(self) -> None:
        while True:
            collector, began = self._requests.get()
            result = collect_readings(collector.name, lambda c=collector: c.collect(self._host), self._host, began)  # type: ignore[misc]  # mypy cannot infer a lambda's default
            self.busy_since = None
            self._deliver(result)


class CollectorState:
    """How one collector has been doing: when it is due, what it costs, when it last gave something."""

    def __init__(self, collector: Collector, now: float) -> None:
        self.collector = collector
        self.due_at = now
        self.interval = collector.interval
        self.started_at = -math.inf
        self.overruns = 0
        self.is_overdue = False
        self.last_result: CollectionResult | None = None
        self.last_good_at: float | None = None
        self.added_at = now
        self.pass_count = 0
        self._cpu_costs: deque[float] = deque(maxlen=5)

    @property
    def is_slow(self) -> bool:
        """Whether the schedule makes it due, and not the tick."""
        return self.collector.interval > SLOW_INTERVAL

    def start_at(self, now: float) -> None:
        """The next pass is one interval later, on the grid, so that a late tick does not shift all that follow."""
        self.started_at = now
        self.due_at += self.interval
        if self.is_slow:
            self.due_at = math.inf
        elif self.due_at <= now:
            self.due_at = now + self.interval

    def record_result(self, result: CollectionResult) -> None:
        """Takes note of a pass."""
        self.last_result = result
        self.pass_count += 1
        self.is_overdue = False
        if result.samples or result.outcome is Outcome.ABSENT:
            self.last_good_at = result.began
        self._cpu_costs.append(result.cpu_seconds)
        interval = result.again or 0.0
        if len(self._cpu_costs) == self._cpu_costs.maxlen:
            interval = max(interval, sorted(self._cpu_costs)[len(self._cpu_costs) // 2] / MAX_CPU_SHARE)  # the median
        self.interval = max(self.collector.interval, min(interval, MAX_INTERVAL))

    @property
    def is_unreported(self) -> bool:
        """Whether it has still to say its first word; a first pass that broke off, as an eye comes up, is no word."""
        return self.pass_count == 0 or (
            self.pass_count == 1 and self.last_result is not None and self.last_result.error is not None
        )

    @property
    def last_duration(self) -> float:
        """Seconds that the last pass took: what is always slower than its interval is late, not silent."""
        return 0.0 if self.last_result is None else self.last_result.seconds

    def age(self, now: float) -> float:
        """Seconds since the newest good reading began, or since the start where there was none."""
        return now - (self.added_at if self.last_good_at is None else self.last_good_at)

    @property
    def outcome(self) -> Outcome | None:
        """How it stands: an overdue read is a failure, however good the one before was."""
        if self.is_overdue:
            return Outcome.FAILED
        return None if self.last_result is None else self.last_result.outcome


class Sampler:
    """All collectors, each on its lane and its own interval."""

    def __init__(
        self,
        make_runner: Callable[[Collector], CollectorRunner],
        collectors: Sequence[Collector],
        now: float,
        *,
        root: str = "/",
    ) -> None:
        self._make_runner = make_runner
        self._root = root
        self._awake_since = -math.inf
        self._join_hosts: dict[str, Host] = {}
        self._join_parts: dict[str, dict[str, JoinPart]] = {}
        self.states: dict[str, CollectorState] = {}
        self._runners: dict[str, CollectorRunner] = {}
        for collector in collectors:
            self.add(collector, now)

    def add(self, collector: Collector, now: float) -> None:
        """Adds a collector, or gives a known one a new configuration without losing its lane."""
        state = self.states.get(collector.name)
        if state is not None:
            state.collector, state.interval, state.due_at = collector, collector.interval, now
            self._join_parts.pop(collector.name, None)
            return
        self.states[collector.name] = CollectorState(collector, now)
        if collector.join is None and collector.name not in self._runners:
            self._runners[collector.name] = self._make_runner(collector)

    def remove(self, name: str) -> None:
        """Forgets a collector; its lane stays, so that a read under way is not stacked when the collector returns."""
        self.states.pop(name, None)
        self._join_parts.pop(name, None)

    def start_due(self, now: float) -> set[str]:
        """Starts every collector that is due and free; returns their names."""
        started = set()
        for name, state in self.states.items():
            runner = self._runners.get(name)
            if runner is None:  # made from others
                continue
            self._update_overdue(state, runner, now)
            if state.due_at <= now:
                state.start_at(now)
                if runner.busy_since is None:
                    runner.start(state.collector, now)
                    started.add(name)
                else:
                    state.overruns += 1
        return started

    def _update_overdue(self, state: CollectorState, runner: CollectorRunner, now: float) -> None:
        state.is_overdue = runner.busy_since is not None and now - runner.busy_since > state.collector.deadline

    def make_due(self, names: Iterable[str], now: float) -> None:
        """Makes collectors due now: hardware came or went."""
        for name in names:
            if name in self.states:
                self.states[name].due_at = now

    def make_slow_due(self, name: str, now: float) -> None:
        """The schedule's call for a slow collector; one whose interval has grown waits until it is over."""
        state = self.states.get(name)
        # Half a second of grace: the schedule goes by the wall clock, this by the monotonic one.
        if state is not None and state.is_slow and now - state.started_at > state.interval - 0.5:
            state.due_at = now

    def record_result(self, result: CollectionResult) -> bool:
        """Takes note of a pass that arrived; False where its collector has been removed since."""
        state = self.states.get(result.collector)
        if state is None:
            return False
        state.record_result(result)
        return True

    def join_arrived(self, arrived: Iterable[str]) -> list[CollectionResult]:
        """The passes, each of all its sources together, of the collectors that are made from what has just arrived."""
        arrived_names = set(arrived)
        joined_collectors = [
            c.collector for c in self.states.values() if c.collector.join and arrived_names & set(c.collector.after)
        ]
        return [result for result in map(self._join, joined_collectors) if result is not None]

    def _join(self, collector: Collector) -> CollectionResult | None:
        """Makes what is not made yet; a source that gives nothing any more has no part in it."""
        if any(self.states[name].is_unreported for name in collector.awaits if name in self.states):
            return None
        previous = self._join_parts.get(collector.name, {})
        sources = [self.states[name].last_result for name in collector.after if name in self.states]
        parts = {
            source.collector: previous[source.collector]
            if source.collector in previous and previous[source.collector].source is source
            else self._join_source(collector, source)
            for source in sources
            if source is not None and source.samples
        }
        self._join_parts[collector.name] = parts
        if not parts:
            return None
        result = _merge_parts(
            collector.name,
            list(parts.values()),
            [part for name, part in parts.items() if previous.get(name) is not part],
        )
        self.states[collector.name].record_result(result)
        return result

    def _join_source(self, collector: Collector, source: CollectionResult) -> JoinPart:
        join, host = collector.join, self._join_hosts.setdefault(collector.name, Host(self._root))
        assert join is not None  # only those that have one are asked
        readings = {source.collector: source.samples}
        result = collect_readings(collector.name, lambda: join(readings, host), host, time.monotonic())
        return JoinPart(source, result)

    def append_joined(self, result: CollectionResult) -> tuple[Sample, ...]:
        """
        A pass's Samples and, behind them, those that were made of it.

        They are recorded together: a joined Sample is exactly as old as what it was made of, and ends with it. In one
        group for all sources, a slow source would hold back the readings of a fast one.
        """
        candidates = (parts.get(result.collector) for parts in self._join_parts.values())
        joined = [
            sample
            for part in candidates
            if part is not None and part.source is result
            for sample in part.result.samples
        ]
        return (*result.samples, *joined) if joined else result.samples

    def list_sampling_groups(self) -> list[str]:
        """The collectors that are recorded by their own name; a join is recorded with its sources."""
        return [name for name, state in self.states.items() if state.collector.join is None]

    def note_wake(self, now: float) -> None:
        """Says that the agent itself stood still until now: what it did not hear was nobody's silence."""
        self._awake_since = now

    def find_silent(self, now: float, stale_after: int) -> list[str]:
        """The collectors whose newest good reading is older than so many of their intervals, while we were awake."""
        awake_seconds = now - self._awake_since
        return [
            name
            for name, state in self.states.items()
            if min(state.age(now), awake_seconds)
            > stale_after * max(state.interval, state.last_duration, self._slowest_source_interval(state))
        ]

    def _slowest_source_interval(self, state: CollectorState) -> float:
        sources = (self.states[name].interval for name in state.collector.after if name in self.states)
        return max(sources, default=0.0)


def _merge_parts(name: str, parts: Sequence[JoinPart], new_parts: Sequence[JoinPart]) -> CollectionResult:
    """One pass of a join from its parts; it is as old as its oldest source, and cost what is new in it."""
    return CollectionResult(
        name,
        min(part.source.began for part in parts),
        sum(part.result.seconds for part in new_parts),
        sum(part.result.cpu_seconds for part in new_parts),
        tuple(sample for part in parts for sample in part.result.samples),
        tuple(note for part in parts for note in part.result.notes),
        next((part.result.error for part in parts if part.result.error is not None), None),
    )
