"""
drop_caches: gives back clean page cache that no process has mapped, on the whole host, once.

It cannot free mapped pages, so mmap'ed weights stay; and pages that the engine will read again are costly to drop.
Hence the prediction and the refusals. https://docs.kernel.org/admin-guide/sysctl/vm.html#drop-caches
"""

from __future__ import annotations

from agent.actions import ActionContext, Plan, RefusedError, Task, _page_cache
from agent.text.units import format_bytes

VERBS = ("drop_caches",)
MIN_CACHE_SHARE = 0.05  # of all memory: with less, reading the files again costs more


def describe(task: Task) -> str:
    """Describes the action for people."""
    return "drops the clean page cache that nobody has mapped, on the whole host"


def resource(task: Task) -> str:
    """Names the host's page cache."""
    return "page cache"


def plan(task: Task, context: ActionContext) -> Plan:
    """Predicts unmapped clean bytes; refuses if they are few, during a load, and while pages are read back."""
    cache = _page_cache.read_host_cache(context)
    if cache.free < MIN_CACHE_SHARE * cache.total:
        raise RefusedError(f"only {cache.summary} is clean page cache that nobody has mapped")
    _page_cache.refuse_while_busy(context)
    return Plan(None, "dropped", f"{format_bytes(cache.free)} of unmapped clean page cache")


def do(task: Task, plan: Plan, context: ActionContext) -> str:
    """Has the hand drop them."""
    result = context.hand("drop_caches")
    return f"freed {format_bytes(float(result['freed_bytes']))} in {float(result['seconds']):.1f} s"
