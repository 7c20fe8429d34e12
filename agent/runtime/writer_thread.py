"""A daemon thread that writes to disk: a disk that hangs delays the recording, never a tick."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

import structlog

from agent.runtime.errors import describe_fault

CLOSE_SECONDS = 10.0
"""Seconds that an end waits for the writes before it. Only a disk that hangs needs them all: systemd then kills."""

Job = Callable[[], None]


class WriterThread:
    """Runs one job after another; as a daemon thread, a write that never returns cannot keep the process alive."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._idle = threading.Event()
        self._idle.set()
        self._thread = threading.Thread(target=self._run_jobs, name=f"write {name}", daemon=True)
        self._thread.start()

    @property
    def is_busy(self) -> bool:
        """True while a job waits or runs."""
        return not self._idle.is_set()

    def submit(self, job: Job) -> bool:
        """Takes a job; returns False, and drops it, while another waits or runs."""
        if self.is_busy:
            return False
        self._idle.clear()
        self._jobs.put(job)
        return True

    def wait(self, seconds: float = CLOSE_SECONDS) -> bool:
        """Waits until the thread is idle; returns False after `seconds` without that."""
        return self._idle.wait(seconds)

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Ends the thread after its current job; waits at most `seconds`."""
        self._jobs.put(None)
        self._thread.join(seconds)

    def _run_jobs(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception as error:  # the thread must outlive a failed write, or nothing is written again
                structlog.get_logger().error("writing failed", target=self._name, reason=describe_fault(error))
            finally:
                self._idle.set()
