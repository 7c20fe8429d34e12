"""
Parses and formats lists of numbers as the kernel writes them: `0-3,8`.

https://docs.kernel.org/admin-guide/cputopology.html
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection

MAX_NUMBER = 65_535  # Linux is built for 8,192 CPUs and 1,024 nodes at most
_PART = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?", re.ASCII)


def parse_cpulist(text: str) -> frozenset[int] | None:
    """Returns the numbers of a list such as `0-3,8`, or None where the text is not such a list."""
    numbers: set[int] = set()
    for part in text.strip().split(","):
        match = _PART.fullmatch(part)
        if match is None:
            return None
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last <= MAX_NUMBER:
            return None
        numbers.update(range(first, last + 1))
    return frozenset(numbers)


def format_cpulist(numbers: Collection[int]) -> str:
    """Formats numbers as the kernel does, such as `0-3,8`; no numbers give an empty text."""
    runs = itertools.groupby(enumerate(sorted(numbers)), key=lambda pair: pair[1] - pair[0])
    spans = ([number for _, number in run] for _, run in runs)
    return ",".join(f"{span[0]}-{span[-1]}" if len(span) > 1 else str(span[0]) for span in spans)
