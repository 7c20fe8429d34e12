"""The limits on the memory of a process."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.memory.limits import check_fits, read_memory_limits
from engine.memory.numa_nodes import MemoryLimit

MIB = 1 << 20
GB = 10**9
Write = Callable[[str, str], None]


@pytest.fixture(name="write")
def _write(tmp_path: Path) -> Write:
    """Builds a machine with two nodes and 8000 MiB available, without other limits; returns the writer of its files."""

    def write(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    write("proc/meminfo", f"MemAvailable: {8000 * 1024} kB\n")
    for node, cpus, free in ((0, "0-1", 6000), (1, "2-3", 2500)):
        folder = f"sys/devices/system/node/node{node}"
        write(f"{folder}/cpulist", f"{cpus}\n")
        fields = {"MemTotal": 9000, "MemFree": free}
        write(f"{folder}/meminfo", "".join(f"Node {node} {k}:  {v * 1024} kB\n" for k, v in fields.items()))
    return write


def list_limits(root: Path, *bound: int, option: str = "") -> list[tuple[str, float]]:
    """Returns the names and MiB of the limits, smallest first."""
    return [(limit.name, (limit.available or 0) / MIB) for limit in read_memory_limits(bound, option, str(root))]


def test_the_host_alone(tmp_path: Path, write: Write) -> None:
    """Without other limits only the kernel's estimate for the host counts; a binding to every node is no limit."""
    assert list_limits(tmp_path) == list_limits(tmp_path, 0, 1, option="interleave") == [("this host", 8000)]


def test_a_bound_node_has_only_its_own(tmp_path: Path, write: Write) -> None:
    """bind:1 can use only the memory of node 1, whatever the host has: the incident of a worker that died with -9."""
    assert list_limits(tmp_path, 1, option="bind:1") == [("node 1 (--numa bind:1)", 2500), ("this host", 8000)]


def test_a_cpuset_binds_too(tmp_path: Path, write: Write) -> None:
    """cpuset.mems limits the nodes: Mems_allowed_list has them."""
    write("proc/self/status", "Name:\tpython\nMems_allowed:\t1\nMems_allowed_list:\t0\n")

    assert list_limits(tmp_path) == [("node 0 (cpuset.mems)", 6000), ("this host", 8000)]


@pytest.mark.parametrize(
    ("self_cgroup", "folder", "names", "expected"),
    [
        (
            "0::/kube/pod\n",
            "sys/fs/cgroup/kube",
            ("memory.max", "memory.current", "inactive_file"),
            "the cgroup /kube (memory.max 1000.0 MiB)",
        ),
        (
            "5:cpu:/x\n4:memory,hugetlb:/kube/pod\n0::/\n",
            "sys/fs/cgroup/memory/kube",
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
            "the cgroup /kube (memory.limit_in_bytes 1000.0 MiB)",
        ),
        (
            "0::/\n",
            "sys/fs/cgroup",
            ("memory.max", "memory.current", "inactive_file"),
            "the cgroup / (memory.max 1000.0 MiB)",
        ),
    ],
)
def test_a_cgroup_limits(
    tmp_path: Path, write: Write, self_cgroup: str, folder: str, names: tuple[str, str, str], expected: str
) -> None:
    """Cgroups limit in version 2, version 1 and a container that is its own root; an ancestor counts, too."""
    limit, usage, cache = names
    write("proc/self/cgroup", self_cgroup)
    write(f"{folder}/{limit}", f"{1000 * MIB}\n")
    write(f"{folder}/{usage}", f"{700 * MIB}\n")
    write(f"{folder}/memory.stat", f"anon 1\n{cache} {100 * MIB}\n")

    assert list_limits(tmp_path) == [(expected, 400), ("this host", 8000)]


@pytest.mark.parametrize("limit", ["max", "9223372036854771712", "", "a word", "-1"])
def test_no_limit_is_no_limit(tmp_path: Path, write: Write, limit: str) -> None:
    """`max`, the largest number of version 1, and text that is not a number are no limit."""
    write("proc/self/cgroup", "4:memory:/x\n0::/x\n")
    for folder, name, usage in (
        ("sys/fs/cgroup/x", "memory.max", "memory.current"),
        ("sys/fs/cgroup/memory/x", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        write(f"{folder}/{name}", f"{limit}\n")
        write(f"{folder}/{usage}", "0\n")

    assert list_limits(tmp_path) == [("this host", 8000)]


def test_a_machine_that_tells_nothing_limits_nothing(tmp_path: Path) -> None:
    """Without /proc and /sys no limit is known, and everything fits."""
    assert read_memory_limits(root=str(tmp_path)) == []

    check_fits(1 << 60, [])


def test_what_fits_is_let_in() -> None:
    """Exactly the available memory fits, and one byte more does not."""
    limits = [MemoryLimit("this host", 1000 * MIB)]
    check_fits(1000 * MIB, limits)

    with pytest.raises(ValueError, match=re.escape("1000.0 MiB are needed, more than the 1000.0 MiB that this host")):
        check_fits(1000 * MIB + 1, limits)


def test_the_smallest_counts_and_is_named() -> None:
    """The error names the smallest of several limits."""
    limits = [MemoryLimit("this host", 800 * MIB), MemoryLimit("node 1 (--numa bind:1)", 200 * MIB)]

    with pytest.raises(ValueError, match=re.escape("200.0 MiB that node 1 (--numa bind:1) has available")):
        check_fits(900 * MIB, limits)


def test_a_copy_for_each_node_is_multiplied() -> None:
    """713 GB of weights on two nodes are 1426 GB: a host with 1 TB refuses before the load."""
    host = [MemoryLimit("this host", 1_099_511_627_776)]
    check_fits(713 * GB, host)

    with pytest.raises(
        ValueError, match=r"2 x 679969\.8 MiB = 1359939\.6 MiB are needed, more than the 1048576\.0 MiB"
    ):
        check_fits(713 * GB, host, times=2)
