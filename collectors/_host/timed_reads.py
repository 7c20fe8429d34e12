"""
Reads places one after another, each with its own time budget, so that one that never returns hides no other.

A read that hangs in the kernel cannot be cancelled. It is left behind together with its thread, and its place is not
asked again until that thread has returned; without one, a single thread is handed all places of a pass at once.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from collectors._host.host import Host, Note

_T = TypeVar("_T")


class _Errand(Generic[_T]):
    """Places handed to one worker, and what it has brought; the lock is for `answers`, `since` and `left`."""

    def __init__(self, places: Sequence[str], read: Callable[[Host, str], _T]) -> None:
        self.places = places
        self.read = read
        self.lock = threading.Lock()
        self.done = threading.Event()
        self.answers: list[tuple[_T, list[Note]]] = []
        self.since = time.monotonic()
        self.cpu_seconds = 0.0
        self.left = False
        self.error: Exception | None = None

    def run(self, host: Host) -> bool:
        """The worker's side; False where nobody waits any more."""
        with self.lock:
            self.since = time.monotonic()
        began = time.thread_time()
        try:
            for place in self.places:
                answer = self.read(host, place), host.take_notes()
                with self.lock:
                    if self.left:
                        return False
                    self.answers.append(answer)
                    self.cpu_seconds = time.thread_time() - began
                    self.since = time.monotonic()
        except Exception as error:  # raised again where it is waited for
            self.error = error
        self.done.set()
        return not self.left

    def wait(self, budget: float, until: float) -> bool:
        """The caller's side; False where a place took too long, and is left behind."""
        while not self.done.wait(max(0.0, min(self.since + budget, until) - time.monotonic())):
            with self.lock:
                if len(self.answers) == len(self.places):
                    return True
                if time.monotonic() >= min(self.since + budget, until):
                    self.left = True
                    return False
        return True


class _Worker:
    """A daemon thread with a Host of its own: what it notes after it was left behind is nobody's."""

    def __init__(self, root: str) -> None:
        self.orders: queue.SimpleQueue[_Errand[object] | None] = queue.SimpleQueue()
        arguments = (self.orders, Host(root))
        self.thread = threading.Thread(target=_work, args=arguments, name="places", daemon=True)
        self.thread.start()


def _work(orders: queue.SimpleQueue[_Errand[object] | None], host: Host) -> None:
    while (errand := orders.get()) is not None:
        if not errand.run(host):
            return


class Patience:
    """The worker of one collector, and the places whose read has not returned."""

    def __init__(self, budget: float, whole: float) -> None:
        """Seconds for each place, and for a whole pass."""
        self._budget = budget
        self._whole = whole
        self._worker: _Worker | None = None
        self._stuck: dict[str, threading.Thread] = {}
        self._unreached: frozenset[str] = frozenset()

    def __del__(self) -> None:
        if self._worker is not None:
            self._worker.orders.put(None)  # put() of a SimpleQueue is safe in a destructor

    def each(self, host: Host, places: Sequence[str], read: Callable[[Host, str], _T]) -> Iterator[tuple[str, _T]]:
        """
        (place, what `read` gave) of every place that returned in time; the others are noted.

        `read` runs in a thread of its own: it must change nothing but the Host it is given. What it raises is raised.
        """
        until = time.monotonic() + self._whole
        left = self._free(host, places)
        while left:
            errand = _Errand(left, read)
            in_time = self._hand_over(host.root, errand, until)
            host.spend(errand.cpu_seconds)
            for place, (answer, notes) in zip(left, errand.answers, strict=False):  # the rest has not been read
                for note in notes:
                    host.note(*note)
                yield place, answer
            if errand.error is not None:
                raise errand.error
            left = [] if in_time else self._leave(host, left[len(errand.answers) :], until)

    def _free(self, host: Host, places: Sequence[str]) -> list[str]:
        """The places to read: first those that the last pass did not reach, and none whose read has not returned."""
        self._stuck = {place: thread for place, thread in self._stuck.items() if thread.is_alive()}
        for place in places:
            if place in self._stuck:
                host.note(place, "a read of an earlier pass has not returned yet")
        free = [place for place in places if place not in self._stuck]
        unreached, self._unreached = self._unreached, frozenset()
        return sorted(free, key=lambda place: place not in unreached) if unreached else free

    def _hand_over(self, root: str, errand: _Errand[_T], until: float) -> bool:
        if self._worker is None:
            self._worker = _Worker(root)
        self._worker.orders.put(errand)  # type: ignore[arg-type]  # a worker does not look at what it brings
        return errand.wait(self._budget, until)

    def _leave(self, host: Host, left: Sequence[str], until: float) -> list[str]:
        """Leaves the first place behind with the worker; the others where there is still time for them."""
        stuck, *others = left
        if self._worker is not None:
            self._stuck[stuck] = self._worker.thread
            self._worker = None
        if time.monotonic() < until:
            host.note(stuck, f"did not return within {self._budget:g} s")
            return others
        host.note(stuck, f"did not return within its time, at most {self._budget:g} s")
        for place in others:
            host.note(place, f"not read: the pass was over after {self._whole:g} s, and begins here next time")
        self._unreached = frozenset(left)
        return []
