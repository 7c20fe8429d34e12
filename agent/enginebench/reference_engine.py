"""The reference engine as a child for the time of a run, as the agent starts its canary."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from agent.enginebench.client import EngineError
from agent.engines.canary import Ready
from agent.runtime.child_process import Child


class OwnEngine:
    """One engine, from start to end; a second start would be another engine, so one that ends ends the run."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._ready: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self._child = Child(
            "engine",
            ("engine", "--port", "0", "--until-stdin-closes", *arguments),
            on_line=self._line,
            on_end=self._ended,
        )

    async def start(self) -> Ready:
        """Returns when it serves; raises EngineError where it cannot."""
        self._child.start()
        return await self._ready

    async def close(self) -> None:
        """Ends it."""
        self._ready.cancel()
        await self._child.close()

    def _line(self, line: bytes) -> None:
        if not self._ready.done():
            self._ready.set_result(msgspec.json.decode(line, type=Ready))

    def _ended(self) -> None:
        if not self._ready.done():
            words = self._child.last_words.removeprefix("engine: ")
            self._ready.set_exception(EngineError(f"the reference engine ended at once: {words or 'it said nothing'}"))
