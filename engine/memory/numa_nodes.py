"""
On which NUMA node the engine runs, and what memory it may count on there.

Reads /sys/devices/system/node/node*/{cpulist,meminfo}. A node can be short of memory while the host has plenty, and a
canary whose threads wander between nodes measures the interconnect.
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


class Node(NamedTuple):
    """A node with CPUs that the process may run on, and the bytes of memory that can be had there."""

    number: int
    cpus: frozenset[int]
    available: int


class MemoryLimit(NamedTuple):
    """What of the machine the process has: where, in words, and the bytes of memory that can be had there, or None."""

    name: str
    available: int | None


def list_nodes(allowed: Set[int], root: str = "/") -> list[Node]:
    """The nodes that have memory and some of these CPUs, in order; none where /sys tells nothing."""
    candidates = (_read_node(path, allowed) for path in Path(root).glob("sys/devices/system/node/node*"))
    return sorted(node for node in candidates if node is not None)


def list_memory_nodes(root: str = "/") -> list[Node]:
    """The nodes that have memory, with their CPUs if any, in order."""
    candidates = (_read_node(path, None) for path in Path(root).glob("sys/devices/system/node/node*"))
    return sorted(node for node in candidates if node is not None)


def format_nodes(nodes: Iterable[Node]) -> str:
    """For people: `node 1`, `nodes 0 and 1`."""
    numbers = [str(node.number) for node in nodes]
    return f"node {numbers[0]}" if len(numbers) == 1 else f"nodes {', '.join(numbers[:-1])} and {numbers[-1]}"


def find_tightest_limit(nodes: Iterable[Node], root: str = "/") -> MemoryLimit:
    """The node that is shortest of memory, of those the process may run on; the host where no node is known."""
    host_available = read_available_memory(root)
    shortest = min(nodes, key=lambda node: node.available, default=None)
    if shortest is None:
        return MemoryLimit("this host", host_available)
    # The kernel's own estimate for the host also counts what it keeps in reserve.
    return MemoryLimit(
        f"node {shortest.number}",
        shortest.available if host_available is None else min(shortest.available, host_available),
    )


def pin_to_best_node(nodes: list[Node]) -> Node | None:
    """Restricts this process to the node with most available memory; None where there is no choice. Raises OSError."""
    if len(nodes) < 2:
        return None
    best = max(nodes, key=lambda node: node.available)
    os.sched_setaffinity(0, best.cpus)
    return best


def _read_node(path: Path, allowed: Set[int] | None) -> Node | None:
    number = re.fullmatch(r"node(\d{1,6})", path.name, re.ASCII)
    node_cpus = frozenset(parse_kernel_list(read_ascii(path / "cpulist") or ""))
    cpus = node_cpus if allowed is None else node_cpus & allowed
    fields = {name: int(kib) * 1024 for name, kib in _FIELD.findall(read_ascii(path / "meminfo") or "")}
    if number is None or not (cpus or allowed is None) or not fields.get("MemTotal") or "MemFree" not in fields:
        return None
    # Mapped files are the weights of other engines: to take them is what a canary must never do.
    cache = fields.get("Active(file)", 0) + fields.get("Inactive(file)", 0) - fields.get("Mapped", 0)
    return Node(int(number[1]), cpus, fields["MemFree"] + max(0, cache))


def parse_kernel_list(text: str) -> Iterator[int]:
    """The numbers in a list of the kernel's, `0-3,8`; what is no number is passed over."""
    for part in text.strip().split(","):
        if (match := _NUMBER_RANGE.fullmatch(part)) is not None:
            yield from range(int(match[1]), int(match[2] or match[1]) + 1)
