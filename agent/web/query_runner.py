"""
Where queries run: threads of their own, two at a time, each for so many seconds, giving way to the tick.

A thread that computes in Python lets the others in only every few milliseconds, once for each file they read; so a
query that runs longer than a moment pauses as long as it ran. That, its deadline and the departure of its client are
looked at by a profile function, which the interpreter calls at every function call: no loop in the evaluation can
forget them. Single NumPy calls are bounded beforehand, by what a query may hold (Effort in rules/promql/values.py).
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Generic, TypeVar

from agent.runtime.threads import make_loop_callback

MAX_RUNNING = 2
MAX_WAITING = 64  # a dashboard asks for all its panels at the same time
MAX_QUERY_SECONDS = 10.0  # seconds, whatever `timeout` asks for

_FIRST_SLICE = 0.02  # seconds: most queries end within this, and pause never
_TIME_SLICE = 0.002  # seconds of running between pauses

_T = TypeVar("_T")


class QueryTimeoutError(Exception):
    """The query was given up; the message says while what."""


class _QueryAborted(BaseException):
    """Ends the work: its time is up, or nobody waits for it. No Exception, so that nothing on the way holds it."""


class QueryRunner:
    """Runs work for clients, off the event loop."""

    def __init__(self, *, max_running: int = MAX_RUNNING, max_waiting: int = MAX_WAITING) -> None:
        self._slots = asyncio.Semaphore(max_running)
        self._max_waiting = max_waiting
        self._waiting = 0
        self._running = 0

    async def run(self, prepare: Callable[[], Callable[[], _T]], seconds: float) -> _T:
        """
        What the work gives. `prepare` is called on the event loop when it is the work's turn; what it returns runs in
        a thread. QueryTimeoutError where it does not end in time; whatever the work raises.
        """
        deadline = time.monotonic() + min(seconds, MAX_QUERY_SECONDS)
        await self._acquire_slot(deadline)
        try:
            query = _QueryThread(prepare(), deadline, lambda: self._running)
        except BaseException:
            self._slots.release()
            raise
        self._running += 1
        query.start(self._release_slot)
        try:
            return await query.future
        finally:
            query.abandoned = True
            # The traceback of a failure holds this frame, and the evaluation's with all their arrays: no cycle here, or
            # they would stay until the next full collection.
            del query

    async def _acquire_slot(self, deadline: float) -> None:
        if self._waiting >= self._max_waiting:
            raise QueryTimeoutError(f"{self._waiting} queries wait already; ask for fewer at the same time")
        self._waiting += 1
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                await self._slots.acquire()
        except TimeoutError:
            raise QueryTimeoutError("query timed out in query queue") from None
        finally:
            self._waiting -= 1

    def _release_slot(self) -> None:
        # Not before the thread has ended: a client that goes away must not make room for a third.
        self._running -= 1
        self._slots.release()


class _QueryThread(Generic[_T]):
    """One piece of work in its thread."""

    def __init__(self, work: Callable[[], _T], deadline: float, running: Callable[[], int]) -> None:
        self._work = work
        self._deadline = deadline
        self._running = running
        self.abandoned = False
        self.future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._slice_end = 0.0

    def start(self, on_end: Callable[[], None]) -> None:
        settle = make_loop_callback(self._settle)  # not an attribute: a cycle would keep the arrays of a failed query
        threading.Thread(target=self._run, args=(settle, on_end), name="query", daemon=True).start()

    def _run(
        self, settle: Callable[[Any, BaseException | None, Callable[[], None]], None], on_end: Callable[[], None]
    ) -> None:
        result: Any = None
        failure: BaseException | None = None
        self._slice_end = min(time.monotonic() + _FIRST_SLICE, self._deadline)
        try:
            try:
                sys.setprofile(self._yield_or_abort)
                result = self._work()
            finally:
                sys.setprofile(None)  # itself a call that is looked at
        except _QueryAborted:
            failure = QueryTimeoutError("query timed out in expression evaluation")
        except Exception as error:  # it is the client's to hear, whatever it is
            failure = error
        settle(result, failure, on_end)
        failure = None  # its traceback holds this frame, too

    def _yield_or_abort(self, frame: FrameType, event: str, argument: object) -> None:
        now = time.monotonic()
        if now < self._slice_end:
            return
        if (self.abandoned or now > self._deadline) and not _in_garbage_collection(frame):
            raise _QueryAborted
        time.sleep(_TIME_SLICE * max(1, self._running()))
        self._slice_end = time.monotonic() + _TIME_SLICE

    def _settle(self, result: _T, failure: BaseException | None, on_end: Callable[[], None]) -> None:
        on_end()
        future = self.future
        del self.future  # it keeps the failure, whose traceback holds this object
        if future.done():
            return
        if failure is not None:
            future.set_exception(failure)
        else:
            future.set_result(result)


def _in_garbage_collection(frame: FrameType | None) -> bool:
    """Whether this is a callback of the garbage collector, from which nothing that is raised would come out."""
    callbacks = {getattr(callback, "__code__", None) for callback in gc.callbacks}
    while frame is not None:
        if frame.f_code in callbacks:
            return True
        frame = frame.f_back
    return False
