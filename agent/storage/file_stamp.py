"""Whether a file is still what it was, without reading it."""

from __future__ import annotations

import os

FileStamp = tuple[int, ...]
"""What changes when a file is written or replaced; empty where there is no file."""


def read_file_stamp(path: str | os.PathLike[str]) -> FileStamp:
    """The file's stamp: its times of writing (ns), its size and its inode."""
    try:
        status = os.stat(path)
    except OSError:
        return ()  # gone, or not ours to see: reading it says why
    return (status.st_mtime_ns, status.st_size, status.st_ino)
