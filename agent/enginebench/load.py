"""The run itself: so many requests in a row, a few at a time, each as soon as the one before has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from agent.enginebench.client import Answer, Engine, EngineError, Order

GIVE_UP = 3  # failures in a row, after which more requests would only make an ailing engine worse

Heard = Callable[["Run"], Awaitable[None]]


@dataclass(slots=True)
class Run:
    """What came: answers in the order in which they ended, and what went wrong."""

    wanted: int
    answers: list[Answer] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    stopped: str = ""

    @property
    def done(self) -> int:
        """Requests that have ended, well or not."""
        return len(self.answers) + len(self.failures)


async def stress(engine: Engine, order: Order, *, requests: int, concurrency: int, heard: Heard) -> Run:
    """Runs to its end or until it is cancelled, and tells what there is; `heard` is awaited after each request."""
    run = Run(requests)
    tickets = iter(range(requests))
    state = _Row()

    async def client() -> None:
        for _ in tickets:
            if run.stopped:
                return
            await _once(engine, order, run, state)
            await heard(run)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, requests)):
                group.create_task(client())
    except asyncio.CancelledError:  # Ctrl-C: what was measured until now is worth telling
        run.stopped = f"stopped after {run.done} of {requests} requests"
    return run


@dataclass(slots=True)
class _Row:
    failures: int = 0


async def _once(engine: Engine, order: Order, run: Run, row: _Row) -> None:
    try:
        run.answers.append(await engine.ask(order))
        row.failures = 0
    except EngineError as error:
        run.failures.append(str(error))
        row.failures += 1
        if row.failures == GIVE_UP:
            run.stopped = f"given up after {GIVE_UP} failures in a row"
