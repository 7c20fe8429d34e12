"""
A large host as a folder: the /proc and /sys files that the agent and node_exporter read, with moving values.

CPUs, cores and packages have the numbers of a two-package Intel host with sub-NUMA clustering: the second threads
follow all first threads. `build_static_files` never change; `build_changing_files` are a function of the second.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench._fields import MEMINFO, NODE_MEMINFO, VMSTAT

Files = dict[str, str]
"""Text by path below the root; `-> TARGET` makes a symbolic link."""

_CPU = "sys/devices/system/cpu"
_NODE = "sys/devices/system/node"
_HWMON = "sys/devices/platform"
_THREADS, _PACKAGES = 2, 2
_INTERRUPTS = 4096  # lines in /proc/interrupts of such a host: one per queue of a device
_NODE_KIB = 256 << 20
# The gain of each counter of a node per second, on a host with local memory.
_NUMASTAT = {
    "numa_hit": 4001,
    "numa_miss": 0,
    "numa_foreign": 0,
    "interleave_hit": 0,
    "local_node": 4000,
    "other_node": 1,
}
_CONSTANT_COUNTERS = ("oom_kill", "drop_pagecache", "pgmigrate_fail", "workingset_refault_file", "pswpin", "pswpout")
_SYSCTLS = {
    "kernel/osrelease": "6.8.0-45-generic",
    "kernel/numa_balancing": 0,
    "vm/compaction_proactiveness": 20,
    "vm/max_map_count": 1048576,
    "vm/min_free_kbytes": 4194304,
    "vm/numa_stat": 1,
    "vm/overcommit_memory": 0,
    "vm/overcommit_ratio": 50,
    "vm/swappiness": 10,
    "vm/vfs_cache_pressure": 100,
    "vm/watermark_boost_factor": 15000,
    "vm/watermark_scale_factor": 10,
    "vm/zone_reclaim_mode": 0,
}


@dataclass(frozen=True, slots=True)
class HostShape:
    """The size of the host."""

    cpus: int = 256
    nodes: int = 8
    dimms: int = 32

    @property
    def cores(self) -> int:
        """Physical cores of the host."""
        return self.cpus // _THREADS

    def find_package(self, cpu: int) -> int:
        """Returns the package of a CPU."""
        return cpu % self.cores * _PACKAGES // self.cores

    def find_core(self, cpu: int) -> int:
        """Returns the number of a CPU's core within its package."""
        return cpu % self.cores % (self.cores // _PACKAGES)

    def format_cpulist(self, node: int) -> str:
        """Formats the CPUs of a node as a kernel list."""
        size = self.cores // self.nodes
        firsts = [node * size + thread * self.cores for thread in range(_THREADS)]
        return ",".join(f"{first}-{first + size - 1}" for first in firsts)

    def list_slots(self) -> list[tuple[int, int]]:
        """Returns memory controller and slot of each DIMM."""
        return [(dimm * self.nodes // self.dimms, dimm % (self.dimms // self.nodes)) for dimm in range(self.dimms)]

    def list_devices(self) -> list[str]:
        """Returns the I2C device of each DIMM sensor, eight per bus."""
        return [f"{3 + dimm // 8}-{0x50 + dimm % 8:04x}" for dimm in range(self.dimms)]


def build_tree(root: Path, shape: HostShape) -> None:
    """Writes the host of second 0."""
    for path, text in {**build_static_files(shape), **build_changing_files(shape, 0)}.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if text.startswith("-> "):
            target.symlink_to(text.removeprefix("-> "))
        else:
            target.write_text(text)


def advance_tree(root: Path, shape: HostShape, second: int) -> None:
    """Replaces the changing files by those of a later second, each atomically."""
    with tempfile.TemporaryDirectory(dir=root.parent) as scratch:  # on the same file system, and outside the tree
        for path, text in build_changing_files(shape, second).items():
            new_path = os.path.join(scratch, "whole")
            Path(new_path).write_text(text)
            os.replace(new_path, root / path)


def build_changing_files(shape: HostShape, second: int) -> Files:
    """Returns the files that change, with their content in this second."""
    return {
        **_build_memory_files(shape, second),
        **_build_load_files(shape, second),
        **_build_sensor_files(shape, second),
    }


def build_static_files(shape: HostShape) -> Files:
    """Returns the files that do not change."""
    files: Files = {f"proc/sys/{path}": f"{value}\n" for path, value in _SYSCTLS.items()}
    for part in (
        _build_system_files(shape),
        _build_cpu_files(shape),
        _build_node_files(shape),
        _build_hwmon_files(shape),
        _build_edac_files(shape),
        _build_powercap_files(),
    ):
        files |= part
    return files


def _to_lines(values: Mapping[str, object]) -> str:
    return "".join(f"{key} {value}\n" for key, value in values.items())


def _build_memory_files(shape: HostShape, second: int) -> Files:
    files = {"proc/meminfo": _render_meminfo("", MEMINFO, _NODE_KIB * shape.nodes, second)}
    counters = {
        key: 1000 * index + (0 if key in _CONSTANT_COUNTERS else 37) * second for index, key in enumerate(VMSTAT)
    }
    files["proc/vmstat"] = _to_lines(counters)
    for node in range(shape.nodes):
        folder = f"{_NODE}/node{node}"
        files[f"{folder}/meminfo"] = _render_meminfo(f"Node {node} ", NODE_MEMINFO, _NODE_KIB, second + node)
        counts = {key: 10**8 * (gain + 1) + gain * second for key, gain in _NUMASTAT.items()}
        files[f"{folder}/numastat"] = _to_lines(counts)
    return files


def _render_meminfo(prefix: str, fields: tuple[str, ...], total: int, second: int) -> str:
    # Every other field is constant, as on a real host.
    shares = {field: total // (index + 2) + index % 2 * 4 * second for index, field in enumerate(fields)}
    shares["MemTotal"] = total
    sizes = "".join(f"{prefix}{field + ':':<16}{value:>12} kB\n" for field, value in shares.items())
    states = ("Total", "Free", "Rsvd", "Surp") if not prefix else ("Total", "Free", "Surp")
    huge_pages = "".join(f"{prefix}{f'HugePages_{state}:':<16}{0:>12}\n" for state in states)
    return sizes + huge_pages + ("" if prefix else "Hugepagesize:       2048 kB\n")


def _build_load_files(shape: HostShape, second: int) -> Files:
    files = {"proc/stat": _render_stat(shape, second)}
    for index, resource in enumerate(("cpu", "io", "memory", "irq")):
        total = 10**9 * (index + 1) + 1234 * second
        kinds = ("full",) if resource == "irq" else ("some", "full")
        files[f"proc/pressure/{resource}"] = "".join(
            f"{kind} avg10=0.0{second % 10} avg60=0.31 avg300=0.10 total={total}\n" for kind in kinds
        )
    return files


def _render_stat(shape: HostShape, second: int) -> str:
    rows = [
        (2_000_000 + cpu + 80 * second, 10, 70_000 + 5 * second, 5_000_000 + 15 * second) for cpu in range(shape.cpus)
    ]
    cpus = "".join(f"cpu{cpu} {' '.join(map(str, row))} 300 0 {900 + second} 0 0 0\n" for cpu, row in enumerate(rows))
    total = " ".join(str(sum(column)) for column in zip(*rows, strict=True))
    interrupts = " ".join(str(number % 7 * second) for number in range(_INTERRUPTS))
    scheduler = {"ctxt": 5 * 10**9 + 90_000 * second, "btime": 1_761_955_200, "processes": 800_000 + 3 * second}
    running = {"procs_running": 128 + second % 5, "procs_blocked": second % 2}
    softirq = "softirq 5000 1000 1000 500 500 500 0 500 500 0 500\n"
    return f"cpu  {total} 300 0 900 0 0 0\n{cpus}intr 987654 {interrupts}\n{_to_lines(scheduler | running)}{softirq}"


def _build_sensor_files(shape: HostShape, second: int) -> Files:
    files = {
        f"{_CPU}/cpufreq/policy{cpu}/scaling_cur_freq": f"{3_000_000 + (cpu * 977 + second * 4001) % 800_000}\n"
        for cpu in range(shape.cpus)
    }
    for dimm, device in enumerate(shape.list_devices()):
        files[f"{_get_spd_path(device)}/hwmon/hwmon{dimm + _PACKAGES}/temp1_input"] = (
            f"{60_000 + (dimm * 7 + second) % 80 * 250}\n"
        )
    for package in range(_PACKAGES):
        for sensor in range(_count_core_sensors(shape) + 1):
            path = f"{_HWMON}/coretemp.{package}/hwmon/hwmon{package}/temp{sensor + 1}_input"
            files[path] = f"{55_000 + (sensor + second) % 30 * 1000}\n"
        for zone, name in _list_zones(package):
            files[f"sys/devices/virtual/powercap/intel-rapl/{zone}/energy_uj"] = (
                f"{10**9 * (package + 1 + len(name)) + 250_000_000 * second % 10**11}\n"
            )
    return files


def _count_core_sensors(shape: HostShape) -> int:
    return shape.cores // _PACKAGES


def _list_zones(package: int) -> tuple[tuple[str, str], ...]:
    parent = f"intel-rapl:{package}"
    return ((parent, f"package-{package}"), (f"{parent}/{parent}:0", "dram"))


def _get_spd_path(device: str) -> str:
    return f"sys/devices/pci0000:00/0000:00:1f.4/i2c-{device[0]}/{device}"


def _build_system_files(shape: HostShape) -> Files:
    return {
        f"{_CPU}/online": f"0-{shape.cpus - 1}\n",
        f"{_CPU}/possible": f"0-{shape.cpus - 1}\n",
        f"{_CPU}/present": f"0-{shape.cpus - 1}\n",
        f"{_CPU}/isolated": "\n",
        f"{_NODE}/online": f"0-{shape.nodes - 1}\n",
        f"{_NODE}/has_cpu": f"0-{shape.nodes - 1}\n",
        "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
        "sys/kernel/mm/transparent_hugepage/defrag": "always defer defer+madvise [madvise] never\n",
        "proc/zoneinfo": "".join(_render_zone(shape, node) for node in range(shape.nodes)),
    }


def _render_zone(shape: HostShape, node: int) -> str:
    pages = _NODE_KIB // 4
    per_cpu = "".join(
        f"    cpu: {cpu}\n              count: 63\n              high:  3564\n              batch: 63\n"
        f"              high_min: 3564\n              high_max: 31052\n  vm stats threshold: 125\n"
        for cpu in range(shape.cpus)
    )
    return (
        f"Node {node}, zone   Normal\n  pages free     {pages // 8}\n        boost    0\n        min      16384\n"
        f"        low      81920\n        high     147456\n        spanned  {pages}\n        present  {pages}\n"
        f"        managed  {pages}\n        cma      0\n  pagesets\n{per_cpu}  node_unreclaimable:  0\n"
    )


def _build_cpu_files(shape: HostShape) -> Files:
    files: Files = {}
    for cpu in range(shape.cpus):
        files |= {f"{_CPU}/cpu{cpu}/{path}": f"{value}\n" for path, value in _list_cpu_values(shape, cpu).items()}
        files[f"{_CPU}/cpu{cpu}/cpufreq"] = f"-> ../cpufreq/policy{cpu}"
        files |= {
            f"{_CPU}/cpufreq/policy{cpu}/{file}": f"{value}\n" for file, value in _list_policy_values(cpu).items()
        }
    return files


def _list_cpu_values(shape: HostShape, cpu: int) -> dict[str, object]:
    core = cpu % shape.cores
    times = {
        f"thermal_throttle/{scope}_throttle_{file}": value
        for scope in ("core", "package")
        for file, value in (("count", 10 + cpu), ("total_time_ms", 2500 + cpu), ("max_time_ms", 250))
    }
    return {
        "topology/physical_package_id": shape.find_package(cpu),
        "topology/core_id": shape.find_core(cpu),
        "topology/die_id": 0,
        "topology/thread_siblings_list": f"{core},{core + shape.cores}",
        "topology/core_siblings_list": f"0-{shape.cpus - 1}",
        **times,
    }


def _list_policy_values(cpu: int) -> dict[str, object]:
    return {
        "affected_cpus": cpu,
        "related_cpus": cpu,
        "cpuinfo_max_freq": 3_800_000,
        "cpuinfo_min_freq": 800_000,
        "cpuinfo_transition_latency": 0,
        "scaling_available_governors": "performance powersave",
        "scaling_driver": "intel_pstate",
        "scaling_governor": "performance",
        "scaling_max_freq": 3_800_000,
        "scaling_min_freq": 800_000,
        "scaling_setspeed": "<unsupported>",
        "energy_performance_preference": "performance",
    }


def _build_node_files(shape: HostShape) -> Files:
    files: Files = {}
    for node in range(shape.nodes):
        folder = f"{_NODE}/node{node}"
        files[f"{folder}/cpulist"] = f"{shape.format_cpulist(node)}\n"
        files[f"{folder}/distance"] = " ".join("10" if node == other else "21" for other in range(shape.nodes)) + "\n"
        for size in (2048, 1048576):
            for name in ("nr", "free", "surplus"):
                files[f"{folder}/hugepages/hugepages-{size}kB/{name}_hugepages"] = "0\n"
    return files


def _build_hwmon_files(shape: HostShape) -> Files:
    tree_files: Files = {}
    for package in range(_PACKAGES):
        sensors = {1: f"Package id {package}"} | {
            core + 2: f"Core {core}" for core in range(_count_core_sensors(shape))
        }
        chip_files = {"name": "coretemp"}
        for number, label in sensors.items():
            chip_files |= {f"temp{number}_label": label, f"temp{number}_max": "95000", f"temp{number}_crit": "105000"}
            chip_files[f"temp{number}_crit_alarm"] = "0"
        tree_files |= _build_chip_files(f"{_HWMON}/coretemp.{package}", package, chip_files)
    limits = {"max": 55_000, "min": 0, "crit": 85_000, "lcrit": 0}
    alarms = {f"{limit}_alarm": 0 for limit in limits}
    spd = {"name": "spd5118"} | {f"temp1_{file}": str(value) for file, value in (limits | alarms).items()}
    for dimm, device in enumerate(shape.list_devices()):
        tree_files |= _build_chip_files(_get_spd_path(device), dimm + _PACKAGES, spd)
    return tree_files


def _build_chip_files(device: str, number: int, files: Mapping[str, str]) -> Files:
    folder = f"{device}/hwmon/hwmon{number}"
    tree_files = {f"{folder}/{file}": f"{text}\n" for file, text in files.items()}
    tree_files[f"{folder}/device"] = f"-> ../../../{device.split('/')[-1]}"
    tree_files[f"sys/class/hwmon/hwmon{number}"] = f"-> ../../../{folder}"
    return tree_files


def _build_edac_files(shape: HostShape) -> Files:
    folder = "sys/devices/system/edac/mc"
    files = ("ce_count", "ue_count", "ce_noinfo_count", "ue_noinfo_count")
    tree_files = {f"{folder}/mc{node}/{file}": "0\n" for node in range(shape.nodes) for file in files}
    for controller, slot in shape.list_slots():
        dimm = f"{folder}/mc{controller}/dimm{slot}"
        label = f"CPU_SrcID#{controller * _PACKAGES // shape.nodes}_MC#{controller}_Chan#{slot}_DIMM#0"
        tree_files |= {
            f"{dimm}/dimm_label": f"{label}\n",
            f"{dimm}/dimm_ce_count": "0\n",
            f"{dimm}/dimm_ue_count": "0\n",
        }
    return tree_files


def _build_powercap_files() -> Files:
    files: Files = {}
    for package in range(_PACKAGES):
        for zone, name in _list_zones(package):
            folder = f"sys/devices/virtual/powercap/intel-rapl/{zone}"
            files[f"{folder}/name"] = f"{name}\n"
            files[f"{folder}/max_energy_range_uj"] = "262143328850\n"
            files[f"sys/class/powercap/{zone.split('/')[-1]}"] = f"-> ../../../{folder}"
    return files
