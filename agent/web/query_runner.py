"""
Runs queries in threads, at most two at a time, each with a deadline, without slowing down the tick.

A thread that computes in Python gives way to other threads only every few milliseconds. So a query that takes longer
than `_FIRST_SLICE` pauses for as long as it runs. A profile function does that, and checks the deadline and whether the
client is gone. The interpreter calls it at every function call, so no loop in the evaluation can forget it. The size of
single NumPy calls is bounded beforehand by QueryBudget (rules/promql/values.py).

The interpreter drops a profile function that raises. Where the exception is swallowed too, as in a finalizer, the query
would run for ever. The interpreter reports such an exception to `sys.unraisablehook`, which sets the function again.
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
MAX_WAITING = 64  # a dashboard queries all its panels at the same time
MAX_QUERY_SECONDS = 10.0  # whatever `timeout` the request has

_FIRST_SLICE = 0.02  # seconds; most queries end within it and never pause
_TIME_SLICE = 0.002  # seconds of running between pauses

_T = TypeVar("_T")


class QueryTimeoutError(Exception):
    """The query was given up; the message names the phase."""


class _QueryAborted(BaseException):
    """Ends the work after its deadline or when its client is gone. Not an Exception: no handler may catch it."""


_thread_query = threading.local()  # `.query`: the _QueryThread that this thread runs


class QueryRunner:
    """Runs work for clients in threads."""

    def __init__(self, *, max_running: int = MAX_RUNNING, max_waiting: int = MAX_WAITING) -> None:
        _handle_swallowed_aborts()
        self._slots = asyncio.Semaphore(max_running)
        self._max_waiting = max_waiting
        self._waiting = 0
        self._running = 0

    async def run(self, prepare: Callable[[], Callable[[], _T]], seconds: float = MAX_QUERY_SECONDS) -> _T:
        """
        Returns the result of the work.

        `prepare` is called on the event loop when the work's turn comes; the function it returns runs in a thread.
        Raises QueryTimeoutError after the deadline, and whatever the work raises.
        """
        deadline = time.monotonic() + min(seconds, MAX_QUERY_SECONDS)
        await self._acquire_slot(deadline)
        try:
            query = _QueryThread(prepare(), deadline, lambda: self._running)
        except BaseException:
            self._slots.release()
            raise
        self._running += 1
        try:
            query.start(self._release_slot)
        except RuntimeError as error:  # "can't start new thread": a limit of the host, perhaps for a moment
            self._release_slot()
            raise QueryTimeoutError("no thread can be started; try again in a moment") from error
        try:
            return await query.future
        finally:
            query.abandoned = True
            # The traceback of a failure holds this frame and the evaluation's arrays. A cycle would keep them until the
            # next full garbage collection.
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
        # Only after the thread ended: a client that goes away must not let a third query run.
        self._running -= 1
        self._slots.release()


class _QueryThread(Generic[_T]):
    """Runs one piece of work in a thread."""

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
                _thread_query.query = self
                sys.setprofile(self.yield_or_abort)
                result = self._work()
            finally:
                sys.setprofile(None)  # this call is profiled too
        except _QueryAborted:
            failure = QueryTimeoutError("query timed out in expression evaluation")
        except Exception as error:  # passed to the client, whatever it is
            failure = error
        settle(result, failure, on_end)
        failure = None  # its traceback holds this frame too

    def yield_or_abort(self, frame: FrameType, event: str, argument: object) -> None:
        """Pauses the thread at the end of its slice; raises _QueryAborted after the deadline. A profile function."""
        now = time.monotonic()
        if now < self._slice_end:
            return
        if (self.abandoned or now > self._deadline) and not _is_swallowing(frame):
            raise _QueryAborted
        time.sleep(_TIME_SLICE * max(1, self._running()))
        self._slice_end = time.monotonic() + _TIME_SLICE

    def _settle(self, result: _T, failure: BaseException | None, on_end: Callable[[], None]) -> None:
        on_end()
        future = self.future
        del self.future  # the future holds the failure, whose traceback holds this object
        if future.done():
            return
        if failure is not None:
            future.set_exception(failure)
        else:
            future.set_result(result)


def _is_swallowing(frame: FrameType | None) -> bool:
    """True inside a callback of the garbage collector or our hook, which would swallow an exception half-way."""
    callbacks = {getattr(callback, "__code__", None) for callback in (*gc.callbacks, sys.unraisablehook)}
    while frame is not None:
        if frame.f_code in callbacks:
            return True
        frame = frame.f_back
    return False


def _handle_swallowed_aborts() -> None:
    """Sets `sys.unraisablehook` to one that resumes the profile function of a query whose abort was swallowed."""
    previous = sys.unraisablehook
    if getattr(previous, "resumes_queries", False):
        return

    def resume_query(unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, _QueryAborted):
            previous(unraisable)
        elif (query := getattr(_thread_query, "query", None)) is not None:
            sys.setprofile(query.yield_or_abort)

    resume_query.resumes_queries = True  # type: ignore[attr-defined]  # functions may have attributes
    sys.unraisablehook = resume_query
