"""Work in threads whose result is needed on the event loop."""

from __future__ import annotations

import asyncio
import subprocess
import sys
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


SHORT_OF_THREADS = """
import asyncio, resource, threading
from agent.runtime.threads import run_in_thread
from agent.web.query_runner import QueryRunner, QueryTimeoutError

async def scenario():
    runner, limits = QueryRunner(max_running=1), resource.getrlimit(resource.RLIMIT_AS)
    assert await runner.run(lambda: int) == 0
    size = 4096 * int(open("/proc/self/statm").read().split()[0])
    threading.stack_size(256 << 20)  # more than libc has kept of a thread that ended
    resource.setrlimit(resource.RLIMIT_AS, (size + (64 << 20), limits[1]))
    for _ in range(3):
        try:
            await run_in_thread("work", int)
        except OSError as error:
            print(error)
        try:
            await runner.run(lambda: int)
        except QueryTimeoutError as error:
            print(error)
    resource.setrlimit(resource.RLIMIT_AS, limits)
    print(await run_in_thread("work", int), await runner.run(lambda: int))

asyncio.run(scenario())
"""


def test_a_shortage_of_threads_is_in_passing() -> None:
    """Without memory for a thread's stack, work and queries are refused; once there is some, both run again."""
    done = subprocess.run([sys.executable, "-c", SHORT_OF_THREADS], capture_output=True, text=True, check=False)

    assert done.stdout.splitlines() == [
        *["[Errno 11] no thread can be started for: work", "no thread can be started; try again in a moment"] * 3,
        "0 0",
    ], done.stderr
