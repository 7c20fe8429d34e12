"""Answers that are rendered once for every client of a tick."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from agent.web.shared_rendering import MAX_RENDERINGS, SerialRunner, SharedRendering


class Bench:
    """A shared rendering whose source the test moves; it counts the renderings, and notes the threads they ran in."""

    def __init__(self) -> None:
        self.tick = 0
        self.count = 0
        self.threads: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.rendering = SharedRendering(lambda: self.tick, SerialRunner("render").run)

    def prepare(self) -> Callable[[], bytes]:
        self.count += 1
        number = self.count

        def render() -> bytes:
            self.gate.wait()
            self.threads.append(threading.current_thread().name)
            return b"%d" % number

        return render

    async def ask(self, key: str = "page") -> bytes:
        return await self.rendering.render(key, self.prepare)


def test_clients_of_one_tick_share_one_rendering() -> None:
    """250 clients get the same bytes, rendered once and in a thread; the next tick renders anew."""

    async def scenario() -> None:
        bench = Bench()
        answers = await asyncio.gather(*(bench.ask() for _ in range(250)))
        assert set(answers) == {b"1"}
        bench.tick += 1
        assert await bench.ask() == b"2"
        assert bench.threads == ["render"] * 2

    asyncio.run(scenario())


def test_a_client_that_hangs_up_ends_nobodys_rendering() -> None:
    """The client that began a rendering leaves; the one that waits for the same answer still gets it."""

    async def scenario() -> None:
        bench = Bench()
        bench.gate.clear()
        first, second = asyncio.create_task(bench.ask()), asyncio.create_task(bench.ask())
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        bench.gate.set()
        assert await second == b"1"
        assert bench.count == 1

    asyncio.run(scenario())


def test_a_fault_reaches_every_client_and_no_log() -> None:
    """A rendering that fails raises at each client that waits; after all have left, asyncio reports nothing."""
    reports: list[object] = []

    def prepare() -> Callable[[], bytes]:
        raise ValueError("no such rule")

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reports.append(context))
        rendering = SharedRendering(int, SerialRunner("render").run)
        outcomes = await asyncio.gather(*(rendering.render("x", prepare) for _ in range(3)), return_exceptions=True)
        assert [str(outcome) for outcome in outcomes] == ["no such rule"] * 3
        gone = asyncio.create_task(rendering.render("y", prepare))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)

    asyncio.run(scenario())
    assert reports == []


def test_strangers_cannot_fill_the_memory_with_renderings() -> None:
    """However many parameters are tried within a tick, the answers kept are bounded; the oldest goes first."""

    async def scenario() -> None:
        bench = Bench()
        for number in range(3 * MAX_RENDERINGS):
            await bench.ask(str(number))
        assert len(bench.rendering._tasks) == MAX_RENDERINGS
        await bench.ask(str(3 * MAX_RENDERINGS - 1))
        assert bench.count == 3 * MAX_RENDERINGS

    asyncio.run(scenario())
