"""The page cache that can be reclaimed, and the conditions that forbid it: for drop_caches and reclaim."""

from __future__ import annotations

from typing import NamedTuple

from agent.actions import ActionContext, RefusedError
from agent.actions._queries import require_value
from agent.text.units import format_bytes

GROWTH_LIMIT = 5e7  # bytes a second of page cache: files are being loaded
REFAULT_LIMIT = 1000.0  # refaults a second: dropped pages are read back at once
# Before Linux 5.9 refaults of files have no suffix, since there were no others.
_REFAULTS = """
    sum(rate(steadytok_vmstat_workingset_refault_file_total[1m]) or rate(steadytok_vmstat_workingset_refault_total[1m]))
"""


class PageCache(NamedTuple):
    """Clean page cache that no process has mapped (`free`), and all memory (`total`), in bytes."""

    free: float
    total: float

    @property
    def summary(self) -> str:
        """Returns a phrase such as `5.0 GiB (3.1 % of memory)`."""
        return f"{format_bytes(self.free)} ({100 * self.free / self.total:.1f} % of memory)"


def read_host_cache(context: ActionContext) -> PageCache:
    """Returns the page cache of the host; RefusedError if it is not known."""
    return _query_cache(context, "steadytok_meminfo", "", "/proc/meminfo")


def read_node_cache(context: ActionContext, node: str) -> PageCache:
    """Returns the page cache of one node; RefusedError if it is not known."""
    return _query_cache(context, "steadytok_node_meminfo", f'{{node="{node}"}}', f"node {node}'s meminfo")


def read_cgroup_cache(context: ActionContext, path: str) -> PageCache:
    """Returns the page cache of a cgroup from its memory.stat; mapped, dirty and shared pages are part of `file`."""
    text = context.host.read(path) or ""
    fields = dict(line.split() for line in text.splitlines() if line.count(" ") == 1)
    try:
        file, anon, *unreclaimable = (
            float(fields[key]) for key in ("file", "anon", "file_mapped", "file_dirty", "file_writeback", "shmem")
        )
    except (KeyError, ValueError):
        raise RefusedError(f"{path} does not report its page cache") from None
    return PageCache(max(0.0, file - sum(unreclaimable)), max(1.0, file + anon))


def refuse_while_busy(context: ActionContext) -> None:
    """Raises RefusedError while files are loaded, and while pages are read back already."""
    growth = require_value(context, "sum(deriv(steadytok_meminfo_cached_bytes[1m]))", "how the page cache grows")
    if growth > GROWTH_LIMIT:
        raise RefusedError(f"the page cache grows by {format_bytes(growth)} a second: files are being loaded")
    refaults = require_value(context, _REFAULTS, "refaults")
    if refaults > REFAULT_LIMIT:
        raise RefusedError(f"{refaults:,.0f} pages a second are read back already; dropping more would make it worse")


def _query_cache(context: ActionContext, prefix: str, selector: str, source: str) -> PageCache:
    def sum_bytes(*names: str) -> float:
        return sum(
            require_value(context, f"sum({prefix}_{name}_bytes{selector})", f"{name} of {source}") for name in names
        )

    files, unreclaimable = sum_bytes("active_file", "inactive_file"), sum_bytes("mapped", "dirty", "writeback")
    return PageCache(max(0.0, files - unreclaimable), sum_bytes("mem_total"))
