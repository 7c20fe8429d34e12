"""
What /proc/PID/numa_maps says: every page by node, and under which policies they were allocated.

Reading it walks the page tables of the process, who waits meanwhile for every mmap and munmap: 4 ms for each GiB of
4-KiB pages where it was measured, and 21 in a report from the field
(https://github.com/ncabatoff/process-exporter/issues/246). So nothing reads it unasked.
https://docs.kernel.org/filesystems/proc.html, https://man7.org/linux/man-pages/man5/numa_maps.5.html
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

LARGEST = 64 << 20  # bytes; 100,000 mappings are 10 MiB
FASTEST, SLOWEST = 0.004, 0.021  # seconds for each GiB that is resident
_LINE = re.compile(r"^[0-9a-f]{8,16} (\S+)((?: \S+)*)$", re.MULTILINE)
_ON_NODE = re.compile(r" N(\d{1,5})=(\d{1,16})")
_PAGE = re.compile(r" kernelpagesize_kB=(\d{1,9})")
_HUGE = re.compile(r" huge(?: |$)")
_SHARED = re.compile(r" file=(?:/dev/shm/|/dev/zero|/memfd:|/SYSV|anon_inode:)")


@dataclass(frozen=True, slots=True)
class NumaMaps:
    """Bytes in RAM by (kind, node), and by policy as the kernel writes it: default, bind:0, interleave:0-1."""

    sizes: Counter[tuple[str, str]]
    policies: Counter[str]


def cost(resident: float) -> tuple[float, float]:
    """Seconds that reading takes at least and at most, of a process with so many bytes in RAM."""
    gibibytes = resident / 2**30
    return FASTEST * gibibytes, SLOWEST * gibibytes


def parse(text: str) -> NumaMaps:
    """The sums over all mappings; ValueError where this is no such file."""
    sizes: Counter[tuple[str, str]] = Counter()
    policies: Counter[str] = Counter()
    lines = _LINE.findall(text)
    if not lines:
        raise ValueError(f"expected lines such as `7f00 default anon=1 N0=1 kernelpagesize_kB=4`, found {text[:40]!r}")
    for policy, rest in lines:
        page = _PAGE.search(rest)
        if page is None:
            continue  # nothing of this mapping is in RAM
        for node, pages in _ON_NODE.findall(rest):
            size = int(pages) * int(page[1]) * 1024  # huge pages are counted whole
            sizes[_kind(rest), node] += size
            policies[policy] += size
    return NumaMaps(sizes, policies)


def _kind(rest: str) -> str:
    if _HUGE.search(rest):
        return "hugetlb"
    if _SHARED.search(rest):
        return "shmem"
    return "file" if " file=" in rest else "anon"
