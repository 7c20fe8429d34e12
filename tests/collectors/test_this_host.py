"""The host that runs the tests, against other sources about it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

import pytest

from collectors import Host, Reading, meminfo, node_meminfo, numastat, stat

Series = Callable[[Iterable[Reading]], dict[str, float]]

needs_nodes = pytest.mark.skipif(
    not os.path.exists("/sys/devices/system/node/node0/meminfo"), reason="this kernel shows no NUMA nodes"
)
needs_proc = pytest.mark.skipif(not os.path.exists("/proc/meminfo"), reason="this host has no /proc")


@needs_proc
def test_memory_is_that_of_the_host(series: Series) -> None:
    """Free and available memory are part of the total."""
    values = series(meminfo.collect(Host("/")))

    total = values["steadytok_meminfo_mem_total_bytes"]
    assert 64 << 20 < total < 1 << 50
    assert 0 < values["steadytok_meminfo_mem_available_bytes"] <= total
    assert 0 < values["steadytok_meminfo_mem_free_bytes"] <= total


@needs_nodes
def test_each_node_has_part_of_it(series: Series) -> None:
    """Each node with memory has free and available memory within its total."""
    values = series(node_meminfo.collect(Host("/")))

    totals = {
        name: value for name, value in values.items() if name.startswith("steadytok_node_meminfo_mem_total_bytes")
    }
    assert totals
    for name, total in totals.items():
        assert 0 <= values[name.replace("mem_total", "mem_free")] <= total
        assert 0 <= values[name.replace("mem_total", "available")] <= total


@needs_nodes
def test_allocations_are_counted(series: Series) -> None:
    """The first node has served allocations, unless its counters are switched off."""
    host = Host("/")
    values = series(numastat.collect(host))

    assert values.get('steadytok_numastat_numa_hit_total{node="0"}', 0) > 0 or host.take_notes()


@needs_proc
def test_time_passes_on_each_cpu(series: Series) -> None:
    """The online CPUs of all nodes are those of the host."""
    values = series(stat.collect(Host("/")))
    online = sum(value for name, value in values.items() if name.startswith("steadytok_stat_cpus_online"))

    assert online == os.sysconf("SC_NPROCESSORS_ONLN")
