"""Chooses the size of seeded weights: a given size, or one that measures memory without harming the host."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

FALLBACK_CACHE = 32 << 20  # bytes, if /sys does not list the caches
CACHE_MULTIPLE = 4  # times the last-level cache: weights of this size come from memory, not from a cache
MAX_AUTOMATIC_SIZE = 1 << 30  # bytes of an automatic size
MEMORY_SHARE = 0.05  # largest share of the available memory
INTERPRETER_BYTES = 40 << 20  # bytes of Python and NumPy, without the model
COMPILER_BYTES = 136 << 20  # bytes of Numba, for 8-bit weights

_SIZE = re.compile(r"(\d{1,6})([KMG]i?)B?", re.ASCII)
_UNITS = {"K": 1000, "M": 1000**2, "G": 1000**3, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}


class Size(NamedTuple):
    """Bytes of weights; `is_reduced` is true if they are too small to measure memory instead of a cache."""

    size: int
    is_reduced: bool


def parse_size(text: str) -> int:
    """Parses `64MiB` into bytes; raises ValueError with a sentence."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"expected auto or a size such as 64MiB, found {text[:40]!r}")
    return int(match[1]) * _UNITS[match[2]]


def choose_automatic_size(
    cache: int | None, available: int | None, minimum: int, estimate: Callable[[int], int]
) -> Size:
    """
    Returns four last-level caches, or less: at most 1 GiB, and at most the size whose engine fits `available` bytes.

    `available` is None if unknown. `estimate` returns the bytes of the whole process for a size of weights. Raises
    ValueError if not even weights of `minimum` bytes fit.
    """
    target = CACHE_MULTIPLE * (cache or FALLBACK_CACHE)
    largest = min(target, MAX_AUTOMATIC_SIZE)
    if available is None or estimate(largest) <= available:
        return Size(largest, largest < target)
    if estimate(minimum) > available:
        raise ValueError(
            f"{format_mebibytes(available)} may be used, and the smallest model takes "
            f"{format_mebibytes(estimate(minimum))}: "
            "choose a larger --memory-share or a smaller --context"
        )
    size = minimum
    while largest - size > size // 50:  # bisects until exact to 2 %
        middle = (size + largest) // 2
        size, largest = (middle, largest) if estimate(middle) <= available else (size, middle)
    return Size(size, True)


def read_last_level_cache(root: str = "/") -> int | None:
    """
    Returns the bytes of the largest cache of CPU 0, or None.

    Reads /sys/devices/system/cpu/cpu0/cache/index*/size.
    https://www.kernel.org/doc/Documentation/ABI/testing/sysfs-devices-system-cpu
    """
    sizes = [_read_cache_size(path) for path in Path(root).glob("sys/devices/system/cpu/cpu0/cache/index*/size")]
    return max((size for size in sizes if size is not None), default=None)


def read_available_memory(root: str = "/") -> int | None:
    """Returns MemAvailable of /proc/meminfo in bytes, or None. https://docs.kernel.org/filesystems/proc.html#meminfo"""
    text = read_ascii(Path(root, "proc/meminfo")) or ""
    match = re.search(r"^MemAvailable:\s+(\d+) kB$", text, re.MULTILINE | re.ASCII)
    return int(match[1]) * 1024 if match else None


def _read_cache_size(path: Path) -> int | None:
    text = (read_ascii(path) or "").strip()
    return int(text[:-1]) * 1024 if re.fullmatch(r"\d{1,9}K", text, re.ASCII) else None


def format_mebibytes(size: float) -> str:
    """Formats bytes for people: `64.0 MiB`."""
    return f"{size / (1 << 20):.1f} MiB"


def read_ascii(path: Path) -> str | None:
    """Returns the text of a small file; None if it cannot be read or is not ASCII."""
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return None  # the caller handles an unknown value
