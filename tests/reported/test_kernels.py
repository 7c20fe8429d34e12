"""Public reports of kernels whose files look different, each with the value that is right."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType

import pytest

from agent.placement import numa_maps
from collectors import Host, Reading, cpufreq, edac, meminfo, node_meminfo, stat, thermal_throttle, topology

HOUSE = Path(__file__).parents[2]
PICTURES = Path(__file__).parent / "pictures"
CPU, NODE = "sys/devices/system/cpu", "sys/devices/system/node"
Machine = Callable[[Mapping[str, str]], Host]
Series = Callable[[Iterable[Reading]], dict[str, float]]

# read(2) as a kernel answers it that was started without psi=1
PSI_OFF = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
ssize_t read(int file, void *buffer, size_t size) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length > 0) {
    path[length] = 0;
    if (strstr(path, "/proc/pressure/")) { errno = EOPNOTSUPP; return -1; }
  }
  ssize_t (*next)(int, void *, size_t) = dlsym(RTLD_NEXT, "read");
  return next(file, buffer, size);
}
"""


def read_picture(name: str, *modules: ModuleType) -> tuple[list[Reading], list[str]]:
    """Returns the readings of a picture, and what was noted, without the notes of files that it lacks."""
    host = Host(PICTURES / name)
    readings = [reading for module in modules for reading in module.collect(host)]
    return readings, [note.reason for note in host.take_notes() if note.reason != "no such file"]


def run_steadytok(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agent", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=55, cwd=HOUSE, env={**os.environ, **environment}
    )


def make_stat(ticks: Mapping[int, list[int]], switches: int = 5) -> str:
    """Formats /proc/stat: for each CPU user, system and idle ticks."""
    rows = [f"cpu{cpu} {user} 0 {system} {idle} 0 0 0 0 0 0" for cpu, (user, system, idle) in ticks.items()]
    return "\n".join(
        [*rows, "intr 1", f"ctxt {switches}", "btime 1", "processes 9", "procs_running 1", "procs_blocked 0"]
    )


def test_cpulists_that_end_with_a_nul(machine: Machine, series: Series) -> None:
    """
    Linux 5.15-rc1 on a Kunpeng 920 ends cpulists with a NUL: cilium#17394, kernel commit c86a2d9058c5.

    All nodes have their CPUs and their times all the same.
    """
    nodes = {node: f"{32 * node}-{32 * node + 31}" for node in range(4)}
    host = machine(
        {f"{NODE}/node{node}/cpulist": f"{cpus}\n\0" for node, cpus in nodes.items()}
        | {f"{NODE}/has_cpu": "0-3\n\0", f"{CPU}/online": "0-127\n\0"}
        | {"proc/stat": make_stat({cpu: [100, 50, 1000] for cpu in range(128)})}
    )
    values = series(topology.collect(host)) | series(stat.collect(host))

    for node in nodes:
        assert values[f'steadytok_topology_node_cpus{{node="{node}"}}'] == 32
        assert values[f'steadytok_stat_cpus_online{{node="{node}"}}'] == 32
        assert values[f'steadytok_stat_cpu_seconds_total{{mode="user",node="{node}"}}'] == 32
    assert sum(name.startswith("steadytok_stat_cpu_seconds") for name in values) == 40


def test_isolated_cpus_that_are_null(series: Series) -> None:
    """`isolated` may hold blanks and "(null)", node_exporter#3152: a note at most, and all else is read."""
    readings, reasons = read_picture("isolated-null", cpufreq, topology)
    values = series(readings)

    assert values['steadytok_cpufreq_frequency_hertz{policy="0"}'] == 1.2e9
    assert not any("isolated" in name for name in values)
    assert reasons == ["expected a list such as 0-3,8, found '(null)'"]


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc makes the library that answers as the kernel does")
def test_pressure_that_is_switched_off_at_boot(tmp_path: Path) -> None:
    """
    RHEL 8 shows the files of /proc/pressure and answers a read with EOPNOTSUPP: node_exporter#1961, #1983.

    That is absent, with what to do, and no failure.
    """
    source, library = tmp_path / "psi_off.c", tmp_path / "psi_off.so"
    source.write_text(PSI_OFF)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True, timeout=55)
    for resource in ("cpu", "io", "memory"):
        path = tmp_path / "root/proc/pressure" / resource
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=5000000\n")
    switched_on = run_steadytok("collect", "--root", tmp_path / "root", "pressure")
    switched_off = run_steadytok("collect", "--root", tmp_path / "root", "pressure", LD_PRELOAD=str(library))
    check = run_steadytok("check", "--root", tmp_path / "root", LD_PRELOAD=str(library))

    assert 'waiting_seconds_total{resource="io"} 5' in switched_on.stdout
    assert (switched_off.stdout, switched_off.stderr, switched_off.returncode) == ("", "", 0)
    (line,) = (line for line in check.stdout.splitlines() if line.startswith("pressure "))
    assert line.split()[1] == "absent"
    assert "boot with psi=1" in line


