"""Reads a whole file, up to a maximum size."""

from __future__ import annotations

import os

MAX_BYTES = 4 << 20  # bytes; /proc/vmstat has 4 KiB, an exposition of 5,000 series 400 KiB
PAGE = 4096  # bytes; one read of a file in /sys that returns fewer has returned the whole file
CHUNK = 1 << 16  # bytes requested from one read(2); a sysfs attribute has at most one page


def read_all(path: str, whole_below: int, largest: int = MAX_BYTES) -> bytes:
    """Returns the file's bytes. One read of fewer than `whole_below` bytes counts as the whole file. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts, size = [], 0
        # seq_files in /proc may return short reads before their end, so only an empty read ends the loop.
        while part := os.read(descriptor, CHUNK):
            parts.append(part)
            size += len(part)
            if size < whole_below:
                return part
            if size > largest:
                raise OSError(0, f"larger than {largest >> 20} MiB")
    finally:
        os.close(descriptor)
    return b"".join(parts)
