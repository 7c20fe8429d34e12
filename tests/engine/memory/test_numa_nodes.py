"""The NUMA nodes of the engine, and the memory available there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.memory.numa_nodes import MemoryLimit, NumaNode, find_tightest_limit, list_nodes

ROOT = Path(__file__).parents[3]
MIB = 1 << 20
NODE = """\
Node {node} MemTotal:        {total} kB
Node {node} MemFree:         {free} kB
Node {node} Active(file):    {active} kB
Node {node} Inactive(file):  {inactive} kB
Node {node} Mapped:          {mapped} kB
Node {node} HugePages_Total:     0
"""
Build = Callable[..., None]


@pytest.fixture(name="build")
def _build(tmp_path: Path) -> Build:
    """Returns a function that writes a node with sizes in MiB; sizes default to 0."""

    def build(node: int, cpus: str, **mebibytes: int) -> None:
        fields = dict.fromkeys(("total", "free", "active", "inactive", "mapped"), 0) | mebibytes
        folder = tmp_path / f"sys/devices/system/node/node{node}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(f"{cpus}\n")
        (folder / "meminfo").write_text(NODE.format(node=node, **{name: 1024 * n for name, n in fields.items()}))

    return build


@pytest.fixture(name="host_available")
def _host_available(tmp_path: Path) -> Callable[[int], None]:
    def write(mebibytes: int) -> None:
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc/meminfo").write_text(f"MemAvailable:   {mebibytes * 1024} kB\n")

    return write


def test_free_memory_and_unmapped_cache_can_be_had(tmp_path: Path, build: Build) -> None:
    """Mapped page cache is the weights of other engines, and does not count as available."""
    build(0, "0-1,4", total=9000, free=100, active=200, inactive=300, mapped=150)
    build(1, "2-3", total=9000, free=70, active=10, inactive=20, mapped=500)

    assert list_nodes({0, 1, 2, 3, 4}, str(tmp_path)) == [
        NumaNode(0, frozenset({0, 1, 4}), 450 * MIB),
        NumaNode(1, frozenset({2, 3}), 70 * MIB),
    ]


def test_nodes_that_cannot_be_run_on_are_left_out(tmp_path: Path, build: Build) -> None:
    """Skips nodes without CPUs (CXL), without allowed CPUs, without memory, or with unreadable files."""
    build(0, "0-3", total=9000, free=100)
    build(1, "4-7", total=9000, free=10)
    build(2, "", total=9000, free=10)
    build(3, "8", total=0)
    build(10, "9", total=9000, free=10)
    (tmp_path / "sys/devices/system/node/node10/meminfo").write_bytes(b"\xff\xfe")

    assert list_nodes({2, 3, 8, 9}, str(tmp_path)) == [NumaNode(0, frozenset({2, 3}), 100 * MIB)]
    assert list_nodes({2}, str(tmp_path / "nowhere")) == []


def test_the_shortest_node_counts(tmp_path: Path, build: Build, host_available: Callable[[int], None]) -> None:
    """Of several nodes the one with least memory counts, and no node has more than the host."""
    build(0, "0", total=9000, free=700)
    build(1, "1", total=9000, free=200)
    host_available(800)

    assert find_tightest_limit(list_nodes({0, 1}, str(tmp_path)), str(tmp_path)) == MemoryLimit("node 1", 200 * MIB)
    assert find_tightest_limit([NumaNode(0, frozenset({0}), 900 * MIB)], str(tmp_path)) == MemoryLimit(
        "node 0", 800 * MIB
    )


def test_without_nodes_the_host_counts(tmp_path: Path, host_available: Callable[[int], None]) -> None:
    """A kernel without NUMA has no nodes in /sys; without MemAvailable, too, the limit is unknown."""
    assert find_tightest_limit([], str(tmp_path)) == MemoryLimit("this host", None)

    host_available(800)

    assert find_tightest_limit([], str(tmp_path)) == MemoryLimit("this host", 800 * MIB)


PINNED = """
import json, os, sys
from engine.memory.binding import pin_process
from engine.memory.numa_nodes import list_nodes
found = list_nodes(os.sched_getaffinity(0), sys.argv[1])
left = pin_process(found, sys.argv[2] == "leave", lambda words: print(words, file=sys.stderr))
print(json.dumps([[node.number for node in left], sorted(os.sched_getaffinity(0))]))
"""


def pin_in_process(root: Path, word: str) -> tuple[list[int], list[int], str]:
    """Returns the nodes and the CPUs of a process after pin_process, and its messages."""
    completed = subprocess.run(
        [sys.executable, "-c", PINNED, str(root), word],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
    )
    nodes, cpus = json.loads(completed.stdout)
    return nodes, cpus, completed.stderr


def test_it_keeps_to_the_node_with_most_memory(tmp_path: Path, build: Build) -> None:
    """The process pins itself to the allowed CPUs of that node and logs it, unless no_pin is set."""
    allowed_cpus = sorted(os.sched_getaffinity(0))
    if len(allowed_cpus) < 2:
        pytest.skip("this process may run on one CPU only")
    build(0, str(allowed_cpus[0]), total=9000, free=200)
    build(1, ",".join(map(str, [*allowed_cpus[1:], 99_999])), total=9000, free=300)
    nodes, cpus, messages = pin_in_process(tmp_path, "pin")

    assert (nodes, cpus) == ([1], allowed_cpus[1:])
    assert (
        f"pinned to node 1, {len(allowed_cpus) - 1} CPUs, the node with most memory available (300.0 MiB)" in messages
    )
    assert pin_in_process(tmp_path, "leave") == ([0, 1], allowed_cpus, "")


def test_one_node_needs_no_choice(tmp_path: Path, build: Build) -> None:
    """On a host with one node nothing is pinned or logged."""
    allowed_cpus = sorted(os.sched_getaffinity(0))
    build(0, "0-9999", total=9000, free=200)

    assert pin_in_process(tmp_path, "pin") == ([0], allowed_cpus, "")
