"""
drop_caches: gives back clean page cache that no process has mapped, on the whole host, once.

It cannot free mapped pages, so mmap'ed weights stay; and what the engine will read again is dear to drop. Hence what it
predicts, and what it refuses. https://docs.kernel.org/admin-guide/sysctl/vm.html#drop-caches
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from agent.actions import Moment, Plan, Reach, RefusedError, Task
from agent.units import bytes_written

TARGET: tuple[str, ...] = ()
REVERSIBLE = False
TTL = None
VERBS = ("drop_caches",)
LEAST = 0.05  # of all memory: below this it is not worth reading files again
GROWING = 5e7  # bytes a second of page cache: files are being loaded
THRASHING = 1000.0  # refaults a second: what is dropped is wanted at once


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """It has no parameters."""


def describe(task: Task) -> str:
    """What it does, in words."""
    return "drops the clean page cache that nobody has mapped, on the whole host"


def resource(task: Task) -> str:
    """The host's page cache."""
    return "page cache"


def strength(task: Task) -> float:
    """It holds nothing."""
    return 0.0


def faults(task: Task) -> Iterable[str]:
    """Nothing can be wrong."""
    return ()


def plan(task: Task, reach: Reach) -> Plan:
    """Predicts unmapped clean bytes; refuses where they are few, during a load, and while pages are read back."""
    files, mapped = _sum(reach, "active_file", "inactive_file"), _sum(reach, "mapped", "dirty", "writeback")
    total = _sum(reach, "mem_total")
    free = max(0.0, files - mapped)
    if free < LEAST * total:
        share = f"{100 * free / total:.1f} % of memory"
        raise RefusedError(f"only {bytes_written(free)} ({share}) is clean page cache that nobody has mapped")
    growing = _one(reach, "sum(deriv(steadytok_meminfo_cached_bytes[1m]))", "how the page cache grows")
    if growing > GROWING:
        raise RefusedError(f"the page cache grows by {bytes_written(growing)} a second: files are being loaded")
    refaults = _one(reach, "sum(rate(steadytok_vmstat_workingset_refault_file_total[1m]))", "refaults")
    if refaults > THRASHING:
        raise RefusedError(f"{refaults:,.0f} pages a second are read back already; dropping more would make it worse")
    return Plan(None, "dropped", f"{bytes_written(free)} of unmapped clean page cache")


def do(task: Task, plan: Plan, reach: Reach) -> str:
    """Has the hand drop them."""
    result = reach.hand("drop_caches")
    return f"freed {bytes_written(float(result['freed_bytes']))} in {float(result['seconds']):.1f} s"


def undo(task: Task, plan: Plan, reach: Reach) -> None:
    """Dropped is dropped."""


def steer(task: Task, memory: Any, moment: Moment) -> tuple[Any, Any]:
    """It holds nothing."""
    return memory, moment.held


def _sum(reach: Reach, *names: str) -> float:
    return sum(_one(reach, f"sum(steadytok_meminfo_{name}_bytes)", f"{name} of /proc/meminfo") for name in names)


def _one(reach: Reach, expr: str, what: str) -> float:
    found = reach.query(expr)
    if not found:
        raise RefusedError(f"{what} is not known")
    return found[0][1]
