"""
Counters of the kernel's memory management that explain lost throughput, from /proc/vmstat.

https://docs.kernel.org/admin-guide/sysctl/vm.html, https://docs.kernel.org/admin-guide/mm/transhuge.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from collectors import Host, Reading, Sample, counter

INTERVAL = 1.0

_FILE = "proc/vmstat"
_LINE = re.compile(r"^([a-z][a-z0-9_]{0,63}) (\d{1,20})$", re.ASCII | re.MULTILINE)
_COUNTERS = (
    ("numa_pte_updates", "Page table entries that NUMA balancing marked to see who uses the page."),
    ("numa_huge_pte_updates", "Huge page entries that NUMA balancing marked to see who uses the page."),
    ("numa_hint_faults", "Faults that NUMA balancing caused in order to see who uses a page."),
    ("numa_hint_faults_local", "Faults of NUMA balancing by a task that ran on the page's own node."),
    ("numa_pages_migrated", "Pages that NUMA balancing moved to another node."),
    ("workingset_refault_file", "Pages of files that were evicted too early and read again."),
    ("workingset_refault", "Pages of files that were evicted too early and read again (kernels before Linux 5.9)."),
    ("workingset_refault_anon", "Anonymous pages that were swapped out too early and read again."),
    ("pgfault", "Page faults, the cheap ones included."),
    ("pgmajfault", "Page faults that had to wait for a disk."),
    ("allocstall", "Allocations that had to reclaim memory themselves (kernels before Linux 4.8)."),
    ("allocstall_dma", "Allocations in zone DMA that had to reclaim memory themselves."),
    ("allocstall_dma32", "Allocations in zone DMA32 that had to reclaim memory themselves."),
    ("allocstall_normal", "Allocations in zone Normal that had to reclaim memory themselves."),
    ("allocstall_high", "Allocations in zone HighMem that had to reclaim memory themselves."),
    ("allocstall_movable", "Allocations in zone Movable that had to reclaim memory themselves."),
    ("allocstall_device", "Allocations in zone Device that had to reclaim memory themselves."),
    ("oom_kill", "Processes killed because memory ran out, in any cgroup or node."),
    ("pswpin", "Pages read from swap."),
    ("pswpout", "Pages written to swap."),
    ("pgmigrate_success", "Pages moved, by any cause."),
    ("pgmigrate_fail", "Pages that could not be moved, by any cause."),
    ("compact_stall", "Allocations that had to wait for memory to be compacted."),
    ("thp_fault_alloc", "Transparent huge pages given at a page fault."),
    ("thp_fault_fallback", "Page faults that wanted a transparent huge page and got small ones."),
    ("drop_pagecache", "Times that the page cache was dropped through vm.drop_caches."),
    ("pgscan_direct", "Pages scanned by allocations that reclaimed memory themselves."),
    ("pgsteal_direct", "Pages reclaimed by allocations themselves."),
    ("pgscan_kswapd", "Pages scanned by kswapd, the kernel's reclaim in the background."),
    ("pgsteal_kswapd", "Pages reclaimed by kswapd."),
)
_BY_KEY = tuple((key, counter(f"steadytok_vmstat_{key}_total", meaning)) for key, meaning in _COUNTERS)
METRICS = tuple(metric for _, metric in _BY_KEY)


def collect(host: Host) -> Iterator[Reading]:
    """Reads each listed counter that this kernel has, which depends on its version and options."""
    text = host.read(_FILE)
    if text is None:
        return
    pairs = _LINE.findall(text)
    if unmatched := text.count("\n") + 1 - len(pairs):
        host.note(_FILE, f"{unmatched} lines unlike `pgfault 123`")
    values = dict(pairs)
    for key, metric in _BY_KEY:
        if key in values:
            yield Sample(metric, (), float(values[key]))
