"""
The NUMA nodes that the engine may run on, and the memory available there.

Reads /sys/devices/system/node/node*/{cpulist,meminfo}. A node can be short of memory while the host has plenty, and
a canary whose threads move between nodes measures the interconnect.
https://www.kernel.org/doc/Documentation/ABI/stable/sysfs-devices-node
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Set
from pathlib import Path
from typing import NamedTuple

from engine.memory.sizing import read_ascii, read_available_memory

_FIELD = re.compile(r"^Node \d+ ([A-Za-z()]+): +(\d{1,16}) kB$", re.ASCII | re.MULTILINE)
_NUMBER_RANGE = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?", re.ASCII)


class NumaNode(NamedTuple):
    """A node, the CPUs of it that the process may use, and its available bytes of memory."""

    number: int
    cpus: frozenset[int]
    available: int


class MemoryLimit(NamedTuple):
    """A limit on the memory of the process: its name for people, and the available bytes, None if unknown."""

    name: str
    available: int | None


def list_nodes(allowed: Set[int], root: str = "/") -> list[NumaNode]:
    """Returns the nodes with memory and some of these CPUs, in order; empty if /sys does not list any."""
    candidates = (_read_node(path, allowed) for path in Path(root).glob("sys/devices/system/node/node*"))
    return sorted(node for node in candidates if node is not None)


def list_memory_nodes(root: str = "/") -> list[NumaNode]:
    """Returns the nodes with memory, in order, also those without CPUs."""
    candidates = (_read_node(path, None) for path in Path(root).glob("sys/devices/system/node/node*"))
    return sorted(node for node in candidates if node is not None)


def format_nodes(nodes: Iterable[NumaNode]) -> str:
    """Formats nodes for people: `node 1`, `nodes 0 and 1`."""
    numbers = [str(node.number) for node in nodes]
    return f"node {numbers[0]}" if len(numbers) == 1 else f"nodes {', '.join(numbers[:-1])} and {numbers[-1]}"


def find_tightest_limit(nodes: Iterable[NumaNode], root: str = "/") -> MemoryLimit:
    """Returns the limit of the node with least memory available; of the host if no node is known."""
    host_available = read_available_memory(root)
    shortest = min(nodes, key=lambda node: node.available, default=None)
    if shortest is None:
        return MemoryLimit("this host", host_available)
    # The kernel's estimate for the host also subtracts its reserves.
    return MemoryLimit(
        f"node {shortest.number}",
        shortest.available if host_available is None else min(shortest.available, host_available),
    )


def pin_to_best_node(nodes: list[NumaNode]) -> NumaNode | None:
    """Pins this process to the node with most memory available; returns None if there is no choice. Raises OSError."""
    if len(nodes) < 2:
        return None
    best = max(nodes, key=lambda node: node.available)
    os.sched_setaffinity(0, best.cpus)
    return best


def _read_node(path: Path, allowed: Set[int] | None) -> NumaNode | None:
    number = re.fullmatch(r"node(\d{1,6})", path.name, re.ASCII)
    node_cpus = frozenset(parse_kernel_list(read_ascii(path / "cpulist") or ""))
    cpus = node_cpus if allowed is None else node_cpus & allowed
    fields = {name: int(kib) * 1024 for name, kib in _FIELD.findall(read_ascii(path / "meminfo") or "")}
    if number is None or not (cpus or allowed is None) or not fields.get("MemTotal") or "MemFree" not in fields:
        return None
    # Mapped files are the weights of other engines: a canary must never evict them.
    cache = fields.get("Active(file)", 0) + fields.get("Inactive(file)", 0) - fields.get("Mapped", 0)
    return NumaNode(int(number[1]), cpus, fields["MemFree"] + max(0, cache))


def parse_kernel_list(text: str) -> Iterator[int]:
    """Yields the numbers of a kernel list such as `0-3,8`; skips anything else."""
    for part in text.strip().split(","):
        if (match := _NUMBER_RANGE.fullmatch(part)) is not None:
            yield from range(int(match[1]), int(match[2] or match[1]) + 1)
