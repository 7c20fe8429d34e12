"""
Abandons reads that do not return, in one thread for all runners of the process.

A stuck file costs a pass only its own reading: https://github.com/prometheus/node_exporter/issues/3791
"""

from __future__ import annotations

import threading
import time
import weakref
from typing import Protocol

READ_BUDGET = 2.0  # seconds without progress after which a read is stuck; a loaded host is slow, but not that slow
_PERIOD = 0.5  # seconds between two inspections while a pass is under way


class WatchedRunner(Protocol):
    """A runner whose pass can go on without the file that it is reading."""

    busy_since: float | None

    def abandon_stuck_read(self, after: float) -> bool:
        """Abandons the read under way if it has made no progress for `after` seconds; returns True if it did."""


class ReadWatch:
    """Inspects the runners that are busy; asleep while none is."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runners: weakref.WeakSet[WatchedRunner] = weakref.WeakSet()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, runner: WatchedRunner) -> None:
        """Watches a runner from now on."""
        with self._lock:
            self._runners.add(runner)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="read watch", daemon=True)
                self._thread.start()

    def wake(self) -> None:
        """Notes that a pass has begun."""
        self._wake.set()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            while busy := self._list_busy():
                time.sleep(_PERIOD)
                for runner in busy:
                    runner.abandon_stuck_read(READ_BUDGET)
                del busy

    def _list_busy(self) -> list[WatchedRunner]:
        with self._lock:
            return [runner for runner in self._runners if runner.busy_since is not None]


READ_WATCH = ReadWatch()
"""The watch of this process."""
