"""
Reads the memory limits above a process, and how much of each limit is used; cgroup v2 only.

Reads /proc/PID/cgroup and sys/fs/cgroup/**/memory.{current,max,high,events,stat,numa_stat}. Every ancestor's limit
binds, so all ancestors are read. https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files

File cache is charged to the cgroup that touched a page first, and is reclaimed when memory is short: a cgroup full of
cache has room. Only memory that cannot be reclaimed counts as used.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from collectors._host.host import Host
from collectors._host.sample import Reading, counter, gauge

FOLDER = "sys/fs/cgroup"
_LIMITS = ("max", "high")  # beyond max the kernel kills, beyond high it slows the process down
_PAIR = re.compile(r"^(\w+) (\d{1,20})$", re.ASCII | re.MULTILINE)
_ANON = re.compile(r"^anon((?: N\d{1,5}=\d{1,20})+)$", re.ASCII | re.MULTILINE)
_ON_NODE = re.compile(r"N(\d{1,5})=(\d{1,20})", re.ASCII)

INFO = gauge(
    "steadytok_process_cgroup_info",
    "The path of the process's cgroup, and of the one, itself or above it, that is nearest to its limit; always 1.",
)
CURRENT = gauge(
    "steadytok_process_cgroup_current_bytes",
    "Memory of the cgroup with the smallest limit (of the process's own where there is none), page cache included.",
)
MAX = gauge("steadytok_process_cgroup_max_bytes", "The smallest memory.max of the process's cgroup and all above it.")
HIGH = gauge(
    "steadytok_process_cgroup_high_bytes", "The smallest memory.high of the process's cgroup and all above it."
)
AVAILABLE = gauge(
    "steadytok_process_cgroup_available_bytes",
    "What can be taken before any limit above the process is reached, counting cache that can be given back as free.",
)
SHARE = gauge(
    "steadytok_process_cgroup_available_ratio",
    "The smallest share of a limit above the process that can still be taken, each of its own cgroup's limit.",
)
EVENTS = counter(
    "steadytok_process_cgroup_memory_events_total",
    "How often the cgroup with the smallest limit met low, high, max, oom, oom_kill, oom_group_kill.",
)
ANON = gauge(
    "steadytok_process_cgroup_anon_bytes",
    "Anonymous memory of the process's own cgroup on the node; ranks in one cgroup each show all of it.",
)
METRICS = (INFO, CURRENT, MAX, HIGH, AVAILABLE, SHARE, EVENTS, ANON)


class _Level(NamedTuple):
    """One cgroup on the way up: its path below FOLDER, and its limits in bytes by name; None is an unknown limit."""

    path: str
    limits: dict[str, float | None]


class _Headroom(NamedTuple):
    """Memory still free below a cgroup's limit, in bytes and as a share: infinite without a limit, None unknown."""

    available: float | None
    share: float | None


def collect_cgroup(host: Host, pid: int, labels: dict[str, str]) -> Iterator[Reading]:
    """Yields the readings of a process's cgroup; nothing where it is in none, or none has a memory controller."""
    levels = _read_levels(host, pid)
    if not levels:
        return
    limiting, headrooms = _find_limiting(levels), [_compute_headroom(host, level) for level in levels]
    nearest = _find_smallest([headroom.share for headroom in headrooms])
    limited_by = next(
        (f"/{level.path}" for level, headroom in zip(levels, headrooms, strict=True) if _is_nearest(headroom, nearest)),
        "",
    )
    yield INFO.sample(1, **labels, cgroup=f"/{levels[0].path}", limited_by=limited_by)
    for limit, metric in zip(_LIMITS, (MAX, HIGH), strict=True):
        smallest = _find_smallest([level.limits[limit] for level in levels])
        if smallest != math.inf:  # the absence of a limit is not a missing reading
            yield metric.sample(smallest, **labels)
    available = _find_smallest([headroom.available for headroom in headrooms])
    for metric, least in ((AVAILABLE, available), (SHARE, nearest)):
        if least != math.inf:
            yield metric.sample(least, **labels)
    if limiting is not None:
        yield CURRENT.sample(_read_bytes(host, limiting.path, "current"), **labels)
        for event, count in _read_pairs(host, limiting.path, "events").items():
            yield EVENTS.sample(count, **labels, event=event)
    for node, size in _read_anon(host, levels[0].path):
        yield ANON.sample(int(size), **labels, node=node)


