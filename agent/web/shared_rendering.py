"""
Renders an answer once for every client that asks for it while its source stays the same, as it does within one tick.

250 clients that each had `/metrics` and the rules rendered made the ticks 1.6 s late. Here the first client of a tick
starts the rendering, and the others wait for the same bytes. A client that hangs up ends no rendering of the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable

from agent.runtime.threads import run_in_thread

MAX_RENDERINGS = 16
"""Answers that are kept of one tick: strangers choose the parameters, and each combination has an answer of its own."""

Prepare = Callable[[], Callable[[], bytes]]
"""Reads the source on the event loop; returns the function that renders it, in a thread."""

Runner = Callable[[Prepare], Awaitable[bytes]]


class SharedRendering:
    """The renderings of one tick. `read_source` identifies the source: the tick, and the objects that it is in."""

    def __init__(self, read_source: Callable[[], Hashable], runner: Runner) -> None:
        self._read_source = read_source
        self._runner = runner
        self._source: Hashable = None
        self._tasks: dict[Hashable, asyncio.Task[bytes]] = {}

    async def render(self, key: Hashable, prepare: Prepare) -> bytes:
        """Returns the answer of that key, and raises whatever its rendering raises."""
        source = self._read_source()
        if source != self._source:
            self._source, self._tasks = source, {}
        task = self._tasks.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._run(prepare), name="render")
            task.add_done_callback(_mark_retrieved)
            while len(self._tasks) >= MAX_RENDERINGS:
                del self._tasks[next(iter(self._tasks))]
            self._tasks[key] = task
        return await asyncio.shield(task)

    async def _run(self, prepare: Prepare) -> bytes:
        return await self._runner(prepare)


def _mark_retrieved(task: asyncio.Task[bytes]) -> None:
    """Reads a failure whose clients have all hung up: asyncio logs one that nobody reads."""
    if not task.cancelled():
        task.exception()


class SerialRunner:
    """Renders in a thread, one answer after another: renderings of the same source share their buffers."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = asyncio.Lock()

    async def run(self, prepare: Prepare) -> bytes:
        """Prepares on the event loop, and returns what the thread rendered."""
        async with self._lock:
            return await run_in_thread(self._name, prepare())
