"""
Starts each collector when it is due, waits for none of them, and joins results that are made from others.

Each collector has a runner: a daemon thread of its own, or a place in an eye process.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from agent.sampling.collector_state import CollectorState
from agent.sampling.passes import CollectionResult, CollectorRunner, collect_readings
from agent.sampling.plugins import Collector
from collectors import Host, Sample


class JoinPart(NamedTuple):
    """The result of a join for one pass of one of its sources."""

    source: CollectionResult
    result: CollectionResult


class Sampler:
    """All collectors, each with its runner and its own interval."""

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
        """Adds a collector, or gives a known one a new configuration; its runner stays."""
        state = self.states.get(collector.name)
        if state is not None:
            state.collector, state.interval, state.due_at = collector, collector.interval, now
            self._join_parts.pop(collector.name, None)
            return
        self.states[collector.name] = CollectorState(collector, now)
        if collector.join is None and collector.name not in self._runners:
            self._runners[collector.name] = self._make_runner(collector)

    def remove(self, name: str) -> None:
        """Removes a collector. Its runner stays: if it is added again, a stuck read gets no second one beside it."""
        self.states.pop(name, None)
        self._join_parts.pop(name, None)

    def start_due(self, now: float) -> set[str]:
        """Starts every collector that is due and whose runner is free; returns their names."""
        started = set()
        for name, state in self.states.items():
            runner = self._runners.get(name)
            if runner is None:  # a join
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

    def make_due_on_uevent(self, subsystem: str | None, now: float) -> None:
        """Makes the collectors due that want uevents of this subsystem; None, after lost events, stands for all."""
        for state in self.states.values():
            uevents = state.collector.uevents
            if subsystem in uevents or (subsystem is None and uevents):
                state.due_at = now

    def make_slow_due(self, name: str, now: float) -> None:
        """Makes a slow collector due, as the scheduler asks, unless its interval has grown and is not over."""
        state = self.states.get(name)
        # Half a second of grace: the scheduler uses the wall clock, this method the monotonic clock.
        if state is not None and state.is_slow and now - state.started_at > state.interval - 0.5:
            state.due_at = now

    def record_result(self, result: CollectionResult) -> bool:
        """Records a pass that arrived; returns False if its collector has been removed since."""
        state = self.states.get(result.collector)
        if state is None:
            return False
        state.record_result(result)
        return True

    def join_arrived(self, arrived: Iterable[str]) -> list[CollectionResult]:
        """Runs each join that has a source among the arrived collectors; each result covers all sources of its join."""
        arrived_names = set(arrived)
        joined_collectors = [
            c.collector for c in self.states.values() if c.collector.join and arrived_names & set(c.collector.after)
        ]
        return [result for result in map(self._join, joined_collectors) if result is not None]

    def _join(self, collector: Collector) -> CollectionResult | None:
        """Joins the sources that have changed; a source whose last pass had no samples has no part."""
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
        assert join is not None
        readings = {source.collector: source.samples}
        result = collect_readings(collector.name, lambda: join(readings, host), host, time.monotonic())
        return JoinPart(source, result)

    def append_joined(self, result: CollectionResult) -> tuple[Sample, ...]:
        """
        Returns a pass's samples, followed by the joined samples that were made from them.

        They are recorded together: a joined sample is exactly as old as its source, and ends with it. In one group
        for all sources, a slow source would hold back the readings of a fast one.
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
        """Returns the collectors that are recorded under their own name; a join is recorded with its sources."""
        return [name for name, state in self.states.items() if state.collector.join is None]

    def note_wake(self, now: float) -> None:
        """Notes that the agent itself stood still until now, so that no collector counts as silent for that time."""
        self._awake_since = now

    def find_silent(self, now: float, stale_after: int) -> list[str]:
        """Returns the collectors whose newest good reading is older than `stale_after` intervals of awake time."""
        awake_seconds = now - self._awake_since
        return [
            name
            for name, state in self.states.items()
            if min(state.age(now), awake_seconds)
            > stale_after * max(state.interval, state.last_duration, self._find_slowest_source_interval(state))
        ]

    def _find_slowest_source_interval(self, state: CollectorState) -> float:
        sources = (self.states[name].interval for name in state.collector.after if name in self.states)
        return max(sources, default=0.0)


def _merge_parts(name: str, parts: Sequence[JoinPart], new_parts: Sequence[JoinPart]) -> CollectionResult:
    """Merges parts into one pass of the join: as old as the oldest source, at the cost of the new parts alone."""
    return CollectionResult(
        name,
        min(part.source.began for part in parts),
        sum(part.result.seconds for part in new_parts),
        sum(part.result.cpu_seconds for part in new_parts),
        tuple(sample for part in parts for sample in part.result.samples),
        tuple(note for part in parts for note in part.result.notes),
        next((part.result.error for part in parts if part.result.error is not None), None),
    )
