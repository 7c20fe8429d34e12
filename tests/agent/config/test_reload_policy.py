"""Facts about what a reload does beside the event loop."""

from __future__ import annotations

import asyncio
import threading

import pytest

from agent.config.reload_policy import run_in_thread


def test_the_loop_goes_on_while_something_is_read() -> None:
    """Work that waits for the event loop ends, so it does not run on it."""
    ticked = threading.Event()

    async def read() -> bool:
        asyncio.get_running_loop().call_soon(ticked.set)
        return await run_in_thread(lambda: ticked.wait(20))

    assert asyncio.run(read())


def test_what_the_work_raises_is_raised_where_it_is_waited_for() -> None:
    """A file that cannot be used is told by the reload, as if it had read it itself."""

    def work() -> None:
        raise ValueError("no such rule")

    with pytest.raises(ValueError, match="no such rule"):
        asyncio.run(run_in_thread(work))
