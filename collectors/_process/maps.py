"""
Reads the mappings of a process that can be resident host memory, from /proc/PID/maps.

Left out are mappings that nobody may read (reservations of address space), the kernel's own ([vdso]) and those of
devices, whose pages are not the host's memory. https://docs.kernel.org/filesystems/proc.html
"""

from __future__ import annotations

import re
from typing import NamedTuple

from collectors._host.host import Host

KINDS = ("anon", "file", "shmem", "hugetlb")
"""Kinds of mappings, as /proc/PID/status counts their pages; written pages of a private file mapping are anon there."""

_MAX_BYTES = 64 << 20  # bytes: half a million mappings of 120 characters
_LINE = re.compile(
    r"^([0-9a-f]{1,16})-([0-9a-f]{1,16}) ([r-][w-][x-][ps]) [0-9a-f]+ ([0-9a-f]+:[0-9a-f]+) \d+(?: +(.*))?$",
    re.ASCII | re.MULTILINE,
)
_MOUNT = re.compile(r"^\d+ \d+ (\d+):(\d+) .* - (tmpfs|hugetlbfs) ", re.ASCII | re.MULTILINE)
_NOT_MEMORY = re.compile(r"/dev/(?!shm/|zero|hugepages)|/sys/|/dmabuf:|\[(?:vdso|vvar|vsyscall|uprobes)|[^/\[]")
_SHARED = re.compile(r"/dev/zero|/memfd:|/SYSV|/dev/shm/|\[anon_shmem")
_HUGE = re.compile(r"/anon_hugepage|/dev/hugepages/")


class MemoryMapping(NamedTuple):
    """A range of addresses in bytes, `end` excluded, and its kind."""

    start: int
    end: int
    kind: str


def read_mappings(host: Host, pid: int) -> list[MemoryMapping] | None:
    """Returns the process's mappings in order of address; None, with a note, where the file cannot be read whole."""
    path = f"proc/{pid}/maps"
    text = host.read(path, largest=_MAX_BYTES)
    if text is None:
        return None
    lines = _LINE.findall(text)
    if len(lines) != text.count("\n") + 1:
        return host.note(path, "expected lines such as 7f00-7fff rw-p 00000000 00:00 0")
    file_systems = _read_file_systems(host, pid)
    parsed = (_parse_mapping(file_systems, *line) for line in lines)
    return [mapping for mapping in parsed if mapping is not None]


def _parse_mapping(
    systems: dict[str, str], start: str, end: str, access: str, device: str, path: str
) -> MemoryMapping | None:
    if access.startswith("---"):
        return None
    kind = "anon"
    if path:
        if _NOT_MEMORY.match(path):
            return None
        kind = _classify_path(path, systems.get(device, ""))
    return MemoryMapping(int(start, 16), int(end, 16), kind)


def _classify_path(path: str, system: str) -> str:
    if system == "hugetlbfs" or _HUGE.match(path):
        return "hugetlb"
    if system == "tmpfs" or _SHARED.match(path):
        return "shmem"
    return "anon" if path.startswith("[") else "file"


def _read_file_systems(host: Host, pid: int) -> dict[str, str]:
    """Returns the process's in-memory file systems by device, spelled as in maps; a container has its own."""
    text = host.read(f"proc/{pid}/mountinfo", optional=True) or ""
    return {f"{int(major):02x}:{int(minor):02x}": system for major, minor, system in _MOUNT.findall(text)}
