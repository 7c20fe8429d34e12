"""What may be taken from the page cache, and when it may not: for drop_caches and reclaim."""

from __future__ import annotations

from typing import NamedTuple

from agent.actions import Reach, RefusedError
from agent.text.units import bytes_written

GROWING = 5e7  # bytes a second of page cache: files are being loaded
THRASHING = 1000.0  # refaults a second: what is dropped is wanted at once


class Cache(NamedTuple):
    """Clean page cache that no process has mapped, and all memory, in bytes."""

    free: float
    total: float

    @property
    def words(self) -> str:
        """`5.0 GiB (3.1 % of memory)`."""
        return f"{bytes_written(self.free)} ({100 * self.free / self.total:.1f} % of memory)"


def of_host(reach: Reach) -> Cache:
    """The whole host's; RefusedError where it is not known."""
    return _cache(reach, "steadytok_meminfo", "", "/proc/meminfo")


def of_node(reach: Reach, node: str) -> Cache:
    """One node's."""
    return _cache(reach, "steadytok_node_meminfo", f'{{node="{node}"}}', f"node {node}'s meminfo")


def of_cgroup(reach: Reach, path: str) -> Cache:
    """A cgroup's, of its memory.stat, whose `file` has what is mapped, dirty and shared in it."""
    text = reach.host.read(path) or ""
    found = dict(line.split() for line in text.splitlines() if line.count(" ") == 1)
    try:
        file, anon, *kept = (
            float(found[key]) for key in ("file", "anon", "file_mapped", "file_dirty", "file_writeback", "shmem")
        )
    except (KeyError, ValueError):
        raise RefusedError(f"{path} does not tell its page cache") from None
    return Cache(max(0.0, file - sum(kept)), max(1.0, file + anon))


def refuse_while_wanted(reach: Reach) -> None:
    """RefusedError during a load, and while pages are read back already."""
    growing = _one(reach, "sum(deriv(steadytok_meminfo_cached_bytes[1m]))", "how the page cache grows")
    if growing > GROWING:
        raise RefusedError(f"the page cache grows by {bytes_written(growing)} a second: files are being loaded")
    refaults = _one(reach, "sum(rate(steadytok_vmstat_workingset_refault_file_total[1m]))", "refaults")
    if refaults > THRASHING:
        raise RefusedError(f"{refaults:,.0f} pages a second are read back already; dropping more would make it worse")


def _cache(reach: Reach, prefix: str, selector: str, where: str) -> Cache:
    def told(*names: str) -> float:
        return sum(_one(reach, f"sum({prefix}_{name}_bytes{selector})", f"{name} of {where}") for name in names)

    files, kept = told("active_file", "inactive_file"), told("mapped", "dirty", "writeback")
    return Cache(max(0.0, files - kept), told("mem_total"))


def _one(reach: Reach, expr: str, what: str) -> float:
    found = reach.query(expr)
    if not found:
        raise RefusedError(f"{what} is not known")
    return found[0][1]
