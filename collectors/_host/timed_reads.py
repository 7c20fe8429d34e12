"""
Reads paths one after another, each within its own time budget, so that a stuck read blocks no other path.

A read that hangs in the kernel cannot be cancelled. It is abandoned together with its thread, and its path is skipped
until that thread has returned. While no read hangs, one thread receives all paths of a pass at once.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from collectors._host.host import Host
from collectors._host.sample import Note

_T = TypeVar("_T")


class _ReadJob(Generic[_T]):
    """Paths for one worker and their results; the lock guards `results`, `read_began` and `is_abandoned`."""

    def __init__(self, paths: Sequence[str], read: Callable[[Host, str], _T]) -> None:
        self.paths = paths
        self.read = read
        self.lock = threading.Lock()
        self.done = threading.Event()
        self.results: list[tuple[_T, list[Note]]] = []
        self.read_began = time.monotonic()
        self.cpu_seconds = 0.0
        self.is_abandoned = False
        self.error: Exception | None = None

    def run(self, host: Host) -> bool:
        """Runs in the worker; returns False where the caller has abandoned the job."""
        with self.lock:
            self.read_began = time.monotonic()
        began = time.thread_time()
        try:
            for path in self.paths:
                result = self.read(host, path), host.take_notes()
                with self.lock:
                    if self.is_abandoned:
                        return False
                    self.results.append(result)
                    self.cpu_seconds = time.thread_time() - began
                    self.read_began = time.monotonic()
        except Exception as error:  # the waiting caller raises it again
            self.error = error
        self.done.set()
        return not self.is_abandoned

    def wait(self, budget: float, deadline: float) -> bool:
        """Runs in the caller; returns False, and abandons the job, where a path took too long."""
        while not self.done.wait(max(0.0, min(self.read_began + budget, deadline) - time.monotonic())):
            with self.lock:
                if len(self.results) == len(self.paths):
                    return True
                if time.monotonic() >= min(self.read_began + budget, deadline):
                    self.is_abandoned = True
                    return False
        return True


class _Worker:
    """A daemon thread with its own Host: notes made after the worker was abandoned are dropped."""

    def __init__(self, root: str) -> None:
        self.jobs: queue.SimpleQueue[_ReadJob[object] | None] = queue.SimpleQueue()
        arguments = (self.jobs, Host(root))
        self.thread = threading.Thread(target=_run_jobs, args=arguments, name="timed-reads", daemon=True)
        self.thread.start()


def _run_jobs(jobs: queue.SimpleQueue[_ReadJob[object] | None], host: Host) -> None:
    while (job := jobs.get()) is not None:
        if not job.run(host):
            return


class TimedReader:
    """Reads the paths of one collector, and remembers the paths whose read has not returned."""

    def __init__(self, read_budget: float, pass_budget: float) -> None:
        """Sets the budgets in seconds: for each path, and for a whole pass."""
        self._read_budget = read_budget
        self._pass_budget = pass_budget
        self._worker: _Worker | None = None
        self._stuck: dict[str, threading.Thread] = {}
        self._unreached: frozenset[str] = frozenset()

    def __del__(self) -> None:
        if self._worker is not None:
            self._worker.jobs.put(None)  # put() of a SimpleQueue is safe in a destructor

    def read_each(self, host: Host, paths: Sequence[str], read: Callable[[Host, str], _T]) -> Iterator[tuple[str, _T]]:
        """
        Yields (path, result of `read`) for every path that returned in time; notes the others.

        `read` runs in another thread: it must change nothing but the Host that it receives. Its exceptions are raised
        here.
        """
        deadline = time.monotonic() + self._pass_budget
        remaining = self._select_paths(host, paths)
        while remaining:
            job = _ReadJob(remaining, read)
            in_time = self._run_job(host.root, job, deadline)
            host.spend(job.cpu_seconds)
            for path, (result, notes) in zip(remaining, job.results, strict=False):  # some paths may be unread
                for note in notes:
                    host.note(*note)
                yield path, result
            if job.error is not None:
                raise job.error
            remaining = [] if in_time else self._abandon_read(host, remaining[len(job.results) :], deadline)

    def _select_paths(self, host: Host, paths: Sequence[str]) -> list[str]:
        """Returns the paths to read: first those that the last pass did not reach; none whose read has not returned."""
        self._stuck = {path: thread for path, thread in self._stuck.items() if thread.is_alive()}
        for path in paths:
            if path in self._stuck:
                host.note(path, "a read of an earlier pass has not returned yet")
        free = [path for path in paths if path not in self._stuck]
        unreached, self._unreached = self._unreached, frozenset()
        return sorted(free, key=lambda path: path not in unreached) if unreached else free

    def _run_job(self, root: str, job: _ReadJob[_T], deadline: float) -> bool:
        if self._worker is None:
            self._worker = _Worker(root)
        self._worker.jobs.put(job)  # type: ignore[arg-type]  # a worker does not use the result's type
        return job.wait(self._read_budget, deadline)

    def _abandon_read(self, host: Host, remaining: Sequence[str], deadline: float) -> list[str]:
        """Abandons the first path and the worker; returns the other paths while time is left for them."""
        stuck, *others = remaining
        if self._worker is not None:
            self._stuck[stuck] = self._worker.thread
            self._worker = None
        if time.monotonic() < deadline:
            host.note(stuck, f"did not return within {self._read_budget:g} s")
            return others
        host.note(stuck, f"did not return within its time, at most {self._read_budget:g} s")
        for path in others:
            host.note(path, f"not read: the pass was over after {self._pass_budget:g} s, and begins here next time")
        self._unreached = frozenset(remaining)
        return []
