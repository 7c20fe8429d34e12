"""The request loop: sends requests one after another, on several connections at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from agent.enginebench.client import BenchRequest, Completion, EngineClient, EngineError

MAX_FAILURES = 3  # in a row; more requests would only harm an ailing engine

OnRequest = Callable[["LoadRun"], Awaitable[None]]


@dataclass(slots=True)
class LoadRun:
    """The answers in the order in which they ended, and the failures."""

    requests: int
    answers: list[Completion] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    stop_reason: str = ""

    @property
    def finished_count(self) -> int:
        """Requests that ended, failures included."""
        return len(self.answers) + len(self.failures)


async def run_load(
    engine: EngineClient, request: BenchRequest, *, requests: int, concurrency: int, on_request: OnRequest
) -> LoadRun:
    """Runs to the end or until cancelled, and returns the results so far; awaits `on_request` after each request."""
    run = LoadRun(requests)
    remaining = iter(range(requests))
    streak = _FailureStreak()

    async def client() -> None:
        for _ in remaining:
            if run.stop_reason:
                return
            await _send_request(engine, request, run, streak)
            await on_request(run)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, requests)):
                group.create_task(client())
    except asyncio.CancelledError:  # Ctrl-C: the results so far are worth a report
        run.stop_reason = f"stopped after {run.finished_count} of {requests} requests"
    return run


@dataclass(slots=True)
class _FailureStreak:
    failures: int = 0


async def _send_request(engine: EngineClient, request: BenchRequest, run: LoadRun, streak: _FailureStreak) -> None:
    try:
        run.answers.append(await engine.complete(request))
        streak.failures = 0
    except EngineError as error:
        run.failures.append(str(error))
        streak.failures += 1
        if streak.failures == MAX_FAILURES:
            run.stop_reason = f"given up after {MAX_FAILURES} failures in a row"
