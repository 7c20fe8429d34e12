"""
The host's nodes, CPUs, huge pages and kernel settings, which rarely change.

Reads /sys/devices/system and /proc/sys. https://www.kernel.org/doc/Documentation/ABI/stable/sysfs-devices-node,
https://docs.kernel.org/admin-guide/sysctl/vm.html, https://docs.kernel.org/admin-guide/mm/transhuge.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from collectors import Host, Reading, gauge
from collectors._host.nodes import FOLDER, list_nodes, read_cpulist, read_cpus_by_node
from collectors._kernel.meminfo import parse_fields

INTERVAL = 60.0  # rules look back five minutes: values read every ten minutes would be stale half of the time

_THP = "sys/kernel/mm/transparent_hugepage"
_ISOLATED = "sys/devices/system/cpu/isolated"
_CHOSEN = re.compile(r"\[([a-z+]{1,40})\]")
_DISTANCES = re.compile(r"\d{1,3}(?: +\d{1,3})*", re.ASCII)
_HUGE_PAGE_FOLDER = re.compile(r"hugepages-(\d{1,10}kB)", re.ASCII)
_HUGE_PAGE_FILES = (("total", "nr_hugepages"), ("free", "free_hugepages"), ("surp", "surplus_hugepages"))
_SYSCTLS = (
    "kernel.numa_balancing",
    "vm.compaction_proactiveness",
    "vm.max_map_count",
    "vm.min_free_kbytes",
    "vm.numa_stat",
    "vm.overcommit_memory",
    "vm.overcommit_ratio",
    "vm.swappiness",
    "vm.vfs_cache_pressure",
    "vm.watermark_boost_factor",
    "vm.watermark_scale_factor",
    "vm.zone_reclaim_mode",
)

NODES = gauge("steadytok_topology_nodes", "NUMA nodes that are online, memory-only ones included.")
NODE_CPUS = gauge("steadytok_topology_node_cpus", "CPUs of the node that are online; 0 for a memory-only node.")
NODE_MEMORY = gauge("steadytok_topology_node_memory_bytes", "Usable memory of the node.")
NODE_DISTANCE = gauge(
    "steadytok_topology_node_distance",
    "How far the node is from another as the firmware says it: 10 is itself, 20 costs about twice as much.",
)
NODE_HUGE_PAGES = gauge(
    "steadytok_topology_node_huge_pages",
    "Huge pages of the node, a count and not bytes, by size and state (total, free, surp: beyond the configured "
    "number).",
)
THP_INFO = gauge(
    "steadytok_topology_transparent_hugepage_info",
    "Always 1; the labels say when the kernel gives transparent huge pages and when it compacts memory for them.",
)
SYSCTL = gauge("steadytok_topology_sysctl", "Value of a kernel setting that matters for large models.")
ISOLATED_CPUS = gauge(
    "steadytok_topology_isolated_cpus", "CPUs taken from the scheduler by isolcpus; absent where there are none."
)
METRICS = (NODES, NODE_CPUS, NODE_MEMORY, NODE_DISTANCE, NODE_HUGE_PAGES, THP_INFO, SYSCTL, ISOLATED_CPUS)
UEVENTS = ("cpu", "memory", "node")


def collect(host: Host) -> Iterator[Reading]:
    """Reads nodes with CPUs, memory, distances and huge pages; transparent huge pages; sysctls; isolated CPUs."""
    node_ids = list_nodes(host)
    if node_ids:
        yield NODES.sample(len(node_ids))
    for node, cpus in read_cpus_by_node(host).items():
        yield NODE_CPUS.sample(len(cpus), node=node)
    for node in node_ids:
        yield _read_memory(host, node)
        yield from _collect_distances(host, node, node_ids)
        yield from _collect_huge_pages(host, node)
    yield _read_transparent_huge_pages(host)
    yield from _collect_sysctls(host)
    yield _read_isolated(host)


def _read_memory(host: Host, node: str) -> Reading:
    relative = f"{FOLDER}/node{node}/meminfo"
    text = host.read(relative)
    if text is None:
        return None
    for field, digits, unit in parse_fields(text):
        if field == "MemTotal" and unit:
            return NODE_MEMORY.sample(int(digits) * 1024, node=node)
    return host.note(relative, "expected a line such as `Node 0 MemTotal: 123 kB`")


def _collect_distances(host: Host, node: str, node_ids: list[str]) -> Iterator[Reading]:
    relative = f"{FOLDER}/node{node}/distance"
    text = host.read(relative)
    if text is None:
        return
    # One column for each online node in order; where numbers have gaps, the third column is not node 2.
    columns = text.split() if _DISTANCES.fullmatch(text) else []
    if len(columns) != len(node_ids):
        host.note(relative, f"expected {len(node_ids)} distances, one for each node, found {text[:40]!r}")
        return
    for other, distance in zip(node_ids, columns, strict=True):
        yield NODE_DISTANCE.sample(int(distance), node=node, to=other)


def _collect_huge_pages(host: Host, node: str) -> Iterator[Reading]:
    folder = f"{FOLDER}/node{node}/hugepages"
    for name in host.names(folder):
        size = _HUGE_PAGE_FOLDER.fullmatch(name)
        if size is not None:
            for state, file in _HUGE_PAGE_FILES:
                count = host.read_int(f"{folder}/{name}/{file}")
                yield NODE_HUGE_PAGES.sample(count, node=node, size=size[1], state=state)


def _read_transparent_huge_pages(host: Host) -> Reading:
    selected = {file: _read_selected(host, f"{_THP}/{file}") for file in ("enabled", "defrag")}
    if not any(selected.values()):
        return None
    return THP_INFO.sample(1, **{file: word for file, word in selected.items() if word})


def _read_selected(host: Host, relative: str) -> str | None:
    text = host.read(relative, optional=True)
    if text is None:
        return None
    match = _CHOSEN.search(text)
    return match[1] if match else host.note(relative, f"expected `always [madvise] never`, found {text[:40]!r}")


def _collect_sysctls(host: Host) -> Iterator[Reading]:
    for name in _SYSCTLS:
        value = host.read_int(f"proc/sys/{name.replace('.', '/')}", optional=True)
        if value is not None:
            yield SYSCTL.sample(value, sysctl=name)


def _read_isolated(host: Host) -> Reading:
    # The file is empty where no CPU is isolated, and an empty file is no reading.
    if host.read(_ISOLATED, optional=True) is None:
        return None
    cpus = read_cpulist(host, _ISOLATED)
    return None if cpus is None else ISOLATED_CPUS.sample(len(cpus))
