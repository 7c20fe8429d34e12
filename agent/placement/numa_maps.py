"""
Parses /proc/PID/numa_maps: the pages of a process by node and by memory policy.

Reading the file walks the page tables of the process and blocks its mmap and munmap meanwhile. That takes 4 ms per GiB
of 4-KiB pages as measured, and 21 ms in a report from the field
(https://github.com/ncabatoff/process-exporter/issues/246). So it is read only on request.
https://docs.kernel.org/filesystems/proc.html, https://man7.org/linux/man-pages/man5/numa_maps.5.html
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

LARGEST_FILE = 64 << 20  # bytes; 100,000 mappings are 10 MiB
FASTEST, SLOWEST = 0.004, 0.021  # seconds per GiB of resident memory
# A policy may have several words: "weighted interleave:0-1", "prefer (many)=static:0". mm/mempolicy.c and
# fs/proc/task_mmu.c write both; the words after the policy are flags or key=value, and only static and relative are
# values of a policy.
_ATTRIBUTE = r"(?:heap|stack(?::\d+)?|huge)(?: |$)|\w+=(?!static\b|relative\b)"
_LINE = re.compile(rf"^[0-9a-f]{{8,16}} (\S+(?: (?!{_ATTRIBUTE})\S+)*)((?: \S+)*)$", re.MULTILINE)
_NODE_PAGES = re.compile(r" N(\d{1,5})=(\d{1,16})")
_PAGE_SIZE = re.compile(r" kernelpagesize_kB=(\d{1,9})")
_HUGE = re.compile(r" huge(?: |$)")
_SHARED = re.compile(r" file=(?:/dev/shm/|/dev/zero|/memfd:|/SYSV|anon_inode:)")


@dataclass(frozen=True, slots=True)
class NumaMaps:
    """Bytes in RAM by (kind, node), and by policy in the kernel's words: default, bind:0, interleave:0-1."""

    sizes: Counter[tuple[str, str]]
    policies: Counter[str]


def estimate_read_seconds(resident: float) -> tuple[float, float]:
    """Returns the least and the most seconds that a read takes, for `resident` bytes in RAM."""
    gibibytes = resident / 2**30
    return FASTEST * gibibytes, SLOWEST * gibibytes


def parse(text: str) -> NumaMaps:
    """Sums the pages of all mappings; raises ValueError for another kind of file."""
    sizes: Counter[tuple[str, str]] = Counter()
    policies: Counter[str] = Counter()
    lines = _LINE.findall(text)
    if not lines:
        raise ValueError(f"expected lines such as `7f00 default anon=1 N0=1 kernelpagesize_kB=4`, found {text[:40]!r}")
    for policy, attributes in lines:
        page_size = _PAGE_SIZE.search(attributes)
        if page_size is None:
            continue  # no page of this mapping is in RAM
        for node, pages in _NODE_PAGES.findall(attributes):
            size = int(pages) * int(page_size[1]) * 1024  # a huge page counts as one page of its own size
            sizes[_classify_mapping(attributes), node] += size
            policies[policy] += size
    return NumaMaps(sizes, policies)


def _classify_mapping(attributes: str) -> str:
    if _HUGE.search(attributes):
        return "hugetlb"
    if _SHARED.search(attributes):
        return "shmem"
    return "file" if " file=" in attributes else "anon"