def _find_smallest(values: Sequence[float | None]) -> float | None:
    """Returns the smallest value; None if any value is unknown, because the unknown one may be smaller."""
    known_values = [value for value in values if value is not None]
    return min(known_values) if len(known_values) == len(values) else None


def _find_limiting(levels: Sequence[_Level]) -> _Level | None:
    """
    Returns the cgroup whose memory.max is the smallest, the nearest one if several have the same; None if unknown.

    Without any limit this is the process's own cgroup.
    """
    smallest = _find_smallest([level.limits["max"] for level in levels])
    return next((level for level in levels if level.limits["max"] == smallest), None) if smallest is not None else None


def find_path(host: Host, pid: int) -> str | None:
    """Returns the path of a process's cgroup below FOLDER; None where it is in no cgroup of version 2, or hidden."""
    for line in host.lines(f"proc/{pid}/cgroup", optional=True):
        if line.startswith("0::/"):
            path = line.removeprefix("0::/").removesuffix(" (deleted)")
            # The cgroup lies outside this process's cgroup namespace, so its path cannot be opened from here.
            if path.split("/")[0] == "..":
                return host.note(f"proc/{pid}/cgroup", "is in a cgroup that this process's namespace does not show")
            return path
    return None


def _read_levels(host: Host, pid: int) -> list[_Level]:
    """Returns the cgroups with memory files, which account for the process, from its own upwards."""
    if (path := find_path(host, pid)) is None:
        return []
    steps = path.split("/") if path else []
    # The topmost counts too: it is the container's own cgroup in a container. A host's root has no memory.current.
    paths = ["/".join(steps[:depth]) for depth in range(len(steps), -1, -1)]
    return [
        _Level(path, {name: _read_limit(host, path, name) for name in _LIMITS})
        for path in paths
        if any(host.exists(_make_file_path(path, name)) for name in ("current", *_LIMITS))
    ]


def _make_file_path(path: str, name: str) -> str:
    return f"{FOLDER}/{path}/memory.{name}" if path else f"{FOLDER}/memory.{name}"


def _read_limit(host: Host, path: str, name: str) -> float | None:
    file = _make_file_path(path, name)
    text = host.read(file)
    return math.inf if text == "max" else None if text is None else host.integer(text, file)


def _compute_headroom(host: Host, level: _Level) -> _Headroom:
    """Computes how much more memory fits below this cgroup's own limits."""
    tightest = _find_smallest(list(level.limits.values()))
    if tightest is None or tightest == math.inf:
        return _Headroom(tightest, tightest)
    used, reclaimable = _read_bytes(host, level.path, "current"), _read_reclaimable(host, level.path)
    if used is None or reclaimable is None:
        return _Headroom(None, None)
    available = max(0, tightest - used + reclaimable)
    return _Headroom(available, min(1.0, available / tightest) if tightest else 0.0)


def _is_nearest(headroom: _Headroom, nearest: float | None) -> bool:
    return nearest is not None and headroom.share == nearest != math.inf


def _read_reclaimable(host: Host, path: str) -> int | None:
    """Returns the reclaimable bytes: unmapped file pages, and slab. Mapped file pages are a model's weights."""
    sizes = _read_pairs(host, path, "stat")
    keys = ("active_file", "inactive_file", "file_mapped")
    if not sizes or any(name not in sizes for name in keys):
        return host.note(_make_file_path(path, "stat"), f"expected lines such as `{keys[0]} 123`")
    active, inactive, mapped = (sizes[name] for name in keys)
    return max(0, active + inactive - mapped) + sizes.get("slab_reclaimable", 0)


def _read_bytes(host: Host, path: str, name: str) -> int | None:
    return host.read_int(_make_file_path(path, name))


def _read_pairs(host: Host, path: str, name: str) -> dict[str, int]:
    file = _make_file_path(path, name)
    text = host.read(file)
    pairs = {key: int(value) for key, value in _PAIR.findall(text or "")}
    if text is not None and not pairs:
        host.note(file, f"expected lines of a word and a number, found {text[:40]!r}")
    return pairs


def _read_anon(host: Host, path: str) -> list[tuple[str, str]]:
    file = _make_file_path(path, "numa_stat")
    text = host.read(file, optional=True)  # a kernel without NUMA has no such file
    if text is None:
        return []
    line = _ANON.search(text)
    if line is None:
        host.note(file, "expected a line such as `anon N0=123 N1=0`")
        return []
    return _ON_NODE.findall(line[1])