def test_a_swap_that_overflows(series: Series) -> None:
    """lxcfs subtracts too much, lxc/lxcfs#115 and #695: SwapFree near 2^64 kB is left out, and the rest is read."""
    readings, reasons = read_picture("lxcfs-swapfree", meminfo)
    values = series(readings)

    assert not any("swap_free" in name for name in values)
    assert values["steadytok_meminfo_mem_free_bytes"] == 2**30
    assert values["steadytok_meminfo_swap_total_bytes"] == 0
    assert reasons == ["1 lines unlike `MemFree: 123 kB`"]


def test_blank_lines_and_lines_without_a_number(series: Series) -> None:
    """Kernels print blank lines and fields without a value, node_exporter#204, #1671 and #2751: the rest is read."""
    readings, reasons = read_picture("meminfo-blank-lines", meminfo, node_meminfo)
    values = series(readings)

    assert values["steadytok_meminfo_direct_map2m_bytes"] == 80119808 * 1024
    assert values['steadytok_node_meminfo_mem_free_bytes{node="0"}'] == 2048 * 1024
    assert not any("mem_used" in name for name in values)
    assert all(reason.endswith("lines unlike `MemFree: 123 kB`") for reason in reasons)


def test_errors_that_two_layouts_count(machine: Machine, series: Series) -> None:
    """amd64_edac shows csrow*/ beside rank*/ with the same errors, node_exporter#3722: each error counts once."""
    mc = "sys/devices/system/edac/mc/mc0"
    files = {f"{mc}/ce_count": "3", f"{mc}/ue_count": "0"}
    for rank, errors in ((0, 2), (1, 1)):
        files |= {f"{mc}/rank{rank}/dimm_ce_count": f"{errors}", f"{mc}/rank{rank}/dimm_ue_count": "0"}
        files |= {f"{mc}/rank{rank}/dimm_label": f"mc#0csrow#{rank}channel#0"}
        files |= {f"{mc}/csrow{rank}/ch0_ce_count": f"{errors}", f"{mc}/csrow{rank}/ce_count": f"{errors}"}
    values = series(edac.collect(machine(files)))

    assert sum(value for name, value in values.items() if "dimm_correctable" in name) == 3
    assert values['steadytok_edac_correctable_errors_total{controller="mc0"}'] == 3


def test_throttling_without_its_time(machine: Machine, series: Series) -> None:
    """Kernels before 5.5 count throttling and do not time it, collectd#2397: the counts are read, nothing is noted."""
    files = {f"{CPU}/online": "0-1"}
    for cpu in (0, 1):
        files |= {f"{CPU}/cpu{cpu}/topology/core_id": f"{cpu}", f"{CPU}/cpu{cpu}/topology/physical_package_id": "0"}
        files |= {
            f"{CPU}/cpu{cpu}/thermal_throttle/{kind}_throttle_count": f"{20 + cpu}" for kind in ("core", "package")
        }
    host = machine(files)
    values = series(thermal_throttle.collect(host))

    assert values == {
        'steadytok_thermal_throttle_core_events_total{core="0",package="0"}': 20,
        'steadytok_thermal_throttle_core_events_total{core="1",package="0"}': 21,
        'steadytok_thermal_throttle_package_events_total{package="0"}': 21,
    }
    assert host.take_notes() == []


def make_policies(folders: Mapping[int, str]) -> dict[str, str]:
    """Returns the files of policies of one CPU each, by its number; CPU 0 runs at 1000 MHz, each next 1 MHz faster."""
    files = {f"{CPU}/online": f"0-{max(folders)}"}
    for cpu, folder in folders.items():
        files |= {f"{folder}/related_cpus": f"{cpu}", f"{folder}/scaling_cur_freq": f"{1000 + cpu}000"}
        files |= {f"{folder}/scaling_driver": "cppc_cpufreq", f"{folder}/scaling_governor": "performance"}
        files |= {f"{folder}/{limit}": "3900000" for limit in ("scaling_max_freq", "cpuinfo_max_freq")}
    return files


