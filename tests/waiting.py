"""Waits on the event loop, for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.processes import PATIENCE


async def wait_until(condition: Callable[[], bool]) -> None:
    """Lets the event loop run until the condition is true. Raises TimeoutError where it does not become true."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)
