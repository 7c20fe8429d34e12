"""
Reads the kernel's files about its nodes, and its counters around allocations under numactl.

https://docs.kernel.org/admin-guide/numastat.html, numactl(8)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from collectors import meminfo, node_meminfo, numastat, stat, topology
from tests.lab import observe

FOLDER = Path("/sys/devices/system/node")
THP = "/sys/kernel/mm/transparent_hugepage/enabled"
READS = 4  # of the command line, at most, on a busy host
SIZE = 64 << 20  # bytes of the allocations whose pages are counted
# The kernel populates it in one call, which is fast in emulation; only the place of the allocation matters.
ALLOCATE = """
import mmap, sys
mmap.mmap(-1, int(sys.argv[1]), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x8000).close()
"""
POLICIES = {
    "local": ("--cpunodebind=0", "--localalloc"),
    "membind": ("--cpunodebind=1", "--membind=1"),
    "elsewhere": ("--cpunodebind=0", "--membind=1"),
    "interleave": ("--cpunodebind=0", "--interleave=all"),
}


def nodes() -> dict[str, Any]:
    """Returns the output of the command line, and each node's files before and after a reading."""
    printed = _run_collect()
    before = _files()
    read = {**observe.collect(node_meminfo), **observe.collect(numastat), **observe.collect(meminfo)}
    return {
        "check": observe.run(sys.executable, "-m", "agent", "check", status=None).stdout,
        "collect": json.loads(printed.stdout),
        "complaints": printed.stderr.splitlines(),
        "status": printed.returncode,
        "before": before,
        "read": read,
        "after": _files(),
        "topology": observe.collect(topology),
        "stat": observe.collect(stat),
        "proc_stat": observe.read_text("/proc/stat"),
    }


def _run_collect() -> CompletedProcess[str]:
    """Runs `steadytok collect`, again where an emulated chip's first answer takes longer than a chip's time."""
    for _ in range(READS):
        printed = observe.run(sys.executable, "-m", "agent", "collect", "--json", status=None)
        if "did not return within" not in printed.stderr:
            break
    return printed


def _files() -> dict[str, str]:
    patterns = ("node*/meminfo", "node*/numastat", "node*/distance", "node*/cpulist")
    paths = sorted(path for pattern in patterns for path in FOLDER.glob(pattern))
    files = {str(path.relative_to(FOLDER)): path.read_text() for path in paths}
    return {**files, "meminfo": observe.read_text("/proc/meminfo")}


def allocations() -> dict[str, Any]:
    """Reads the counters around 64 MiB under each policy, in small pages and once in huge pages."""
    chosen = observe.read_text(THP).split("[")[1].split("]")[0]
    observe.write(THP, "never")
    results: dict[str, Any] = {policy: _around(SIZE, *arguments) for policy, arguments in POLICIES.items()}
    observe.write(THP, "always")
    results["huge"] = _around(SIZE, *POLICIES["membind"])
    observe.write(THP, chosen)
    return results


def _around(size: int, *policy: str) -> dict[str, Any]:
    command = ["numactl", *policy, *observe.python(ALLOCATE, str(size))]
    return observe.between(lambda: observe.collect(numastat), lambda: observe.run(*command))


def spill_over() -> dict[str, Any]:
    """Reads the counters around an allocation that prefers node 1 and is larger than its free memory."""
    observe.write(THP, "never")
    observe.write("/proc/sys/vm/drop_caches", "3")
    free = observe.collect(node_meminfo)['steadytok_node_meminfo_mem_free_bytes{node="1"}']
    results = _around(int(free) + (64 << 20), "--cpunodebind=0", "--preferred=1")
    return {**results, "spilled": 64 << 20}


def numa_stat() -> dict[str, Any]:
    """Runs the collector numastat while the kernel does not count, and after it counts again."""
    observe.write("/proc/sys/vm/numa_stat", "0")
    results: dict[str, Any] = {
        "raw_off": observe.read_text(str(FOLDER / "node0/numastat")),
        "off": observe.collect_with_notes(numastat),
    }
    results["sysctl_off"] = observe.collect(topology).get('steadytok_topology_sysctl{sysctl="vm.numa_stat"}')
    observe.write("/proc/sys/vm/numa_stat", "1")
    return {**results, "on": observe.collect_with_notes(numastat)}


def huge_pages() -> dict[str, Any]:
    """Reserves eight huge pages of 2 MiB on node 1 alone, and reads them."""
    reserve = FOLDER / "node1/hugepages/hugepages-2048kB/nr_hugepages"
    observe.write(str(reserve), "8")
    results = {**observe.collect(topology), **observe.collect(node_meminfo), **observe.collect(meminfo)}
    observe.write(str(reserve), "0")
    return {"read": results}
