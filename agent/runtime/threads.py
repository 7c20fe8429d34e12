"""Runs work in threads, and brings its result back to the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

_T = TypeVar("_T")
_P = ParamSpec("_P")


def make_loop_callback(function: Callable[_P, object]) -> Callable[_P, None]:
    """
    Wraps `function` so that any thread may call it; it then runs on the current event loop.

    A call after that loop has closed is dropped: the agent is ending, and nothing waits for a result.
    """
    loop = asyncio.get_running_loop()

    def schedule(*args: _P.args, **kwargs: _P.kwargs) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop has closed: the agent is ending
            loop.call_soon_threadsafe(lambda: function(*args, **kwargs))

    return schedule


async def run_in_thread(name: str, work: Callable[[], _T]) -> _T:
    """
    Runs `work` in a daemon thread of that name and returns its result, or raises what it raised.

    Raises OSError where no thread can be started.

    The thread is not one of a pool: a disk that hangs delays neither other work nor the end of the process.
    """
    future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()

    def settle(result: _T | None, failure: Exception | None) -> None:
        if not future.done():
            future.set_exception(failure) if failure else future.set_result(result)  # type: ignore[arg-type]  # one is set

    settle_on_loop = make_loop_callback(settle)

    def run() -> None:
        try:
            settle_on_loop(work(), None)
        except Exception as error:  # raised again where the result is awaited
            settle_on_loop(None, error)

    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError as error:  # "can't start new thread": a limit of the host or the service, perhaps for a moment
        raise OSError(errno.EAGAIN, f"no thread can be started for: {name}") from error
    return await future