def test_a_frequency_that_never_answers(machine: Machine) -> None:
    """
    On an NVIDIA GB10 one scaling_cur_freq never answers, node_exporter#3791: 19 policies are read and one is noted.

    A FIFO without a writer answers as that file does.
    """
    policies = {cpu: f"{CPU}/cpufreq/policy{cpu}" for cpu in range(20)}
    host = machine(make_policies(policies))
    stuck = f"{policies[7]}/scaling_cur_freq"
    os.unlink(host.path(stuck))
    os.mkfifo(host.path(stuck))
    done = run_steadytok("collect", "--root", host.root, "cpufreq")
    lines = [line for line in done.stdout.splitlines() if line.startswith("steadytok_cpufreq_frequency_hertz{")]

    assert set(lines) == {
        f'steadytok_cpufreq_frequency_hertz{{policy="{cpu}"}} {1000 + cpu}000000' for cpu in policies if cpu != 7
    }
    assert f"{stuck}: a read has not returned; the file is skipped meanwhile" in done.stderr
    assert done.returncode == 0


def test_frequencies_without_policy_folders(machine: Machine, series: Series) -> None:
    """Kernels before 4.3 have only cpuN/cpufreq, once for each CPU of a policy: each policy is read once."""
    files = make_policies({cpu: f"{CPU}/cpu{cpu}/cpufreq" for cpu in range(4)})
    files |= {f"{CPU}/cpu{cpu}/cpufreq/related_cpus": "0 1" for cpu in (0, 1)}
    values = series(cpufreq.collect(machine(files)))

    assert [name for name in values if "frequency_hertz" in name] == [
        f'steadytok_cpufreq_frequency_hertz{{policy="{policy}"}}' for policy in (0, 2, 3)
    ]


@pytest.fixture(name="busy")
def _busy(machine: Machine, series: Series) -> Callable[[list[int]], dict[str, float]]:
    """Reads a machine of two CPUs whose ticks, user, system and idle, are given for the first one."""

    def read(first: list[int]) -> dict[str, float]:
        host = machine({"proc/stat": make_stat({0: first, 1: [500, 500, 500]}), f"{CPU}/online": "0-1"})
        prefix = 'steadytok_stat_cpu_seconds_total{mode="'
        values = series(stat.collect(host))
        return {name.removeprefix(prefix).split('"')[0]: value for name, value in values.items() if prefix in name}

    return read


def test_idle_that_goes_back_a_tick(busy: Callable[[list[int]], dict[str, float]]) -> None:
    """Idle may fall by some ticks, node_exporter#1903: the counter stands still for them, and never falls."""
    times = [busy([1000, 100, idle])["idle"] for idle in (50_000, 49_999, 50_000, 50_100)]

    assert times == [505.0, 505.0, 505.0, 506.0]


def test_times_that_fall_after_a_migration(busy: Callable[[list[int]], dict[str, float]]) -> None:
    """After a live migration under Xen all times are lower, telegraf#2871: rates go on with the next reading."""
    passes = [busy(ticks) for ticks in ([900_000, 90_000, 5_000_000], [1000, 100, 2000], [1100, 150, 2850])]

    assert passes[1] == passes[0]
    assert {mode: passes[2][mode] - passes[1][mode] for mode in ("user", "system", "idle")} == pytest.approx(
        {"user": 1.0, "system": 0.5, "idle": 8.5}
    )


def test_throttle_counts_that_fall(machine: Machine, series: Series) -> None:
    """The counts begin anew after a migration, telegraf#2871: the counter goes on from its last value."""
    core = f"{CPU}/cpu0"

    def read(count: int) -> float:
        files = {f"{core}/topology/core_id": "0", f"{core}/topology/physical_package_id": "0", f"{CPU}/online": "0"}
        files |= {f"{core}/thermal_throttle/{kind}_throttle_count": f"{count}" for kind in ("core", "package")}
        return series(thermal_throttle.collect(machine(files)))[
            'steadytok_thermal_throttle_package_events_total{package="0"}'
        ]

    assert [read(count) for count in (7000, 3, 5, 6)] == [7000, 7000, 7002, 7003]


def test_policies_of_several_words() -> None:
    """The kernel writes "weighted interleave" and "prefer (many)" with blanks; pages have their size: numactl#147."""
    maps = numa_maps.parse((PICTURES / "numa-maps-policies/numa_maps").read_text())

    assert maps.policies == {
        "weighted interleave:0-1": 1000 * 4096,
        "prefer (many):0-1": 100 * 4096,
        "bind=static:1": 10 * 4096,
        "prefer (many)=relative:0-1": 5 * 65536,
        "default": 10 * (2 << 20) + 3 * 4096,
    }
    assert maps.sizes["hugetlb", "1"] == 6 * (2 << 20)
