"""
One pass of a collector: its result, how it is run, and the thread it runs in.

A runner holds at most one read, so a read that never returns costs that runner and nothing else. Without that limit
every scrape adds one more stuck goroutine: https://github.com/prometheus/node_exporter/issues/3791
"""

from __future__ import annotations

import errno
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable
from enum import Enum
from typing import NamedTuple, Protocol

from agent.sampling.plugins import Collector
from collectors import Host, Note, Reading, Sample

SERIES_CAP = 20_000  # per collector: a runaway label must not fill the host's memory
REFUSAL_REASONS = frozenset(os.strerror(code) for code in (errno.EACCES, errno.EPERM))


class Outcome(Enum):
    """How a pass ended."""

    OK = "ok"
    FAILED = "failed"  # the hardware is present, but no reading came
    ABSENT = "absent"  # this machine has no such hardware
    REFUSED = "refused"  # the kernel denies the reading to this user


class CollectionResult(NamedTuple):
    """The result of one pass of a collector; `began` is in seconds of the monotonic clock."""

    collector: str
    began: float
    seconds: float
    cpu_seconds: float
    samples: tuple[Sample, ...]
    notes: tuple[Note, ...]
    error: str | None = None
    again: float | None = None
    """Seconds until the next pass, where the collector asked for more than its interval."""

    @property
    def outcome(self) -> Outcome:
        """OK with samples, ABSENT without samples and notes; otherwise REFUSED or FAILED."""
        if self.error is not None:
            return Outcome.FAILED
        if self.samples:
            return Outcome.OK
        if not self.notes:
            return Outcome.ABSENT
        refused = all(note.reason in REFUSAL_REASONS for note in self.notes)
        return Outcome.REFUSED if refused else Outcome.FAILED


def collect_readings(
    name: str, readings: Callable[[], Iterable[Reading]], host: Host, began: float
) -> CollectionResult:
    """Runs one pass to its end. A collector that raises has failed; the samples before the exception stay."""
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
    except Exception as failure:  # no exception of one collector may stop the others
        error = f"{type(failure).__name__}: {failure}"
    cpu_seconds = time.thread_time() - cpu_seconds + host.take_spent()
    seconds = time.monotonic() - began
    notes, again = tuple(host.take_notes()), host.take_again()
    return CollectionResult(name, began, seconds, cpu_seconds, tuple(samples), notes, error, again)


class CollectorRunner(Protocol):
    """Runs the passes of one collector, at most one at a time."""

    busy_since: float | None
    """When the pass under way began; None while the runner is free."""

    def start(self, collector: Collector, began: float) -> None:
        """Starts a pass, whose CollectionResult is delivered later. Called only while the runner is free."""


class ThreadRunner:
    """Runs one collector in a thread; a daemon thread, so that a stuck read cannot keep the process alive."""

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
