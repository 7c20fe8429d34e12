"""
How much memory there is to take, and whether what is wanted fits: asked before anything is allocated.

Four things can end a process that allocates: the host, a node that it is bound to, a cgroup, a memory policy that it
inherited. The smallest counts, and is named. Reads /proc/meminfo, /proc/self/{status,cgroup} and the memory files of
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
from engine.memory.numa_nodes import Node, Place, memory_nodes, numbers_of, these
from engine.memory.sizing import available_memory, mebibytes, text_of


class _Cgroup(NamedTuple):
    """The names of one version's files, and from which size a limit is none."""

    limit: str
    usage: str
    cache: str  # the field of memory.stat with page cache that the kernel takes back first


_V2 = _Cgroup("memory.max", "memory.current", "inactive_file")
_V1 = _Cgroup("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_NO_LIMIT = 1 << 60  # v1 writes the largest page count there is


def limits(bound: Collection[int] = (), asked: str = "", root: str = "/") -> list[Place]:
    """Everything that limits this process, smallest first; `bound` are the nodes that `asked` will bind it to."""
    every = memory_nodes(root)
    found = [Place("this host", available_memory(root)), *_cgroups(root)]
    found += _of_nodes(every, bound, f"--numa {asked}")
    found += _of_nodes(every, _allowed(root), "cpuset.mems")
    found += _of_nodes(every, _inherited() if root == "/" else (), "the memory policy it was started with")
    return sorted((place for place in found if place.available is not None), key=_available)


def fitting(needed: int, places: Sequence[Place], share: float = 1.0, *, times: int = 1) -> None:
    """ValueError with the arithmetic where `times` processes of `needed` bytes exceed `share` of one of the places."""
    for place in sorted(places, key=_available):
        if place.available is not None and needed * times > place.available * share:
            of = "" if share == 1 else f"{100 * share:g} % of "
            sum_ = f"{times} x {mebibytes(needed)} = " if times > 1 else ""
            raise ValueError(
                f"{sum_}{mebibytes(needed * times)} are needed, more than {of}the {mebibytes(place.available)} that "
                f"{place.name} has available: choose a smaller --size or --context"
            )


def _available(place: Place) -> float:
    return float("inf") if place.available is None else place.available


def _of_nodes(every: Sequence[Node], wanted: Collection[int], why: str) -> Iterator[Place]:
    """Those nodes together, unless they are all that there are: then the host's own figure tells more."""
    mine = [node for node in every if node.number in wanted]
    if mine and len(mine) < len(every):
        yield Place(f"{these(mine)} ({why})", sum(node.available for node in mine))


def _allowed(root: str) -> list[int]:
    match = re.search(r"^Mems_allowed_list:\s*(\S+)$", text_of(Path(root, "proc/self/status")) or "", re.MULTILINE)
    return list(numbers_of(match[1])) if match else []


def _inherited() -> Collection[int]:
    try:
        held = mempolicy.held_policy()
    except (OSError, ValueError):
        return ()  # a sandbox hides it, or a newer kernel has a mode we do not know: then it limits nothing we know of
    return held.nodes if held.policy is mempolicy.Policy.BIND else ()


def _cgroups(root: str) -> Iterator[Place]:
    """This process's own cgroup and those above it, as far as they have a limit."""
    for line in (text_of(Path(root, "proc/self/cgroup")) or "").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if not controllers:
            yield from _upwards(Path(root, "sys/fs/cgroup"), path, _V2)
        elif "memory" in controllers.split(","):
            yield from _upwards(Path(root, "sys/fs/cgroup/memory"), path, _V1)


def _upwards(top: Path, path: str, names: _Cgroup) -> Iterator[Place]:
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for depth in range(len(parts), -1, -1):
        own = parts[:depth]
        folder = top.joinpath(*own)
        limit, usage = _number(folder / names.limit), _number(folder / names.usage)
        if limit is None or usage is None or limit >= _NO_LIMIT:
            continue
        stat = text_of(folder / "memory.stat") or ""
        cache = re.search(rf"^{names.cache} (\d+)$", stat, re.MULTILINE)
        left = max(0, limit - usage + (int(cache[1]) if cache else 0))
        yield Place(f"the cgroup /{'/'.join(own)} ({names.limit} {mebibytes(limit)})", left)


def _number(path: Path) -> int | None:
    text = (text_of(path) or "").strip()
    return int(text) if re.fullmatch(r"\d{1,20}", text, re.ASCII) else None  # "max": no limit
