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

LARGEST_FILE = 64 << 20  # bytes; 100,000 mappings are 10 MiB
FASTEST, SLOWEST = 0.004, 0.021  # seconds for each GiB that is resident
_LINE = re.compile(r"^[0-9a-f]{8,16} (\S+)((?: \S+)*)$", re.MULTILINE)
_NODE_PAGES = re.compile(r" N(\d{1,5})=(\d{1,16})")
_PAGE_SIZE = re.compile(r" kernelpagesize_kB=(\d{1,9})")
_HUGE = re.compile(r" huge(?: |$)")
_SHARED = re.compile(r" file=(?:/dev/shm/|/dev/zero|/memfd:|/SYSV|anon_inode:)")


@dataclass(frozen=True, slots=True)
class NumaMaps:
    """Bytes in RAM by (kind, node), and by policy as the kernel writes it: default, bind:0, interleave:0-1."""

    sizes: Counter[tuple[str, str]]
    policies: Counter[str]


def estimate_read_seconds(resident: float) -> tuple[float, float]:
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
    for policy, attributes in lines:
        page_size = _PAGE_SIZE.search(attributes)
        if page_size is None:
            continue  # nothing of this mapping is in RAM
        for node, pages in _NODE_PAGES.findall(attributes):
            size = int(pages) * int(page_size[1]) * 1024  # huge pages are counted whole
            sizes[_classify_mapping(attributes), node] += size
            policies[policy] += size
    return NumaMaps(sizes, policies)


def _classify_mapping(attributes: str) -> str:
    if _HUGE.search(attributes):
        return "hugetlb"
    if _SHARED.search(attributes):
        return "shmem"
    return "file" if " file=" in attributes else "anon"
