"""What a reload may change, and what only a restart can; and that no tick waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

import msgspec

from agent.config.schema import AgentConfig

_T = TypeVar("_T")

RESTART_KEYS = ("sample", "external_labels", "web", "state", "engine")


def replace_reloadable(old: AgentConfig, new: AgentConfig) -> AgentConfig:
    """The new configuration, except for what only a restart can change."""
    remediation = msgspec.structs.replace(new.remediation, hand=old.remediation.hand)
    return msgspec.structs.replace(new, remediation=remediation, **{name: getattr(old, name) for name in RESTART_KEYS})


def find_restart_keys(old: AgentConfig, new: AgentConfig) -> list[str]:
    """The settings that differ and change only with a restart."""
    changed = [name for name in RESTART_KEYS if getattr(new, name) != getattr(old, name)]
    changed += ["rules.interval"] * (new.rules.interval != old.rules.interval)
    return changed + ["remediation.hand"] * (new.remediation.hand != old.remediation.hand)


async def run_in_thread(work: Callable[[], _T]) -> _T:
    """What the work gives or raises, done in a thread of its own: thousands of rules take seconds to read."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def settle(result: _T | None, failure: Exception | None) -> None:
        if not future.done():
            future.set_exception(failure) if failure else future.set_result(result)  # type: ignore[arg-type]  # one is set

    def run() -> None:
        result, failure = None, None
        try:
            result = work()
        except Exception as error:  # it is raised where the work is waited for
            failure = error
        with contextlib.suppress(RuntimeError):  # the event loop has closed: the agent is ending
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, name="reload", daemon=True).start()
    return await future
