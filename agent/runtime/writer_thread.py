"""A daemon thread for what goes to disk: a disk that hangs makes a recording late, never a tick."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

import structlog

Job = Callable[[], None]


class Writer:
    """Does one job after another; a daemon, so that a write that never returns cannot keep the process from ending."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._free = threading.Event()
        self._free.set()
        self._thread = threading.Thread(target=self._work, name=f"write {name}", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether a job is outstanding."""
        return not self._free.is_set()

    def offer(self, job: Job) -> bool:
        """Takes a job, unless one is outstanding."""
        if self.busy:
            return False
        self._free.clear()
        self._jobs.put(job)
        return True

    def wait(self, seconds: float) -> bool:
        """Waits until nothing is outstanding; False where that did not come in time."""
        return self._free.wait(seconds)

    def close(self, seconds: float = 2.0) -> None:
        """Ends when the outstanding job has, or after so many seconds."""
        self._jobs.put(None)
        self._thread.join(seconds)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception as error:  # a fault in writing must not end the thread, or nothing is ever written again
                reason = f"{type(error).__name__}: {error}"
                structlog.get_logger().error("writing failed", what=self._name, reason=reason)
            finally:
                self._free.set()
