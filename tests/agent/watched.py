"""A Sight whose passes are collected."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from agent.sampling.eye_pool import EyePool
from agent.sampling.passes import CollectionResult
from agent.sampling.plugins import bind_collector, load_collectors


class Watched:
    """One that reads hwmon below a root, by an eye of its own or by the one at a door."""

    def __init__(self, root: Path, door: str | None = None) -> None:
        self.passes: asyncio.Queue[CollectionResult] = asyncio.Queue()
        self.sight = EyePool(str(root), self.passes.put_nowait, socket_path=door)
        self.hwmon = bind_collector(load_collectors()["hwmon"], "hwmon", interval=None, deadline=None, config=None)

    async def ask(self, began: float) -> CollectionResult:
        self.sight.get_runner("hwmon").start(self.hwmon, began)
        return await asyncio.wait_for(self.passes.get(), 20)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.02)
