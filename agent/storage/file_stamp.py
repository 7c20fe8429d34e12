"""Whether a file is still what it was, without reading it."""

from __future__ import annotations

import os

Stamp = tuple[int, ...]
"""What changes when a file is written or replaced; empty where there is no file."""


def stamp(path: str | os.PathLike[str]) -> Stamp:
    """The file's stamp: its times of writing (ns), its size and its inode."""
    try:
        found = os.stat(path)
    except OSError:
        return ()  # gone, or not ours to see: reading it says why
    return (found.st_mtime_ns, found.st_size, found.st_ino)
