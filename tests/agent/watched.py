"""A Sight whose passes are collected."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from agent.sampling.eye_pool import Sight
from agent.sampling.plugins import bind, modules
from agent.sampling.sampler import Pass


class Watched:
    """One that reads hwmon below a root, by an eye of its own or by the one at a door."""

    def __init__(self, root: Path, door: str | None = None) -> None:
        self.passes: asyncio.Queue[Pass] = asyncio.Queue()
        self.sight = Sight(str(root), self.passes.put_nowait, door=door)
        self.hwmon = bind(modules()["hwmon"], "hwmon", interval=None, deadline=None, own=None)

    async def ask(self, began: float) -> Pass:
        self.sight.lane("hwmon").start(self.hwmon, began)
        return await asyncio.wait_for(self.passes.get(), 20)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.02)
