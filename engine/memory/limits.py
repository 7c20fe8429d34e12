"""
The limits on the memory of this process, and the check that an engine fits them before it allocates anything.

Four things can run out of memory: the host, the nodes of a binding, a cgroup, the nodes of an inherited memory policy.
The smallest counts, and the error names it. Reads /proc/meminfo, /proc/self/{status,cgroup} and the memory files of
the cgroups.
https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files,
https://docs.kernel.org/admin-guide/cgroup-v1/memory.html
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from engine.memory import mempolicy
from engine.memory.numa_nodes import MemoryLimit, NumaNode, format_nodes, list_memory_nodes, parse_kernel_list
from engine.memory.sizing import format_mebibytes, read_ascii, read_available_memory


class _CgroupFiles(NamedTuple):
    """The file names of one cgroup version."""

    limit: str
    usage: str
    cache: str  # field of memory.stat: page cache that the kernel reclaims first


_V2 = _CgroupFiles("memory.max", "memory.current", "inactive_file")
_V1 = _CgroupFiles("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_NO_LIMIT = 1 << 60  # bytes; cgroup v1 writes the largest page count for "no limit"


def read_memory_limits(bound_nodes: Collection[int] = (), numa_option: str = "", root: str = "/") -> list[MemoryLimit]:
    """Returns every limit, smallest first; `bound_nodes` are the nodes to which `numa_option` binds the process."""
    all_nodes = list_memory_nodes(root)
    limits = [MemoryLimit("this host", read_available_memory(root)), *_read_cgroup_limits(root)]
    limits += _limit_to_nodes(all_nodes, bound_nodes, f"--numa {numa_option}")
    limits += _limit_to_nodes(all_nodes, _read_cpuset_nodes(root), "cpuset.mems")
    limits += _limit_to_nodes(
        all_nodes, _get_inherited_nodes() if root == "/" else (), "the memory policy it was started with"
    )
    return sorted((limit for limit in limits if limit.available is not None), key=_find_available_bytes)


def check_fits(needed_bytes: int, limits: Sequence[MemoryLimit], share: float = 1.0, *, times: int = 1) -> None:
    """Raises ValueError with the arithmetic if `times` processes of `needed_bytes` exceed `share` of a limit."""
    for limit in sorted(limits, key=_find_available_bytes):
        if limit.available is not None and needed_bytes * times > limit.available * share:
            of_share = "" if share == 1 else f"{100 * share:g} % of "
            product = f"{times} x {format_mebibytes(needed_bytes)} = " if times > 1 else ""
            raise ValueError(
                f"{product}{format_mebibytes(needed_bytes * times)} are needed, more than {of_share}the "
                f"{format_mebibytes(limit.available)} that "
                f"{limit.name} has available: choose a smaller --size or --context"
            )


def _find_available_bytes(limit: MemoryLimit) -> float:
    return float("inf") if limit.available is None else limit.available


def _limit_to_nodes(all_nodes: Sequence[NumaNode], numbers: Collection[int], reason: str) -> Iterator[MemoryLimit]:
    """Yields the limit of these nodes together, unless they are all nodes: the limit of the host covers that case."""
    selected = [node for node in all_nodes if node.number in numbers]
    if selected and len(selected) < len(all_nodes):
        yield MemoryLimit(f"{format_nodes(selected)} ({reason})", sum(node.available for node in selected))


def _read_cpuset_nodes(root: str) -> list[int]:
    match = re.search(r"^Mems_allowed_list:\s*(\S+)$", read_ascii(Path(root, "proc/self/status")) or "", re.MULTILINE)
    return list(parse_kernel_list(match[1])) if match else []


def _get_inherited_nodes() -> Collection[int]:
    try:
        policy = mempolicy.get_policy()
    except (OSError, ValueError):
        return ()  # a sandbox hides the policy, or a newer kernel has an unknown mode
    return policy.nodes if policy.mode is mempolicy.PolicyMode.BIND else ()


def _read_cgroup_limits(root: str) -> Iterator[MemoryLimit]:
    """Yields the limits of the cgroup of this process and of its ancestors."""
    for line in (read_ascii(Path(root, "proc/self/cgroup")) or "").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if not controllers:
            yield from _walk_cgroups(Path(root, "sys/fs/cgroup"), path, _V2)
        elif "memory" in controllers.split(","):
            yield from _walk_cgroups(Path(root, "sys/fs/cgroup/memory"), path, _V1)


def _walk_cgroups(mount: Path, path: str, files: _CgroupFiles) -> Iterator[MemoryLimit]:
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for depth in range(len(parts), -1, -1):
        ancestors = parts[:depth]
        folder = mount.joinpath(*ancestors)
        limit, usage = _read_number(folder / files.limit), _read_number(folder / files.usage)
        if limit is None or usage is None or limit >= _NO_LIMIT:
            continue
        stat = read_ascii(folder / "memory.stat") or ""
        cache = re.search(rf"^{files.cache} (\d+)$", stat, re.MULTILINE)
        available = max(0, limit - usage + (int(cache[1]) if cache else 0))
        yield MemoryLimit(f"the cgroup /{'/'.join(ancestors)} ({files.limit} {format_mebibytes(limit)})", available)


def _read_number(path: Path) -> int | None:
    text = (read_ascii(path) or "").strip()
    return int(text) if re.fullmatch(r"\d{1,20}", text, re.ASCII) else None  # "max": no limit
