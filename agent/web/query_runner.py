"""
Where queries run: threads of their own, two at a time, each for so many seconds, giving way to the tick.

A thread that computes in Python lets the others in only every few milliseconds, once for each file they read; so a
query that runs longer than a moment pauses as long as it ran. That, its deadline and the departure of its client are
looked at by a profile function, which the interpreter calls at every function call: no loop in the evaluation can
forget them. Single NumPy calls are bounded beforehand, by what a query may hold (Effort in rules/promql/values.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Generic, TypeVar

AT_ONCE = 2
WAITING = 64  # a dashboard asks for all its panels at the same time
LONGEST = 10.0  # seconds, whatever `timeout` asks for

_UNDISTURBED = 0.02  # seconds: most queries end within this, and pause never
_TURN = 0.002  # seconds of running between pauses

_T = TypeVar("_T")


class QueryTimeoutError(Exception):
    """The query was given up; the message says while what."""


class _GivenUp(BaseException):
    """Ends the work: its time is up, or nobody waits for it. No Exception, so that nothing on the way holds it."""


class Queries:
    """Runs work for clients, off the event loop."""

    def __init__(self, *, at_once: int = AT_ONCE, waiting: int = WAITING) -> None:
        self._free = asyncio.Semaphore(at_once)
        self._most_waiting = waiting
        self._waiting = 0
        self._running = 0

    async def run(self, prepare: Callable[[], Callable[[], _T]], seconds: float) -> _T:
        """
        What the work gives. `prepare` is called on the event loop when it is the work's turn; what it returns runs in
        a thread. QueryTimeoutError where it does not end in time; whatever the work raises.
        """
        deadline = time.monotonic() + min(seconds, LONGEST)
        await self._turn(deadline)
        try:
            work = _Work(prepare(), deadline, lambda: self._running)
        except BaseException:
            self._free.release()
            raise
        self._running += 1
        work.start(self._ended)
        try:
            return await work.future
        finally:
            work.abandoned = True
            # The traceback of a failure holds this frame, and the evaluation's with all their arrays: no cycle here, or
            # they would stay until the next full collection.
            del work

    async def _turn(self, deadline: float) -> None:
        if self._waiting >= self._most_waiting:
            raise QueryTimeoutError(f"{self._waiting} queries wait already; ask for fewer at the same time")
        self._waiting += 1
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                await self._free.acquire()
        except TimeoutError:
            raise QueryTimeoutError("query timed out in query queue") from None
        finally:
            self._waiting -= 1

    def _ended(self) -> None:
        # Not before the thread has ended: a client that goes away must not make room for a third.
        self._running -= 1
        self._free.release()


class _Work(Generic[_T]):
    """One piece of work in its thread."""

    def __init__(self, work: Callable[[], _T], deadline: float, running: Callable[[], int]) -> None:
        self._work = work
        self._deadline = deadline
        self._running = running
        self.abandoned = False
        self._event_loop = asyncio.get_running_loop()
        self.future: asyncio.Future[_T] = self._event_loop.create_future()
        self._turn_ends = 0.0

    def start(self, ended: Callable[[], None]) -> None:
        threading.Thread(target=self._run, args=(ended,), name="query", daemon=True).start()

    def _run(self, ended: Callable[[], None]) -> None:
        result: Any = None
        failure: BaseException | None = None
        self._turn_ends = min(time.monotonic() + _UNDISTURBED, self._deadline)
        try:
            try:
                sys.setprofile(self._look)
                result = self._work()
            finally:
                sys.setprofile(None)  # itself a call that is looked at
        except _GivenUp:
            failure = QueryTimeoutError("query timed out in expression evaluation")
        except Exception as error:  # it is the client's to hear, whatever it is
            failure = error
        with contextlib.suppress(RuntimeError):  # the event loop has closed: the agent is ending
            self._event_loop.call_soon_threadsafe(self._settle, result, failure, ended)
        failure = None  # its traceback holds this frame, too

    def _look(self, frame: FrameType, event: str, argument: object) -> None:
        now = time.monotonic()
        if now < self._turn_ends:
            return
        if (self.abandoned or now > self._deadline) and not _in_collection(frame):
            raise _GivenUp
        time.sleep(_TURN * max(1, self._running()))
        self._turn_ends = time.monotonic() + _TURN

    def _settle(self, result: _T, failure: BaseException | None, ended: Callable[[], None]) -> None:
        ended()
        future = self.future
        del self.future  # it keeps the failure, whose traceback holds this object
        if future.done():
            return
        if failure is not None:
            future.set_exception(failure)
        else:
            future.set_result(result)


def _in_collection(frame: FrameType | None) -> bool:
    """Whether this is a callback of the garbage collector, from which nothing that is raised would come out."""
    callbacks = {getattr(callback, "__code__", None) for callback in gc.callbacks}
    while frame is not None:
        if frame.f_code in callbacks:
            return True
        frame = frame.f_back
    return False
