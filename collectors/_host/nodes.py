"""
Reads the NUMA nodes and the CPUs of each from /sys/devices/system/node.

Node numbers may have gaps, and a node may have memory and no CPU (CXL memory, GPU memory).
https://www.kernel.org/doc/Documentation/ABI/stable/sysfs-devices-node
"""

from __future__ import annotations

from collections.abc import Iterator

from collectors._host.cpulist import parse_cpulist
from collectors._host.host import Host

FOLDER = "sys/devices/system/node"
_BLOCK_SIZE = "sys/devices/system/memory/block_size_bytes"


def list_nodes(host: Host) -> list[str]:
    """Returns the nodes' numbers as text in natural order; an empty list where the kernel shows no nodes."""
    return [name[4:] for name in host.names(FOLDER) if name.startswith("node") and name[4:].isdecimal()]


def read_cpulist(host: Host, relative: str) -> frozenset[int] | None:
    """Returns the numbers in a file such as `0-3,8`, or None with a note."""
    text = host.read(relative)
    if text is None:
        return None
    numbers = parse_cpulist(text)
    if numbers is None:
        return host.note(relative, f"expected a list such as 0-3,8, found {text[:40]!r}")
    return numbers


def read_cpus_by_node(host: Host) -> dict[str, frozenset[int]]:
    """
    Returns the online CPUs of each node; leaves out, with a note, a node whose list cannot be read.

    A node counts as memory-only where `has_cpu` says so: an empty cpulist may also be a failed read.
    """
    node_ids = list_nodes(host)
    populated = read_cpulist(host, f"{FOLDER}/has_cpu") if node_ids else None
    by_node: dict[str, frozenset[int]] = {}
    for node in node_ids:
        if populated is not None and int(node) not in populated:
            by_node[node] = frozenset()
        elif (cpus := read_cpulist(host, f"{FOLDER}/node{node}/cpulist")) is not None:
            by_node[node] = cpus
    return by_node


def read_nodes_by_package(host: Host) -> dict[int, list[str]]:
    """
    Returns the nodes of each processor, by the processor's number; nodes without CPUs belong to none.

    Returns all processors or none: with one missing, the next would be taken for it.
    """
    by_package: dict[int, list[str]] = {}
    by_node = read_cpus_by_node(host)
    for node, cpus in by_node.items():
        package = host.read_int(f"sys/devices/system/cpu/cpu{min(cpus)}/topology/physical_package_id") if cpus else -1
        if package is None:
            return {}
        by_package.setdefault(package, []).append(node)
    by_package.pop(-1, None)
    return by_package if len(by_node) == len(list_nodes(host)) else {}


def read_blocks_by_node(host: Host) -> tuple[int, dict[str, frozenset[int]]]:
    """
    Returns the size in bytes of the kernel's blocks of physical memory, and the blocks of each node.

    The size is 0 where the kernel does not expose it. https://docs.kernel.org/admin-guide/mm/memory-hotplug.html
    """
    text = host.read(_BLOCK_SIZE, optional=True)
    if text is None:
        return 0, {}
    try:
        size = int(text, 16)  # without 0x
    except ValueError:
        host.note(_BLOCK_SIZE, f"expected a hexadecimal number, found {text[:40]!r}")
        return 0, {}
    return size, {node: frozenset(_list_blocks(host, node)) for node in list_nodes(host)}


def _list_blocks(host: Host, node: str) -> Iterator[int]:
    names = (name.removeprefix("memory") for name in host.names(f"{FOLDER}/node{node}") if name.startswith("memory"))
    return (int(name) for name in names if name.isdecimal())
