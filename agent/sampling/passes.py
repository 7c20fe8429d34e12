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
from agent.sampling.read_watch import READ_WATCH
from collectors import ABSENT_ERRNOS, Host, Labels, Note, ReadAbandonedError, Reading, Sample

SERIES_CAP = 20_000  # per collector: a runaway label must not fill the host's memory
REFUSAL_REASONS = frozenset(os.strerror(code) for code in (errno.EACCES, errno.EPERM))
ABSENCE_REASONS = frozenset(os.strerror(code) for code in ABSENT_ERRNOS - {errno.ENOENT, errno.ENOTDIR, errno.ESRCH})
"""Of files that are there but have no device or feature behind them; a file that a kernel must have is not excused."""


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
        """OK with samples; ABSENT without, where nothing was missing or all of it is absent; else REFUSED or FAILED."""
        if self.error is not None:
            return Outcome.FAILED
        if self.samples:
            return Outcome.OK
        if all(note.reason in ABSENCE_REASONS for note in self.notes):
            return Outcome.ABSENT
        refused = all(note.reason in REFUSAL_REASONS for note in self.notes)
        return Outcome.REFUSED if refused else Outcome.FAILED


def collect_readings(
    name: str, readings: Callable[[], Iterable[Reading]], host: Host, began: float
) -> CollectionResult:
    """Runs one pass to its end. A collector that raises has failed; the samples before the exception stay."""
    cpu_seconds, error = time.thread_time(), None
    samples: list[Sample] = []
    series: set[tuple[str, Labels]] = set()
    try:
        for reading in readings():
            if reading is None:
                continue
            if not (isinstance(reading, Sample) and isinstance(reading.value, float)):
                raise TypeError(f"yielded {str(reading)[:80]!r}, which is no Sample with a float")
            series.add((reading.metric.name, reading.labels))
            if len(series) == len(samples):
                host.note(_format_series(reading), "this series was given twice; its first value counts")
                continue
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


def _format_series(sample: Sample) -> str:
    return f"{sample.metric.name}{{{','.join(f'{name}={value!r}' for name, value in sample.labels)}}}"


class CollectorRunner(Protocol):
    """Runs the passes of one collector, at most one at a time."""

    busy_since: float | None
    """When the pass under way began; None while the runner is free."""

    def start(self, collector: Collector, began: float) -> None:
        """Starts a pass, whose CollectionResult is delivered later. Called only while the runner is free."""


class ThreadRunner:
    """
    Runs one collector in a thread; a daemon thread, so that a stuck read cannot keep the process alive.

    A read that does not return is left behind with its thread, and the pass begins anew without that file. Where too
    many reads are stuck, the runner stays busy: it holds no more threads.
    """

    def __init__(self, name: str, host: Host, deliver: Callable[[CollectionResult], None]) -> None:
        self.busy_since: float | None = None
        self._name = name
        self._host = host
        self._deliver = deliver
        self._requests: queue.SimpleQueue[tuple[Collector, float]] = queue.SimpleQueue()
        self._last_request: tuple[Collector, float] | None = None
        self._thread = self._start_thread()
        READ_WATCH.add(self)

    def _start_thread(self) -> threading.Thread:
        thread = threading.Thread(target=self._run_requests, name=f"collect {self._name}", daemon=True)
        thread.start()
        return thread

    @property
    def path_being_read(self) -> str | None:
        """The file that the pass is reading now."""
        return self._host.reads.find_path(self._thread.ident)

    def start(self, collector: Collector, began: float) -> None:
        self.busy_since = began
        self._last_request = collector, began
        self._requests.put(self._last_request)
        READ_WATCH.wake()

    def abandon_stuck_read(self, after: float) -> bool:
        """Abandons the read under way if it has made no progress for `after` seconds; returns True if it did."""
        request = self._last_request
        if request is None or self._host.reads.abandon(self._thread.ident, after) is None:
            return False
        self._host.take_notes()  # the pass that begins anew makes its own
        self._thread = self._start_thread()
        self._requests.put(request)
        return True

    def _run_requests(self) -> None:
        while True:
            collector, began = self._requests.get()
            try:
                result = collect_readings(collector.name, lambda c=collector: c.collect(self._host), self._host, began)  # type: ignore[misc]  # mypy cannot infer a lambda's default
            except ReadAbandonedError:
                return  # another thread has the runner now
            self.busy_since = None
            self._deliver(result)
