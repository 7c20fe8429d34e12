"""
A whole machine: two nodes of twenty CPUs and 256 GiB, as Linux 6.8 shows it, made of plain dictionaries.

`files()` returns the kernel's files, `expected_series()` the series that must be read from them. CPU c is on node
c // 20. The model's page cache fills node 0; node 1 is half free, and some of node 0's allocations had to go there.

`python tests/machines/two_nodes.py DIR` writes it, sensors included, for `steadytok collect --root DIR`.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

NODES = (0, 1)
CPUS = range(40)
KIB_PER_PAGE = 4

MEMINFO = {  # kB of node 0 and node 1
    "MemTotal": (263_874_560, 264_241_152),
    "MemFree": (1_310_720, 131_072_000),
    "Active(anon)": (20_971_520, 18_874_368),
    "Inactive(anon)": (1_048_576, 2_097_152),
    "Active(file)": (4_194_304, 1_048_576),
    "Inactive(file)": (230_686_720, 104_857_600),
    "Mapped": (209_715_200, 1_048_576),
    "SReclaimable": (2_097_152, 1_572_864),
    "SUnreclaim": (1_048_576, 524_288),
}
NAMES = {  # each field's name in its series
    "MemTotal": "mem_total",
    "MemFree": "mem_free",
    "Active(anon)": "active_anon",
    "Inactive(anon)": "inactive_anon",
    "Active(file)": "active_file",
    "Inactive(file)": "inactive_file",
    "Mapped": "mapped",
    "SReclaimable": "sreclaimable",
    "SUnreclaim": "sunreclaim",
}
HUGE_PAGES = {"Total": (64, 0), "Free": (60, 0), "Surp": (0, 0)}
LOW_WATERMARK_PAGES = {"DMA32": (6_200, 0), "Normal": (58_000, 64_200)}
NUMASTAT = {
    "numa_hit": (812_345_678, 798_765_432),
    "numa_miss": (0, 4_321_000),
    "numa_foreign": (4_321_000, 0),
    "interleave_hit": (3_120, 3_119),
    "local_node": (811_000_000, 790_000_000),
    "other_node": (1_345_678, 13_086_432),
}
VMSTAT = {
    "nr_free_pages": 33_095_680,
    "pswpin": 12,
    "pswpout": 40,
    "pgfault": 9_876_543_210,
    "pgmajfault": 45_210,
    "allocstall_normal": 17,
    "allocstall_movable": 3,
    "pgscan_kswapd": 1_200_000,
    "pgscan_direct": 8_000,
    "pgscan_direct_throttle": 1,
    "pgsteal_kswapd": 1_100_000,
    "pgsteal_direct": 7_500,
    "workingset_refault_anon": 5,
    "workingset_refault_file": 650_000,
    "drop_pagecache": 2,
    "oom_kill": 1,
    "numa_pte_updates": 3_000_000,
    "numa_huge_pte_updates": 1_500,
    "numa_hint_faults": 2_900_000,
    "numa_hint_faults_local": 1_800_000,
    "numa_pages_migrated": 410_000,
    "pgmigrate_success": 500_000,
    "pgmigrate_fail": 320,
    "compact_stall": 9,
    "thp_fault_alloc": 91_000,
    "thp_fault_fallback": 210,
}
NOT_READ = ("nr_free_pages", "pgscan_direct_throttle")  # of vmstat
PRESSURE_MICROSECONDS = {"cpu": (81_000_000, 0), "io": (5_500_000, 5_250_000), "memory": (1_250_000, 750_000)}
SCHEDULER = {"ctxt": 5_432_109_876, "btime": 1_761_955_200, "processes": 812_345, "procs_running": 41}
MODES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guest_nice")
DISTANCES = ((10, 21), (21, 10))
SYSCTLS = {"kernel/numa_balancing": 1, "vm/zone_reclaim_mode": 0, "vm/swappiness": 60, "vm/numa_stat": 1}

_NODE = "sys/devices/system/node"


def files() -> dict[str, str]:
    """Returns the text of each file by its path below the root."""
    return {
        **_make_proc_files(),
        **_make_system_files(),
        **{path: text for node in NODES for path, text in _make_node_files(node).items()},
    }


def build(root: Path, more: Mapping[str, str] = MappingProxyType({})) -> None:
    """Writes the machine, and more files of the same form, below a folder; a text `-> TARGET` makes a link."""
    for path, text in {**files(), **more}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if text.startswith("-> "):
            (root / path).symlink_to(text.removeprefix("-> "))
        else:
            (root / path).write_text(text)


def expected_series() -> dict[str, float]:
    """Returns every series that these files must give, as Prometheus writes it, and no other."""
    values = {
        "steadytok_meminfo_hugepagesize_bytes": 2048 * 1024.0,
        "steadytok_topology_nodes": 2.0,
        'steadytok_topology_transparent_hugepage_info{defrag="madvise",enabled="madvise"}': 1.0,
        "steadytok_stat_boot_time_seconds": float(SCHEDULER["btime"]),
        "steadytok_stat_context_switches_total": float(SCHEDULER["ctxt"]),
        "steadytok_stat_forks_total": float(SCHEDULER["processes"]),
        "steadytok_stat_processes_running": float(SCHEDULER["procs_running"]),
        "steadytok_stat_processes_blocked": 0.0,
    }
    for field, pair in MEMINFO.items():
        values[f"steadytok_meminfo_{NAMES[field]}_bytes"] = sum(pair) * 1024.0
    for state, pair in HUGE_PAGES.items():
        values[f'steadytok_meminfo_huge_pages{{state="{state.lower()}"}}'] = float(sum(pair))
    for key, value in VMSTAT.items():
        if key not in NOT_READ:
            values[f"steadytok_vmstat_{key}_total"] = float(value)
    for path, value in SYSCTLS.items():
        values[f'steadytok_topology_sysctl{{sysctl="{path.replace("/", ".")}"}}'] = float(value)
    for node in NODES:
        values |= _make_node_series(node) | _make_topology_series(node)
    return values | _make_pressure_series()


def make_cpu_ticks(cpu: int) -> dict[str, int]:
    """Returns the time of a CPU by mode, in 1/100 s; CPUs differ, so that a sum over the wrong CPUs shows."""
    numbers = (2_000_000 + cpu, 10, 70_000 + cpu, 5_000_000, 300, 0, 900, 0, 40, 0)
    return dict(zip(MODES, numbers, strict=True))


def _make_node_series(node: int) -> dict[str, float]:
    label = f'node="{node}"'
    memory = {field: pair[node] for field, pair in MEMINFO.items()}
    watermark = sum(pair[node] for pair in LOW_WATERMARK_PAGES.values()) * KIB_PER_PAGE
    cache = memory["Active(file)"] + memory["Inactive(file)"] - memory["Mapped"]
    available = memory["MemFree"] + cache + memory["SReclaimable"] - watermark
    node_ticks = [make_cpu_ticks(cpu) for cpu in CPUS if cpu // 20 == node]
    return {
        **{f"steadytok_node_meminfo_{NAMES[field]}_bytes{{{label}}}": kib * 1024.0 for field, kib in memory.items()},
        f"steadytok_node_meminfo_available_bytes{{{label}}}": available * 1024.0,
        **{
            f'steadytok_node_meminfo_huge_pages{{{label},state="{state.lower()}"}}': float(pair[node])
            for state, pair in HUGE_PAGES.items()
        },
        f"steadytok_stat_cpus_online{{{label}}}": 20.0,
        **{f"steadytok_numastat_{key}_total{{{label}}}": float(pair[node]) for key, pair in NUMASTAT.items()},
        **{
            f'steadytok_stat_cpu_seconds_total{{mode="{mode}",{label}}}': sum(ticks[mode] for ticks in node_ticks) / 100
            for mode in MODES
        },
    }


def _make_topology_series(node: int) -> dict[str, float]:
    label = f'node="{node}"'
    large = {
        f'steadytok_topology_node_huge_pages{{{label},size="{size}",state="{state.lower()}"}}': float(
            pair[node] * share
        )
        for size, share in (("2048kB", 1), ("1048576kB", 0))
        for state, pair in HUGE_PAGES.items()
    }
    distances = {
        f'steadytok_topology_node_distance{{{label},to="{to}"}}': float(distance)
        for to, distance in enumerate(DISTANCES[node])
    }
    return {
        f"steadytok_topology_node_memory_bytes{{{label}}}": MEMINFO["MemTotal"][node] * 1024.0,
        f"steadytok_topology_node_cpus{{{label}}}": 20.0,
        **distances,
        **large,
    }


def _make_pressure_series() -> dict[str, float]:
    """For a whole host, `full` of cpu is undefined: the kernel prints 0, which is no reading."""
    values = {}
    for name, (some, full) in PRESSURE_MICROSECONDS.items():
        values[f'steadytok_pressure_waiting_seconds_total{{resource="{name}"}}'] = some / 1e6
        if name != "cpu":
            values[f'steadytok_pressure_stalled_seconds_total{{resource="{name}"}}'] = full / 1e6
    return values


def _make_proc_files() -> dict[str, str]:
    memory = "".join(f"{f'{field}:':<15} {sum(pair)} kB\n" for field, pair in MEMINFO.items())
    huge = "".join(f"HugePages_{state}: {sum(pair)}\n" for state, pair in HUGE_PAGES.items())
    return {
        "proc/meminfo": memory + huge + "Hugepagesize:    2048 kB\n",
        "proc/vmstat": "".join(f"{key} {value}\n" for key, value in VMSTAT.items()),
        "proc/stat": _format_stat(),
        "proc/zoneinfo": "".join(_format_zones(node) for node in NODES),
        **{f"proc/pressure/{name}": _format_pressure(*totals) for name, totals in PRESSURE_MICROSECONDS.items()},
        **{f"proc/sys/{path}": f"{value}\n" for path, value in SYSCTLS.items()},
    }


def _format_stat() -> str:
    rows = [" ".join(map(str, make_cpu_ticks(cpu).values())) for cpu in CPUS]
    total = " ".join(str(sum(column)) for column in zip(*(make_cpu_ticks(cpu).values() for cpu in CPUS), strict=True))
    cpus = "".join(f"cpu{cpu} {row}\n" for cpu, row in zip(CPUS, rows, strict=True))
    scheduler = "".join(f"{key} {value}\n" for key, value in SCHEDULER.items())
    return f"cpu  {total}\n{cpus}intr 987654 {'0 ' * 400}7\n{scheduler}procs_blocked 0\nsoftirq 5 1 1 1 1 1 0 0 0 0 0\n"


def _format_zones(node: int) -> str:
    total = MEMINFO["MemTotal"][node] // KIB_PER_PAGE
    managed = {"DMA32": 400_000 if node == 0 else 0}
    managed["Normal"] = total - managed["DMA32"]
    return "".join(
        f"Node {node}, zone {zone:>8}\n  pages free     100\n        min      80\n        low      {low[node]}\n"
        f"        high     120\n        managed  {managed[zone]}\n"
        for zone, low in LOW_WATERMARK_PAGES.items()
    )


def _format_pressure(some: int, full: int) -> str:
    averages = "avg10=0.00 avg60=0.31 avg300=0.10"
    return f"some {averages} total={some}\nfull {averages} total={full}\n"


def _make_system_files() -> dict[str, str]:
    return {
        "sys/devices/system/cpu/online": "0-39\n",
        "sys/devices/system/cpu/isolated": "\n",
        f"{_NODE}/online": "0-1\n",
        f"{_NODE}/has_cpu": "0-1\n",
        "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
        "sys/kernel/mm/transparent_hugepage/defrag": "always defer defer+madvise [madvise] never\n",
    }


def _make_node_files(node: int) -> dict[str, str]:
    folder = f"{_NODE}/node{node}"
    memory = "".join(f"Node {node} {f'{field}:':<15} {pair[node]} kB\n" for field, pair in MEMINFO.items())
    huge = "".join(f"Node {node} HugePages_{state}: {pair[node]}\n" for state, pair in HUGE_PAGES.items())
    sizes = {f"hugepages-{size}kB": share for size, share in (("2048", 1), ("1048576", 0))}
    names = {"nr": "Total", "free": "Free", "surplus": "Surp"}
    return {
        f"{folder}/cpulist": f"{node * 20}-{node * 20 + 19}\n",
        f"{folder}/distance": " ".join(map(str, DISTANCES[node])) + "\n",
        f"{folder}/meminfo": memory + huge,
        f"{folder}/numastat": "".join(f"{key} {pair[node]}\n" for key, pair in NUMASTAT.items()),
        **{
            f"{folder}/hugepages/{size}/{name}_hugepages": f"{HUGE_PAGES[state][node] * share}\n"
            for size, share in sizes.items()
            for name, state in names.items()
        },
    }


def main() -> int:
    """Writes the whole machine into the folder argument, which must be new or empty."""
    if len(sys.argv) != 2:
        print("usage: python tests/machines/two_nodes.py DIR", file=sys.stderr)  # noqa: T201  the command's output
        return 2
    root = Path(sys.argv[1])
    if root.exists() and any(root.iterdir()):
        print(f"{root} is not empty: give a new or empty folder", file=sys.stderr)  # noqa: T201  as above
        return 2
    parts = [runpy.run_path(str(path)) for path in sorted(Path(__file__).parent.glob("two_nodes_*.py"))]
    build(root, {path: text for part in parts for path, text in part["files"]().items()})
    print(f"Machine written. Next: steadytok collect --root {root}")  # noqa: T201  as above
    return 0


if __name__ == "__main__":
    sys.exit(main())
