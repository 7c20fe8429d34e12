"""Runs the reference engine as a child process for one bench, as the agent runs its canary."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from agent.enginebench.client import EngineError
from agent.engines.canary import EngineReady
from agent.runtime.child_process import ChildProcess


class ReferenceEngine:
    """One process of the reference engine; it is not restarted, since a bench measures one process."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._ready: asyncio.Future[EngineReady] = asyncio.get_running_loop().create_future()
        self._child = ChildProcess(
            "engine",
            ("engine", "--port", "0", "--until-stdin-closes", *arguments),
            on_line=self._handle_line,
            on_end=self._handle_end,
        )

    async def start(self) -> EngineReady:
        """Starts the engine and returns when it serves; raises EngineError when it ends first."""
        self._child.start()
        return await self._ready

    async def close(self) -> None:
        """Ends the engine."""
        self._ready.cancel()
        await self._child.close()

    def _handle_line(self, line: bytes) -> None:
        if not self._ready.done():
            self._ready.set_result(msgspec.json.decode(line, type=EngineReady))

    def _handle_end(self) -> None:
        if not self._ready.done():
            words = self._child.last_error_line.removeprefix("engine: ")
            self._ready.set_exception(
                EngineError(f"the reference engine ended at once: {words or 'without a message'}")
            )
