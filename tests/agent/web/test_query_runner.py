"""The query runner: two queries at once, each with a deadline, without stopping the tick."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from agent.web.query_runner import QueryRunner, QueryTimeoutError
from collectors import Sample, gauge
from rules import promql
from rules.history.history import History
from rules.promql import QueryBudget

WIDE = gauge("wide", "Wide.")


def _run_endlessly() -> int:
    count = 0
    while True:
        count = max(count, len(str(count)))


def _prepare(result: int) -> Callable[[], Callable[[], int]]:
    return lambda: lambda: result


def test_work_gives_its_result_or_its_error() -> None:
    """The result or error of the thread and of its preparation comes out, and every slot is freed."""

    async def ask() -> None:
        queries = QueryRunner(max_running=1)
        for _ in range(3):
            assert await queries.run(_prepare(7), 5.0) == 7
            with pytest.raises(ZeroDivisionError):
                await queries.run(lambda: lambda: 1 // 0, 5.0)
            with pytest.raises(ZeroDivisionError):
                await queries.run(lambda: _prepare(1 // 0)(), 5.0)

    asyncio.run(ask())


def test_no_more_than_two_run() -> None:
    """A third query waits for its turn, and is prepared only then."""

    async def ask() -> None:
        queries, release, prepared = QueryRunner(), threading.Event(), []

        def prepare(number: int) -> Callable[[], Callable[[], bool]]:
            def begin() -> Callable[[], bool]:
                prepared.append(number)
                return lambda: release.wait(10)

            return begin

        tasks = [asyncio.create_task(queries.run(prepare(number), 9.0)) for number in range(3)]
        while len(prepared) < 2:
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)

        assert prepared == [0, 1]
        release.set()
        assert await asyncio.gather(*tasks) == [True] * 3
        assert prepared == [0, 1, 2]

    asyncio.run(ask())


def test_a_query_that_does_not_end_is_given_up() -> None:
    """A loop of Python calls, an evaluation, and the wait for a turn all end at the deadline."""

    async def ask() -> None:
        queries = QueryRunner(max_running=1, max_waiting=1)
        endless = asyncio.create_task(queries.run(lambda: _run_endlessly, 0.2))
        await asyncio.sleep(0)
        waiting = asyncio.create_task(queries.run(_prepare(1), 0.01))
        await asyncio.sleep(0)
        with pytest.raises(QueryTimeoutError, match="wait already"):
            await queries.run(_prepare(1), 5.0)
        with pytest.raises(QueryTimeoutError, match="in query queue"):
            await waiting
        with pytest.raises(QueryTimeoutError, match="in expression evaluation"):
            await endless

        assert await queries.run(_prepare(2), 5.0) == 2

    asyncio.run(ask())


def test_a_query_ends_when_its_client_goes() -> None:
    """A query ends with its client; its slot is free only after its thread ended."""

    async def ask() -> None:
        queries = QueryRunner(max_running=1)
        abandoned = asyncio.create_task(queries.run(lambda: _run_endlessly, 10.0))
        await asyncio.sleep(0.05)
        abandoned.cancel()

        assert await queries.run(_prepare(3), 9.0) == 3
        assert abandoned.cancelled()

    asyncio.run(ask())


def _build_history() -> History:
    history = History(3_600_000)
    for row in range(1000):
        history.record("wide", 1000 * (row + 1), [Sample(WIDE, (("n", str(n)),), float(row * n)) for n in range(100)])
    return history


@pytest.mark.deep
@pytest.mark.parametrize(
    "text",
    [
        "quantile_over_time(0.9, rate(wide[5m])[15m:1s])",
        "sum(deriv(wide[15m])) + sum(stddev_over_time(wide[10m]))",
        'sum by (n) (label_replace(wide, "n", "$1$1", "n", "(.*)")) + on() group_left count_values("v", wide)',
        "topk(5, wide) or bottomk(5, wide) or quantile(0.5, wide)",
    ],
)
def test_ticks_go_on_under_hostile_queries(text: str) -> None:
    """
    Two heavy queries run at a time while a loop ticks, records and evaluates every 50 ms.

    Most ticks come, and on a busy machine at least a fifth; none would come if a query held the interpreter.
    """
    history, rule = _build_history(), promql.compile("max(wide) >= 0")
    ends: list[str] = []

    async def ask(queries: QueryRunner, stop: asyncio.Event) -> None:
        while not stop.is_set():

            def prepare() -> Callable[[], int]:
                snapshot = history.snapshot()
                return lambda: len(
                    promql.compile(text).evaluate_range(snapshot, 0, 1_000_000, 1000, QueryBudget(10_000_000))
                )

            try:
                await queries.run(prepare, 1.0)
                ends.append("answered")
            except (promql.PromqlError, QueryTimeoutError) as error:
                ends.append(str(error))

    async def tick() -> int:
        queries, stop = QueryRunner(), asyncio.Event()
        asking = [asyncio.create_task(ask(queries, stop)) for _ in range(2)]
        ticks, number, begun = 0, 0, time.monotonic()
        while number < 20:
            at_ms = 1_000_000 + 1000 * (number + 1)
            samples = [Sample(WIDE, (("n", str(n)),), float(number)) for n in range(100)]
            history.record("wide", at_ms, samples)
            ticks += len(rule.evaluate_at(history, at_ms))
            number = max(number + 1, int((time.monotonic() - begun) / 0.05))  # a tick that is late is skipped
            await asyncio.sleep(max(0.0, begun + 0.05 * number - time.monotonic()))
        stop.set()
        await asyncio.gather(*asking)
        return ticks

    assert asyncio.run(tick()) >= 4
    assert ends


def test_a_failed_query_leaves_nothing_behind() -> None:
    """The arrays of a failed query are freed at once, not at a later garbage collection."""
    arrays: list[weakref.ref[np.ndarray]] = []

    def work() -> int:
        array = np.zeros(1000)
        arrays.append(weakref.ref(array))
        return len(array) // 0

    async def ask() -> None:
        with pytest.raises(ZeroDivisionError):
            await QueryRunner().run(lambda: work, 5.0)
        while any(thread.name == "query" for thread in threading.enumerate()):
            await asyncio.sleep(0.001)

    gc.collect()
    gc.disable()
    try:
        asyncio.run(ask())
        assert arrays[0]() is None
    finally:
        gc.enable()


def test_giving_up_goes_round_the_garbage_collector() -> None:
    """A callback of the garbage collector at the deadline completes, and the work is given up after it."""
    completed: list[bool] = []
    deadline = time.monotonic() + 1.0  # far enough for a busy machine to be in the callback by then

    def callback(phase: str, info: dict[str, int]) -> None:
        while time.monotonic() < deadline + 0.2:
            len(info)
        completed.append(True)

    def work() -> int:
        gc.callbacks.append(callback)
        try:
            gc.collect()
        finally:
            gc.callbacks.remove(callback)
        return _run_endlessly()

    async def ask() -> None:
        with pytest.raises(QueryTimeoutError):
            await QueryRunner().run(lambda: work, deadline - time.monotonic())

    asyncio.run(ask())

    assert completed


def test_an_abort_that_a_finalizer_swallows_comes_again() -> None:
    """A finalizer that runs at the deadline swallows the exception; the work after it is given up all the same."""
    deadline = time.monotonic() + 0.3
    aborted: list[bool] = []

    def generate() -> Iterator[int]:
        try:
            yield 0
        finally:
            try:
                _run_endlessly()
            finally:
                aborted.append(True)

    def work() -> int:
        generator = generate()
        next(generator)
        del generator
        return _run_endlessly()

    async def ask() -> None:
        with pytest.raises(QueryTimeoutError):
            await QueryRunner().run(lambda: work, deadline - time.monotonic())

    asyncio.run(ask())

    assert aborted
