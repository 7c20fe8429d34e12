"""An EyePool whose results are collected."""

from __future__ import annotations

import asyncio
from pathlib import Path

from agent.sampling.eye_pool import EyePool
from agent.sampling.passes import CollectionResult
from agent.sampling.plugins import bind_collector, load_collectors


class WatchedEye:
    """Reads hwmon below a root, by a child process or by the eye at a socket."""

    def __init__(self, root: Path, socket_path: str | None = None) -> None:
        self.results: asyncio.Queue[CollectionResult] = asyncio.Queue()
        self.pool = EyePool(str(root), self.results.put_nowait, socket_path=socket_path)
        self.hwmon = bind_collector(load_collectors()["hwmon"], "hwmon", interval=None, deadline=None, config=None)

    async def collect(self, began: float) -> CollectionResult:
        self.pool.get_runner("hwmon").start(self.hwmon, began)
        return await asyncio.wait_for(self.results.get(), 20)
