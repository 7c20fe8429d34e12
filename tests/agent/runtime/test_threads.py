"""Work in threads whose result is needed on the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from agent.runtime.threads import make_loop_callback, run_in_thread


def test_the_loop_goes_on_while_work_is_done() -> None:
    """Work that waits for the event loop completes, since it does not run there."""
    ticked = threading.Event()

    async def read() -> bool:
        asyncio.get_running_loop().call_soon(ticked.set)
        return await run_in_thread("read", lambda: ticked.wait(20))

    assert asyncio.run(read())


def test_a_failure_is_raised_where_the_result_is_awaited() -> None:
    """A failure in the thread reaches whoever awaits the result."""

    def work() -> None:
        raise ValueError("no such rule")

    with pytest.raises(ValueError, match="no such rule"):
        asyncio.run(run_in_thread("work", work))


def test_a_call_after_the_loop_has_closed_is_dropped() -> None:
    """A thread that outlives its event loop does not fail: nobody waits for its result."""
    calls: list[int] = []

    async def make() -> Callable[[int], None]:
        return make_loop_callback(calls.append)

    callback = asyncio.run(make())
    callback(1)

    assert calls == []


def test_a_callback_runs_on_the_loops_own_thread() -> None:
    """A thread's callback runs in the thread of the event loop."""

    async def hand_over() -> int:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        callback = make_loop_callback(lambda: future.set_result(threading.get_ident()))
        threading.Thread(target=callback).start()
        return await future

    assert asyncio.run(hand_over()) == threading.get_ident()
