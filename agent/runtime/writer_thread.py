"""A daemon thread for what goes to disk: a disk that hangs makes a recording late, never a tick."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

import structlog

Job = Callable[[], None]


class WriterThread:
    """Does one job after another; a daemon, so that a write that never returns cannot keep the process from ending."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._idle = threading.Event()
        self._idle.set()
        self._thread = threading.Thread(target=self._run_jobs, name=f"write {name}", daemon=True)
        self._thread.start()

    @property
    def is_busy(self) -> bool:
        """Whether a job is outstanding."""
        return not self._idle.is_set()

    def submit(self, job: Job) -> bool:
        """Takes a job, unless one is outstanding."""
        if self.is_busy:
            return False
        self._idle.clear()
        self._jobs.put(job)
        return True

    def wait(self, seconds: float) -> bool:
        """Waits until nothing is outstanding; False where that did not come in time."""
        return self._idle.wait(seconds)

    def close(self, seconds: float = 2.0) -> None:
        """Ends when the outstanding job has, or after so many seconds."""
        self._jobs.put(None)
        self._thread.join(seconds)

    def _run_jobs(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception as error:  # a fault in writing must not end the thread, or nothing is ever written again
                reason = f"{type(error).__name__}: {error}"
                structlog.get_logger().error("writing failed", what=self._name, reason=reason)
            finally:
                self._idle.set()
